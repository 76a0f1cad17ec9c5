"""A solution of assignment 2, from its README alone."""

import torch


def qk_norm(x, gain, eps):
    mean_square = (x * x).mean(dim=-1, keepdim=True)
    return x / torch.sqrt(mean_square + eps) * gain


def rope(x, positions, theta):
    half = x.shape[-1] // 2
    frequency = theta ** (-2 * torch.arange(half, dtype=torch.float64) / x.shape[-1])
    angle = positions.double()[:, None] * frequency                # (T, D / 2)
    cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def causal_attention(q, k, v):
    group, steps = q.shape[1] // k.shape[1], q.shape[2]
    k = k.repeat_interleave(group, dim=1)
    v = v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    future = torch.ones(steps, steps, dtype=torch.bool).triu(diagonal=1)
    scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(dim=-1) @ v


def self_attention(qkv, q_gain, k_gain, n_heads, n_kv_heads, theta, eps):
    rows, steps, _ = qkv.shape
    heads = qkv.view(rows, steps, n_heads + 2 * n_kv_heads, -1)
    q = heads[:, :, :n_heads]
    k = heads[:, :, n_heads:n_heads + n_kv_heads]
    v = heads[:, :, n_heads + n_kv_heads:]
    at = torch.arange(steps)
    q = rope(qk_norm(q, q_gain, eps), at, theta)
    k = rope(qk_norm(k, k_gain, eps), at, theta)
    out = causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).reshape(rows, steps, -1)
