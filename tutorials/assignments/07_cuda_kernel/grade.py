"""Grades assignment 7 in the host emulator, against a softmax in float64."""

import re
import sys
from functools import partial
from pathlib import Path

sys.path.extend(map(str, Path(__file__).resolve().parents[:2]))
import grading
import numpy as np
from emulated import SCHEDULES, Program, Run, broken, place
from grading import Check, Mismatch, close, require

from minireason.core.config import rng

BLOCK = 128                            # threads of a block, as the task says
NOT_WRITTEN = -1                       # the starter's status
UNWRITTEN = 0x7FC0DEAD                 # bits of a weight before the kernel runs, a NaN


def scores(seed: int, n_matrices: int, n_queries: int, n_keys: int, scale: float = 1.0,
           shift: float = 0.0) -> np.ndarray:
    generator = rng(seed, f"grade 7 {n_matrices} {n_queries}", n_keys)
    case = shift + scale * generator.standard_normal((n_matrices, n_queries, n_keys))
    return case.astype(np.float32)


def seen(case: np.ndarray) -> np.ndarray:
    """Which keys each query sees, (T, S)."""
    _, n_queries, n_keys = case.shape
    return np.arange(n_keys) <= n_keys - n_queries + np.arange(n_queries)[:, None]


def softmax(case: np.ndarray, sees: np.ndarray | None = None) -> np.ndarray:
    """The reference, in float64; sees (T, S): another mask."""
    x = np.where(seen(case) if sees is None else sees, case, -np.inf).astype(float)
    with np.errstate(all="ignore"):
        weights = np.exp(x - x.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)


def likely(case: np.ndarray) -> dict[str, np.ndarray]:
    """What typical mistakes give."""
    _, n_queries, n_keys = case.shape
    at, keys = np.arange(n_queries)[:, None], np.arange(n_keys)
    whole = softmax(case)
    shift = np.where(seen(case), case, -np.inf).max(axis=-1, keepdims=True)
    return {
        "no mask: every query sees every key": softmax(case, np.ones((n_queries, n_keys), bool)),
        "the mask's diagonal starts at key 0; the queries are the LAST T positions":
            softmax(case, keys <= at),
        "the query's own key is hidden": softmax(case, keys < n_keys - n_queries + at),
        "not divided by the sum": whole * np.exp(np.where(seen(case), case, -np.inf) - shift)
            .astype(float).sum(axis=-1, keepdims=True),
        "only the first 128 keys are looked at": softmax(case, seen(case) & (keys < BLOCK))}


def shape(case: np.ndarray) -> str:
    return "R = {}, T = {}, S = {}".format(*case.shape)


def wrong(case: np.ndarray, came: Run, tolerance: float = 1e-6, hidden: bool = True) -> str:
    """What is wrong with a run; empty if nothing is. `hidden`: zeros are asked for as well."""
    on = f"{shape(case)}, order {came.schedule.split()[0]}"
    if came.status == NOT_WRITTEN:
        return "expected a solution, came status -1: nothing is written yet"
    if came.status:
        return f"on {on}: expected status 0, came {came.words or came.status}"
    if case.size and not came.launches:
        return f"on {on}: expected a kernel that is launched, came a loop on the host"
    if came.host:
        return (f"on {on}: expected scores read and weights written by the kernel, came "
                f"{came.host} accesses outside of it")
    weights = came.weights if hidden else np.where(seen(case), came.weights, 0)
    try:
        close(weights, softmax(case), on, tolerance, likely=likely(case))
    except Mismatch as mismatch:
        return str(mismatch)
    return ""


def equal(solution: Program, cases: list[np.ndarray], **how) -> None:
    """Right in one order of warps at least: barriers have a check of their own."""
    for case, runs in zip(cases, solution.run(cases), strict=True):
        problems = [wrong(case, came, **how) for came in runs]
        if all(problems):
            raise Mismatch(problems[0])


# ---- the checks ----------------------------------------------------------------------------------

def whole_blocks(solution, seed):
    equal(solution, [scores(seed, 1, 1, n * BLOCK) for n in (1, 2, 4)])


def any_length(solution, seed):
    equal(solution, [scores(seed, 1, 1, n) for n in (1, 2, 31, 33, 64, 100, 127, 129, 200, 300)])


def mask(solution, seed):
    cases = [scores(seed, 1, *size) for size in ((2, 2), (5, 5), (40, 40), (3, 130), (4, 258))]
    for case in cases:
        case[:, ~seen(case)] += 30
    equal(solution, cases)


def hidden_nan(solution, seed):
    cases = [scores(seed, 1, *size) for size in ((5, 5), (3, 130))]
    for case, value in zip(cases, (np.nan, np.inf), strict=True):
        case[:, ~seen(case)] = value
    cases.append(np.where(seen(cases[1]), cases[1], np.nan).astype(np.float32))
    equal(solution, cases)


def several(solution, seed):
    equal(solution, [scores(seed, *size) for size in ((3, 1, BLOCK), (4, 2, BLOCK + 1), (2, 3, 7),
                                                (0, 4, 4))], hidden=False)


def large(solution, seed):
    cases = [scores(seed, 1, 1, n * BLOCK, scale, shift) for n in (1, 2)
             for scale, shift in ((1, 100), (1, -1000), (1e4, 0), (1, 1e4), (1, -1e4))]
    equal(solution, cases, tolerance=2e-3)


def spike(seed: int, n_keys: int, at: int) -> np.ndarray:
    """One score of 80 among scores of about -20: exp(80) is finite, but exp(80 + 20) is not, so a
    largest score that is not the row's shows, and none at all does not.
    """
    case = scores(seed, 1, 1, n_keys, scale=0.3, shift=-20)
    case[0, 0, at] = 80
    return case


def barriers(solution, seed):
    cases = [scores(seed, 1, 1, BLOCK), scores(seed, 1, 1, 2 * BLOCK),
             *(spike(seed, BLOCK, at) for at in (0, 1, 2, 16, 31, 32, 63, 64, 65, 96, 127)),
             *(spike(seed, 2 * BLOCK, at) for at in (0, 33, 128, 200, 255))]
    short = [scores(seed, 1, 1, n) for n in (5, 100)]  # other checks ask whether these are right
    every = solution.run(cases + short, SCHEDULES)
    for case, runs in zip(cases, every, strict=False):
        for came in runs:
            if problem := wrong(case, came):
                raise Mismatch(problem)
            if came.barriers < 2:
                raise Mismatch(f"on {shape(case)}: expected two reductions with barriers, came a "
                               f"thread that meets {came.barriers} of them in a row")
    for case, runs in zip(short, every[len(cases):], strict=True):
        for came in runs:
            if re.match("DEADLOCK|DIVERGED", came.words):
                raise Mismatch(f"on {shape(case)}: expected barriers that all threads reach, "
                               f"came {came.words}")


def memory(solution, seed):
    cases = [scores(seed, 1, 1, n) for n in (BLOCK, 1, 3, 127, 129, 300)]
    cases += [scores(seed, 2, 3, 5), scores(seed, 1, 40, 40), scores(seed, 3, 2, 130)]
    every = solution.run(cases)
    for came in every[0]:                              # a kernel that does nothing breaks nothing
        if came.status == NOT_WRITTEN or (came.weights.view(np.uint32) == UNWRITTEN).any():
            raise Mismatch(wrong(cases[0], came) or "expected weights, came none")
    for case, runs in zip(cases, every, strict=True):
        for came in runs:
            if came.report or came.words.startswith(("OVERRUN", "MISALIGNED")):
                what = place(came.report, solution.source) if came.report else came.words
                raise Mismatch(f"on {shape(case)}: expected accesses inside the arrays, "
                               f"came {what}")


def shared_work(solution, seed):
    """Every thread reads its own keys, and the block reduces what they found in few steps."""
    cases = [scores(seed, 1, 1, n * BLOCK) for n in (1, 4)]
    cases += [scores(seed, 1, 1, 300), scores(seed, 2, 3, 2 * BLOCK)]
    for case, runs in zip(cases, solution.run(cases), strict=True):
        for came in runs:
            on = f"on {shape(case)}: "
            if problem := wrong(case, came):
                raise Mismatch(problem)
            require(came.launches == 1, f"{on}one launch for all rows", f"{came.launches}")
            require(came.threads == BLOCK, f"{on}blocks of {BLOCK} threads", f"{came.threads}")
            require(came.strayed == 0, f"{on}one block for each row",
                    f"{came.strayed} reads of a second row")
            require(came.busy >= min(BLOCK, case.shape[2] - case.shape[1] + 1),
                    f"{on}every thread at work", f"{came.busy} threads that read a key")
            require(came.foreign == 0, f"{on}thread t reads the keys t, t + {BLOCK}, ...",
                    f"{came.foreign} reads of keys that another thread owns")
            require(came.shared_reads <= 100, f"{on}reductions in few steps (halving takes 7)",
                    f"a thread that reads shared memory {came.shared_reads} times: does one add "
                    "up all?")


CHECKS = [
    Check("values: rows of whole blocks", 2, whole_blocks),
    Check("values: rows of any length", 2, any_length),
    Check("mask: zeros where nothing is seen", 2, mask),
    Check("mask: hidden scores are NaN", 1, hidden_nan),
    Check("launch: several matrices, and none", 2, several),
    Check("large scores", 2, large),
    Check("barriers: every order of warps", 3, barriers),
    Check("work: shared by all threads of a block", 3, shared_work),
    Check("memory: nothing out of bounds", 3, memory),
]
grade = partial(grading.grade, starter="starter.cu", broken=broken, student=Program)

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__))
