"""Tables and picture of `minireason splitting`, from its rows alone."""

from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from minireason.core.config import rng
from minireason.measure.estimates import Pool, two_way_interval
from minireason.report import style, tables
from minireason.report.runs import group_by, select

MODES = {"": "as it chooses", "once": "never splitting", "split": "always splitting"}
BINS = {2: "2", 3: "3", 4: "4", 5: "5 or more"}      # hardness
KINDS = {"+": "sums", "-": "differences", "*": "products"}
BUDGETS = (1, 4)              # in completions of the mode that writes most
BLOCKS = 20                   # of problems, within which operations are counted together


def shares(rows: list[dict]) -> np.ndarray:
    """(S, BLOCKS) whose mean over blocks is, of every seed, the share of operations that is split.

    What each block of problems adds to that ratio of sums, to first order (the delta method).
    """
    found = []
    for own in group_by(rows, "seed").values():
        split, total = (np.sum([np.zeros(BLOCKS), *(row["count"] for row in members)], axis=0)
                        for members in (select(own, way="split"), own))
        share = split.sum() / total.sum()
        found.append(share + (split - share * total) / total.mean())
    return np.array(found)


def share_text(rows: list[dict]) -> str:
    """`83 (80 to 86)`: their mean and range in percent; of a row with a text of its own, that."""
    return rows[0].get("text") or tables.range_text([*100 * shares(rows).mean(axis=1)])


def rise_rows(rows: list[dict], by: str = "policy") -> list[dict]:
    """How much more is split from a bin to the next harder one: {by, rise, text}."""
    found = []
    for policy, own in group_by(rows, by).items():
        for a, b in pairwise(sorted(group_by(own, "hardness"))):
            lower, upper = (shares(select(own, hardness=hard)) for hard in (a, b))
            if len(lower) == len(upper):
                found.append({by: policy, "rise": f"{a} to {b}",
                              "text": tables.points_text(two_way_interval(upper, lower))})
    return found


def right_text(rows: list[dict]) -> str:
    """`83`: of these operations, how many end in the exact result, in percent."""
    right = sum(row["right_results"] for row in rows)
    return f"{100 * right / sum(sum(row['count']) for row in rows):.0f}"


def pools_of(rows: list[dict]) -> list[Pool]:
    """The samples of every problem, each with the mean tokens of its row."""
    found = []
    for row in rows:
        samples = [*zip(row["right"].split(), row["answers"].split(" "), strict=True)]
        mean = row["tokens"] / sum(len(right) for right, _ in samples)
        for right, answers in samples:
            correct = np.array([digit == "1" for digit in right], dtype=float)
            ids = np.array([ord(letter) - ord("a") for letter in answers])
            found.append(Pool(correct, ids, np.ones(len(ids)), np.full(len(ids), mean)))
    return found


def at_budget(rows: list[dict], mode: str, budget: int) -> tuple[np.ndarray, float]:
    """((P,) accuracy of a mode on each problem of a seed, samples that it votes over).

    budget: tokens, in completions of the mode that writes most; a mode gets as many samples as
    they pay for on average: of 1.9, one in a tenth of the cases and else two.
    """
    tokens = {name: np.mean([pool.tokens.mean() for pool in pools_of(select(rows, mode=name))])
              for name in MODES}
    pools = pools_of(select(rows, mode=mode))
    n = min(float(budget * max(tokens.values()) / tokens[mode]), len(pools[0].correct))
    fewer = int(n + 1e-9)
    more = min(fewer + 1, len(pools[0].correct))

    def voted(k: int) -> np.ndarray:
        return np.array([pool.accuracy("majority" if k > 1 else "single", k, rng(0, "split", i))
                         for i, pool in enumerate(pools)])

    return voted(fewer) + max(0.0, n - fewer) * (voted(more) - voted(fewer)), n


def mode_rows(rows: list[dict]) -> list[dict]:
    """Of a policy, every mode at every budget by the hardest operation, and choosing minus the
    others, over seeds; n: samples that a mode votes over, mean."""
    found = []
    for budget in BUDGETS:
        for hardest, cell in sorted(group_by(select(rows, kind="answers"), "hardest").items()):
            seeds = [own for _, own in sorted(group_by(cell, "seed").items())]
            by_mode = {mode: [at_budget(own, mode, budget) for own in seeds] for mode in MODES}
            arrays = {mode: np.array([right for right, _ in own]) for mode, own in by_mode.items()}
            for mode, words in MODES.items():
                n = np.mean([samples for _, samples in by_mode[mode]])
                about = {"policy": rows[0]["policy"], "hardest": hardest, "budget": budget,
                         "problems": arrays[mode].shape[1]}
                found.append({**about, "method": words, "n": n, **two_way_interval(arrays[mode])})
                if mode:
                    found.append({**about, "method": f"choosing - {words}",
                                  **two_way_interval(arrays[""], arrays[mode])})
    for row in found:
        own = select(found, method=row["method"], budget=row["budget"])
        row["what"] = f"{row['policy']}, {row['method']}, " + (
            f"{np.mean([one['n'] for one in own]):.1f} samples" if "n" in row else
            f"{row['budget']} x")
    return found


def text_of(rows: list[dict]) -> str:
    """All tables: what is split, how each way does, and accuracy by mode at equal tokens."""
    free, parts = select(rows, kind="operations", mode=""), []
    bins: dict[object, str] = {n: BINS[n] for n in BINS if select(free, hardness=n)}
    levels: dict[object, str] = {n: f"level {n}" for n in sorted(group_by(free, "level"))}
    by_operator = [{**row, "what": f"{row['policy']}, {KINDS[row['operator']]}"} for row in free]
    for members, by, field, names, words in (
            (free, "policy", "hardness", bins, "share split (%)"),
            (rise_rows(free), "policy", "rise", None, "rise from bin to bin (points)"),
            (by_operator, "what", "hardness", bins, "share split, by kind (%)"),
            (rise_rows(by_operator, "what"), "what", "rise", None, "rise by kind (points)"),
            (free, "policy", "level", levels, "share split, by level (%)")):
        parts.append(tables.markdown(tables.pivot(members, by, field, words, names=names,
                                                  text=share_text)))
    parts.append("Of the operations that could be split, by their hardness (digits and carries): "
                 "how many samples at T = 1 split where the way is free; mean (range) over seeds. "
                 f"Rises: mean [95% over seeds and {BLOCKS} blocks of problems]. Harder bins "
                 "hold more products, the last one nothing else: who split products alone would "
                 "rise over all kinds, too, but not within one.")
    ways = [{**row, "what": f"{row['policy']}, {row['way']}"} for row in free]
    parts.append(tables.markdown(tables.pivot(
        ways, "what", "hardness", "result exact (%)", names=bins, text=right_text)))
    bound = [{**row, "asked": MODES[row["mode"]]} for row in select(
        rows, kind="operations", mode=("once", "split"))]
    parts.append(tables.markdown(tables.pivot(
        bound, "policy", "asked", "share split where the prompt says (%)", text=share_text)))
    found = [row for own in group_by(rows, "policy").values() for row in mode_rows(own)]
    names = {hardest: f"{BINS[hardest]} (n = {own[0]['problems']})"
             for hardest, own in group_by(found, "hardest").items()}
    for members, words in (([row for row in found if "n" in row], "accuracy (%)"),
                           ([row for row in found if "n" not in row], "difference (points)")):
        parts.append(tables.markdown(tables.pivot(members, "what", "hardest", words, names=names)))
    parts.append("By the hardest operation of a problem [95% over seeds and problems], at 1 and 4 "
                 "times the tokens of the mode that writes most; a cheaper mode votes over as many "
                 "samples as fit, of 1.9 over one in a tenth of the cases and else over two.")
    return "\n\n".join(parts) + "\n"


def figure_of(rows: list[dict]) -> Figure:
    """The share that is split against hardness, a line per policy; of all kinds, of products."""
    figure, panels = style.panels(2, 6.4, sharex=True)
    free = select(rows, kind="operations", mode="")
    for axes, members, what in zip(panels, (free, select(free, operator="*")),
                                   ("operations", "products"), strict=True):
        for (policy, own), look in zip(group_by(members, "policy").items(), style.LOOKS,
                                       strict=False):
            cells, bars = sorted(group_by(own, "hardness").items()), []
            for _, cell in cells:
                found = 100 * shares(cell).mean(axis=1)
                bars.append((found.mean(), found.min(), found.max()))
            style.whiskers(axes, [hard for hard, _ in cells], bars, *look, policy)
        style.percent_axis(axes, f"{what} that are split (%)")
    panels[-1].set_xticks(list(BINS), list(BINS.values()))
    panels[-1].set_xlabel("hardness of the operation: digits and carries")
    style.legend_below(figure, panels[-1], 2)
    return figure
