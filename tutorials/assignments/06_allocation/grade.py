"""Grades assignment 6 against minireason.search.allocate."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
from grading import Check, close, expect, grade

from minireason.core.config import rng
from minireason.search import allocate as library


def world(seed, size=5, n=60, bins=4):
    """Random results: later strategies cost more and are right more often."""
    generator = rng(seed, "grade 6")
    ease = generator.random(n)
    effort = np.linspace(0, 1, size)[:, None]
    chance = np.clip(ease + effort * (1 - ease) * generator.random((size, n)), 0, 1)
    correct = (generator.random((size, n)) < chance).astype(float)
    tokens = (10 * 4 ** np.arange(size)[:, None] * (0.5 + generator.random((size, n))))
    return correct, tokens.round(), ease, library.difficulty_bins(ease, bins), \
        library.halves(n, generator)


def strategies(correct, tokens):
    return [library.Strategy("strategy", i, c, t)
            for i, (c, t) in enumerate(zip(correct, tokens, strict=True))]


def same(came, wanted, on):
    expect(np.asarray(came).tolist(), np.asarray(wanted).tolist(), on)


def bins_values(solution):
    for seed in range(10):
        ease = rng(seed, "grade 6 bins").random(23)
        for bins in (1, 4, 5):
            same(solution.difficulty_bins(ease, bins), library.difficulty_bins(ease, bins),
                 f"23 problems in {bins} bins")
    same(solution.difficulty_bins(np.array([0.9, 0.1]), 2), [0, 1], "an easy and a hard problem")


def bins_ties(solution):
    for ease in ([0.5] * 6, [0, 0, 1, 1, 1], [1.0, 0.5, 0.5, 0.5, 0.0]):
        same(solution.difficulty_bins(np.array(ease), 3),
             library.difficulty_bins(np.array(ease), 3), f"ease {ease}, 3 bins")


def prices(solution):
    for seed in range(10):
        correct, tokens, _, bins, fold = world(seed)
        for price in (0.0, 1e-4, 1e-2, 1.0):
            same(solution.choose(correct, tokens, bins, fold == 0, price),
                 library.choose(strategies(correct, tokens), bins, fold == 0, price),
                 f"price {price:g}, seed {seed}")


def choice_ties(solution):
    correct = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    tokens = np.array([[30.0] * 4, [10] * 4, [20] * 4])
    bins, used = np.array([0, 0, 1, 1]), np.ones(4, dtype=bool)
    same(solution.choose(correct, tokens, bins, used, 0.0), [1, 1],
         "three strategies of equal accuracy with 30, 10 and 20 tokens, price 0")


def empty_bins(solution):
    correct = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    tokens = np.array([[1.0] * 4, [5] * 4])
    used = np.array([True, True, False, True])
    for bins in ([0, 0, 1, 0], [0, 1, 2, 1]):
        same(solution.choose(correct, tokens, np.array(bins), used, 0.0),
             library.choose(strategies(correct, tokens), np.array(bins), used, 0.0),
             f"bins {bins}, of which one has no used problem")


def only_used(solution):
    for seed in range(5):
        correct, tokens, _, bins, fold = world(seed)
        before = solution.choose(correct, tokens, bins, fold == 0, 1e-3)
        changed = np.where(fold == 0, correct, 1 - correct)
        same(solution.choose(changed, tokens, bins, fold == 0, 1e-3), before,
             "choices after a change of results that may not be looked at")
        wanted = library.choose(strategies(correct, tokens), bins, fold == 0, 1e-3)
        same(before, wanted, "the choices")


def folds(solution):
    for seed in range(10):
        correct, tokens, _, bins, fold = world(seed)
        for price in (0.0, 1e-3):
            wanted = library.allocate(strategies(correct, tokens), bins, fold, [price])
            came = solution.allocate(correct, tokens, bins, fold, price)
            close(came[0], wanted.correct, f"price {price:g}, seed {seed}: correct")
            close(came[1], wanted.tokens, f"price {price:g}, seed {seed}: tokens")


def no_peeking(solution):
    """Results of pure chance: who looks at what it is scored on finds more than there is."""
    generator = rng(0, "grade 6 chance")
    n, size = 200, 40
    correct = (generator.random((size, n)) < 0.5).astype(float)
    tokens, bins, fold = np.ones((size, n)), np.arange(n) % 20, library.halves(n, generator)
    came = float(np.mean(solution.allocate(correct, tokens, bins, fold, 0.0)[0]))
    wanted = float(library.allocate(strategies(correct, tokens), bins, fold, [0.0]).correct.mean())
    close(came, wanted, "accuracy where every strategy guesses a coin")


def uneven(solution):
    correct, tokens, _, bins, _ = world(3)
    fold = (np.arange(60) < 10).astype(int)
    wanted = library.allocate(strategies(correct, tokens), bins, fold, [1e-3])
    close(solution.allocate(correct, tokens, bins, fold, 1e-3)[1], wanted.tokens,
          "folds of 50 and 10 problems")


def factor(solution, part):
    for seed in range(5):
        correct, tokens, _, bins, fold = world(seed)
        allocation = library.allocate(strategies(correct, tokens), bins, fold, [1e-3])
        reference = strategies(correct, tokens)[-1]
        wanted = library.efficiency(reference, allocation, rng(seed, "grade 6 rows"), draws=400)
        rows = rng(seed, "grade 6 rows").integers(0, 60, (400, 60))
        came = solution.saved(tokens[-1], allocation.tokens, rows)
        close(came[part], wanted[("factor", "factor_low", "factor_high")[part]],
              f"seed {seed}: {('factor', 'low', 'high')[part]}")


def value(solution):
    factor(solution, 0)


def interval(solution):
    factor(solution, 1)
    factor(solution, 2)


CHECKS = [
    Check("difficulty_bins: sizes and direction", 2, bins_values),
    Check("difficulty_bins: ties", 2, bins_ties),
    Check("choose: the price of tokens", 2, prices),
    Check("choose: ties go to the cheaper", 1, choice_ties),
    Check("choose: empty bins", 1, empty_bins),
    Check("choose: looks at used problems only", 2, only_used),
    Check("allocate: values", 3, folds),
    Check("allocate: chance stays chance", 2, no_peeking),
    Check("allocate: uneven folds", 1, uneven),
    Check("saved: the factor", 2, value),
    Check("saved: its interval", 2, interval),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__))
