"""Assignment 2: attention by hand. Shapes stand beside each argument."""

from torch import Tensor


def qk_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last dimension; x (..., D), gain (D,)."""
    raise NotImplementedError


def rope(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary embedding; x (B, T, H, D), positions (T,) -> (B, T, H, D).

    The frequency of pair i is theta ** (-2 i / D), i = 0 .. D/2 - 1, and its angle is position
    times frequency. Layout of GPT-NeoX: number i is paired with number i + D/2.
    """
    raise NotImplementedError


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, each position over itself and what came before.

    q (B, H, T, D), k and v (B, Hkv, T, D) -> (B, H, T, D). H is a multiple of Hkv: consecutive
    query heads share a key head, heads 0 .. H/Hkv - 1 the first one.
    """
    raise NotImplementedError


def self_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, n_heads: int, n_kv_heads: int,
                   theta: float, eps: float) -> Tensor:
    """The whole: split, QK-norm, RoPE, causal attention, heads joined.

    qkv (B, T, (H + 2 Hkv) * D): all q heads, then all k heads, then all v heads. Positions count
    from 0. Returns (B, T, H * D).
    """
    raise NotImplementedError
