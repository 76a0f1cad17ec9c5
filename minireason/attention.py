"""Causal self-attention from packed projections, in several implementations of one formula.

Both entry points take the raw output of the fused qkv projection, so that an implementation may
fuse QK-norm, rotary embedding and attention into one pass over memory:

    self_attention     every token of every row at once (training, prefill)
    decode_attention   one new token a row, over a cache that it also appends to (sampling)

`impl="reference"` is the formula, written to be read; `sdpa` calls PyTorch's fused kernel; `cuda`
calls the kernels of cuda_ext. Attention: Vaswani 2017, section 3.2; RoPE: Su 2021, eq. 34 (in the
half-split layout of GPT-NeoX and Qwen); QK-norm: Henry 2020, with RMSNorm per head as in Qwen3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IMPLS = ("auto", "reference", "sdpa", "cuda")


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
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """QK-norm, RoPE and causal attention; returns out (..., H * D), k and v (..., Hkv, D).

    k (after norm and rotation) and v are what a KV cache stores. Rows shorter than T are padded
    on the right: causality alone keeps padding out of every counted token.
    """
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


def _causal(q: Tensor, k: Tensor, v: Tensor, impl: str) -> Tensor:
    if impl == "reference":
        return attention_reference(q, k, v)
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def decode_attention(
    qkv: Tensor,            # (B, (H + 2 Hkv) * D): one new token a row
    q_gain: Tensor,
    k_gain: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache_k: Tensor,        # (B, Hkv, S, D), appended to in place at lens[b]
    cache_v: Tensor,
    lens: Tensor,           # (B,) int64: tokens already in each row's cache
    *,
    n_heads: int,
    n_kv_heads: int,
    eps: float,
    span: int | None = None,  # host-side upper bound of lens + 1: the cache is read up to here
    impl: str = "auto",
) -> Tensor:
    """Attention of one new token a row over its cached past and itself; returns (B, H * D)."""
    q, k, v = split_heads(qkv, n_heads, n_kv_heads)
    q, k = head_norm(q, q_gain, eps), head_norm(k, k_gain, eps)
    q, k = (rotate(x, cos[lens, None], sin[lens, None]) for x in (q, k))  # (B, H, D)
    rows = torch.arange(qkv.shape[0], device=qkv.device)
    cache_k[rows, :, lens] = k.to(cache_k.dtype)
    cache_v[rows, :, lens] = v.to(cache_v.dtype)
    span = cache_k.shape[2] if span is None else span
    past_k, past_v = cache_k[:, :, :span], cache_v[:, :, :span]           # (B, Hkv, span, D)
    q = q.unflatten(1, (n_kv_heads, -1))                                  # (B, Hkv, group, D)
    scores = q @ past_k.transpose(-1, -2).to(q.dtype) / q.shape[-1] ** 0.5
    unseen = torch.arange(span, device=q.device) > lens[:, None]          # (B, span)
    weights = scores.float().masked_fill(unseen[:, None, None], float("-inf")).softmax(dim=-1)
    return (weights.to(q.dtype) @ past_v.to(q.dtype)).flatten(1)          # (B, H * D)
