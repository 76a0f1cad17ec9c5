"""Causal self-attention from the output of the fused qkv projection: the formula.

    self_attention     every token of every row at once (training, prefill)
    decode_attention   one new token per row, over a cache that it also appends to (sampling)

Both take the raw projection, so that an implementation may fuse QK-norm, rotary embedding and
attention into one pass over memory; backends.py chooses among them. Attention: Vaswani 2017,
section 3.2; RoPE: Su 2021, eq. 34 (in the half-split layout of GPT-NeoX and Qwen); QK-norm: Henry
2020, with RMSNorm per head as in Qwen3.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import cuda_ext.autograd  # noqa: F401  (registers torch.ops.minireason)
from minireason.model.backends import KERNELS, choose_impl
from minireason.model.cpu_layers import CausalAttention, by_hand
from minireason.model.native_layers import NativeAttention, native


def rope_tables(max_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency, each (max_len, head_dim / 2), float32.

    On the CPU, even where a model is laid out on the meta device to learn its shapes: there arange
    (and normal_) import PyTorch's compiler, 3 seconds of every command that loads a checkpoint.
    """
    steps = partial(torch.arange, dtype=torch.float64, device="cpu")
    frequency = theta ** (-steps(0, head_dim, 2) / head_dim)
    angle = steps(max_len)[:, None] * frequency
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
    heads = qkv.unflatten(-1, (n_heads + 2 * n_kv_heads, -1))
    q, k, v = heads.split((n_heads, n_kv_heads, n_kv_heads), dim=-2)
    return q, k, v


def attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v under a causal mask; q (B, H, T, D), k and v (B, Hkv, T, D)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5                 # (B, H, T, T)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    weights = scores.float().masked_fill(future, float("-inf")).softmax(dim=-1)
    return weights.to(v.dtype) @ v                                        # (B, H, T, D)


def padding(cu_seqlens: Tensor, n_tokens: int, max_len: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where packed tokens stand in rows (B, max_len): row and position (N,), and the token (B,
    max_len) of every place; behind a row's end that is some token of the rows after it.

    A token's row is the last to start at it or before. All starts are searched, not `[1:]`: before
    torch 2.13, compiled for a GPU, searchsorted forgets a slice's offset (pytorch issue 182343).
    """
    index = torch.arange(n_tokens, device=cu_seqlens.device)
    row = torch.searchsorted(cu_seqlens, index, right=True) - 1
    place = cu_seqlens[:-1, None] + torch.arange(max_len, device=cu_seqlens.device)
    return row, index - cu_seqlens[row], place.clamp_max(n_tokens - 1)


def repeat_prompts(cu_seqlens: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that share prompts, laid flat: (token of every place, whether it is the row's own, the
    rows' starts). A group's first row is its prompt, which comes to stand before each other one."""
    lengths, first = cu_seqlens.diff(), groups[:-1].repeat_interleave(groups.diff())      # (S,)
    prompt = lengths[first]                               # tokens of it before each row
    prompt[groups[:-1]] = 0
    row = torch.arange(len(lengths), device=first.device).repeat_interleave(prompt + lengths)
    starts = F.pad((prompt + lengths).cumsum(0, dtype=torch.int32), (1, 0))
    place = torch.arange(len(row), device=first.device) - starts[row]
    own = place >= prompt[row]
    start = torch.where(own, cu_seqlens[row] - prompt[row], cu_seqlens[first[row]])
    return start + place, own, starts


def self_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, cos: Tensor, sin: Tensor, *,
                   n_heads: int, n_kv_heads: int, eps: float, cu_seqlens: Tensor | None = None,
                   max_len: int = 0, cache: Tensor | None = None, groups: Tensor | None = None,
                   impl: str = "auto") -> Tensor:
    """QK-norm, RoPE and causal attention of whole rows: (..., (H + 2 Hkv) * D) -> (..., H * D).

    qkv is (B, T, ...), padded on the right: causality alone keeps padding out of every counted
    token. Or it is packed, (N, ...): rows end to end, with cu_seqlens (B + 1,) int32 their starts
    and max_len the longest. gains (D,); cos and sin (max_len, D / 2). cache (2, B, Hkv, S, D), not
    for packed rows: where to store k, after norm and rotation, and v. groups (G + 1,) int32, for
    packed rows: where each group of rows begins, whose first row is a prompt that all others of it
    continue; max_len counts both.
    """
    longest = qkv.shape[1] if cu_seqlens is None else max_len
    head_dim, packed, kind = q_gain.numel(), None, "self" if cu_seqlens is None else "packed"
    asked, (impl, _) = impl, choose_impl(impl, qkv.device, qkv.dtype, head_dim, longest, kind)
    by_native = impl == "by hand" and cache is None and native(qkv)
    if groups is not None and cu_seqlens is not None and not by_native:
        token, own, starts = repeat_prompts(cu_seqlens, groups)
        return self_attention(qkv[token], q_gain, k_gain, cos, sin, n_heads=n_heads,
                              n_kv_heads=n_kv_heads, eps=eps, cu_seqlens=starts, max_len=max_len,
                              impl=asked)[own]
    if cu_seqlens is not None and impl not in KERNELS and not by_native:  # which need no padding
        packed = padding(cu_seqlens, len(qkv), longest)
    if by_native:
        starts = cu_seqlens
        if starts is None:                                                # B rows of T tokens
            starts = torch.arange(len(qkv) + 1, dtype=torch.int32) * longest
        if groups is None:
            groups = torch.arange(len(starts), dtype=torch.int32)
        out = NativeAttention.apply(qkv.flatten(0, -2), q_gain, k_gain, cos, sin, starts, groups,
                                    n_heads, n_kv_heads, eps).view(*qkv.shape[:-1], -1)
    elif impl in KERNELS:
        out, _, k = torch.ops.minireason.attn_rope(
            qkv.flatten(0, -2).contiguous(), q_gain.float(), k_gain.float(), cos, sin, cu_seqlens,
            longest, n_heads, n_kv_heads, eps, head_dim**-0.5, cache is not None)
        out = out.view(*qkv.shape[:-1], n_heads * head_dim)
        v = split_heads(qkv, n_heads, n_kv_heads)[2]
    elif impl == "by hand" and n_heads == n_kv_heads and by_hand(qkv):
        out, k, v = CausalAttention.apply(qkv, q_gain, k_gain, cos[:longest], sin[:longest],
                                          n_heads, eps, packed)
    else:
        place = (slice(None), slice(longest)) if packed is None else packed[:2]
        cos, sin = cos[place[1], None], sin[place[1], None]
        q, k, v = split_heads(qkv, n_heads, n_kv_heads)
        q = rotate(head_norm(q, q_gain, eps), cos, sin)
        k = rotate(head_norm(k, k_gain, eps), cos, sin)
        rows = q, k, v                                                    # (B, T, heads, D)
        if packed is not None:
            row, position, at = packed
            rows = [x.new_zeros(*at.shape, *x.shape[1:]).index_put((row, position), x)
                    for x in rows]
        queries, keys, values = [x.transpose(1, 2) for x in rows]         # (B, heads, T, D)
        if impl == "reference":
            out = attention_reference(queries, keys, values)
        else:
            out = F.scaled_dot_product_attention(queries, keys, values, is_causal=True,
                                                 enable_gqa=n_heads != n_kv_heads)
        out = out.transpose(1, 2)[place].flatten(-2)                      # (..., H * D)
    if cache is not None:
        cache[0, :, :, :longest] = k.view(v.shape).transpose(1, 2)
        cache[1, :, :, :longest] = v.transpose(1, 2)
    return out


def decode_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, cos: Tensor, sin: Tensor,
                     cache: Tensor, lens: Tensor, *, n_heads: int, n_kv_heads: int, eps: float,
                     span: int | None = None, prompt: tuple[Tensor, ...] | None = None,
                     impl: str = "auto") -> Tensor:
    """Attention of one new token per row over its cached past and itself: (B, H * D).

    qkv (B, (H + 2 Hkv) * D). The cache (2, B, Hkv, S, D) is appended to in place at lens (B,)
    int64, the number of tokens it holds per row; span bounds lens + 1 where the host knows better
    than S. For the kernels only: lens -1 marks an idle row, and prompt = (k, v, lens, index) holds
    P prompts, k and v (P, Hkv, S', D), each stored once; row b continues prompt index[b].
    """
    impl, _ = choose_impl(impl, qkv.device, qkv.dtype, q_gain.numel(), cache.shape[3], "decode")
    if impl in KERNELS:
        return torch.ops.minireason.decode_attn(
            qkv, q_gain.float(), k_gain.float(), cos, sin, *cache, lens,
            *(prompt or [None] * 4), n_heads, n_kv_heads, eps, q_gain.numel()**-0.5,
            prompt is not None and len(qkv) > len(prompt[0]))
    assert prompt is None, f"attention {impl}: no shared prompts"
    cos, sin = cos[lens, None], sin[lens, None]                           # (B, 1, D / 2)
    q, k, v = split_heads(qkv, n_heads, n_kv_heads)                       # (B, H, D)
    q = rotate(head_norm(q, q_gain, eps), cos, sin)
    k = rotate(head_norm(k, k_gain, eps), cos, sin)
    rows = torch.arange(len(qkv), device=qkv.device)
    cache[0][rows, :, lens], cache[1][rows, :, lens] = k.to(cache.dtype), v.to(cache.dtype)
    past_k, past_v = cache[:, :, :, :span].to(q.dtype)                    # (B, Hkv, span, D)
    unseen = torch.arange(past_k.shape[2], device=qkv.device) > lens[:, None]    # (B, span)
    q = q.unflatten(1, (n_kv_heads, -1))                                  # (B, Hkv, group, D)
    scores = q @ past_k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.float().masked_fill(unseen[:, None, None], float("-inf")).softmax(dim=-1)
    return (weights.to(q.dtype) @ past_v).flatten(1)
