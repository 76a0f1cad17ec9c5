"""The README's tables, as markdown, from loaded runs of different seeds."""

import numpy as np

from minireason.report import figures
from minireason.report.runs import level_of, rungs


def cell(points: list[dict]) -> str:
    """Mean over seeds, mean of the seeds' intervals, and the seeds' range, in percent."""
    mean, low, high = (100 * float(np.mean([point[key] for point in points]))
                       for key in ("accuracy", "low", "high"))
    values = [100 * point["accuracy"] for point in points]
    seeds = f" ({min(values):.0f} to {max(values):.0f})" if len(points) > 1 else ""
    return f"{mean:.1f} [{low:.0f}, {high:.0f}]{seeds}"


def accuracy(runs: list[dict], levels: tuple[int, ...]) -> str:
    """Stages and test-time methods against the hard levels, as markdown."""
    ladders = [rungs(run) for run in runs]
    names = list(ladders[0]["direct answer"])
    names = [name for name in names if level_of(name) in levels] if levels else names[-3:]
    lines = ["| accuracy (%) | " + " | ".join(f"level {level_of(name)}" for name in names) + " |",
             "|---" * (len(names) + 1) + "|"]
    for rung in ladders[0]:
        cells = [cell([ladder[rung][name] for ladder in ladders]) for name in names]
        lines.append(f"| {rung} | {' | '.join(cells)} |")
    curves = [run.get("testtime", {}).get("result", {}).get("curves", {}) for run in runs]
    if any(name in curves[0] for name in names):
        last = next(str(curve["samples"]) for curve in curves[0].values())
        for method, (label, _, _) in figures.measured(next(iter(curves[0].values()))).items():
            cells = [cell([curve[name]["points"][last][method] for curve in curves])
                     if name in curves[0] else "" for name in names]
            label = "single sample, T = 1" if method == "single" else f"{label}, N = {last}"
            label = f"STaR, {label}"
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(runs: list[dict]) -> str:
    """Paired differences at the largest N: means over seeds, and the worst seed's lower bound."""
    lines = []
    for name, curve in runs[0].get("testtime", {}).get("result", {}).get("curves", {}).items():
        lines += ["", f"| level {level_of(name)}, N = {curve['samples']}, "
                  f"n = {curve['n_problems']} problems; points of accuracy "
                  "| mean over seeds [of their 95% intervals] | lowest bound of any seed |",
                  "|---|---|---|"]
        for pair in curve["differences"]:
            rows = [run["testtime"]["result"]["curves"][name]["differences"][pair] for run in runs]
            mean, low, high = (100 * np.mean([row[key] for row in rows])
                               for key in ("mean", "low", "high"))
            lines.append(f"| {pair.replace('_', ' ')} | {mean:+.1f} [{low:+.1f}, {high:+.1f}] | "
                         f"{100 * min(row['low'] for row in rows):+.1f} |")
    return "\n".join(lines).strip()


def rl(runs: list[dict]) -> str:
    """Every test-time method before and after RL, at the levels measured both times."""
    lines = []
    for name, curve in runs[0].get("rl_testtime", {}).get("result", {}).get("curves", {}).items():
        if name not in runs[0]["testtime"]["result"]["curves"]:
            continue
        last = str(curve["samples"])
        lines += ["", f"| level {level_of(name)}, N = {last}, accuracy (%) | before RL "
                  "| after RL |", "|---|---|---|"]
        for method, (label, _, _) in figures.measured(curve).items():
            cells = [cell([run[stage]["result"]["curves"][name]["points"][last][method]
                           for run in runs]) for stage in ("testtime", "rl_testtime")]
            label = "single sample, T = 1" if method == "single" else label
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines).strip()


def rl_levels(runs: list[dict]) -> str:
    """One sample at T = 1 before and after RL, and greedy answers, at every level."""
    if any("rl" not in run for run in runs):
        return ""
    lines = ["| level | one sample before RL, accuracy (%) | after RL | greedy before | after |",
             "|---|---|---|---|---|"]
    after = [run["rl"]["result"]["accuracy"] for run in runs]
    before = [rungs(run)["STaR"] for run in runs]
    for name in after[0]["cot"]:
        cells = [cell([one[key][name] for one in after]) for key in ("sampled_before", "sampled")]
        cells += [cell([one[name] for one in before]), cell([one["cot"][name] for one in after])]
        lines.append(f"| {level_of(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def search(runs: list[dict]) -> str:
    """After RL: every method at the same tokens; the differences from critic best-of-N."""
    lines = []
    for name, first in runs[0].get("search", {}).get("result", {}).get("sets", {}).items():
        sets = [run["search"]["result"]["sets"][name] for run in runs]
        budgets = [n for n in first["curves"]["best_of_n"] if all(
            n in curve for curve in first["curves"].values())]
        lines += ["", f"| level {level_of(name)}, after RL, n = {first['n_problems']}, accuracy "
                  "(%) at the tokens of | " + " | ".join(f"{n} samples" for n in budgets) + " |",
                  "|---" * (len(budgets) + 1) + "|"]
        for method in first["curves"]:
            points = [[one["curves"][method][n] for one in sets] for n in budgets]
            cells = [cell([{**p, "accuracy": p["mean"]} for p in seeds]) for seeds in points]
            lines.append(f"| {method.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines).strip()
