"""What the runs of `minireason scale` say, as flat rows.

Every row has "law" and "seed". Accuracies of pretraining and RL are means over the levels that were
trained. FLOPs are those of the stage itself (core/flops.py), per problem at test time.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minireason.core import flops
from minireason.core.config import rng
from minireason.core.files import read_checked, read_json, read_lines
from minireason.measure.estimates import expected_accuracy, mean_interval
from minireason.measure.samples import load_pools
from minireason.model.tokenizer import Tokenizer
from minireason.report.runs import level_of, select
from minireason.search import compare
from minireason.studies.fits import inference_multiple
from minireason.studies.scaling_plans import JUDGES, TUNING_SEED, Plan

RATIOS = (0.1, 1.0, 10.0)         # R, inference tokens / pretraining tokens over a model's life
PAST = 0.8                        # greedy accuracy at level 1 of a model past its transition
METHODS = {"small_vote": "majority", "small_oracle": "coverage", "small_single": "single"}
AGAINST = {                       # (account of a search's FLOPs, how the samples are used): words
    ("run", "best_of_n"): "best-of-N as run", ("cached", "best_of_n"): "best-of-N if cached",
    ("run", "majority"): "votes as run"}
SHOWN = ("single", "majority", "coverage", "chance", "greedy")


def mean_accuracy(folder: Path, method: str, levels: int) -> float:
    """A policy's accuracy by a method, mean over the test sets of the levels up to `levels`."""
    rows = select(read_lines(folder / "rows.jsonl"), method=method, step=None, round=None)
    return float(np.mean([row["accuracy"] for row in rows if level_of(row["set"]) <= levels]))


# ---- pretraining ---------------------------------------------------------------------------------

def tuned_rate(out: Path, tuned: dict[float, str]) -> float:
    """The learning rate whose tuning run, of {rate: folder below out}, had the lowest loss."""
    losses = {lr: read_json(out / name / "result.json") for lr, name in tuned.items()}
    return min(losses, key=lambda lr: losses[lr]["excess_per_token"])


def held_rates(rows: list[dict], plan: Plan) -> dict[tuple[int, int], float]:
    """{(shape, steps): the learning rate that rows of the pretraining law chose}; {} without."""
    chosen = select(rows, law="pretrain", kind="tuning", chosen=True)
    sizes = sorted({row["parameters"] for row in chosen})          # ascending, as the shapes are
    return {(sizes.index(row["parameters"]), row["steps"]): row["lr"] for row in chosen
            if len(sizes) == len(plan.shapes)}


def pretrain_row(folder: Path) -> dict:
    """What one pretraining run cost and reached, and what its authors do."""
    result, cfg = read_json(folder / "result.json"), read_json(folder / "config.json")["config"]
    row = {"seed": cfg["seed"], "lr": cfg["lr"], "steps": cfg["steps"],
           "parameters": result["parameters"], "flops": result["flops"],
           "tokens": sum(line["train/tokens"] for line in read_lines(folder / "metrics.jsonl")),
           **{name: result[f"{name}_per_token"] for name in ("loss", "entropy", "excess")},
           "entropy_error": result["entropy_error"], "excess_error": result["excess_error"],
           **{name: value for name, value in result.items() if name.endswith("_line")}}
    for method in ("greedy", "sampled", "limit_greedy", "limit_single"):
        row[method] = mean_accuracy(folder, method, cfg["mixture"]["max_level"])
    return row


def pretrain_rows(out: Path, plan: Plan, seeds: tuple[int, ...]) -> list[dict]:
    """One row per model, and one per tuning run, whose seed is no other's."""
    rows = []
    for shape, lengths in enumerate(plan.steps):
        for steps in lengths:
            tuned = plan.tuned(shape, steps)
            chosen = tuned_rate(out, tuned)
            for lr, name in tuned.items():
                found = pretrain_row(out / name)
                rows.append({"law": "pretrain", "kind": "tuning", **found, "chosen": lr == chosen})
            for seed in seeds:
                found = pretrain_row(out / f"pretrain-{shape}-{steps}-s{seed}")
                rows.append({"law": "pretrain", "kind": "run", **found})
    assert {row["seed"] for row in select(rows, kind="tuning")} == {TUNING_SEED}
    return rows


# ---- RL ------------------------------------------------------------------------------------------

def rl_rows(out: Path, plan: Plan, seeds: tuple[int, ...]) -> list[dict]:
    """Greedy and sampled accuracy after every length, and of the policy that all started from."""
    rows = []
    for seed in seeds:
        for steps in (0, *plan.rl):
            folder = out / f"rl-{steps or plan.rl[0]}-s{seed}"
            levels = read_json(folder / "config.json")["config"]["max_level"]
            for method in ("greedy", "sampled"):
                policy = folder if steps else out / f"sft-s{seed}"
                rows.append({"law": "rl", "seed": seed, "steps": steps, "method": method,
                             "flops": read_json(folder / "result.json")["flops"] * (steps > 0),
                             "accuracy": mean_accuracy(policy, method, levels)})
    return rows


# ---- test time -----------------------------------------------------------------------------------

def testtime_rows(out: Path, plan: Plan, seeds: tuple[int, ...]) -> list[dict]:
    """The curves of every policy, and how many of each problem's samples are right."""
    rows = []
    for seed in seeds:
        for policy in ("base", "star", "rl"):
            folder = out / f"testtime-{policy}-s{seed}"
            tags = {"law": "testtime", "policy": policy}
            curves = select(read_lines(folder / "rows.jsonl"), method=SHOWN)
            rows += [{**tags, **row} for row in curves]
            with np.load(folder / "pools.npz") as arrays:
                for name in dict.fromkeys(row["set"] for row in curves):
                    correct = arrays[f"{name} 1 correct"]                        # (P, N)
                    rows.append({**tags, "seed": seed, "set": name, "method": "pass@1",
                                 "n": correct.shape[1],
                                 "right": correct.sum(axis=1).astype(int).tolist()})
    return rows


# ---- thinking longer or being larger -------------------------------------------------------------

def exchange_rows(out: Path, plan: Plan, seeds: tuple[int, ...]) -> list[dict]:
    """Per pair of models, seed, level and R: what the small one reaches at equal total FLOPs.

    It may draw as many samples as cost what the large one's greedy answer costs, its larger
    pretraining included; where that is more than were drawn, `capped` says so. Pairs whose small
    model is not past its transition in every seed are told by one row without a set.
    """
    rows = []
    shapes = [shape for shape, _ in plan.exchange]
    size = {shape: read_json(out / f"exact-{shape}-s{seeds[0]}/result.json")["parameters"]
            for shape in shapes}
    first = {shape: [mean_accuracy(out / f"exact-{shape}-s{seed}", "greedy", 1) for seed in seeds]
             for shape in shapes}
    for small, large in ((a, b) for a in shapes for b in shapes if a < b):
        pair = {"law": "exchange", "small": size[small], "large": size[large],
                "times": size[large] / size[small], "level_1": min(first[small] + first[large])}
        if pair["level_1"] < PAST:
            rows.append({**pair, "seed": seeds[0], "method": "not past"})
            continue
        for seed in seeds:
            folders = [out / f"exchange-{shape}-s{seed}" for shape in (small, large)]
            rows += [{**pair, "seed": seed, **row} for row in traded(*folders, pair["times"])]  # pyright: ignore
    return rows


def traded(small: Path, large: Path, times: float) -> list[dict]:
    """The rows of two models sampled on the same problems, the large one `times` as large."""
    rows = []
    greedy = []
    for folder in (small, large):
        with np.load(folder / "pools.npz") as arrays:
            greedy.append({key.removesuffix(" greedy"): arrays[key].astype(float)
                           for key in arrays if key.endswith(" greedy")})
    for name, right in greedy[1].items():
        pools = load_pools(small / "pools.npz", name, 1.0, "correct")
        for ratio in RATIOS:
            wanted = int(inference_multiple(times, ratio))
            n = min(wanted, len(pools[0].correct))
            row = {"set": name, "R": ratio, "n": n, "wanted": wanted, "capped": n < wanted}
            for key, method in METHODS.items():
                values = expected_accuracy(pools, method, n, 0, "scale vote", name)
                rows.append({**row, "method": key, **mean_interval(values)})
            rows.append({**row, "method": "small_greedy", **mean_interval(greedy[0][name])})
            rows.append({**row, "method": "large_greedy", **mean_interval(right)})
    return rows


# ---- search --------------------------------------------------------------------------------------

def search_rows(out: Path, plan: Plan, seeds: tuple[int, ...]) -> list[dict]:
    """Searches against best-of-N and votes at equal FLOPs, of every judge, by difficulty."""
    rows = []
    for seed in seeds:
        base = out / f"pretrain-{plan.ladder}-{plan.last}-s{seed}"
        tokenizer = Tokenizer.load(base / "tokenizer.json")
        weights = read_json(base / "result.json")["parameters"]
        for judge in JUDGES:
            folder = out / f"search-{judge}-s{seed}"
            shards = sorted(folder.glob("search-*.json"),
                            key=lambda path: int(path.stem.rpartition("-")[2]))
            records = [record for path in shards for record in read_checked(path)]
            rows += [{"law": "search", "seed": seed, "judge": judge, **row}
                     for row in equal_flops_rows(records, tokenizer, weights)]
    return rows


def equal_flops_rows(records: list[dict], tokenizer: Tokenizer, weights: int) -> list[dict]:
    """A search's accuracy less that of as many samples as cost the same; all bins, then each.

    Costs are in tokens that a model of the policy's size reads (2 FLOPs a weight each). Account
    "run": what our code did, whose judge reads equal beginnings of steps and of samples once.
    "cached": as if every drawn token were read once by the policy and once by the judge. Bin 0
    holds the easiest fifth, by the pass rate of samples that no method uses.
    """
    rows, (_, bins) = [], compare.difficulty(records, 1)
    rates = np.array([compare.pool_of(record, 1).correct.mean() for record in records])
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
            row = {"method": method, "n": int(budget), "account": account, "against": against,
                   "samples": n,
                   "capped": bool(n == size and cost >= costs[-1] + drawn)}
            for which in (None, *np.unique(bins).tolist()):
                own = bins >= 0 if which is None else bins == which
                means = {"pass_rate": rates, "search": mine, "sampling": other}
                rows.append({**row, "bin": which, "problems": int(own.sum()),
                             **mean_interval(mine[own], other[own]),
                             **{name: float(each[own].mean()) for name, each in means.items()}})
    return rows


def judged_tokens(records: list[dict], prompt: float, size: int) -> np.ndarray:
    """(size,) tokens that a judge reads of the first 1, 2, ... samples of a problem, the prompt and
    every beginning that some share once: the mean over problems."""
    return prompt + np.mean([np.cumsum(record["unread"][:size]) for record in records], axis=0)


ROWS: dict[str, Callable[[Path, Plan, tuple[int, ...]], list[dict]]] = {
    "pretrain": pretrain_rows, "rl": rl_rows, "testtime": testtime_rows,
    "exchange": exchange_rows, "search": search_rows}
