"""The figures of `minireason scale`, from its rows and fits alone."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from minireason.report import style
from minireason.report.figures import along
from minireason.report.runs import group_by, select
from minireason.report.style import BLACK, BLUE, GREY, ORANGE, PURPLE, RED
from minireason.studies import laws as shapes
from minireason.studies.fits import Fit
from minireason.studies.scaling_laws import COVERED, LEARNED, column, frontier
from minireason.studies.scaling_search import best_of_samples, search_gains

LINES = {"linear": ":", "log-linear": "--", "saturating": "-", "exponential": "-.",
         "power law": "-", "beta": "--"}
VALID = ("coverage, every step right", PURPLE, "D")
SAMPLED = {"greedy": "greedy", "sampled": "one sample"}
CURVES = {"linear": "line in FLOPs", "log-linear": "line in their logarithm",
          "saturating": "S in their logarithm", "exponential": "errors exponential in FLOPs"}
EXCHANGED = {
    "small_greedy": ("small, greedy", GREY, "v"),
    "small_single": ("small, one sample", BLACK, "o"), "small_vote": ("small, vote", ORANGE, "s"),
    "small_oracle": ("small, coverage (oracle bound)", RED, "D"),
    "large_greedy": ("large, greedy", BLUE, "^")}


def write(rows: list[dict], laws: dict[str, Fit], out: Path) -> None:
    """Every figure that the rows have data for, as PNG."""
    by_law = group_by(rows, "law")
    if "pretrain" in by_law:
        style.save(out / "pretrain.png", pretrain, by_law["pretrain"], laws)
        style.save(out / "pretrain-rates.png", rates, by_law["pretrain"])
    if "rl" in by_law:
        style.save(out / "rl.png", rl, by_law["rl"], laws)
    for (policy, name), own in group_by(by_law.get("testtime", []), "policy", "set").items():
        style.save(out / f"testtime-{policy}-{name}.png", testtime, policy, name, own, laws)
    for (small, large), own in group_by(by_law.get("exchange", []), "small", "large").items():
        if select(own, method="large_greedy"):
            style.save(out / f"exchange-{small}-{large}.png", exchange, own)
    if "search" in by_law:
        style.save(out / "search-samples.png", best_of_samples,
                   select(by_law["search"], method="samples", kind="run"))
    searched = select(by_law.get("search", []), account="run", kind="mean")
    for (method, against), own in group_by(searched, "method", "against").items():
        style.save(out / f"search-{method}-{against}.png", search_gains, own)


def draw_fit(axes: Axes, fit: Fit | None, law: shapes.Law, x, label: str, line: str,
             colour: str = BLACK, times: float = 100) -> None:
    """A law over the range of x, in percent; nothing where it was not fitted."""
    if fit is not None:
        grid = np.geomspace(np.min(x), np.max(x), 200)
        axes.plot(grid, times * law.predict(grid, *fit.values.values()), color=colour,
                  linestyle=line, linewidth=1.2, label=f"{label}, R² = {fit.r2:.3f}")


def draw_sizes(axes: Axes, models: list[dict], field: str, times: float = 1.0) -> None:
    """A line per size along its lengths: mean over seeds with their range."""
    for look, (size, own) in zip(style.LOOKS, sorted(group_by(models, "parameters").items()),
                                 strict=False):
        x, spreads = along([{**row, "accuracy": row[field]} for row in own], "steps", "flops")
        style.whiskers(axes, x, np.array(spreads) * times / 100, *look, f"{size / 1e6:.2g}M")
    axes.set_xscale("log")


def pretrain(rows: list[dict], laws: dict[str, Fit]) -> Figure:
    """Loss above the entropy with the law of the frontier; greedy accuracy below its limit."""
    models = select(rows, kind="run")
    figure, (top, bottom) = style.panels(2, 6.2, sharex=True)
    draw_sizes(top, models, "excess")
    fit = laws.get("loss above entropy: least for its FLOPs")
    if fit:
        x = column(frontier(models), "flops")
        draw_fit(top, fit, shapes.POWER, x, f"C^-a, a = {fit.text('a')}", "--", times=1)
    top.set_yscale("log")
    top.set_ylabel("loss above entropy (nats per token)")
    draw_sizes(bottom, models, "greedy", 100)
    limit = bottom.axhline(100 * models[0]["limit_greedy"], color=GREY, linestyle="--",
                           label="its authors")
    bottom.legend(handles=[limit], loc="upper left")
    bottom.set_xlabel("pretraining compute (FLOPs)")
    style.percent_axis(bottom, "greedy accuracy, mean of levels (%)")
    style.legend_below(figure, top, 3)
    return figure


def rates(rows: list[dict]) -> Figure:
    """Loss of the tuning runs against the learning rate, a panel per length, the chosen ringed."""
    lengths = group_by(select(rows, kind="tuning"), "steps")
    figure, panels = style.panels(len(lengths), 0.8 + 2.0 * len(lengths), sharex=True)
    for axes, (steps, tuned) in zip(panels, sorted(lengths.items()), strict=True):
        for look, (size, own) in zip(style.LOOKS, group_by(tuned, "parameters").items(),
                                     strict=False):
            axes.plot(column(own, "lr"), column(own, "excess"), color=look[0], marker=look[1],
                      label=f"{size / 1e6:.2g}M")
            (best,) = select(own, chosen=True)
            axes.plot(best["lr"], best["excess"], "o", color=look[0], markersize=11,
                      fillstyle="none")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylabel(f"loss above entropy,\n{steps} steps")
        tried = sorted({row["lr"] for row in select(rows, kind="tuning")})
        axes.set_xticks(tried, [f"{lr:g}" for lr in tried])
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[-1].set_xlabel("peak learning rate")
    style.legend_below(figure, panels[0], 3)
    return figure


def rl(rows: list[dict], laws: dict[str, Fit]) -> Figure:
    """Accuracy after runs of every length against their compute, with the laws."""
    methods = group_by(rows, "method")
    figure, panels = style.panels(len(methods), 0.8 + 2.7 * len(methods), sharex=True)
    for axes, (method, own) in zip(panels, methods.items(), strict=True):
        runs = [row for row in own if row["steps"]]
        x, spreads = along(runs, "steps", "flops")
        style.whiskers(axes, x, spreads, BLUE, "o", "runs, mean and range of seeds", "none")
        before = np.mean(column(select(own, steps=0), "accuracy"))
        axes.axhline(100 * before, color=GREY, linewidth=0.8, label="before RL")  # pyright: ignore
        for name, law in LEARNED.items():
            draw_fit(axes, laws.get(f"RL, {method}: {name}"), law, x, CURVES[name],
                     LINES[name])
        axes.set_xscale("log")
        style.percent_axis(axes, f"accuracy, {SAMPLED[method]} (%)")
        axes.legend(fontsize=7, loc="lower right")
    panels[-1].set_xlabel("RL compute (FLOPs), one run per length and seed")
    return figure


def testtime(policy: str, name: str, rows: list[dict], laws: dict[str, Fit]) -> Figure:
    """Curves against N, their local slopes, coverage's law, and the histogram that explains it."""
    figure, (curves, slopes, failures, histogram) = style.panels(4, 10.4)
    rows = select(rows, kind="run")
    for method in ("single", "majority", "coverage", "valid coverage", "chance"):
        own = select(rows, method=method)
        label, colour, marker = style.SHOWN.get(method, VALID)
        n, spreads = along(own, "n")
        style.whiskers(curves, n, spreads, colour, marker, label,
                       ":" if method == "chance" else "-")
        if method not in ("single", "chance") and len(n) > 1:
            gains = np.diff(np.array(spreads)[:, 0]) / np.diff(np.log10(n))
            slopes.plot(np.sqrt(n[1:] * n[:-1]), gains, color=colour, marker=marker, label=label)
    curves.axhline(100 * np.mean(column(select(rows, method="greedy"), "accuracy")), color=BLACK,  # pyright: ignore
                   linestyle="--", linewidth=1, label="greedy")
    style.percent_axis(curves, f"accuracy on {name} (%)")
    curves.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    slopes.axhline(0, color=GREY, linewidth=0.8)
    slopes.set_ylabel("local slope (points per decade)")
    for method in ("coverage", "valid coverage"):
        n, spreads = along(select(rows, method=method), "n")
        label, colour, marker = style.SHOWN.get(method, VALID)
        covered = np.array(spreads)[:, 0] / 100
        known = (covered > 0) & (covered < 1 - 1e-9)        # elsewhere there is no logarithm
        failures.plot(n[known], -np.log(covered[known]), color=colour, marker=marker,
                      linestyle="none", label=label)
        for form, law in COVERED.items():
            fit = laws.get(f"{policy}, {name}, {method}: {form}")
            if fit and known.any():
                grid = np.geomspace(1, n[known].max(), 200)
                fitted = np.clip(law.predict(grid, *fit.values.values()), 1e-6, 1 - 1e-9)
                failures.plot(grid, -np.log(fitted), color=colour, linestyle=LINES[form], label=(
                    f"{form}: " + ", ".join(f"{k} = {v:.2g}" for k, v in fit.values.items())))
    failures.set_yscale("log")
    failures.set_ylabel("-log coverage (a power law is straight)")
    failures.legend(fontsize=7)
    for axes in (curves, slopes, failures):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("samples N")
    draw_histogram(histogram, select(rows, method="pass@1"))
    return figure


def draw_histogram(axes: Axes, rows: list[dict]) -> None:
    """How many problems have which share of right samples, on logarithms; never right is apart.

    No bin is narrower than what so many samples can tell apart.
    """
    size = rows[0]["n"]
    edges = [1 / size / 4, 1 / size / 2]
    while edges[-1] < 1:
        edges.append(max(1.5 * edges[-1], edges[-1] + 1 / size))
    for field, label, colour, look, alpha in (
            ("right", "the answer right", RED, "stepfilled", 0.4),
            ("valid", "every step right, too", PURPLE, "step", 1.0)):
        share = np.concatenate([np.array(row[field]) / size for row in rows])
        axes.hist(np.maximum(share, 0.3 / size), bins=edges, color=colour, histtype=look,  # pyright: ignore
                  alpha=alpha, label=label)
    axes.set_xscale("log")
    axes.set_xlabel(f"share of right samples (the bar at the left: none of {size})")
    axes.set_ylabel("problems, all seeds")
    axes.legend(fontsize=7)


def exchange(rows: list[dict]) -> Figure:
    """Per level: the small model at each R beside the large model's one greedy answer."""
    sets = group_by(rows, "set")
    figure, panels = style.panels(len(sets), 0.8 + 1.9 * len(sets), sharex=True)
    first = rows[0]
    figure.suptitle(f"{first['small']:,} parameters that think longer, {first['large']:,} that "
                    "answer greedily", fontsize=9)
    for axes, (name, own) in zip(panels, sets.items(), strict=True):
        ratios = group_by(own, "R")
        for j, (method, (label, colour, marker)) in enumerate(EXCHANGED.items()):
            bars = [style.spread(select(same, method=method)) for same in ratios.values()]
            style.whiskers(axes, [i + 0.12 * (j - 2) for i in range(len(bars))], bars, colour,
                           marker, label, "none")
        ticks = [f"R = {ratio:g}\nN = {same[0]['n']}{' (all drawn)' if same[0]['capped'] else ''}"
                 for ratio, same in ratios.items()]
        axes.set_xticks(range(len(ticks)), ticks)
        style.percent_axis(axes, f"{name} (%)")
        axes.set_ylim(100 * min(row["accuracy"] for row in rows if row["kind"] == "run") - 5, 102)
    style.legend_below(figure, panels[0], 2)
    return figure
