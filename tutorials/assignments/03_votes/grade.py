"""Grades assignment 3 against minireason.measure.estimates and minireason.search.vote."""

import math
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
from grading import Check, close, expect, grade

from minireason.core.config import rng
from minireason.measure.estimates import best_of_n, pass_at_k, votes
from minireason.search.vote import agreement


def compare_pass(solution, cases, wanted):
    """cases: (n, correct, k)."""
    for (n, c, k), came, want in zip(cases, solution.all("pass_at_k", cases), wanted, strict=True):
        close(came, want, f"n = {n}, c = {c}, k = {k}", likely={
            "this is 1 - (1 - c/n)^k, which draws with replacement: it is biased":
                1 - (1 - c / n) ** k,
            "this is the chance that ONE sample is right": c / n,
            "this is the chance that ALL k samples are right": math.comb(c, k) / math.comb(n, k),
            "this is the chance that NO sample is right": 1 - want})


def pass_subsets(solution, seed):
    cases = [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]
    wanted = [np.mean([(np.arange(n) < c)[list(s)].any() for s in combinations(range(n), k)])
              for n, c, k in cases]
    compare_pass(solution, cases, wanted)


def pass_large(solution, seed):
    draws = rng(seed, "grade 3 large").integers(1, 9, 4).tolist()
    cases = [(64, draws[0], 32), (1000 + draws[1], draws[0], 500), (5000, draws[2], 2500),
             (10_000, draws[3], 1)]
    compare_pass(solution, cases, [pass_at_k(*case) for case in cases])


def pass_certain(solution, seed):
    cases = [(5, 0, 5), (5, 5, 1), (5, 1, 5), (5, 3, 3), (64, 64, 64)]
    compare_pass(solution, cases, [pass_at_k(*case) for case in cases])


def wanted_majority(answers):
    return next((a for a, good in zip(answers, agreement(answers), strict=True) if good), None)


def compare_majority(solution, cases):
    found = solution.all("majority", [(answers,) for answers in cases])
    for answers, came in zip(cases, found, strict=True):
        counted = Counter(a for a in answers if a is not None)
        expect(came, wanted_majority(answers), f"{answers}", {
            "a sample without an answer has no vote":
                Counter(answers).most_common(1)[0][0] if answers else None,
            "of equally frequent answers the first wins, not the last":
                max(counted, key=lambda a: (counted[a], answers.index(a)), default=None),
            "of equally frequent answers the first to come wins, not the first by name":
                min(counted, key=lambda a: (-counted[a], a), default=None)})


def plain_majority(solution, seed):
    generator = rng(seed, "grade 3", 0)
    compare_majority(solution, [[str(a) for a in generator.integers(0, 4, 9)] for _ in range(100)])


def ties(solution, seed):
    compare_majority(solution, [["7", "3"], ["3", "7"], ["9", "1", "1", "9"],
                                ["5", "20", "20", "5", "3"]])


def no_answer(solution, seed):
    compare_majority(solution, [[], [None], [None, None, "4"], [None, "4", None, "4", None],
                                ["", None]])


def vote(*columns):
    """The credit of one vote."""
    return float(votes(*(np.array(column)[None] for column in columns))[0])


def credit(solution, answers, weights, right=0):
    answers, weights = np.array(answers), np.array(weights, dtype=float)
    ids = np.unique(answers[answers >= 0])
    sums = np.array([weights[answers == a].sum() for a in ids])
    first = float(len(ids) > 0 and ids[sums.argmax()] == right) if len(ids) else 0.0
    voted = answers == right
    close(solution.weighted_vote(answers, weights, right), vote(answers, weights, voted),
          f"answers {answers.tolist()}, weights {weights.round(3).tolist()}, right {right}",
          likely={
              "heads are counted, not weights": vote(answers, np.ones(len(weights)), voted),
              "-1 is no answer and has no vote": vote(answers + 1, weights, voted),
              "of tied answers the first takes all; they share 1 / m": first,
              "this is the share of the weights, not of the win":
                  float(weights[voted].sum() / weights.sum())})


def weights_count(solution, seed):
    generator = rng(seed, "grade 3", 1)
    for _ in range(200):
        credit(solution, generator.integers(0, 4, 8), generator.random(8),
               int(generator.integers(0, 4)))
    credit(solution, [0, 1, 1], [0.9, 0.3, 0.3])
    credit(solution, [1, 1, 0], [0.1, 0.1, 0.9])


def vote_ties(solution, seed):
    credit(solution, [0, 1], [1, 1])
    credit(solution, [2, 1, 0], [1, 1, 1])
    credit(solution, [0, 1, 1, 1], [0.3, 0.1, 0.1, 0.1])          # 0.1 + 0.1 + 0.1 > 0.3 in floats
    credit(solution, [0, 1, 2, 2], [1, 1, 1, 1])


def vote_without(solution, seed):
    credit(solution, [-1, -1, -1], [1, 1, 1])
    credit(solution, [-1, -1, 0], [1, 1, 0.5])
    credit(solution, [-1, -1, 2, 0], [5, 5, 0.2, 0.1])
    credit(solution, [1, 1], [1, 1], right=7)


def by_subsets(correct, scores, n):
    """The definition: every subset, ties shared among all samples of the winning score."""
    total = []
    for subset in combinations(range(len(correct)), n):
        highest = max(scores[i] for i in subset)
        total.append(np.mean([correct[i] for i in range(len(correct)) if scores[i] == highest]))
    return np.mean(total)


def compare_best(solution, correct, scores, n, wanted, on):
    first = best_of_n(correct, scores - 1e-9 * np.arange(len(scores)), n)
    close(solution.best_of_n(correct, scores, n), wanted, on, likely={
        "of equal scores the first takes all; all samples of that score share": first,
        "this is the best of ALL samples; n of them are drawn":
            correct[scores == scores.max()].mean(),
        "this is pass@n, an oracle's choice": pass_at_k(len(correct), int(correct.sum()), n),
        "this is the share of right samples: the scores do not count": correct.mean(),
        "the LOWEST score wins": lambda: best_of_n(correct, -scores, n)})


def best_subsets(solution, seed):
    generator = rng(seed, "grade 3", 2)
    for _ in range(60):
        size = int(generator.integers(1, 8))
        n = int(generator.integers(1, size + 1))
        correct, scores = generator.integers(0, 2, size), generator.random(size)
        compare_best(solution, correct, scores, n, by_subsets(correct, scores, n),
                     f"correct {correct.tolist()}, scores {scores.round(2).tolist()}, n = {n}")


def best_ties(solution, seed):
    generator = rng(seed, "grade 3", 3)
    for _ in range(60):
        size = int(generator.integers(2, 8))
        n = int(generator.integers(1, size + 1))
        correct = generator.integers(0, 2, size)
        scores = generator.integers(0, 3, size) / 2
        compare_best(solution, correct, scores, n, by_subsets(correct, scores, n),
                     f"correct {correct.tolist()}, scores {scores.tolist()}, n = {n}")


def best_bounds(solution, seed):
    generator = rng(seed, "grade 3", 4)
    for n in (1, 8, 32, 64):
        correct = (generator.random(64) < 0.3).astype(int)
        compare_best(solution, correct, correct.astype(float), n,
                     pass_at_k(64, int(correct.sum()), n), f"an oracle's scores, S = 64, n = {n}")
        compare_best(solution, correct, np.full(64, 0.5), n, correct.mean(),
                     f"a constant score, S = 64, n = {n}")
        scores = generator.random(64)
        compare_best(solution, correct, scores, n, best_of_n(correct, scores, n),
                     f"random scores, S = 64, n = {n}")


CHECKS = [
    Check("pass_at_k: all subsets", 2, pass_subsets),
    Check("pass_at_k: many samples", 2, pass_large),
    Check("pass_at_k: certain cases", 1, pass_certain),
    Check("majority: votes", 1, plain_majority),
    Check("majority: ties", 1, ties),
    Check("majority: samples without an answer", 2, no_answer),
    Check("weighted_vote: weights", 2, weights_count),
    Check("weighted_vote: ties", 2, vote_ties),
    Check("weighted_vote: samples without an answer", 1, vote_without),
    Check("best_of_n: all subsets", 2, best_subsets),
    Check("best_of_n: ties", 2, best_ties),
    Check("best_of_n: 64 samples, an oracle, a constant", 2, best_bounds),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__, allowed=("numpy",)))
