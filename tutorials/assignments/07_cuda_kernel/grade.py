"""Grades assignment 7 in the host emulator, against a softmax in float64."""

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

sys.path.extend(map(str, Path(__file__).resolve().parents[:2]))
import grading
import numpy as np
from emulated import SCHEDULES, Run, compiled, place, run
from grading import Check, Mismatch, close

from minireason.core.config import rng

BLOCK = 128                            # threads of a block, as the task says
NOT_WRITTEN = -1                       # the starter's status
UNWRITTEN = 0x7FC0DEAD                 # bits of a weight before the kernel runs, a NaN


def scores(n_matrices: int, n_queries: int, n_keys: int, scale: float = 1.0,
           shift: float = 0.0) -> np.ndarray:
    generator = rng(n_keys, f"grade 7 {n_matrices} {n_queries}")
    case = shift + scale * generator.standard_normal((n_matrices, n_queries, n_keys))
    return case.astype(np.float32)


def seen(case: np.ndarray) -> np.ndarray:
    """Which keys each query sees, (T, S)."""
    _, n_queries, n_keys = case.shape
    return np.arange(n_keys) <= n_keys - n_queries + np.arange(n_queries)[:, None]


def softmax(case: np.ndarray) -> np.ndarray:
    """The reference, in float64."""
    x = np.where(seen(case), case, -np.inf).astype(float)
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def shape(case: np.ndarray) -> str:
    return "R = {}, T = {}, S = {}".format(*case.shape)


def wrong(case: np.ndarray, came: Run, tolerance: float = 1e-6, hidden: bool = True) -> str:
    """What is wrong with a run; empty if nothing is. `hidden`: zeros are asked for as well."""
    on = f"{shape(case)}, order {came.schedule.split()[0]}"
    if came.status == NOT_WRITTEN:
        return "expected a solution, came status -1: nothing is written yet"
    if came.status:
        return f"on {on}: expected status 0, came {came.words or came.status}"
    weights = came.weights if hidden else np.where(seen(case), came.weights, 0)
    try:
        close(weights, softmax(case), on, tolerance)
    except Mismatch as mismatch:
        return str(mismatch)
    return ""


def equal(solution: ModuleType, cases: list[np.ndarray], **how) -> None:
    """Right in one order of warps at least: barriers have a check of their own."""
    for case, runs in zip(cases, run(solution, cases), strict=True):
        problems = [wrong(case, came, **how) for came in runs]
        if all(problems):
            raise Mismatch(problems[0])


# ---- the checks ----------------------------------------------------------------------------------

def whole_blocks(solution):
    equal(solution, [scores(1, 1, n * BLOCK) for n in (1, 2, 4)])


def any_length(solution):
    equal(solution, [scores(1, 1, n) for n in (1, 2, 31, 33, 64, 100, 127, 129, 200, 300)])


def mask(solution):
    cases = [scores(1, *size) for size in ((2, 2), (5, 5), (40, 40), (3, 130), (4, 258))]
    for case in cases:
        case[:, ~seen(case)] += 30
    equal(solution, cases)


def hidden_nan(solution):
    cases = [scores(1, *size) for size in ((5, 5), (3, 130))]
    for case, value in zip(cases, (np.nan, np.inf), strict=True):
        case[:, ~seen(case)] = value
    cases.append(np.where(seen(cases[1]), cases[1], np.nan).astype(np.float32))
    equal(solution, cases)


def several(solution):
    equal(solution, [scores(*size) for size in ((3, 1, BLOCK), (4, 2, BLOCK + 1), (2, 3, 7),
                                                (0, 4, 4))], hidden=False)


def large(solution):
    cases = [scores(1, 1, n * BLOCK, scale, shift) for n in (1, 2)
             for scale, shift in ((1, 100), (1, -1000), (1e4, 0), (1, 1e4), (1, -1e4))]
    equal(solution, cases, tolerance=2e-3)


def spike(n_keys: int, at: int) -> np.ndarray:
    """One score of 80 among scores of about -20: exp(80) is finite, but exp(80 + 20) is not, so a
    largest score that is not the row's shows, and none at all does not.
    """
    case = scores(1, 1, n_keys, scale=0.3, shift=-20)
    case[0, 0, at] = 80
    return case


def barriers(solution):
    cases = [scores(1, 1, BLOCK), scores(1, 1, 2 * BLOCK),
             *(spike(BLOCK, at) for at in (0, 1, 2, 16, 31, 32, 63, 64, 65, 96, 127)),
             *(spike(2 * BLOCK, at) for at in (0, 33, 128, 200, 255))]
    short = [scores(1, 1, 5), scores(1, 1, 100)]       # other checks ask whether these are right
    every = run(solution, cases + short, SCHEDULES)
    for case, runs in zip(cases, every, strict=False):
        for came in runs:
            if problem := wrong(case, came):
                raise Mismatch(problem)
    for case, runs in zip(short, every[len(cases):], strict=True):
        for came in runs:
            if re.match("DEADLOCK|DIVERGED", came.words):
                raise Mismatch(f"on {shape(case)}: expected barriers that all threads reach, "
                               f"came {came.words}")


def memory(solution):
    cases = [scores(1, 1, n) for n in (BLOCK, 1, 3, 127, 129, 300)]
    cases += [scores(2, 3, 5), scores(1, 40, 40), scores(3, 2, 130)]
    every = run(solution, cases)
    for came in every[0]:                              # a kernel that does nothing breaks nothing
        if came.status == NOT_WRITTEN or (came.weights.view(np.uint32) == UNWRITTEN).any():
            raise Mismatch(wrong(cases[0], came) or "expected weights, came none")
    for case, runs in zip(cases, every, strict=True):
        for came in runs:
            if came.report or came.words.startswith(("OVERRUN", "MISALIGNED")):
                what = place(came.report, solution.SOURCE) if came.report else came.words
                raise Mismatch(f"on {shape(case)}: expected accesses inside the arrays, "
                               f"came {what}")


CHECKS = [
    Check("values: rows of whole blocks", 2, whole_blocks),
    Check("values: rows of any length", 3, any_length),
    Check("mask: zeros where nothing is seen", 3, mask),
    Check("mask: hidden scores are NaN", 1, hidden_nan),
    Check("launch: several matrices, and none", 2, several),
    Check("large scores", 3, large),
    Check("barriers: every order of warps", 3, barriers),
    Check("memory: nothing out of bounds", 3, memory),
]
grade = partial(grading.grade, starter="starter.cu", prepare=compiled)

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__))
