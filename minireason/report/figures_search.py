"""The figures of search: the whole climb, methods at equal tokens, the tree of one problem."""

import numpy as np
from matplotlib.figure import Figure

from minireason.report.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    RUNGS,
    SKY,
    WIDTH,
    canvas,
    legend_below,
    measured,
    percent_axis,
    spread,
)
from minireason.report.runs import level_of, rungs
from minireason.search.compare import SAMPLED

BROWN, GREY = "#8a6500", "#888888"
METHODS = {  # field of the search stage's curves: (label, colour, marker)
    "single": ("single sample", BLACK, "o"), "majority": ("majority vote", ORANGE, "s"),
    "critic_vote": ("critic-weighted vote", SKY, "^"), "best_of_n": ("critic best-of-N", BLUE, "D"),
    "beam": ("beam search", GREEN, "P"), "beam_sqrt": ("beam search, width √N", GREEN, "X"),
    "lookahead": ("beam with lookahead", PURPLE, "*"), "tree": ("tree search (PUCT)", BROWN, "p"),
    "uct": ("tree search (UCT)", BROWN, "h"), "revise": ("revisions, 4 chains", GREY, "<"),
    "sequential": ("revisions, 1 chain", GREY, ">"),
    "withdraw": ("revisions, errors in sight", GREY, "d"),
    "coverage": ("coverage (oracle bound)", RED, "v")}
SHOWN = 5                     # children of a node that are drawn, the most visited ones


def hardest(run: dict) -> str:
    """The set at the top of the climb: the last that the last test-time stage measured."""
    for stage, key in (("search", "sets"), ("rl_testtime", "curves"), ("testtime", "curves")):
        if stage in run:
            return list(run[stage]["result"][key])[-1]
    return list(rungs(run)["direct answer"])[-1]


def bars(run: dict, name: str) -> dict[str, tuple[dict, str]]:
    """{label: (accuracy with interval, colour)} up to search and the flywheel, on one test set."""
    found = {rung: (points[name], RUNGS[rung][0]) for rung, points in rungs(run).items()}
    who = "RL, " if "rl" in run else ""
    for stage, prefix in (("rl_testtime", "RL, "), ("testtime", "STaR, ")):
        curve = run.get(stage, {}).get("result", {}).get("curves", {}).get(name)
        if curve:
            last = str(curve["samples"])
            for method, (label, colour, _) in measured(curve).items():
                text = label if method == "single" else f"{label}, N = {last}"
                found[(who and prefix) + text] = curve["points"][last][method], colour
            break
    sets = run.get("search", {}).get("result", {}).get("sets", {})
    curves = sets[name]["curves"] if name in sets else {}
    for method in (m for m in METHODS if m in curves and m not in SAMPLED):
        last = list(curves[method])[-1]
        point, (label, colour, _) = curves[method][last], METHODS[method]
        found[f"{who}{label}, N = {last}"] = {**point, "accuracy": point["mean"]}, colour
    if "flywheel" in found:                    # it learns from what search finds
        found["flywheel"] = found.pop("flywheel")
    return found


def climb(runs: list[dict], name: str) -> Figure:
    """Every rung and, at the largest N, every method on one test set, as horizontal bars."""
    found = [bars(run, name) for run in runs]
    shown = [label for label in found[0] if all(label in one for one in found)]
    figure, axes = canvas(0.8 + 0.3 * len(shown))
    for i, label in enumerate(shown):
        colour = found[0][label][1]
        mean, low, high = spread([one[label][0] for one in found])
        oracle = "oracle" in label
        axes.barh(i, mean, color="none" if oracle else colour, edgecolor=colour, height=0.65,
                  hatch="///" if oracle else None, alpha=0.85, ecolor="#444444", capsize=2,
                  xerr=[[max(0, mean - low)], [max(0, high - mean)]])
        axes.annotate(f"{mean:.0f}", (max(high, mean), i), (5, 0), textcoords="offset points",
                      va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 108)
    axes.set_xlabel(f"accuracy at level {level_of(name)} (%)\nstages answer greedily")
    return figure


def equal_tokens(runs: list[dict], name: str) -> Figure:
    """Accuracy of every method against the tokens that it spent a problem (log scale)."""
    figure, axes = canvas(4.4)
    curves = [run["search"]["result"]["sets"][name]["curves"] for run in runs]
    ends = ((min, "low"), (max, "high")) if len(runs) == 1 else ((min, "mean"), (max, "mean"))
    for method, (label, colour, marker) in METHODS.items():
        if any(method not in curve for curve in curves):
            continue
        points = [[curve[method][n] for curve in curves] for n in curves[0][method]]
        x = [np.mean([point["tokens"] for point in row]) for row in points]
        mean = 100 * np.array([np.mean([point["mean"] for point in row]) for row in points])
        low, high = (100 * np.array([reach(point[end] for point in row) for row in points])
                     for reach, end in ends)
        axes.plot(x, mean, color=colour, marker=marker, label=label,
                  linestyle="--" if method == "coverage" else "-")
        axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
    axes.set_xscale("log")
    unit = runs[0]["search"]["result"]["sets"][name]["unit"]
    ticks = [unit * int(n) for n in next(iter(curves[0].values()))]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("generated tokens a problem (log scale)")
    percent_axis(axes, f"accuracy at level {level_of(name)} (%)")
    legend_below(figure, axes, 2)
    return figure


def best_path(nodes: list[dict]) -> set[int]:
    """Ids on the way to the complete node of highest value, which is what the search answers."""
    complete = [node for node in nodes if node["state"] == "complete"]
    path, at = set(), max(complete, key=lambda node: node["value"] or 0.0)["id"]
    while at is not None:
        path.add(at)
        at = nodes[at]["parent"]
    return path


def tree(runs: list[dict], name: str) -> Figure:
    """The search tree of one problem, left to right: colour is the critic's value, a red ring a
    step that the verifier calls wrong; the answered path is thick and written out."""
    nodes = runs[0]["search"]["trees"][name]["nodes"]
    path = best_path(nodes)
    children: dict[int, list[dict]] = {node["id"]: [] for node in nodes}
    for node in nodes[1:]:
        children[node["parent"]].append(node)
    figure = Figure(figsize=(2 * WIDTH, 5), layout="constrained")
    axes, drawn, leaves = figure.subplots(), [], iter(range(10 ** 6))

    def place(node: dict, depth: int) -> float:
        """Draw what lies below first; returns the node's height."""
        shown = sorted(children[node["id"]], key=lambda c: (c["id"] not in path, -c["visits"]))
        heights = [place(child, depth + 1) for child in shown[:SHOWN]]
        y = float(np.mean(heights)) if heights else -float(next(leaves))
        for child, height in zip(shown, heights, strict=False):
            on = child["id"] in path
            axes.plot([depth, depth + 1], [y, height], color=BLACK if on else "#bbbbbb", zorder=1,
                      linewidth=2 if on else 0.8)
        drawn.append((depth, y, node))
        return y

    place(nodes[0], 0)
    x, y, found = zip(*drawn, strict=True)
    dots = axes.scatter(
        x, y, c=[node["value"] or 0.0 for node in found], vmin=0, vmax=1, cmap="cividis", zorder=2,
        s=[20 + 15 * node["visits"] ** 0.5 for node in found], linewidths=1.4,
        edgecolors=["#444444" if node.get("right", True) else RED for node in found])
    for depth, height, node in drawn:
        if node["id"] in path and depth:
            step = node["text"].removesuffix("<eos>").removesuffix("</think>").removesuffix(";")
            axes.annotate(step, (depth, height), (0, 9), textcoords="offset points", ha="center",
                          fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.axis("off")
    axes.margins(x=0.06, y=0.1)
    figure.colorbar(dots, ax=axes, label="critic's value", shrink=0.7)
    return figure
