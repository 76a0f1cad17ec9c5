"""A folder that one process works in keeps the others out."""

import os
import subprocess
import sys
import threading

import pytest

from minireason.core.errors import UserError
from minireason.core.locks import is_busy, lock_folder, unlock_folder

HOLDS = """
import sys
from pathlib import Path
from minireason.core.locks import lock_folder
lock_folder(Path(sys.argv[1]))
print("holds", flush=True)
sys.stdin.read()
"""


def open_files() -> int:
    """How many descriptors this process holds; 0 where they are not to be seen."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_second_process_is_kept_out_until_the_first_one_ends(tmp_path):
    """Named by its number; what a killed one left half-written is deleted."""
    first = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == "holds\n"
    (tmp_path / ".1-0.tmp").write_text("half")
    with pytest.raises(UserError, match=f"process {first.pid} works in this folder"):
        lock_folder(tmp_path)
    assert (tmp_path / ".1-0.tmp").exists() and is_busy(tmp_path)
    threading.Timer(0.3, first.kill).start()
    lock_folder(tmp_path, wait=True)
    unlock_folder(tmp_path)
    first.wait()
    assert not is_busy(tmp_path)
    before = open_files()
    lock_folder(tmp_path)
    lock_folder(tmp_path)                                  # a process may open its own folder again
    assert os.listdir(tmp_path) == [".lock"]
    unlock_folder(tmp_path)
    assert os.listdir(tmp_path) == [] and open_files() == before
    second = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert second.stdout.readline() == "holds\n"
    second.kill()
    second.wait()


def test_a_lock_ends_with_its_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lock_folder(folder)
    (folder / ".lock").unlink()
    folder.rmdir()
    folder.mkdir()
    lock_folder(folder)
    assert (folder / ".lock").exists()
    unlock_folder(folder)
