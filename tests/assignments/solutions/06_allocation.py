"""A solution of assignment 6, from its README alone."""

import numpy as np


def difficulty_bins(ease, bins):
    n = len(ease)
    order = sorted(range(n), key=lambda i: -ease[i])
    found = np.zeros(n, dtype=int)
    for rank, i in enumerate(order):
        found[i] = rank * bins // n
    return found


def choose(correct, tokens, bins, used, price):
    worth, best = correct - price * tokens, []
    for b in range(int(bins.max()) + 1):
        mine = used & (bins == b)
        if not mine.any():
            mine = used
        score = worth[:, mine].mean(axis=1)
        cost = tokens[:, mine].mean(axis=1)
        good = [s for s in range(len(score)) if score[s] >= score.max() - 1e-12]
        best.append(min(good, key=lambda s: cost[s]))
    return np.array(best)


def allocate(correct, tokens, bins, fold, price):
    n = len(bins)
    found_correct, found_tokens = np.zeros(n), np.zeros(n)
    for f in (0, 1):
        choice = choose(correct, tokens, bins, fold != f, price)
        for i in range(n):
            if fold[i] == f:
                found_correct[i] = correct[choice[bins[i]], i]
                found_tokens[i] = tokens[choice[bins[i]], i]
    return found_correct, found_tokens


def saved(reference, tokens, rows):
    factors = reference[rows].mean(axis=1) / tokens[rows].mean(axis=1)
    low, high = np.quantile(factors, (0.025, 0.975))
    return float(reference.mean() / tokens.mean()), float(low), float(high)
