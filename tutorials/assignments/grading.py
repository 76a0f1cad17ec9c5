"""What all graders share: named checks, each worth points.

The student's functions run in a process of their own (judge.py, student.py); the checks, what they
expect and the comparison stay in this one. Cases are drawn anew for each grading, from a seed that
is printed. A grader is a list of checks and one line: `raise SystemExit(grade(CHECKS, __file__))`.
"""

import argparse
import contextlib
import hashlib
import json
import runpy
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rules
import torch
from judge import Limits, Mismatch, Student

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str
    points: int
    run: Callable           # (solution, seed): raises Mismatch if something is wrong
    hidden: bool = False    # from --hidden: the student is told that it failed, not why


# ---- comparing -------------------------------------------------------------------------------

def expect(came: object, expected: object, on: str, likely: dict | None = None) -> None:
    """The two are equal and of one kind: True is not 1, a list is not a tuple.

    likely: {mistake: what it gives}, to name the mistake; values or functions without arguments.
    """
    if type(came) is not type(expected) or came != expected:
        hint = next((f"; {mistake}" for mistake, value in (likely or {}).items()
                     if came == (value() if callable(value) else value)), "")
        raise Mismatch(f"on {on}: expected {short(expected)}, came {short(came)}{hint}")


def close(came: object, expected: object, on: str, tolerance: float = 1e-5,
          likely: dict | None = None) -> None:
    """Numbers, arrays or tensors of one shape, finite, and equal up to the tolerance."""
    try:
        a, b = numbers(came), numbers(expected)
    except (TypeError, ValueError):
        raise Mismatch(f"on {on}: expected numbers, came {short(came)}") from None
    if a.shape != b.shape:
        raise Mismatch(f"on {on}: expected shape {b.shape}, came {a.shape}")
    off = ~(np.abs(a - b) <= tolerance * (1 + np.abs(b)))       # NaN is off, too
    if off.any():
        at = tuple(int(i) for i in np.argwhere(off)[0])
        hint = next((f"; {mistake}" for mistake, value in (likely or {}).items()
                     if same(a, numbers(value() if callable(value) else value), tolerance)), "")
        raise Mismatch(f"on {on}: expected {b[at]:.6g}, came {a[at]:.6g}"
                       + (f" at {list(at)} ({int(off.sum())} of {a.size} differ)" if at else "")
                       + hint)


def numbers(value: object) -> np.ndarray:
    """As float64."""
    return np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, dtype=float)


def same(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Equal up to the tolerance."""
    return a.shape == b.shape and bool((np.abs(a - b) <= tolerance * (1 + np.abs(b))).all())


def require(true: bool, expected: str, came: str) -> None:
    """A property that is no single value."""
    if not true:
        raise Mismatch(f"expected {expected}, came {came}")


def short(value: object) -> str:
    """One line of at most 160 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 160 else text[:157] + "..."


# ---- grading ---------------------------------------------------------------------------------

@dataclass
class Result:
    """What came of a check."""

    check: Check
    wrong: str              # in one line; empty if it passed

    @property
    def score(self) -> int:
        """Points gained."""
        return 0 if self.wrong else self.check.points

    def line(self) -> str:
        """As it is printed."""
        why = "" if not self.wrong else ": not passed" if self.check.hidden else f": {self.wrong}"
        return (f"{'FAIL' if self.wrong else 'pass'}  {self.score}/{self.check.points}  "
                f"{self.check.name}{why}")


def outcome(check: Check, solution: object, seed: int) -> str:
    """What is wrong, in one line; empty if the check passes."""
    try:
        check.run(solution, seed)
    except Mismatch as wrong:
        return " ".join(str(wrong).split())
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        return (f"expected a result of the right kind, came something that the check cannot read "
                f"({type(error).__name__}: {short(str(error))})")
    return ""


def fingerprints(*others: Path) -> dict[Path, str]:
    """sha256 of every source file below the graders' folder, and of others."""
    files = [p for p in HERE.rglob("*") if p.suffix in (".py", ".h", ".cu")]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "gone"
            for path in [*files, *(other.resolve() for other in others)]}


def run_checks(checks: list[Check], solution: Student, seed: int,
               tell: Callable[[str], None]) -> list[Result]:
    """All checks, in order; after the time of the whole grading nothing more is asked."""
    results: list[Result] = []
    for check in checks:
        over = bool(results) and results[-1].wrong.startswith("expected an end of all checks")
        if not over:
            solution.new_check()
        result = Result(check, results[-1].wrong if over else outcome(check, solution, seed))
        results.append(result)
        tell(result.line())
    return results


def hidden_checks(path: str, fail: Callable[[str], None]) -> list[Check]:
    """The teacher's own: CHECKS of a Python file, which may import grading as graders do."""
    if not Path(path).is_file():
        fail(f"--hidden {path}: no such file")
    try:
        found = runpy.run_path(path)["CHECKS"]
        return [Check(c.name, c.points, c.run, hidden=True) for c in found]
    except Exception as error:
        fail(f"--hidden {path}: holds no list CHECKS that can be read: "
             f"{type(error).__name__}: {short(str(error))}")
        raise AssertionError from None


def report(results: list[Result], seed: int, remark: str) -> dict:
    """Gradescope's results.json."""
    tests = [{"name": r.check.name, "score": r.score, "max_score": r.check.points,
              "status": "failed" if r.wrong else "passed",
              "output": "" if r.check.hidden else r.wrong,
              "visibility": "after_published" if r.check.hidden else "visible"} for r in results]
    return {"score": sum(r.score for r in results), "output": f"seed {seed}\n{remark}".strip(),
            "tests": tests}


def options_of(arguments: list[str] | None, default: Path) -> tuple[argparse.Namespace, Callable]:
    """The command line, and the function that ends it with one line."""
    parser = argparse.ArgumentParser(description="Grade a solution of this assignment.")
    parser.add_argument("solution", nargs="?", default=str(default))
    parser.add_argument("--seed", type=int, help="of the cases; drawn and printed by default")
    parser.add_argument("--json", metavar="FILE", help="write Gradescope's results.json there")
    parser.add_argument("--hidden", metavar="FILE", help="more checks: CHECKS of a Python file")
    parser.add_argument("--seconds", type=float, default=60, help="limit of one check")
    parser.add_argument("--total", type=float, default=300, help="limit of all checks together")
    parser.add_argument("--megabytes", type=int, default=2048, help="memory beyond the libraries'")
    options = parser.parse_args(arguments)

    def fail(what: str) -> None:
        print(f"{Path(sys.argv[0]).name}: {what}", file=sys.stderr)
        raise SystemExit(2)

    path = Path(options.solution)
    if not path.is_file():
        fail(f"{path}: no such file")
    if path.suffix != default.suffix:
        fail(f"{path}: not a {default.suffix} file")
    if options.seed is not None and options.seed < 0:
        fail("--seed must be 0 or more")
    if min(options.seconds, options.total, options.megabytes) <= 0:
        fail("--seconds, --total and --megabytes must be above 0")
    if options.json and not Path(options.json).resolve().parent.is_dir():
        fail(f"--json {options.json}: no such folder")
    return options, fail


def grade(checks: list[Check], grader: str, arguments: list[str] | None = None, *,
          starter: str = "starter.py", allowed: tuple[str, ...] = (),
          banned: tuple[str, ...] = (), broken: Callable | None = None,
          student: Callable = Student) -> int:
    """Run all checks, print a line each and the total; returns the exit code, 0 for full points.

    allowed, banned: as for rules.broken. broken, student: for a solution that is not Python.
    """
    options, fail = options_of(arguments, Path(grader).resolve().with_name(starter))
    seed = secrets.randbelow(10 ** 9) if options.seed is None else options.seed
    solution = Path(options.solution)
    more = hidden_checks(options.hidden, fail) if options.hidden else []
    others = sorted(solution.resolve().parent.glob(f"*{solution.suffix}"))     # other students'
    every, before = [*checks, *more], fingerprints(*others)
    torch.set_num_threads(1)
    print(f"seed {seed} (repeat with --seed {seed})")
    source = solution.read_bytes()
    rules_broken = broken(source) if broken else rules.broken(source, allowed, banned)
    remark, results = "", []
    if rules_broken:
        remark = "\n".join(f"{solution.name} {line}" for line in rules_broken)
        results = [Result(check, f"not run: {rules_broken[0]}") for check in every]
        print(f"not graded:\n{remark}")
    else:
        asked = student(solution, Limits(options.seconds, options.total, options.megabytes))
        asked.modules = allowed
        try:
            results = run_checks(every, asked, seed, lambda line: print(line, flush=True))
        finally:
            if printed := asked.close():
                print(f"what the solution printed:\n{printed}", file=sys.stderr)
    after = fingerprints(*others)
    if changed := sorted(p.name for p in {*before, *after} if before.get(p) != after.get(p)):
        remark = f"files changed while grading, no points: {', '.join(changed)}"
        results = [Result(r.check, remark) for r in results]
        print(remark)
    total, most = sum(r.score for r in results), sum(check.points for check in every)
    if options.json:
        with contextlib.suppress(OSError):
            Path(options.json).write_text(json.dumps(report(results, seed, remark), indent=1))
    print(f"{total} / {most} points")
    return 2 if changed else 0 if total == most else 1


__all__ = ["Check", "Limits", "Mismatch", "Student", "close", "expect", "grade", "require"]
