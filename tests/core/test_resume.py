"""Killed at any moment and started again, a stage ends as if nothing had happened."""

import dataclasses
import os
import shutil

import pytest
from kill_run import differences
from tiny_run import tiny_stages

from minireason.core import runlog
from minireason.core.errors import UserError

STAGES = list(tiny_stages("x"))


class Killed(BaseException):
    """Ends the process: no `except Exception` or OSError may tidy up after it."""


class Executioner:
    """Lets `left` writes pass, then kills just before or just after the next one."""

    def __init__(self, monkeypatch, left: int, after: bool):
        self.left, self.after = left, after
        real_replace, real_record = os.replace, runlog.RunLog.record
        monkeypatch.setattr(os, "replace", lambda *a: self.around(real_replace, *a))
        monkeypatch.setattr(runlog.RunLog, "record",
                            lambda *a, **k: self.around(real_record, *a, **k))

    def around(self, write, *arguments, **values):
        self.left -= 1
        if self.left < 0 and not self.after:
            raise Killed
        write(*arguments, **values)
        if self.left < 0:
            raise Killed


@pytest.mark.parametrize(("stage", "after"), [
    pytest.param(stage, after, marks=[pytest.mark.long] if (i + after) % 2 else [])
    for i, stage in enumerate(STAGES) for after in (False, True)])
def test_killed_at_every_few_writes(ladder, tmp_path, monkeypatch, stage, after):
    """Each process gets further by more writes, so that all kinds of writes are hit; in the quick
    form every other stage just before a write, the others just after one."""
    run, config = tiny_stages(ladder)[stage]
    config = dataclasses.replace(config, out=str(tmp_path / stage))
    kills, allowed = 0, 0
    while not (tmp_path / stage / "result.json").exists():
        with monkeypatch.context() as patch:
            Executioner(patch, allowed, after)
            try:
                run(config)
            except Killed:
                kills += 1
        allowed += 1 if stage in ("critic", "testtime") else 5
    assert kills >= 3
    run(config)
    left = {path.name for path in (tmp_path / stage).rglob("*") if path.name.startswith(".")}
    assert not left, "temporary files are left"
    assert differences(ladder / stage, tmp_path / stage) == []


def test_a_fresh_run_is_identical_and_the_comparison_can_fail(ladder, tmp_path):
    run, config = tiny_stages(ladder)["sft"]
    run(dataclasses.replace(config, out=str(tmp_path / "same")))
    assert differences(ladder / "sft", tmp_path / "same") == []
    run(dataclasses.replace(config, out=str(tmp_path / "other"), seed=1))
    assert {"config.json", "metrics.jsonl", "model.safetensors", "result.json"} <= set(
        differences(ladder / "sft", tmp_path / "other"))


def test_a_run_that_was_copied_moved_or_started_from_elsewhere_is_the_same(ladder, tmp_path,
                                                                          monkeypatch):
    """Finished or not: parents are known by their weights, folders as seen from the run."""
    shutil.copytree(ladder, tmp_path / "moved")
    for name in ("result.json", "manifest.json"):
        (tmp_path / "moved" / "star" / name).unlink()            # interrupted just before its end
    monkeypatch.chdir(tmp_path / "moved")
    for stage, (run, config) in tiny_stages(".").items():
        assert run(dataclasses.replace(config, device="auto"))["stage"] == stage
    assert differences(ladder, tmp_path / "moved") == []
    run, config = tiny_stages(tmp_path / "moved")["star"]
    shutil.copytree(ladder / "pretrain", "other")
    with pytest.raises(UserError, match=r"init: .* there, .* now"):
        run(dataclasses.replace(config, init="other"))           # but another parent is another
