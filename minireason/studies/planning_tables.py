"""Planning at equal training tokens: accuracy by arm and mode, margins, what an answer costs."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minireason.problems import FAMILIES
from minireason.report import style, tables
from minireason.report.runs import group_by, level_of, select
from minireason.report.seeds import margin_rows
from minireason.studies import shared

VOTES = 16                     # fast answers that cost about as much as a thought in a maze
MARGINS = (("trace, slow", "plan, fast"), ("dropped, slow", "plan, fast"),
           ("trace, slow", f"plan, fast x {VOTES}"), ("dropped, slow", f"plan, fast x {VOTES}"),
           ("dropped, slow", "trace, slow"), ("dropped, auto", "plan, fast"),
           ("star_thought, slow", "star, fast"), ("star_reversed, fast", "star, fast"),
           ("star+rl, fast", "star, fast"), ("dropped+rl, auto", "dropped, auto"),
           ("star_mixed+rl, auto", "star_mixed, auto"),
           ("program_trace, slow", "program, fast"),
           ("program_trace, slow", f"program, fast x {VOTES}"))
METHODS = {"greedy": f"greedy; x {VOTES}: their vote", "sampled": "one sample at T = 1"}

NOTES = {"pathstar": "Who guesses the first node of the two paths and looks up the rest: 50%.\n\n",
         "maze": "Right is a plan that leads to the goal and is as short as one can be.\n\n"}


def spent_text(rows: list[dict]) -> str:
    """`81, 12.3, 100%`: tokens and steps per answer, and the share of answers with a thought."""
    tokens, steps, thinking = (np.mean([row[key] for row in rows])
                               for key in ("tokens", "steps", "thinking"))
    return f"{tokens:.0f}, {steps:.1f}, {100 * thinking:.0f}%"


def accuracy_figure(rows: list[dict]) -> Figure:
    """A panel per family: greedy accuracy against level, over the seeds, a colour and a
    marker per arm, a dash per mode, with the tokens per answer beside the name; of a family with
    one set a row per arm and mode."""
    families = group_by(select(rows, method="greedy"), "family")
    figure, panels = style.panels(len(families), 4.2 * len(families))
    for axes, (name, members) in zip(panels, families.items(), strict=True):
        lines, levels = group_by(members, "line"), list(map(level_of, group_by(members, "set")))
        if len(levels) == 1:
            axes.set_title(f"{name}, {levels[0]} = {FAMILIES[name].LEVEL_NAME}", fontsize=9)
            draw_rows(axes, lines)
            continue
        arms, modes = (list(dict.fromkeys(parts))
                       for parts in zip(*(line.split(", ") for line in lines), strict=True))
        for line, own in lines.items():
            arm, mode = line.split(", ")
            sets = list(group_by(own, "set").values())
            spent = [np.mean([row["tokens"] for row in of_set]) for of_set in sets]
            ends = dict.fromkeys(f"{tokens:.0f}" for tokens in (min(spent), max(spent)))
            style.whiskers(axes, levels, [style.spread(of_set) for of_set in sets],
                           *style.LOOKS[arms.index(arm)],
                           f"{line} ({' to '.join(ends)})",
                           ("-", ":", "--", "-.")[modes.index(mode)])
        style.percent_axis(axes, "solved (%)")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(f"{FAMILIES[name].LEVEL_NAME}; in brackets: tokens per answer")
        axes.set_xticks(levels)
        axes.legend(fontsize=7, ncols=2, handlelength=4, loc="upper center",
                    bbox_to_anchor=(0.5, -0.17))
    return figure


def draw_rows(axes: Axes, lines: dict[str, list[dict]]) -> None:
    """Share solved, mean and range over seeds, with the tokens per answer beside the name."""
    mean, low, high = np.array([style.spread(own) for own in lines.values()]).T
    axes.errorbar(mean, range(len(lines)), xerr=np.maximum(0, [mean - low, high - mean]),
                  color=style.BLUE, marker="o", linestyle="", elinewidth=1, capsize=2)
    axes.set_yticks(range(len(lines)), [
        f"{line} ({np.mean([row['tokens'] for row in own]):.0f})" for line, own in lines.items()])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("solved (%); in brackets: tokens per answer")


def family_text(rows: list[dict], models: list[dict]) -> str:
    """Tables of one family, accuracy with margins and cost, greedy and sampled, under a line that
    says what is shown."""
    family = FAMILIES[rows[0]["family"]]
    names = {name: f"{family.LEVEL_SYMBOL} = {level_of(name)}" for name in group_by(rows, "set")}
    arms, read = {row["line"].partition(",")[0] for row in rows}, []
    own = [model for model in models if model["arm"] in arms]
    for arm, members in group_by(own, "arm").items():
        tokens = np.mean([model["train_tokens"] for model in members]) / 1e6
        what = "samples of its own, on top" if arm.endswith("+rl") else "examples"
        read.append(f"{arm} {tokens:.2f}M in {members[0]['train_examples']:,} {what}")
    sizes = " to ".join(map(str, sorted({row["problems"] for row in rows})))
    accuracy, cost = [], []
    for method, words in METHODS.items():
        drawn = select(rows, method=method)
        margins = [{**row, "line": f"{row['line']}, points"}
                   for row in margin_rows(drawn, "line", MARGINS)]
        accuracy.append(tables.markdown(
            tables.pivot(drawn + margins, "line", "set", words, names=names)))
        cost.append(tables.markdown(
            tables.pivot(drawn, "line", "set", words, names=names, text=spent_text)))
    return (f"**{family.NAME}**: accuracy in %, mean over seeds "
            f"{', '.join(map(str, group_by(rows, 'seed')))} [95%, over seeds and "
            f"problems] (range over seeds); n = {sizes} frozen problems per set, "
            f"{own[0]['parameters'] / 1e6:.2f}M parameters. Tokens read: {', '.join(read)}.\n\n"
            + NOTES.get(family.NAME, "") + "\n\n".join(accuracy) + "\n\nTokens per answer, "
            "steps of its thought, and the share of answers with a thought:\n\n"
            + "\n\n".join(cost) + "\n\n")


def write(result: dict, out: Path) -> None:
    """table.md and planning.png."""
    text = ""
    for rows in group_by(result["measured"], "family").values():
        text += family_text(rows, result["models"])
    style.save(out / "planning.png", accuracy_figure, result["measured"])
    shared.write_table(out / "table.md", result, text.removesuffix("\n"))
