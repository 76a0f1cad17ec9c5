"""The losses against plain sums, and their independence of how a batch is cut."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.model.transformer import ModelConfig, Transformer
from minireason.training.batches import micro_batches
from minireason.training.losses import gather_logprobs, nll, truncate_logits, value_bce

quick = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 2 ** 32)
# One float32 rounding is 6e-8 of a value; sums of some hundred terms of size 1..10 stay below this.
FLOAT32_SUM = 2e-5


def logits_of(seed: int, *shape: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@quick
@given(seeds, st.integers(1, 3), st.integers(1, 5), st.integers(2, 9))
def test_nll_is_the_plain_sum(seed, rows, length, vocab):
    logits = logits_of(seed, rows, length, vocab)
    targets = torch.randint(vocab, (rows, length))
    mask = torch.randint(2, (rows, length)).float()
    plain = 0.0
    for b in range(rows):
        for t in range(length):
            exps = [math.exp(x) for x in logits[b, t].tolist()]
            plain -= mask[b, t].item() * math.log(exps[targets[b, t]] / sum(exps))
    assert nll(logits, targets, mask, 7.0).item() == pytest.approx(plain / 7, abs=FLOAT32_SUM)
    summed = -(gather_logprobs(logits, targets) * mask).sum().item()
    assert summed == pytest.approx(plain, abs=FLOAT32_SUM)


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_value_bce_is_the_plain_sum(seed, rows, length):
    logits, labels = logits_of(seed, rows, length), torch.rand(rows, length)
    mask = torch.randint(2, (rows, length)).float()
    plain = 0.0
    for x, y, m in zip(logits.flatten().tolist(), labels.flatten().tolist(),
                       mask.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        plain -= m * (y * math.log(p) + (1 - y) * math.log(1 - p))
    assert value_bce(logits, labels, mask, 3.0).item() == pytest.approx(plain / 3, rel=1e-5,
                                                                        abs=FLOAT32_SUM)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        nll(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), torch.zeros(3), 1)
    with pytest.raises(AssertionError):
        value_bce(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1), 1)


def test_masked_targets_have_no_gradient():
    logits = logits_of(0, 2, 3, 5).requires_grad_()
    mask = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    nll(logits, torch.zeros(2, 3, dtype=torch.long), mask, 3).backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, mask > 0)


@pytest.mark.parametrize("budget", [10 ** 6, 40, 12, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_any_cut_into_micro_batches_leaves_the_gradient(budget, packed):
    """The trap: dividing by each micro-batch's own token count weighs short batches too high."""
    generator = torch.Generator().manual_seed(1)
    model = Transformer(ModelConfig(20, 16, 1, 2, 2, 8, 16, 32)).init_weights(generator).double()
    rows = [(torch.randint(20, (n,), generator=generator).tolist(), first)
            for n, first in ((4, 1), (9, 5), (3, 0), (12, 2), (5, 4), (9, 1))]

    def gradient(token_budget: int, packed: bool) -> list[torch.Tensor]:
        model.zero_grad()
        batches, count = micro_batches(rows, token_budget, pad=0, packed=packed)
        assert count == sum(int(b.loss_mask.sum()) for b in batches)
        for b in batches:
            nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets, b.loss_mask, count).backward()
        return [p.grad.clone() for p in model.parameters()]

    for a, b in zip(gradient(10 ** 6, False), gradient(budget, packed), strict=True):
        # The loss is taken in float32 (nll), the model is float64: float32's rounding remains.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@quick
@given(seeds, st.floats(0.2, 3), st.integers(0, 12), st.floats(0.05, 1))
def test_truncation_keeps_the_likeliest_tokens(seed, temperature, top_k, top_p):
    logits = logits_of(seed, 3, 10)
    kept = truncate_logits(logits, temperature, top_k, top_p)
    for before, after in zip(logits, kept, strict=True):
        alive = after > -math.inf
        assert 1 <= alive.sum() <= (top_k if 0 < top_k < 10 else 10)
        assert before[alive].min() >= before[~alive].max() if not alive.all() else True
        torch.testing.assert_close(after[alive], before[alive] / temperature)
        if top_k == 0:                          # the smallest set whose mass reaches top_p
            p = (before / temperature).softmax(0)
            mass = p[alive].sum().item()
            assert mass >= top_p - 1e-6                           # float32 sum of 10 terms
            assert mass - p[alive].min().item() < top_p + 1e-6


def test_truncation_at_its_ends():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert truncate_logits(logits, 0).softmax(-1).tolist() == [[0, 1, 0]]       # greedy
    assert truncate_logits(logits, 1e-3).softmax(-1).argmax() == 1
    assert torch.equal(truncate_logits(logits, 1.0), logits)                    # nothing cut
    assert truncate_logits(logits, 1.0, top_k=2).isinf().tolist() == [[True, False, False]]
    assert truncate_logits(logits, 1.0, top_p=0.01).isinf().tolist() == [[True, False, True]]
