"""Every law that `minireason scale` fits, as a table and as figures, from its result alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

from minireason.report import style, tables
from minireason.report.figures import along
from minireason.report.runs import group_by
from minireason.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY
from minireason.studies import fits
from minireason.studies.fits import Fit

LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (RED, "^"), (PURPLE, "v"), (SKY, "P"),
         (BLACK, "*"))
EXCHANGED = {
    "small_single": ("small, one sample", BLACK, "o"), "small_vote": ("small, vote", ORANGE, "s"),
    "small_oracle": ("small, coverage (oracle bound)", RED, "D"),
    "large_greedy": ("large, greedy", BLUE, "^")}


def laws(result: dict) -> dict[str, Fit]:
    """Every law with enough points, named `<kind> <set> <method>`."""
    cells, found = result["cells"], {}
    if len(group_by(cells, "parameters")) > 3:
        found["pretrain loss"] = fits.power_law([cell["parameters"] for cell in cells],
                                                [cell["loss"] for cell in cells])
        found |= curve_laws("pretrain accuracy", [{
            "compute": cell["flops"], "accuracy": mean_accuracy(cell), "run": 0} for cell in cells])
    for curve, rows in group_by(result["points"], "curve").items():
        for method, own in group_by(rows, "method").items():
            found |= curve_laws(f"{curve} {method}", own)
    for name, pairs in result["right"].items():
        n, correct = np.array(pairs).T
        if 0 < correct.sum() < n.sum():
            found[f"coverage {name}"] = fits.coverage_law(n, correct)
    return found


def mean_accuracy(cell: dict) -> float:
    """Greedy chain-of-thought accuracy, mean over the levels."""
    return float(np.mean([point["accuracy"] for point in cell["accuracy"].values()]))


def curve_laws(name: str, rows: list[dict]) -> dict[str, Fit]:
    """Log-linear over all points, one slope for all runs with a start each, and the hinge."""
    x, y, run = ([row[key] for row in rows] for key in ("compute", "accuracy", "run"))
    kinds, runs, found = len(set(x)), len(set(run)), {}
    if kinds > 2:
        found[name] = fits.log_linear(x, y)
        if runs > 1 and len(x) > runs + 1:
            found[f"{name} own starts"] = fits.log_linear_runs(x, y, run)
    if kinds > 3:
        found[f"{name} saturating"] = fits.hinge(x, y)
    return found


def slope(fit: Fit) -> str:
    """`12.3 [9.9, 14.0] points per decade`: accuracy per tenfold compute, with its interval."""
    mean, low, high = (100 * part["q"] for part in (fit.values, fit.low, fit.high))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}] points per decade, R² = {fit.r2:.2f}"


def laws_table(found: dict[str, Fit]) -> str:
    """A line per law of another form, then the slopes of every curve and where they end."""
    text, table = [], [["accuracy against compute", "n", "over all points", "a start per run",
                        "flat from (FLOPs or tokens)"]]
    for name, fit in found.items():
        if "q" not in fit.values:
            values = ", ".join(f"{key} = {fit.text(key)}" for key in fit.values if key != "N0")
            text.append(f"- {name}: {values}, R² = {fit.r2:.3f}, n = {fit.n}")
        elif f"{name} saturating" in found:
            own = found.get(f"{name} own starts")
            table.append([name, str(fit.n), slope(fit), slope(own) if own else "",
                          found[f"{name} saturating"].text("x0")])
    return "\n".join([*text, "", tables.markdown(table)])


def write_figures(result: dict, laws: dict[str, Fit], out: Path) -> None:
    """Every figure that the result has data for, as PNG."""
    if result["cells"]:
        style.save(out / "pretrain-loss.png", pretrain_loss, result["cells"], laws)
        style.save(out / "pretrain-accuracy.png", pretrain_accuracy, result["cells"], laws)
    for curve, rows in group_by(result["points"], "curve").items():
        name = curve.replace(" ", "-")
        if not curve.startswith("rl "):
            style.save(out / f"{name}.png", testtime, curve, rows, laws)
            continue
        for method, own in group_by(rows, "method").items():
            style.save(out / f"{name}-{method}.png", rl, f"{curve} {method}", own, laws)
    for name, pairs in result["right"].items():
        style.save(out / f"coverage-{name}.png", coverage, name, np.array(pairs), laws)
    if result["exchange"]:
        style.save(out / "exchange.png", exchange, result["exchange"])


def draw_laws(axes: Axes, laws: dict[str, Fit], name: str, x: ArrayLike, color: str = BLACK,
              straight: bool = True) -> None:
    """The laws of a curve over the range of x: log-linear with its slope; dotted, the hinge."""
    grid = np.geomspace(np.min(x), np.max(x), 200)
    line, hinge = laws.get(name), laws.get(f"{name} saturating")
    if line and straight:
        axes.plot(grid, 100 * fits.log_line(grid, **line.values), color=color, linestyle="-.",
                  label=slope(line))
    if hinge:
        axes.plot(grid, 100 * fits.log_line(grid, **hinge.values), color=color, linestyle=":",
                  linewidth=1.2)


def draw_sizes(axes: Axes, cells: list[dict], value: Callable[[dict], float]) -> None:
    """Mean over seeds and their range against FLOPs, one colour per model size."""
    groups = group_by(cells, "parameters")
    for look, (parameters, own) in zip(LOOKS, sorted(groups.items()), strict=False):
        values = [value(cell) for cell in own]
        flops = np.mean([cell["flops"] for cell in own])
        style.whiskers(axes, [flops], [[np.mean(values), min(values), max(values)]], *look,
                       f"{parameters / 1e6:.2g}M", "none")
    axes.set_xscale("log")


def pretrain_loss(cells: list[dict], laws: dict[str, Fit]) -> Figure:
    """Validation loss of worked completions against pretraining FLOPs, with the power law."""
    figure, axes = style.canvas()
    draw_sizes(axes, cells, lambda cell: cell["loss"])
    fit = laws.get("pretrain loss")
    if fit:
        parameters = list(group_by(cells, "parameters"))
        grid = np.geomspace(min(parameters), max(parameters), 50)
        tokens = float(np.mean([cell["tokens"] for cell in cells]))
        axes.plot(fits.training_flops(grid, tokens), fits.power(grid, **fit.values), color=BLACK,
                  linestyle="--")
        axes.set_title(f"E + A/N^a: a = {fit.text('a')}, R² = {fit.r2:.2f}", fontsize=9)
    axes.set_yscale("log")
    axes.set_xlabel("pretraining compute 6ND (FLOPs), tokens equal")
    axes.set_ylabel("validation loss (nats per token)")
    style.legend_below(figure, axes, 3)
    return figure


def pretrain_accuracy(cells: list[dict], laws: dict[str, Fit]) -> Figure:
    """Mean accuracy over the levels against pretraining FLOPs."""
    figure, axes = style.canvas()
    draw_sizes(axes, cells, lambda cell: 100 * mean_accuracy(cell))
    draw_laws(axes, laws, "pretrain accuracy", [cell["flops"] for cell in cells])
    return style.finish(figure, axes, "pretraining compute 6ND (FLOPs)",
                        "accuracy, mean over levels (%)")


def rl(name: str, rows: list[dict], laws: dict[str, Fit]) -> Figure:
    """Validation accuracy against RL compute, a line per run, with the slope that all share."""
    figure, axes = style.canvas(4.2)
    own = laws.get(f"{name} own starts")
    for look, (run, mine) in zip(LOOKS, group_by(rows, "run").items(), strict=False):
        x, y = np.array([[row["compute"], row["accuracy"]] for row in mine]).T
        axes.plot(x, 100 * y, color=look[0], marker=look[1], label=f"run {run + 1}")
        if own:
            start = y.mean() - own.values["q"] * np.log10(x).mean()
            axes.plot(x, 100 * fits.log_line(x, start, **own.values), color=look[0],
                      linestyle="--", linewidth=1,
                      label=f"a start each: {slope(own)}" if mine[-1] is rows[-1] else None)
    draw_laws(axes, laws, name, [row["compute"] for row in rows])
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(name, fontsize=9)
    return style.finish(figure, axes, "RL compute (FLOPs)", "validation accuracy (%)", 1)


def testtime(curve: str, rows: list[dict], laws: dict[str, Fit]) -> Figure:
    """Accuracy of every method against the tokens spent per problem; bars are intervals or seeds.

    Slopes: one for all runs, a start each. Dotted: the law over all points that saturates.
    """
    methods = group_by(rows, "method")
    figure, axes = style.canvas(3.0 + 0.2 * len(methods))
    for method in (method for method in style.METHODS if method in methods):
        label, colour, marker = style.METHODS[method]
        x, spreads = along(methods[method], "n", "tokens")
        fit = laws.get(f"{curve} {method} own starts") or laws.get(f"{curve} {method}")
        style.whiskers(axes, x, spreads, colour, marker, f"{label}: {slope(fit)}" if fit else label)
        draw_laws(axes, laws, f"{curve} {method}", x, colour, straight=False)
    axes.set_xscale("log")
    return style.finish(figure, axes, "tokens per problem",
                        f"accuracy on {curve.partition(' ')[2]} (%)", 1)


def coverage(name: str, pairs: np.ndarray, laws: dict[str, Fit]) -> Figure:
    """Coverage with its law, and the histogram of pass@1 that explains how well it fits."""
    figure, (top, bottom) = style.panels(2, 5.4)
    n, correct = pairs.T
    ks, matrix = fits.pass_matrix(n, correct)
    top.plot(ks, 100 * matrix.mean(axis=0), color=RED, marker="v",
             linestyle="none", label=f"coverage, {len(n)} problems")
    fit = laws.get(f"coverage {name}")
    if fit:
        grid = np.geomspace(1, ks[-1], 100)
        top.plot(grid, 100 * fits.coverage(grid, **fit.values), color=BLACK, linestyle="--",
                 label=f"exp(a k^b), a = {fit.text('a')}, b = {fit.text('b')}")
    top.set_xscale("log", base=2)
    top.set_xlabel("samples k")
    style.percent_axis(top, f"coverage on {name} (%)")
    top.legend(loc="lower right")
    bottom.hist(correct / n, bins=np.linspace(0, 1, 21).tolist(), color=SKY, edgecolor="white")
    bottom.set_xlabel("share of a problem's samples that are right (pass@1)")
    bottom.set_ylabel("problems")
    return figure


def exchange(rows: list[dict]) -> Figure:
    """Per level: the small model's vote at each R beside the large model's one greedy answer."""
    sets, ticks = group_by(rows, "set"), []
    for ratio, (row, *_) in group_by(rows, "R").items():
        ticks.append(f"R = {ratio}\nN = {row['samples']}{' (all drawn)' if row['capped'] else ''}")
    figure, panels = style.panels(len(sets), 0.6 + 1.9 * len(sets), sharex=True)
    for axes, (name, own) in zip(panels, sets.items(), strict=True):
        ratios = group_by(own, "R").values()
        for j, (key, (label, colour, marker)) in enumerate(EXCHANGED.items()):
            bars = [style.spread([row[key] for row in same_ratio]) for same_ratio in ratios]
            style.whiskers(axes, [i + 0.12 * (j - 1.5) for i in range(len(bars))], bars, colour,
                           marker, label, "none")
        axes.set_xticks(range(len(ticks)), ticks)
        style.percent_axis(axes, f"{name} (%)")
    style.legend_below(figure, panels[0], 2)
    return figure
