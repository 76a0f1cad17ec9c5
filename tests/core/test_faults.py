"""The disk fails, the power goes or a signal comes at any operation: started again, all is well.

A sample; every operation of every stage is `python tests/fault_run.py`.
"""

import dataclasses
import json
import os
import signal
import sys
from functools import cache
from pathlib import Path

import pytest
from faults import KINDS, Dead, Disk
from kill_run import differences
from small_run import made_ladder, quietly, small_stages, trial
from tiny_run import flags

from minireason import cli
from minireason.core import files
from minireason.core.runlog import RunLog
from minireason.measure import evaluate

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="follows descriptors")
STAGES = list(small_stages("x"))
SHARE = 3                         # faults per stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Finished small stages; the frozen sets are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load_frozen", cache(evaluate.load_frozen))
        yield made_ladder(tmp_path_factory.mktemp("small") / "whole")


def operations(stage: str, whole: Path, base: Path) -> int:
    """How many operations on the disk an undisturbed run of the stage has."""
    run, config = small_stages(whole)[stage]
    with Disk(base) as disk:
        quietly(lambda: run(dataclasses.replace(config, out=str(base / stage))))
    return disk.count


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_survives_a_fault_of_the_disk(whole, tmp_path, stage):
    """Faults spread over the stage, their kinds in turn over all stages."""
    base = tmp_path / "disk"
    base.mkdir()
    last = operations(stage, whole, base)
    assert last > 50
    for i in range(SHARE):
        n = 1 + (i * 2 + 1) * last // (2 * SHARE)
        kind = KINDS[(SHARE * STAGES.index(stage) + i) % len(KINDS)]
        hit, how = trial(stage, whole, base, n, kind)
        assert how in ("identical", "refused"), f"operation {n} ({hit}), {kind}"


def unsynced(path: Path) -> None:
    """Stands for a program that does not wait for the disk."""


def unchecked_rewind(self: RunLog, offset: int = 0, log: str = "") -> None:
    """Cuts or fills up the metrics, whatever they hold."""
    if self.metrics.exists():
        os.truncate(self.metrics, offset)


def test_the_injector_finds_a_log_that_is_neither_synced_nor_checked(whole, tmp_path, monkeypatch):
    """What RunLog did before its marks: the lines that a power loss took became zeros."""
    monkeypatch.setattr(files, "sync", unsynced)
    monkeypatch.setattr(RunLog, "rewind", unchecked_rewind)
    with pytest.raises(json.JSONDecodeError):
        for n in range(50, 90):
            assert trial("sft", whole, tmp_path / "disk", n, "torn")[1] == "identical"


def test_the_injector_drops_what_was_not_synced(tmp_path):
    """Content, names and folders; what was synced is as it was."""
    (tmp_path / "kept").write_text("kept")
    with pytest.raises(Dead), Disk(tmp_path, 12, "undone") as disk:
        files.write_atomic(tmp_path / "safe", "safe")            # 6 operations
        with open(tmp_path / "kept", "a") as file:               # 2
            file.write(" and lost")
        (tmp_path / "kept").rename(tmp_path / "renamed")
        (tmp_path / "folder").mkdir()                            # 1
        os.unlink(tmp_path / "safe")                             # 1
        os.mkdir(tmp_path / "second")
        os.mkdir(tmp_path / "third")
    assert disk.hit == "mkdir third"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "kept": "kept", "safe": "safe"}


def test_a_new_folder_survives_a_loss_of_power_with_those_above_it(tmp_path):
    with pytest.raises(Dead), Disk(tmp_path, 100, "undone") as disk:
        files.make_folder(tmp_path / "a" / "b")
        files.write_atomic(tmp_path / "a" / "b" / "safe", "safe")
        disk.n = disk.count + 1
        os.mkdir(tmp_path / "last")
    assert (tmp_path / "a" / "b" / "safe").read_text() == "safe"


@pytest.mark.parametrize("kind, remains", [("killed", "ab"), ("torn", "a"), ("zeroed", "\0\0")])
def test_what_a_death_leaves_of_a_write(tmp_path, kind, remains):
    with pytest.raises(Dead), Disk(tmp_path, 3, kind), open(tmp_path / "file", "w") as file:
        file.write("ab")
        file.write("cd")
    assert (tmp_path / "file").read_text() == remains


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_command_in_one_line(whole, tmp_path, monkeypatch, capsys, number):
    """Exit code 128 + number, and the same command resumes."""
    _, config = small_stages(whole)["sft"]
    arguments = ["sft", *flags(dataclasses.replace(config, out=str(tmp_path / "sft")))]
    monkeypatch.setattr(sys, "argv", ["minireason", *arguments])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)   # ignored in the background
    for name in (signal.SIGTERM, signal.SIGHUP):       # whatever another test left
        signal.signal(name, signal.SIG_DFL)
    try:
        with Disk(tmp_path, 60, act=lambda: os.kill(os.getpid(), number)):
            assert cli.main() == 128 + number
        if number != signal.SIGINT:                        # which a second one does not disturb
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)
    lines = [line for line in capsys.readouterr().err.splitlines() if "minireason:" in line]
    assert lines == ["minireason: interrupted; run the same command again to resume"]
    assert not (tmp_path / "sft" / "result.json").exists()
    assert cli.main(arguments) == 0
    assert differences(whole.with_name("whole") / "sft", tmp_path / "sft") == []


def test_a_run_under_nohup_stays_deaf_to_the_end_of_its_terminal(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minireason", "--help"])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli.main() == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)
