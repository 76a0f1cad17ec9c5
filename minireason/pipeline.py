"""`minireason run`: every stage in order, from random weights to the report, in one folder.

The ladder is stages.STAGES, its sizes are presets.py. A stage needs its parents alone, so a second
process runs one that is ready beside this one's. If interrupted, run the same command again: it
resumes where it stopped, and finished stages are not run again.
"""

import importlib
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from minireason import stages
from minireason.core import parallel
from minireason.core.config import StageConfig, cores, resolve_device
from minireason.core.errors import UserError, check_choice
from minireason.core.locks import unlock_folder
from minireason.core.runlog import RunLog
from minireason.core.workers import UNGUARDED, end_workers, start_workers, submit
from minireason.presets import SIZES, settings_of
from minireason.problems import check_config
from minireason.report import build as report


@dataclass(frozen=True)
class Config(StageConfig):
    """All stages in order, from random weights to the flywheel, then the report."""

    size: str = "quickstart"      # smoke (a minute: shows that it works) | quickstart | gpu
    out: str = ""                 # default: runs/<size>, or runs/<family>-<size>
    jobs: int | None = None       # stages at once, 1 or 2; None: 2 on a CPU of two cores or more


def plan_of(cfg: Config) -> list[tuple[str, partial[dict]]]:
    """(name, function that runs it) of every stage, parents wired to the folders before."""
    check_choice("size", cfg.size, SIZES)
    check_config(cfg)
    plan = []
    for stage in stages.STAGES:
        if stage.in_run:
            module = importlib.import_module(stage.module)
            settings = {"family": cfg.family, "seed": cfg.seed, "split": cfg.split,
                        "device": cfg.device, "track": cfg.track, **stage.settings,
                        **settings_of(cfg.family, cfg.size, stage.name)}
            for field, parent in stage.parents.items():
                settings[field] = str(folder(cfg) / parent)
            config = module.Config(out=str(folder(cfg) / stage.name), **settings)
            plan.append((stage.name, partial(module.run, config)))
    return plan


def folder(cfg: Config) -> Path:
    """The run's output folder."""
    name = cfg.size if cfg.family == Config.family else f"{cfg.family}-{cfg.size}"
    return Path(cfg.out or f"runs/{name}")


def run(cfg: Config) -> dict:
    """Run what is not finished yet; returns {stage: result}."""
    plan = plan_of(cfg)
    for _, run_stage in plan:         # all of them before the first one runs
        check_config(*run_stage.args)
    device = parallel.init(resolve_device(cfg.device))   # before a rank claims the folder
    log = RunLog(str(folder(cfg)), "run", replace(cfg, jobs=None), parents={})
    results = run_stages(plan, log, jobs_of(cfg, device))
    if parallel.is_main():
        log.say(f"report: {report.run(report.Config(run=str(log.out)))}")
        unlock_folder(log.out)
    parallel.barrier()
    return results


def jobs_of(cfg: Config, device: torch.device) -> int:
    """Stages at once: as asked for, else 2 on a CPU of two cores or more; 1 under torchrun."""
    if cfg.jobs is not None and cfg.jobs > 2:
        raise UserError(f"--jobs {cfg.jobs}: one stage at a time, or two")
    if parallel.world_size() > 1:
        return 1
    return cfg.jobs or (2 if device.type == "cpu" and cores() > 1 else 1)


def run_stages(plan: list[tuple[str, partial[dict]]], log: RunLog, jobs: int) -> dict[str, dict]:
    """{stage: result} in the plan's order; each is run when its parents are done.

    With two jobs the second ready stage goes to a process of its own, which shows no progress bar;
    every stage has half of the threads then, as their number changes how sums are rounded.
    """
    parents = {stage.name: {*stage.parents.values()} for stage in stages.STAGES}
    waiting, results, pool, threads = dict(plan), {}, None, torch.get_num_threads()
    beside: tuple[str, Future] | None = None

    def begin(name: str, where: str = "") -> partial[dict]:
        log.say(f"stage {len(plan) - len(waiting) + 1} of {len(plan)}: {name}{where}")
        return waiting.pop(name)

    def end(name: str, result: dict) -> None:
        results[name] = result
        log.say(f"{name} done, {result['seconds']:.0f} s in all")

    def say_failure(future: Future) -> None:
        if beside and (error := future.exception()):       # not of one that is ended here
            log.say(f"the second process failed ({error}); the run ends with this stage")

    torch.set_num_threads(max(1, threads // jobs))
    try:
        while waiting or beside:
            ready = [name for name in waiting if parents[name] <= results.keys()]
            if beside and (beside[1].done() or not ready):
                end(beside[0], beside[1].result())
                beside = None
                continue
            finished = [name for name in ready if (log.out / name / "result.json").exists()]
            if jobs > 1 and len(ready) > 1 and not beside and not finished:
                stage = begin(ready[1], ", in a second process")
                try:
                    pool = pool or start_workers(1)
                    beside = ready[1], submit(pool, stage)
                except OSError as error:
                    raise UserError(f"the second process cannot be started ({error}); with "
                                    "--jobs 1 nothing runs beside this one") from None
                beside[1].add_done_callback(say_failure)
            name = (finished or ready)[0]
            end(name, begin(name)())
    except BrokenProcessPool:
        raise UserError("the second process was killed or could not start; run the same command "
                        "again, with --jobs 1 if memory is short; " + UNGUARDED) from None
    finally:
        beside = None
        end_workers(pool)
        torch.set_num_threads(threads)
    return {name: results[name] for name, _ in plan}
