"""The figures of test time: votes, searches, budgets, critics, the whole climb, one tree."""

import itertools

import numpy as np
from matplotlib.figure import Figure

from minireason.report import runs as results
from minireason.report import style
from minireason.report.figures import along, draw_limit
from minireason.report.runs import group_by, level_of, rows_of, select
from minireason.report.style import BLACK, BLUE, GREEN, ORANGE, RED, SEEDS

THINKING = {  # method of think_budget's rows: (colour, marker, label, what tells its points apart)
    "always": (BLACK, "s", "always, the policy before", "n"),
    "never": (RED, "v", "never", "n"),
    "auto": (BLUE, "D", "as the policy chooses", "n"),
    "critic_threshold": (ORANGE, "^", "if the critic doubts the direct answer", "decile"),
    "forced": (GREEN, "o", "closed at a budget", "budget"),
    "forced_untaught": (style.GREY, "o", "closed, policy before", "budget"),
    "asked": (style.PURPLE, "P", "asked in the prompt", "budget"),
    "rejected": (style.SKY, "X", "rejected by length", "budget"),
    "exit_probability": (style.BROWN, "<", "exit by the answer's probability", "threshold"),
    "exit_critic": (style.SILVER, ">", "exit by the critic", "threshold")}


def methods_curve(runs: list[dict], name: str, axis: str, stage: str) -> Figure:
    """Every method's accuracy on a set against samples, generated tokens or FLOPs, on log scales.

    axis: "n", "tokens" or "flops". Greedy is a line across, random answers stand under coverage.
    """
    by_method = group_by(rows_of(runs, stage=stage, set=name), "method")
    ticks = list(group_by(by_method["single"], "n"))
    unit = by_method["single"][0].get("unit")                  # tokens of a sample: equal tokens
    figure, axes = style.canvas(4.4)
    for method, (_, colour, marker) in style.METHODS.items():
        if method in by_method:
            rows = by_method[method]
            x, spreads = along(rows, "n", axis)
            style.whiskers(axes, x, spreads, colour, marker, style.method_name(rows[0]),
                           "--" if method == "coverage" else "-", 0.1 if unit else style.SHADE)
    if "greedy" in by_method:
        mean, low, high = style.spread(by_method["greedy"])
        axes.axhline(mean, color=BLACK, linestyle="-.", linewidth=1.2, label="greedy")
        axes.axhspan(low, high, color=BLACK, alpha=0.07, linewidth=0)
    if "chance" in by_method:
        x, _ = along(by_method["coverage"], "n", axis)
        _, spreads = along(by_method["chance"], "n")
        axes.plot(x, np.array(spreads)[:, 0], color=RED, linestyle=":", label="random answers")
    for method in ("single", "majority"):
        draw_limit(axes, runs, method, name, f"its teachers, {style.LIMITS[f'limit_{method}']}",
                   style.METHODS[method][1])
    axes.set_xscale("log", base=2 if axis == "n" else 10)
    if unit:
        ticks = [unit * n for n in ticks]
        axes.minorticks_off()
    if unit or axis == "n":
        axes.set_xticks(ticks, list(map(str, ticks)))
    what = {"n": "samples N", "tokens": "generated tokens per problem",
            "flops": "FLOPs per problem, prompt and critic included"}
    return style.finish(figure, axes, f"{what[axis]} (log scale)",
                        f"accuracy at level {level_of(name)} (%)", 2)


def thinking(runs: list[dict], stage: str = "think_budget") -> Figure:
    """Accuracy against tokens of every way to spend them, and what the policy spends by level."""
    figure = Figure(figsize=(style.WIDTH, 7.2), layout="constrained")
    costs, levels = figure.subplots(2, 1, height_ratios=(3, 2))
    rows = rows_of(runs, stage=stage, set="all levels", waits=None)
    for method, (colour, marker, label, field) in THINKING.items():
        if own := select(rows, method=method):
            style.whiskers(costs, *along(own, field, "tokens"), colour, marker, label)
    costs.set_xlabel("tokens per problem")
    costs.set_xscale("log", base=2)
    costs.xaxis.set_major_formatter("{x:g}")
    style.percent_axis(costs)
    own = [{**row, "level": level_of(row["set"])}
           for row in rows_of(runs, stage=stage, method="auto") if row["set"] != "all levels"]
    places = list(group_by(own, "level"))
    for field, of, colour, label in (("tokens", "always", BLUE, "tokens, of always thinking's"),
                                     ("thinking", "", GREEN, "answers with a thought")):
        shares = []
        for name, members in group_by(own, "set").items():
            whole = rows_of(runs, stage=stage, method=of, set=name) if of else [{field: 1.0}]
            shares.append(100 * np.mean([row[field] for row in members])
                          / np.mean([row[field] for row in whole]))
        levels.plot(places, shares, color=colour, marker="o", label=label)
    levels.set_xlabel("level")
    style.percent_axis(levels, "share (%)")
    levels.legend(fontsize=8)
    style.legend_below(figure, costs, 2)
    return figure


def calibration(runs: list[dict], name: str, stage: str) -> Figure:
    """Share of right samples against the critic's value; on the diagonal it can be believed."""
    figure, axes = style.canvas()
    axes.plot([0, 100], [0, 100], color=style.GREY, linestyle=":", label="perfectly calibrated")
    bins = rows_of(runs, stage=stage, set=name, method="calibration")
    for i, (seed, rows) in enumerate(group_by(bins, "seed").items()):
        points = [(100 * row["value"], 100 * row["accuracy"], row["count"]) for row in rows]
        x, y, size = np.array(points).T
        axes.plot(x, y, color=SEEDS[i % 5], label=f"seed {seed}")
        axes.scatter(x, y, s=8 + 120 * size / size.max(), color=SEEDS[i % 5], alpha=0.7)
    axes.set_xlim(-2, 102)
    return style.finish(figure, axes, "critic's value at the end, P(correct) (%)",
                        "samples that are right (%)")


def label_errors(runs: list[dict], stage: str) -> Figure:
    """How often Monte Carlo step labels agree with the exact truth, against rollouts per step."""
    figure, axes = style.canvas()
    for name, colour, marker in (("hard", BLUE, "o"), ("soft", ORANGE, "s")):
        rows = rows_of(runs, stage=stage, method=f"mc_{name}")
        for kind, line in (("accuracy", "-"), ("false_positive", "--"), ("false_negative", ":")):
            x, spreads = along([{"n": row["n"], "accuracy": row[kind]} for row in rows], "n")
            label = f"{name}, {kind.replace('_', ' ')}"
            style.whiskers(axes, x, spreads, colour, marker, label, line, style.SHADE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [str(int(n)) for n in x])
    return style.finish(figure, axes, "rollouts n per step end (log scale)",
                        "share of step ends (%)", 2)


def climb_bars(runs: list[dict], name: str) -> dict[str, list[dict]]:
    """{label: rows}: every policy, then every method at its largest N, on one set.

    Votes are those of the first policy that was measured: RL leaves them nothing to add. The
    flywheel comes last: it learns from what search finds.
    """
    rows = select(results.rung_rows(runs), set=name)
    measured = rows_of(runs, stage=results.TESTTIME, set=name)
    if measured:
        sampled = results.sampled_rows(runs, stage=measured[0]["stage"], set=name)
        rows += select(results.at_largest_n(sampled), method=tuple(style.METHODS))
    searched = results.sampled_rows(runs, kind="search", set=name)
    for of_stage in group_by(select(searched, method=tuple(style.SEARCHES)), "stage").values():
        rows += results.at_largest_n(of_stage)
    bars = group_by(rows, "rung")
    if "flywheel" in bars:
        bars["flywheel"] = bars.pop("flywheel")
    return bars


def climb(runs: list[dict], name: str) -> Figure:
    """Every policy and, at the largest N, every method on one test set, as horizontal bars."""
    bars = climb_bars(runs, name)
    figure, axes = style.canvas(0.8 + 0.3 * len(bars))
    for i, (label, rows) in enumerate(bars.items()):
        mean, low, high = style.spread(rows)
        method = style.METHODS.get(rows[0]["method"])
        colour = method[1] if method else style.RUNGS.get(label, (RED,))[0]
        oracle = "oracle" in label
        axes.barh(i, mean, color="none" if oracle else colour, edgecolor=colour, height=0.65,
                  hatch="///" if oracle else None, alpha=0.85, ecolor="#444444", capsize=2,
                  xerr=[[max(0, mean - low)], [max(0, high - mean)]])
        axes.annotate(f"{mean:.0f}", (max(high, mean), i), (5, 0), textcoords="offset points",
                      va="center", fontsize=9)
    for row in results.limit_rows(runs, set=name):
        axes.axvline(100 * row["accuracy"], color=style.GREY, linestyle="--")
        axes.set_title("dashed: its teachers, greedy", fontsize=9)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 108)
    axes.set_xlabel(f"accuracy at level {level_of(name)} (%)\nstages answer greedily")
    return figure


def best_path(nodes: list[dict]) -> set[int]:
    """Ids on the way to the complete node of highest value, which is what the search answers."""
    complete = [node for node in nodes if node["state"] == "complete"]
    return path_to(nodes, max(complete, key=lambda node: node["value"] or 0.0)["id"])


def path_to(nodes: list[dict], at: int | None) -> set[int]:
    """Ids from the root to the node `at`."""
    path = set()
    while at is not None:
        path.add(at)
        at = nodes[at]["parent"]
    return path


def tree_places(nodes: list[dict], path: set[int]) -> list[dict]:
    """Where the nodes of a tree are drawn, children before parents, the root last.

    Of each: node, depth, height (leaves stand at 0, -1, -2, ...), whether it is on the path, and
    the places of its children, the path's and the most visited ones, five at most.
    """
    below, leaves, places = group_by(nodes, "parent"), itertools.count(), []

    def place(node: dict, depth: int) -> dict:
        ways = sorted(below.get(node["id"], []), key=lambda c: (c["id"] not in path, -c["visits"]))
        children = [place(child, depth + 1) for child in ways[:5]]
        heights = [child["height"] for child in children]
        places.append({"node": node, "depth": depth, "on_path": node["id"] in path,
                       "height": float(np.mean(heights)) if heights else -float(next(leaves)),
                       "children": children})
        return places[-1]

    place(nodes[0], 0)
    return places


def step_text(node: dict) -> str:
    """A node's step or answer, without the token that ends it."""
    return node["text"].removesuffix("<eos>").removesuffix("</think>").removesuffix(";")


def tree(runs: list[dict], name: str, stage: str = "search") -> Figure:
    """The search tree of one problem, left to right: colour is the critic's value, a red ring a
    step that the verifier calls wrong; the answered path is thick and written out."""
    nodes = runs[0][stage]["trees"][name]["nodes"]
    figure = Figure(figsize=(2 * style.WIDTH, 5), layout="constrained")
    axes, drawn = figure.subplots(), []
    for place in tree_places(nodes, best_path(nodes)):
        node, depth, y = place["node"], place["depth"], place["height"]
        for child in place["children"]:
            on = child["on_path"]
            axes.plot([depth, depth + 1], [y, child["height"]], color=BLACK if on else "#bbbbbb",
                      zorder=1, linewidth=2 if on else 0.8)
        edge = "#444444" if node.get("right", True) else RED
        drawn.append((depth, y, node["value"] or 0.0, 20 + 15 * node["visits"] ** 0.5, edge))
        if place["on_path"] and depth:
            axes.annotate(step_text(node), (depth, y), (0, 9), textcoords="offset points",
                          ha="center", fontsize=8,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    x, y, values, areas, edges = zip(*drawn, strict=True)
    dots = axes.scatter(x, y, areas, values, vmin=0, vmax=1, cmap="cividis", zorder=2,
                        linewidths=1.4, edgecolors=edges)
    axes.axis("off")
    axes.margins(x=0.06, y=0.1)
    figure.colorbar(dots, ax=axes, label="critic's value", shrink=0.7)
    return figure
