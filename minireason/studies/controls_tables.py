"""Tables and picture of `minireason controls`, from its rows alone."""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minireason.report import style, tables
from minireason.report.runs import group_by, level_of, select, tagged
from minireason.report.seeds import margin_rows

METHODS = {"greedy": "greedy", "sampled": "one sample at T = 1"}


def text_of(rows: list[dict]) -> str:
    """All tables: rungs and arms, their paired differences, and the price of experts."""
    seeds, sizes = list(group_by(rows, "seed")), set(group_by(rows, "problems"))
    numbers = ", ".join(map(str, seeds))
    over_seeds = f"mean over seeds {numbers} (range)" if len(seeds) > 1 else f"seed {numbers}"
    parts = [
        tables.markdown(accuracy_table(rows)),
        f"Accuracy in percent, greedy / one sample at T = 1, {over_seeds}; n = "
        f"{', '.join(map(str, sorted(sizes)))} problems per level and seed. FLOPs: of the policy "
        "and all that it descends from; own: beyond the policy that the arm continues."]
    differences = difference_rows(rows)
    for method, words in METHODS.items():
        parts.append(tables.markdown(tables.pivot(select(differences, way=method), "arm", "set",
                                                  f"difference, {words}")))
    over = "seeds and problems (two_way_interval)" if len(seeds) > 1 else "problems"
    parts += [f"Points of accuracy between a rung and an arm of equal FLOPs (of twice its FLOPs: "
              f"pretraining twice as long), paired, [95% bootstrap interval over {over}].",
              tables.markdown(price_table(rows)),
              "The price of experts: gold lines whose SFT, at the FLOPs of the gold arms, reaches "
              "the rung's greedy accuracy; between two arms log-linear in lines."]
    return "\n\n".join(parts) + "\n"


def accuracy_table(rows: list[dict]) -> list[list[str]]:
    """One line per rung and arm: accuracies by level, FLOPs, gold lines."""
    table = tables.pivot(rows, "arm", "set", "policy", text=both_methods)
    table[0] += ["FLOPs", "own FLOPs / rung's", "gold lines"]
    for line, members in zip(table[1:], group_by(rows, "arm").values(), strict=True):
        flops = np.mean([row["flops"] for row in members])
        line += [f"{flops:.2e}", share_text(rows, members), f"{members[0]['lines']:,}"]
    return table


def both_methods(rows: list[dict]) -> str:
    """`77 (73 to 81) / 70 (66 to 75)`: greedy and of one sample, over seeds."""
    texts = []
    for method in METHODS:
        own = select(rows, method=method)
        texts.append(tables.range_text([100 * row["accuracy"] for row in own]))
    return " / ".join(texts)


def share_text(rows: list[dict], arm: list[dict]) -> str:
    """`0.99 of RL`: what an arm spent beyond its start, over what its rung did; "" for a rung."""
    if "against" not in arm[0]:
        return ""
    own, target = (np.mean([row[field] for row in arm]) for field in ("flops", "target"))
    start = np.mean([row["flops"] for row in select(rows, arm=arm[0]["start"])] or [0.0])
    return f"{(own - start) / (target - start):.2f} of {arm[0]['against']}"


def difference_rows(rows: list[dict]) -> list[dict]:
    """Rung minus arm held against it, paired by seed and problem, with a two-way interval."""
    found, rows = [], sorted(rows, key=lambda row: row["seed"])
    pairs = dict.fromkeys((row["against"], row["arm"]) for row in rows if "against" in row)
    for method, own in group_by(rows, "method").items():
        found += tagged(margin_rows(own, "arm", pairs), way=method)
    return found


def price_table(rows: list[dict]) -> list[list[str]]:
    """Gold lines that equal each rung after the base, by level."""
    rows = select(rows, method="greedy")
    rungs = select(rows, against=None)

    def price_of(rung: list[dict]) -> str:
        curve = group_by(select(rows, gold=True, set=rung[0]["set"]), "lines")
        means = [style.spread(of_lines)[0] for of_lines in curve.values()]
        return price(list(curve), means, style.spread(rung)[0])

    above = [row for row in rungs if row["arm"] != rungs[0]["arm"]]
    return tables.pivot(above, "arm", "set", "rung", text=price_of)


def price(lines: list[int], accuracies: list[float], wanted: float) -> str:
    """Where accuracy against log(lines), lines ascending, first reaches the wanted one."""
    if accuracies[0] > wanted:
        return f"fewer than {lines[0]:,}"
    for (few, low), (many, high) in pairwise(zip(lines, accuracies, strict=True)):
        if low <= wanted <= high:
            share = (wanted - low) / (high - low) if high > low else 0.0
            return f"{float(f'{few * (many / few) ** share:.2g}'):,.0f}"
    return f"{lines[-1]:,}" if accuracies[-1] == wanted else f"more than {lines[-1]:,}"


def figure_of(rows: list[dict]) -> Figure:
    """Greedy accuracy against cumulative FLOPs at the hardest two levels that anyone masters."""
    greedy = select(rows, method="greedy")
    mastered = [row for row in greedy if row["accuracy"] > 0.5] or greedy
    names = list(group_by(mastered, "set"))
    names = [name for name in group_by(greedy, "set") if name in names][-2:]
    figure, panels = style.panels(len(names), 1.6 + 2.2 * len(names), sharex=True)
    for axes, name in zip(panels, names, strict=True):
        panel(axes, select(rows, set=name, method="greedy"))
        style.percent_axis(axes, f"level {level_of(name)}, greedy (%)")
    panels[-1].set_xlabel("FLOPs of the policy and all that it descends from")
    style.legend_below(figure, panels[-1], 2)
    return figure


def panel(axes: Axes, rows: list[dict]) -> None:
    """The rungs on a line, each arm beside them in the colour of the rung that it continues."""
    all_flops, path = [row["flops"] for row in rows], []
    places = {rung: list(group_by(members, "arm"))               # arms of equal FLOPs
              for rung, members in group_by(rows, "against").items()}
    for arm, own in group_by(rows, "arm").items():
        flops, bars = float(np.mean([row["flops"] for row in own])), style.spread(own)
        if "against" not in own[0]:
            path.append((flops, bars[0]))
            style.whiskers(axes, [flops], [bars], *style.RUNGS.get(arm, (style.RED, "x")), arm)
            continue
        beside = places[own[0]["against"]]                       # stand side by side
        flops += 0.04 * np.ptp(all_flops) * (beside.index(arm) - (len(beside) - 1) / 2)
        colour, marker = style.RUNGS.get(own[0]["start"], (style.RED, ""))[0], "X"
        label = f"control: {arm}"
        if "gold" in own[0]:
            colour, marker, label = style.RED, "o", "control: gold lines"
            if label in axes.get_legend_handles_labels()[1]:
                label = ""
            axes.annotate(f"{own[0]['lines']:,}", (flops, bars[0]), (0, -6), fontsize=7,
                          rotation=90, textcoords="offset points", color=colour, ha="center",
                          va="top")
        style.whiskers(axes, [flops], [bars], colour, marker, label)
    axes.plot(*zip(*path, strict=True), color=style.BLACK, linewidth=1, zorder=0)
