"""The whole ladder by the real pipeline: it ends, repeats, resumes, and runs on two processes."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kill_run import PICTURES, differences, timeless, trial
from tiny_run import draw_nothing, tiny_ladder, tiny_pipeline, tiny_size, tiny_stages

from minireason import pipeline
from minireason.core.errors import UserError
from minireason.core.files import read_checked, read_lines
from minireason.presets import SIZES
from minireason.report import style
from minireason.stages import STAGES

SCRIPT = str(Path(__file__).with_name("tiny_run.py"))
LONG = pytest.mark.long
COMPARED = {"train/loss", "train/tokens", "train/reward", "train/generated_tokens", "train/entropy"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished tiny run with its report, its figures not drawn."""
    root = tmp_path_factory.mktemp("pipeline") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", draw_nothing)
        tiny_pipeline(root)
    return root


@LONG
def test_two_runs_are_identical_though_one_is_killed(whole, tmp_path):
    """The short form of `python tests/kill_run.py`, which kills `smoke` 20 times."""
    assert trial([sys.executable, SCRIPT, "run"], whole, tmp_path, kills=1, seed=1) == []
    assert timeless({"time/x": 1, "seconds": 2, "a": [{"time/y": 3, "b": 4}]}) == {"a": [{"b": 4}]}


def test_two_stages_at_once_give_the_run_of_one(whole, tmp_path, monkeypatch, undrawn, capsys):
    """Though the second process is killed once, and so is a stage in it."""
    ask = pipeline.submit

    def killed(pool, *task):
        future = ask(pool, *task)
        for process in pool._processes.values():
            process.kill()
        return future

    monkeypatch.setattr(pipeline, "submit", killed)
    with pytest.raises(UserError, match=r"second process was killed .* --jobs 1"):
        tiny_pipeline(tmp_path / "both", jobs=2)
    monkeypatch.setattr(pipeline, "submit", ask)
    capsys.readouterr()
    tiny_pipeline(tmp_path / "both", jobs=2)
    assert differences(whole, tmp_path / "both") == []
    assert ", in a second process\n" in capsys.readouterr().err
    assert not multiprocessing.active_children()


def test_a_second_process_that_fails_is_said_at_once(tmp_path, monkeypatch, undrawn, capsys):
    """And one that cannot be started as this run's error, not as one of standard output."""
    monkeypatch.setattr(pipeline, "submit", lambda *_: os.close(-1))
    with pytest.raises(UserError, match=r"cannot be started \(.*descriptor\); with --jobs 1"):
        tiny_pipeline(tmp_path, jobs=2)
    failed: Future = Future()
    failed.set_exception(ValueError("seven"))
    monkeypatch.setattr(pipeline, "submit", lambda *_: failed)
    with pytest.raises(ValueError, match="seven"):
        tiny_pipeline(tmp_path, jobs=2)
    said = capsys.readouterr().err
    assert " done, " in said.partition("the second process failed (seven)")[2]


def test_a_second_process_that_is_killed_is_said_before_the_other_stage_ends(tmp_path, monkeypatch):
    events, future = [], Future()
    log = SimpleNamespace(out=tmp_path, say=events.append)

    def stage(name):
        if name == "critic":
            future.set_exception(BrokenProcessPool("terminated"))
            events.append("critic goes on")
        return {"seconds": 0}

    monkeypatch.setattr(pipeline, "submit", lambda *_: future)
    names = "pretrain", "sft", "star", "critic", "outcome"
    plan = [(name, partial(stage, name)) for name in names]
    with pytest.raises(UserError, match="was killed or could not start"):
        pipeline.run_stages(plan, log, 2)
    assert "second process failed (terminated)" in events[events.index("critic goes on") - 1]


def test_jobs_are_two_on_a_cpu_that_has_the_cores(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    config = pipeline.Config(size="smoke")
    monkeypatch.setattr(pipeline, "cores", lambda: 2)
    assert pipeline.jobs_of(config, cpu) == 2 and pipeline.jobs_of(config, gpu) == 1
    assert pipeline.jobs_of(dataclasses.replace(config, jobs=1), cpu) == 1
    assert pipeline.jobs_of(dataclasses.replace(config, jobs=2), gpu) == 2
    monkeypatch.setattr(pipeline, "cores", lambda: 1)
    assert pipeline.jobs_of(config, cpu) == 1
    with pytest.raises(UserError, match="--jobs 3"):
        pipeline.jobs_of(dataclasses.replace(config, jobs=3), cpu)


def test_a_finished_run_is_only_reported_again(whole, undrawn):
    page, kept = whole / "report.html", {}
    text = page.read_text()
    for path in whole.rglob("*.safetensors"):
        kept[path] = path.stat().st_mtime_ns
    page.unlink()
    results = tiny_pipeline(whole)
    assert list(results) == [stage.name for stage in STAGES if stage.in_run]
    for name, result in results.items():
        assert result == json.loads((whole / name / "result.json").read_text())
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert page.read_text() == text


def test_a_run_leaves_a_page(whole):
    page = (whole / "report.html").read_text()
    assert "<html" in page and len(page) > 10_000
    assert any(path.suffix in PICTURES for path in whole.rglob("*.png"))


def test_a_run_ends_with_a_policy_that_knows_nothing(tmp_path, monkeypatch, undrawn):
    """Whether smoke ends may not depend on what the policy learned: here it learned nothing."""
    tiny = tiny_size()
    one_step = {name: {**tiny[name], "steps": 1} for name in ("pretrain", "sft")}
    monkeypatch.setitem(SIZES, "ignorant", tiny | one_step)
    results = pipeline.run(pipeline.Config(size="ignorant", out=str(tmp_path / "run"),
                                           device="cpu", jobs=1))
    assert results["star"]["rounds"][0]["kept"] == results["flywheel"]["turns"][0]["kept"] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<td>1</td><td>0</td><td>0.0</td><td>0.0</td><td>–</td>" in page    # STaR, round 1
    assert "<td>1</td><td>0</td><td>–</td><td>50.0</td>" in page               # flywheel, turn 1


@LONG                             # tests/test_toys.py does so with a family of its own
@pytest.mark.parametrize("family", ["instructions", "decomposition"])
def test_a_family_walks_the_ladder_to_its_page(family, tmp_path, monkeypatch, undrawn):
    tiny = tiny_size()
    tiny["pretrain"] = {**tiny["pretrain"], "max_len": 192}
    tiny["testtime"] = tiny["rl_testtime"] = {**tiny["testtime"], "levels": (2,)}
    monkeypatch.setitem(SIZES, "tiny", tiny)
    results = pipeline.run(pipeline.Config(size="tiny", family=family, out=str(tmp_path / "run"),
                                           device="cpu"))
    assert list(results) == [stage.name for stage in STAGES if stage.in_run]
    page = (tmp_path / "run" / "report.html").read_text()
    assert len(page) > 10_000 and family in page


@pytest.mark.parametrize("family", ["instructions", *(
    pytest.param(name, marks=LONG) for name in ("decomposition", "maze", "program", "synthesis"))])
def test_a_family_killed_again_and_again_ends_the_same(family, tmp_path, run_with_deaths):
    tiny_ladder(tmp_path / "whole", family)
    assert run_with_deaths(lambda: tiny_ladder(tmp_path / "broken", family), 9) >= 2
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


def test_sizes_and_seeds_reach_every_stage():
    with pytest.raises(UserError, match="--size huge"):
        pipeline.plan_of(pipeline.Config(size="huge"))
    with pytest.raises(UserError, match="--family chess"):
        pipeline.plan_of(pipeline.Config(family="chess"))
    assert pipeline.folder(pipeline.Config(size="smoke")) == Path("runs/smoke")
    other = pipeline.Config(size="smoke", family="addition")
    assert pipeline.folder(other) == Path("runs/addition-smoke")


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("names", [("star",), ()])
def test_two_processes_end_and_give_the_losses_of_one(whole, tmp_path, names):
    """torchrun with gloo: every trained stage, from equal parents, is within 1e-4 over 20 steps,
    and the pipeline ends.

    Beyond that the rounding of two sums in other orders adds up. STaR's second round starts from a
    parent that has parted, so the first is compared; think_budget's reinforcement learning starts
    from the one process's warm-up, so it draws the same rollouts.
    """
    apart, both = tmp_path / "apart", tmp_path / "run" / "apart"
    pairs = [(whole / "star/round-1", both / "star/round-1")]
    if not names:
        alone = ("pretrain", "quiet_star", "think_budget", "internalize")
        for name in alone:
            run, config = tiny_stages(whole)[name]
            run(dataclasses.replace(config, out=str(apart / name)))
        shutil.copytree(apart / "think_budget" / "warm", both / "think_budget" / "warm")
        pairs += [(whole / "sft", both / "sft"), (whole / "critic", both / "critic"),
                  (apart / "think_budget/warm", both / "warm-up/warm"),
                  *((apart / name, both / name) for name in alone)]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           "--nproc_per_node=2", SCRIPT, str(both.parent), str(whole), *names],
                          text=True, capture_output=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert names or (both.parent / "report.html").stat().st_size > 10_000
    compared = 0
    for one, two in pairs:
        ours, theirs = read_lines(one / "metrics.jsonl"), read_lines(two / "metrics.jsonl")
        assert [line.keys() for line in ours] == [line.keys() for line in theirs], one
        for a, b in zip(ours[:20], theirs[:20], strict=True):
            for key in a.keys() & COMPARED:
                assert a[key] == pytest.approx(b[key], rel=0, abs=1e-4), (key, two, a, b)
                compared += 1
    assert compared >= 2 * 6 + (0 if names else 2 * (20 + 20 + 6) + 12 + 2 * 6 + 4 * 4 + 2 * 20)
    drawn = [one / name for one, _ in pairs
             for name in ("rationales.json", "rollouts.json", "pool.json")
             if (one / name).exists()]
    assert len(drawn) == (1 if names else 3)
    for ours, theirs in ((path, dict(pairs)[path.parent] / path.name) for path in drawn):
        one, two = timeless(read_checked(ours)), timeless(read_checked(theirs))
        spent, other = one.pop("spent"), two.pop("spent")
        assert spent.pop("decoder") == other.pop("decoder")
        assert other == pytest.approx(spent, rel=0.1)
        assert one == two, f"{ours}: the ranks drew other samples"
