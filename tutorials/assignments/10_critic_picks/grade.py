"""Grades the functions of assignment 10; the report is read by a person, by README's rubric."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
from grading import Check, close, expect, grade

from minireason.core.config import rng


def pairs(values, right):
    """AUC by its definition; (share of wins, of ties)."""
    good, bad = values[right == 1], values[right == 0]
    if not len(good) or not len(bad):
        return 0.5, 0.0
    return (good[:, None] > bad).mean(), (good[:, None] == bad).mean()


def compare_auc(solution, values, right, on):
    wins, ties = pairs(values, right)
    wanted = wins + ties / 2
    close(solution.auc(values, right), wanted, on, likely={
        "ties count half": wins, "ties count half, not whole": wins + ties,
        "the wrong way round: right samples score higher": 1 - wanted,
        "this is the share of right samples": right.mean()})


def auc_values(solution, seed):
    generator = rng(seed, "grade 10 auc")
    for n in (2, 7, 40):
        for _ in range(5):
            right = (generator.random(n) < 0.5).astype(int)
            compare_auc(solution, generator.random(n), right, f"{n} samples")
            compare_auc(solution, generator.integers(0, 4, n) / 4, right, f"{n} samples with ties")
    for right in (np.zeros(5, int), np.ones(5, int)):
        compare_auc(solution, generator.random(5), right, "samples of one kind")


def auc_large(solution, seed):
    generator = rng(seed, "grade 10 large")
    right = (generator.random(10_000) < 0.3).astype(int)
    compare_auc(solution, (generator.random(10_000) + 0.2 * right).round(3), right,
                "10,000 samples")


def right_error(values, right, bins, weigh=True, square=False):
    at = np.minimum((values * bins).astype(int), bins - 1)
    gaps = [(abs(values[at == b].mean() - right[at == b].mean()), (at == b).mean())
            for b in range(bins) if (at == b).any()]
    if square:
        return float(np.sqrt(sum(gap ** 2 * share for gap, share in gaps)))
    return float(sum(g * s for g, s in gaps) if weigh else np.mean([gap for gap, _ in gaps]))


def compare_error(solution, values, right, bins, on):
    close(solution.calibration_error(values, right, bins), right_error(values, right, bins), on,
          likely={
              "bins count by their samples, not alike": right_error(values, right, bins, False),
              "the absolute gap, not its square": right_error(values, right, bins, square=True),
              "this is one bin for all": right_error(values, right, 1),
              "this is the mean of |value - right|, the gap of single samples":
                  float(np.abs(values - right).mean())})


def calibration(solution, seed):
    generator = rng(seed, "grade 10 calibration")
    for bins in (1, 5, 10):
        for n in (3, 50, 400):
            values = generator.random(n)
            # gaps of both signs: with one sign alone the bins cancel out
            right = (generator.random(n) < 1 - values).astype(int)
            compare_error(solution, values, right, bins, f"{n} samples, {bins} bins")


def calibration_edges(solution, seed):
    values = np.array([0.0, 0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    right = np.array([0, 1, 0, 1, 0, 1, 1, 0])
    compare_error(solution, values, right, 5, "values on the edges of bins, 1.0 among them")
    compare_error(solution, np.array([0.9, 0.95]), np.array([1, 0]), 10, "nine empty bins")


def picked(answers, values, how):
    """The index by the definition."""
    voting = [i for i, answer in enumerate(answers) if answer is not None]
    if not voting:
        return None
    if how == "first":
        return voting[0]
    if how == "best":
        return max(voting, key=lambda i: values[i])
    sums = {}
    for i in voting:
        sums[answers[i]] = sums.get(answers[i], 0.0) + (1 if how == "majority" else values[i])
    most = max(sums.values())
    return answers.index(next(a for a in sums if sums[a] >= most - 1e-9))


def picks(how):
    def check(solution, seed):
        generator = rng(seed, "grade 10 pick", how)
        cases = [([], []), ([None, None], [0.9, 0.1]), ([None, "4"], [0.9, 0.1]),
                 (["3", "4"], [0.5, 0.5]), (["3", "4", "4", "3"], [0.2, 0.3, 0.1, 0.2]),
                 (["3", "4", "4", "4"], [0.3, 0.1, 0.1, 0.1])]
        for _ in range(200):
            n = int(generator.integers(1, 9))
            answers = [None if a == 4 else str(a) for a in generator.integers(0, 5, n)]
            cases.append((answers, generator.random(n).round(1).tolist()))
        found = solution.all("pick", [(*case, how) for case in cases])
        for (answers, values), came in zip(cases, found, strict=True):
            every = {rule: picked(answers, values, rule)
                     for rule in ("first", "best", "majority", "weighted") if rule != how}
            with_none = ["none" if a is None else a for a in answers]
            expect(came, picked(answers, values, how), f"{how}, {answers}, {values}", {
                "a sample without an answer has no vote": picked(with_none, values, how),
                **{f"this is {rule}": index for rule, index in every.items()}})
    return check


def gaps(solution, seed):
    generator = rng(seed, "grade 10 closed")
    for n in (20, 80):
        first = (generator.random(n) < 0.4).astype(float)
        oracle = np.maximum(first, generator.random(n) < 0.5)
        some = np.where(generator.random(n) < 0.6, oracle, first)
        rows = generator.integers(0, n, (500, n))

        def share(picked, at, first=first, oracle=oracle):
            return ((picked[at].mean(-1) - first[at].mean(-1))
                    / (oracle[at].mean(-1) - first[at].mean(-1)))

        wanted = (share(some, np.arange(n)), *np.quantile(share(some, rows), (0.025, 0.975)))
        close(solution.closed(some, first, oracle, rows), wanted, f"{n} problems", likely={
            "this is the gain in accuracy, not its share of the gap": (
                (some - first).mean(),
                *np.quantile((some - first)[rows].mean(1), (0.025, 0.975))),
            "the share of the oracle's accuracy, not of the gap": (
                some.mean() / oracle.mean(),
                *np.quantile(some[rows].mean(1) / oracle[rows].mean(1), (0.025, 0.975))),
            "each draw must be used for all three means": (wanted[0], *np.quantile(
                (some[rows].mean(1) - first.mean()) / (oracle.mean() - first.mean()),
                (0.025, 0.975)))})


def no_gap(solution, seed):
    same = np.array([1.0, 0, 1, 0])
    rows = np.array([[0, 1, 2, 3], [0, 0, 1, 1]])
    close(solution.closed(same, same, same, rows), (0, 0, 0), "no gap at all")
    first, oracle = np.array([0.0, 1, 1]), np.array([1.0, 1, 1])
    close(solution.closed(oracle, first, oracle, np.array([[1, 1, 2], [0, 1, 2], [0, 0, 2]])),
          (1, 1, 1), "a draw without a gap")


CHECKS = [
    Check("auc: pairs, ties, one kind", 1, auc_values),
    Check("auc: 10,000 samples", 1, auc_large),
    Check("calibration_error: values", 1, calibration),
    Check("calibration_error: edges and empty bins", 1, calibration_edges),
    Check("pick: first", 1, picks("first")),
    Check("pick: best", 1, picks("best")),
    Check("pick: majority", 1, picks("majority")),
    Check("pick: weighted", 1, picks("weighted")),
    Check("closed: the share and its interval", 1, gaps),
    Check("closed: no gap", 1, no_gap),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__, allowed=("numpy",)))
