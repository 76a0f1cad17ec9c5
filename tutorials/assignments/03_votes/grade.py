"""Grades assignment 3 against minireason.measure.estimates and minireason.search.vote."""

import sys
from itertools import combinations
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
from grading import Check, close, expect, grade

from minireason.core.config import rng
from minireason.measure.estimates import best_of_n, pass_at_k, vote
from minireason.search.vote import agreement


def pass_subsets(solution):
    for n in range(1, 8):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                samples = np.arange(n) < correct
                wanted = np.mean([samples[list(s)].any() for s in combinations(range(n), k)])
                close(solution.pass_at_k(n, correct, k), wanted, f"n = {n}, c = {correct}, k = {k}")


def pass_large(solution):
    for n, correct, k in ((64, 3, 32), (1000, 1, 500), (5000, 7, 2500), (10_000, 2, 1)):
        close(solution.pass_at_k(n, correct, k), pass_at_k(n, correct, k),
              f"n = {n}, c = {correct}, k = {k}")


def pass_certain(solution):
    for n, correct, k in ((5, 0, 5), (5, 5, 1), (5, 1, 5), (5, 3, 3), (64, 64, 64)):
        close(solution.pass_at_k(n, correct, k), pass_at_k(n, correct, k),
              f"n = {n}, c = {correct}, k = {k}")


def wanted_majority(answers):
    return next((a for a, good in zip(answers, agreement(answers), strict=True) if good), None)


def plain_majority(solution):
    generator = rng(0, "grade 3")
    for _ in range(100):
        answers = [str(a) for a in generator.integers(0, 4, 9)]
        expect(solution.majority(answers), wanted_majority(answers), f"{answers}")


def ties(solution):
    for answers in (["7", "3"], ["3", "7"], ["9", "1", "1", "9"], ["5", "20", "20", "5", "3"]):
        expect(solution.majority(answers), wanted_majority(answers), f"{answers}")


def no_answer(solution):
    for answers in ([], [None], [None, None, "4"], [None, "4", None, "4", None], ["", None]):
        expect(solution.majority(answers), wanted_majority(answers), f"{answers}")


def credit(solution, answers, weights, right=0):
    answers, weights = np.array(answers), np.array(weights, dtype=float)
    close(solution.weighted_vote(answers, weights, right),
          vote(answers, weights, answers == right),
          f"answers {answers.tolist()}, weights {weights.round(3).tolist()}, right {right}")


def weights_count(solution):
    generator = rng(1, "grade 3")
    for _ in range(200):
        credit(solution, generator.integers(0, 4, 8), generator.random(8),
               int(generator.integers(0, 4)))
    credit(solution, [0, 1, 1], [0.9, 0.3, 0.3])
    credit(solution, [1, 1, 0], [0.1, 0.1, 0.9])


def vote_ties(solution):
    credit(solution, [0, 1], [1, 1])
    credit(solution, [2, 1, 0], [1, 1, 1])
    credit(solution, [0, 1, 1, 1], [0.3, 0.1, 0.1, 0.1])          # 0.1 + 0.1 + 0.1 > 0.3 in floats
    credit(solution, [0, 1, 2, 2], [1, 1, 1, 1])


def vote_without(solution):
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


def best_subsets(solution):
    generator = rng(2, "grade 3")
    for _ in range(60):
        size = int(generator.integers(1, 8))
        n = int(generator.integers(1, size + 1))
        correct, scores = generator.integers(0, 2, size), generator.random(size)
        close(solution.best_of_n(correct, scores, n), by_subsets(correct, scores, n),
              f"correct {correct.tolist()}, scores {scores.round(2).tolist()}, n = {n}")


def best_ties(solution):
    generator = rng(3, "grade 3")
    for _ in range(60):
        size = int(generator.integers(2, 8))
        n = int(generator.integers(1, size + 1))
        correct = generator.integers(0, 2, size)
        scores = generator.integers(0, 3, size) / 2
        close(solution.best_of_n(correct, scores, n), by_subsets(correct, scores, n),
              f"correct {correct.tolist()}, scores {scores.tolist()}, n = {n}")


def best_bounds(solution):
    generator = rng(4, "grade 3")
    for n in (1, 8, 32, 64):
        correct = (generator.random(64) < 0.3).astype(int)
        close(solution.best_of_n(correct, correct.astype(float), n),
              pass_at_k(64, int(correct.sum()), n), f"an oracle's scores, S = 64, n = {n}")
        close(solution.best_of_n(correct, np.full(64, 0.5), n), correct.mean(),
              f"a constant score, S = 64, n = {n}")
        scores = generator.random(64)
        close(solution.best_of_n(correct, scores, n), best_of_n(correct, scores, n),
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
    raise SystemExit(grade(CHECKS, __file__))
