"""`minireason splitting`: which steps a policy breaks into easier ones, and what that is worth.

Of every policy of finished runs of the family `decomposition`, and of RL again with a price per
token: the share of operations that it splits, by how hard they are, where the way is free; how
often each way is right; and accuracy where it may choose, must not and must split, at equal tokens,
where the cheaper mode votes over more samples (Wang 2022, arXiv:2203.11171). The last level is
longer than anything in the corpus.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from matplotlib.figure import Figure

from minireason.core.config import rng, stream_seed
from minireason.core.errors import UserError
from minireason.measure.estimates import Pool, answer_ids, two_way_interval
from minireason.measure.evaluate import answer_keys, frozen_sets, verdicts_of
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import decomposition
from minireason.report import style, tables
from minireason.report.runs import group_by, select
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.studies import ladders, shared
from minireason.studies.fits import mean_over_runs

MODES = {"": "as it chooses", "once": "never splitting", "split": "always splitting"}
BINS = {2: "2", 3: "3", 4: "4", 5: "5 or more"}      # hardness
KINDS = {"+": "sums", "-": "differences", "*": "products"}
BUDGETS = (1, 4)              # in completions of the mode that writes most


@dataclass(frozen=True)
class Config(shared.Study):
    """What is split before and after every rung, and accuracy beside never and always splitting."""

    runs: tuple[str, ...] = ()    # finished runs of the family, one per seed
    prices: tuple[float, ...] = (0.002,)   # per token, an arm of RL each
    problems: int = 500           # per level, at most
    n: int = 16                   # samples of each, in each mode

    def __post_init__(self):
        if not self.runs and not self.source:
            raise UserError("splitting: give --runs, finished run folders, or --from")


def run(cfg: Config) -> dict:
    """Train and measure what is missing; writes splitting.json, .md and .png into `out`."""
    others = {f"RL, price {price:g}": {"price": price} for price in cfg.prices}
    about = {"problems": cfg.problems, "n": cfg.n}
    return ladders.study_ladders(cfg, "splitting", cfg.runs, decomposition.NAME, others, about,
                                rows_of_policy, text_of, figure_of)


def questions(split: str, n: int) -> list[str]:
    """The first n different questions of each frozen level, without what they prescribe."""
    found = []
    for problems in frozen_sets(decomposition.NAME, split, 10 ** 6).values():
        bare = [problem.prompt.rpartition(":")[2] for problem in problems]
        found += list(dict.fromkeys(bare))[:n]
    return found


def rows_of_policy(about: dict, policy: Transformer, tokenizer: Tokenizer) -> list[dict]:
    """Answers by mode, level and hardest operation; operations by operator, hardness and way.

    A row of the first kind holds of each problem the samples' verdicts, answers and tokens. One of
    the second counts operations that could be split, and those whose result is exact.
    """
    rows, asked = [], questions(about["split"], about["problems"])
    for mode in MODES:
        problems = [decomposition.read(f"{mode}:{bare}".removeprefix(":")) for bare in asked]
        how = Sampling(about["n"], seed=stream_seed(about["seed"], "splitting", mode))
        texts = complete(policy, tokenizer, problems, "cot", how)
        cells, counts = {}, defaultdict(lambda: [0, 0])
        for problem, own, verdicts in zip(problems, texts, verdicts_of(problems, texts),
                                          strict=True):
            operations = map(decomposition.operation_of, decomposition.facts(problem))
            hard = [decomposition.hardness(one) for one in operations
                    if decomposition.pieces_of(one)]
            where = problem.level, min(max(hard, default=2), max(BINS))
            row = cells.setdefault(where, {
                "kind": "answers", "mode": mode, "level": where[0], "hardest": where[1],
                "right": [], "answers": [], "tokens": []})
            row["right"].append("".join(str(int(verdict.correct)) for verdict in verdicts))
            row["answers"].append(answer_ids(answer_keys(problem, own)).tolist())
            row["tokens"].append([len(ids) - 1 for ids in tokenizer.encode_batch(own)])
            for text in own:
                taken, end = decomposition.walk(problem, (decomposition.parse(text) or ((),))[0])
                for number, steps in groupby(taken, key=lambda step: step.number):
                    first, *others = steps
                    if first.way:
                        hard = min(decomposition.hardness(first.operation), max(BINS))
                        count = counts[problem.level, first.operation[1], hard, first.way]
                        count[0] += 1
                        count[1] += number < end.done and all(
                            step.right for step in (first, *others))
        rows += cells.values()
        rows += [{"kind": "operations", "mode": mode, "level": level, "operator": operator,
                  "hardness": hard, "way": way, "count": count, "right_results": right}
                 for (level, operator, hard, way), (count, right) in sorted(counts.items())]
    return rows


# ---- tables and picture, from rows alone ---------------------------------------------------------

def shares_by_seed(rows: list[dict]) -> list[float]:
    """Of the operations that could be split, how many were, in percent, of every seed."""
    return [100 * sum(row["count"] for row in select(own, way="split"))
            / sum(row["count"] for row in own) for own in group_by(rows, "seed").values()]


def share_text(rows: list[dict]) -> str:
    """`83 (80 to 86)`: their mean and range; of a row with a text of its own, that."""
    return rows[0].get("text") or tables.range_text(shares_by_seed(rows))


def rise_rows(rows: list[dict], by: str = "policy") -> list[dict]:
    """How much more is split from a bin to the next harder one: {by, rise, text}."""
    found = []
    for policy, own in group_by(rows, by).items():
        for a, b in pairwise(sorted(group_by(own, "hardness"))):
            lower, upper = (np.array(shares_by_seed(select(own, hardness=hard))) for hard in (a, b))
            if len(lower) == len(upper):
                rise = {key: value / 100 for key, value in mean_over_runs(upper - lower).items()}
                found.append({by: policy, "rise": f"{a} to {b}",
                              "text": tables.points_text(rise)})
    return found


def right_text(rows: list[dict]) -> str:
    """`83`: of these operations, how many end in the exact result, in percent."""
    right, total = (sum(row[field] for row in rows) for field in ("right_results", "count"))
    return f"{100 * right / total:.0f}"


def pools_of(rows: list[dict]) -> list[Pool]:
    """The samples of every problem."""
    found = []
    for row in rows:
        for right, answers, tokens in zip(row["right"], row["answers"], row["tokens"],
                                          strict=True):
            correct = np.array([digit == "1" for digit in right], dtype=float)
            found.append(Pool(correct, np.array(answers), np.ones(len(correct)),
                              np.array(tokens)))
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


def mode_rows(rows: list[dict], field: str) -> list[dict]:
    """Every mode at every budget by a field, and choosing minus the others, over seeds."""
    found = []
    for where, cell in sorted(group_by(select(rows, kind="answers"), field).items()):
        for budget in BUDGETS:
            seeds = [own for _, own in sorted(group_by(cell, "seed").items())]
            by_mode = {mode: [at_budget(own, mode, budget) for own in seeds] for mode in MODES}
            arrays = {mode: np.array([right for right, _ in own]) for mode, own in by_mode.items()}
            for mode, words in MODES.items():
                n = np.mean([samples for _, samples in by_mode[mode]])
                about = {field: where, "budget": budget, "method": words,
                         "problems": arrays[mode].shape[1]}
                found.append({**about, "n": n, **two_way_interval(arrays[mode])})
                if mode:
                    found.append({**about, "method": f"choosing - {words}",
                                  **two_way_interval(arrays[""], arrays[mode])})
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
                 "Rises: mean over seeds [95%, t over seeds]. Harder bins hold more products, the "
                 "last one nothing else: who split products alone would rise over all kinds, too, "
                 "but not within one.")
    ways = [{**row, "what": f"{row['policy']}, {row['way']}"} for row in free]
    parts.append(tables.markdown(tables.pivot(
        ways, "what", "hardness", "result exact (%)", names=bins, text=right_text)))
    bound = [{**row, "asked": MODES[row["mode"]]} for row in select(
        rows, kind="operations", mode=("once", "split"))]
    parts.append(tables.markdown(tables.pivot(
        bound, "policy", "asked", "share split where the prompt says (%)", text=share_text)))
    for policy, own in group_by(rows, "policy").items():
        for field in ("hardest", "level"):
            found = [{**row, "what": f"{row['method']}, {row['budget']} x"}
                     for row in mode_rows(own, field)]
            names = {value: f"{field} {value} (n = {row[0]['problems']})"
                     for value, row in group_by(found, field).items()}
            parts.append(tables.markdown(tables.pivot(found, "what", field, policy, names=names)))
    parts.append("Accuracy (%) with its 95% interval over seeds and problems, and differences in "
                 "points, at 1 and 4 times the tokens of the mode that writes most; a cheaper mode "
                 "votes over as many samples as fit. Hardest: of the problem's operations.")
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
                shares = shares_by_seed(cell)
                bars.append((np.mean(shares), min(shares), max(shares)))
            style.whiskers(axes, [hard for hard, _ in cells], bars, *look, policy)
        style.percent_axis(axes, f"{what} that are split (%)")
    panels[-1].set_xticks(list(BINS), list(BINS.values()))
    panels[-1].set_xlabel("hardness of the operation: digits and carries")
    style.legend_below(figure, panels[-1], 2)
    return figure
