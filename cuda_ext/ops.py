"""The kernels as PyTorch operators, namespace `minireason`: schema, shapes, gradients.

    attn           softmax attention over packed rows           attn_bwd        its gradient
    norm_rope      QK-norm and rotation by themselves           norm_rope_bwd
    attn_rope      both fused: raw projections -> output        attn_rope_bwd
    decode_attn    one new token a row, appended to the cache in place (no gradient)

qkv is (N, (H + 2 Hkv) D); out (N, H D); lse (H, N) float32. Rows are given by cu_seqlens (B + 1,)
int32, or are all max_len long. No row may be longer than max_len: the kernels cannot check that.
"""

import torch
from torch import Tensor

from cuda_ext import calls
from cuda_ext.calls import attention_call, invoke, library_of, shape_of

ROWS = "Tensor? cu_seqlens, SymInt max_len, int n_heads, int n_kv_heads"
NORM = "Tensor q_gain, Tensor k_gain, Tensor cos, Tensor sin"
SCHEMAS = {
    "attn": f"(Tensor qkv, {ROWS}, float scale) -> (Tensor, Tensor)",
    "attn_bwd": f"(Tensor grad, Tensor qkv, Tensor out, Tensor lse, {ROWS}, float scale) -> Tensor",
    "norm_rope": f"(Tensor qkv, {NORM}, {ROWS}, float eps) -> Tensor",
    "norm_rope_bwd":
        f"(Tensor grad, Tensor qkv, {NORM}, {ROWS}, float eps) -> (Tensor, Tensor, Tensor)",
    "attn_rope":
        f"(Tensor qkv, {NORM}, {ROWS}, float eps, float scale, bool want_k) "
        "-> (Tensor, Tensor, Tensor)",
    "attn_rope_bwd":
        f"(Tensor grad, Tensor qkv, Tensor out, Tensor lse, {NORM}, {ROWS}, float eps, "
        "float scale) -> (Tensor, Tensor, Tensor)",
    "decode_attn":
        f"(Tensor qkv, {NORM}, Tensor(a!) cache_k, Tensor(b!) cache_v, Tensor lens, "
        "Tensor? prompt_k, Tensor? prompt_v, Tensor? prompt_len, Tensor? prompt_index, "
        "int n_heads, int n_kv_heads, float eps, float scale, bool share) -> Tensor",
}
LIBRARY = torch.library.Library("minireason", "DEF")
for _name, _schema in SCHEMAS.items():
    LIBRARY.define(_name + _schema)


def _out_like(qkv: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // (n_heads + 2 * n_kv_heads) * n_heads)


def _lse_like(qkv: Tensor, n_heads: int) -> Tensor:
    return qkv.new_empty(n_heads, qkv.shape[0], dtype=torch.float32)


def attn(qkv, cu_seqlens, max_len, n_heads, n_kv_heads, scale):
    """Causal attention over finished projections; returns (out, lse)."""
    sizes = shape_of(qkv, n_heads, n_kv_heads, cu_seqlens, max_len)
    lib, out = library_of(qkv, sizes["head_dim"]), _out_like(qkv, n_heads, n_kv_heads)
    lse = _lse_like(qkv, n_heads)
    call = attention_call(sizes, scale, 0.0, qkv=qkv, cu_seqlens=cu_seqlens, out=out, lse=lse)
    invoke(lib, "online_forward" if qkv.dtype == torch.float32 else "tensor_forward", call, qkv)
    return out, lse


def attn_bwd(grad, qkv, out, lse, cu_seqlens, max_len, n_heads, n_kv_heads, scale):
    """Gradient of attn to the packed projections."""
    sizes = shape_of(qkv, n_heads, n_kv_heads, cu_seqlens, max_len)
    lib, grad_qkv = library_of(qkv, sizes["head_dim"]), torch.empty_like(qkv)
    exact = qkv.dtype == torch.float32
    call = attention_call(
        sizes, scale, 0.0, qkv=qkv, cu_seqlens=cu_seqlens, out=out, lse=lse, grad_out=grad,
        grad_qkv=grad_qkv, scratch=None if exact else calls.gradient_scratch(lib, qkv, sizes))
    invoke(lib, "exact_backward" if exact else "tensor_backward", call, qkv)
    return grad_qkv


def norm_rope(qkv, q_gain, k_gain, cos, sin, cu_seqlens, max_len, n_heads, n_kv_heads, eps):
    """qkv with norm and rotation applied to q and k."""
    sizes = shape_of(qkv, n_heads, n_kv_heads, cu_seqlens, max_len)
    lib, out = library_of(qkv, sizes["head_dim"]), torch.empty_like(qkv)
    call = attention_call(sizes, 0.0, eps, qkv=qkv, cu_seqlens=cu_seqlens, out=out, q_gain=q_gain,
                          k_gain=k_gain, cos=cos, sin=sin)
    invoke(lib, "norm_rope_forward", call, qkv)
    return out


def norm_rope_bwd(grad, qkv, q_gain, k_gain, cos, sin, cu_seqlens, max_len, n_heads, n_kv_heads,
                  eps):
    """Gradients to qkv, q_gain and k_gain."""
    sizes = shape_of(qkv, n_heads, n_kv_heads, cu_seqlens, max_len)
    lib, grad_qkv = library_of(qkv, sizes["head_dim"]), torch.empty_like(qkv)
    parts = -(-max_len // lib.norm_rope_tokens()) * sizes["n_rows"]
    grad_gain = qkv.new_empty(parts, 2, sizes["head_dim"], dtype=torch.float32)
    call = attention_call(sizes, 0.0, eps, qkv=qkv, cu_seqlens=cu_seqlens, q_gain=q_gain,
                          k_gain=k_gain, cos=cos, sin=sin, grad_out=grad, grad_qkv=grad_qkv,
                          grad_gain=grad_gain)
    invoke(lib, "norm_rope_grad", call, qkv)
    return grad_qkv, *(part.clone() for part in grad_gain.sum(0))


def attn_rope(qkv, q_gain, k_gain, cos, sin, cu_seqlens, max_len, n_heads, n_kv_heads, eps, scale,
              want_k):
    """Norm, rotation and attention; returns (out, lse, finished keys or an empty tensor)."""
    sizes = shape_of(qkv, n_heads, n_kv_heads, cu_seqlens, max_len)
    head_dim, tokens = sizes["head_dim"], qkv.shape[0] if want_k else 0
    if qkv.dtype == torch.float32:
        done = norm_rope(qkv, q_gain, k_gain, cos, sin, cu_seqlens, max_len, n_heads, n_kv_heads,
                         eps)
        keys = done[:tokens, n_heads * head_dim:(n_heads + n_kv_heads) * head_dim]
        return *attn(done, cu_seqlens, max_len, n_heads, n_kv_heads, scale), keys.clone(
            memory_format=torch.contiguous_format)
    out, lse = _out_like(qkv, n_heads, n_kv_heads), _lse_like(qkv, n_heads)
    keys = qkv.new_empty(tokens, n_kv_heads * head_dim)
    call = attention_call(sizes, scale, eps, qkv=qkv, cu_seqlens=cu_seqlens, q_gain=q_gain,
                          k_gain=k_gain, cos=cos, sin=sin, out=out, lse=lse,
                          k_out=keys if want_k else None)
    invoke(library_of(qkv, head_dim), "tensor_forward", call, qkv)
    return out, lse, keys


def attn_rope_bwd(grad, qkv, out, lse, q_gain, k_gain, cos, sin, cu_seqlens, max_len, n_heads,
                  n_kv_heads, eps, scale):
    """Gradients of attn_rope's out to qkv, q_gain and k_gain; qkv is the raw projection."""
    sizes = shape_of(qkv, n_heads, n_kv_heads, cu_seqlens, max_len)
    norm, rows = (q_gain, k_gain, cos, sin), (cu_seqlens, max_len, n_heads, n_kv_heads)
    if qkv.dtype == torch.float32:
        done = norm_rope(qkv, *norm, *rows, eps)
        return norm_rope_bwd(attn_bwd(grad, done, out, lse, *rows, scale), qkv, *norm, *rows, eps)
    lib, grad_qkv = library_of(qkv, sizes["head_dim"]), torch.empty_like(qkv)
    grad_gain = qkv.new_empty(sizes["n_rows"] * n_kv_heads, 2, sizes["head_dim"],
                              dtype=torch.float32)
    call = attention_call(sizes, scale, eps, qkv=qkv, cu_seqlens=cu_seqlens, q_gain=q_gain,
                          k_gain=k_gain, cos=cos, sin=sin, out=out, lse=lse, grad_out=grad,
                          grad_qkv=grad_qkv, grad_gain=grad_gain,
                          scratch=calls.gradient_scratch(lib, qkv, sizes))
    invoke(lib, "tensor_backward", call, qkv)
    return grad_qkv, *(part.clone() for part in grad_gain.sum(0))


def decode_attn(qkv, q_gain, k_gain, cos, sin, cache_k, cache_v, lens, prompt_k, prompt_v,
                prompt_len, prompt_index, n_heads, n_kv_heads, eps, scale, share):
    """Append and attend; `share` splits the prompt off so that its rows read it once, where the
    device has the shared memory for it (head_dim 128 takes more than the 99 KB of sm_86 and 89)."""
    rows, width = qkv.shape
    head_dim = width // (n_heads + 2 * n_kv_heads)
    lib = library_of(qkv, head_dim)
    for cache in (cache_k, cache_v):
        if (cache.dtype != qkv.dtype or cache.shape[1] != n_kv_heads or cache.shape[3] != head_dim
                or cache.stride()[2:] != (head_dim, 1) or cache.stride() != cache_k.stride()):
            raise calls.KernelError(f"cache {tuple(cache.shape)} {cache.dtype} must be (B, "
                                    f"{n_kv_heads}, S, {head_dim}) {qkv.dtype}, rows contiguous")
    out, partial_out, partial_lse = qkv.new_empty(rows, n_heads * head_dim), None, None
    if (share and prompt_k is not None and qkv.dtype != torch.float32
            and lib.prompt_tile_bytes() <= calls.shared_bytes(qkv)):
        partial_out = qkv.new_empty(rows, n_heads, head_dim, dtype=torch.float32)
        partial_lse = qkv.new_empty(rows, n_heads, dtype=torch.float32)
    tensors = {"qkv": qkv, "q_gain": q_gain, "k_gain": k_gain, "cos": cos, "sin": sin,
               "lens": lens, "prompt_k": prompt_k, "prompt_v": prompt_v, "prompt_len": prompt_len,
               "prompt_index": prompt_index, "out": out, "partial_out": partial_out,
               "partial_lse": partial_lse}
    call = calls.DecodeCall(
        **{k: calls.pointer(t) for k, t in tensors.items()}, cache_k=cache_k.data_ptr(),
        cache_v=cache_v.data_ptr(), row_stride=cache_k.stride(0), head_stride=cache_k.stride(1),
        n_rows=rows, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim,
        capacity=cache_k.shape[2], n_prompts=0 if prompt_k is None else prompt_k.shape[0],
        prompt_max=0 if prompt_k is None else prompt_k.shape[2], scale=scale, eps=eps)
    if partial_out is not None:
        invoke(lib, "prompt_forward", call, qkv)
    invoke(lib, "decode_forward", call, qkv)
    return out
