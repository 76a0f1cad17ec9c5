"""The hand-written layers equal autograd on the plain formulas, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from minireason.model.attention import padding, rope_tables, self_attention
from minireason.model.cpu_layers import CausalAttention, RMSNorm, SwiGLU

# Float64 throughout, where both sides round at 1e-16; attention's tables are float32 for both.
CLOSE = {"rtol": 0.0, "atol": 1e-12}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def same(ours, plain, *inputs: torch.Tensor) -> None:
    """Equal values, and equal gradients of a random projection with respect to every input."""
    inputs = [x.requires_grad_() for x in inputs]
    a, b = ours(*inputs), plain(*inputs)
    torch.testing.assert_close(a, b, **CLOSE)
    direction = randn(*a.shape, seed=9)
    for x, y in zip(torch.autograd.grad(a, inputs, direction),
                    torch.autograd.grad(b, inputs, direction), strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


def test_rms_norm():
    same(lambda x, gain: RMSNorm.apply(x, gain, 1e-6),
         lambda x, gain: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain,
         randn(3, 5, 12), randn(12, seed=1))


def test_swiglu():
    def plain(x):
        gate, up = x[..., :7], x[..., 7:]
        return gate * torch.sigmoid(gate) * up

    same(SwiGLU.apply, plain, randn(3, 5, 14))


def plain_attention(qkv, q_gain, k_gain, cos, sin, heads):
    """Step by step, one row and head at a time, as the papers write it."""
    rows, steps, _ = qkv.shape
    parts = qkv.view(rows, steps, 3, heads, -1)
    half, out = parts.shape[-1] // 2, []
    for b in range(rows):
        for h in range(heads):
            q, k, v = parts[b, :, :, h].unbind(1)                         # (T, D)
            turned = []
            for x, gain in ((q, q_gain), (k, k_gain)):
                x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain
                first, second = x[:, :half], x[:, half:]
                turned.append(torch.cat((first * cos - second * sin,
                                         second * cos + first * sin), -1))
            scores = turned[0] @ turned[1].T / parts.shape[-1] ** 0.5
            future = torch.arange(steps)[:, None] < torch.arange(steps)
            out.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ v)
    return torch.stack(out).view(rows, heads, steps, -1).transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_causal_attention(steps):
    heads, head_dim = 3, 8
    cos, sin = (x[:steps].double() for x in rope_tables(16, head_dim, 10_000.0))
    same(lambda *x: CausalAttention.apply(*x, cos, sin, heads, 1e-6)[0],
         lambda *x: plain_attention(*x, cos, sin, heads),
         randn(2, steps, 3 * heads * head_dim), randn(head_dim, seed=1), randn(head_dim, seed=2))


def test_packed_attention():
    """Rows end to end equal the same rows one by one; what fills a short row's end is not seen."""
    heads, head_dim, lengths = 3, 8, (2, 9, 1, 5)
    starts = torch.tensor([0, 2, 11, 12, 17], dtype=torch.int32)
    cos, sin = (x[:9].double() for x in rope_tables(16, head_dim, 10_000.0))

    def plain(qkv, *gains):
        return torch.cat([plain_attention(row[None], *gains, cos[:n], sin[:n], heads)[0]
                          for row, n in zip(qkv.split(lengths), lengths, strict=True)])

    same(lambda *x: CausalAttention.apply(*x, cos, sin, heads, 1e-6, padding(starts, 17, 9))[0],
         plain, randn(17, 3 * heads * head_dim), randn(head_dim, seed=1), randn(head_dim, seed=2))


def test_keys_and_values_are_those_of_the_reference():
    layout = {"n_heads": 3, "n_kv_heads": 3, "eps": 1e-6}
    given = (randn(2, 7, 72), randn(8, seed=1), randn(8, seed=2), *rope_tables(16, 8, 10_000.0))
    caches = torch.zeros(2, 2, 2, 3, 7, 8, dtype=torch.float64)
    out = [self_attention(*given, **layout, impl=impl, cache=cache)
           for impl, cache in zip(("auto", "reference"), caches, strict=True)]
    # float32, because the reference takes its softmax there
    torch.testing.assert_close(*out, rtol=0, atol=1e-6)
    torch.testing.assert_close(*caches, rtol=0, atol=1e-6)


def test_a_changed_gain_changes_the_result():
    """The comparisons above would be blind to a gain that neither side applied."""
    x, gain = randn(2, 6), torch.ones(6, dtype=torch.float64)
    plain = F.rms_norm(x, (6,), gain, 1e-6)
    assert not torch.allclose(RMSNorm.apply(x, gain * 2, 1e-6), plain)
    torch.testing.assert_close(RMSNorm.apply(x, gain, 1e-6), plain, **CLOSE)
