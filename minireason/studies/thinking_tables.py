"""Tables and picture of `minireason ablate --stage think_budget`, from its rows alone."""

from itertools import product

import numpy as np
from matplotlib.figure import Figure

from minireason.measure import thinking
from minireason.measure.estimates import two_way_interval
from minireason.report import figures_testtime, tables
from minireason.report.runs import group_by, select, tagged
from minireason.report.seeds import verdicts_of

MODES = ("always", "never", "warm", "auto")
OTHERS = ("critic_threshold", "exit_probability", "exit_critic")    # than a budget
BUDGETS = ("forced", "forced_untaught", "asked", "rejected")
NEAR = 0.01                       # accuracy that a way of saving tokens may cost


def text_of(rows: list[dict]) -> str:
    """All tables: modes by level, the price's worth, budgets by s1's measures, other savings."""
    own = first_variant(rows)
    parts = []
    for variant, members in group_by(select(rows, method=MODES), "variant").items():
        parts += [tables.markdown(tables.pivot(
            members, "set", "method", variant, names={mode: mode for mode in MODES},
            text=spent_text))]
    parts += [
        "Greedy accuracy (%) / tokens per answer / share of answers with a thought (%), means over "
        "seeds. always: the policy before, never: the warmed-up policy answering at once, warm: as "
        "the warm-up left it, auto: as it chooses after reinforcement learning.",
        tables.markdown(tables.pivot(difference_rows(rows), "variant", "set",
                                     "paired difference, all levels")),
        "Points of accuracy [95% bootstrap interval over seeds and problems (two_way_interval)].",
        tables.markdown(forcing_table(own)),
        "Budgets of tokens per thought, by s1's measures, means over seeds: forced on the policy "
        "after its warm-up and before it, asked for in the prompt, by rejection of samples. Slopes "
        "are those between points at least one token apart.",
        tables.markdown(savings_table(own)),
        "Other ways to save tokens: the fewest at which accuracy is within a point of thinking in "
        "full, in percent of its tokens. The threshold is held against always thinking; the exits, "
        "which the policy after its warm-up takes, against that policy's own whole thoughts."]
    return "\n\n".join(parts) + "\n"


def first_variant(rows: list[dict]) -> list[dict]:
    """The rows of the first variant."""
    return select(rows, variant=select(rows, method="auto")[0]["variant"])


def spent_text(rows: list[dict]) -> str:
    """`99.4 / 21.0 / 95`: accuracy, tokens, share of thinking, means over seeds."""
    def mean(field: str) -> float:
        return float(np.mean([row[field] for row in rows]))
    return f"{100 * mean('accuracy'):.1f} / {mean('tokens'):.1f} / {100 * mean('thinking'):.0f}"


def difference_rows(rows: list[dict]) -> list[dict]:
    """Each variant, choosing, minus the policy before, always thinking, and minus the first."""
    names = [name for name in group_by(select(rows, method="always"), "set")
             if name != thinking.ALL]
    greedy, found = group_by(select(rows, method="greedy", set=tuple(names)), "variant"), []

    def verdicts(members: list[dict]) -> np.ndarray:
        return np.concatenate([verdicts_of(select(members, set=name)) for name in names], axis=1)

    titles = {name: "before" if name == "before" else f"{name}, choosing" for name in greedy}
    _, first, *later = titles
    for name, other in ((first, "before"), *product(later, ("before", first))):
        found.append({"variant": f"{titles[name]} - {titles[other]}", "set": thinking.ALL,
                      "method": "greedy - greedy",
                      **two_way_interval(verdicts(greedy[name]), verdicts(greedy[other]))})
    return found


def forcing_table(rows: list[dict]) -> list[list[str]]:
    """s1's measures of every way to keep to a budget; a dash where there is no slope."""
    table = [["budget", "control (%)", "scaling (points per token)", "never falls up to",
              "performance (%)"]]
    by_seed = [thinking.forcing_summary(own) for own in group_by(rows, "seed").values()]
    for method in by_seed[0]:
        of: dict[str, list] = {key: [found[method][key] for found in by_seed]
                               for key in by_seed[0][method]}
        slopes = [slope for slope in of["scaling"] if slope is not None]
        table.append([method.replace("_", " "), f"{100 * np.mean(of['control']):.0f}",
                      f"{np.mean(slopes):+.1f} ({min(slopes):+.1f} to {max(slopes):+.1f})"
                      if slopes else "–", str(min(of["rises_to"])),
                      f"{100 * np.mean(of['performance']):.1f}"])
    return table


def savings_table(rows: list[dict]) -> list[list[str]]:
    """The fewest tokens near the accuracy of whole thoughts, in percent of theirs, by method."""
    table = [["way", *(f"seed {seed}" for seed in group_by(rows, "seed"))]]
    for method in OTHERS:
        line = [method.replace("_", " ")]
        for own in group_by(rows, "seed").values():
            (whole,) = select(own, method="always", set=thinking.ALL)
            if method.startswith("exit"):     # the same policy on the same problems
                budgets = [row for row in select(own, method="forced") if "budget" in row]
                whole = max(budgets, key=lambda row: row["budget"])
            near = [row["tokens"] for row in select(own, method=method)
                    if row["accuracy"] >= whole["accuracy"] - NEAR]
            line.append(f"{100 * min(near) / whole['tokens']:.0f}%" if near else "none")
        table.append(line)
    return table


def figure_of(rows: list[dict]) -> Figure:
    """Accuracy against tokens of every way to spend them, as on the page of the first variant."""
    return figures_testtime.thinking([{"think_budget": {
        "rows": tagged(first_variant(rows), stage="think_budget")}}])
