"""Methods side by side at equal tokens: curves, difficulty bins and allocation, from records.

A record holds, for one problem, two pools of samples (the first half is what the sampling methods
use, the second measures difficulty, so that a lucky pool does not make its problem look easy) and
one cell a search and budget. A budget of N samples is N times `unit` tokens, for every method.
"""

import numpy as np

from minireason.core.config import rng
from minireason.measure.estimates import best_of_n, vote, vote_at
from minireason.measure.evaluate import paired_bootstrap, pass_at_k
from minireason.search.allocate import (
    Table,
    allocate_to_match,
    difficulty_bins,
    efficiency,
    halves,
    rule_to_match,
    stop_when_decided,
    stop_when_sure,
)
from minireason.search.steps import COMPLETE

SAMPLED = ("single", "majority", "critic_vote", "best_of_n", "coverage")   # coverage: an oracle
THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 2.0)
MARGINS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 99.0)
PRICES = np.geomspace(1e-5, 10, 150)      # accuracy a sample's tokens
BINS = 5


def pool(record: dict, half: int = 0) -> dict[str, np.ndarray]:
    """One half of a record's samples: tokens, values, correct and answer ids (0 right, -1 none)."""
    n = len(record["tokens"]) // 2
    part = slice(half * n, (half + 1) * n)
    names = {record["answer"]: 0}
    ids = [-1 if a is None else names.setdefault(a, len(names)) for a in record["answers"]]
    return {"tokens": np.array(record["tokens"][part]), "values": np.array(record["values"][part]),
            "correct": np.array(record["correct"][part], dtype=float), "ids": np.array(ids[part])}


def ease(records: list[dict], oracle: bool, probe: int = 0) -> np.ndarray:
    """(n,) how easy each problem looks: the pass rate of its second half, or without the
    verifier the mean value of its first `probe` samples."""
    if oracle:
        return np.array([pool(record, 1)["correct"].mean() for record in records])
    return np.array([pool(record)["values"][:probe].mean() for record in records])


def fitting(tokens: np.ndarray, budget: int) -> int:
    """How many leading samples a budget pays for; the one that it would cut is not drawn."""
    return int((tokens.cumsum() <= budget).sum())


def sampled(samples: dict[str, np.ndarray], n: int, method: str,
            generator: np.random.Generator | None = None) -> float:
    """Accuracy of a sampling method with n samples: expected over subsets, or without a generator
    that of the first n."""
    if n == 0:
        return 0.0
    if generator is None:
        samples = {name: values[:n] for name, values in samples.items()}
    correct, values, ids = samples["correct"], samples["values"], samples["ids"]
    if method == "single":
        return float(correct.mean())
    if method == "coverage":
        return pass_at_k(len(correct), int(correct.sum()), n)
    if method == "best_of_n":
        return best_of_n(correct, values, n)
    weights = values if method == "critic_vote" else np.ones(len(ids))
    if generator is None:
        return vote(ids, weights, 0)
    return vote_at(ids, weights, 0, n, generator)


def table_of(records: list[dict], unit: int, budgets: list[int], seed: int | None) -> Table:
    """Every method at every budget: `<method> <N>`; seed None takes leading samples only."""
    names, correct, tokens = [], [], []
    for method in SAMPLED:
        for n in budgets:
            rows = []
            for i, record in enumerate(records):
                samples = pool(record)
                count = fitting(samples["tokens"], n * unit)
                generator = None if seed is None else rng(seed, "subsets", i, n)
                rows.append((sampled(samples, count, method, generator),
                             samples["tokens"][:count].sum()))
            names.append(f"{method} {n}")
            correct.append([c for c, _ in rows])
            tokens.append([t for _, t in rows])
    for name in records[0]["cells"]:
        method, n = name.split()
        for label, field in ((method, "correct"), (f"{method}_vote", "voted")):
            names.append(f"{label} {n}")
            correct.append([record["cells"][name][field] for record in records])
            tokens.append([record["cells"][name]["tokens"] for record in records])
    return Table(tuple(names), np.array(correct, dtype=float), np.array(tokens, dtype=float))


def interval(a: np.ndarray, b: np.ndarray | None = None) -> dict[str, float]:
    """Mean of a, or of a - b, with its 95% bootstrap interval over problems."""
    mean, low, high = paired_bootstrap(a, np.zeros(len(a)) if b is None else b, draws=2000)
    return {"mean": mean, "low": low, "high": high}


def curves(table: Table) -> dict[str, dict[str, dict]]:
    """{method: {N: accuracy with interval, tokens}}."""
    report: dict[str, dict[str, dict]] = {}
    for name, correct, tokens in zip(table.names, table.correct, table.tokens, strict=True):
        method, n = name.split()
        report.setdefault(method, {})[n] = {**interval(correct), "tokens": float(tokens.mean())}
    return report


def against_best_of_n(table: Table, bins: np.ndarray) -> dict[str, dict]:
    """{method at N: difference to best-of-N at equal N, over all problems and in each bin}.

    At every N that a search was run at, for searches and votes.
    """
    row = dict(zip(table.names, table.correct, strict=True))
    searched = {name.split()[1] for name in table.names if name.split()[0] not in SAMPLED}
    report = {}
    for name in table.names:
        method, n = name.split()
        if method in ("single", "best_of_n", "coverage") or n not in searched:
            continue
        other = row[f"best_of_n {n}"]
        report[name] = {"all": interval(row[name], other), "bins": [
            {"n": int((bins == b).sum()), "accuracy": float(row[name][bins == b].mean()),
             "best_of_n": float(other[bins == b].mean()),
             **interval(row[name][bins == b], other[bins == b])} for b in range(bins.max() + 1)]}
    return report


def stopping_rules(records: list[dict], searches: dict[str, list[str]],
                   probe: int) -> dict[str, Table]:
    """{rule: its results at every threshold}.

    Samples until one is valued so; votes until one leads by so much; and for each search: `probe`
    samples, then the search at growing budgets, until something is valued so.
    """
    pools = [pool(record) for record in records]
    stack = {name: np.stack([p[name] for p in pools])                     # (n, A)
             for name in ("correct", "values", "tokens", "ids")}
    runs = {"sample until sure": [stop_when_sure(stack["correct"], stack["values"],
                                                 stack["tokens"], t) for t in THRESHOLDS],
            "vote until decided": [stop_when_decided(stack["ids"], stack["values"],
                                                     stack["tokens"], m) for m in MARGINS]}
    for method, cells in searches.items():
        attempts = [np.concatenate([stack[name][:, :probe], np.array(
            [[record["cells"][cell][field] for cell in cells] for record in records])], axis=1)
            for name, field in (("correct", "correct"), ("values", "value"), ("tokens", "tokens"))]
        runs[f"samples, then {method}"] = [stop_when_sure(*attempts, t) for t in THRESHOLDS]
    return {rule: Table(tuple(f"{rule} {i}" for i in range(len(results))),
                        np.stack([c for c, _ in results]), np.stack([t for _, t in results]))
            for rule, results in runs.items()}


def allocations(records: list[dict], unit: int, budgets: list[int], probe: int,
                seed: int) -> dict[str, dict]:
    """Each way to allocate against best-of-N at the largest budget: factor, accuracy difference.

    `oracle bins` is a bound: it knows each problem's pass rate. Predicted bins pay for the probe.
    """
    table = table_of(records, unit, budgets, seed=None)
    last = table.names.index(f"best_of_n {budgets[-1]}")
    reference = table.correct[last], table.tokens[last]
    kept = [i for i, name in enumerate(table.names) if not name.startswith("coverage")]
    plain = Table(tuple(table.names[i] for i in kept), table.correct[kept], table.tokens[kept])
    generator = rng(seed, "allocation")
    fold = halves(len(records), generator)
    searches: dict[str, list[str]] = {}
    for cell in records[0]["cells"]:
        searches.setdefault(cell.split()[0], []).append(cell)
    rules = stopping_rules(records, searches, probe)
    both = Table(plain.names + sum((t.names for t in rules.values()), ()),
                 np.concatenate([plain.correct, *(t.correct for t in rules.values())]),
                 np.concatenate([plain.tokens, *(t.tokens for t in rules.values())]))
    spent = np.array([pool(record)["tokens"][:probe].sum() for record in records])
    report = {rule: (rule_to_match(t, fold, reference[0]), t) for rule, t in rules.items()}
    for label, candidates in (("bins", plain), ("bins and stopping", both)):
        paid = candidates.with_probe(spent, [not n.startswith(tuple(searches))
                                             for n in candidates.names])
        predicted, known = (difficulty_bins(ease(records, oracle, probe), BINS)
                            for oracle in (False, True))
        for who, bins, t in (("predicted", predicted, paid), ("oracle", known, candidates),
                             ("one", np.zeros_like(known), candidates)):
            report[f"{who} {label}"] = (
                allocate_to_match(t, bins, fold, reference[0], PRICES / unit), t)
    return {name: {**efficiency(reference, allocation, generator),
                   "chosen": [[t.names[s] for s in row] for row in allocation.chosen]}
            for name, (allocation, t) in report.items()}


def summary(records: list[dict], samples: tuple[int, ...], probe: int, seed: int) -> dict:
    """Curves at equal tokens, differences to best-of-N in difficulty bins, and allocations."""
    unit = records[0]["unit"]
    budgets = sorted({*(2 ** i for i in range(samples[-1].bit_length())), *samples})
    table = table_of(records, unit, budgets, seed)
    bins = difficulty_bins(ease(records, oracle=True), BINS)
    return {"n_problems": len(records), "unit": unit, "curves": curves(table),
            "against_best_of_n": against_best_of_n(table, bins),
            "allocation": allocations(records, unit, budgets, probe, seed)}


def shown_tree(records: list[dict]) -> dict:
    """The hardest problem that tree search solved at the smallest budget; {} if there is none."""
    easy = ease(records, oracle=True)
    for i in np.argsort(easy, kind="stable"):
        tree = records[i].get("tree", [])
        if any(node.get("right") and node["state"] == COMPLETE for node in tree):
            return {"prompt": records[i]["prompt"], "answer": records[i]["answer"],
                    "pass_rate": float(easy[i]), "nodes": tree}
    return {}
