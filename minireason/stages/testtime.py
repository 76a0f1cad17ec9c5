"""Test-time compute: what the same policy reaches when it may think N times.

N samples per problem at T = 1; the answer is chosen by majority vote, by the critic's value
(best-of-N), or by both (critic-weighted vote). Coverage, the share of problems with at least one
right sample, needs the verifier and is an oracle bound (Brown 2024, arXiv:2407.21787). Every point
is an unbiased estimate over subsets of the samples; intervals are bootstraps over problems.
"""

from dataclasses import dataclass

import numpy as np

from minireason.core.config import StageConfig, rng, stream_seed
from minireason.critics.value_head import Critic
from minireason.measure.estimates import Pool, chance_coverage, mean_interval
from minireason.measure.evaluate import evaluate, frozen_sets, rows_of
from minireason.measure.samples import sample_records, sharded_records
from minireason.model import checkpoint
from minireason.problems import Problem
from minireason.sampling.sampler import Sampling

METHODS = ("single", "majority", "critic_vote", "critic_best_of_n", "coverage")
OUTCOME = ("outcome_vote", "outcome_best_of_n")   # with a second critic to compare with
PAIRS = (("coverage", "critic_best_of_n"), ("critic_best_of_n", "majority"), ("majority", "single"),
         ("critic_best_of_n", "single"), ("critic_vote", "majority"))
OUTCOME_PAIRS = (("critic_best_of_n", "outcome_best_of_n"), ("critic_vote", "outcome_vote"),
                 ("outcome_vote", "majority"), ("outcome_best_of_n", "majority"))


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Stage 5: accuracy against samples and tokens, on frozen test problems."""

    policy: str                   # folder of the policy
    critic: str                   # folder of its critic
    outcome: str = ""             # folder of a second critic, taught by outcomes alone
    out: str = "runs/testtime"
    levels: tuple[int, ...] = (6, 7)
    problems: int = 500           # frozen test problems per level
    n: int = 64                   # samples per problem, a power of two
    temperature: float = 1.0
    shard: int = 50               # problems between two saved results


def run(cfg: Config) -> dict:
    """Sample, score, estimate; returns result.json's content."""
    log, device = checkpoint.open_stage("testtime", cfg, cfg.out, policy=cfg.policy,
                                        critic=cfg.critic, outcome=cfg.outcome)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.policy, device)
    critics = {"values": checkpoint.load(cfg.critic, device, Critic)[0]}
    if cfg.outcome:
        critics["outcome_values"] = checkpoint.load(cfg.outcome, device, Critic)[0]
    log.start(policy, device)
    log.rewind(0)

    def sampled(problems: list[Problem], purpose: str) -> list[dict]:
        how = Sampling(n=cfg.n, temperature=cfg.temperature,
                       seed=stream_seed(cfg.seed, "testtime", purpose))
        return sample_records(policy, tokenizer, critics, problems, how)

    sets = frozen_sets(cfg.family, "test", cfg.problems, cfg.levels)
    rows = rows_of(evaluate(policy, tokenizer, sets, "cot", Sampling(temperature=0)), "greedy")
    for name, records in sharded_records(log, "samples", sets, cfg.shard, sampled).items():
        found = sample_rows(cfg, records)
        rows += [{"set": name, **row} for row in found + calibration_rows(records)]
        for n in sizes(cfg):
            log.record(n, **{f"eval/{name}/{row['method']}": row["accuracy"] for row in found
                             if row["n"] == n and "tokens" in row})
    return log.finish(rows)


def sizes(cfg: Config) -> list[int]:
    """Numbers of samples that accuracy is measured at: 1, 2, 4, ... n."""
    return [2 ** i for i in range(cfg.n.bit_length())]


def sample_rows(cfg: Config, records: list[dict]) -> list[dict]:
    """Every method at every N with intervals, and the paired differences at the largest N.

    The outcome critic's methods are measured only where one is given.
    """
    about = {"problems": len(records), "temperature": cfg.temperature}
    tokens = float(np.mean([record["tokens"] for record in records]))
    rows, accuracy = [], {}                               # {method: (P,) expected accuracy}
    for n in sizes(cfg):
        for method in METHODS + OUTCOME if cfg.outcome else METHODS:
            field = "outcome_values" if method in OUTCOME else "values"
            accuracy[method] = np.array([
                Pool.of(record, field).accuracy(method, n, rng(cfg.seed, "subsets", i, n))
                for i, record in enumerate(records)])
            rows.append({"method": method, "n": n, "tokens": n * tokens,
                         **mean_interval(accuracy[method]), **about})
        rows.append({"method": "chance", "n": n, "tokens": n * tokens,
                     **mean_interval(1 - (1 - chance_coverage(records)) ** n), **about})
    for a, b in PAIRS + OUTCOME_PAIRS if cfg.outcome else PAIRS:
        difference = mean_interval(accuracy[a], accuracy[b], draws=10_000)
        rows.append({"method": f"{a} - {b}", "n": sizes(cfg)[-1], **difference, **about})
    return rows


def calibration_rows(records: list[dict], bins: int = 10) -> list[dict]:
    """Per bin of the critic's final value: how many samples, mean value, share right."""
    values = np.concatenate([record["values"] for record in records])
    correct = np.concatenate([record["correct"] for record in records])
    index = np.minimum((values * bins).astype(int), bins - 1)
    rows = []
    for b in np.unique(index):
        rows.append({"method": "calibration", "value": float(values[index == b].mean()),
                     "accuracy": float(correct[index == b].mean()),
                     "count": int((index == b).sum())})
    return rows
