"""What all graders share: named checks, each worth points, each run in a process of its own.

A crash, an exit or an endless loop in a student's function costs only the checks that call it. A
grader is a list of checks and one line: `raise SystemExit(grade(CHECKS, __file__))`.
"""

import argparse
import contextlib
import importlib.util
import multiprocessing
import runpy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch


class Mismatch(Exception):
    """What a check raises: its text says what was expected and what came."""


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str
    points: int
    run: Callable[[ModuleType], None]    # given the student's module; raises if it is wrong


def expect(came: object, expected: object, on: str) -> None:
    """The two are equal and of one kind: True is not 1, a list is not a tuple."""
    if type(came) is not type(expected) or came != expected:
        raise Mismatch(f"on {on}: expected {short(expected)}, came {short(came)}")


def close(came: object, expected: object, on: str, tolerance: float = 1e-5) -> None:
    """Numbers, arrays or tensors of one shape, finite, and equal up to the tolerance."""
    try:
        a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, dtype=float)
                for x in (came, expected))
    except (TypeError, ValueError):
        raise Mismatch(f"on {on}: expected numbers, came {short(came)}") from None
    if a.shape != b.shape:
        raise Mismatch(f"on {on}: expected shape {b.shape}, came {a.shape}")
    off = ~(np.abs(a - b) <= tolerance * (1 + np.abs(b)))       # NaN is off, too
    if off.any():
        at = tuple(int(i) for i in np.argwhere(off)[0])
        raise Mismatch(f"on {on}: expected {b[at]:.6g}, came {a[at]:.6g}"
                       + (f" at {list(at)} ({int(off.sum())} of {a.size} differ)" if at else ""))


def require(true: bool, expected: str, came: str) -> None:
    """A property that is no single value."""
    if not true:
        raise Mismatch(f"expected {expected}, came {came}")


def short(value: object) -> str:
    """One line of at most 160 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 160 else text[:157] + "..."


def load(path: str | Path) -> ModuleType:
    """The student's file as a module."""
    spec = importlib.util.spec_from_file_location("solution", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["solution"] = module          # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def outcome(check: Check, path: str | Path) -> str:
    """What is wrong, in one line; empty if the check passes."""
    try:
        with contextlib.redirect_stdout(sys.stderr):      # the student's prints
            check.run(load(path))
    except Mismatch as wrong:
        return str(wrong)
    except NotImplementedError:
        return "expected a solution, came NotImplementedError: nothing is written yet"
    except BaseException as error:                        # a student may raise or exit as they like
        return f"expected a result, came {type(error).__name__}: {short(str(error))}"
    return ""


def _spawned(grader: str, number: int, path: str, pipe) -> None:
    """A new process holds no checks: it reads the grader's file for them."""
    torch.set_num_threads(1)
    checks = runpy.run_path(grader)["CHECKS"]
    pipe.send(outcome(checks[number], path))


def _forked(check: Check, path: str, pipe) -> None:
    pipe.send(outcome(check, path))


def start_method() -> str:
    """Forking costs milliseconds, but is safe with PyTorch on Linux only."""
    return "fork" if sys.platform == "linux" else "spawn"


def run_check(checks: list[Check], number: int, grader: str, path: str, seconds: float) -> str:
    """outcome() in a process that is ended after `seconds`."""
    context = multiprocessing.get_context(start_method())
    ours, theirs = context.Pipe(duplex=False)
    forks = start_method() == "fork"
    target, arguments = ((_forked, (checks[number], path, theirs)) if forks else
                         (_spawned, (grader, number, path, theirs)))
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            return f"expected an end within {seconds:g} s, came none: an endless loop?"
        return ours.recv()
    except EOFError:
        process.join()
        return f"expected a result, came the end of the process (exit code {process.exitcode})"
    finally:
        process.kill()
        process.join()


def grade(checks: list[Check], grader: str, arguments: list[str] | None = None, *,
          starter: str = "starter.py",
          prepare: Callable[[str], AbstractContextManager[str]] = contextlib.nullcontext) -> int:
    """Run all checks, print a line each and the total; returns the exit code.

    prepare: makes the Python module that the checks get from a solution that is none.
    """
    parser = argparse.ArgumentParser(description="Grade a solution of this assignment.")
    parser.add_argument("solution", nargs="?", default=str(Path(grader).with_name(starter)))
    parser.add_argument("--seconds", type=float, default=30, help="limit of one check")
    options = parser.parse_args(arguments)
    if not Path(options.solution).is_file():
        parser.error(f"{options.solution}: no such file")
    torch.set_num_threads(1)                  # a forked process must not wait for lost threads
    total = 0
    with prepare(options.solution) as module:
        for number, check in enumerate(checks):
            wrong = run_check(checks, number, grader, module, options.seconds)
            gained = 0 if wrong else check.points
            total += gained
            print(f"{'FAIL' if wrong else 'pass'}  {gained}/{check.points}  {check.name}"
                  + (f": {wrong}" if wrong else ""), flush=True)
    most = sum(check.points for check in checks)
    print(f"{total} / {most} points")
    return 0 if total == most else 1
