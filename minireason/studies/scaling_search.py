"""Searches against samples of equal FLOPs for `minireason scale --laws search`."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from minireason.core import flops
from minireason.measure.estimates import expected_accuracy, two_way_interval
from minireason.model.tokenizer import Tokenizer
from minireason.report import style, tables
from minireason.report.figures import along
from minireason.report.runs import group_by, select
from minireason.search import compare
from minireason.search.allocate import difficulty_bins

AGAINST = {                       # (account of a search's FLOPs, how the samples are used): words
    ("run", "majority"): "votes", ("run", "critic_vote"): "weighted votes",
    ("run", "best_of_n"): "best-of-N", ("cached", "best_of_n"): "best-of-N, if cached"}
SAMPLES = (1, 4, 16, 64, 256)     # N of the best of N samples, by every judge; the last: all

# what is compared, and for every problem whether the search solved it, how often samples would
Compared = tuple[dict, np.ndarray, np.ndarray]


def equal_flops(records: list[dict], tokenizer: Tokenizer, weights: int) -> list[Compared]:
    """Every search of one policy, and as many samples as cost the same; of n and a fraction more,
    the accuracy of n and n + 1 in these shares.

    Costs are in tokens that a model of the policy's size reads (2 FLOPs a weight each). Account
    "run": what our code did, whose judge reads equal beginnings of steps and of samples once.
    "cached": as if every drawn token were read once by the policy and once by the judge.
    """
    found = []
    prompt = 2 + float(np.mean([len(ids) for ids in
                                tokenizer.encode_batch([record["prompt"] for record in records])]))
    pools = [compare.pool_of(record) for record in records]
    drawn = np.mean([pool.tokens.mean() for pool in pools])           # tokens of a sample
    size = len(pools[0].correct)
    numbers, judged = np.arange(1, size + 1), judged_tokens(records, prompt, size)
    for cell in records[0]["cells"]:
        method, budget = cell.split()
        mine, spent, run = (compare.cells_of(records, [cell], field)[:, 0]
                            for field in ("correct", "tokens", "flops"))
        for account, against in AGAINST:
            cost = run.mean() / (flops.READ * weights)
            costs = prompt + numbers * drawn                     # of votes, without a judge
            if account == "cached":
                cost, costs = 2 * (prompt + spent.mean()), 2 * costs
            elif against != "majority":
                costs = costs + judged
            paid = float(np.interp(cost, costs, numbers))          # 1 at least, all at most
            n = min(int(paid), size - 1)
            few, more = (expected_accuracy(pools, against, k, 0, "equal flops")
                         for k in (n, n + 1))
            found.append(({"method": method, "n": int(budget), "account": account,
                           "against": against, "samples": paid,
                           "capped": bool(cost >= costs[-1] + drawn)},
                          mine, few + (paid - n) * (more - few)))
    return found


def judged_tokens(records: list[dict], prompt: float, size: int) -> np.ndarray:
    """(size,) tokens that a judge reads of the first 1, 2, ... samples of a problem, the prompt and
    every beginning that some share once: the mean over problems."""
    return prompt + np.mean([np.cumsum(record["unread"][:size]) for record in records], axis=0)


def rows_by_difficulty(seeds: Sequence[int], searched: Sequence[list[dict]],
                       compared: Callable[[int, list[dict]], list[Compared]]) -> list[dict]:
    """A search's accuracy less that of the samples, of each seed and in the mean of all; and that
    of the best of n samples, with how far the best of all lies above it.

    searched: of every seed the records of the same problems. The means are of all problems (bin
    None) and of every fifth, 0 the easiest, by the pass rate of samples that no method uses, mean
    of the seeds; their 95% intervals are for new seeds and problems (estimates.two_way_interval).
    """
    rates = np.mean([[compare.pool_of(record, 1).correct.mean() for record in records]
                     for records in searched], axis=0)                                 # (P,)
    bins = difficulty_bins(rates, compare.BINS)

    def means(row: dict, mine: np.ndarray, other: np.ndarray) -> list[dict]:       # both (S, P)
        rows = []
        for which in (None, *np.unique(bins).tolist()):
            own = bins >= 0 if which is None else bins == which
            rows.append({"kind": "mean", **row, "bin": which, "problems": int(own.sum()),
                         "pass_rate": float(rates[own].mean()),
                         **two_way_interval(mine[:, own], other[:, own])})
        return rows

    rows = []
    for cells in zip(*map(compared, seeds, searched), strict=True):    # one search, every seed
        rows += [{"kind": "run", "seed": seed, **row, "accuracy": float((mine - other).mean()),
                  "search": float(mine.mean()), "sampling": float(other.mean())}
                 for seed, (row, mine, other) in zip(seeds, cells, strict=True)]
        mine, other = (np.array([cell[side] for cell in cells], dtype=float) for side in (1, 2))
        rows += means({**cells[0][0], "samples": float(np.mean([row["samples"]
                                                                for row, *_ in cells])),
                       "capped": any(row["capped"] for row, *_ in cells)}, mine, other)
    pools = [[compare.pool_of(record) for record in records] for records in searched]
    size = min(len(pool.correct) for own in pools for pool in own)
    best = {n: np.array([expected_accuracy(own, "best_of_n", n, 0, "best of n") for own in pools])
            for n in (*(n for n in SAMPLES if n < size), size)}
    for n, right in best.items():
        rows += [{"kind": "run", "seed": seed, "method": "samples", "n": n,
                  "accuracy": float(own.mean())} for seed, own in zip(seeds, right, strict=True)]
        if n != size:                                # what the judge makes of all of them instead
            rows += means({"method": "samples", "n": n, "samples": size}, best[size], right)
    return rows


def flips_table(rows: list[dict]) -> list[list[str]]:
    """Per judge, search and budget how far the search lies above samples of equal FLOPs, in points
    (and how many these are), and where: by fifths of difficulty."""
    table = [["judge", "search", "N", *(f"{what} {name}" for name in AGAINST.values()
                                        for what in ("less", "fifths,"))]]
    searches = [row for row in select(rows, kind="mean") if row["method"] != "samples"]
    for (judge, method, n), own in group_by(searches, "judge", "method", "n").items():
        line = [judge, style.SEARCHES[method][0], str(n)]
        for account, against in AGAINST:
            (every,), bins = (select(own, account=account, against=against, bin=which)
                              for which in (None, tuple(range(compare.BINS))))
            drawn = f"{every['samples']:.1f}" + ", all drawn" * every["capped"]
            line += [f"{tables.points_text(every)} ({drawn})", marks_text(bins)]
        table.append(line)
    return table


def samples_table(rows: list[dict]) -> list[list[str]]:
    """Per judge the accuracy of the best of N samples, and how far that of all lies above 64."""
    rows = select(rows, method="samples")
    sizes = list(group_by(select(rows, kind="run"), "n"))
    before = max(n for n in sizes[:-1] if n <= 64)
    table = [["judge of samples", *(f"best of {n}" for n in sizes),
              f"{sizes[-1]} less {before} (points)", "fifths"]]
    for judge, own in group_by(rows, "judge").items():
        (every,), bins = (select(own, kind="mean", n=before, bin=which)
                          for which in (None, tuple(range(compare.BINS))))
        table.append([judge, *(tables.range_text([100 * row["accuracy"] for row in same])
                               for same in group_by(select(own, kind="run"), "n").values()),
                      tables.points_text(every), marks_text(bins)])
    return table


def marks_text(bins: list[dict]) -> str:
    """`-..+.`: fifths from the easiest to the hardest, in bold where the sign flips as Snell's."""
    marks = "".join("+" if row["low"] > 0 else "-" if row["high"] < 0 else "." for row in bins)
    return f"**`{marks}`**" if re.search(r"-.*\+", marks) else f"`{marks}`"


# ---- figures -------------------------------------------------------------------------------------

def search_gains(rows: list[dict]) -> Figure:
    """A search less samples at equal FLOPs, by difficulty and budget, a panel per judge.

    Budgets that cost more than all samples that were drawn are left out.
    """
    judges = group_by([row for row in rows if not row["capped"]], "judge")
    figure, panels = style.panels(len(judges), 1.0 + 1.9 * len(judges), sharex=True)
    for axes, (judge, own) in zip(panels, judges.items(), strict=True):
        for j, (look, (n, same)) in enumerate(zip(style.LOOKS, group_by(own, "n").items(),
                                                  strict=False)):
            bins = [row for row in same if row["bin"] is not None]
            bars = [[100 * row[key] for key in ("accuracy", "low", "high")] for row in bins]
            style.whiskers(axes, [row["bin"] + 1 + 0.12 * (j - 1) for row in bins], bars, *look,
                           f"N = {n}", "none")
        axes.axhline(0, color=style.GREY, linewidth=0.8)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -5), max(high, 5))
        axes.set_ylabel(f"{judge} judge\n(points)")
    other = AGAINST["run", rows[0]["against"]]
    panels[0].set_title(f"{style.SEARCHES[rows[0]['method']][0]} less {other}, equal FLOPs",
                        fontsize=9)
    panels[-1].set_xlabel("difficulty, fifths by pass@1 (1 the easiest)")
    style.legend_below(figure, panels[0], 4)
    return figure


def best_of_samples(rows: list[dict]) -> Figure:
    """Best-of-N against N, a line per judge: where a judge's errors are what more samples find."""
    figure, axes = style.canvas(3.2)
    for look, (judge, own) in zip(style.LOOKS, group_by(rows, "judge").items(), strict=False):
        n, spreads = along(own, "n")
        style.whiskers(axes, n, spreads, *look, f"{judge} judge")
    axes.set_xscale("log", base=2)
    return style.finish(figure, axes, "N samples, of which the judge's best", columns=4)
