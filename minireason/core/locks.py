"""Folders that one process works in: locked while used, by the operating system's `flock`."""

import os
import time
from contextlib import suppress
from pathlib import Path

from minireason.core.errors import UserError
from minireason.core.files import disk_errors

try:
    import fcntl
except ImportError:               # not a POSIX system: two processes are not kept apart
    fcntl = None

LOCK = ".lock"
_locked: dict[Path, int] = {}     # folder: descriptor of its lock, held by this process


def lock_folder(folder: Path, wait: bool = False) -> None:
    """Keep other processes out of a folder, until unlock_folder or the end of this process.

    UserError with the number of the process that works in it, unless `wait`. What a killed one left
    half-written is deleted.
    """
    folder, path = folder.resolve(), folder.resolve() / LOCK
    while fcntl is not None and not _is_locked(folder):
        with disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 20).decode("ascii", "replace") or "?"
                os.close(descriptor)
                if wait:
                    time.sleep(0.05)
                    continue
                raise UserError(f"{folder}: process {owner} works in this folder; wait for it to "
                                "end or choose another --out") from None
            except OSError:       # a file system without locks
                os.close(descriptor)
                break
            _locked[folder] = descriptor
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
    with disk_errors(folder):
        for stray in folder.glob(".*.tmp"):
            stray.unlink(missing_ok=True)


def _is_locked(folder: Path) -> bool:
    """Whether this process holds the lock that lies in the folder now."""
    if folder not in _locked:
        return False
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(folder / LOCK), os.fstat(_locked[folder])):
            return True
    os.close(_locked.pop(folder))          # the folder was deleted, or its owner unlocked it
    return False


def is_busy(folder: Path) -> bool:
    """Whether another process works in the folder."""
    folder = folder.resolve()
    if fcntl is None or _is_locked(folder) or not (folder / LOCK).exists():
        return False
    with suppress(FileNotFoundError), open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:               # a file system without locks
            return False
    return False


def abandon_folders() -> None:
    """Unlock what this process locked; a folder that holds but its configuration is removed."""
    for folder in sorted(_locked, key=lambda path: len(path.parts), reverse=True):
        if _is_locked(folder):
            unlock_folder(folder)
            held = list(folder.iterdir())
            if {path.name for path in held} <= {"config.json"}:
                for path in held:
                    path.unlink()
                folder.rmdir()


def unlock_folder(folder: Path) -> None:
    """Let other processes in again."""
    folder = folder.resolve()
    if _is_locked(folder):
        with disk_errors(folder / LOCK):
            (folder / LOCK).unlink()
        os.close(_locked.pop(folder))
