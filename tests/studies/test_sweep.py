"""Sweeps: the grid, and a real Ray of two workers that loses a worker, then its driver."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minireason import cli
from minireason.core import locks
from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.stages import pretrain
from minireason.studies import sweep

TINY = ("d_model=32", "n_layers=1", "n_heads=1", "d_ff=32", "eval_n=2", "save_every=5", "lr=1e-3")


def config(out, *vary: str, **more) -> sweep.Config:
    return sweep.Config(**{"command": "pretrain", "vary": vary, "fixed": TINY, "out": str(out),
                           **more})


def test_every_combination_is_one_command_line(tmp_path):
    tasks = sweep.tasks_of(config(tmp_path, "seed=0,1", "steps=3,4"))
    assert [task.name for task in tasks] == [f"seed={s}_steps={n}" for s in (0, 1) for n in (3, 4)]
    function, read = cli.read_command(list(tasks[2].words))
    assert (read.seed, read.steps, read.d_model, read.lr) == (1, 3, 32, 1e-3)
    assert Path(read.out) == tmp_path / "seed=1_steps=3" and function is pretrain.run
    (only,) = sweep.tasks_of(config(tmp_path))
    assert only.name == "only"
    (several,) = sweep.tasks_of(sweep.Config(
        command="quiet_star", out=str(tmp_path), fixed=("lengths=6 12", "init=a/b", "base=c")))
    assert cli.read_command(list(several.words))[1].lengths == (6, 12)


@pytest.mark.parametrize(("changes", "said"), [
    ({"vary": ("seed",)}, "must be FIELD=VALUE"), ({"vary": ("seed=0,x",)}, "seed"),
    ({"vary": ("lr=1,2",)}, "name each once"), ({"fixed": ("out=a",)}, "name each once"),
    ({"vary": ("init=a/b,a-b",)}, "init=a/b and init=a-b would share the folder"),
    ({"vary": ("seed=0,1,0",)}, "share the folder"), ({"vary": ("sead=0",)}, "sead"),
    ({"command": "sweep"}, "another sweep"),
    ({"command": "nothing"}, "unknown command"), ({"command": "chat"}, "--out")])
def test_a_wrong_grid_is_refused_before_anything_runs(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        sweep.run(config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_killed_workers_and_drivers_change_nothing_and_what_fails_is_named(tmp_path):
    """A killed driver, then a killed worker: nothing runs twice, and of a task that cannot run the
    end says so while the others end."""
    pytest.importorskip("ray")
    out, said = tmp_path / "swept", tmp_path / "said"
    out.mkdir()
    (out / "seed=1_steps=41").write_text("a file where a task wants its folder")
    command = [sys.executable, "-m", "minireason", "sweep", "--command", "pretrain", "--workers",
               "2", "--vary", "seed=0,1", "steps=40,41", "--fixed", *TINY, "--out", str(out)]

    def start() -> subprocess.Popen:              # into a file: a pipe that nobody reads fills up
        with open(said, "w") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def until(true):
        """The first true value of a function, which must come before the driver's end."""
        while not (value := true()):
            assert driver.poll() is None, said.read_text()
            time.sleep(0.05)
        return value

    def at_work() -> tuple[str, int] | None:      # a task that has saved a state, its worker
        for path in out.glob("*/state.safetensors"):
            lock = path.parent / ".lock"
            number = lock.read_text() if lock.exists() else ""
            if number and Path("/proc", number).exists():
                return path.parent.name, int(number)
        return None

    def finished() -> list[str]:
        path = out / "sweep.json"
        tasks = read_json(path)["tasks"] if path.exists() else {}
        return [name for name, task in tasks.items() if not task["wrong"]]

    driver = start()
    until(finished)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    while at_work():                                                   # its workers end with it
        time.sleep(0.05)
    before = {path: path.stat().st_mtime_ns for task in finished()
              for path in (out / f"{task}.log", *(out / task).iterdir())}
    assert 0 < len(finished()) < 3
    driver = start()
    name, worker = until(at_work)
    os.kill(worker, signal.SIGKILL)
    assert driver.wait() == 2 and len(finished()) == 3, said.read_text()
    assert re.search(r"1 tasks failed; seed=1_steps=41: exit code 2, .*seed=1_steps=41",
                     said.read_text())
    assert "resuming from step" in (out / f"{name}.log").read_text()   # it went on elsewhere
    assert {path: path.stat().st_mtime_ns for path in before} == before
    whole = tmp_path / "whole"
    seed, steps = name.split("_")
    (task,) = sweep.tasks_of(config(whole, seed, steps))
    assert cli.main(list(task.words)) == 0
    assert (out / name / "rows.jsonl").read_bytes() == (whole / name / "rows.jsonl").read_bytes()
    assert len({read_json(path / name / "result.json")["weights"] for path in (out, whole)}) == 1


def test_ray_goes_on_with_what_a_killed_worker_left(tmp_path):
    """A real Ray, and for a command what costs nothing: one ends, one is killed, one raises."""
    pytest.importorskip("ray")

    def work(folder: str) -> str:                 # nested, so that a worker imports no torch
        tries = Path(folder, str(len(os.listdir(folder))))
        tries.touch()
        if "killed" in folder and tries.name == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        if "raises" in folder:
            raise KeyError
        return Path(folder).name

    folders = [str(tmp_path / name) for name in ("ends", "killed", "raises")]
    for folder in folders:
        os.mkdir(folder)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_task", work)
        found = dict(sweep.finished_tasks(folders, workers=2))
    assert signal.getsignal(signal.SIGTERM) is before
    assert found == dict(zip(folders, (
        "ends", "killed", "RayTaskError(KeyError), see its log"), strict=True))
    assert os.listdir(folders[0]) == ["0"] and set(os.listdir(folders[1])) == {"0", "1"}


@pytest.mark.parametrize(("failing", "error", "said"), [
    (2, ZeroDivisionError, "started"), (3, UserError, "in 3 tries.*--workers 1 needs no Ray")])
def test_ray_may_fail_to_start_on_a_busy_machine_and_is_tried_again(tmp_path, monkeypatch, failing,
                                                                    error, said):
    ray = pytest.importorskip("ray")
    tried = []

    def init(*_, **__):
        tried.append(1)
        if len(tried) <= failing:
            raise Exception("The current node timed out during startup. This could")
        raise ZeroDivisionError("started")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(error, match=said):
        list(sweep.finished_tasks(sweep.tasks_of(config(tmp_path)), workers=2))
    assert len(tried) == 3


def test_one_worker_runs_here_and_a_signal_ends_the_whole_sweep(tmp_path, monkeypatch):
    """Without Ray: a task that fails is named while the others run; what is finished is kept."""
    monkeypatch.setitem(sys.modules, "ray", None)
    asked, codes = [], {"seed=1": 2}

    def main(words: list[str]) -> int:
        folder = Path(words[2])
        asked.append(folder.name)
        folder.mkdir(exist_ok=True)
        print("what went wrong")
        return codes.get(folder.name, 0)

    monkeypatch.setattr(cli, "main", main)
    cfg = config(tmp_path, "seed=0,1,2", workers=1)
    with pytest.raises(UserError, match="1 tasks failed; seed=1: exit code 2, what went wrong"):
        sweep.run(cfg)
    assert asked == ["seed=0", "seed=1", "seed=2"]
    codes["seed=1"] = 130
    with pytest.raises(KeyboardInterrupt):
        sweep.run(cfg)
    codes.clear()
    found = sweep.run(cfg)
    assert asked[3:] == ["seed=1", "seed=1"]
    assert {name: task["wrong"] for name, task in found.items()} == dict.fromkeys(
        ("seed=0", "seed=1", "seed=2"), "")


def test_two_sweeps_of_one_folder_share_its_tasks(tmp_path, monkeypatch):
    """What another works at comes last; what another has finished meanwhile stays in the list."""
    asked = []

    def main(words: list[str]) -> int:
        folder = Path(words[2])
        asked.append(folder.name)
        folder.mkdir(exist_ok=True)
        if folder.name == "seed=2":                # the other one has just ended a task, too
            path = tmp_path / "sweep.json"
            held = read_json(path)
            held["tasks"]["another"] = {"words": [], "wrong": ""}
            path.write_text(json.dumps(held))
        return 0

    monkeypatch.setattr(cli, "main", main)
    busy = [True, True, True, False]               # seed=0, when it is asked for the n-th time
    monkeypatch.setattr(locks, "is_busy", lambda folder: folder.name == "seed=0" and busy.pop(0))
    found = sweep.run(config(tmp_path, "seed=1,0,2", workers=1))
    assert asked == ["seed=1", "seed=2", "seed=0"]
    assert set(found) == {"seed=0", "seed=1", "seed=2", "another"}


def test_a_task_that_another_sweep_began_just_before_is_asked_for_again(tmp_path, monkeypatch):
    """Both saw its folder free: the lock decides, and the loser has not failed."""
    answers, asked = {"0": ["exit code 1, f: process 7 works in this folder; wait", ""],
                      "1": [""]}, []

    def run_task(task, patience=60.0):
        asked.append((task.name, patience))
        return answers[task.name].pop(0)

    monkeypatch.setattr(sweep, "run_task", run_task)
    tasks = [sweep.task_of(str(tmp_path / name), "pretrain", {}) for name in "01"]
    found = [(task.name, wrong) for task, wrong in sweep.finished_tasks(tasks, workers=1)]
    assert found == [("1", ""), ("0", "")] and asked == [("0", 0), ("1", 0), ("0", 0)]


@pytest.mark.parametrize("lost", ["result.json", "part/model.safetensors", "."])
def test_a_task_is_finished_while_all_that_it_left_is_there_and_means_the_same(tmp_path,
                                                                               monkeypatch, lost):
    asked = []

    def main(words: list[str]) -> int:
        asked.append(words[2])
        for name in ("result.json", "part/model.safetensors", "part/state.safetensors", ".lock"):
            Path(words[2], name).parent.mkdir(parents=True, exist_ok=True)
            Path(words[2], name).write_text("{}")
        return 0

    monkeypatch.setattr(cli, "main", main)
    cfg = config(tmp_path, "seed=1", workers=1)
    sweep.run(cfg)
    (tmp_path / "seed=1/later.json").write_text("{}")          # a study of the run may add its own
    (tmp_path / "seed=1/part/state.safetensors").unlink()
    sweep.run(cfg)
    record = read_json(tmp_path / "sweep.json")
    older = {key: record["tasks"]["seed=1"].pop(key) for key in ("cwd", "files")}
    (tmp_path / "sweep.json").write_text(json.dumps(record))   # as before they were written
    sweep.run(cfg)
    assert len(asked) == 1
    record["tasks"]["seed=1"] |= older
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    path = tmp_path / "seed=1" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    sweep.run(cfg)
    assert len(asked) == 2
    monkeypatch.chdir(tmp_path)                                # relative paths mean others there
    sweep.run(cfg)
    assert len(asked) == 3
    for damaged in ("{}", '{"tasks": {"seed=1": 3}}', '{"tasks": {"seed=1": {"files": null}}}'):
        (tmp_path / "sweep.json").write_text(damaged)
        with pytest.raises(UserError, match=r"sweep\.json: is damaged"):
            sweep.run(cfg)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:x", "no.such.host.invalid:1"])
def test_a_cluster_that_is_not_there_is_one_line(tmp_path, address):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=f"--address {address}: no Ray cluster"):
        list(sweep.finished_tasks(sweep.tasks_of(config(tmp_path)), address=address))
