"""Grades assignment 2 against minireason.model.attention."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import torch
from grading import Check, close, grade, require

from minireason.core.config import stream_seed
from minireason.model import attention

THETA, EPS = 10_000.0, 1e-6
BANNED = ("scaled_dot_product_attention", "rms_norm", "RMSNorm", "layer_norm",
          "MultiheadAttention", "multi_head_attention_forward", "nn", "flex_attention")


def random(seed, what, *shape, scale=1.0):
    """Normal numbers, others for each grading and purpose."""
    draws = torch.Generator().manual_seed(stream_seed(seed, "grade 2", what))
    return scale * torch.randn(shape, generator=draws)


# ---- what typical mistakes give, to name them ------------------------------------------------

def norm_mistakes(x, gain, eps):
    square = x.pow(2).mean(-1, keepdim=True)
    centred = x - x.mean(-1, keepdim=True)
    return {
        "this is LayerNorm: RMSNorm takes no mean away":
            centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain,
        "epsilon belongs inside the root": x / (square.sqrt() + eps) * gain,
        "the sum of squares, not their mean":
            x / (x.pow(2).sum(-1, keepdim=True) + eps).sqrt() * gain,
        "the gain is missing": x / (square + eps).sqrt(),
        "divided by the mean of squares, not by its root": x / (square + eps) * gain}


def rope_mistakes(x, positions, theta):
    tables = attention.rope_tables(int(positions.max()) + 1, x.shape[-1], theta)
    cos, sin = (table[positions, None] for table in tables)
    a, b = x[..., ::2], x[..., 1::2]
    low, high = x.chunk(2, dim=-1)
    from_0 = torch.arange(len(positions))
    return {
        "this equals the interleaved rotation: it pairs number 2i with 2i + 1, not i with i + D/2":
            torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2),
        "this turns the other way: the sine's sign": attention.rotate(x, cos, -sin),
        "positions are counted from 0, whatever `positions` says":
            lambda: library_rope(x, from_0, theta),
        "the second half is not turned": torch.cat((low * cos - high * sin, high), dim=-1),
        "positions count from 1": lambda: library_rope(x, positions + 1, theta)}


def attention_mistakes(q, k, v):
    group, width, steps = q.shape[1] // k.shape[1], q.shape[-1], q.shape[2]
    many = [x.repeat_interleave(group, dim=1) for x in (k, v)]
    scores = q @ many[0].mT
    seen = torch.ones(steps, steps, dtype=torch.bool).tril()

    def weights(scores, seen=seen):
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)

    return {
        "without a mask: every position sees the future": (scores / width ** 0.5).softmax(-1)
                                                          @ many[1],
        "masked after the softmax: the weights no longer sum to 1":
            (scores / width ** 0.5).softmax(-1).tril() @ many[1],
        "hidden scores are set to 0, which exp makes 1; -inf is asked for":
            (scores / width ** 0.5).tril().softmax(-1) @ many[1],
        "the scale 1 / sqrt(D) is missing": weights(scores) @ many[1],
        "scaled by 1 / D, not by 1 / sqrt(D)": weights(scores / width) @ many[1],
        "query heads take their key heads in turn (0, 1, 0, 1): consecutive ones share":
            attention.attention_reference(q, *(x.repeat(1, group, 1, 1) for x in (k, v)))}


# ---- the checks ------------------------------------------------------------------------------

def compare_norm(solution, x, gain, eps, on):
    close(solution.qk_norm(x, gain, eps), attention.head_norm(x, gain, eps), on,
          likely=norm_mistakes(x, gain, eps))


def norm_values(solution, seed):
    for shape in ((2, 5, 3, 8), (4, 16), (1, 1, 1, 2)):
        gain = 1 + random(seed, ("gain", shape), shape[-1], scale=0.3)
        compare_norm(solution, random(seed, shape, *shape, scale=3.0), gain, EPS, f"x {shape}")
    shifted = random(seed, "shifted", 3, 8) + 5               # the mean is not taken away
    compare_norm(solution, shifted, torch.ones(8), EPS, "x with a mean of 5")


def norm_epsilon(solution, seed):
    for x in (torch.zeros(2, 8), 1e-3 * random(seed, "small", 2, 8)):
        compare_norm(solution, x, torch.ones(8), 1e-2, "small x, eps = 0.01")


def library_rope(x, positions, theta=THETA):
    cos, sin = attention.rope_tables(int(positions.max()) + 1, x.shape[-1], theta)
    return attention.rotate(x, cos[positions, None], sin[positions, None])


def compare_rope(solution, x, positions, theta, on):
    close(solution.rope(x, positions, theta), library_rope(x, positions, theta), on,
          likely=rope_mistakes(x, positions, theta))


def rope_values(solution, seed):
    for heads, width, theta in ((2, 8, THETA), (1, 2, THETA), (3, 32, 100.0)):
        compare_rope(solution, random(seed, (heads, width), 2, 7, heads, width), torch.arange(7),
                     theta, f"H = {heads}, D = {width}, theta = {theta:g}")


def rope_positions(solution, seed):
    for positions in (torch.tensor([5, 6, 7]), torch.tensor([40, 3, 3]), torch.tensor([0])):
        x = random(seed, positions, 1, len(positions), 2, 8)
        compare_rope(solution, x, positions, THETA, f"positions {positions.tolist()}")


def rope_distance(solution, seed):
    q, k = random(seed, "q", 1, 1, 1, 16), random(seed, "k", 1, 1, 1, 16)

    def product(q_at, k_at):
        turned = (solution.rope(x, torch.tensor([at]), THETA) for x, at in ((q, q_at), (k, k_at)))
        return float(torch.mul(*turned).sum())

    products = [product(at + 4, at) for at in (0, 9, 50)]
    close(products[1:], [products[0]] * 2, "q.k at distance 4 in other places", 1e-4)
    require(abs(product(9, 0) - products[0]) > 1e-3, "another product at another distance",
            "the same one: nothing is turned")


def attend(solution, seed, heads, kv_heads, steps, scale=1.0):
    what = (heads, kv_heads, steps, scale)
    q = random(seed, ("q", what), 2, heads, steps, 8, scale=scale)
    k, v = (random(seed, (name, what), 2, kv_heads, steps, 8, scale=scale) for name in "kv")
    close(solution.causal_attention(q, k, v), attention.attention_reference(q, k, v),
          f"H = {heads}, Hkv = {kv_heads}, T = {steps}, numbers of size {scale:g}",
          likely=attention_mistakes(q, k, v))


def plain_values(solution, seed):
    for steps in (1, 2, 9):
        attend(solution, seed, 3, 3, steps)


def grouped(solution, seed):
    for sizes in ((4, 2, 6), (6, 1, 3), (6, 3, 3)):
        attend(solution, seed, *sizes)


def causality(solution, seed):
    q, k, v = (random(seed, f"causal {name}", 1, 2, 6, 8) for name in "qkv")
    before = solution.causal_attention(q, k, v)
    k, v = k.clone(), v.clone()
    k[:, :, -1], v[:, :, -1] = 50.0, 1e6
    moved = (solution.causal_attention(q, k, v) - before).abs().amax(dim=(0, 1, 3))
    require(bool((moved[:-1] == 0).all()), "outputs that do not move when a later key and value do",
            f"moves of {[round(float(m), 4) for m in moved[:-1]]}: is the mask applied before the "
            "softmax, with -inf?")
    require(float(moved[-1]) > 0, "a last output that sees itself", "one that does not: the mask "
            "hides the diagonal")


def large(solution, seed):
    attend(solution, seed, 2, 2, 7, scale=40.0)


def gradients(solution, seed):
    parts = [random(seed, f"gradient {name}", 1, 2, 5, 8) for name in "qkv"]
    weights = random(seed, "weights", 1, 2, 5, 8)
    _, came = solution.gradient("causal_attention", tuple(parts), [0, 1, 2], weights)
    inputs = [part.clone().requires_grad_() for part in parts]
    wanted = torch.autograd.grad((attention.attention_reference(*inputs) * weights).sum(), inputs)
    for name, a, b in zip("qkv", came, wanted, strict=True):
        close(a, b, f"gradient of {name}", likely={
            "no gradient reaches it: is something detached, or written in place?": b * 0})


def whole(solution, seed, heads, kv_heads, steps, gain_scale):
    qkv = random(seed, ("qkv", steps), 2, steps, (heads + 2 * kv_heads) * 8)
    q_gain, k_gain = (1 + random(seed, ("gain", name), 8, scale=gain_scale) for name in "qk")
    cos, sin = attention.rope_tables(steps, 8, THETA)
    q, k, v = attention.split_heads(qkv, heads, kv_heads)

    def formula(order=("norm", "rope"), turn=True, norm=True):
        parts = []
        for x, gain in ((q, q_gain), (k, k_gain)):
            for what in order:
                if what == "norm" and norm:
                    x = attention.head_norm(x, gain, EPS)
                if what == "rope" and turn:
                    x = attention.rotate(x, cos[:, None], sin[:, None])
            parts.append(x)
        out = attention.attention_reference(*(x.transpose(1, 2) for x in (*parts, v)))
        return out.transpose(1, 2).flatten(-2)

    wanted = attention.self_attention(qkv, q_gain, k_gain, cos, sin, n_heads=heads,
                                      n_kv_heads=kv_heads, eps=EPS, impl="reference")
    close(solution.self_attention(qkv, q_gain, k_gain, heads, kv_heads, THETA, EPS), wanted,
          f"H = {heads}, Hkv = {kv_heads}, T = {steps}", likely={
              "rotated before the norm and its gain: QK-norm comes first":
                  formula(("rope", "norm")),
              "nothing is rotated": formula(turn=False),
              "q and k are not normalised": formula(norm=False)})


def whole_plain(solution, seed):
    whole(solution, seed, 2, 2, 1, 0.0)
    whole(solution, seed, 3, 3, 9, 0.0)


def whole_grouped_with_gains(solution, seed):
    whole(solution, seed, 4, 2, 7, 0.5)


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
    raise SystemExit(grade(CHECKS, __file__, allowed=("torch",), banned=BANNED))
