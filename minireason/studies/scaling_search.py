"""Searches against samples of equal FLOPs for `minireason scale --laws search`: rows and table."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from minireason.core import flops
from minireason.core.config import rng
from minireason.measure.estimates import two_way_interval
from minireason.model.tokenizer import Tokenizer
from minireason.report import style, tables
from minireason.report.runs import group_by, select
from minireason.search import compare
from minireason.search.allocate import difficulty_bins

AGAINST = {                       # (account of a search's FLOPs, how the samples are used): words
    ("run", "best_of_n"): "best-of-N as run", ("cached", "best_of_n"): "best-of-N if cached",
    ("run", "majority"): "votes as run"}

# what is compared, and for every problem whether the search solved it, how often samples would
Compared = tuple[dict, np.ndarray, np.ndarray]


def equal_flops(records: list[dict], tokenizer: Tokenizer, weights: int) -> list[Compared]:
    """Every search of one policy, and as many samples as cost the same.

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
            elif against == "best_of_n":
                costs = costs + judged
            n = max(1, int((costs <= cost).sum()))
            other = np.array([pool.accuracy(against, n, rng(0, "equal flops", i, n))
                              for i, pool in enumerate(pools)])
            found.append(({"method": method, "n": int(budget), "account": account,
                           "against": against, "samples": n,
                           "capped": bool(n == size and cost >= costs[-1] + drawn)}, mine, other))
    return found


def judged_tokens(records: list[dict], prompt: float, size: int) -> np.ndarray:
    """(size,) tokens that a judge reads of the first 1, 2, ... samples of a problem, the prompt and
    every beginning that some share once: the mean over problems."""
    return prompt + np.mean([np.cumsum(record["unread"][:size]) for record in records], axis=0)


def rows_by_difficulty(seeds: Sequence[int], searched: Sequence[list[dict]],
                       compared: Callable[[int, list[dict]], list[Compared]]) -> list[dict]:
    """A search's accuracy less that of the samples, of each seed and in the mean of all.

    searched: of every seed the records of the same problems. The means are of all problems (bin
    None) and of every fifth, 0 the easiest, by the pass rate of samples that no method uses, mean
    of the seeds; their 95% intervals are for new seeds and problems (estimates.two_way_interval).
    """
    rows = []
    rates = np.mean([[compare.pool_of(record, 1).correct.mean() for record in records]
                     for records in searched], axis=0)                                 # (P,)
    bins = difficulty_bins(rates, compare.BINS)
    for cells in zip(*map(compared, seeds, searched), strict=True):    # one search, every seed
        rows += [{"kind": "run", "seed": seed, **row, "accuracy": float((mine - other).mean()),
                  "search": float(mine.mean()), "sampling": float(other.mean())}
                 for seed, (row, mine, other) in zip(seeds, cells, strict=True)]
        mine, other = (np.array([cell[side] for cell in cells], dtype=float) for side in (1, 2))
        drawn = {"samples": float(np.mean([row["samples"] for row, *_ in cells])),
                 "capped": any(row["capped"] for row, *_ in cells)}
        for which in (None, *np.unique(bins).tolist()):
            own = bins >= 0 if which is None else bins == which
            rows.append({"kind": "mean", **cells[0][0], **drawn, "bin": which,
                         "problems": int(own.sum()), "pass_rate": float(rates[own].mean()),
                         **two_way_interval(mine[:, own], other[:, own])})
    return rows


def flips_table(rows: list[dict]) -> list[list[str]]:
    """Per judge, search and budget how far the search lies above samples of equal FLOPs: in all,
    and where, from the easiest fifth to the hardest: + above, - below, . neither. In bold Snell's
    sign flip, below on easier problems and above on harder ones."""
    table = [["judge", "search", "N", *(f"{what}, {name}" for name in AGAINST.values()
                                        for what in ("samples", "all (points)", "fifths"))]]
    for (judge, method, n), own in group_by(select(rows, kind="mean"), "judge", "method",
                                            "n").items():
        line = [judge, style.SEARCHES[method][0], str(n)]
        for account, against in AGAINST:
            (every,), bins = (select(own, account=account, against=against, bin=which)
                              for which in (None, tuple(range(compare.BINS))))
            marks = "".join("+" if row["low"] > 0 else "-" if row["high"] < 0 else "."
                            for row in bins)
            line += [f"{every['samples']:.0f}" + " (all drawn)" * every["capped"],
                     tables.points_text(every),
                     f"**`{marks}`**" if re.search(r"-.*\+", marks) else f"`{marks}`"]
        table.append(line)
    return table
