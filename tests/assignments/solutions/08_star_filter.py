"""A solution of assignment 8, from its README alone."""

from collections import Counter

import numpy as np


def keep(samples, rule):
    answered = [(i, sample) for i, sample in enumerate(samples) if sample[0] is not None]
    if rule == "majority":
        if not answered:
            return None
        votes = Counter(sample[0] for _, sample in answered)
        most = max(votes.values())
        for i, sample in answered:
            if votes[sample[0]] == most:
                return i
    for i, (_, correct, steps) in answered:
        if rule == "none" or (rule == "answer" and correct) or (correct and steps):
            return i
    return None


def unsound(problems, rule):
    n, bad = 0, 0
    for samples in problems:
        i = keep(samples, rule)
        if i is not None:
            n += 1
            bad += samples[i][1] and not samples[i][2]
    if n == 0:
        return 0.0, 0.0, 1.0
    z, p = 1.959964, bad / n
    middle = p + z * z / (2 * n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    return p, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def gain(after, before, rows):
    difference = (after - before).mean(axis=0)
    means = difference[rows].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)
