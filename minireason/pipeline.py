"""`minireason run`: every stage in order, from random weights to the report, in one folder.

A size is data: it only names what differs from the stages' own defaults, which are the quickstart.
The same command goes on where it was stopped; finished stages are not run again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minireason.core import parallel
from minireason.core.config import UserError, machine, resolve_device, write_atomic
from minireason.core.runlog import RunLog
from minireason.problems.corpus import Mixture
from minireason.report import build as report
from minireason.stages import critic, flywheel, pretrain, rl, sft, star, testtime
from minireason.stages import guided_search as search

SMOKE = {
    "pretrain": {"steps": 300, "lines_per_step": 32, "d_model": 48, "n_layers": 2, "n_heads": 3,
                 "head_dim": 16, "d_ff": 96, "lr": 4e-3, "target": 0.0, "save_every": 60,
                 "eval_n": 40, "mixture": Mixture(facts=0.1, direct=0.1, max_level=2)},
    "sft": {"steps": 40, "rows_per_step": 32, "max_level": 2, "save_every": 15, "eval_n": 40},
    "star": {"rounds": 2, "problems": 150, "min_level": 1, "max_level": 2, "steps": 40,
             "rows_per_step": 32, "save_every": 15, "eval_n": 40},
    "critic": {"problems": 80, "min_level": 1, "max_level": 2, "n": 4, "steps": 30,
               "rows_per_step": 32, "save_every": 10, "held_out": 20},
    "outcome": {"problems": 80, "min_level": 1, "max_level": 2, "n": 4, "steps": 30,
                "rows_per_step": 32, "save_every": 10, "held_out": 20},
    "testtime": {"levels": (2,), "problems": 40, "n": 8, "shard": 10},
    "rl": {"steps": 6, "prompts_per_step": 8, "group_size": 4, "min_level": 1, "max_level": 2,
           "save_every": 2, "eval_every": 3, "validation_n": 40, "eval_n": 40},
    "rl_critic": {"problems": 80, "min_level": 1, "max_level": 2, "n": 4, "steps": 20,
                  "rows_per_step": 32, "save_every": 10, "held_out": 20},
    "rl_testtime": {"levels": (2,), "problems": 40, "n": 8, "shard": 10},
    "search": {"levels": (2,), "problems": 20, "samples": (2, 8), "shard": 10},
    "flywheel": {"turns": 1, "problems": 100, "max_level": 2, "n": 4, "steps": 20,
                 "filter": "none",          # so small a policy is right by luck alone
                 "rows_per_step": 32, "save_every": 10, "refresh": "no", "eval_n": 40},
}
QUICKSTART: dict[str, dict] = {name: {} for name in SMOKE} | {
    "rl_testtime": {"levels": (7,)},
    "search": {"levels": (7,), "problems": 300},
    "flywheel": {"turns": 2, "steps": 150, "save_every": 50, "refresh": "no"},
}
GPU = {
    "pretrain": {"steps": 6000, "lines_per_step": 2048, "token_budget": 65536, "d_model": 384,
                 "n_layers": 8, "n_heads": 6, "head_dim": 64, "d_ff": 1024, "max_len": 256,
                 "lr": 2e-3, "target": 0.0, "warmup": 200, "save_every": 1000,
                 "mixture": Mixture(max_level=16, common_level=8, worked_tail=0.4)},
    "sft": {"steps": 200, "rows_per_step": 256, "token_budget": 65536, "max_level": 8},
    "star": {"problems": 20_000, "max_level": 16, "steps": 600, "rows_per_step": 512,
             "token_budget": 65536},
    "critic": {"problems": 8_000, "max_level": 16, "n": 16, "steps": 600, "rows_per_step": 512,
               "token_budget": 65536},
    "outcome": {"problems": 8_000, "max_level": 16, "n": 16, "steps": 600, "rows_per_step": 512,
                "token_budget": 65536},
    "testtime": {"n": 256, "levels": (8,)},
    "rl": {"prompts_per_step": 128, "max_level": 16, "max_new": 128, "token_budget": 65536,
           "lr": 3e-4},
    "rl_critic": {"problems": 8_000, "max_level": 16, "n": 16, "steps": 300, "rows_per_step": 512,
                  "token_budget": 65536},
    "rl_testtime": {"n": 256, "levels": (8,)},
    "search": {"problems": 500},
    "flywheel": {"turns": 2, "problems": 8_000, "max_level": 16, "steps": 300,
                 "rows_per_step": 512, "token_budget": 65536, "refresh": "no"},
}
SIZES = {"smoke": SMOKE, "quickstart": QUICKSTART, "gpu": GPU}


@dataclass(frozen=True)
class Config:
    """All stages in order, from random weights to the flywheel, then the report."""

    size: str = "quickstart"      # smoke (90 s, shows that it works) | quickstart | gpu
    out: str = ""                 # default: runs/<size>
    seed: int = 0
    device: str = "auto"          # auto | cpu | cuda


def stages(cfg: Config) -> list[tuple[str, Callable[[], dict]]]:
    """(name, function that runs it) of every stage, parents wired to the folders before."""
    if cfg.size not in SIZES:
        raise UserError(f"--size {cfg.size}: must be one of {', '.join(SIZES)}")
    root, sizes = folder(cfg), SIZES[cfg.size]
    common = {"seed": cfg.seed, "device": cfg.device}
    at = {name: str(root / name) for name in sizes}
    plan = (
        ("pretrain", pretrain.run, pretrain.Config, {}),
        ("sft", sft.run, sft.Config, {"init": at["pretrain"]}),
        ("star", star.run, star.Config, {"init": at["sft"], "base": at["pretrain"]}),
        ("critic", critic.run, critic.Config, {"init": at["star"]}),
        ("outcome", critic.run, critic.Config, {"init": at["star"], "labels": "outcome"}),
        ("testtime", testtime.run, testtime.Config,
         {"policy": at["star"], "critic": at["critic"], "outcome": at["outcome"]}),
        ("rl", rl.run, rl.Config, {"init": at["star"]}),
        ("rl_critic", critic.run, critic.Config, {"init": at["rl"]}),
        ("rl_testtime", testtime.run, testtime.Config,
         {"policy": at["rl"], "critic": at["rl_critic"]}),
        ("search", search.run, search.Config,
         {"policy": at["rl"], "critic": at["rl_critic"]}),
        ("flywheel", flywheel.run, flywheel.Config,
         {"init": at["rl"], "base": at["pretrain"], "critic": at["rl_critic"]}))
    configs = [(name, run_stage, config(out=at[name], **parents, **common, **sizes[name]))
               for name, run_stage, config, parents in plan]
    return [(name, lambda run_stage=run_stage, config=config: run_stage(config))
            for name, run_stage, config in configs]


def folder(cfg: Config) -> Path:
    """The run's output folder."""
    return Path(cfg.out or f"runs/{cfg.size}")


def run(cfg: Config) -> dict:
    """Run what is not finished yet; returns {stage: result}."""
    plan = stages(cfg)
    parallel.init(resolve_device(cfg.device))   # before the folder is claimed, by one rank only
    log = RunLog(str(folder(cfg)), "run", cfg, parents={})
    if parallel.is_main() and not (folder(cfg) / "machine.json").exists():
        write_atomic(folder(cfg) / "machine.json", json.dumps(machine()) + "\n")
    results = {}
    for number, (name, run_stage) in enumerate(plan, 1):
        log.say(f"stage {number} of {len(plan)}: {name}")
        results[name] = run_stage()
        log.say(f"stage {number} of {len(plan)}: {name} done, "
                f"{results[name]['seconds']:.0f} s in all")
    if parallel.is_main():
        page = report.run(report.Config(run=str(folder(cfg))))
        log.say(f"report: {page}")
    parallel.barrier()
    return results
