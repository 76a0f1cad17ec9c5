"""Data made ahead by worker processes: the same bit for bit, and nothing is left running."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_run import MIXTURE, tiny_stages

from minireason.core import config, workers
from minireason.core.errors import UserError
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.problems.corpus import corpus_lines
from minireason.stages import pretrain
from minireason.training.ahead import made_ahead, workers_for
from minireason.training.batches import encode_lines, micro_batches

TOKENIZER = Tokenizer.build(chain.TOKENS)
CONFIG = pretrain.Config(mixture=MIXTURE, rows_per_step=9, token_budget=60)


def step_data(rank: int, of: int) -> partial:
    return partial(pretrain.step_data, CONFIG, TOKENIZER, "pretrain", slice(rank, None, of))


def plain(data) -> list:
    """Batches and count with every tensor's type and numbers, which == compares."""
    return [([{name: (value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value
               for name, value in vars(batch).items()} for batch in batches], count)
            for batches, count in data]


@pytest.mark.parametrize(("rank", "of"), [(0, 1), (1, 2)])
def test_workers_make_what_this_process_makes(rank, of, monkeypatch):
    """Ctrl-C reaches them as soon as they are started, and stops none."""
    class Struck(ProcessPoolExecutor):
        def submit(self, *given):
            future = super().submit(*given)
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGINT)
            return future

    if hasattr(signal, "pthread_sigmask"):
        monkeypatch.setattr(workers, "ProcessPoolExecutor", Struck)
    make, steps = step_data(rank, of), range(3, 10)                  # as after a resume at 3
    with closing(made_ahead(make, steps, 2)) as made:
        found = plain(made)
    wanted = []
    for step in steps:
        lines = corpus_lines(MIXTURE, chain, config.rng(0, "pretrain", step), 9)
        rows = encode_lines(TOKENIZER, [""] * 9, lines)
        batches, _ = micro_batches(rows[rank::of], 60, TOKENIZER.pad)
        wanted.append((batches, sum(len(tokens) - 1 for tokens, _ in rows)))
    assert found == plain(wanted) and len({str(data) for data in found}) == 7


def refuse(step: int):
    raise UserError(f"no step {step}") if step else ValueError("not\na number")


@pytest.mark.parametrize(("make", "first", "why"), [
    (refuse, 1, "^no step 1$"), (refuse, 0, r"worker process failed at step 0 \(ValueError: not"),
    (os._exit, 3, "worker process that draws ahead was killed or could not start")])
def test_a_worker_that_fails_is_said_in_one_line_and_none_is_left(make, first, why):
    with pytest.raises(UserError, match=why):
        list(made_ahead(make, range(first, 9), 1))
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_be_started_is_said(monkeypatch):
    """The command line takes an OSError without a file's name for one of standard output."""
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *_: os.close(-1))
    with pytest.raises(UserError, match=r"cannot be started \(.*Bad file descriptor\)"):
        list(made_ahead(step_data(0, 1), range(3), 1))


def test_a_thread_that_the_system_refuses_is_said(monkeypatch):
    def refuse_thread(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse_thread)
    with pytest.raises(UserError, match=r"cannot be started \(can't start new thread\)"):
        list(made_ahead(step_data(0, 1), range(3), 1))


def test_a_signal_waits_until_a_worker_is_started():
    pool = SimpleNamespace(submit=lambda *_: signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    assert set(workers.SIGNALS) <= workers.submit(pool, print)      # pyright: ignore
    assert signal.SIGTERM in workers.SIGNALS and signal.SIGTERM not in pool.submit()


def write(path: Path, step: int):
    path.write_text(str(step))
    return [], 0


def test_workers_that_still_start_are_not_waited_for(tmp_path, monkeypatch):
    real = ProcessPoolExecutor.submit

    def interrupted(pool, work, make, step):
        if step:
            raise KeyboardInterrupt
        return real(pool, work, make, step)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(made_ahead(partial(write, tmp_path / "made"), range(3), 1))
    assert not (tmp_path / "made").exists() and not multiprocessing.active_children()


def test_a_run_that_died_with_workers_resumes_without_them(ladder, tmp_path, monkeypatch):
    run, cfg = tiny_stages(tmp_path)["pretrain"]
    object.__setattr__(cfg, "workers", 1)
    saved, real = [], checkpoint.save_state_every

    def save_and_die(*given):
        real(*given)
        saved.append(len(multiprocessing.active_children()))
        if len(saved) == cfg.save_every + 1:
            raise RuntimeError("here")

    monkeypatch.setattr(checkpoint, "save_state_every", save_and_die)
    with pytest.raises(RuntimeError, match="here"):
        run(cfg)
    assert set(saved) == {1}                                         # the worker
    assert not multiprocessing.active_children()
    monkeypatch.setattr(checkpoint, "save_state_every", real)
    object.__setattr__(cfg, "workers", 0)
    run(cfg)
    for name in ("metrics.jsonl", "config.json"):
        texts = [(root / "pretrain" / name).read_text() for root in (ladder, tmp_path)]
        assert texts[0] == texts[1], name
    assert checkpoint.weights_hash(tmp_path / "pretrain") == checkpoint.weights_hash(
        ladder / "pretrain")


def test_a_gpu_gets_workers_and_a_cpu_none(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for cores, wanted in ((1, 0), (2, 1), (16, 8)):
        monkeypatch.setattr("minireason.training.ahead.cores", lambda n=cores: n)
        assert workers_for(gpu, None) == wanted
    monkeypatch.setattr("minireason.core.parallel.world_size", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")                      # the others on another machine
    assert workers_for(gpu, None) == 3
    assert workers_for(cpu, None) == 0 and workers_for(cpu, 3) == 3 and workers_for(gpu, 0) == 0
    assert config.cores() >= 1


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="NOT CHECKED: no process groups here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=("Ctrl-C", "KILL"))
def test_nothing_outlives_a_run_that_is_stopped(number, tmp_path):
    """Ctrl-C reaches the workers, too, and they leave the word to their parent."""
    log, errors = tmp_path / "out/metrics.jsonl", tmp_path / "errors"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)   # the background ignores it
    with open(errors, "w") as file:
        run = subprocess.Popen(
            [sys.executable, "-m", "minireason", "pretrain", "--workers", "2", "--device", "cpu",
             "--rows-per-step", "2", "--out", str(log.parent)], stderr=file,
            start_new_session=True, cwd=Path(__file__).parents[2],
            env={**os.environ, "MINIREASON_LAYERS": "torch"})        # nothing to compile
    signal.signal(signal.SIGINT, before)
    until(lambda: log.exists() and log.stat().st_size)
    if number == signal.SIGINT:
        os.killpg(run.pid, number)
        assert run.wait(timeout=180) == 130
        assert errors.read_text().splitlines()[-1].endswith("same command again to resume")
        assert "Traceback" not in errors.read_text()
    else:
        run.kill()
        run.wait()
    until(lambda: not group_lives(run.pid))


def until(true) -> None:
    """Wait for it for up to three minutes, as on a busy machine."""
    for _ in range(1800):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
