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


def differentiate(name: str, gradient, save) -> None:
    """Give an operator its gradient: what torch.library.register_autograd does, at half its
    host time, since no schema is walked through to fill in defaults (there are none here)."""
    op = getattr(NAMESPACE, name).default

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            with torch._C._AutoDispatchBelowAutograd():
                output = op(*inputs)
            save(ctx, inputs, output)
            return output

        backward = staticmethod(gradient)

    def with_gradient(*inputs):
        if torch.is_grad_enabled() and any(
                x.requires_grad for x in inputs if isinstance(x, torch.Tensor)):
            return Differentiable.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    LIBRARY.impl(name, with_gradient, "Autograd")


def register() -> None:
    """Bind kernels (CUDA and, through the emulator, CPU), fakes and gradients."""
    for name in ops.SCHEMAS:
        for key in ("CUDA", "CPU"):
            LIBRARY.impl(name, getattr(ops, name), key)
        torch.library.register_fake(f"minireason::{name}", globals()[f"fake_{name}"], lib=LIBRARY)
    differentiate("attn", attn_gradient, save_attn)
    differentiate("norm_rope", norm_rope_gradient, save_norm_rope)
    differentiate("attn_rope", attn_rope_gradient, save_attn_rope)


register()
