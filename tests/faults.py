"""Faults for tests: a disk that fails, or loses power, at its n-th operation."""

import builtins
import contextlib
import errno
import io
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from minireason.core import locks

ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}   # EIO once; a full disk stays full
DEATHS = ("killed", "undone", "torn", "zeroed")
KINDS = (*ERRORS, *DEATHS)
ROOM = ("create", "write", "mkdir")                   # what a full disk refuses


class Dead(BaseException):
    """Stands for the end of the process: nothing in the library may catch it."""


def release_locks() -> None:
    """What the end of a process does to the folders that it works in."""
    while locks._locked:
        os.close(locks._locked.popitem()[1])


class Disk:
    """The files below `base` for as long as its `with` block; its n-th operation goes wrong.

    EIO, ENOSPC   it raises this error, a write after half of its bytes
    killed        the process dies there; what it wrote stays
    undone        power is lost: names and contents are those of the last fsync of folder and file
    torn          power is lost: names are kept; of what was not fsynced, the first half is
    zeroed        power is lost: names and lengths are kept; what was not fsynced is zeros
    n = 0 only counts. Operations: opening for reading or writing, write, fsync, replace, unlink,
    mkdir and truncate. `act`, if given, is called at the n-th one instead.
    """

    def __init__(self, base: Path, n: int = 0, kind: str = "killed",
                 act: Callable[[], object] | None = None):
        self.base, self.n, self.kind, self.act = base.resolve(), n, kind, act
        self.count, self.hit, self.dead = 0, "", False
        self.ids: dict[int, int] = {}                 # inode: number of the file, never used twice
        self.counter = itertools.count()
        self.names: dict[Path, dict[str, int | None]] = {}   # fsynced: folder: {name: file}
        self.safe: dict[int, bytes] = {}              # fsynced: file: content
        self.real = {name: getattr(os, name) for name in (
            "open", "fsync", "replace", "unlink", "mkdir", "truncate", "ftruncate", "write")}
        self.real_open = io.open
        self.opened: list[int] = []                   # descriptors by os.open

    def __enter__(self) -> "Disk":
        for folder in (self.base, *filter(Path.is_dir, self.base.rglob("*"))):
            self.sync_folder(folder)
            for path in filter(Path.is_file, folder.iterdir()):
                self.safe[self.number(path)] = self.content(path)
        self.patches = contextlib.ExitStack()
        for module in (builtins, io):
            self.patches.enter_context(mock.patch.object(module, "open", self.open_file))
        for name in self.real:
            self.patches.enter_context(mock.patch.object(os, name, getattr(self, f"os_{name}")))
        return self

    def __exit__(self, *_) -> None:
        self.patches.close()
        release_locks()
        for descriptor in self.opened:                # left behind
            with contextlib.suppress(OSError):
                if self.inside(os.readlink(f"/proc/self/fd/{descriptor}")):
                    os.close(descriptor)

    # what is on the disk -------------------------------------------------------------------------

    def inside(self, path) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(
            self.base)

    def number(self, path: Path) -> int:
        return self.ids.setdefault(os.stat(path).st_ino, next(self.counter))

    def forget(self, path: Path) -> None:
        """A name goes: its inode may be used again, by another file."""
        if path.exists():
            self.ids.pop(os.stat(path).st_ino, None)

    def content(self, path: Path) -> bytes:
        with self.real_open(path, "rb") as file:
            return file.read()

    def sync_folder(self, folder: Path) -> None:
        self.names[folder] = {entry.name: None if entry.is_dir() else self.number(Path(entry.path))
                              for entry in os.scandir(folder)}

    def power_off(self) -> None:
        """Leave on the disk what the kind of power loss leaves."""
        kept: dict[Path, bytes | None] = {}           # None: a folder
        if self.kind == "undone":
            folders = [self.base]
            for folder in folders:
                for name, number in self.names.get(folder, {}).items():
                    kept[folder / name] = None if number is None else self.safe.get(number, b"")
                    folders += [folder / name] if number is None else []
        else:
            for path in sorted(self.base.rglob("*")):
                kept[path] = None if path.is_dir() else self.remains(path)
        shutil.rmtree(self.base)
        self.base.mkdir()
        for path, data in kept.items():
            path.mkdir() if data is None else path.write_bytes(data)

    def remains(self, path: Path) -> bytes:
        now, safe = self.content(path), self.safe.get(self.number(path), b"")
        kept = len(safe) if now.startswith(safe) else 0
        if self.kind == "torn":
            return now[:kept + (len(now) - kept) // 2]
        return now[:kept] + bytes(len(now) - kept)

    # operations ----------------------------------------------------------------------------------

    def at(self, operation: str, path) -> bool:
        """Count an operation; the wrong one raises. Path below base? Else it is not counted."""
        if not self.inside(path):
            return False
        if self.dead:
            raise Dead
        self.count += 1
        wrong = self.count == self.n
        if self.kind == "ENOSPC":
            wrong = 0 < self.n <= self.count and operation in ROOM
        if not wrong:
            return True
        self.hit = self.hit or f"{operation} {Path(path).name}"
        if self.act:
            self.act()
            return True
        if self.kind in ERRORS:
            code = ERRORS[self.kind]
            raise OSError(code, os.strerror(code), str(path))
        self.dead = True
        if self.kind != "killed":
            with self.off():
                self.power_off()
        raise Dead

    @contextlib.contextmanager
    def off(self):
        """The disk as it is, for what the injector does itself."""
        with contextlib.ExitStack() as stack:
            for module in (builtins, io):
                stack.enter_context(mock.patch.object(module, "open", self.real_open))
            for name, function in self.real.items():
                stack.enter_context(mock.patch.object(os, name, function))
            yield

    def open_file(self, path, mode="r", *arguments, **options):
        writes = bool(set(mode) & set("wax+"))
        if not self.inside(path):
            return self.real_open(path, mode, *arguments, **options)
        self.at("create" if writes else "read", path)
        file = self.real_open(path, mode, *arguments, **options)
        return WatchedFile(self, Path(path), file) if writes else file

    def os_open(self, path, *arguments, **options):
        self.at("open", path)
        descriptor = self.real["open"](path, *arguments, **options)
        self.opened += [descriptor] if self.inside(path) else []
        return descriptor

    def os_fsync(self, descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not self.at("fsync", path):
            return self.real["fsync"](descriptor)
        if path.is_dir():
            self.sync_folder(path)
        else:
            self.safe[self.number(path)] = self.content(path)

    def os_replace(self, source, target, **options):
        if self.at("replace", target):
            self.forget(Path(target))
        return self.real["replace"](source, target, **options)

    def os_unlink(self, path, **options):
        if self.at("unlink", path):
            self.forget(Path(path))
        return self.real["unlink"](path, **options)

    def os_mkdir(self, path, *arguments, **options):
        self.at("mkdir", path)
        return self.real["mkdir"](path, *arguments, **options)

    def os_truncate(self, path, length):
        self.at("truncate", path)
        return self.real["truncate"](path, length)

    def os_ftruncate(self, descriptor, length):
        self.at("truncate", os.readlink(f"/proc/self/fd/{descriptor}"))
        return self.real["ftruncate"](descriptor, length)

    def os_write(self, descriptor, data):
        self.at("write", os.readlink(f"/proc/self/fd/{descriptor}"))
        return self.real["write"](descriptor, data)


class WatchedFile:
    """A file that is written through a Disk, without a buffer."""

    def __init__(self, disk: Disk, path: Path, file):
        self.disk, self.path, self.file = disk, path, file

    def write(self, data):
        try:
            self.disk.at("write", self.path)
        except OSError:
            self.file.write(data[:len(data) // 2])
            self.file.flush()
            raise
        written = self.file.write(data)
        self.file.flush()
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
