"""Grades assignment 6 against minireason.search.allocate."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
from grading import Check, close, expect, grade, require

from minireason.core.config import rng
from minireason.search import allocate as library


def world(seed, size=5, n=60, bins=4):
    """Random results: later strategies cost more and are right more often."""
    generator = rng(*seed, "grade 6")
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


def same(came, wanted, on, likely=None):
    def listed(value):
        return np.asarray(value).tolist()

    expect(listed(came), listed(wanted), on,
           {why: listed(value() if callable(value) else value)
            for why, value in (likely or {}).items()})


def compare_bins(solution, ease, bins, on):
    ease = np.asarray(ease, dtype=float)
    n, order = len(ease), np.argsort(ease, kind="stable")
    hard_first, by_rank_ties = np.empty(n, dtype=int), np.empty(n, dtype=int)
    hard_first[order] = np.arange(n) * bins // n
    by_rank_ties[order[::-1]] = np.arange(n) * bins // n
    same(solution.difficulty_bins(ease, bins), library.difficulty_bins(ease, bins), on, {
        "bin 0 holds the easiest, not the hardest": hard_first,
        "bins of equal size by rank, not of equal width":
            np.minimum(((1 - ease) * bins).astype(int), bins - 1),
        "ties stand in their order: a reversed sort turns them around": by_rank_ties})


def bins_values(solution, seed):
    for i in range(10):
        ease = rng(seed, "grade 6 bins", i).random(23)
        for bins in (1, 4, 5):
            compare_bins(solution, ease, bins, f"23 problems in {bins} bins")
    compare_bins(solution, [0.9, 0.1], 2, "an easy and a hard problem")


def bins_ties(solution, seed):
    for ease in ([0.5] * 6, [0, 0, 1, 1, 1], [1.0, 0.5, 0.5, 0.5, 0.0]):
        compare_bins(solution, ease, 3, f"ease {ease}, 3 bins")


def compare_choice(solution, correct, tokens, bins, used, price, on):
    everything = np.ones(len(bins), dtype=bool)
    wanted = library.choose(strategies(correct, tokens), bins, used, price)
    empty = np.array([not (used & (bins == b)).any() for b in range(bins.max() + 1)])
    worth = correct - price * tokens
    first = np.array([worth[:, m if (m := used & (bins == b)).any() else used].mean(1).argmax()
                      for b in range(bins.max() + 1)])
    same(solution.choose(correct, tokens, bins, used, price), wanted, on, {
        "an empty bin takes what is best on all used problems, not strategy 0":
            np.where(empty, 0, wanted),
        "problems that are not used were looked at":
            library.choose(strategies(correct, tokens), bins, everything, price),
        "tokens cost nothing here: worth is correct - price * tokens":
            library.choose(strategies(correct, tokens), bins, used, 0.0),
        "of equally good strategies the cheapest, not the first": first,
        "one strategy for all bins": lambda: np.full(len(wanted), library.choose(
            strategies(correct, tokens), np.zeros(len(bins), dtype=int), used, price)[0])})


def prices(solution, seed):
    for i in range(10):
        correct, tokens, _, bins, fold = world((seed, i))
        for price in (0.0, 1e-4, 1e-2, 1.0):
            compare_choice(solution, correct, tokens, bins, fold == 0, price,
                           f"price {price:g}, case {i}")


def choice_ties(solution, seed):
    correct = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    tokens = np.array([[30.0] * 4, [10] * 4, [20] * 4])
    bins, used = np.array([0, 0, 1, 1]), np.ones(4, dtype=bool)
    compare_choice(solution, correct, tokens, bins, used, 0.0,
                   "three strategies of equal accuracy with 30, 10 and 20 tokens, price 0")


def empty_bins(solution, seed):
    used = np.array([True, True, False, True])
    for best in (0, 1, 2):                     # what is best on all used problems
        order = np.roll(np.arange(3), best)
        correct = np.array([[1.0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]])[np.argsort(order)]
        tokens = np.array([[1.0] * 4, [5] * 4, [9] * 4])
        for bins in ([0, 0, 1, 0], [0, 1, 2, 1]):
            compare_choice(solution, correct, tokens, np.array(bins), used, 0.0,
                           f"bins {bins}, of which one has no used problem")
    for i in range(5):
        correct, tokens, _, bins, fold = world((seed, i))
        compare_choice(solution, correct, tokens, bins, (fold == 0) & (bins != i % 4), 1e-3,
                       f"bin {i % 4} without a used problem, case {i}")


def only_used(solution, seed):
    for i in range(5):
        correct, tokens, _, bins, fold = world((seed, i))
        before = solution.choose(correct, tokens, bins, fold == 0, 1e-3)
        changed = np.where(fold == 0, correct, 1 - correct)
        same(solution.choose(changed, tokens, bins, fold == 0, 1e-3), before,
             "choices after a change of results that may not be looked at")
        compare_choice(solution, correct, tokens, bins, fold == 0, 1e-3, "the choices")


def compare_allocation(solution, correct, tokens, bins, fold, price, on):
    wanted = library.allocate(strategies(correct, tokens), bins, fold, [price])
    came = solution.allocate(correct, tokens, bins, fold, price)
    require(isinstance(came, tuple) and len(came) == 2, "a pair (correct, tokens)", f"{came!r}")
    peeking = library.allocate(strategies(correct, tokens), bins, 1 - fold, [price])
    choices = [library.choose(strategies(correct, tokens), bins, fold == f, price) for f in (0, 1)]
    strategy = np.stack(choices)[fold, bins]
    same_fold = (correct[strategy, np.arange(len(bins))], tokens[strategy, np.arange(len(bins))])
    everything = library.choose(strategies(correct, tokens), bins,
                                np.ones(len(bins), dtype=bool), price)[bins]
    for part, name in enumerate(("correct", "tokens")):
        close(came[part], (wanted.correct, wanted.tokens)[part], f"{on}: {name}", likely={
            "each fold is answered by what was chosen on itself; it must be the other one":
                same_fold[part],
            "the choice looked at all problems, those it is scored on too":
                (correct, tokens)[part][everything, np.arange(len(bins))],
            "the means were returned, one number for each problem is asked for":
                np.full(len(bins), (peeking.correct, peeking.tokens)[part].mean())})


def folds(solution, seed):
    for i in range(10):
        correct, tokens, _, bins, fold = world((seed, i))
        for price in (0.0, 1e-3):
            compare_allocation(solution, correct, tokens, bins, fold, price,
                               f"price {price:g}, case {i}")


def no_peeking(solution, seed):
    """Results of pure chance: who looks at what it is scored on finds more than there is."""
    generator = rng(seed, "grade 6 chance")
    n, size = 200, 40
    correct = (generator.random((size, n)) < 0.5).astype(float)
    tokens, bins, fold = np.ones((size, n)), np.arange(n) % 20, library.halves(n, generator)
    came = float(np.mean(solution.allocate(correct, tokens, bins, fold, 0.0)[0]))
    wanted = float(library.allocate(strategies(correct, tokens), bins, fold, [0.0]).correct.mean())
    close(came, wanted, "accuracy where every strategy guesses a coin")


def uneven(solution, seed):
    correct, tokens, _, bins, _ = world((seed, "uneven"))
    fold = (np.arange(60) < 10).astype(int)
    compare_allocation(solution, correct, tokens, bins, fold, 1e-3, "folds of 50 and 10 problems")


def factor(solution, parts, seed):
    for i in range(5):
        correct, tokens, _, bins, fold = world((seed, i))
        spent = library.allocate(strategies(correct, tokens), bins, fold, [1e-3]).tokens
        reference = tokens[-1]
        rows = rng(seed, "grade 6 rows", i).integers(0, 60, (400, 60))
        factors = reference[rows].mean(axis=1) / spent[rows].mean(axis=1)
        wanted = (reference.mean() / spent.mean(), *np.quantile(factors, (0.025, 0.975)))
        ratios = reference / spent
        swapped = spent[rows].mean(axis=1) / reference[rows].mean(axis=1)
        apart = reference[rows].mean(axis=1) / spent[rows[::-1]].mean(axis=1)
        came = solution.saved(reference, spent, rows)
        require(isinstance(came, tuple) and len(came) == 3, "three numbers", f"{came!r}")
        for part in parts:
            close(came[part], wanted[part], f"case {i}: {('factor', 'low', 'high')[part]}", likely={
                "a mean of ratios; the ratio of means is asked for": (
                    ratios.mean(), *np.quantile(ratios[rows].mean(axis=1), (0.025, 0.975)))[part],
                "upside down": (1 / wanted[0], *np.quantile(swapped, (0.025, 0.975)))[part],
                "both means must be over the same drawn problems":
                    (None, *np.quantile(apart, (0.025, 0.975)))[part] or 0.0,
                "these are the 5% and 95% quantiles":
                    (0.0, *np.quantile(factors, (0.05, 0.95)))[part],
                "this is the whole range, not the middle 95%":
                    (0.0, factors.min(), factors.max())[part]})


def value(solution, seed):
    factor(solution, (0,), seed)


def interval(solution, seed):
    factor(solution, (1, 2), seed)


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
    raise SystemExit(grade(CHECKS, __file__, allowed=("numpy",)))
