"""Grades assignment 2 against minireason.attention."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import torch
from grading import Check, close, grade, require

from minireason.model import attention

THETA, EPS = 10_000.0, 1e-6


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm_values(solution):
    for seed, shape in enumerate(((2, 5, 3, 8), (4, 16), (1, 1, 1, 2))):
        x, gain = random(*shape, seed=seed, scale=3.0), 1 + random(shape[-1], seed=9, scale=0.3)
        close(solution.qk_norm(x, gain, EPS), attention.head_norm(x, gain, EPS), f"x {shape}")
    shifted = random(3, 8) + 5                                # the mean is not taken away
    close(solution.qk_norm(shifted, torch.ones(8), EPS),
          attention.head_norm(shifted, torch.ones(8), EPS), "x with a mean of 5")


def norm_epsilon(solution):
    for x in (torch.zeros(2, 8), 1e-3 * random(2, 8)):
        close(solution.qk_norm(x, torch.ones(8), 1e-2), attention.head_norm(x, torch.ones(8), 1e-2),
              "small x, eps = 0.01")


def library_rope(x, positions, theta=THETA):
    cos, sin = attention.rope_tables(int(positions.max()) + 1, x.shape[-1], theta)
    return attention.rotate(x, cos[positions, None], sin[positions, None])


def rope_values(solution):
    for heads, width, theta in ((2, 8, THETA), (1, 2, THETA), (3, 32, 100.0)):
        x, positions = random(2, 7, heads, width), torch.arange(7)
        close(solution.rope(x, positions, theta), library_rope(x, positions, theta),
              f"H = {heads}, D = {width}, theta = {theta:g}")


def rope_positions(solution):
    for positions in (torch.tensor([5, 6, 7]), torch.tensor([40, 3, 3]), torch.tensor([0])):
        x = random(1, len(positions), 2, 8)
        close(solution.rope(x, positions, THETA), library_rope(x, positions),
              f"positions {positions.tolist()}")


def rope_distance(solution):
    q, k = random(1, 1, 1, 16, seed=1), random(1, 1, 1, 16, seed=2)
    products = [float((solution.rope(q, torch.tensor([at + 4]), THETA)
                       * solution.rope(k, torch.tensor([at]), THETA)).sum()) for at in (0, 9, 50)]
    close(products[1:], [products[0]] * 2, "q.k at distance 4 in other places", 1e-4)
    other = float((solution.rope(q, torch.tensor([9]), THETA)
                   * solution.rope(k, torch.tensor([0]), THETA)).sum())
    require(abs(other - products[0]) > 1e-3, "another product at another distance", "the same one")


def attend(solution, heads, kv_heads, steps, seed=0, scale=1.0):
    q = random(2, heads, steps, 8, seed=seed, scale=scale)
    k, v = (random(2, kv_heads, steps, 8, seed=seed + i, scale=scale) for i in (1, 2))
    close(solution.causal_attention(q, k, v), attention.attention_reference(q, k, v),
          f"H = {heads}, Hkv = {kv_heads}, T = {steps}, numbers of size {scale:g}")


def plain_values(solution):
    for steps in (1, 2, 9):
        attend(solution, 3, 3, steps, seed=steps)


def grouped(solution):
    attend(solution, 4, 2, 6)
    attend(solution, 6, 1, 3)
    attend(solution, 6, 3, 3)


def causality(solution):
    q, k, v = (random(1, 2, 6, 8, seed=i) for i in range(3))
    before = solution.causal_attention(q, k, v)
    k, v = k.clone(), v.clone()
    k[:, :, -1], v[:, :, -1] = 50.0, 1e6
    moved = (solution.causal_attention(q, k, v) - before).abs().amax(dim=(0, 1, 3))
    require(float(moved[:-1].max()) == 0, "outputs that do not move when a later key and value do",
            f"moves of {[round(float(m), 4) for m in moved[:-1]]}")
    require(float(moved[-1]) > 0, "a last output that sees itself", "one that does not")


def large(solution):
    attend(solution, 2, 2, 7, scale=40.0)


def gradients(solution):
    parts = [random(1, 2, 5, 8, seed=i).requires_grad_() for i in range(3)]
    weights = random(1, 2, 5, 8, seed=7)
    wanted = torch.autograd.grad((attention.attention_reference(*parts) * weights).sum(), parts)
    came = torch.autograd.grad((solution.causal_attention(*parts) * weights).sum(), parts)
    for name, a, b in zip("qkv", came, wanted, strict=True):
        close(a, b, f"gradient of {name}")


def whole(solution, heads, kv_heads, steps, gain_scale):
    qkv = random(2, steps, (heads + 2 * kv_heads) * 8, seed=steps)
    q_gain, k_gain = (1 + random(8, seed=i, scale=gain_scale) for i in (3, 4))
    cos, sin = attention.rope_tables(steps, 8, THETA)
    wanted = attention.self_attention(qkv, q_gain, k_gain, cos, sin, n_heads=heads,
                                      n_kv_heads=kv_heads, eps=EPS, impl="reference")
    close(solution.self_attention(qkv, q_gain, k_gain, heads, kv_heads, THETA, EPS), wanted,
          f"H = {heads}, Hkv = {kv_heads}, T = {steps}")


def whole_plain(solution):
    whole(solution, 2, 2, 1, 0.0)
    whole(solution, 3, 3, 9, 0.0)


def whole_grouped_with_gains(solution):
    whole(solution, 4, 2, 7, 0.5)


CHECKS = [
    Check("qk_norm: values", 2, norm_values),
    Check("qk_norm: epsilon", 1, norm_epsilon),
    Check("rope: values", 2, rope_values),
    Check("rope: any positions", 2, rope_positions),
    Check("rope: only the distance matters", 1, rope_distance),
    Check("causal_attention: values", 2, plain_values),
    Check("causal_attention: grouped heads", 2, grouped),
    Check("causal_attention: the future is invisible", 1, causality),
    Check("causal_attention: large scores", 1, large),
    Check("causal_attention: gradients", 1, gradients),
    Check("self_attention: plain", 3, whole_plain),
    Check("self_attention: grouped heads and gains", 2, whole_grouped_with_gains),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__))
