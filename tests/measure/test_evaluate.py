"""Intervals and estimators against published values and plain counting."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.measure.evaluate import (
    accuracy_of,
    answer_of,
    evaluate,
    frozen_sets,
    judge,
    paired_bootstrap,
    pass_at_k,
    show,
    wilson,
)
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, Verdict, chain, split_of
from minireason.problems.frozen import load_frozen
from minireason.sampling import complete as completing
from minireason.sampling.complete import complete, prompt_ids
from minireason.sampling.sampler import Sampling

quick = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.mark.parametrize(("successes", "n", "low", "high"), [
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718)])
def test_wilson_against_published_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)      # four printed digits


@quick
@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_holds_its_proportion(n, share):
    k = round(share * n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1
    mirrored = wilson(n - k, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_no_problems_means_no_knowledge():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
    for right in range(n + 1):
        verdicts = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            every = [any(subset) for subset in combinations(verdicts, k)]
            assert pass_at_k(n, right, k) == pytest.approx(np.mean(every), abs=1e-12)


def test_pass_at_k_is_not_the_plug_in_estimate():
    """The trap: 1 - (1 - p)^k from the samples' own share is biased downwards."""
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6) and 1 - (1 - 2 / 4) ** 2 == 0.75


def test_pass_at_more_samples_than_drawn_is_refused():
    with pytest.raises(AssertionError, match="beyond the samples"):
        pass_at_k(4, 0, 5)


def test_bootstrap_interval_covers_the_truth_about_19_times_in_20():
    generator, hits, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        a, b = generator.random(60) < 0.7, generator.random(60) < 0.5
        _, low, high = paired_bootstrap(a, b, draws=400)
        hits += low <= 0.2 <= high
    # Percentile intervals of 60 pairs cover 93 to 95%; three deviations at 300 runs are 0.045.
    assert hits / runs == pytest.approx(0.94, abs=0.045)


def test_bootstrap_is_paired():
    """Values that move together differ by exactly their difference, whatever their spread."""
    a = np.random.default_rng(1).random(50)
    assert paired_bootstrap(a + 0.25, a) == pytest.approx((0.25, 0.25, 0.25), abs=1e-12)
    with pytest.raises(AssertionError):
        paired_bootstrap(np.zeros(3), np.zeros(4))


def test_bootstrap_repeats():
    a, b = np.random.default_rng(2).random((2, 40))
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)


def test_accuracy_counts_each_part_of_a_verdict():
    verdicts = [Verdict(True, True, True), Verdict(True, False, True), Verdict(False, False, True),
                Verdict(False, False, False)]
    result = accuracy_of(verdicts)
    assert (result.accuracy, result.n, result.steps_valid, result.well_formed) == (
        0.5, 4, 0.25, 0.75)
    assert (result.low, result.high) == wilson(2, 4)


def test_frozen_sets_are_the_first_n_of_the_split():
    sets = frozen_sets("chain", "test", 5, (2, 3))
    assert list(sets) == ["chain-test-k2", "chain-test-k3"]
    assert all(members == load_frozen(name)[:5] for name, members in sets.items())
    assert {split_of(p) for s in sets.values() for p in s} == {"test"}
    assert len(frozen_sets("chain", "test", 1)) == len(chain.LEVELS)


def test_prompts_end_with_the_opener_and_hints_stand_before_it():
    tokenizer, problem = Tokenizer.build(chain.TOKENS), chain.read("(2+3)")
    rows = [prompt_ids(tokenizer, [problem], "direct"), prompt_ids(tokenizer, [problem], "cot"),
            prompt_ids(tokenizer, [problem], "cot", hinted=True)]
    assert [tokenizer.decode(row[0]) for row in rows] == [
        "<bos>(2+3)=</think>", "<bos>(2+3)=<think>", "<bos>(2+3)=<hint>5<think>"]


def test_evaluate_reads_the_models_completions(monkeypatch):
    """A sampler that is right on some problems of each set scores just that, set by set."""
    sets = frozen_sets("chain", "test", 6, (1, 2))

    def half_right(model, tokenizer, ids, how, *_):
        problems = [FAMILIES["chain"].read(tokenizer.decode(row[1:-1])) for row in ids]
        right = [i % 2 and (p.level == 1 or i > 8) for i, p in enumerate(problems)]
        return [chain.render(p, "cot").removeprefix("<think>") if good else "<eos>"
                for p, good in zip(problems, right, strict=True)]

    monkeypatch.setattr(completing, "sample", half_right)
    tokenizer = Tokenizer.build(chain.TOKENS)
    report = evaluate(None, tokenizer, sets, "cot", Sampling(temperature=0))
    assert {name: (r["accuracy"], r["n"]) for name, r in report.items()} == {
        name: (share, 6) for name, share in zip(sets, (1 / 2, 1 / 3), strict=True)}
    text = show(None, tokenizer, sets["chain-test-k1"][:2], "cot", Sampling(temperature=0))
    assert text.count("[right") == text.count("[wrong") == 1


def test_answers_are_read_without_the_truth():
    problem = chain.read("(2+3)")
    assert answer_of(problem, "<think>2+3=6</think>6<eos>") == "6"
    assert answer_of(problem, "<think>2+3=6</think>6") is None


@pytest.mark.parametrize("n", [1, 3])
def test_two_ranks_draw_what_one_process_draws(ladder, monkeypatch, n):
    """A row's random numbers follow its problem, not its place on a rank."""
    from minireason.core import parallel
    from minireason.model import checkpoint
    torch.manual_seed(0)
    model, tokenizer = checkpoint.load(ladder / "sft")
    problems = frozen_sets("chain", "test", 5, (1,))["chain-test-k1"]
    how = Sampling(n=n, max_new=8, seed=3, chunk=4)
    whole = complete(model, tokenizer, problems, "cot", how)
    assert [len(texts) for texts in whole] == [n] * 5
    assert n == 1 or any(len(set(texts)) > 1 for texts in whole)     # samples of one prompt differ
    assert len(judge(problems, whole)) == 5
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(parallel, "world_size", lambda: 2)
        monkeypatch.setattr(parallel, "gather", lambda items: items)
        assert complete(model, tokenizer, problems, "cot", how) == whole[rank::2]
