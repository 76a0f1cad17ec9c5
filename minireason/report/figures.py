"""The figures, drawn from loaded runs: one run shows intervals over problems, several show seeds.

Colours are Okabe and Ito's, which colour-blind people can tell apart; line styles and markers tell
the same apart again. Each function returns a matplotlib Figure and writes nothing.
"""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from minireason.problems import FAMILIES
from minireason.report.runs import level_of, rungs

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222")
SEEDS = (BLUE, ORANGE, GREEN, RED, PURPLE)
RUNGS = {   # rung: (colour, marker)
    "direct answer": (BLACK, "o"), "pretrained, step by step": (ORANGE, "s"), "SFT": (SKY, "^"),
    "STaR": (GREEN, "D"), "RL": (PURPLE, "v"), "flywheel": (BLUE, "P")}
SHADES = (  # viridis, darker at its yellow end
    "#440154", "#443983", "#31688e", "#21918c", "#35b779", "#7ac143", "#c9a800", "#8a6500")
METHODS = {  # field of testtime's points: (label, colour, marker)
    "single": ("single sample, T = 1", BLACK, "o"),
    "majority": ("majority vote", ORANGE, "s"),
    "critic_vote": ("critic-weighted vote", SKY, "^"),
    "critic_best_of_n": ("critic best-of-N", BLUE, "D"),
    "outcome_vote": ("outcome-critic-weighted vote", "#999999", "<"),
    "outcome_best_of_n": ("outcome-critic best-of-N", PURPLE, ">"),
    "coverage": ("coverage (oracle bound)", RED, "v")}
STYLE = {
    "font.size": 10, "font.family": "DejaVu Sans", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
    "axes.edgecolor": "#666666", "lines.linewidth": 1.6, "lines.markersize": 4.5,
    "legend.frameon": False, "legend.fontsize": 9, "savefig.dpi": 180, "figure.dpi": 180}
WIDTH = 5.2                   # inches; about 380 pixels of a phone leave 10 point text readable


def measured(curve: dict) -> dict[str, tuple[str, str, str]]:
    """Those of METHODS that a test-time curve holds."""
    point = next(iter(curve["points"].values()))
    return {method: look for method, look in METHODS.items() if method in point}


def spread(points: list[dict]) -> tuple[float, float, float]:
    """mean, low, high in percent: one run's 95% interval, or the range of several runs."""
    values = [100 * point["accuracy"] for point in points]
    if len(points) == 1:
        return values[0], 100 * points[0]["low"], 100 * points[0]["high"]
    return float(np.mean(values)), min(values), max(values)


def whiskers(axes, x, rows, color: str, marker: str = "o", label: str = "",
             line: str = "-") -> None:
    """A line of points with asymmetric bars from (mean, low, high) rows."""
    mean, low, high = np.array(rows).T
    axes.errorbar(x, mean, yerr=np.maximum(0, [mean - low, high - mean]), color=color,
                  marker=marker, linestyle=line, label=label or None, elinewidth=1, capsize=2)


def canvas(height: float = 3.6) -> tuple[Figure, object]:
    """An empty figure with one pair of axes, laid out so that nothing is cut."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def legend_below(figure: Figure, axes, columns: int = 3) -> None:
    """The legend under the axes, where it cannot cover data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2,
                  handletextpad=0.5)


def percent_axis(axes, text: str = "accuracy (%)") -> None:
    """A vertical axis from 0 to 100 percent."""
    axes.set_ylim(-2, 102)
    axes.set_ylabel(text)


def ladder(runs: list[dict]) -> Figure:
    """Accuracy against level, one line a stage."""
    figure, axes = canvas()
    ladders = [rungs(run) for run in runs]
    for i, rung in enumerate(ladders[0]):
        colour, marker = RUNGS.get(rung, (RED, "x"))
        names = list(ladders[0][rung])
        x = np.array([level_of(name) for name in names]) + 0.07 * (i - len(ladders[0]) / 2)
        rows = [spread([one[rung][name] for one in ladders]) for name in names]
        whiskers(axes, x, rows, color=colour, marker=marker, label=rung)
    family = FAMILIES[runs[0]["pretrain"]["config"]["family"]]
    axes.set_xlabel(f"level ({family.LEVEL_NAME})")
    axes.set_xticks([level_of(name) for name in names])
    percent_axis(axes)
    legend_below(figure, axes)
    return figure


def pretraining(runs: list[dict]) -> Figure:
    """Training loss against tokens, with the mean of the 20 steps around each over it."""
    figure, axes = canvas()
    for i, run in enumerate(runs):
        metrics = run["pretrain"]["metrics"]
        tokens = np.cumsum([line["train/tokens"] for line in metrics]) / 1e6
        loss = np.array([line["train/loss"] for line in metrics])
        window = max(1, min(20, len(loss) // 10))
        smooth = np.convolve(loss, np.ones(window) / window, "valid")
        axes.plot(tokens, loss, color=BLUE, alpha=0.2, linewidth=0.8)
        start = (window - 1) // 2
        axes.plot(tokens[start:start + len(smooth)], smooth, color=SEEDS[i % 5],
                  label=f"seed {run['pretrain']['config']['seed']}")
    axes.set_xlabel("tokens trained on (millions)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    if len(runs) > 1:
        legend_below(figure, axes)
    return figure


def star_levels(runs: list[dict]) -> Figure:
    """Accuracy per level after each STaR round; round 0 is the SFT policy."""
    before = [run["sft"]["result"] if "sft" in run else None for run in runs]
    return by_round(before, [run["star"]["result"]["rounds"] for run in runs], "SFT", "STaR round")


def flywheel_levels(runs: list[dict]) -> Figure:
    """Accuracy per level after each turn of the flywheel; turn 0 is the RL policy."""
    before = [run["rl"]["result"] if "rl" in run else None for run in runs]
    return by_round(before, [run["flywheel"]["result"]["turns"] for run in runs], "RL",
                    "turn of the flywheel")


def by_round(before: list[dict | None], histories: list[list[dict]], start: str,
             what: str) -> Figure:
    """Greedy accuracy, a line a level, against the round; 0 is what came before, where known."""
    figure, axes = canvas()
    first = 0 if all(before) else 1
    stages = [[r["accuracy"]["cot"] for r in ([] if first else [one]) + history]
              for one, history in zip(before, histories, strict=True)]
    names = list(stages[0][0])
    rounds = np.arange(first, first + min(map(len, stages)))
    for i, name in enumerate(names):
        rows = [spread([stage[number - first][name] for stage in stages]) for number in rounds]
        whiskers(axes, rounds + 0.025 * (i - len(names) / 2), rows, color=SHADES[i % 8],
                 marker="os^Dv<>P"[i % 8], label=f"level {level_of(name)}")
    axes.set_xticks(rounds, [start if number == 0 else str(number) for number in rounds])
    axes.set_xlabel(what)
    percent_axis(axes)
    legend_below(figure, axes, 4)
    return figure


def star_shares(runs: list[dict]) -> Figure:
    """What each round kept, and how much of it was right for wrong reasons."""
    figure, axes = canvas()
    lines = {"share_solved": ("problems solved (of all)", GREEN, "o"),
             "share_rationalized": ("problems added by the hint (of all)", ORANGE, "s"),
             "share_wrong_steps": ("right answer, wrong steps (of kept)", RED, "^")}
    histories = [run["star"]["result"]["rounds"] for run in runs]
    rounds = np.arange(1, 1 + min(map(len, histories)))
    for key, (label, colour, marker) in lines.items():
        values = 100 * np.array([[r.get(key, np.nan) for r in history[:len(rounds)]]
                                 for history in histories])
        rows = np.stack([values.mean(0), values.min(0), values.max(0)], axis=1)
        whiskers(axes, rounds, rows, color=colour, marker=marker, label=label)
    axes.set_xticks(rounds)
    axes.set_xlabel("STaR round")
    percent_axis(axes, "share (%)")
    legend_below(figure, axes, 1)
    return figure


def testtime(runs: list[dict], name: str, axis: str = "samples",
             stage: str = "testtime") -> Figure:
    """Accuracy of every method against samples N or generated tokens a problem (log scale)."""
    figure, axes = canvas()
    curves = [run[stage]["result"]["curves"][name] for run in runs]
    counts = [n for n in curves[0]["points"] if all(n in curve["points"] for curve in curves)]
    x = (np.array(counts, dtype=float) if axis == "samples" else
         np.mean([[curve["points"][n]["tokens"] for n in counts] for curve in curves], axis=0))
    for method, (label, colour, marker) in measured(curves[0]).items():
        rows = np.array([spread([curve["points"][n][method] for curve in curves])
                         for n in counts])
        axes.fill_between(x, rows[:, 1], rows[:, 2], color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, rows[:, 0], color=colour, marker=marker, label=label,
                  linestyle="--" if method == "coverage" else "-")
    axes.set_xscale("log", base=2 if axis == "samples" else 10)
    if axis == "samples":
        axes.set_xticks(x, counts)
    axes.set_xlabel("samples N (log scale)" if axis == "samples" else
                    "generated tokens a problem (log scale)")
    percent_axis(axes, f"accuracy at level {level_of(name)} (%)")
    legend_below(figure, axes, 2)
    return figure


def calibration(runs: list[dict], name: str, stage: str = "testtime") -> Figure:
    """Share of right samples against the critic's value; on the diagonal it can be believed."""
    figure, axes = canvas()
    axes.plot([0, 100], [0, 100], color="#888888", linestyle=":", label="perfectly calibrated")
    for i, run in enumerate(runs):
        bins = run[stage]["result"]["calibration"][name]
        size = np.array([b["n"] for b in bins], dtype=float)
        x, y = (100 * np.array([b[key] for b in bins]) for key in ("value", "accuracy"))
        colour = SEEDS[i % 5]
        axes.plot(x, y, color=colour, label=f"seed {run[stage]['config']['seed']}")
        axes.scatter(x, y, s=8 + 120 * size / size.max(), color=colour, alpha=0.7)
    axes.set_xlabel("critic's value at the end, P(correct) (%)")
    percent_axis(axes, "samples that are right (%)")
    axes.set_xlim(-2, 102)
    legend_below(figure, axes)
    return figure


def save(path: Path, function, *arguments) -> Path:
    """Draw `function(*arguments)` under this house's look and write it as a PNG."""
    with rc_context(STYLE):
        function(*arguments).savefig(path)
    return path
