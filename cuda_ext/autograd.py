"""Shapes (for torch.compile) and gradients of the operators; importing this completes ops.py."""

import torch

from cuda_ext import ops

LIBRARY = ops.LIBRARY
NAMESPACE = torch.ops.minireason


def fake_attn(qkv, cu_seqlens, max_len, n_heads, n_kv_heads, scale):
    return ops._out_like(qkv, n_heads, n_kv_heads), ops._lse_like(qkv, n_heads)


def fake_attn_bwd(grad, qkv, *rest):
    return torch.empty_like(qkv)


def fake_norm_rope(qkv, *rest):
    return torch.empty_like(qkv)


def fake_norm_rope_bwd(grad, qkv, q_gain, k_gain, *rest):
    return (torch.empty_like(qkv), torch.empty_like(q_gain, dtype=torch.float32),
            torch.empty_like(k_gain, dtype=torch.float32))


def fake_attn_rope(qkv, q_gain, k_gain, cos, sin, cu_seqlens, max_len, n_heads, n_kv_heads, eps,
                   scale, want_k):
    keys = qkv.new_empty(qkv.shape[0] if want_k else 0, n_kv_heads * q_gain.shape[0])
    return ops._out_like(qkv, n_heads, n_kv_heads), ops._lse_like(qkv, n_heads), keys


def fake_attn_rope_bwd(grad, qkv, out, lse, q_gain, k_gain, *rest):
    return fake_norm_rope_bwd(grad, qkv, q_gain, k_gain)


def fake_decode_attn(qkv, q_gain, k_gain, cos, sin, cache_k, cache_v, lens, prompt_k, prompt_v,
                     prompt_len, prompt_index, n_heads, n_kv_heads, *rest):
    return ops._out_like(qkv, n_heads, n_kv_heads)


def save_attn(ctx, inputs, output):
    qkv, cu_seqlens, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, *output, cu_seqlens)
    ctx.mark_non_differentiable(output[1])


def attn_gradient(ctx, grad, _):
    qkv, out, lse, cu_seqlens = ctx.saved_tensors
    return (NAMESPACE.attn_bwd(grad.contiguous(), qkv, out, lse, cu_seqlens, *ctx.numbers),
            *[None] * 5)


def save_norm_rope(ctx, inputs, output):
    *tensors, ctx.max_len, ctx.n_heads, ctx.n_kv_heads, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def norm_rope_gradient(ctx, grad):
    grads = NAMESPACE.norm_rope_bwd(grad.contiguous(), *ctx.saved_tensors, ctx.max_len,
                                    ctx.n_heads, ctx.n_kv_heads, ctx.eps)
    return (*grads, *[None] * 7)


def save_attn_rope(ctx, inputs, output):
    qkv, *norm, cu_seqlens, ctx.max_len, ctx.n_heads, ctx.n_kv_heads, ctx.eps, ctx.scale, _ = inputs
    out, lse, keys = output
    ctx.save_for_backward(qkv, out, lse, *norm, cu_seqlens)
    ctx.mark_non_differentiable(lse, keys)


def attn_rope_gradient(ctx, grad, *_):
    grads = NAMESPACE.attn_rope_bwd(grad.contiguous(), *ctx.saved_tensors, ctx.max_len,
                                    ctx.n_heads, ctx.n_kv_heads, ctx.eps, ctx.scale)
    return (*grads, *[None] * 9)


def register() -> None:
    """Bind kernels (CUDA and, through the emulator, CPU), fakes and gradients."""
    for name in ops.SCHEMAS:
        for key in ("CUDA", "CPU"):
            LIBRARY.impl(name, getattr(ops, name), key)
        torch.library.register_fake(f"minireason::{name}", globals()[f"fake_{name}"], lib=LIBRARY)
    for name, gradient, save in (("attn", attn_gradient, save_attn),
                                 ("norm_rope", norm_rope_gradient, save_norm_rope),
                                 ("attn_rope", attn_rope_gradient, save_attn_rope)):
        torch.library.register_autograd(f"minireason::{name}", gradient, setup_context=save,
                                        lib=LIBRARY)


register()
