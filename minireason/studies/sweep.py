"""`minireason sweep`: a grid of runs as tasks on Ray, on this machine or on a cluster.

    minireason sweep --fixed size=smoke --vary seed=0,1,2,3
    minireason sweep --command pretrain --vary lr=1e-3,2e-3 d_model=64,96 seed=0,1 --workers 2

Every combination of the varied fields is one task: that command with those flags, `--out` below the
sweep's folder, what it prints in a log beside it, on one GPU where there are any, else on one core.
A finished task is not run again. One whose worker is killed goes on elsewhere from its last saved
state, so the machines of a cluster share a file system; and the same command goes on where a killed
sweep stopped. One worker needs no Ray: the tasks run here, one after the other, and a second shell
with the same command takes its share of them. Studies give their own lists of tasks to `run_tasks`.
Ray: Moritz 2018 (arXiv:1712.05889).
"""

import contextlib
import itertools
import logging
import os
import re
import signal
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from minireason import cli
from minireason.core import locks
from minireason.core.errors import UserError
from minireason.core.files import STATE, make_folder, read_json
from minireason.studies import shared

RETRIES = 20                      # of a task whose worker was killed
PATIENCE = 60.0                   # seconds until a killed worker's lock must have gone
HELD = "works in this folder"     # says who asks for a lock that another process holds
STARTS = 3                        # of Ray here, which gives one up after 30 s on a busy machine


@dataclass(frozen=True)
class Config:
    """A grid of runs of one command as tasks on Ray, locally or on a cluster."""

    command: str = "run"          # run, a stage or a study
    vary: tuple[str, ...] = ()    # field=value,value,...: every combination is run
    fixed: tuple[str, ...] = ()   # field=value: the same for all
    workers: int = 0              # tasks at once here; 0: one per GPU, or per core; 1: without Ray
    address: str = ""             # of a Ray cluster, or auto; "": this machine alone
    out: str = "runs/sweep"


@dataclass(frozen=True)
class Task:
    """One command line; what it prints goes to a log beside its folder."""

    words: tuple[str, ...]        # the command and its flags
    folder: str
    cwd: str                      # where relative paths of flags are meant

    @property
    def name(self) -> str:
        """Of its folder, below the sweep's."""
        return Path(self.folder).name

    def record(self, wrong: str) -> dict:
        """What sweep.json says of it, the files that it left included."""
        files = sorted(str(path.relative_to(self.folder)) for path in Path(self.folder).rglob("*")
                       if path.is_file() and path.name[0] != "." and path.name != STATE)
        return {"words": [word for word in self.words if word != self.folder], "cwd": self.cwd,
                "wrong": wrong, "files": files}

    def is_finished(self, found: dict | None) -> bool:
        """Whether what sweep.json says is that this task has ended well, and all of it is there."""
        now = self.record("")
        held = {"cwd": self.cwd, "files": [], **(found or {})}       # an older one has only words
        return (Path(self.folder).exists() and set(held["files"]) <= set(now["files"])
                and all(held.get(key) == now[key] for key in ("words", "cwd", "wrong")))


def run(cfg: Config) -> dict[str, dict]:
    """Run every task that is not finished; {its folder's name: {"words", "wrong"}}."""
    return run_tasks(tasks_of(cfg), Path(cfg.out), shared.made_with("sweep", cfg), cfg.workers,
                     cfg.address)


def run_tasks(tasks: Sequence[Task], out: Path, made_with: dict, workers: int = 0,
              address: str = "") -> dict[str, dict]:
    """Run those of the tasks that sweep.json of `out` does not call finished; UserError names
    those that fail. Other sweeps may work in `out` at the same time."""
    make_folder(out)
    path = out / "sweep.json"

    def known() -> dict[str, dict]:
        return read_json(path)["tasks"] if path.exists() else {}

    with shared.readable(path):
        found = known()
        left = [task for task in tasks if not task.is_finished(found.get(task.name))]
    for task, wrong in finished_tasks(left, workers, address):
        locks.lock_folder(out, wait=True)
        found = {**known(), task.name: task.record(wrong)}
        shared.write_json(path, {**made_with, "tasks": found})
        locks.unlock_folder(out)
    failed = [f"{task.name}: {found[task.name]['wrong']}" for task in tasks
              if found[task.name]["wrong"]]
    if failed:
        raise UserError(f"{out}: {len(failed)} tasks failed; {'; '.join(failed)}")
    print(f"{out}: {len(tasks)} tasks are finished, {len(left)} of them now")
    return found


def tasks_of(cfg: Config) -> list[Task]:
    """The grid as command lines, all of them checked before the first one runs."""
    varied, fixed = ([field_of(text) for text in texts] for texts in (cfg.vary, cfg.fixed))
    names, tasks = [field for field, _ in (*varied, *fixed)], []
    folders: dict[str, str] = {}
    if len(set(names)) < len(names) or "out" in names or cfg.command == "sweep":
        raise UserError(f"sweep of {cfg.command}, fields {', '.join(names)}: name each once, and "
                        "neither out nor another sweep")
    axes = [[(field, value) for value in text.split(",")] for field, text in varied]
    for point in itertools.product(*axes):
        name = "_".join(f"{field}={value}" for field, value in point) or "only"
        folder = str(Path(cfg.out, re.sub("[/ ]", "-", name)).resolve())
        if folder in folders:
            raise UserError(f"--vary: {folders[folder]} and {name} would share the folder {folder}")
        folders[folder] = name
        fields = {field: value.split() for field, value in (*fixed, *point)}
        tasks.append(task_of(folder, cfg.command, fields))
        cli.read_command(list(tasks[-1].words))
    return tasks


def task_of(folder: str, command: str, fields: Mapping[str, Iterable[object]]) -> Task:
    """The command line of a command into a folder, {field: its values}."""
    words = [command, "--out", folder]
    for field, values in fields.items():
        words += [f"--{field.replace('_', '-')}", *map(str, values)]
    return Task(tuple(words), folder, os.getcwd())


def field_of(text: str) -> tuple[str, str]:
    """("lr", "1e-3,2e-3") of "lr=1e-3,2e-3"; UserError without a field or a value."""
    field, _, value = text.partition("=")
    if not field or not value:
        raise UserError(f"{text!r}: must be FIELD=VALUE, of --vary also FIELD=VALUE,VALUE,...")
    return field, value


def finished_tasks(tasks: Sequence[Task], workers: int = 0,
                   address: str = "") -> Iterator[tuple[Task, str]]:
    """Run tasks on Ray; each when it is finished, with "" or what went wrong."""
    if workers == 1 and not address:
        queue = deque(tasks)
        with tqdm(total=len(tasks), desc="sweep", unit="task") as bar:
            while queue:
                task = queue.popleft()
                wrong = HELD if locks.is_busy(Path(task.folder)) else run_task(task, patience=0)
                if HELD in wrong:                      # another sweep's: the next one first
                    queue.append(task)
                    time.sleep(0.1)
                    continue
                if re.match(r"exit code 1[2-9]\d", wrong):     # a signal, meant for the whole sweep
                    raise KeyboardInterrupt
                bar.update()
                yield task, wrong
    if not tasks or (workers == 1 and not address):
        return
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError:
        raise UserError("sweep: needs Ray; pip install 'minireason[sweep]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:                          # Ray itself would try for a quarter of an hour
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise UserError(f"--address {address}: no Ray cluster answers ({error})") from None
    at_once = None if address else workers or None
    on_gpu, on_stop = torch.cuda.is_available(), signal.getsignal(signal.SIGTERM)
    try:
        for left in reversed(range(1 if address else STARTS)):
            try:
                ray.init(address or "local", num_cpus=None if on_gpu else at_once,
                         num_gpus=at_once if on_gpu else None, include_dashboard=False,
                         log_to_driver=False, logging_level=logging.ERROR)
                break
            except Exception as error:                    # the class that Ray raises then
                if address or "timed out" not in str(error).lower():
                    raise
                ray.shutdown()
                if not left:
                    raise UserError(f"sweep: Ray did not start in {STARTS} tries, for which this "
                                    "machine may be too busy; --workers 1 needs no Ray") from None
        signal.signal(signal.SIGTERM, on_stop or signal.SIG_DFL)    # Ray's kills without a word
        gpu = ray.cluster_resources().get("GPU", 0) > 0
        remote = ray.remote(num_cpus=int(not gpu), num_gpus=int(gpu), max_retries=RETRIES,
                            max_calls=1)(run_task)        # each in a process of its own
        running = {remote.remote(task): task for task in tasks}
        for _ in tqdm(tasks, desc="sweep", unit="task"):
            (done, *_), _ = ray.wait(list(running))
            try:
                wrong = ray.get(done)
            except RayError as error:
                wrong = f"{type(error).__name__}, see its log"
            yield running.pop(done), wrong
    except ConnectionError as error:
        raise UserError(f"--address {address}: {error}") from None
    finally:
        ray.shutdown()            # and what runs on it


def run_task(task: Task, patience: float = PATIENCE) -> str:
    """Run one command in this process; "" or the line that says what went wrong, which is that
    another process works in its folder only after so many seconds of this."""
    deadline, log = time.monotonic() + patience, Path(f"{task.folder}.log")
    while True:
        with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), \
                contextlib.redirect_stderr(file), contextlib.chdir(task.cwd):
            code = cli.main(list(task.words))
        if code == 0:
            return ""
        last = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-1]
        if HELD not in last or time.monotonic() > deadline:
            return f"exit code {code}, {last}"
        time.sleep(1)             # the killed worker that held it is about to end
