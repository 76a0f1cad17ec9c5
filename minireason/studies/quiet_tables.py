"""Tables and pictures of `minireason ablate --stage quiet_star`, from its rows alone."""

import numpy as np
from matplotlib.figure import Figure

from minireason.measure.estimates import two_way_interval
from minireason.report import figures, style, tables
from minireason.report.runs import group_by, level_of, select, tagged
from minireason.report.seeds import verdicts_of

LOOKS = ((style.GREY, "x"), (style.BLUE, "o"), (style.SKY, "s"), (style.GREEN, "D"),
         (style.BROWN, "^"), (style.PURPLE, "v"), (style.ORANGE, "P"))


def complete_rows(rows: list[dict], result: dict) -> None:
    """A verdict per problem and the FLOPs, to the answers; the thoughts shown, as rows."""
    for row in select(rows, method="quiet"):
        row["digits"] = result["quiet_verdicts"][str(row["tokens"])][row["set"]]
        row["flops"] = result["flops"]
    rows += tagged(result["thoughts"], method="thought", set="shown", seed=rows[0]["seed"])


def at_longest(rows: list[dict], method: str = "quiet") -> list[dict]:
    """The rows of a method at each variant's longest thought, and before training."""
    quiet, shown = select(rows, method=method), []
    if method == "quiet":
        shown = select(rows, variant="before", set=tuple(group_by(quiet, "set")))
    for own in group_by(quiet, "variant").values():
        shown += select(own, tokens=max(row["tokens"] for row in own))
    return shown


def difference_rows(rows: list[dict]) -> list[dict]:
    """The first variant minus each other, paired by seed and problem; last, over all sets."""
    rows = select(at_longest(rows), method="quiet")
    (first, own), *others = group_by(rows, "variant").items()
    found = []
    for variant, other in others:
        pairs = [(name, verdicts_of(members), verdicts_of(select(other, set=name)))
                 for name, members in group_by(own, "set").items()]
        ours, theirs = (np.concatenate([pair[i] for pair in pairs], axis=1) for i in (1, 2))
        for name, a, b in [*pairs, ("all levels", ours, theirs)]:
            found.append({"variant": f"{first} - {variant}", "set": name,
                          "method": "quiet - quiet", **two_way_interval(a, b)})
    return found


def text_of(rows: list[dict]) -> str:
    """All tables: answers, differences, right thoughts, thought length, w, and five thoughts."""
    seeds, sizes = list(group_by(rows, "seed")), set(group_by(at_longest(rows), "problems"))
    answers = tables.pivot(at_longest(rows), "variant", "set", "answers right (%)")
    spent = {variant: np.mean([row["flops"] for row in own if "flops" in row] or [np.nan])
             for variant, own in group_by(rows, "variant").items()}
    answers[0].append("FLOPs")
    for line in answers[1:]:
        line.append("" if np.isnan(spent[line[0]]) else f"{spent[line[0]]:.1e}")
    own = select(rows, variant=first_variant(rows))
    weights = tagged(select(rows, method="weight"), method="percent")
    over = "seeds and problems (two_way_interval)" if len(seeds) > 1 else "problems"
    parts = [
        tables.markdown(answers),
        f"Greedy, the thought after the question as long as it may be; before: the policy thinks "
        f"aloud. Mean over seeds {', '.join(map(str, seeds))} [95% over {over}] (range); n = "
        f"{', '.join(map(str, sorted(sizes)))} problems per level and seed. FLOPs: of the arm's "
        "training.",
        tables.markdown(tables.pivot(difference_rows(rows), "variant", "set",
                                     "paired difference (points)")),
        tables.markdown(tables.pivot(at_longest(rows, "sound"), "variant", "set",
                                     "every step of the thought right (%)")),
        tables.markdown(tables.pivot(select(own, method="quiet"), "set", "tokens",
                                     f"{own[0]['variant']}: tokens per thought at most")),
        tables.markdown(tables.pivot(weights, "variant", "token", "w after a token (%)", 1)),
        "Thoughts of the first seed after the question, w, and the gain for the answer's first "
        "token in nats:"]
    for row in select(own, method="thought", seed=seeds[0]):
        steps = "; ".join(f"{step} {mark}" for step, mark in row["steps"])
        parts.append(f"- `{row['line']}` w = {row['weight']:.2f}, gain {row['gain']:+.2f}: "
                     f"`{row['thought']}` ({steps})")
    return "\n\n".join(parts).replace(")\n\n- ", ")\n- ") + "\n"


def arms_figure(rows: list[dict]) -> Figure:
    """Every variant's accuracy by level at its longest thought."""
    figure, axes = style.canvas(3.8)
    variants = group_by(at_longest(rows), "variant").items()
    for (variant, own), look in zip(variants, LOOKS, strict=False):
        sets = group_by(own, "set")
        style.whiskers(axes, [level_of(name) for name in sets],
                       [style.spread(members) for members in sets.values()], *look, variant)
    axes.set_xticks(sorted({level_of(row["set"]) for row in at_longest(rows)}))
    return style.finish(figure, axes, "level k (operations)", "answers right (%)", 2)


def thoughts_figure(rows: list[dict]) -> Figure:
    """What the first variant's thoughts are worth, as on its page."""
    own = select(rows, variant=first_variant(rows))
    return figures.quiet_thoughts([{"quiet_star": {"rows": tagged(own, stage="quiet_star")}}])


def first_variant(rows: list[dict]) -> str:
    """The first variant that was trained."""
    return select(rows, method="quiet")[0]["variant"]
