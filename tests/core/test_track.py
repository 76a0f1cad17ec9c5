"""Trackers are told what metrics.jsonl holds, and can neither stop nor change a run."""

import json
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from minireason import stages
from minireason.core.config import StageConfig, portable
from minireason.core.errors import UserError
from minireason.core.runlog import RunLog
from minireason.pipeline import Config as PipelineConfig
from minireason.pipeline import plan_of


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    out: str = "x"


class Fake:
    """A module with the calls of trackio and wandb; `fails` names the call that raises."""

    def __init__(self, fails: str = ""):
        self.calls, self.fails = [], fails

    def note(self, name, *what):
        self.calls.append((name, *what))
        if name == self.fails:
            raise RuntimeError(f"{name} is\nout of order")

    def init(self, project, name, config):
        self.note("init", project, name, config["seed"])

    def log(self, values, step):
        self.note("log", step, values)

    def finish(self):
        self.note("finish")


def run_two_steps(folder, name: str) -> tuple[RunLog, list[str]]:
    log = RunLog(str(folder), "sft", Config(track=name), {})
    said: list[str] = []
    log.tracker.say = said.append
    log.record(0, **{"train/loss": 2.5})
    log.record(1, **{"train/loss": 1.5, "eval/name": "words"})
    log.finish()
    return log, said


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_is_told_every_number_once_and_closed(tmp_path, monkeypatch, name):
    fake = Fake()
    monkeypatch.setitem(sys.modules, name, fake)
    _, said = run_two_steps(tmp_path / "run", name)
    assert fake.calls == [
        ("init", "minireason", (tmp_path / "run").as_posix(), 0), ("log", 0, {"train/loss": 2.5}),
        ("log", 1, {"train/loss": 1.5}), ("finish",)]
    assert not said


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_warned_of_once_and_changes_no_file(tmp_path, monkeypatch, fails):
    monkeypatch.setitem(sys.modules, "wandb", Fake(fails))
    log, said = run_two_steps(tmp_path / "with", "wandb")
    plain, _ = run_two_steps(tmp_path / "without", "")
    assert len(said) == 1 and "--track wandb failed" in said[0] and "\n" not in said[0]
    assert log.metrics.read_bytes() == plain.metrics.read_bytes()
    assert len(log.metrics.read_text().splitlines()) == 2


def test_a_tracker_that_is_not_installed_is_one_line_of_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    _, said = run_two_steps(tmp_path, "trackio")
    assert len(said) == 1 and said[0].endswith("pip install trackio")


def test_an_unknown_tracker_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="--track paper: must be one of trackio, wandb, tensorb"):
        RunLog(str(tmp_path / "run"), "sft", Config(track="paper"), {})
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_tracker_is_no_part_of_what_a_run_is(tmp_path):
    """A run may be resumed with another one; a stage that records nothing starts none."""
    held = [portable(Config(track=name), tmp_path) for name in ("", "wandb")]
    assert held[0] == held[1]
    fake = Fake()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", fake)
        RunLog(str(tmp_path), "sft", Config(), {})
        RunLog(str(tmp_path), "sft", Config(track="wandb"), {}).finish()
    assert not fake.calls


def test_every_stage_of_a_run_gets_the_flag(tmp_path):
    plan = plan_of(PipelineConfig(size="smoke", out=str(tmp_path), track="wandb"))
    assert [run.args[0].track for _, run in plan] == ["wandb"] * len(plan)
    assert all(hasattr(__import__(stage.module, fromlist=["Config"]).Config, "track")
               for stage in stages.STAGES)


def test_tensorboard_gets_every_point_and_hides_those_of_an_interrupted_run(tmp_path, monkeypatch):
    written = []

    def make_writer(folder, purge_step):
        written.append((folder, purge_step))
        return SimpleNamespace(add_scalar=lambda *point: written.append(point), close=lambda: None)

    fake = SimpleNamespace(SummaryWriter=make_writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    run_two_steps(tmp_path, "tensorboard")
    assert written == [(str(tmp_path / "tensorboard"), 0), ("train/loss", 2.5, 0),
                       ("train/loss", 1.5, 1)]


def test_real_tensorboard_reads_back_what_metrics_hold(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log, said = run_two_steps(tmp_path, "tensorboard")
    assert not said
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    truth = [json.loads(line) for line in log.metrics.read_text().splitlines()]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (line["step"], line["train/loss"]) for line in truth]
    assert RunLog(str(tmp_path), "sft", replace(Config(), track=""), {}).done   # manifest holds
