"""The cache of compiled code belongs to one user, and nothing damaged is loaded from it."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cuda_ext import cache
from cuda_ext.cache import BuildError


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


# ---- the folder ----------------------------------------------------------------------------------

def test_the_folder_is_made_for_one_user_whatever_the_umask(folder):
    before = os.umask(0)
    try:
        assert cache.folder() == folder
    finally:
        os.umask(before)
    assert mode_of(folder) == 0o700


def test_where_the_folder_lies(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIREASON_KERNEL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "minireason" / "kernels"
    assert mode_of(tmp_path / "xdg") == 0o700
    for nothing in ("", "relative/is/ignored"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert cache.folder() == tmp_path / "home" / ".cache" / "minireason" / "kernels"
    monkeypatch.setenv("MINIREASON_KERNEL_CACHE", "~/mine")
    assert cache.folder() == tmp_path / "home" / "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIREASON_KERNEL_CACHE", ".")
    assert cache.folder() == tmp_path                   # absolute: dlopen searches a bare name


def test_a_user_without_a_home_has_a_private_folder_all_the_same(tmp_path, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    for name in ("MINIREASON_KERNEL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = cache.folder()
    assert found == tmp_path / f"minireason-kernels-{os.geteuid()}" and mode_of(found) == 0o700
    found.chmod(0o777)                                  # made before us by somebody else
    with pytest.raises(BuildError, match="can be changed by other users"):
        cache.folder()


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_refused_by_name(folder, mode):
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(BuildError, match=f"^{folder} can be changed .* chmod go-w .*KERNEL_CACHE"):
        cache.folder()
    folder.chmod(0o755)
    assert cache.folder() == folder


def test_a_folder_that_others_can_put_aside_is_refused(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    monkeypatch.setenv("MINIREASON_KERNEL_CACHE", str(shared / "a" / "b"))
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(BuildError, match=f"^{shared} can be changed by other users"):
        cache.folder()
    shared.chmod(0o1777)                                # as /tmp
    assert cache.folder() == shared / "a" / "b"


def test_another_users_folder_is_refused_by_name(folder, monkeypatch):
    cache.folder()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(BuildError, match=f"^{folder} belongs to another user, .*KERNEL_CACHE"):
        cache.folder()
    if user == 0:
        monkeypatch.undo()
        os.chown(folder.parent, 12345, -1)
        monkeypatch.setenv("MINIREASON_KERNEL_CACHE", str(folder))
        with pytest.raises(BuildError, match=f"^{folder.parent} can be changed by other users"):
            cache.folder()


def test_what_can_be_no_folder_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file", "file/below", "circle/x", "x" * 300):
        monkeypatch.setenv("MINIREASON_KERNEL_CACHE", str(tmp_path / name))
        with pytest.raises(BuildError, match=r"no cache for compiled code .*KERNEL_") as error:
            cache.folder()
        assert "\n" not in str(error.value)


# ---- what is kept --------------------------------------------------------------------------------

def kept(content: bytes = b"a library" * 1000, name: str = "a-key.so") -> tuple[Path, int]:
    """(path, how often it was made) of a call that makes that content."""
    made = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_bytes(content)

    return cache.kept(name, make, Path.read_bytes), len(made)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]


DAMAGE = {
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, 4500),
    "one bit": lambda path: path.write_bytes(flipped(path.read_bytes(), 4500)),
    "the last bit": lambda path: path.write_bytes(flipped(path.read_bytes(), -1 % 9000)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "another file": lambda path: path.write_bytes(b"another library"),
    "no sha256": lambda path: path.rename(path.with_name("a-key.so")),
    "a wrong sha256": lambda path: path.rename(path.with_name(f"a-key-{'0' * 64}.so")),
    "an unfinished sha256": lambda path: path.rename(path.with_name(f"{path.stem[:-1]}.so")),
    "deleted": Path.unlink,
    "a folder": lambda path: (path.rename(path.with_name("moved")),
                              path.with_name(f"a-key-{'0' * 64}.so").mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_again_and_a_sound_one_is_not(folder, damage):
    path, made = kept()
    assert made == 1 and kept() == (path, 0)
    DAMAGE[damage](path)
    assert kept() == (path, 1) and kept() == (path, 0)
    assert path.read_bytes() == b"a library" * 1000
    assert kept(name="another-key.so")[1] == 1


def test_what_fails_its_test_is_not_kept(folder):
    def refuse(path):
        raise BuildError("no good")

    with pytest.raises(BuildError, match="no good"):
        cache.kept("a.so", lambda path: path.write_bytes(b"x"), refuse)
    with pytest.raises(BuildError, match="cannot keep compiled code there"):       # nothing written
        cache.kept("a.so", lambda path: None, Path.read_bytes)
    assert not list(folder.iterdir())


def test_processes_that_make_and_damage_the_same_file_do_no_harm(folder):
    """Every build has other bytes, and each process cuts files short that others are to read."""
    program = """
import os, sys
from cuda_ext import cache
for i in range(60):
    path = cache.kept("a-key.so", lambda path: path.write_bytes(os.urandom(50_000)),
                      lambda path: path.read_bytes())
    assert path.exists()
    if i % 7 == 3:
        cut = path.with_name(f".{os.getpid()}")
        cut.write_bytes(path.read_bytes()[:100])
        os.replace(cut, path)
"""
    processes = [subprocess.Popen([sys.executable, "-c", program], env={
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert not [path for path in folder.iterdir() if path.suffix != ".so"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT CHECKED: needs g++")
@pytest.mark.parametrize("name", ["kernels", "native"])
def test_a_library_is_never_loaded_damaged(folder, libraries, name):
    """A half of a library kills the process that loads it, and a flipped bit computes something."""
    for damage in ("truncated", "one bit", "a wrong sha256"):
        libraries[name]()
        path, = folder.glob("*.so")
        before = path.read_bytes()
        path.rename(path.with_name("aside"))            # the copy in memory stays as it is
        path.write_bytes(before)
        DAMAGE[damage](path)
        damaged = os.open(path, os.O_RDONLY) if path.exists() else None
        assert libraries[name]().panel_width() == 7
        assert path.read_bytes() == before
        if damaged is not None:                         # replaced: who had it loaded still has it
            assert os.fstat(damaged).st_nlink == 0
            os.close(damaged)
