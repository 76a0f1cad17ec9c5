"""Allocation: finds a known optimum, out of sample, and pays for what it looks at."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.search.allocate import (
    Allocation,
    Strategy,
    allocate,
    choose,
    difficulty_bins,
    efficiency,
    halves,
    rule_to_match,
    stop_when_decided,
    stop_when_sure,
)

PRICES = np.geomspace(1e-6, 1e-2, 60)


def strategies_of(correct, tokens) -> list[Strategy]:
    return [Strategy("s", i, c, t) for i, (c, t) in enumerate(zip(correct, tokens, strict=True))]


def known(n: int = 2000, seed: int = 0) -> tuple[list[Strategy], np.ndarray]:
    """Easy problems (ease 1) need one cheap sample, hard ones (ease 0) only yield to search."""
    generator = np.random.default_rng(seed)
    ease = np.arange(n) % 2
    chance = {"one": (0.1, 0.95), "many": (0.3, 0.96), "search": (0.9, 0.6)}
    cost = {"one": 50, "many": 3200, "search": 1600}
    correct = np.stack([generator.random(n) < np.where(ease == 1, easy, hard)
                        for hard, easy in chance.values()]).astype(float)
    tokens = np.stack([np.full(n, float(c)) for c in cost.values()])
    return strategies_of(correct, tokens), ease.astype(float)


def test_bins_are_equal_in_size_and_easiest_first():
    ease = np.array([0.1, 0.9, 0.5, 0.5, 0.0, 1.0, 0.7, 0.2, 0.3, 0.6])
    bins = difficulty_bins(ease, 5)
    assert np.bincount(bins).tolist() == [2] * 5
    assert bins.tolist() == [4, 0, 2, 2, 4, 0, 1, 3, 3, 1]
    assert difficulty_bins(np.zeros(10), 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_choose_weighs_accuracy_against_price():
    strategies, ease = known()
    bins, every = difficulty_bins(ease, 2), np.ones(len(ease), dtype=bool)
    assert choose(strategies, bins, every, 1e-4).tolist() == [0, 2]           # one; search
    assert choose(strategies, bins, every, 0.0)[1] == 2
    assert choose(strategies, bins, every, 1.0).tolist() == [0, 0]            # tokens are all
    assert choose(strategies, bins + 1, every, 1e-4).tolist()[1:] == [0, 2]   # bin 0 is empty


def test_allocation_beats_every_single_strategy_at_fewer_tokens():
    strategies, ease = known()
    bins, fold = difficulty_bins(ease, 2), halves(len(ease), np.random.default_rng(1))
    assert np.bincount(fold).tolist() == [1000, 1000]
    result = allocate(strategies, bins, fold, [1e-4])
    assert result.correct.mean() > max(s.correct.mean() for s in strategies) + 0.1
    assert result.tokens.mean() == pytest.approx((50 + 1600) / 2)
    matched = allocate(strategies, bins, fold, PRICES, strategies[1].correct)
    report = efficiency(strategies[1], matched, np.random.default_rng(2))
    assert report["factor"] == pytest.approx(3200 / 825)                 # the known optimum
    assert report["factor_low"] <= report["factor"] <= report["factor_high"]
    assert report["difference_low"] > 0


def test_match_takes_the_cheapest_that_reaches_the_target():
    n = 1000
    correct = np.stack([np.arange(n) % 10 < share for share in (4, 7, 9, 10)]).astype(float)
    tokens = np.array([[100.0], [200], [300], [400]]).repeat(n, axis=1)
    strategies = strategies_of(correct, tokens)
    bins, fold = np.zeros(n, dtype=int), np.arange(n) // 10 % 2
    for target in range(4):
        got = allocate(strategies, bins, fold, np.geomspace(1e-5, 1e-1, 200), correct[target])
        assert got.chosen == [[f"s {target}"]] * 2
        assert rule_to_match(strategies, fold, correct[target]).chosen == [[f"s {target}"]] * 2
    for beyond in (allocate(strategies, bins, fold, PRICES, np.full(n, 1.1)),
                   rule_to_match(strategies, fold, np.full(n, 1.1))):
        assert beyond.chosen == [["s 3"]] * 2                            # falls back to the best
    level = strategies_of(correct[[0, 1, 1, 3]], tokens[::-1])
    assert rule_to_match(level, fold, correct[1]).chosen == [["s 3"]] * 2   # cheaper and better


def test_choices_are_out_of_sample():
    """On noise, choosing on the scored problems would look good; crossing the halves does not."""
    generator = np.random.default_rng(3)
    n, strategies = 400, 200
    correct = (generator.random((strategies, n)) < 0.5).astype(float)
    noise = strategies_of(correct, np.ones((strategies, n)))
    bins, fold = difficulty_bins(generator.random(n)), halves(n, generator)
    inside = choose(noise, bins, np.ones(n, dtype=bool), 0.0)
    assert correct[inside[bins], np.arange(n)].mean() > 0.6
    assert abs(allocate(noise, bins, fold, [0.0]).correct.mean() - 0.5) < 0.1   # 4 standard errors


def test_stopping_when_sure():
    correct = np.array([[0, 1, 0], [0, 0, 1]])
    values = np.array([[0.3, 0.9, 0.95], [0.6, 0.2, 0.5]])
    tokens = np.array([[5, 6, 7], [5, 6, 7]])
    for threshold, right, spent in ((0.1, [0, 0], [5, 5]), (0.9, [1, 0], [11, 18]),
                                    (2.0, [0, 0], [18, 18])):
        got = stop_when_sure(correct, values, tokens, threshold)
        assert (got[0].tolist(), got[1].tolist()) == (right, spent)


def test_stopping_when_decided():
    answers = np.array([[0, 0, 1, 1], [1, 0, 0, 0], [-1, 1, 0, -1]])
    ones, tokens, right = np.ones((3, 4)), np.full((3, 4), 10.0), answers == 0
    assert [x.tolist() for x in stop_when_decided(answers, right, ones, tokens, 1.0)] == [
        [1, 0, 0], [10, 10, 20]]
    assert [x.tolist() for x in stop_when_decided(answers, right, ones, tokens, 2.0)] == [
        [1, 1, 0.5], [20, 40, 40]]
    every = stop_when_decided(answers, answers >= 0, ones, tokens, 1.0)     # all of them are right
    assert every[0].tolist() == [1, 1, 1]
    weights = np.array([[0.1, 0.1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert stop_when_decided(answers, right, weights, tokens, 9.0)[0].tolist() == [0, 1, 0.5]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10 ** 6), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_stricter_rule_never_stops_earlier(seed, low, high):
    generator = np.random.default_rng(seed)
    values = generator.random((20, 8))
    tokens = generator.integers(1, 60, (20, 8))
    answers = generator.integers(-1, 4, (20, 8))
    low, high = sorted((low, high))
    right = answers == 0
    assert (stop_when_sure(right, values, tokens, low)[1]
            <= stop_when_sure(right, values, tokens, high)[1]).all()
    early, late = (stop_when_decided(answers, right, values, tokens, 3 * m) for m in (low, high))
    assert (early[1] <= late[1]).all() and (late[1] <= tokens.sum(axis=1)).all()
    full = stop_when_sure(right, values, tokens, 2.0)
    assert (full[0] == right[np.arange(20), values.argmax(axis=1)]).all()
    assert (full[1] == tokens.sum(axis=1)).all()


def test_efficiency_of_the_same_thing_is_one():
    correct, tokens = np.array([1.0, 0, 1, 1]), np.array([10.0, 20, 30, 40])
    report = efficiency(Strategy("s", 0, correct, tokens),
                        Allocation(correct, tokens, []), np.random.default_rng(0))
    assert report["factor"] == report["factor_low"] == report["factor_high"] == 1
    assert report["difference"] == report["difference_low"] == report["difference_high"] == 0
