"""The parent's side: start the student's process, ask it, limit it, end it with all it started.

`Student` looks like the student's module to a check: `solution.compute(2, "+", 3)` asks the process
and gives back the result. Whatever a student does to their own process, the expected values and the
comparison are in this one.
"""

import ast
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import student as worker

LONGEST = 64 << 20            # characters of one result at most
PRINTED = 2000                # characters of the student's prints that are shown
STARTED = 180.0               # seconds for a process to load its libraries; they count for no check


class Mismatch(Exception):
    """What a check raises: its text says what was expected and what came."""


class Wrong(Mismatch):
    """The student's function raised something; its process is ready for more."""


class Spent(Mismatch):
    """The time of the whole grading is over."""


@dataclass(frozen=True)
class Limits:
    """Of a grading."""

    seconds: float = 60       # of one check
    total: float = 300        # of all checks together
    megabytes: int = 2048     # beyond what the libraries take


class Student:
    """The functions of a solution, each call made in a process of its own."""

    def __init__(self, path: str | Path, limits: Limits = Limits()):
        self.limits, self.source = limits, Path(path)
        self.folder = Path(tempfile.mkdtemp(prefix="grading-"))
        self.path = self.folder / "solution.py"
        self.path.write_bytes(self.source.read_bytes())
        self.end = time.monotonic() + limits.total
        self.check_end, self.process = self.end, None
        self.modules: tuple[str, ...] = ()       # loaded before the limits, beside those it imports
        self.printed = (self.folder / "printed.txt").open("w+b")

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.all(name, [arguments])[0]

    def all(self, name: str, calls: list[tuple]) -> list:
        """The results of many calls of one function; functions among the arguments run here."""
        callbacks, packed = {}, []
        for arguments in calls:
            packed.append([])
            for i, argument in enumerate(arguments):
                if callable(argument):
                    callbacks[str(i)] = argument
                packed[-1].append({"f": str(i)} if callable(argument) else worker.pack(argument))
        return self.ask({"name": name, "calls": packed}, callbacks)

    def gradient(self, name: str, arguments: tuple, wrt: list[int], weights=None) -> tuple:
        """(value, gradients of sum(weights * value) for the arguments numbered in wrt)."""
        return self.ask({"name": name, "calls": [worker.pack(list(arguments))], "wrt": wrt,
                         "weights": worker.pack(weights)}, {})[0]

    def new_check(self) -> None:
        """The clock of one check."""
        self.check_end = min(self.end, time.monotonic() + self.limits.seconds)

    def ask(self, request: dict, callbacks: dict[str, Callable]) -> list:
        """Send a request, serve its callbacks; a Mismatch says in one line what went wrong."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        assert self.process is not None
        try:
            self.send(request)
            while "call" in (reply := self.receive()):
                arguments = worker.unpack(reply["arguments"])
                self.send(worker.pack(callbacks[reply["call"]](*arguments)))
            return self.read(reply, request)
        except Wrong:
            raise
        except Mismatch:                    # it is in the middle of something: the next check
            self.stop()                     # gets a process of its own
            raise
        except Exception as error:
            self.stop()
            raise Mismatch("expected a result, came something that is none "
                           f"({type(error).__name__})") from None

    def read(self, reply: dict, request: dict) -> list:
        """The results, or what the student's function raised."""
        if "result" in reply:
            return worker.unpack(reply["result"])
        number, on = reply.get("number"), ""
        if isinstance(number, int) and 0 <= number < len(request["calls"]):
            call = " ".join(repr(tuple(worker.unpack(request["calls"][number], str))).split())
            on = f"on {request['name']}{call if len(call) <= 90 else call[:87] + '...'}: "
        where = f" in line {reply['line']}" if reply.get("line") else ""
        if reply["error"] == "NotImplementedError":
            raise Wrong("expected a solution, came NotImplementedError: nothing is written yet")
        raise Wrong(f"{on}expected a result, came {reply['error']}{where}: "
                    f"{str(reply['text'])[:200]}")

    def send(self, message: object) -> None:
        """One line to the process."""
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass                            # receive() says what happened

    def receive(self) -> dict:
        """One line from the process, in time."""
        try:
            line = self.lines.get(timeout=max(0.0, self.check_end - time.monotonic()))
        except queue.Empty:
            if time.monotonic() >= self.end:
                raise Spent(f"expected an end of all checks within {self.limits.total:g} s, "
                            "came none") from None
            raise Mismatch(f"expected an end within {self.limits.seconds:g} s, came none: an "
                           "endless loop?") from None
        if len(line) > LONGEST:
            raise Mismatch("expected a result, came more than 64 MB")
        if not line:
            code = self.process.wait()
            kind = {-getattr(signal, "SIGXCPU", 999): "its processor time was used up",
                    -getattr(signal, "SIGKILL", 999): "killed: too much time or memory?"}
            raise Mismatch("expected a result, came the end of the process "
                           f"({kind.get(code, f'exit code {code}')})")
        return json.loads(line)

    def start(self) -> None:
        """A new process, in a group and a folder of its own."""
        self.stop()
        names = {"numpy", *imported(self.source), *self.modules}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                        "MINIREASON_GRADING": str(self.folder)}
        modules = ",".join(sorted(names & {"numpy", "torch"}))
        self.process = subprocess.Popen(
            [sys.executable, str(Path(worker.__file__).resolve()), str(self.path),
             str(self.limits.megabytes), str(int(self.limits.total) + 1), modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.printed, cwd=self.folder,
            env=environment, start_new_session=True)
        self.lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=read_lines, args=(self.process.stdout, self.lines),
                         daemon=True).start()
        began, check_end, end = time.monotonic(), self.check_end, self.end
        self.check_end = self.end = began + STARTED
        try:
            self.receive()
        finally:
            taken = time.monotonic() - began
            self.check_end, self.end = check_end + taken, end + taken

    def stop(self) -> None:
        """End the process, its group, and whatever left the group."""
        if self.process is not None:
            end_group(self.process)
            end_marked(f"MINIREASON_GRADING={self.folder}")
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process = None

    def close(self) -> str:
        """End everything; returns what the student printed, shortened."""
        self.stop()
        if self.printed.closed:
            return ""
        self.printed.seek(0)
        text = self.printed.read(PRINTED).decode(errors="replace")
        self.printed.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return text


def read_lines(pipe, lines: queue.Queue) -> None:
    """Put every line into the queue; an empty one at the end."""
    with contextlib.suppress(OSError, ValueError):
        while line := pipe.readline(LONGEST + 1):
            lines.put(line)
    lines.put(b"")


def end_group(process: subprocess.Popen) -> None:
    """Kill a process that leads a group, and the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def end_marked(mark: str) -> None:
    """Kill processes whose environment holds the mark: those that made a group of their own."""
    for folder in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, without what is below them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found
