"""A solution of assignment 10, from its README alone."""

import numpy as np


def auc(values, right):
    good, bad = values[right == 1], np.sort(values[right == 0])
    if len(good) == 0 or len(bad) == 0:
        return 0.5
    below = np.searchsorted(bad, good, side="left")
    upto = np.searchsorted(bad, good, side="right")
    return float((below + upto).sum() / (2 * len(good) * len(bad)))


def calibration_error(values, right, bins):
    at = np.minimum((values * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        inside = at == b
        if inside.any():
            gap = abs(values[inside].mean() - right[inside].mean())
            total += gap * inside.sum()
    return float(total / len(values))


def pick(answers, values, how):
    voting = [i for i in range(len(answers)) if answers[i] is not None]
    if not voting:
        return None
    if how == "first":
        return voting[0]
    if how == "best":
        return max(voting, key=lambda i: values[i])
    sums = {}
    for i in voting:
        worth = 1 if how == "majority" else values[i]
        sums[answers[i]] = sums.get(answers[i], 0) + worth
    most = max(sums.values())
    for i in voting:
        if sums[answers[i]] >= most - 1e-9:
            return i


def closed(picked, first, oracle, rows):
    def share(at):
        gap = oracle[at].mean() - first[at].mean()
        return (picked[at].mean() - first[at].mean()) / gap if gap > 0 else None

    whole = share(np.arange(len(first)))
    if whole is None:
        return 0.0, 0.0, 0.0
    drawn = [found for row in rows if (found := share(row)) is not None]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(whole), float(low), float(high)
