"""Wrong solutions of every assignment, each a small change of the right one: `wrong/NAME.txt`.

    # what is wrong
    - lines of solutions/NAME.* that stand there once
    + what replaces them

    python tests/assignments/wrong_solutions.py [NAME ...]     grade all; counts for docs/LOG.md

Each must lose points and be told "expected ..., came ...", the right one must lose none. Changed
solutions run in this process (Local), the compiled ones in one of their own.
"""

import json
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

sys.path.append(str(Path(__file__).resolve().parents[2] / "tutorials" / "assignments"))
import grading
import student

from cuda_ext import build

HERE = Path(__file__).resolve().parent
ASSIGNMENTS = HERE.parents[1] / "tutorials" / "assignments"
FOLDERS = sorted(path.parent.name for path in ASSIGNMENTS.glob("*/grade.py"))


def solution_path(folder: str) -> Path:
    """The right solution of an assignment."""
    return next((HERE / "solutions").glob(f"{folder}.*"))


def wrong_solutions(folder: str) -> list[tuple[str, str]]:
    """(what is wrong, source) of each."""
    right, found = solution_path(folder).read_text(), []
    for block in (HERE / "wrong" / f"{folder}.txt").read_text().split("\n# "):
        name, *lines = block.removeprefix("# ").rstrip("\n").split("\n")
        source = right
        while lines:
            removed = take(lines, "- ")
            added = take(lines, "+ ")
            assert source.count(removed) == 1, f"{folder}: {name}: {source.count(removed)} places"
            source = source.replace(removed, added)
        found.append((name, source))
    return found


def take(lines: list[str], sign: str) -> str:
    """Lines that begin with the sign, taken from the front."""
    taken = []
    while lines and lines[0].startswith(sign.strip()):
        taken.append(lines.pop(0)[2:])
    assert taken, lines[:1]
    return "\n".join(taken)


class Local(grading.Student):
    """A solution in this process, asked through the same format as one in its own."""

    def __init__(self, path: Path | str, limits: grading.Limits = grading.Limits()):   # noqa: B008
        self.module: ModuleType | None = None
        self.path = Path(path)

    def new_check(self) -> None:
        """A fresh module, as nothing here ends with its process."""
        self.module = None

    def close(self) -> str:
        return ""

    def ask(self, request: dict, callbacks: dict[str, Callable]) -> list:
        """The reply of student.answer, through JSON."""
        def callback(name: str) -> Callable:
            def call(*arguments):
                reply = callbacks[name](*through(arguments))
                return through(reply)
            return call

        def through(value: object) -> object:
            return student.unpack(json.loads(json.dumps(student.pack(value))))

        wrong: list[grading.Mismatch] = []

        def guarded(name: str) -> Callable:
            def call(*arguments):
                try:
                    return callback(name)(*arguments)
                except grading.Mismatch as mismatch:
                    wrong.append(mismatch)
                    raise
            return call

        try:
            self.module = self.module or student.load(str(self.path))
            reply = student.answer(self.module, json.loads(json.dumps(request)), guarded)
        except Exception as error:
            reply = student.failure(error, str(self.path))
        if wrong:
            raise wrong[0]
        return self.read(json.loads(json.dumps(reply)), request)


def grader(folder: str) -> dict:
    """The names of an assignment's grade.py."""
    sys.path.append(str(ASSIGNMENTS / folder))
    return runpy.run_path(str(ASSIGNMENTS / folder / "grade.py"))


def lost(found: dict, path: Path, seed: int) -> dict[str, str]:
    """{check that was lost: why} of a solution."""
    solution = (found["Program"] if path.suffix == ".cu" else Local)(path, grading.Limits())
    try:
        results = grading.run_checks(found["CHECKS"], solution, seed, lambda line: None)
        return {result.check.name: result.wrong for result in results if result.wrong}
    finally:
        solution.close()


def no_nvcc() -> str:
    """Stands for build.find_nvcc: what nvcc says is slow to get, and worth no points."""
    raise build.BuildError("nvcc not found")


def main(folders: list[str]) -> int:
    """One line an assignment, and one for each wrong solution that got through."""
    build.find_nvcc = no_nvcc
    missed = 0
    for number, folder in enumerate(folders):
        found, caught, checks = grader(folder), 0, set()
        right = solution_path(folder)
        assert not lost(found, right, seed=number), f"{folder}: the right solution loses points"
        every = wrong_solutions(folder)
        with tempfile.TemporaryDirectory() as scratch:
            for name, source in every:
                path = Path(scratch) / f"wrong{right.suffix}"
                path.write_text(source)
                why = lost(found, path, seed=number)
                caught += bool(why)
                checks |= set(why)
                if not why:
                    print(f"{folder}: NOT CAUGHT: {name}", flush=True)
                elif "-v" in sys.argv:
                    print(f"  {name}\n     {' | '.join(f'{c}: {w}' for c, w in why.items())[:300]}")
        print(f"{folder}: {caught} of {len(every)} wrong solutions caught, by {len(checks)} of "
              f"{len(found['CHECKS'])} checks; the right one has full points", flush=True)
        missed += len(every) - caught
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main([name for name in sys.argv[1:] if name != "-v"] or FOLDERS))
