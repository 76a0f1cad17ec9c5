"""Grades the functions of assignment 9; the report is read by a person, by README's rubric."""

import math
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from grading import Check, close, expect, grade, require

from minireason.core.config import rng
from minireason.measure.estimates import T_QUANTILES
from minireason.training import losses


def library(rewards, size, how):
    return losses.group_advantages(torch.tensor(rewards), size, how).double().numpy()


def right_push(p, size, how, share=lambda c, size: c / size, ddof=0):
    """By the definition, over every number of right samples."""
    total = 0.0
    for c in range(1, size):
        rewards = np.array([1.0] * c + [0.0] * (size - c))
        gain = (size - c) / (size - 1) if how == "rloo" else (1 - c / size) / rewards.std(ddof=ddof)
        total += math.comb(size, c) * p ** c * (1 - p) ** (size - c) * share(c, size) * gain
    return total


def advantages(how):
    def check(solution, seed):
        generator = rng(seed, "grade 9", how)
        for i in range(20):
            size = (2, 3, 8)[i % 3]
            rewards = (generator.random(4 * size) if i % 2 else
                       (generator.random(4 * size) < 0.5).astype(float))
            groups = rewards.reshape(-1, size)
            centred = groups - groups.mean(1, keepdims=True)
            sample = centred / np.maximum(groups.std(1, keepdims=True, ddof=1), 1e-12)
            close(solution.advantages(rewards, size, how), library(rewards, size, how),
                  f"{how}, G = {size}, rewards {rewards.round(2).tolist()}", likely={
                      "this is GRPO": library(rewards, size, "grpo"),
                      "this is RLOO": library(rewards, size, "rloo"),
                      "the mean holds the sample itself: this is r - mean(group)": centred.ravel(),
                      "the sample's standard deviation (G - 1), not the population's":
                          sample.ravel()})
    return check


def silent(solution, seed):
    for how in ("rloo", "grpo"):
        for value, size in ((0.0, 4), (1.0, 4), (0.1, 3), (0.7, 7)):
            rewards = np.array([value] * size + [0.0] * (size - 1) + [1.0])
            came = np.asarray(solution.advantages(rewards, size, how))[:size]
            require(bool((came == 0).all()), f"exactly 0 for {how} on {size} rewards of {value}",
                    f"{came.tolist()}: rounding speaks; look whether all rewards are equal")


def pushes(how):
    def check(solution, seed):
        generator = rng(seed, "grade 9 push", how)
        cases = [(float(generator.random()), int(size), how) for size in (2, 3, 8, 8, 16)]
        for case, came in zip(cases, solution.all("push", cases), strict=True):
            p, size, _ = case
            close(came, right_push(*case), f"push p = {p:.3f}, G = {size}, {how}", likely={
                "a sum over right samples is divided by G, the wrong ones count as places":
                    right_push(*case, share=lambda c, size: 1.0),
                "not divided by G": size * right_push(*case),
                "the sample's standard deviation (G - 1), not the population's":
                    right_push(*case, ddof=1),
                "this is p (1 - p), which holds for RLOO": p * (1 - p),
                "this is sqrt(p (1 - p)), the limit of large G": math.sqrt(p * (1 - p))},
                  tolerance=1e-6)
    return check


def push_ends(solution, seed):
    for how in ("rloo", "grpo"):
        for p in (0.0, 1.0):
            close(solution.push(p, 8, how), 0.0, f"{how}, p = {p:g}: all groups are silent")


def seeds(solution, seed):
    generator = rng(seed, "grade 9 seeds")
    for n_seeds in (2, 3, 5, 10):
        a, b = (generator.random((n_seeds, 50)) < 0.5 + generator.random((n_seeds, 1)) / 5
                for _ in "ab")
        each = (a * 1.0 - b).mean(axis=1)
        spread = each.std(ddof=1) / np.sqrt(n_seeds)

        def interval(t, spread=spread, each=each):
            return each.mean(), max(-1, each.mean() - t * spread), min(1, each.mean() + t * spread)

        all_of = (a * 1.0 - b).ravel()
        t = T_QUANTILES[n_seeds - 2]
        close(solution.over_seeds(a.astype(float), b.astype(float)), interval(t),
              f"{n_seeds} seeds", likely={
                  "1.96 is for many seeds; few need Student's t": interval(1.96),
                  "the quantile of one degree more: T[0] is that of 1 degree, S = 2":
                      interval(T_QUANTILES[min(n_seeds - 1, 8)]),
                  "the population's standard deviation, not the sample's (S - 1)":
                      interval(t, each.std() / np.sqrt(n_seeds)),
                  "the standard deviation, not divided by sqrt(S)":
                      interval(t, each.std(ddof=1)),
                  "problems were taken for independent trainings":
                      interval(1.96, all_of.std(ddof=1) / np.sqrt(all_of.size))})

    came = solution.over_seeds(np.array([[1.0, 1.0], [0.0, 0.0]]), np.zeros((2, 2)))
    close(came, (0.5, -1, 1), "two seeds that are far apart")


def one_seed(solution, seed):
    a, b = np.array([[1.0, 1, 0, 1]]), np.array([[1.0, 0, 0, 0]])
    came = solution.over_seeds(a, b)
    require(isinstance(came, tuple) and len(came) == 3, "three numbers", f"{came!r}")
    expect([float(x) for x in came], [0.5, -1.0, 1.0], "one seed")


CHECKS = [
    Check("advantages: rloo", 1, advantages("rloo")),
    Check("advantages: grpo", 1, advantages("grpo")),
    Check("advantages: silent groups", 1, silent),
    Check("push: rloo", 1, pushes("rloo")),
    Check("push: grpo", 2, pushes("grpo")),
    Check("push: p = 0 and p = 1", 1, push_ends),
    Check("over_seeds: Student's interval", 2, seeds),
    Check("over_seeds: one seed", 1, one_seed),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__, allowed=("numpy",)))
