"""`minireason controls`: what else the FLOPs of a rung would have bought.

    pretraining continued   the base on new lines of its mixture, up to RL's FLOPs
    pretraining twice as long   from random weights, with a schedule of twice the steps
    n gold lines            SFT of the base on n exact traces, up to RL's FLOPs; where they reach a
                            rung's accuracy is its price in lines of experts
    STaR, more rounds       up to RL's FLOPs
    RL, the other reward    by outcome alone if the ladder's RL has process rewards, else with them
    replay alone            the RL policy on the mixture, up to the flywheel's FLOPs

A policy's FLOPs are those of its own stage and of every stage that it descends from. Each arm is a
stage of the run with another dose (steps, or STaR's rounds), from the cost that the run measured;
an arm that misses its target by more than 5% is trained again with the dose corrected.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from minireason.core.config import TrainingConfig
from minireason.core.errors import UserError
from minireason.core.files import check_manifest, read_json
from minireason.measure.estimates import share_interval
from minireason.report.runs import group_by, level_of, select
from minireason.stages import STAGES, pretrain, rl, sft, star
from minireason.studies import controls_tables, ladders, shared

FAR, TRIES = 0.05, 3              # of the target; an arm is trained this often at most
SHOWN = (2, 4, 8, 12)             # levels, beside the hardest
LABELS = {stage.name: stage.label for stage in STAGES if stage.label and stage.in_run}


@dataclass(frozen=True)
class Config(shared.Study):
    """Every rung beside arms of equal FLOPs, for every given run folder (one per seed).

    The arms lie below --out or, with several runs, below RUN/controls of each.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--run",))] = ()   # finished runs
    gold: tuple[int, ...] = (600, 2400)   # gold lines, beside as many as the run's own

    def __post_init__(self):
        if not self.runs and not self.source:
            raise UserError("controls: give --run, a finished run folder, or --from")


@dataclass(frozen=True)
class Arm:
    """One control, before its dose is known."""

    name: str
    train: Callable[..., dict]    # run of the stage that trains it
    start: str                    # rung whose policy it continues; "": random weights
    against: str                  # rung whose cumulative FLOPs it gets
    config: TrainingConfig
    cost: float                   # FLOPs expected of this config as it stands
    times: float = 1.0            # so many times those FLOPs


def run(cfg: Config) -> dict:
    """Train what is missing; writes controls.json, .md and .png into `out`, returns the JSON."""
    alone = f"{cfg.runs[0]}/controls" if len(cfg.runs) == 1 else "runs/controls"
    return shared.study_rows(cfg, "controls", alone, partial(all_rows, cfg),
                             controls_tables.text_of, {"": controls_tables.figure_of})


def all_rows(cfg: Config, out: Path) -> list[dict]:
    """The rows of every run, rungs and arms; the arms of a single one lie in `out`."""
    rows = []
    for folder in map(Path, cfg.runs):
        arms = out if len(cfg.runs) == 1 else folder / "controls"
        rows += rung_rows(folder) + arm_rows(cfg, folder, arms)
    check_pairs(rows, len(cfg.runs))
    return rows


def cumulative_flops(folder: Path, name: str) -> float:
    """FLOPs of a stage of a run and of all that it descends from."""
    parents = {stage.name: set(stage.parents.values()) for stage in STAGES}
    family, new = {name}, {name}
    while new:
        new = set().union(*(parents[member] for member in new)) - family
        family |= new
    return sum(read_json(folder / member / "result.json")["flops"] for member in family)


def arms_of(cfg: Config, folder: Path) -> list[Arm]:
    """The arms of a run, with the settings of the run's own stages."""
    names = ("pretrain", "sft", "star", "rl", "flywheel")
    base, tuned, taught, rewarded, turned = (ladders.config_of(folder, name) for name in names)
    cost = {name: read_json(folder / name / "result.json")["flops"] for name in names}
    line = cost["pretrain"] / (base.steps * base.rows_per_step)   # FLOPs of a row of the mixture
    arms = [Arm("pretraining continued", pretrain.run, "pretrain", "rl",
                replace(base, init=str(folder / "pretrain")), cost["pretrain"]),
            Arm("pretraining twice as long", pretrain.run, "", "pretrain", base, cost["pretrain"],
                times=2.0)]
    for n in sorted({tuned.traces, *cfg.gold}):
        arms.append(Arm(f"{n:,} gold lines", sft.run, "pretrain", "rl",
                        replace(tuned, traces=n), cost["sft"]))
    arms.append(Arm("STaR, more rounds", star.run, "sft", "rl", taught, cost["star"]))
    process = 0.0 if rewarded.rewards.process else 1.0
    arms.append(Arm("RL by outcome and process" if process else "RL by outcome alone", rl.run,
                    "star", "rl", cost=cost["rl"],
                    config=replace(rewarded, rewards=replace(rewarded.rewards, process=process))))
    as_turned = {field: getattr(turned, field)
                 for field in ("steps", "rows_per_step", "lr", "warmup", "weight_decay")}
    arms.append(Arm("replay alone", pretrain.run, "rl", "flywheel",
                    replace(base, init=str(folder / "rl"), optimizer="adamw", **as_turned),
                    turned.steps * turned.rows_per_step * line))
    return arms


def dosed(config: TrainingConfig, times: float) -> TrainingConfig:
    """The config with so many times its steps, or rounds, of one size that leaves no remainder."""
    if not isinstance(config, star.Config):
        return replace(config, steps=max(1, round(times * config.steps)))
    rounds = max(1, round(times * config.rounds))
    part = times * config.rounds / rounds
    return replace(config, rounds=rounds, steps=max(1, round(part * config.steps)),
                   problems=max(1, round(part * config.problems)))


def train_at(arm: Arm, need: float, folder: Path) -> tuple[Path, float]:
    """Train the arm for `need` FLOPs; its policy's folder and the FLOPs that were measured."""
    times, tried = need / arm.cost, []
    while True:
        tried.append(dosed(arm.config, times))
        out = folder / f"try-{len(tried)}"
        spent = arm.train(replace(tried[-1], out=str(out)))["flops"]
        times *= need / spent
        near = abs(spent - need) <= FAR * need
        if near or len(tried) == TRIES or dosed(arm.config, times) in tried:
            return out, spent


def arm_rows(cfg: Config, folder: Path, out: Path) -> list[dict]:
    """Train every arm of a run; its rows, with FLOPs, target and gold lines."""
    rows = []
    for arm in arms_of(cfg, folder):
        before = cumulative_flops(folder, arm.start) if arm.start else 0.0
        target = cumulative_flops(folder, arm.against)
        policy, spent = train_at(arm, arm.times * target - before,
                                 out / ladders.folder_name(arm.name))
        about = {"flops": before + spent, "target": target, "start": LABELS.get(arm.start, ""),
                 "against": LABELS[arm.against], "times": arm.times,
                 "lines": gold_lines(folder, arm.start)}
        if isinstance(arm.config, sft.Config):
            about |= {"lines": arm.config.traces, "gold": True}
        rows += policy_rows(policy, arm.name, **about)
    return rows


def rung_rows(folder: Path) -> list[dict]:
    """The rows of the run's own policies."""
    rows = []
    for name, label in LABELS.items():
        rows += policy_rows(folder / name, label, flops=cumulative_flops(folder, name),
                            lines=gold_lines(folder, name))
    return rows


def gold_lines(folder: Path, name: str) -> int:
    """Gold lines that a rung of a run has seen."""
    return 0 if name in ("", "pretrain") else ladders.config_of(folder, "sft").traces


def policy_rows(folder: Path, arm: str, **about: object) -> list[dict]:
    """A policy's accuracy on the shown sets, with its digit per problem (finish_policy)."""
    check_manifest(folder)
    rows, seed = [], read_json(folder / "config.json")["config"]["seed"]
    for method, found in read_json(folder / "verdicts.json").items():
        for name, digits in found.items():
            if level_of(name) in SHOWN or name == list(found)[-1]:
                share = share_interval(len(digits) - digits.count("0"), len(digits))
                rows.append({"arm": arm, "set": name, "method": method, "seed": seed, **share,
                             "problems": len(digits), **about, "digits": digits})
    return rows


def check_pairs(rows: list[dict], runs: int) -> None:
    """UserError unless every policy was measured once per seed, on equal problems."""
    for arm, members in group_by(rows, "arm").items():
        for name, same in group_by(select(members, method="greedy"), "set").items():
            seeds, sizes = ({row[field] for row in same} for field in ("seed", "problems"))
            if len(seeds) != runs or len(sizes) != 1:
                raise UserError(f"--runs: need one run per seed, all of one recipe; {arm!r} on "
                                f"{name} has seeds {sorted(seeds)} and {sorted(sizes)} problems")
