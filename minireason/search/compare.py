"""Methods side by side at equal tokens: curves, difficulty bins and allocation, from records.

A record holds, for one problem, two pools of samples (the first half is what the sampling methods
use, the second measures difficulty, so that a lucky pool does not make its problem look easy) and
one cell per search and budget. A budget of N samples is N times `unit` tokens, for every method.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from minireason.core.config import rng
from minireason.measure.estimates import Pool, chance_coverage, mean_interval
from minireason.search import allocate
from minireason.search.allocate import Strategy

SAMPLED = ("single", "majority", "critic_vote", "best_of_n", "coverage")   # coverage: an oracle
THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 2.0)
MARGINS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 99.0)
PRICES = np.geomspace(1e-5, 10, 150)      # accuracy per sample's tokens
BINS = 5


def pool_of(record: dict, half: int = 0) -> Pool:
    """One half of a record's samples."""
    n = len(record["tokens"]) // 2
    return Pool.of(record)[half * n:(half + 1) * n]


def difficulty(records: list[dict], probe: int) -> tuple[np.ndarray, np.ndarray]:
    """(P,) bins of difficulty, 0 the easiest: as the mean value of `probe` samples predicts them,
    and as an oracle knows them, by the pass rate of the second half."""
    values = np.array([pool_of(record).values[:probe].mean() for record in records])
    rates = np.array([pool_of(record, 1).correct.mean() for record in records])
    return allocate.difficulty_bins(values, BINS), allocate.difficulty_bins(rates, BINS)


def cells_of(records: list[dict], names: list[str], field: str) -> np.ndarray:
    """(P, names) one field of the named cells of every problem."""
    return np.array([[record["cells"][name][field] for name in names] for record in records])


def strategies_of(records: list[dict], unit: int, budgets: list[int], seed: int,
                  leading: bool = False) -> list[Strategy]:
    """Every method at every budget.

    A sampling method draws what the budget pays for, not the sample that would be cut. Its accuracy
    is the expected one over subsets of the pool of that size, or (leading) that of the first ones.
    """
    pools, found = [pool_of(record) for record in records], []
    for method in SAMPLED:
        for n in budgets:
            correct, tokens = np.zeros((2, len(records)))
            for i, pool in enumerate(pools):
                paid = int((pool.tokens.cumsum() <= n * unit).sum())
                among = pool[:paid] if leading else pool
                if paid:
                    correct[i] = among.accuracy(method, paid, rng(seed, "subsets", i, n))
                    tokens[i] = pool.tokens[:paid].sum()
            found.append(Strategy(method, n, correct, tokens))
    for cell in records[0]["cells"]:
        method, n = cell.split()
        correct, voted, tokens = (cells_of(records, [cell], field)[:, 0]
                                  for field in ("correct", "voted", "tokens"))
        found += [Strategy(method, int(n), correct, tokens),
                  Strategy(f"{method}_vote", int(n), voted, tokens)]
    return found


def curve_rows(strategies: list[Strategy], unit: int) -> list[dict]:
    """Accuracy and tokens of every method at every budget, method by method."""
    rows, methods = [], list(dict.fromkeys(s.method for s in strategies))
    for s in sorted(strategies, key=lambda s: methods.index(s.method)):
        rows.append({"method": s.method, "n": s.n, "tokens": float(s.tokens.mean()), "unit": unit,
                     **mean_interval(s.correct), "problems": len(s.correct)})
    return rows


def difference_rows(strategies: list[Strategy], bins: np.ndarray) -> list[dict]:
    """Searches and votes against best-of-N at equal N, over all problems and in each bin.

    At every N that a search was run at.
    """
    best = {s.n: s.correct for s in strategies if s.method == "best_of_n"}
    searched = {s.n for s in strategies if s.method not in SAMPLED}
    rows = []
    for s in strategies:
        if s.method in ("single", "best_of_n", "coverage") or s.n not in searched:
            continue
        row = {"method": f"{s.method} - best_of_n", "n": s.n}
        rows.append({**row, **mean_interval(s.correct, best[s.n]), "problems": len(bins)})
        for b in np.unique(bins).tolist():        # few problems leave bins empty
            mine, other = s.correct[bins == b], best[s.n][bins == b]
            rows.append({**row, "bin": b, **mean_interval(mine, other), "problems": len(mine),
                         "method_accuracy": float(mine.mean()),
                         "best_of_n_accuracy": float(other.mean())})
    return rows


def stopping_rules(records: list[dict], searches: dict[str, list[str]],
                   probe: int) -> dict[str, list[Strategy]]:
    """{rule: its results at every threshold}.

    Samples until one is valued so; votes until one leads by so much; and for each search: `probe`
    samples, then the search at growing budgets, until something is valued so.
    """
    pools = [pool_of(record) for record in records]
    correct, values, answers, tokens = (
        np.stack([getattr(pool, field) for pool in pools])
        for field in ("correct", "values", "answers", "tokens"))          # each (P, N)
    rules: dict[str, list[Strategy]] = {}

    def add(rule: str, stop: Callable, limits: tuple[float, ...], *attempts: np.ndarray) -> None:
        rules[rule] = [Strategy(rule, i, *stop(*attempts, t)) for i, t in enumerate(limits)]

    add("sample until sure", allocate.stop_when_sure, THRESHOLDS, correct, values, tokens)
    add("vote until decided", allocate.stop_when_decided, MARGINS, answers, correct, values,
        tokens)
    for method, cells in searches.items():
        attempts = []                                                     # each (P, probe + cells)
        for samples, field in ((correct, "correct"), (values, "value"), (tokens, "tokens")):
            attempts.append(np.hstack([samples[:, :probe], cells_of(records, cells, field)]))
        add(f"samples, then {method}", allocate.stop_when_sure, THRESHOLDS, *attempts)
    return rules


def allocation_rows(records: list[dict], unit: int, budgets: list[int], probe: int,
                    seed: int) -> list[dict]:
    """Each way to allocate against best-of-N at the largest budget: factor, accuracy difference.

    `oracle bins` is a bound: it knows each problem's pass rate. Predicted bins pay for the probe.
    """
    plain = [s for s in strategies_of(records, unit, budgets, seed, leading=True)
             if s.method != "coverage"]
    (reference,) = [s for s in plain if (s.method, s.n) == ("best_of_n", budgets[-1])]
    generator = rng(seed, "allocation")
    fold = allocate.halves(len(records), generator)
    searches: dict[str, list[str]] = {}
    for cell in records[0]["cells"]:
        searches.setdefault(cell.split()[0], []).append(cell)
    found, both = {}, list(plain)
    for rule, limits in stopping_rules(records, searches, probe).items():
        found[rule] = allocate.rule_to_match(limits, fold, reference.correct)
        both += limits
    predicted, known = difficulty(records, probe)
    for label, free in (("bins", plain), ("bins and stopping", both)):
        paid = after_probe(free, records, probe, tuple(searches))
        for who, bins, among in (("predicted", predicted, paid), ("oracle", known, free),
                                 ("one", np.zeros_like(known), free)):
            found[f"{who} {label}"] = allocate.allocate(among, bins, fold, PRICES / unit,
                                                        reference.correct)
    return [{"method": f"allocation: {name}",
             **allocate.efficiency(reference, choices, generator),
             "chosen": choices.chosen, "problems": len(records)}
            for name, choices in found.items()]


def after_probe(strategies: list[Strategy], records: list[dict], probe: int,
                searches: tuple[str, ...]) -> list[Strategy]:
    """The strategies when `probe` samples were drawn first: searches cannot use those."""
    spent = np.array([pool_of(record).tokens[:probe].sum() for record in records])
    paid = []
    for s in strategies:
        anew = s.method.startswith(searches)
        paid.append(replace(s, tokens=s.tokens + spent if anew else np.maximum(s.tokens, spent)))
    return paid


def comparison_rows(records: list[dict], samples: tuple[int, ...], probe: int,
                    seed: int) -> list[dict]:
    """Curves at equal tokens, differences to best-of-N in difficulty bins, and allocations."""
    unit = records[0]["unit"]
    budgets = sorted({*(2 ** i for i in range(samples[-1].bit_length())), *samples})
    strategies = strategies_of(records, unit, budgets, seed)
    _, bins = difficulty(records, probe)
    drawn = chance_coverage(records)
    lucky = [Strategy("chance", n, 1 - (1 - drawn) ** n, np.full(len(records), n * unit))
             for n in budgets]
    return [*curve_rows(strategies + lucky, unit), *difference_rows(strategies, bins),
            *allocation_rows(records, unit, budgets, probe, seed)]
