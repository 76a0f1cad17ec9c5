"""`minireason run`: every stage in order, from random weights to the report, in one folder.

The ladder is stages.STAGES, its sizes are presets.py. If interrupted, run the same command again:
it resumes where it stopped, and finished stages are not run again.
"""

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minireason import stages
from minireason.core import parallel
from minireason.core.config import StageConfig, resolve_device
from minireason.core.errors import check_choice
from minireason.core.locks import unlock_folder
from minireason.core.runlog import RunLog
from minireason.presets import SIZES, settings_of
from minireason.problems import check_config
from minireason.report import build as report


@dataclass(frozen=True)
class Config(StageConfig):
    """All stages in order, from random weights to the flywheel, then the report."""

    size: str = "quickstart"      # smoke (a minute: shows that it works) | quickstart | gpu
    out: str = ""                 # default: runs/<size>, or runs/<family>-<size>


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
    parallel.init(resolve_device(cfg.device))   # before the folder is claimed, by one rank only
    log = RunLog(str(folder(cfg)), "run", cfg, parents={})
    results = {}
    for number, (name, run_stage) in enumerate(plan, 1):
        log.say(f"stage {number} of {len(plan)}: {name}")
        results[name] = run_stage()
        log.say(f"stage {number} of {len(plan)}: {name} done, "
                f"{results[name]['seconds']:.0f} s in all")
    if parallel.is_main():
        log.say(f"report: {report.run(report.Config(run=str(log.out)))}")
        unlock_folder(log.out)
    parallel.barrier()
    return results
