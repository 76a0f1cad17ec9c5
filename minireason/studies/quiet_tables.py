"""Variants, tables and pictures of `minireason ablate --stage quiet_star` and `from_nothing`."""

from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from minireason.measure.estimates import two_way_interval
from minireason.report import figures, style, tables
from minireason.report.runs import group_by, level_of, select, tagged
from minireason.report.seeds import verdicts_of

NOTHING = {         # one token after the inner bracket, whose marks start as `=` and `)`
    "after": ")", "elsewhere": False, "marks": ("=", ")"), "lengths": (1,), "true_tokens": 6,
    "samples": 8, "reinforce": 0.5, "replay": 0.25, "min_level": 2, "max_level": 2,
    "lines": 20_000, "steps": 800, "lr": 2e-3, "token_budget": 8192}
VARIANTS = {
    "own thoughts": {},
    "REINFORCE 0": {"reinforce": 0.0},
    "thoughts of the base": {"thoughts": "frozen"},
    "random thoughts": {"thoughts": "random"},
    "pause tokens": {"thoughts": "pause", "samples": 1, "steps": 540},
    "ordinary training": {"thoughts": "none", "steps": 1090}}
FROM_NOTHING = {                     # the best place for a pause token is after `=`
    "own thoughts": NOTHING,
    "REINFORCE 0": NOTHING | {"reinforce": 0.0},
    "thoughts of the base": NOTHING | {"thoughts": "frozen"},
    "pause tokens": NOTHING | {"thoughts": "pause", "after": "=", "marks": (), "samples": 1,
                               "true_tokens": 2, "steps": 3000},
    "ordinary training": NOTHING | {"thoughts": "none", "steps": 4000}}
LOOKS = ((style.BLUE, "o"), (style.SKY, "s"), (style.GREEN, "D"), (style.BROWN, "^"),
         (style.PURPLE, "v"), (style.ORANGE, "P"), (style.GREY, "x"))
ALOUD = ("before", "own thoughts", "ordinary training")     # that are shown without quiet thoughts,
HOW = {"greedy": "thinking aloud", "direct": "answering at once"}      # too, and how they answer


def complete_rows(rows: list[dict], result: dict, _config: object = None) -> None:
    """A verdict per problem and the FLOPs, to the answers; the thoughts shown, as rows."""
    for row in select(rows, method="quiet"):
        row["digits"] = result["quiet_verdicts"][str(row["tokens"])][row["set"]]
        row["flops"] = result["flops"]
    rows += tagged(result["thoughts"], method="thought", set="shown", seed=rows[0]["seed"])


def at_longest(rows: list[dict], method: str = "quiet") -> list[dict]:
    """The rows of a method at each variant's longest thought; then answers without quiet ones."""
    quiet, shown = select(rows, method=method), []
    for own in group_by(quiet, "variant").values():
        shown += select(own, tokens=max(row["tokens"] for row in own))
    if method == "quiet":
        for row in select(rows, method=tuple(HOW), variant=ALOUD,
                          set=tuple(group_by(quiet, "set"))):
            shown.append({**row, "variant": f"{row['variant']}, {HOW[row['method']]}"})
    return shown


def difference_rows(rows: list[dict]) -> list[dict]:
    """The first variant minus each other, paired by seed and problem; last, over all sets.

    Answers at once are left out: their verdicts per problem are not kept.
    """
    rows = [row for row in at_longest(rows) if "digits" in row]
    (first, own), *others = group_by(rows, "variant").items()
    found = []
    for variant, other in others:
        pairs = [(name, verdicts_of(members), verdicts_of(select(other, set=name)))
                 for name, members in group_by(own, "set").items()]
        ours, theirs = (np.concatenate([pair[i] for pair in pairs], axis=1) for i in (1, 2))
        pairs += [("all levels", ours, theirs)] if len(pairs) > 1 else []
        for name, a, b in pairs:
            found.append({"variant": f"{first} - {variant}", "set": name,
                          "method": "quiet - quiet", **two_way_interval(a, b)})
    return found


def text_of(rows: list[dict]) -> str:
    """All tables: answers, differences, right thoughts, thought length, w, and five thoughts."""
    seeds, sizes = list(group_by(rows, "seed")), set(group_by(at_longest(rows), "problems"))
    answers = tables.pivot(at_longest(rows), "variant", "set", "answers right (%)")
    answers[0].append("FLOPs")
    for line in answers[1:]:
        spent = [row["flops"] for row in select(rows, variant=line[0]) if "flops" in row]
        line.append(f"{np.mean(spent):.1e}" if spent else "")
    own = select(rows, variant=first_variant(rows))
    weights = tagged(select(rows, method="weight"), method="percent")
    over = "seeds and problems (two_way_interval)" if len(seeds) > 1 else "problems"
    parts = [
        tables.markdown(answers),
        f"Greedy, the thought after the question as long as it may be, mixed by w; thinking aloud "
        f"or answering at once: what the policy alone writes. Mean over seeds "
        f"{', '.join(map(str, seeds))} [95% over {over}] (range); n = "
        f"{', '.join(map(str, sorted(sizes)))} problems per level and seed. Below, where single "
        "problems or tokens are not kept: [mean of the seeds' intervals over them]. FLOPs: of the "
        "arm's training.",
        tables.markdown(tables.pivot(difference_rows(rows), "variant", "set",
                                     "paired difference (points)")),
        tables.markdown(tables.pivot(at_longest(rows, "sound"), "variant", "set",
                                     "every step of the thought right; of one token: the "
                                     "first step's value (%)")),
        tables.markdown(tables.pivot(select(own, method="quiet"), "set", "tokens",
                                     f"{own[0]['variant']}: tokens per thought at most")),
        tables.markdown(tables.pivot(weights, "variant", "token", "w after a token (%)", 1)),
        "Thoughts of the first seed, w, and the gain for the answer's first token in nats:"]
    shown = []
    for row in select(own, method="thought", seed=seeds[0]):
        steps = "; ".join(f"{step} {mark}" for step, mark in row["steps"])
        shown.append(f"- `{row['line']}` w = {row['weight']:.2f}, gain {row['gain']:+.2f}: "
                     f"`{row['thought']}`" + (f" ({steps})" if steps else ""))
    return "\n\n".join([*parts, "\n".join(shown)]) + "\n"


def arms_figure(rows: list[dict]) -> Figure:
    """Every variant's accuracy by level at its longest thought, and before, thinking aloud."""
    figure, axes = style.canvas(3.8)
    shown = group_by(at_longest(rows), "variant")
    names = [name for name, own in shown.items() if own[0]["method"] == "quiet"]
    names += [name for name in shown if name.startswith("before")]
    for i, (name, look) in enumerate(zip(names, LOOKS, strict=False)):
        sets = group_by(shown[name], "set")
        style.whiskers(axes, [level_of(level) + 0.04 * (i - len(names) / 2) for level in sets],
                       [style.spread(members) for members in sets.values()], *look, name)
    axes.set_xticks(sorted({level_of(row["set"]) for row in at_longest(rows)}))
    return style.finish(figure, axes, "level k (operations)", "answers right (%)", 2)


def seeds_figure(rows: list[dict]) -> Figure:
    """Of one level: every seed's accuracy, variant by variant, with its interval over problems."""
    figure, axes = style.canvas(3.4)
    names = list(group_by(at_longest(rows), "variant"))
    own = list(group_by(at_longest(rows), "seed").items())
    for i, ((seed, members), (color, marker)) in enumerate(zip(own, LOOKS, strict=False)):
        bars = [style.spread(select(members, variant=name)) for name in names]
        places = [place + 0.1 * (i - (len(own) - 1) / 2) for place in range(len(names))]
        style.whiskers(axes, places, bars, color, marker, f"seed {seed}", "none")
    axes.set_xticks(range(len(names)), [fill(name, 12) for name in names])
    return style.finish(figure, axes, "", "answers right (%)", 5)


def thoughts_figure(rows: list[dict]) -> Figure:
    """What the first variant's thoughts are worth, as on its page."""
    own = select(rows, variant=first_variant(rows))
    return figures.quiet_thoughts([{"quiet_star": {"rows": tagged(own, stage="quiet_star")}}])


def first_variant(rows: list[dict]) -> str:
    """The first variant that was trained."""
    return select(rows, method="quiet")[0]["variant"]
