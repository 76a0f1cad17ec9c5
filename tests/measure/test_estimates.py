"""Estimators over N samples against enumeration of every subset."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.core.config import rng
from minireason.measure.estimates import best_of_n, vote, vote_at
from minireason.measure.evaluate import pass_at_k

quick = settings(max_examples=80, deadline=None, derandomize=True)
SUM = 1e-12                               # float64 rounding of some hundred terms of size 1
samples = st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.9])),
                   min_size=1, max_size=8)


def plain_best(correct, scores) -> float:
    """The top-scored sample's verdict; ties share."""
    top = [c for c, s in zip(correct, scores, strict=True) if s == max(scores)]
    return sum(top) / len(top)


@quick
@given(samples)
def test_best_of_n_is_the_mean_over_all_subsets(pairs):
    correct, scores = (np.array(x) for x in zip(*pairs, strict=True))
    for n in range(1, len(pairs) + 1):
        subsets = list(combinations(range(len(pairs)), n))
        plain = np.mean([plain_best(correct[list(s)], scores[list(s)]) for s in subsets])
        assert best_of_n(correct, scores, n) == pytest.approx(plain, abs=SUM)


@quick
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_oracle_critic_is_coverage_and_constant_critic_is_the_mean(correct):
    correct = np.array(correct)
    for n in range(1, len(correct) + 1):
        oracle = best_of_n(correct, correct.astype(float), n)
        assert oracle == pytest.approx(pass_at_k(len(correct), int(correct.sum()), n), abs=SUM)
        constant = best_of_n(correct, np.full(len(correct), 0.3), n)
        assert constant == pytest.approx(correct.mean(), abs=SUM)


def test_more_samples_than_drawn_are_refused():
    with pytest.raises(AssertionError, match="beyond the samples"):
        best_of_n(np.array([True]), np.array([1.0]), 2)


@quick
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 4)), min_size=1, max_size=8),
       st.integers(0, 3))
def test_vote_is_the_heaviest_answer(pairs, right):
    answers, weights = (np.array(x) for x in zip(*pairs, strict=True))
    mass = {a: sum(w for b, w in pairs if b == a) for a in set(answers.tolist()) - {-1}}
    winners = [a for a, m in mass.items() if m == max(mass.values())]
    plain = (right in winners) / len(winners) if winners else 0.0
    assert vote(answers, weights.astype(float), right) == pytest.approx(plain, abs=SUM)


def test_votes_without_an_answer_do_not_count():
    assert vote(np.array([-1, -1, -1, 0]), np.ones(4), 0) == 1.0
    assert vote(np.array([-1, -1]), np.ones(2), 0) == 0.0


@pytest.mark.parametrize("answers", list(product([0, 1, -1], repeat=4))[::7])
def test_vote_at_is_unbiased(answers):
    answers, weights = np.array(answers), np.array([0.4, 0.3, 0.2, 0.1])
    for n in (1, 2, 3, 4):
        every = [vote(answers[list(s)], weights[list(s)], 0) for s in combinations(range(4), n)]
        estimate = vote_at(answers, weights, 0, n, rng(0, "vote"), subsets=800)
        # Four standard errors of a mean of 800 values in [0, 1] are at most 0.071.
        assert estimate == pytest.approx(np.mean(every), abs=0.071)
        if n == 4:
            assert estimate == every[0]


def test_one_vote_is_the_mean():
    answers = np.array([0, 1, 2, 0, -1])
    assert vote_at(answers, np.ones(5), 0, 1, rng(0), 4000) == pytest.approx(0.4, abs=0.031)
