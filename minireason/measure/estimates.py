"""Choosing one answer from N samples, with unbiased estimates for every N up to those drawn.

From n samples of a problem the expected result for N <= n is an average over all subsets of N:
exact where order statistics give it (coverage, best-of-N), by random subsets for the votes.
Majority vote: Wang 2022 (arXiv:2203.11171); best-of-N: Cobbe 2021 (arXiv:2110.14168); weighted
vote: Li 2022 (arXiv:2206.02336).
"""

import math

import numpy as np


def best_of_n(correct: np.ndarray, scores: np.ndarray, n: int) -> float:
    """P(the top-scored of n random samples is right), exact over all subsets.

    correct and scores (S,); ties share the credit evenly. An oracle's scores give pass@n, a
    constant score gives the mean.
    """
    size = len(correct)
    assert size >= n, "cannot estimate N beyond the samples drawn"
    order = np.argsort(scores, kind="stable")
    correct, scores = correct[order].astype(float), scores[order]
    edges = np.flatnonzero(np.diff(scores)) + 1
    total, below = 0.0, 0
    for group in np.split(correct, edges):          # ascending groups of equal scores
        above = below + len(group)
        chance = (math.comb(above, n) - math.comb(below, n)) / math.comb(size, n)
        total += chance * group.mean()              # P(the maximum falls in this group)
        below = above
    return total


def vote(answers: np.ndarray, weights: np.ndarray, right: int | np.ndarray) -> float:
    """Weighted vote over answer ids (S,), -1 meaning none; 1 if `right` wins, shared on ties.

    `right` may be several ids, where a problem has several right answers.
    """
    valid = answers >= 0
    if not valid.any():
        return 0.0
    ids, index = np.unique(answers[valid], return_inverse=True)
    mass = np.bincount(index, weights=weights[valid])
    winners = ids[mass >= mass.max() * (1 - 1e-12)]
    return float(np.isin(winners, right).mean())


def vote_at(answers: np.ndarray, weights: np.ndarray, right: int | np.ndarray, n: int,
            generator: np.random.Generator, subsets: int = 32) -> float:
    """Expected vote over n of the samples, averaged over random subsets (exact if n is all)."""
    if n == len(answers):
        return vote(answers, weights, right)
    total = 0.0
    for _ in range(subsets):
        chosen = generator.permutation(len(answers))[:n]
        total += vote(answers[chosen], weights[chosen], right)
    return total / subsets
