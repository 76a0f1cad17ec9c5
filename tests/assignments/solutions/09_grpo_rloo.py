"""A solution of assignment 9, from its README alone."""

import math

import numpy as np

T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def advantages(rewards, group_size, how):
    groups = np.asarray(rewards, dtype=float).reshape(-1, group_size)
    found = np.zeros_like(groups)
    for g, group in enumerate(groups):
        if (group == group[0]).all():
            continue
        if how == "rloo":
            found[g] = group - (group.sum() - group) / (group_size - 1)
        else:
            found[g] = (group - group.mean()) / group.std()
    return found.reshape(-1)


def push(p, group_size, how):
    total = 0.0
    for c in range(1, group_size):
        chance = math.comb(group_size, c) * p ** c * (1 - p) ** (group_size - c)
        rewards = [1.0] * c + [0.0] * (group_size - c)
        total += chance * advantages(rewards, group_size, how)[:c].sum() / group_size
    return total


def over_seeds(a, b):
    each = (a - b).mean(axis=1)
    n = len(each)
    if n == 1:
        return float(each[0]), -1.0, 1.0
    half = T[n - 2] * each.std(ddof=1) / math.sqrt(n)
    middle = float(each.mean())
    return middle, max(-1.0, middle - half), min(1.0, middle + half)
