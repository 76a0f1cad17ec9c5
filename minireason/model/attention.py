"""Causal self-attention from packed projections, in several implementations of one formula.

Both entry points take the raw output of the fused qkv projection, so that an implementation may
fuse QK-norm, rotary embedding and attention into one pass over memory:

    self_attention     every token of every row at once (training, prefill)
    decode_attention   one new token a row, over a cache that it also appends to (sampling)

`impl="reference"` is the formula, written to be read; `sdpa` calls PyTorch's fused kernel; `cuda`
calls the kernels of cuda_ext, `emulated` runs those on the CPU. Attention: Vaswani 2017, section
3.2; RoPE: Su 2021, eq. 34 (in the half-split layout of GPT-NeoX and Qwen); QK-norm: Henry 2020,
with RMSNorm per head as in Qwen3.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import cuda_ext.autograd  # noqa: F401  (registers torch.ops.minireason)
from cuda_ext import build, calls
from minireason.core.config import UserError
from minireason.model.cpu_layers import CausalAttention, by_hand

IMPLS = ("auto", "reference", "sdpa", "cuda", "emulated")
# Up to which row length the kernels beat SDPA, as cuda_ext/gpu_check.py measured it.
CROSSOVER = json.loads((Path(build.__file__).parent / "crossover.json").read_text())
NVCC = build.has_nvcc()


def default_impl() -> str:
    """What MINIREASON_ATTENTION asks for, else "auto"; choose_impl judges it.

    An environment variable and no option of every stage: it changes rounding and speed, never what
    a run is, as MINIREASON_DECODE does.
    """
    return os.environ.get("MINIREASON_ATTENTION", "auto")


def choose_impl(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, max_len: int,
                kind: str = "self") -> tuple[str, str]:
    """(implementation, why) for rows of at most max_len tokens; kind "self" or "decode".

    `auto` takes whatever was measured to be faster. UserError: unknown name, or `cuda` or
    `emulated` where they cannot run.
    """
    if name == "auto":
        return _fastest(device, dtype, head_dim, max_len, kind)
    if name not in IMPLS:
        raise UserError(f"attention {name}: no such implementation; have {', '.join(IMPLS)}")
    if name in ("cuda", "emulated"):
        _check_kernels_run(name, device, dtype, head_dim)
    return name, "asked for"


def _fastest(device: torch.device, dtype: torch.dtype, head_dim: int, max_len: int,
             kind: str) -> tuple[str, str]:
    if device.type == "cpu":
        return "by hand", ("fastest on a CPU: native.cpp, cpu_decode.py" if kind == "decode" else
                           "fastest on a CPU: fused.py; sdpa where heads share keys")
    if device.type != "cuda":
        return "sdpa", f"the CUDA kernels need an NVIDIA GPU, and this is {device.type}"
    if CROSSOVER["measured"] is None:
        return "sdpa", "the CUDA kernels are not measured against it yet"
    number = str(dtype).removeprefix("torch.")
    longest = CROSSOVER["longest_row"][kind].get(number, {}).get(str(head_dim), 0)
    if max_len > longest:
        return "sdpa", (f"measured faster than the CUDA kernels beyond {longest} tokens "
                        f"({number}, head_dim {head_dim}, {CROSSOVER['measured']})")
    if not NVCC:
        return "sdpa", "the CUDA kernels would be faster, but nvcc is missing to build them"
    return "cuda", f"measured faster up to {longest} tokens ({CROSSOVER['measured']})"


def _check_kernels_run(name: str, device: torch.device, dtype: torch.dtype,
                       head_dim: int) -> None:
    if name == "cuda" and device.type != "cuda":
        raise UserError(f"attention cuda: needs an NVIDIA GPU, and this model is on {device.type}; "
                        "run with --device cuda on a machine that has one, or choose sdpa")
    if name == "cuda" and not NVCC:
        raise UserError("attention cuda: needs nvcc to build its kernels; install the CUDA toolkit "
                        "12.4 or later and put its bin folder on PATH, or choose sdpa")
    if name == "emulated" and device.type != "cpu":
        raise UserError("attention emulated: runs the CUDA kernels on the CPU; choose cuda here")
    if dtype not in calls.DTYPE_NAMES or head_dim not in build.HEAD_DIMS:
        raise UserError(f"attention {name}: no kernels for {dtype} with head_dim {head_dim}; use a "
                        f"head_dim of {', '.join(map(str, build.HEAD_DIMS))}, or choose sdpa")


def rope_tables(max_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency, each (max_len, head_dim / 2), float32."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(max_len, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def head_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension; x (..., H, D), gain (D,)."""
    return F.rms_norm(x, (x.shape[-1],), gain.to(x.dtype), eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding; x (..., T, H, D), cos and sin broadcastable to (..., T, 1, D / 2)."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def split_heads(qkv: Tensor, n_heads: int, n_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(..., (H + 2 Hkv) * D) -> q (..., H, D), k and v (..., Hkv, D)."""
    head_dim = qkv.shape[-1] // (n_heads + 2 * n_kv_heads)
    heads = qkv.unflatten(-1, (n_heads + 2 * n_kv_heads, head_dim))
    return heads.split((n_heads, n_kv_heads, n_kv_heads), dim=-2)


def attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v under a causal mask; q (B, H, T, D), k and v (B, Hkv, T, D)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5                 # (B, H, T, T)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    weights = scores.float().masked_fill(future, float("-inf")).softmax(dim=-1)
    return weights.to(v.dtype) @ v                                        # (B, H, T, D)


def row_positions(cu_seqlens: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """For N packed tokens: the row of each and its position within the row, both (N,)."""
    index = torch.arange(n_tokens, device=cu_seqlens.device)
    row = torch.searchsorted(cu_seqlens[1:].contiguous(), index, right=True)
    return row, index - cu_seqlens[row]


def padding(cu_seqlens: Tensor, n_tokens: int, max_len: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where packed tokens stand in rows (B, max_len): row and position (N,), and the token (B,
    max_len) of every place; behind a row's end that is some token of the rows after it."""
    place = cu_seqlens[:-1, None] + torch.arange(max_len, device=cu_seqlens.device)
    return *row_positions(cu_seqlens, n_tokens), place.clamp_max(n_tokens - 1)


def self_attention(
    qkv: Tensor,            # (B, T, (H + 2 Hkv) * D), or packed rows (N, (H + 2 Hkv) * D)
    q_gain: Tensor,         # (D,) QK-norm gains
    k_gain: Tensor,         # (D,)
    cos: Tensor,            # (max_len, D / 2)
    sin: Tensor,            # (max_len, D / 2)
    *,
    n_heads: int,
    n_kv_heads: int,
    eps: float,
    cu_seqlens: Tensor | None = None,  # (B + 1,) int32 starts of the packed rows
    max_len: int | None = None,        # longest packed row
    want_k: bool = True,               # False: k may come back empty, which saves writing it
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """QK-norm, RoPE and causal attention; returns out (..., H * D), k and v (..., Hkv, D).

    k (after norm and rotation) and v are what a KV cache stores. Rows shorter than T are padded
    on the right: causality alone keeps padding out of every counted token.
    """
    longest = qkv.shape[1] if cu_seqlens is None else max_len
    if impl == "auto" and n_heads == n_kv_heads and by_hand(qkv):
        packed = None if cu_seqlens is None else padding(cu_seqlens, qkv.shape[0], max_len)
        out, k, v = CausalAttention.apply(qkv, q_gain, k_gain, cos[:longest], sin[:longest],
                                          n_heads, eps, packed)
        return (out, k, v) if packed is None else (out, k[packed[:2]], v[packed[:2]])
    impl, _ = choose_impl(impl, qkv.device, qkv.dtype, q_gain.numel(), longest)
    if impl in ("cuda", "emulated"):
        return _kernel_self(qkv, q_gain, k_gain, cos, sin, cu_seqlens, longest, n_heads,
                            n_kv_heads, eps, want_k)
    q, k, v = split_heads(qkv, n_heads, n_kv_heads)
    q, k = head_norm(q, q_gain, eps), head_norm(k, k_gain, eps)
    if cu_seqlens is None:
        steps = qkv.shape[1]
        q, k = (rotate(x, cos[:steps, None], sin[:steps, None]) for x in (q, k))
        out = _causal(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), impl)
        return out.transpose(1, 2).flatten(-2), k, v                      # (B, T, H * D)
    row, position = row_positions(cu_seqlens, qkv.shape[0])
    q, k = (rotate(x, cos[position, None], sin[position, None]) for x in (q, k))
    shape = (cu_seqlens.numel() - 1, max_len)
    padded = [x.new_zeros(*shape, *x.shape[1:]).index_put((row, position), x).transpose(1, 2)
              for x in (q, k, v)]                                         # (B, H, max_len, D)
    out = _causal(*padded, impl).transpose(1, 2)
    return out[row, position].flatten(-2), k, v                           # (N, H * D)


def _kernel_self(qkv, q_gain, k_gain, cos, sin, cu_seqlens, longest, n_heads, n_kv_heads, eps,
                 want_k) -> tuple[Tensor, Tensor, Tensor]:
    """self_attention by the fused kernel; packed rows need no padding."""
    head_dim = q_gain.numel()
    out, _, k = torch.ops.minireason.attn_rope(
        qkv.flatten(0, -2).contiguous(), q_gain.float(), k_gain.float(), cos, sin, cu_seqlens,
        longest, n_heads, n_kv_heads, eps, head_dim**-0.5, want_k)
    v = split_heads(qkv, n_heads, n_kv_heads)[2]
    k = k.view(v.shape) if want_k else v[..., :0, :]
    return out.view(*qkv.shape[:-1], n_heads * head_dim), k, v


def _causal(q: Tensor, k: Tensor, v: Tensor, impl: str) -> Tensor:
    if impl == "reference":
        return attention_reference(q, k, v)
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


class Prompt(NamedTuple):
    """One layer's keys and values of P prompts, each stored once for all rows that continue it."""

    k: Tensor               # (P, Hkv, S', D), after norm and rotation
    v: Tensor
    lens: Tensor            # (P,) int64
    index: Tensor           # (B,) int64: which prompt a row continues


def decode_attention(
    qkv: Tensor,            # (B, (H + 2 Hkv) * D): one new token a row
    q_gain: Tensor,
    k_gain: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache_k: Tensor,        # (B, Hkv, S, D), appended to in place at lens[b]
    cache_v: Tensor,
    lens: Tensor,           # (B,) int64: tokens already in each row's cache; cuda: -1 is idle
    *,
    n_heads: int,
    n_kv_heads: int,
    eps: float,
    span: int | None = None,  # host-side upper bound of lens + 1: the cache is read up to here
    prompt: Prompt | None = None,
    impl: str = "auto",
) -> Tensor:
    """Attention of one new token a row over its prompt, its cached past and itself: (B, H * D)."""
    impl, _ = choose_impl(impl, qkv.device, qkv.dtype, q_gain.numel(), cache_k.shape[2], "decode")
    if impl in ("cuda", "emulated"):
        return torch.ops.minireason.decode_attn(
            qkv, q_gain.float(), k_gain.float(), cos, sin, cache_k, cache_v, lens,
            *(prompt or [None] * 4), n_heads, n_kv_heads, eps, q_gain.numel()**-0.5,
            prompt is not None and qkv.shape[0] > prompt.k.shape[0])
    position = lens if prompt is None else lens + prompt.lens[prompt.index]
    q, k, v = split_heads(qkv, n_heads, n_kv_heads)
    q, k = head_norm(q, q_gain, eps), head_norm(k, k_gain, eps)
    q, k = (rotate(x, cos[position, None], sin[position, None]) for x in (q, k))  # (B, H, D)
    rows = torch.arange(qkv.shape[0], device=qkv.device)
    cache_k[rows, :, lens] = k.to(cache_k.dtype)
    cache_v[rows, :, lens] = v.to(cache_v.dtype)
    span = cache_k.shape[2] if span is None else span
    past_k, past_v = cache_k[:, :, :span], cache_v[:, :, :span]           # (B, Hkv, span, D)
    unseen = torch.arange(span, device=qkv.device) > lens[:, None]        # (B, span)
    if prompt is not None:                                                # the prompt comes first
        past_k = torch.cat((prompt.k[prompt.index], past_k), dim=2)
        past_v = torch.cat((prompt.v[prompt.index], past_v), dim=2)
        place = torch.arange(prompt.k.shape[2], device=qkv.device)
        unseen = torch.cat((place >= prompt.lens[prompt.index][:, None], unseen), dim=1)
    q = q.unflatten(1, (n_kv_heads, -1))                                  # (B, Hkv, group, D)
    scores = q @ past_k.transpose(-1, -2).to(q.dtype) / q.shape[-1] ** 0.5
    weights = scores.float().masked_fill(unseen[:, None, None], float("-inf")).softmax(dim=-1)
    return (weights.to(q.dtype) @ past_v.to(q.dtype)).flatten(1)          # (B, H * D)
