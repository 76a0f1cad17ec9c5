"""Grades assignment 7: compiles the kernel against the host emulator and runs it there.

One program a solution, with AddressSanitizer; one run of it a check. See harness.h.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

sys.path.append(str(Path(__file__).resolve().parents[1]))
import grading
import numpy as np
from grading import Check, Mismatch, close

from cuda_ext import build
from minireason.config import rng

HERE = Path(__file__).resolve().parent
BLOCK = 128                            # threads of a block, as the task says
NOT_WRITTEN = -1                       # the starter's status
UNWRITTEN = 0x7FC0DEAD                 # bits of a weight before the kernel runs, a NaN
ORDERS = ("up late", "down late")
SCHEDULES = (*ORDERS, "up eager", "down eager")
MODE = ("-O0", "-g1", "-fsanitize=address", "-fsanitize-recover=address",   # -O0: an optimizer may
        "-fno-omit-frame-pointer")                                          # drop a read too many


# ---- the compilers -------------------------------------------------------------------------------

def first_error(text: str) -> str:
    """The compiler's first complaint, without folders."""
    lines = [line for line in text.splitlines() if re.search(r"\berror\b|undefined", line)]
    return re.sub(r"\S*/(?=[^/\s]+[:(]\d)", "", (lines or text.splitlines() or ["nothing"])[0])


def compile_host(source: Path, program: Path) -> str:
    """Compile and link against the emulator; what is wrong with the source, or nothing."""
    main = program.with_suffix(".cpp")
    main.write_text(f'#include "{source.name}"\n#include "harness.h"\n')
    flags = [flag for flag in build.HOST_FLAGS if flag not in ("-fPIC", "-fvisibility=hidden")]
    try:
        build.run([build.find_host_compiler(), *MODE, *flags, f"-I{build.SOURCES}", f"-I{HERE}",
                   str(main), "-o", str(program)])
    except build.BuildError as error:
        said = str(error).partition("\n")[2]
        if not said or re.search("cannot find.*asan", said):
            why = "this compiler comes without AddressSanitizer (libasan)" if said else str(error)
            raise SystemExit(f"not graded: {why}") from None
        return first_error(said)
    return ""


def gpu_line(source: Path) -> str:
    """Whether the same file compiles for a GPU; empty where there is no nvcc."""
    try:
        nvcc = build.find_nvcc()
    except build.BuildError:
        return ""
    try:
        build.run([nvcc, *build.NVCC_FLAGS, *build.arch_flags(build.ARCHS), f"-I{build.SOURCES}",
                   "-x", "cu", "-c", str(source), "-o", str(source.with_suffix(".o"))])
    except build.BuildError as error:
        return f"nvcc: does not compile for a GPU: {first_error(str(error).partition(chr(10))[2])}"
    return f"nvcc: compiles for a GPU as well (sm_{', sm_'.join(build.ARCHS)})"


@contextmanager
def compiled(path: str) -> Iterator[str]:
    """A Python module that names the program made of the solution, or says why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / f"{Path(path).stem}.cu", Path(folder) / "program"
        source.write_bytes(Path(path).read_bytes())
        wrong = compile_host(source, program)
        if not wrong and (line := gpu_line(source)):
            print(line, flush=True)
        module = Path(folder) / "module.py"
        module.write_text(f"PROGRAM, SOURCE = {str(program)!r}, {str(source)!r}\n" if not wrong else
                          "from grading import Mismatch\n"
                          f"raise Mismatch({'expected a file that compiles, came ' + wrong!r})\n")
        yield str(module)


# ---- running it ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Run:
    """What came of one case under one schedule."""

    schedule: str
    status: int
    words: str             # the emulator's, where it stopped the kernel
    report: str            # AddressSanitizer's first one
    weights: np.ndarray    # (R, T, S); NaN where nothing was written


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


def read(results: bytes, cases: list[np.ndarray], schedules: tuple[str, ...]) -> list[list[Run]]:
    """The harness's file: status, two texts, weights."""
    at, runs = 0, []

    def take(n_bytes: int) -> bytes:
        nonlocal at
        at += n_bytes
        return results[at - n_bytes:at]

    def number() -> int:
        return int.from_bytes(take(4), sys.byteorder, signed=True)

    for case in cases:
        runs.append([])
        for schedule in schedules:
            status = number()
            texts = [take(number()).decode(errors="replace") for _ in range(2)]
            weights = np.frombuffer(take(case.nbytes), np.float32).reshape(case.shape)
            runs[-1].append(Run(schedule, status, *texts, weights))
    return runs


def run(solution: ModuleType, cases: list[np.ndarray],
        schedules: tuple[str, ...] = ORDERS) -> list[list[Run]]:
    """All cases under all schedules, in one process of the student's program."""
    with tempfile.TemporaryDirectory() as folder:
        given, results = Path(folder) / "cases", Path(folder) / "results"
        given.write_bytes(b"".join(np.array(case.shape, np.int32).tobytes() + case.tobytes()
                                   for case in cases))
        words = [word for schedule in schedules for word in schedule.split()]
        done = subprocess.run(
            [solution.PROGRAM, str(given), str(results), *words], capture_output=True, text=True,
            errors="replace", env={**os.environ, "EMULATE_THREADS": "1",
                                   "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0"})
        if done.returncode:
            cause = re.search(r"SUMMARY: AddressSanitizer: (.*)", done.stderr)
            raise Mismatch(f"expected a result, came the end of the program "
                           f"(exit code {done.returncode})"
                           + (f": {first_error(cause[1])}" if cause else ""))
        return read(results.read_bytes(), cases, schedules)


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


def place(report: str, source: str) -> str:
    """Where an access out of bounds stands in the student's file."""
    access = re.search(r"(READ|WRITE) of size (\d+)", report)
    what = f"a {access[1].lower()} of {access[2]} bytes out of bounds" if access else "a bad access"
    line = re.search(rf"{re.escape(Path(source).name)}:(\d+)", report)
    if not line:
        return what
    return f"{what} in line {line[1]}: {Path(source).read_text().splitlines()[int(line[1]) - 1]}"


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
