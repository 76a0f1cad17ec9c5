"""Layers with the backward pass written by hand: the same formulas, fewer walks over memory.

On a CPU a small model spends more time between the matrix products than in them: PyTorch has no
fused RMSNorm, rotary embedding or SwiGLU there, so each becomes a chain of operations that
autograd then repeats backwards, with a copy for every slice. Each class below is one formula with
its derivative, held by the tests against autograd on the plain formula. The functions at the end
are the sampler's share: one token a row, prompts stored once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def by_hand(x: Tensor) -> bool:
    """True where these classes are the faster way: eager execution on a CPU."""
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
    """

    @staticmethod
    def forward(ctx, qkv, q_gain, k_gain, cos, sin, heads: int, eps: float):
        x = qkv.unflatten(-1, (3 * heads, -1)).permute(2, 0, 1, 3).contiguous()  # (3 H, B, T, D)
        v = x[2 * heads:]
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
        ctx.save_for_backward(unit, scale, gain, cos, sin, qk, v, weights)
        k, v = k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3)
        ctx.mark_non_differentiable(k, v)
        ctx.set_materialize_grads(False)
        return out.flatten(-2), k, v

    @staticmethod
    def backward(ctx, d_out, _dk, _dv):
        unit, scale, gain, cos, sin, qk, v, weights = ctx.saved_tensors
        heads, head_dim = v.shape[0], v.shape[-1]
        d_out = d_out.unflatten(-1, (heads, -1)).permute(2, 0, 1, 3).flatten(0, 1)  # (H B, T, D)
        q, k = qk[:heads].flatten(0, 1), qk[heads:].flatten(0, 1)
        dx = v.new_empty(3 * heads, *v.shape[1:])                                # of q, k and v
        dq, dk, dv = (part.flatten(0, 1) for part in dx.split(heads))
        torch.bmm(weights.mT, d_out, out=dv)
        d_scores = torch.bmm(d_out, v.flatten(0, 1).mT)
        d_scores = torch._softmax_backward_data(d_scores, weights, -1, weights.dtype)
        d_scores.mul_(head_dim ** -0.5)
        torch.bmm(d_scores, k, out=dq)
        torch.bmm(d_scores.mT, q, out=dk)
        dqk = dx[:2 * heads]
        turned = torch.addcmul(dqk * cos, swap_halves(dqk), sin, value=-1)       # rotated back
        along = (turned * unit).flatten(1, 2)                                    # (2 H, B T, D)
        d_gain = along.sum(1).view(2, heads, head_dim).sum(1)                    # (2, D)
        mean = (along @ gain[:, :, None]).div_(head_dim).view_as(scale)
        torch.addcmul(turned.mul_(gain[:, None, None]), unit, mean, value=-1, out=dqk).mul_(scale)
        return (dx.permute(1, 2, 0, 3).flatten(-2), d_gain[0], d_gain[1],
                None, None, None, None)


def norm_and_rotate(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, cos: Tensor, sin: Tensor,
                    position: Tensor, heads: int, kv_heads: int, eps: float,
                    ) -> tuple[Tensor, Tensor]:
    """QK-norm and RoPE of one token a row, without gradients.

    qkv (B, (H + 2 Hkv) * D), cos and sin (max_len, D / 2), position (B,) -> q above k
    (B, H + Hkv, D), v (B, Hkv, D).
    """
    qk, v = qkv.unflatten(-1, (heads + 2 * kv_heads, -1)).split((heads + kv_heads, kv_heads), 1)
    gain = torch.cat((q_gain.expand(heads, -1), k_gain.expand(kv_heads, -1)))
    normed = (qk * inverse_rms(qk, eps)).mul_(gain)
    cos, sin = cos[position, None], sin[position, None]                   # (B, 1, D / 2)
    turned = normed * torch.cat((cos, cos), -1)
    return turned.addcmul_(swap_halves(normed), torch.cat((-sin, sin), -1)), v


def group_rows(index: Tensor, prompts: int) -> tuple[Tensor, Tensor]:
    """Rows that continue the same prompt, side by side: (slots, places) for index (B,), sorted.

    slots (P, G): the rows of every prompt, filled up with row 0 to the largest group's size G;
    places (B,): where in slots.flatten() a row stands.
    """
    counts = index.bincount(minlength=prompts)
    row = torch.arange(len(index), device=index.device)
    places = index * counts.max() + row - (counts.cumsum(0) - counts)[index]
    slots = row.new_zeros(prompts, int(counts.max()))
    slots.view(-1)[places] = row
    return slots, places


def grouped_attention(
    q: Tensor,              # (B, H, D): one new token a row
    own_k: Tensor,          # (B, Hkv, S, D): what each row drew itself, contiguous
    own_v: Tensor,
    seen: int,              # how many of those S stand there, the new token included
    prompt_k: Tensor,       # (P, Hkv, S', D): each prompt once
    prompt_v: Tensor,
    prompt_lens: Tensor,    # (P,)
    slots: Tensor,          # (P, G), with places: see group_rows
    places: Tensor,         # (B,)
) -> Tensor:
    """Attention over a row's prompt and its own tokens, without gradients; returns (B, H * D).

    All rows of a prompt read its keys in one matrix product (Juravsky 2024, arXiv:2402.05099).
    """
    (rows, heads, head_dim), (prompts, kv_heads, longest, _) = q.shape, prompt_k.shape
    group, scale = heads // kv_heads, head_dim ** -0.5

    def gather(x: Tensor) -> Tensor:                            # (B, H, E) -> (P Hkv, G group, E)
        x = x[slots].view(prompts, -1, kv_heads, group, x.shape[-1]).transpose(1, 2)
        return x.reshape(prompts * kv_heads, -1, x.shape[-1])

    def scatter(x: Tensor) -> Tensor:                           # and back
        x = x.view(prompts, kv_heads, -1, group, x.shape[-1]).transpose(1, 2)
        return x.reshape(-1, heads, x.shape[-1])[places]

    beyond = torch.arange(longest) >= prompt_lens.repeat_interleave(kv_heads)[:, None]
    masked = q.new_zeros(beyond.shape).masked_fill_(beyond, float("-inf"))[:, None]
    to_prompt = torch.baddbmm(masked, gather(q), prompt_k.flatten(0, 1).mT, alpha=scale)
    empty = q.new_zeros(own_k.shape[2])
    empty[seen:] = float("-inf")
    to_own = torch.baddbmm(empty, q.reshape(rows * kv_heads, group, head_dim),
                           own_k.flatten(0, 1).mT, alpha=scale)
    weights = torch.cat((scatter(to_prompt), to_own.view(rows, heads, -1)), -1).softmax(-1)
    of_prompt, of_own = weights.split((longest, own_k.shape[2]), -1)      # (B, H, S'), (B, H, S)
    out = of_own.reshape(rows * kv_heads, group, -1) @ own_v.flatten(0, 1)
    out = out.view(rows, heads, head_dim) + scatter(gather(of_prompt) @ prompt_v.flatten(0, 1))
    return out.flatten(1)
