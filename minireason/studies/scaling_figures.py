"""The figures of `minireason scale`, drawn from its result.json alone."""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from minireason.measure.fits import pass_matrix
from minireason.report.style import (
    BLACK,
    BLUE,
    GREEN,
    METHODS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    STYLE,
    WIDTH,
    canvas,
    legend_below,
    percent_axis,
    spread,
    whiskers,
)
from minireason.studies.scaling_laws import (
    mean_accuracy,
    powers,
    right_counts,
    rl_points,
    testtime_points,
)

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
MARKERS = "osD^vP*"


def draw_all(result: dict, out: Path, prefix: str = "") -> list[Path]:
    """Write every figure that the result has data for, as PNG; returns their paths."""
    figures: dict[str, Figure] = {}
    with rc_context(STYLE):
        if result["cells"]:
            figures["pretrain-loss"] = pretrain_loss(result)
            figures["pretrain-accuracy"] = pretrain_accuracy(result)
        for key, points in rl_points(result["rl"]).items():
            figures[f"rl-{key.replace('/', '-')}"] = rl(result["fits"], key, *points)
        for kind in ("testtime", "search"):
            for name in sorted({name for name, _ in testtime_points(result[kind])}):
                figures[f"{kind}-{name}"] = testtime(result, kind, name)
        for name, pairs in right_counts(result["testtime"]).items():
            figures[f"coverage-{name}"] = coverage(result["fits"], name, np.array(pairs))
        if result["exchange"]:
            figures["exchange"] = exchange(result["exchange"])
        for name, figure in figures.items():
            figure.savefig(out / f"{prefix}{name}.png")
    return [out / f"{prefix}{name}.png" for name in figures]


def said(fit: dict, name: str) -> str:
    """`0.34 [0.29, 0.40]` of a fit's parameter."""
    return f"{fit['values'][name]:.3g} [{fit['low'][name]:.3g}, {fit['high'][name]:.3g}]"


def slope(fit: dict) -> str:
    """`12.3 [9.9, 14.0] points a decade`: accuracy per tenfold compute, with its interval."""
    mean, low, high = (100 * fit[side]["q"] for side in ("values", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}] points a decade, R² = {fit['r2']:.2f}"


def line(axes, fit: dict, x: np.ndarray) -> None:
    """The log-linear fit of an accuracy over x, slope and R^2 in its label."""
    grid = np.geomspace(x.min(), x.max(), 50)
    axes.plot(grid, 100 * (fit["values"]["p"] + fit["values"]["q"] * np.log10(grid)),
              label=slope(fit), color=BLACK, linestyle="-.")


def hinged(axes, fit: dict | None, x: np.ndarray, colour: str) -> None:
    """The saturating fit, dotted, where there is one."""
    if fit:
        grid, v = np.geomspace(x.min(), x.max(), 200), fit["values"]
        axes.plot(grid, 100 * (v["p"] + v["q"] * np.log10(np.minimum(grid, v["x0"]))),
                  color=colour, linestyle=":", linewidth=1.2)


def by_size(cells: list[dict], value) -> dict[float, tuple[list, list]]:
    """{parameters: (FLOPs, values)} with one entry a seed."""
    groups: dict[float, tuple[list, list]] = {}
    for cell in cells:
        x, y = groups.setdefault(cell["parameters"], ([], []))
        x.append(cell["flops"])
        y.append(value(cell))
    return groups


def ranges(axes, groups: dict, scale: float) -> None:
    """Mean over seeds and their range, one colour a model size."""
    for i, (parameters, (x, y)) in enumerate(sorted(groups.items())):
        mean = np.mean(y)
        axes.errorbar(np.mean(x), scale * mean, color=COLOURS[i % 7], marker=MARKERS[i % 7],
                      yerr=scale * np.array([[mean - min(y)], [max(y) - mean]]), capsize=2,
                      linestyle="none", label=f"{parameters / 1e6:.2g}M")


def pretrain_loss(result: dict) -> Figure:
    """Validation loss of worked completions against pretraining FLOPs, with the power law."""
    figure, axes = canvas()
    cells = result["cells"]
    ranges(axes, by_size(cells, lambda cell: cell["loss"]), 1)
    fit = result["fits"].get("pretrain loss")
    if fit:
        v = fit["values"]
        sizes = np.geomspace(*(f(c["parameters"] for c in cells) for f in (min, max)), 50)
        tokens = np.mean([cell["tokens"] for cell in cells])
        axes.plot(6 * sizes * tokens, v["E"] + v["A"] * (sizes / v["N0"]) ** -v["a"], color=BLACK,
                  linestyle="--")
        axes.set_title(f"E + A/N^a: a = {said(fit, 'a')}, R² = {fit['r2']:.2f}", fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("pretraining compute 6ND (FLOPs), tokens equal")
    axes.set_ylabel("validation loss (nats a token)")
    legend_below(figure, axes, 3)
    return figure


def pretrain_accuracy(result: dict) -> Figure:
    """Mean accuracy over the levels against pretraining FLOPs."""
    figure, axes = canvas()
    groups = by_size(result["cells"], mean_accuracy)
    ranges(axes, groups, 100)
    x = np.array([cell["flops"] for cell in result["cells"]])
    fit = result["fits"].get("pretrain accuracy")
    if fit:
        line(axes, fit, x)
        hinged(axes, result["fits"].get("pretrain accuracy saturating"), x, BLACK)
    axes.set_xscale("log")
    axes.set_xlabel("pretraining compute 6ND (FLOPs)")
    percent_axis(axes, "accuracy, mean over levels (%)")
    legend_below(figure, axes, 3)
    return figure


def rl(fits: dict, key: str, flops: list, accuracy: list, run: list) -> Figure:
    """Validation accuracy against RL compute, a line a run, with the slope that all share."""
    figure, axes = canvas(4.2)
    x, y, member = np.array(flops), np.array(accuracy), np.array(run)
    fit, own = fits.get(f"rl {key}"), fits.get(f"rl {key} own starts")
    for i in np.unique(member):
        mine, colour = member == i, COLOURS[i % 6]
        axes.plot(x[mine], 100 * y[mine], color=colour, marker=MARKERS[i % 6],
                  label=f"run {i + 1}")
        if own:
            logs = np.log10(x[mine])
            axes.plot(x[mine], 100 * (y[mine].mean() + own["values"]["q"] * (logs - logs.mean())),
                      color=colour, linestyle="--", linewidth=1, label="a start each: "
                      f"{slope(own)}" if i == member[-1] else None)
    if fit:
        line(axes, fit, x)
        hinged(axes, fits.get(f"rl {key} saturating"), x, BLACK)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("RL compute (FLOPs)")
    axes.set_title(key, fontsize=9)
    percent_axis(axes, "validation accuracy (%)")
    legend_below(figure, axes, 1)
    return figure


def testtime(result: dict, kind: str, name: str) -> Figure:
    """Accuracy of every method against the tokens spent a problem; bars are intervals or seeds.

    kind: "testtime" or "search". Slopes: one for all runs, a start each. Dotted: the fit over all
    points that saturates.
    """
    runs = [run["curves"][name] for run in result[kind] if name in run["curves"]]
    methods = [m for m in METHODS if all(m in run for run in runs)]
    figure, axes = canvas(3.0 + 0.2 * len(methods))
    for method in methods:
        label, colour, marker = METHODS[method]
        counts = list(runs[0][method])
        x = np.array([np.mean([run[method][n]["tokens"] for run in runs]) for n in counts])
        rows = [spread([run[method][n] for run in runs]) for n in counts]
        key = f"{kind} {name} {method}"
        fit = result["fits"].get(f"{key} own starts") or result["fits"].get(key)
        whiskers(axes, x, rows, colour, marker, f"{label}: {slope(fit)}" if fit else label)
        hinged(axes, result["fits"].get(f"{key} saturating"), x, colour)
    axes.set_xscale("log")
    axes.set_xlabel("tokens a problem")
    percent_axis(axes, f"accuracy on {name} (%)")
    legend_below(figure, axes, 1)
    return figure


def coverage(fits: dict, name: str, pairs: np.ndarray) -> Figure:
    """Coverage with its law, and the histogram of pass@1 that explains how well it fits."""
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    n, correct = pairs.T
    ks = powers(int(n.min()))
    top.plot(ks, 100 * pass_matrix(n, correct, ks).mean(0), color=RED, marker="v",
             linestyle="none", label=f"coverage, {len(n)} problems")
    fit = fits.get(f"coverage {name}")
    if fit:
        grid = np.geomspace(1, ks[-1], 100)
        top.plot(grid, 100 * np.exp(fit["values"]["a"] * grid ** fit["values"]["b"]), color=BLACK,
                 linestyle="--", label=f"exp(a k^b), a = {said(fit, 'a')}, b = {said(fit, 'b')}")
    top.set_xscale("log", base=2)
    top.set_xlabel("samples k")
    percent_axis(top, f"coverage on {name} (%)")
    top.legend(loc="lower right")
    bottom.hist(correct / n, bins=np.linspace(0, 1, 21), color=SKY, edgecolor="white")
    bottom.set_xlabel("share of a problem's samples that are right (pass@1)")
    bottom.set_ylabel("problems")
    return figure


def exchange(rows: list[dict]) -> Figure:
    """Per level: the small model's vote at each R beside the large model's one greedy answer."""
    names = sorted({row["set"] for row in rows})
    figure = Figure(figsize=(WIDTH, 0.6 + 1.9 * len(names)), layout="constrained")
    ratios = sorted({row["R"] for row in rows})
    for axes, name in zip(np.atleast_1d(figure.subplots(len(names), 1, sharex=True)), names,
                          strict=True):
        for j, (key, label, colour) in enumerate((
                ("small_single", "small, one sample", BLACK), ("small_vote", "small, vote", ORANGE),
                ("small_oracle", "small, coverage (oracle bound)", RED),
                ("large_greedy", "large, greedy", BLUE))):
            for i, ratio in enumerate(ratios):
                points = [row[key] for row in rows if row["set"] == name and row["R"] == ratio]
                mean = 100 * np.mean([p["accuracy"] for p in points])
                low, high = (100 * (points[0][side] if len(points) == 1 else
                                    f(p["accuracy"] for p in points))
                             for side, f in (("low", min), ("high", max)))
                axes.errorbar(i + 0.12 * (j - 1.5), mean, color=colour, marker=MARKERS[j],
                              yerr=[[max(0, mean - low)], [max(0, high - mean)]], capsize=2,
                              label=label if i == 0 else None)
        shown = [next(row for row in rows if row["R"] == ratio) for ratio in ratios]
        axes.set_xticks(range(len(ratios)), [
            f"R = {row['R']}\nN = {row['samples']}{' (all drawn)' if row['capped'] else ''}"
            for row in shown])
        percent_axis(axes, f"{name} (%)")
    legend_below(figure, axes, 2)
    return figure
