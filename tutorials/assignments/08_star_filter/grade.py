"""Grades the functions of assignment 8; the report is read by a person, by README's rubric."""

import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
from grading import Check, close, expect, grade

from minireason.core.config import rng
from minireason.measure.estimates import wilson


def kept(samples, rule):
    """The index that a rule keeps."""
    votes = Counter(answer for answer, *_ in samples if answer is not None)
    most = max(votes, key=votes.__getitem__, default=None)
    for i, (answer, correct, steps) in enumerate(samples):
        if answer is not None and {"none": True, "majority": answer == most, "answer": correct,
                                   "steps": correct and steps}[rule]:
            return i
    return None


def drawn_samples(generator, n=4):
    """Samples as a policy writes them: right steps imply a right answer."""
    samples = []
    for answer in generator.integers(0, 4, n):
        correct = bool(answer == 0)
        samples.append((None, False, False) if answer == 3 else
                       (str(7 + answer), correct, correct and bool(generator.random() < 0.6)))
    return samples


def compare_keep(solution, rule, cases):
    found = solution.all("keep", [(samples, rule) for samples in cases])
    for samples, came in zip(cases, found, strict=True):
        right = [i for i, (_, correct, _) in enumerate(samples) if correct]
        sound = [i for i, (_, correct, steps) in enumerate(samples) if correct and steps]
        expect(came, kept(samples, rule), f"{rule}, {samples}", {
            "the answer alone decides; a wrong step may slip in": sound[0] if sound else None,
            "the steps must be right too": right[0] if right else None,
            "a sample without an answer cannot be kept": 0,
            "this is the last, not the first": next(
                (i for i in range(len(samples) - 1, -1, -1)
                 if kept(samples[i:i + 1], rule if rule != "majority" else "none") == 0), None)})


def keeps(rule):
    def check(solution, seed):
        generator = rng(seed, "grade 8", rule)
        none = (None, False, False)
        cases = [drawn_samples(generator, int(generator.integers(1, 7))) for _ in range(200)]
        cases += [[], [none, none], [none, ("7", True, False), ("7", True, True)],
                  [("9", False, False), ("7", True, True), ("7", True, True), ("9", False, False)],
                  [none, none, ("8", False, False)], [("9", False, True), ("7", True, True)]]
        compare_keep(solution, rule, cases)
    return check


def unsound(solution, seed):
    generator = rng(seed, "grade 8 unsound")
    for rule in ("none", "majority", "answer", "steps"):
        for n in (1, 5, 40):
            problems = [drawn_samples(generator) for _ in range(n)]
            chosen = [row[i] for row in problems if (i := kept(row, rule)) is not None]
            bad = sum(correct and not steps for _, correct, steps in chosen)
            share = bad / len(chosen) if chosen else 0.0
            half = 1.959964 * np.sqrt(share * (1 - share) / max(1, len(chosen)))
            any_wrong = sum(not steps for *_, steps in chosen) / max(1, len(chosen))
            right_only = max(1, sum(correct for _, correct, _ in chosen))
            close(solution.unsound(problems, rule), (share, *wilson(bad, len(chosen))),
                  f"{rule}, {n} problems, {len(chosen)} kept, {bad} of them unsound", likely={
                      "this is p -/+ 1.96 sqrt(p (1 - p) / n), not Wilson's interval":
                          (share, share - half, share + half),
                      "the share of all problems, not of what was kept":
                          (bad / n, *wilson(bad, n)),
                      "wrong answers count as unsound, too": (
                          any_wrong, *wilson(any_wrong * len(chosen), len(chosen))),
                      "the share of right answers, not of all that is kept":
                          (bad / right_only, *wilson(bad, right_only))})


def nothing_kept(solution, seed):
    close(solution.unsound([[(None, False, False)]] * 3, "answer"), (0, 0, 1), "nothing kept")
    close(solution.unsound([], "steps"), (0, 0, 1), "no problems")


def gains(solution, seed):
    generator = rng(seed, "grade 8 gain")
    for seeds, n in ((1, 30), (3, 40), (5, 12)):
        ease = generator.random(n)
        before = (generator.random((seeds, n)) < ease).astype(float)
        after = (generator.random((seeds, n)) < np.sqrt(ease)).astype(float)
        rows = generator.integers(0, n, (500, n))
        difference = (after - before).mean(axis=0)
        wanted = (difference.mean(), *np.quantile(difference[rows].mean(axis=1), (0.025, 0.975)))
        apart = (after.mean(axis=0)[rows].mean(axis=1)
                 - before.mean(axis=0)[rows[::-1]].mean(axis=1))
        first = (after - before)[0]
        close(solution.gain(after, before, rows), wanted, f"{seeds} seeds, {n} problems", likely={
            "after and before of a drawn problem must stay together":
                (wanted[0], *np.quantile(apart, (0.025, 0.975))),
            "only the first seed is looked at":
                (first.mean(), *np.quantile(first[rows].mean(axis=1), (0.025, 0.975))),
            "the difference the other way round": (-wanted[0], -wanted[2], -wanted[1]),
            "these are the 5% and 95% quantiles":
                (wanted[0], *np.quantile(difference[rows].mean(axis=1), (0.05, 0.95)))})


CHECKS = [
    Check("keep: none", 1, keeps("none")),
    Check("keep: majority", 1, keeps("majority")),
    Check("keep: answer", 1, keeps("answer")),
    Check("keep: steps", 1, keeps("steps")),
    Check("unsound: share and interval", 2, unsound),
    Check("unsound: nothing kept", 1, nothing_kept),
    Check("gain: paired, with all seeds", 3, gains),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__, allowed=("numpy",)))
