"""Test-time compute: what the same policy reaches when it may think N times.

N samples per problem; the answer is chosen by majority vote, by the critic's value (best-of-N), or
by both (critic-weighted vote). Where a family can test an answer without the verifier (a program on
the examples that it is shown), those that pass all tests vote, or one of them is taken (AlphaCode:
Li 2022, arXiv:2203.07814). Coverage, the share of problems with at least one right sample,
needs the verifier and is an oracle bound (Brown 2024, arXiv:2407.21787). Each method draws at the
temperature that does best on validation problems; the one greedy answer stands beside them all.
Every point is an unbiased estimate over subsets of the samples, intervals are bootstraps over
problems.
"""

from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from minireason.core import flops, parallel
from minireason.core.config import StageConfig, stream_seed
from minireason.core.errors import UserError
from minireason.critics.value_head import Critic, final_values
from minireason.measure import estimates
from minireason.measure.estimates import Pool, chance_coverage, mean_interval
from minireason.measure.evaluate import accuracy_of, frozen_sets, grade, rows_of
from minireason.measure.samples import (
    sample_records,
    save_pools,
    sharded_records,
    values_field,
)
from minireason.model import checkpoint
from minireason.problems import FAMILIES, Problem
from minireason.sampling.sampler import Sampling

METHODS = ("single", "majority", "critic_vote", "critic_best_of_n", "coverage")
OUTCOME = ("outcome_vote", "outcome_best_of_n")   # with a second critic to compare with
PAIRS = (("coverage", "critic_best_of_n"), ("critic_best_of_n", "majority"), ("majority", "single"),
         ("critic_best_of_n", "single"), ("critic_vote", "majority"), ("majority", "greedy"),
         ("critic_vote", "greedy"), ("critic_best_of_n", "greedy"))
OUTCOME_PAIRS = (("critic_best_of_n", "outcome_best_of_n"), ("critic_vote", "outcome_vote"),
                 ("outcome_vote", "majority"), ("outcome_best_of_n", "majority"))
SELF_CHECK = ("self_check_vote", "self_check_best_of_n")    # of families with a `self_check`
SELF_CHECK_PAIRS = (("self_check_vote", "single"), ("self_check_vote", "majority"),
                    ("self_check_vote", "critic_best_of_n"), ("coverage", "self_check_vote"),
                    ("self_check_best_of_n", "single"), ("self_check_vote", "greedy"))


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Stage 5: accuracy against samples, tokens and FLOPs, on frozen test problems."""

    policy: str                   # folder of the policy
    critic: str = ""              # folder of its critic; "": votes and coverage alone
    outcome: str = ""             # folder of a second critic, taught by outcomes alone
    out: str = "runs/testtime"
    levels: tuple[int, ...] = (8,)
    problems: int = 500           # frozen test problems per level
    n: int = 64                   # samples per problem, a power of two
    temperatures: tuple[float, ...] = (0.5, 0.7, 1.0)   # tried; a single sample is drawn at 1
    tuning_problems: int = 100    # frozen validation problems per level to try them on
    tuning_n: int = 16            # samples per problem
    shard: int = 50               # problems between two saved results

    def __post_init__(self):
        if 1.0 not in self.temperatures:
            raise UserError("testtime: --temperatures must hold 1, at which one sample is drawn")


def run(cfg: Config) -> dict:
    """Sample, score, estimate; returns result.json's content."""
    log, device = checkpoint.open_stage("testtime", cfg, cfg.out, policy=cfg.policy,
                                        critic=cfg.critic, outcome=cfg.outcome)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.policy, device)
    judges = {}
    for field, path in (("values", cfg.critic), ("outcome_values", cfg.outcome)):
        if path:
            critic, _ = checkpoint.load(path, device, Critic, tokenizer)
            judges[field] = partial(final_values, critic, tokenizer)
    log.start(policy, device)
    log.rewind(0)

    def records_at(kind: str, sets: dict[str, list[Problem]], n: int,
                   temperature: float) -> dict[str, list[dict]]:
        def sampled(problems: list[Problem], purpose: str) -> list[dict]:
            how = Sampling(n=n, temperature=temperature,
                           seed=stream_seed(cfg.seed, "testtime", purpose))
            return sample_records(policy, tokenizer, judges, problems, how)

        kind += "" if temperature == 1 else f"_t{temperature:g}"
        return sharded_records(log, kind, sets, cfg.shard, sampled)

    sets = frozen_sets(cfg.family, cfg.split, cfg.problems, cfg.levels)
    tuning = frozen_sets(cfg.family, "validation", cfg.tuning_problems, cfg.levels)
    chosen = {name: dict.fromkeys(methods(cfg), 1.0) for name in sets}
    if len(cfg.temperatures) > 1:
        tried = {t: records_at("tuning", tuning, cfg.tuning_n, t) for t in cfg.temperatures}
        for name, other in zip(sets, tuning, strict=True):
            chosen[name] = best_temperatures(cfg, {t: tried[t][other] for t in tried})
    drawn = {}
    for temperature in sorted({1.0}.union(*(found.values() for found in chosen.values()))):
        wanted = {name: problems for name, problems in sets.items()
                  if temperature in (1.0, *chosen[name].values())}
        drawn[temperature] = records_at("samples", wanted, cfg.n, temperature)

    rows, right = [], {}
    greedy, _ = grade(policy, tokenizer, sets, "cot", Sampling(temperature=0))
    for name, verdicts in greedy.items():
        rows += rows_of({name: accuracy_of(verdicts)}, "greedy")
        right[name] = np.array([float(verdict.correct) for verdict in verdicts])
        records = {t: of_sets[name] for t, of_sets in drawn.items() if name in of_sets}
        prompts = tokenizer.encode_batch([record["prompt"] for record in records[1.0]])
        prompt = 2 + np.mean([len(ids) for ids in prompts])         # with <bos> and the opener
        found = sample_rows(cfg, records, chosen[name], policy.n_params, float(prompt), right[name])
        if cfg.critic:
            found += calibration_rows(records[chosen[name]["critic_best_of_n"]])
        if "passed" in records[1.0][0]:
            found += false_pass_rows(records[1.0])
        rows += [{"set": name, **row} for row in found]
        for n in sizes(cfg.n):
            log.record(n, **{f"eval/{name}/{row['method']}": row["accuracy"] for row in found
                             if row.get("n") == n and "tokens" in row})
    if parallel.is_main():
        save_pools(log.out / "pools.npz", drawn, right)
    return log.finish(rows)


def methods(cfg: Config) -> tuple[str, ...]:
    """What is measured: a critic's methods only where it is given, and a family's own tests only
    where it has them."""
    found = METHODS if cfg.critic else ("single", "majority", "coverage")
    own = SELF_CHECK if hasattr(FAMILIES[cfg.family], "self_check") else ()
    return found + (OUTCOME if cfg.outcome else ()) + own


def sizes(n: int) -> list[int]:
    """Numbers of samples that accuracy is measured at: 1, 2, 4, ... n."""
    return [2 ** i for i in range(n.bit_length())]


def expected_accuracy(cfg: Config, records: list[dict], method: str, n: int) -> np.ndarray:
    """(P,) expected accuracy of a method with n samples of each problem."""
    field = values_field(method) if cfg.critic or method in SELF_CHECK else "correct"
    pools = [Pool.of(record, field) for record in records]
    return estimates.expected_accuracy(pools, method, n, cfg.seed, "subsets")


def best_temperatures(cfg: Config, tried: dict[float, list[dict]]) -> dict[str, float]:
    """{method: the temperature at which it does best}, the highest of equals; `single` is 1's."""
    chosen = {"single": 1.0}
    for method in methods(cfg)[1:]:
        scores = {t: expected_accuracy(cfg, records, method, cfg.tuning_n).mean()
                  for t, records in tried.items()}
        chosen[method] = max(scores, key=lambda t: (round(scores[t], 6), t))
    return chosen


def sample_rows(cfg: Config, records: dict[float, list[dict]], chosen: dict[str, float],
                weights: int, prompt: float, greedy: np.ndarray) -> list[dict]:
    """Every method at every N with intervals, and the paired differences at the largest N.

    records: {temperature: one per problem}; chosen: each method's temperature; weights: of policy
    and of critic; prompt: mean tokens of a prompt; greedy (P,): right or not. FLOPs are per
    problem: the prompt is read once, each sample drawn, and, where a critic judges, each read again
    by it, prompt included.
    """
    rows, accuracy = [], {"greedy": greedy}
    for n in sizes(cfg.n):
        for method in methods(cfg):
            own = records[chosen[method]]
            tokens = float(np.mean([record["tokens"] for record in own]))
            accuracy[method] = expected_accuracy(cfg, own, method, n)
            read = prompt + n * tokens
            if method.startswith(("critic", "outcome")):
                read += n * (prompt + tokens)
            rows.append({"method": method, "n": n, "tokens": n * tokens,
                         "flops": flops.READ * weights * read, **mean_interval(accuracy[method]),
                         "problems": len(own), "temperature": chosen[method]})
        drawn = records[chosen["coverage"]]            # what coverage owes to luck alone
        rows.append({"method": "chance", "n": n,
                     **mean_interval(1 - (1 - chance_coverage(drawn)) ** n),
                     "problems": len(drawn)})
    own = methods(cfg)
    for a, b in PAIRS + OUTCOME_PAIRS + SELF_CHECK_PAIRS:
        if {a, b} <= {*own, "greedy"}:
            difference = mean_interval(accuracy[a], accuracy[b], draws=10_000)
            rows.append({"method": f"{a} - {b}", "n": cfg.n, **difference,
                         "problems": len(greedy)})
    return rows


def false_pass_rows(records: list[dict]) -> list[dict]:
    """How often a sample that passes k of its family's own tests is wrong all the same.

    A mean over the problems that have such a sample, each with the share of its own, over every
    choice of the k tests; `count` samples in all, once for each choice.
    """
    rows = []
    passed = [np.array(record["passed"]) for record in records]            # each (N, tests)
    correct = [np.array(record["correct"]) for record in records]
    tests = range(passed[0].shape[1])
    for k in range(1, len(tests) + 1):
        chosen = [np.concatenate([of[own[:, list(some)].all(axis=1)]
                                  for some in combinations(tests, k)])
                  for own, of in zip(passed, correct, strict=True)]
        wrong = np.array([1 - of.mean() for of in chosen if len(of)])
        if len(wrong):
            rows.append({"method": f"passes {k}, wrong", "tests": k, **mean_interval(wrong),
                         "problems": len(wrong), "count": sum(map(len, chosen))})
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
