"""A solution of assignment 3, from its README alone."""

import math

import numpy as np


def pass_at_k(n, correct, k):
    if n - correct < k:
        return 1.0
    miss = 1.0
    for i in range(k):
        miss *= (n - correct - i) / (n - i)
    return 1.0 - miss


def majority(answers):
    votes = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return None
    return max(votes, key=lambda answer: votes[answer])


def weighted_vote(answers, weights, right):
    ids = sorted({int(a) for a in answers if a >= 0})
    if not ids:
        return 0.0
    sums = {a: math.fsum(weights[answers == a]) for a in ids}
    most = max(sums.values())
    leaders = [a for a in ids if abs(sums[a] - most) <= 1e-9 * max(1.0, abs(most))]
    return 1.0 / len(leaders) if right in leaders else 0.0


def best_of_n(correct, scores, n):
    size, total, below = len(scores), 0.0, 0
    for score in np.unique(scores):
        tied = scores == score
        upto = below + int(tied.sum())
        chance = math.comb(upto, n) - math.comb(below, n)
        total += chance / math.comb(size, n) * float(correct[tied].mean())
        below = upto
    return total
