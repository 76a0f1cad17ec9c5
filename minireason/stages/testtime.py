"""Test-time compute: what the same policy reaches when it may think N times.

N samples a problem at T = 1; the answer is chosen by majority vote, by the critic's value
(best-of-N), or by both (critic-weighted vote). Coverage, the share of problems with at least one
right sample, needs the verifier and is an oracle bound (Brown 2024, arXiv:2407.21787). Every point
is an unbiased estimate over subsets of the samples; intervals are bootstraps over problems.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minireason.core import parallel
from minireason.core.config import read_json, resolve_device, rng, stream_seed, write_atomic
from minireason.core.runlog import RunLog
from minireason.critics.value_head import Critic, step_values
from minireason.measure.estimates import best_of_n, vote_at
from minireason.measure.evaluate import (
    answer_of,
    evaluate,
    frozen_sets,
    judge,
    paired_bootstrap,
    pass_at_k,
)
from minireason.model import checkpoint
from minireason.model.transformer import Transformer
from minireason.problems import Problem
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling

METHODS = ("single", "majority", "critic_vote", "critic_best_of_n", "coverage")
FIELDS = {"critic": "values", "outcome": "outcome_values"}   # of a record, by critic
OUTCOME = ("outcome_vote", "outcome_best_of_n")   # with a second critic to compare with


@dataclass(frozen=True)
class Config:
    """Stage 5: accuracy against samples and tokens, on frozen test problems."""

    policy: str                   # folder of the policy
    critic: str                   # folder of its critic
    outcome: str = ""             # folder of a second critic, taught by outcomes alone
    out: str = "runs/testtime"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    levels: tuple[int, ...] = (6, 7)
    problems: int = 500           # frozen test problems a level
    n: int = 64                   # samples a problem, a power of two
    temperature: float = 1.0
    shard: int = 50               # problems between two saved results


def run(cfg: Config) -> dict:
    """Sample, score, estimate; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    folders = {"critic": cfg.critic, **({"outcome": cfg.outcome} if cfg.outcome else {})}
    log = RunLog(cfg.out, "testtime", cfg, {
        name: checkpoint.weights_hash(folder)
        for name, folder in {"policy": cfg.policy, **folders}.items()})
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.policy, device)
    critics = {name: checkpoint.load(folder, device, Critic)[0] for name, folder in folders.items()}
    log.start(policy, device)
    log.rewind(0)
    sets = frozen_sets(cfg.family, "test", cfg.problems, cfg.levels)
    shards = [(name, start) for name in sets for start in range(0, len(sets[name]), cfg.shard)]
    for i in log.steps(0, len(shards)):
        name, start = shards[i]
        path = log.out / f"samples-{name}-{start}.json"
        if not path.exists():
            problems = sets[name][start:start + cfg.shard]
            drawn = draw(cfg, problems, f"{name} {start}", policy, critics, tokenizer)
            if parallel.is_main():
                write_atomic(path, json.dumps(drawn))
            parallel.barrier()
    curves, calibration_bins = {}, {}
    for name in sets:
        records = read_records(log.out, name)
        curves[name] = estimate(cfg, records)
        calibration_bins[name] = calibration(records)
        for n, point in curves[name]["points"].items():
            log.record(int(n), **{f"eval/{name}/{m}": point[m]["accuracy"] for m in methods(cfg)})
    greedy = evaluate(policy, tokenizer, sets, "cot", Sampling(temperature=0))
    return log.finish(seconds=log.seconds(), curves=curves, calibration=calibration_bins,
                      greedy=greedy)


def methods(cfg: Config) -> tuple[str, ...]:
    """What is measured: the outcome critic's methods only where one is given."""
    return METHODS + OUTCOME if cfg.outcome else METHODS


def read_records(folder: Path, name: str) -> list[dict]:
    """All problems' samples of one frozen set, in order."""
    paths = sorted(folder.glob(f"samples-{name}-*.json"),
                   key=lambda path: int(path.stem.rpartition("-")[2]))
    return [record for path in paths for record in read_json(path)]


def draw(cfg: Config, problems: list[Problem], purpose: str, policy,
         critics: dict[str, Transformer], tokenizer) -> list[dict]:
    """Per problem: answers, verdicts, token counts and each critic's values of its N samples."""
    how = Sampling(n=cfg.n, temperature=cfg.temperature,
                   seed=stream_seed(cfg.seed, "testtime", purpose))
    completions = complete(policy, tokenizer, problems, "cot", how)
    verdicts = judge(problems, completions)
    distinct = [(problem, text) for problem, texts in zip(problems, completions, strict=True)
                for text in dict.fromkeys(texts)]                # the critic is deterministic
    value_of = {}
    for name, critic in critics.items():
        values = step_values(critic, tokenizer, [p for p, _ in distinct], [t for _, t in distinct])
        value_of |= {(name, p.key, text): round(v[-1], 6) if v else 0.0
                     for (p, text), v in zip(distinct, values, strict=True)}
    records = []
    for problem, texts, row in zip(problems, completions, verdicts, strict=True):
        counts = [len(ids) - 1 for ids in tokenizer.encode_batch(texts)]   # opener is forced
        records.append({
            "prompt": problem.prompt, "answer": problem.answer, "tokens": counts,
            "answers": [answer_of(problem, text) for text in texts],
            "correct": [int(v.correct) for v in row],
            "steps_valid": [int(v.steps_valid) for v in row],
            **{FIELDS[name]: [value_of[name, problem.key, t] for t in texts] for name in critics},
            "example": texts[0]})
    return records


def estimate(cfg: Config, records: list[dict]) -> dict:
    """Every method at every N with intervals, and the paired differences at the largest N."""
    counts = [2 ** i for i in range(cfg.n.bit_length())]
    table = {n: {method: np.array([per_problem(record, n, method, cfg.seed, i)
                                   for i, record in enumerate(records)])
                 for method in methods(cfg)} for n in counts}
    tokens = float(np.mean([record["tokens"] for record in records]))
    points = {}
    for n in counts:
        points[str(n)] = {"tokens": n * tokens}
        for method in methods(cfg):
            mean, low, high = paired_bootstrap(table[n][method], np.zeros(len(records)), draws=2000)
            points[str(n)][method] = {"accuracy": mean, "low": low, "high": high}
    last = table[counts[-1]]
    pairs = (("coverage", "critic_best_of_n"), ("critic_best_of_n", "majority"),
             ("majority", "single"), ("critic_best_of_n", "single"), ("critic_vote", "majority"))
    if cfg.outcome:
        pairs += (("critic_best_of_n", "outcome_best_of_n"), ("critic_vote", "outcome_vote"),
                  ("outcome_vote", "majority"), ("outcome_best_of_n", "majority"))
    differences = {f"{a} - {b}": dict(zip(("mean", "low", "high"),
                                          paired_bootstrap(last[a], last[b]), strict=True))
                   for a, b in pairs}
    return {"n_problems": len(records), "samples": cfg.n, "temperature": cfg.temperature,
            "tokens_per_sample": tokens, "points": points, "differences": differences}


def per_problem(record: dict, n: int, method: str, seed: int, index: int) -> float:
    """Expected accuracy of a method with n samples on one problem."""
    correct = np.array(record["correct"])
    values = np.array(record[FIELDS["outcome" if method in OUTCOME else "critic"]])
    if method == "single":
        return float(correct.mean())
    if method == "coverage":
        return pass_at_k(len(correct), int(correct.sum()), n)
    if method.endswith("best_of_n"):
        return best_of_n(correct, values, n)
    names = {record["answer"]: 0}
    ids = np.array([-1 if a is None else names.setdefault(a, len(names))
                    for a in record["answers"]])
    weights = values if method != "majority" else np.ones(len(ids))
    return vote_at(ids, weights, 0, n, rng(seed, "subsets", index, n))


def calibration(records: list[dict], bins: int = 10) -> list[dict]:
    """Per bin of the critic's final value: how many samples, mean value, share right."""
    values = np.concatenate([record["values"] for record in records])
    correct = np.concatenate([record["correct"] for record in records])
    index = np.minimum((values * bins).astype(int), bins - 1)
    return [{"n": int((index == b).sum()), "value": float(values[index == b].mean()),
             "accuracy": float(correct[index == b].mean())}
            for b in range(bins) if (index == b).any()]
