"""Running compilers, and the private folder that keeps what they built.

A file in the folder is named for what it was made from and for the sha256 of its bytes, and is used
only while that is still its hash: one that was cut, changed or planted is built again, never
loaded. A build is tried before it is moved into place whole, so neither a compiler that writes
garbage nor two processes that build the same thing can spoil the cache.
"""

import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COMPILE_SECONDS = 600.0           # a compiler that takes longer hangs
TRY_SECONDS = 60.0                # the same for loading what it wrote
ELSEWHERE = "set MINIREASON_KERNEL_CACHE to a folder of your own"


class BuildError(RuntimeError):
    """A compiler is missing, hangs or refuses, or the cache cannot be used; one line, with advice.

    `output` is all that the compiler wrote.
    """

    def __init__(self, message: str, output: str = ""):
        super().__init__(message)
        self.output = output


def check_system() -> None:
    """BuildError where compilers could not be stopped, nor what they built be kept from others."""
    if not (hasattr(os, "killpg") and hasattr(os, "geteuid")):
        raise BuildError("nothing is compiled on this system: it has no process groups or owners "
                         "of files as POSIX has (on Windows, WSL has them)")


def first_lines(output: str) -> str:
    """A compiler's first complaint and what follows it, on one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    wrong = [i for i, line in enumerate(lines) if re.search(r"\berror\b|undefined", line, re.I)]
    first = wrong[0] if wrong else 0
    return " | ".join(lines[first:first + 3])[:400] or "it wrote nothing"


def run(command: list[str], seconds: float | None = None) -> str:
    """Run a compiler; returns what it wrote. BuildError if it fails or takes too long."""
    return run_all([command], seconds)[0]


def run_all(commands: list[list[str]], seconds: float | None = None, at_once: int = 1) -> list[str]:
    """Run compilers, a few at once, each for COMPILE_SECONDS at most; returns what they wrote.

    If one fails or takes too long, or this process is interrupted, all are stopped.
    """
    started: list[Compiler] = []
    outputs: list[str] = []
    try:
        for command in commands:
            if len(started) == len(outputs) + at_once:
                outputs.append(started[len(outputs)].output())
            started.append(Compiler(command, COMPILE_SECONDS if seconds is None else seconds))
        return outputs + [compiler.output() for compiler in started[len(outputs):]]
    finally:
        for compiler in started:
            compiler.stop()


class Compiler:
    """One that runs, the leader of a process group that is killed as one."""

    def __init__(self, command: list[str], seconds: float):
        check_system()
        self.name, self.seconds, self.end = command[0], seconds, time.monotonic() + seconds
        self.said = tempfile.TemporaryFile()       # not a pipe: a server left behind would hold it
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.said,
                                            stderr=self.said, start_new_session=True)
        except OSError as error:
            raise BuildError(f"{self.name} cannot be started: {error.strerror}") from None

    def output(self) -> str:
        """What it wrote by its end."""
        try:
            status = self.process.wait(max(0.0, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise BuildError(f"{self.name} did not end within {self.seconds:g} s and was stopped; "
                             "mend it or choose another (CXX, CUDA_HOME)") from None
        self.said.seek(0)
        output = self.said.read().decode(errors="replace")
        if status:
            raise BuildError(f"{self.name} failed with status {status}: {first_lines(output)}",
                             output)
        return output

    def stop(self) -> None:
        """Kill it and its children if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.said.close()


def folder() -> Path:
    """The cache: MINIREASON_KERNEL_CACHE, or minireason/kernels in the user's cache folder.

    It is made for this user alone. BuildError if it is another's, or others may change it.
    """
    default = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(default):
        default = os.path.expanduser("~/.cache")
    default = (f"{default}/minireason/kernels" if os.path.isabs(default)     # else there is no home
               else f"{tempfile.gettempdir()}/minireason-kernels-{os.geteuid()}")
    named = os.path.expanduser(os.environ.get("MINIREASON_KERNEL_CACHE") or default)
    try:
        path = Path(named).resolve()
        for part in (*reversed(path.parents), path):
            part.mkdir(0o700, exist_ok=True)
        facts = path.stat()
        loose = [part for part in path.parents if others_may_change(part)]
    except (OSError, RuntimeError) as error:                   # RuntimeError: a circle of links
        raise BuildError(f"{named}: no cache for compiled code ({error}); {ELSEWHERE}") from None
    if facts.st_uid != os.geteuid():
        raise BuildError(f"{path} belongs to another user, so no compiled code is kept there or "
                         f"loaded from there; {ELSEWHERE}")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or loose:
        raise BuildError(f"{[*loose, path][0]} can be changed by other users, so no compiled code "
                         f"is kept or loaded there; run chmod go-w on it, or {ELSEWHERE}")
    return path


def others_may_change(path: Path) -> bool:
    """Whether users other than root may put a folder of theirs in the place of one in `path`."""
    facts, trusted = path.stat(), {0, os.geteuid(), Path("/").stat().st_uid}   # in a container root
    open_to_all = facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX    # is not 0
    return bool(open_to_all) or facts.st_uid not in trusted


def kept(name: str, make: Callable[[Path], object], test: Callable[[Path], object]) -> Path:
    """Path of what was made under a name, its sha256 verified; made if there is no such file.

    make(path) writes the file, test(path) raises BuildError if it is no good.
    """
    cache = folder()
    stem, suffix = os.path.splitext(name)
    try:
        for path in sorted(cache.glob(f"{stem}-*{suffix}")):
            if is_whole(path):
                return path
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            built = Path(temporary) / name
            make(built)
            test(built)
            path = cache / f"{stem}-{sha256_of(built)}{suffix}"
            os.replace(built, path)
    except OSError as error:
        raise BuildError(f"{cache}: cannot keep compiled code there ({error}); {ELSEWHERE}") \
            from None
    return path


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a file's sha256 is the one that its name ends in."""
    try:
        return path.is_file() and path.stem.endswith(f"-{sha256_of(path)}")
    except OSError:
        return False              # it cannot be read


def try_loading(path: Path, *symbols: str) -> None:
    """Load a library in a process that it may crash; BuildError if that fails, or a symbol lacks.
    """
    load = "import ctypes, sys; [ctypes.CDLL(sys.argv[1])[symbol] for symbol in sys.argv[2:]]"
    sanitizer = "ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0"     # for builds with one
    try:
        run(["env", sanitizer, sys.executable, "-ISc", load, str(path), *symbols], TRY_SECONDS)
    except BuildError as error:
        why = (error.output.splitlines() or [str(error)])[-1].replace(f"{path}: ", "")
        raise BuildError(f"the compiler wrote what cannot be loaded ({why}); mend it, choose "
                         f"another (CXX, CUDA_HOME), or {ELSEWHERE}", error.output) from None
