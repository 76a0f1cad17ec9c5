"""Compiles a student's kernel against the host emulator and runs it: see harness.h.

One program a solution, with AddressSanitizer; one run of it a check.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from judge import Limits, Mismatch, Spent, end_group

from cuda_ext import build

HERE = Path(__file__).resolve().parent
ORDERS = ("up late", "down late")      # which warp runs first; when a copy lands
SCHEDULES = (*ORDERS, "up eager", "down eager")
MODE = ("--param", "asan-instrumentation-with-call-threshold=0", "-ldl",    # for counting.h
        "-O0", "-g1", "-fsanitize=address", "-fsanitize-recover=address",   # -O0: an optimizer may
        "-fno-omit-frame-pointer")                                          # drop a read too many


# ---- the compilers -------------------------------------------------------------------------------

def first_error(text: str) -> str:
    """The compiler's first complaint, without folders."""
    lines = [line for line in text.splitlines() if re.search(r"\berror\b|undefined", line)]
    return re.sub(r"\S*/(?=[^/\s]+[:(]\d)", "", (lines or text.splitlines() or ["nothing"])[0])


def compile_host(source: Path, program: Path) -> str:
    """Compile and link against the emulator; what is wrong with the source, or nothing."""
    main = program.with_suffix(".cpp")
    main.write_text(f'#include "counting.h"\n#include "{source.name}"\n#include "harness.h"\n')
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


FORBIDDEN = re.compile(
    r"\b(asm|__asm__|system|popen|fork|vfork|exec[lv]p?e?|syscall|dlopen|dlsym|getenv|setenv|putenv|"
    r"f?open|freopen|ofstream|ifstream|fstream|filesystem|mmap|thread|pthread_\w+|main|_exit|exit|"
    r"__asan_\w+|__attribute__|grader|emulator|undef|undefine|pragma)\b|##|%:|\?\?|\\u")


def broken(source: bytes) -> list[str]:
    """A line for each rule that a kernel's source breaks: one header, kernels and nothing else."""
    text, found = source.decode(errors="replace").replace("\\\n", ""), []
    text = re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    for number, line in enumerate(text.splitlines(), 1):
        include = re.match(r"\s*#\s*include\b\s*(.*)", line)
        if include and include[1].strip() != '"vocabulary.h"':
            found.append(f"line {number}: including {include[1].strip()} is not allowed; allowed: "
                         '"vocabulary.h"')
        if re.match(r"\s*#\s*define\s+(launch|__syncthreads|threadIdx|blockIdx)\b", line):
            found.append(f"line {number}: CUDA's words may not be defined anew")
        found += [f"line {number}: {word[0]} is not allowed" for word in FORBIDDEN.finditer(line)]
    return found


class Program:
    """A student's kernel, compiled: what the checks of this assignment run."""

    def __init__(self, path: Path, limits: Limits):
        self.limits, self.folder = limits, Path(tempfile.mkdtemp(prefix="grading-"))
        self.source = self.folder / f"{path.stem}.cu"
        self.program = self.folder / "program"
        self.source.write_bytes(path.read_bytes())
        self.wrong = compile_host(self.source, self.program)
        self.end = self.check_end = time.monotonic() + limits.total
        if not self.wrong and (line := gpu_line(self.source)):
            print(line, flush=True)

    def new_check(self) -> None:
        """The clock of one check."""
        self.check_end = min(self.end, time.monotonic() + self.limits.seconds)

    def close(self) -> str:
        """Nothing that it printed is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return ""

    def run(self, cases: list[np.ndarray],
            schedules: tuple[str, ...] = ORDERS) -> list[list["Run"]]:
        """All cases under all schedules, in one process of the student's program."""
        if self.wrong:
            raise Mismatch(f"expected a file that compiles, came {self.wrong}")
        given, results = self.folder / "cases", self.folder / "results"
        given.write_bytes(b"".join(np.array(case.shape, np.int32).tobytes() + case.tobytes()
                                   for case in cases))
        results.write_bytes(b"")
        words = [word for schedule in schedules for word in schedule.split()]
        code, said = self.ended([str(self.program), str(given), str(results), *words])
        if code:
            cause = re.search(r"SUMMARY: AddressSanitizer: (.*)", said)
            raise Mismatch(f"expected a result, came the end of the program (exit code {code})"
                           + (f": {first_error(cause[1])}" if cause else ""))
        try:
            return read(results.read_bytes(), cases, schedules)
        except (ValueError, IndexError):
            raise Mismatch("expected a result, came a program that wrote none") from None

    def ended(self, command: list[str]) -> tuple[int, str]:
        """(exit code, what it said on standard error) of a process in its limits."""
        options = f"detect_leaks=0:halt_on_error=0:hard_rss_limit_mb={self.limits.megabytes}"
        with (self.folder / "said").open("w+b") as said:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                cwd=self.folder, start_new_session=True, preexec_fn=bounded,
                env={**os.environ, "EMULATE_THREADS": "1", "ASAN_OPTIONS": options})
            try:
                code = process.wait(max(0.0, self.check_end - time.monotonic()))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= self.end:
                    raise Spent(f"expected an end of all checks within {self.limits.total:g} s, "
                                "came none") from None
                raise Mismatch(f"expected an end within {self.limits.seconds:g} s, came none: an "
                               "endless loop?") from None
            finally:
                end_group(process)
            said.seek(0)
            return code, said.read(1 << 20).decode(errors="replace")


def bounded() -> None:
    """In the new process: no file above 256 MB, no core. Memory is AddressSanitizer's to limit."""
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20, 256 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# ---- running it ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Run:
    """What came of one case under one schedule; the counts are those of counting.h."""

    schedule: str
    status: int
    words: str             # the emulator's, where it stopped the kernel
    report: str            # AddressSanitizer's first one
    launches: int
    host: int
    foreign: int
    strayed: int
    threads: int
    barriers: int
    shared_reads: int
    busy: int
    weights: np.ndarray    # (R, T, S); NaN where nothing was written


def read(results: bytes, cases: list[np.ndarray], schedules: tuple[str, ...]) -> list[list[Run]]:
    """The harness's file: status, two texts, eight counts, weights."""
    at, runs = 0, []

    def take(n_bytes: int) -> bytes:
        nonlocal at
        at += n_bytes
        if not 0 <= n_bytes <= len(results) - at + n_bytes:
            raise ValueError("cut off")
        return results[at - n_bytes:at]

    def number() -> int:
        return int.from_bytes(take(4), sys.byteorder, signed=True)

    for case in cases:
        runs.append([])
        for schedule in schedules:
            status = number()
            texts = [take(number()).decode(errors="replace") for _ in range(2)]
            counts = [number() for _ in range(8)]
            weights = np.frombuffer(take(case.nbytes), np.float32).reshape(case.shape)
            runs[-1].append(Run(schedule, status, *texts, *counts, weights))
    return runs


def place(report: str, source: Path) -> str:
    """Where an access out of bounds stands in the student's file."""
    access = re.search(r"(READ|WRITE) of size (\d+)", report)
    what = f"a {access[1].lower()} of {access[2]} bytes out of bounds" if access else "a bad access"
    line = re.search(rf"{re.escape(source.name)}:(\d+)", report)
    if not line:
        return what
    text = source.read_text().splitlines()[int(line[1]) - 1]
    return f"{what} in line {line[1]}: {text.strip()}"
