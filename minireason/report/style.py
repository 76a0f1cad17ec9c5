"""How every figure looks: canvas, colours, legends, intervals; shared with studies and tutorials.

Colours are Okabe and Ito's, which colour-blind people can tell apart; line styles and markers tell
the same apart again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222")
BROWN, GREY, SILVER = "#8a6500", "#888888", "#999999"
SEEDS = (BLUE, ORANGE, GREEN, RED, PURPLE)
SHADES = (  # viridis, darker at its yellow end
    "#440154", "#443983", "#31688e", "#21918c", "#35b779", "#7ac143", "#c9a800", "#8a6500")
RUNGS = {   # rung: (colour, marker); any other is red
    "direct answer": (BLACK, "o"), "pretrained, step by step": (ORANGE, "s"), "SFT": (SKY, "^"),
    "STaR": (GREEN, "D"), "RL": (PURPLE, "v"), "flywheel": (BLUE, "P")}
LOOKS = ((GREY, "o"), (SKY, "s"), (BLUE, "D"), (ORANGE, "^"), (GREEN, "v"), (PURPLE, "P"),
         (BROWN, "X"))        # of the policies of a study, the ladder's first
SEARCHES = {  # method of the search stage: (label, colour, marker)
    "beam": ("beam search", GREEN, "P"), "beam_sqrt": ("beam search, width √N", GREEN, "X"),
    "lookahead": ("beam with lookahead", PURPLE, "*"), "tree": ("tree search (PUCT)", BROWN, "p"),
    "uct": ("tree search (UCT)", BROWN, "h"), "revise": ("revisions, 4 chains", GREY, "<"),
    "sequential": ("revisions, 1 chain", GREY, ">"),
    "withdraw": ("revisions, errors in sight", GREY, "d")}
METHODS = {   # every test-time method, in the order of legends and tables
    "single": ("single sample", BLACK, "o"),
    "majority": ("majority vote", ORANGE, "s"),
    "critic_vote": ("critic-weighted vote", SKY, "^"),
    "critic_best_of_n": ("critic best-of-N", BLUE, "D"),
    "best_of_n": ("critic best-of-N", BLUE, "D"),
    "outcome_vote": ("outcome-critic-weighted vote", SILVER, "<"),
    "outcome_best_of_n": ("outcome-critic best-of-N", PURPLE, ">"),
    "self_check_vote": ("vote of those that pass", GREEN, "p"),
    "self_check_best_of_n": ("one of those that pass", BROWN, "h"),
    **SEARCHES,
    "coverage": ("coverage (oracle bound)", RED, "v")}
SHOWN = {                     # beside them, in every figure and table of test time
    "greedy": ("greedy", BLACK, ""), **METHODS, "chance": ("random answers", RED, "")}
LIMITS = {                    # what imitating the pretraining text reaches, computed from its rules
    "limit_single": "one sample", "limit_greedy": "greedy", "limit_majority": "majority vote"}
STYLE: dict[Any, Any] = {     # matplotlib's rcParams
    "font.size": 10, "font.family": "DejaVu Sans", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
    "axes.edgecolor": "#666666", "lines.linewidth": 1.6, "lines.markersize": 4.5,
    "legend.frameon": False, "legend.fontsize": 9, "savefig.dpi": 180, "figure.dpi": 180}
SHADE = 0.15                  # opacity of a band around a line
WIDTH = 5.2                   # inches; about 380 pixels of a phone leave 10 point text readable


def method_name(row: dict, with_n: bool = False) -> str:
    """A row's method in words; one sample with its temperature, the others on request with N."""
    words = []
    for part in row["method"].split(" - "):                # the two sides of a difference
        search = part.removesuffix("_vote")
        if part not in METHODS and search in METHODS:
            words.append(f"{METHODS[search][0]}, vote")
        elif part in LIMITS:
            words.append(f"its teachers, {LIMITS[part]}")
        else:
            words.append(SHOWN[part][0] if part in SHOWN else part.replace("_", " "))
    name = " - ".join(words)
    if row["method"] == "single":
        return f"{name}, T = {row['temperature']:g}" if "temperature" in row else name
    return f"{name}, N = {row['n']}" if with_n else name


def spread(rows: list[dict]) -> tuple[float, float, float]:
    """mean, low, high in percent: one run's 95% interval, or the range of several runs."""
    values = [100 * row["accuracy"] for row in rows]
    if len(rows) == 1 and "low" in rows[0]:
        return values[0], 100 * rows[0]["low"], 100 * rows[0]["high"]
    return float(np.mean(values)), min(values), max(values)


def whiskers(axes: Axes, x: ArrayLike, rows: ArrayLike, color: str, marker: str = "o",
             label: str = "", line: str = "-", shade: float = 0.0) -> None:
    """A line of points from (mean, low, high) rows, with bars or on a band of opacity `shade`."""
    mean, low, high = np.array(rows).T
    if shade:
        axes.fill_between(x, low, high, color=color, alpha=shade, linewidth=0)
        axes.plot(x, mean, color=color, marker=marker, linestyle=line, label=label)
    else:
        axes.errorbar(x, mean, yerr=np.maximum(0, [mean - low, high - mean]), color=color,
                      marker=marker, linestyle=line, label=label or None, elinewidth=1, capsize=2)


def panels(n: int, height: float, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    """An empty figure of this height in inches, laid out so that nothing is cut, with n pairs of
    axes one above the other."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(n, 1, sharex=sharex, squeeze=False).flat)


def canvas(height: float = 3.6) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes."""
    figure, (axes,) = panels(1, height)
    return figure, axes


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """The legend under the axes, where it cannot cover data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2,
                  handletextpad=0.5)


def percent_axis(axes: Axes, text: str = "accuracy (%)") -> None:
    """A vertical axis from 0 to 100 percent."""
    axes.set_ylim(-2, 102)
    axes.set_ylabel(text)


def finish(figure: Figure, axes: Axes, x: str, y: str = "accuracy (%)", columns: int = 3) -> Figure:
    """Name both axes, the vertical one in percent, and put the legend below."""
    axes.set_xlabel(x)
    percent_axis(axes, y)
    legend_below(figure, axes, columns)
    return figure


def save(path: Path, function: Callable[..., Figure], *arguments: object) -> Path:
    """Write the figure `function(*arguments)`, made in this style, as a PNG."""
    with rc_context(STYLE):
        function(*arguments).savefig(path)
    return path
