"""Files: written whole or not at all, and known by their sha256.

A stage's folder ends with `manifest.json`, {file name: sha256}, which covers every file that a
later stage or the report reads. What is read back before that carries its own sha256.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minireason.core.errors import UserError

MANIFEST, STATE = "manifest.json", "state.safetensors"
_counter = itertools.count()


def parsed(text: str, where: object) -> object:
    """The JSON of a text; UserError names where it stands if it is none that can be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None


def read_text(path: Path | str) -> str:
    """The file as text, a byte order mark left out; UserError if it is missing or no text."""
    try:
        if Path(path).is_char_device():
            raise UserError(f"{path}: is a device, not a file")
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from None


def read_json(path: Path | str) -> dict:
    """The JSON object in a file; UserError names the file if it is missing or holds none."""
    found = parsed(read_text(path), path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object")
    return found


def read_lines(path: Path | str) -> list[dict]:
    """The JSON object of every line; none if there is no such file."""
    if not Path(path).exists():
        return []
    found = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            found.append(parsed(line, f"{path}, line {number}"))
            if not isinstance(found[-1], dict):
                raise UserError(f"{path}, line {number}: holds no JSON object")
    return found


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn whatever the file system refuses into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror or error}); free some space or "
                        "choose another --out, then run the same command again") from error


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, names safe on the disk."""
    with disk_errors(folder):
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in new:
            sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    posix = hasattr(os, "O_DIRECTORY")
    if not posix and path.is_dir():   # Windows opens no folder, and keeps the names in it itself
        return
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY if posix else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    path = Path(path)
    check_target(path)
    temporary = path.with_name(f".{os.getpid()}-{next(_counter)}.tmp")
    data = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def check_target(path: Path) -> None:
    """UserError if the path is there and no plain file: a rename would replace a link or device."""
    with disk_errors(path):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UserError(f"{path}: is not a plain file; choose another path")


def write_checked(path: Path, content: object, of: str = "") -> None:
    """Write JSON that carries the sha256 of its content and of what it is a part `of`."""
    write_atomic(path, checked_form(content, of) + "\n")


def checked_form(content: object, of: str = "") -> str:
    """What write_checked writes, the last line break left out."""
    sha256 = hashlib.sha256((of + json.dumps(content)).encode()).hexdigest()
    return json.dumps({"sha256": sha256, **({"of": of} if of else {}), "content": content})


def read_checked(path: Path, of: str = "") -> Any:
    """What write_checked wrote; UserError names the file if any byte of it has changed.

    Or if it is part of something else than `of`: a file of another run, or under another name.
    """
    whole, intact = read_text(path).removesuffix("\n"), {}
    with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):   # damaged
        held = json.loads(whole)
        if whole == checked_form(held["content"], held.get("of", "")):
            intact = held
    if not intact:
        raise UserError(f"{path}: its sha256 does not match its content; the file is damaged, "
                        "delete it and run the same command again")
    if of not in ("", intact.get("of", "")):
        raise UserError(f"{path}: belongs to another run or another part of it; delete it and "
                        "run the same command again")
    return intact["content"]


def write_manifest(folder: Path, last: str, data: str) -> None:
    """Record the sha256 of every file of a stage's folder, and of `last`, yet to be written."""
    found = {last: hashlib.sha256(data.encode()).hexdigest()}
    with disk_errors(folder):
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name[0] != "." and path.name not in (MANIFEST, STATE, last):
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_atomic(folder / MANIFEST, json.dumps(found, indent=1) + "\n")


def check_manifest(folder: Path) -> None:
    """UserError if a finished stage's folder does not hold what that stage wrote."""
    advice = f"restore it, or delete {folder / 'result.json'} and run what made it again"
    if not (folder / MANIFEST).exists():
        raise UserError(f"{folder}: lacks {MANIFEST}; {advice}")
    listed = read_json(folder / MANIFEST)
    if "result.json" not in listed:
        raise UserError(f"{folder / MANIFEST}: does not list result.json; {advice}")
    for name, sha256 in listed.items():
        path = folder / name
        try:
            same = hashlib.sha256(path.read_bytes()).hexdigest() == sha256
        except (OSError, ValueError) as error:        # ValueError: no name of a file
            raise UserError(f"{path}: cannot read ({error}); {advice}") from None
        if not same:
            raise UserError(f"{path}: is not what its stage wrote, by the sha256 in {MANIFEST}; "
                            f"{advice}")
