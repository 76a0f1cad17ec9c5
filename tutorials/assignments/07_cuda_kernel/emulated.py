"""Compiles a student's kernel against the host emulator and runs it: see harness.h.

One program a solution, with AddressSanitizer; one run of it a check.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from grading import Mismatch

from cuda_ext import build

HERE = Path(__file__).resolve().parent
ORDERS = ("up late", "down late")      # which warp runs first; when a copy lands
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
        build.run([*build.find_host_compiler(), *MODE, *flags, f"-I{build.SOURCES}", f"-I{HERE}",
                   str(main), "-o", str(program)])
    except build.BuildError as error:
        if not error.output or re.search("cannot find.*asan", error.output):
            why = ("this compiler comes without AddressSanitizer (libasan)" if error.output
                   else str(error))
            raise SystemExit(f"not graded: {why}") from None
        return first_error(error.output)
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
        return f"nvcc: does not compile for a GPU: {first_error(error.output)}"
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


def place(report: str, source: str) -> str:
    """Where an access out of bounds stands in the student's file."""
    access = re.search(r"(READ|WRITE) of size (\d+)", report)
    what = f"a {access[1].lower()} of {access[2]} bytes out of bounds" if access else "a bad access"
    line = re.search(rf"{re.escape(Path(source).name)}:(\d+)", report)
    if not line:
        return what
    text = Path(source).read_text().splitlines()[int(line[1]) - 1]
    return f"{what} in line {line[1]}: {text.strip()}"
