"""Variants, tables and picture of `minireason ablate --stage internalize`.

What is written here reads the rows alone. A variant is an arm of the stage on a task.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minireason.core.files import read_lines
from minireason.report import style, tables
from minireason.report.runs import group_by, level_of, select
from minireason.report.seeds import margin_rows
from minireason.stages import internalize

DIGITS = {"family": "multiplication"}
TASKS = {"3x3": DIGITS,
         "2x2": DIGITS | {"min_level": 2, "max_level": 2, "steps": 2500, "steps_per_token": 100},
         "chain": {"family": "chain", "min_level": 1, "steps": 3000, "steps_per_token": 100,
                   "unit": "token", "swap": False}}
ARMS = {"internalize": "thought removed", "direct": "never a thought",
        "auxiliary": "never a thought, running-sum head", "explicit": "whole thought"}
WHOLE_STEPS = 2500           # of the arm that writes whole thoughts, which has learned them by then
VARIANTS = {f"{words}, {task}": changes | {"arm": arm} | (
                {"steps": WHOLE_STEPS} if arm == "explicit" else {})
            for task, changes in TASKS.items() for arm, words in ARMS.items()
            if (task, arm) != ("chain", "auxiliary")}
POINTS = 120                # of a curve at most


def complete_rows(rows: list[dict], result: dict, cfg: internalize.Config) -> None:
    """To the rows of the levels that were trained: FLOPs, and as rows what a line costs in nats."""
    rows[:] = [{**row, "flops": result["flops"]} for row in rows
               if cfg.min_level <= level_of(row["set"]) <= cfg.max_level]
    steps = read_lines(Path(cfg.out) / "metrics.jsonl")
    size = -(-len(steps) // POINTS)
    for part in (steps[i:i + size] for i in range(0, len(steps), size)):
        nats = [step["train/loss"] * step["train/tokens"] / step["train/rows"] for step in part]
        rows.append({"seed": cfg.seed, "set": rows[0]["set"], "method": "nats", "n": 1,
                     "step": part[-1]["step"], "nats": float(np.mean(nats)),
                     "tokens": part[-1]["train/thought_tokens"]})


def text_of(rows: list[dict]) -> str:
    """Both tables: what an arm answers greedily on each task, and paired differences."""
    greedy = [with_arm(row) for row in select(rows, method="greedy")]
    names = {name: column(name) for name in group_by(greedy, "set")}
    answers = tables.pivot(greedy, "arm", "set", "answers right (%)", names=names)
    answers[0].append("FLOPs (3x3)")
    for line in answers[1:]:
        own = select(greedy, arm=line[0], task="3x3")
        line.append(f"{np.mean([row['flops'] for row in own]):.1e}" if own else "")
    sizes = group_by(greedy, "problems")
    seeds = [f"{task}: {', '.join(map(str, sorted(group_by(own, 'seed'))))}"
             for task, own in group_by(greedy, "task").items()]
    first, *others = group_by(greedy, "arm")
    pairs = [(first, other) for other in others]
    return "\n\n".join([
        tables.markdown(answers),
        f"Greedy, mean over seeds ({'; '.join(seeds)}) [95% over seeds and problems "
        f"(two_way_interval)] (range); n = {', '.join(map(str, sorted(sizes)))} held-out problems "
        "per task and seed. On a task all arms read equally many tokens per step, and train for as "
        f"many steps, but for `{ARMS['explicit']}` ({WHOLE_STEPS:,}).",
        tables.markdown(tables.pivot(margin_rows(greedy, "arm", pairs), "arm", "set",
                                     "paired difference (points)", names=names))]) + "\n"


def with_arm(row: dict) -> dict:
    """The row with its variant's two parts."""
    arm, _, task = row["variant"].rpartition(", ")
    return {**row, "arm": arm, "task": task}


def column(name: str) -> str:
    """`3x3 digits` or `chain, level 4` of a frozen set."""
    level = level_of(name)
    if name.startswith(DIGITS["family"]):
        return f"{level}x{level} digits"
    return f"{name.partition('-')[0]}, level {level}"


def figure_of(rows: list[dict]) -> Figure:
    """What a line of the first task costs each arm while it trains, every seed a line."""
    figure, axes = style.canvas(3.6)
    curves = [with_arm(row) for row in select(rows, method="nats")]
    looks = (style.BLUE, style.ORANGE, style.PURPLE, style.GREY)
    for (arm, own), color in zip(group_by(select(curves, task=curves[0]["task"]), "arm").items(),
                                 looks, strict=False):
        for i, curve in enumerate(group_by(own, "seed").values()):
            axes.plot([row["step"] for row in curve], [row["nats"] for row in curve], color=color,
                      linewidth=1, label=None if i else arm)
    axes.set_ylim(0, 12)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per line, thought and answer")
    style.legend_below(figure, axes, 2)
    return figure
