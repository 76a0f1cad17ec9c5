"""What the runs of `minireason scale` say, as flat rows.

Every row has "law", and "seed" if it is of one. Accuracies of pretraining and RL are means over
the levels that were trained. FLOPs are those of the stage itself (core/flops.py), per problem at
test time.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minireason.core.files import read_checked, read_json, read_lines
from minireason.measure.estimates import expected_accuracy, pass_at_k, two_way_interval
from minireason.measure.samples import load_pools
from minireason.model.tokenizer import Tokenizer
from minireason.report.runs import level_of, select
from minireason.studies import scaling_search
from minireason.studies.fits import inference_multiple
from minireason.studies.scaling_plans import JUDGES, TUNING_SEED, Plan

RATIOS = (0.1, 1.0, 10.0)         # R, inference tokens / pretraining tokens over a model's life
PAST = 0.8                        # greedy accuracy at level 1 of a model past its transition
METHODS = {"small_vote": "majority", "small_oracle": "coverage", "small_single": "single"}
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
    """The curves of every policy, and how many of each problem's samples are right: by their answer
    ("coverage", "right"), and with every step right, too ("valid coverage", "valid")."""
    rows = []
    for policy, name in ((policy, f"chain-test-k{level}") for policy in ("base", "star", "rl")
                         for level in np.atleast_1d(plan.flags["testtime"]["levels"])):
        tags, votes = {"law": "testtime", "policy": policy, "set": name}, []
        for seed in seeds:
            folder = out / f"testtime-{policy}-s{seed}"
            curves = select(read_lines(folder / "rows.jsonl"), method=SHOWN, set=name)
            rows += [{**tags, "kind": "run", **row} for row in curves]
            own = {**tags, "kind": "run", "seed": seed}
            records = records_in(folder, f"samples-{name}")
            right = np.array([record["correct"] for record in records])                # (P, N)
            valid = right & np.array([record["steps_valid"] for record in records])
            counts, size = valid.sum(axis=1).tolist(), right.shape[1]
            rows += [{**own, "method": "valid coverage", "n": n, "accuracy": float(np.mean(
                [pass_at_k(size, count, n) for count in counts]))}
                for n in (row["n"] for row in select(curves, method="coverage"))]
            rows.append({**own, "method": "pass@1", "n": size, "valid": counts,
                         "right": right.sum(axis=1).tolist()})
            pools = load_pools(folder / "pools.npz", name, 1.0, "correct")
            with np.load(folder / "pools.npz") as arrays:
                votes.append((expected_accuracy(pools, "majority", size, seed, "subsets"),
                              arrays[f"{name} greedy"].astype(float)))
        rows.append({**tags, "kind": "mean", "method": "vote less greedy", "n": size,  # pyright: ignore
                     **two_way_interval(*np.array(votes).swapaxes(0, 1))})
    return rows


def records_in(folder: Path, kind: str) -> list[dict]:
    """The records of a stage's shards, in the order of their problems."""
    shards = sorted(folder.glob(f"{kind}-*.json"),
                    key=lambda path: int(path.stem.rpartition("-")[2]))
    return [record for path in shards for record in read_checked(path)]


# ---- thinking longer or being larger -------------------------------------------------------------

def exchange_rows(out: Path, plan: Plan, seeds: tuple[int, ...]) -> list[dict]:
    """Per pair of models, level and R: what the small one reaches at equal total FLOPs, of every
    seed, and how far its vote lies above the large one's greedy answer, for new seeds and problems.

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
        found = [traded(out / f"exchange-{small}-s{seed}", out / f"exchange-{large}-s{seed}",
                        pair["times"]) for seed in seeds]
        for cells in zip(*found, strict=True):               # one set and R, every seed
            rows += [{**pair, "kind": "run", "seed": seed, **row, "method": method,
                      "accuracy": float(values.mean())}
                     for seed, (row, right) in zip(seeds, cells, strict=True)
                     for method, values in right.items()]
            vote, answer = (np.array([right[method] for _, right in cells])
                            for method in ("small_vote", "large_greedy"))
            rows.append({**pair, "kind": "mean", **cells[0][0], "method": "difference",
                         "problems": vote.shape[1], **two_way_interval(vote, answer)})
    return rows


def traded(small: Path, large: Path, times: float) -> list[tuple[dict, dict[str, np.ndarray]]]:
    """Of two models sampled on the same problems, the large one `times` as large: per set and R
    the samples that the small one may draw, and {method: how often it solves each problem}."""
    found, greedy = [], []
    for folder in (small, large):
        with np.load(folder / "pools.npz") as arrays:
            greedy.append({key.removesuffix(" greedy"): arrays[key].astype(float)
                           for key in arrays if key.endswith(" greedy")})
    for name, answer in greedy[1].items():
        pools = load_pools(small / "pools.npz", name, 1.0, "correct")
        for ratio in RATIOS:
            wanted = int(inference_multiple(times, ratio))
            n = min(wanted, len(pools[0].correct))
            right = {key: np.asarray(expected_accuracy(pools, method, n, 0, "scale vote", name))
                     for key, method in METHODS.items()}
            found.append(({"set": name, "R": ratio, "n": n, "wanted": wanted, "capped": n < wanted},
                          {**right, "small_greedy": greedy[0][name], "large_greedy": answer}))
    return found


# ---- search --------------------------------------------------------------------------------------

def search_rows(out: Path, plan: Plan, seeds: tuple[int, ...]) -> list[dict]:
    """Searches against best-of-N and votes at equal FLOPs, of every judge, by difficulty."""
    def compared(seed: int, records: list[dict]) -> list[scaling_search.Compared]:
        base = out / f"pretrain-{plan.ladder}-{plan.last}-s{seed}"
        return scaling_search.equal_flops(records, Tokenizer.load(base / "tokenizer.json"),
                                          read_json(base / "result.json")["parameters"])

    rows = []
    for judge in JUDGES:
        searched = [records_in(out / f"search-{judge}-s{seed}", "search") for seed in seeds]
        rows += [{"law": "search", "judge": judge, **row} for row in
                 scaling_search.rows_by_difficulty(seeds, searched, compared)]
    return rows


ROWS: dict[str, Callable[[Path, Plan, tuple[int, ...]], list[dict]]] = {
    "pretrain": pretrain_rows, "rl": rl_rows, "testtime": testtime_rows,
    "exchange": exchange_rows, "search": search_rows}
