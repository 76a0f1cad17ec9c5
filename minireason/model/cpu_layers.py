"""Layers with the backward pass written by hand: the same formulas, fewer walks over memory.

On a CPU a small model spends more time between the matrix products than in them: PyTorch has no
fused RMSNorm, rotary embedding or SwiGLU there, so each becomes a chain of operations that
autograd then repeats backwards, with a copy for every slice. Each class below is one formula with
its derivative, held by the tests against autograd on the plain formula. native_layers.py has the
same in C++, for where there is a compiler.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def by_hand(x: Tensor) -> bool:
    """True where these classes are faster than PyTorch's own: eager execution on a CPU."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension; (..., D) -> (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def swap_halves(x: Tensor) -> Tensor:
    """(first, second) -> (second, first) along the last dimension."""
    return x.roll(x.shape[-1] // 2, -1)


class RMSNorm(torch.autograd.Function):
    """y = unit * gain with unit = x / rms(x); x (..., D), gain (D,).

    d unit = dy * gain;  dx = (d unit - unit * mean(d unit * unit)) / rms(x).
    """

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        scale = inverse_rms(x, eps)
        unit = x * scale
        ctx.save_for_backward(unit, scale, gain)
        return unit * gain

    @staticmethod
    def backward(ctx, dy: Tensor):
        unit, scale, gain = ctx.saved_tensors
        along = dy * unit
        mean = (along @ gain).div_(gain.numel())[..., None]
        dx = torch.addcmul(dy * gain, unit, mean, value=-1).mul_(scale)
        return dx, along.flatten(0, -2).sum(0), None


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up of the fused projection (..., 2 F) -> (..., F); Shazeer 2020."""

    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        open_gate = F.silu(gate)
        ctx.save_for_backward(gate_up, open_gate)
        return open_gate * up

    @staticmethod
    def backward(ctx, dy: Tensor):
        gate_up, open_gate = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)            # written in place: no concatenation
        torch.mul(dy, open_gate, out=d_up)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=d_gate)
        return d_gate_up


class CausalAttention(torch.autograd.Function):
    """QK-norm, RoPE and causal attention of whole rows, for as many KV heads as query heads.

    qkv (B, T, 3 * H * D), gains (D,), cos and sin (T, D / 2) -> out (B, T, H * D), k and v
    (B, T, H, D). k and v are for a cache: no gradient flows back from them. Everything between
    stands as (heads, B, T, D), so that q, k and v are contiguous slices of one tensor.
    packed = (row, position, at): qkv is (N, 3 * H * D) and out (N, H * D); token i stands at
    [row[i], position[i]], and at (B, T) names a token for every place, any one where none stands.
    """

    @staticmethod
    def forward(ctx, qkv, q_gain, k_gain, cos, sin, heads: int, eps: float, packed=None):
        x = qkv.unflatten(-1, (3 * heads, -1))
        if packed is None:                                     # a copy, as it is changed in place
            x = x.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
        else:
            x = x.transpose(0, 1)[:, packed[2]].contiguous()                     # (3 H, B, T, D)
        v = x[2 * heads:]                                                        # (H, B, T, D)
        scale = inverse_rms(x[:2 * heads], eps)                                  # (2 H, B, T, 1)
        unit = x[:2 * heads].mul_(scale)
        gain = torch.stack((q_gain, k_gain)).repeat_interleave(heads, 0)         # (2 H, D)
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)         # (T, D)
        qk = unit * (gain[:, None, None] * cos)
        qk.addcmul_(swap_halves(unit), swap_halves(gain)[:, None, None] * sin)
        q, k = qk[:heads], qk[heads:]
        steps, head_dim = x.shape[-2:]
        future = x.new_full((steps, steps), float("-inf")).triu_(1)
        scores = torch.baddbmm(future, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=head_dim ** -0.5)
        weights = scores.softmax(dim=-1)                                         # (H B, T, T)
        out = (weights @ v.flatten(0, 1)).view_as(v).permute(1, 2, 0, 3)         # (B, T, H, D)
        if packed is not None:
            out = out[packed[:2]]                                                # (N, H, D)
        ctx.packed = packed
        ctx.save_for_backward(unit, scale, gain, cos, sin, qk, v, weights)
        k, v = k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3)
        ctx.mark_non_differentiable(k, v)
        ctx.set_materialize_grads(False)
        return out.flatten(-2), k, v

    @staticmethod
    def backward(ctx, d_out, _dk, _dv):
        unit, scale, gain, cos, sin, qk, v, weights = ctx.saved_tensors
        heads, head_dim = v.shape[0], v.shape[-1]
        d_out = d_out.unflatten(-1, (heads, -1))
        if ctx.packed is not None:
            d_out = v.new_zeros(v.shape).permute(1, 2, 0, 3).index_put_(ctx.packed[:2], d_out)
        d_out = d_out.permute(2, 0, 1, 3).flatten(0, 1)                          # (H B, T, D)
        q, k = qk[:heads].flatten(0, 1), qk[heads:].flatten(0, 1)
        dx = v.new_empty(3 * heads, *v.shape[1:])                                # of q, k and v
        dq, dk, dv = (part.flatten(0, 1) for part in dx.split(heads))
        torch.bmm(weights.mT, d_out, out=dv)
        d_scores = torch.bmm(d_out, v.flatten(0, 1).mT)
        d_scores = torch.ops.aten._softmax_backward_data(d_scores, weights, -1, weights.dtype)
        d_scores.mul_(head_dim ** -0.5)
        torch.bmm(d_scores, k, out=dq)
        torch.bmm(d_scores.mT, q, out=dk)
        dqk = dx[:2 * heads]
        turned = torch.addcmul(dqk * cos, swap_halves(dqk), sin, value=-1)       # rotated back
        along = (turned * unit).flatten(1, 2)                                    # (2 H, B T, D)
        d_gain = along.sum(1).view(2, heads, head_dim).sum(1)                    # (2, D)
        mean = (along @ gain[:, :, None]).div_(head_dim).view_as(scale)
        torch.addcmul(turned.mul_(gain[:, None, None]), unit, mean, value=-1, out=dqk).mul_(scale)
        dx = dx.permute(1, 2, 0, 3)                                              # (B, T, 3 H, D)
        dx = dx if ctx.packed is None else dx[ctx.packed[:2]]
        return dx.flatten(-2), d_gain[0], d_gain[1], None, None, None, None, None
