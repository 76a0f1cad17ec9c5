"""Search at test time: every method at the same token budgets, on frozen test problems.

Samples, beams and trees (search/) all draw from one policy and are judged by one critic; revisions
draw from a self-correcting policy and are judged by the same. The exact verifier only scores the
final answers, marks the tree that is shown, and measures the difficulty of a problem where a
result says "oracle" (Snell 2024, arXiv:2408.03314).
"""

import json
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from minireason.core import flops, parallel
from minireason.core.config import StageConfig, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.core.files import write_atomic
from minireason.critics.judges import JUDGES, judge_of, unread_tokens, whole_values
from minireason.critics.value_head import Critic
from minireason.measure.evaluate import answer_keys, frozen_sets
from minireason.measure.samples import Judge, sample_records, sharded_records
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.complete import prompt_ids
from minireason.sampling.prefixes import remembered
from minireason.sampling.sampler import Sampling
from minireason.search import compare
from minireason.search.beam import BeamConfig, beam_search
from minireason.search.sequential import ReviseSearchConfig, revise_search, standing
from minireason.search.steps import COMPLETE, Node, Stepper, Task, plant, tree_record
from minireason.search.tree import TreeConfig, tree_search

REVISIONS = ("revise", "sequential", "withdraw")   # 4 chains, 1 chain, 4 that keep errors in sight
METHODS = ("beam", "beam_sqrt", "lookahead", "tree", "uct", *REVISIONS)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Accuracy at equal tokens: sampling, beam search, tree search, allocation."""

    policy: str                   # folder of the policy
    critic: str                   # folder of its critic
    reviser: str = ""             # folder of a self-correcting policy, for revisions only
    out: str = "runs/search"
    levels: tuple[int, ...] = (8,)
    problems: int = 200           # frozen test problems per level
    samples: tuple[int, ...] = (4, 16, 64)   # budgets, in samples' tokens
    methods: tuple[str, ...] = ("beam", "lookahead", "tree")
    temperature: float = 1.0
    width: int = 4                # M steps drawn per beam
    tree_width: int = 2           # M steps drawn per visit of a tree search
    c: float = 0.3                # weight of exploration in tree search
    max_step: int = 12            # tokens per step at most
    probe: int = 4                # samples that predict a problem's difficulty
    judge: str = "critic"         # critic | oracle | random: who values prefixes and samples
    noise: float = 0.0            # deviation of the noise on the judge's log-odds, in nats
    pool: int = 0                 # samples of each of a problem's two pools; 0: as budgets need
    shard: int = 50               # problems between two saved results

    def __post_init__(self):
        check_choice("judge", self.judge, JUDGES)
        for method in self.methods:
            check_choice("methods", method, METHODS)
        if not self.samples or list(self.samples) != sorted(set(self.samples)):
            raise UserError(f"--samples {' '.join(map(str, self.samples))}: must ascend")
        if set(self.methods) & set(REVISIONS) and not self.reviser:
            raise UserError(f"--methods {' '.join(self.methods)}: {', '.join(REVISIONS)} need "
                            "--reviser, the folder of a policy that `minireason revise` taught")


def run(cfg: Config) -> dict:
    """Sample, search, compare; returns result.json's content."""
    log, device = checkpoint.open_stage("search", cfg, cfg.out, policy=cfg.policy,
                                        critic=cfg.critic, reviser=cfg.reviser)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.policy, device)
    critic, _ = checkpoint.load(cfg.critic, device, Critic, tokenizer)
    log.start(policy, device)
    log.rewind(0)
    values = judge_of(cfg.judge, critic, tokenizer, FAMILIES[cfg.family], cfg.noise, cfg.seed)
    stepper = reviser = Stepper(policy, tokenizer, values, cfg.temperature, cfg.max_step)
    if cfg.reviser:                       # its critic has never seen a withdrawn step
        reviser = replace(stepper, policy=checkpoint.load(cfg.reviser, device)[0], values=lambda
                          rows: values([standing(tokenizer, row) for row in rows]))
    sets = frozen_sets(cfg.family, cfg.split, cfg.problems, cfg.levels)
    make = partial(search_shard, cfg, stepper, reviser)
    rows, trees = [], {}
    for name, records in sharded_records(log, "search", sets, cfg.shard, make).items():
        found = compare.comparison_rows(records, cfg.samples, cfg.probe, cfg.seed)
        for row in found:
            rows.append({"set": name, **row})
            if "unit" in row:
                log.record(row["n"], **{f"eval/{name}/{row['method']}": row["accuracy"]})
        trees[name] = shown_tree(records)
    if parallel.is_main():
        write_atomic(log.out / "tree.json", json.dumps(trees, indent=1) + "\n")
    return log.finish(rows)


def search_shard(cfg: Config, stepper: Stepper, reviser: Stepper, problems: list[Problem],
                 purpose: str) -> list[dict]:
    """Per problem: two pools of samples, and what every search at every budget chose and cost."""
    unit = unit_of(cfg, stepper, problems[0].level)
    half = cfg.pool or cfg.samples[-1] + cfg.samples[-1] // 8       # more: some end early
    judges: dict[str, Judge] = {
        "values": remembered()(partial(whole_values, stepper.values, stepper.tokenizer)),
        "unread": partial(unread_tokens, stepper.tokenizer)}
    records = sampled_records(cfg, stepper, judges, problems, 2 * half, "search samples",
                              purpose)
    for record in records:
        record |= {"unit": unit, "cells": {}}
        for i, ended in enumerate(record["ended"]):
            if not ended:          # it states no answer: no search would return it
                record["values"][i] = 0.0
    prompts = prompt_ids(stepper.tokenizer, problems, "cot")
    for method in cfg.methods:
        for n in cfg.samples:
            drawer = replace(reviser if method in REVISIONS else stepper,
                             seed=stream_seed(cfg.seed, "search", purpose, method, n))
            before = flops.spent()
            tasks = searched(cfg, method, drawer, prompts, n * unit, unit)
            cost = {"flops": (flops.spent() - before) / len(problems)}      # mean of the shard
            for record, problem, task in zip(records, problems, tasks, strict=True):
                cell = choice_of(problem, task, stepper.tokenizer)
                record["cells"][f"{method} {n}"] = cell | cost
                if n == cfg.samples[0] and method in ("tree", "uct"):
                    record["tree"] = marked_tree(problem, task, stepper.tokenizer)
    return records


def unit_of(cfg: Config, stepper: Stepper, level: int) -> int:
    """Tokens of one sample, rounded up: the mean over validation problems of the level."""
    (problems,) = frozen_sets(cfg.family, "validation", 50, (level,)).values()
    records = sampled_records(cfg, stepper, {}, problems, 4, "search unit", level)
    return math.ceil(np.mean([record["tokens"] for record in records]))


def sampled_records(cfg: Config, stepper: Stepper, judges: dict[str, Judge],
                    problems: list[Problem], n: int, *purpose: object) -> list[dict]:
    """Records of n samples per problem, each as long as the model has room for."""
    longest = max(map(len, prompt_ids(stepper.tokenizer, problems, "cot")))
    how = Sampling(n=n, temperature=cfg.temperature, chunk=stepper.chunk,
                   max_new=stepper.policy.config.max_len - longest,
                   seed=stream_seed(cfg.seed, *purpose))
    return sample_records(stepper.policy, stepper.tokenizer, judges, problems, how)


def searched(cfg: Config, method: str, stepper: Stepper, prompts: list[list[int]],
             budget: int, unit: int) -> list[Task]:
    """Run one method on all prompts, at a budget of so many tokens each."""
    tasks = plant(stepper, prompts, [budget] * len(prompts), unit)
    with remembered():
        if method in ("tree", "uct"):
            shape = TreeConfig(uct=method == "uct", c=cfg.c, width=cfg.tree_width)
            tree_search(stepper, shape, tasks)
        elif method in REVISIONS:
            shape = ReviseSearchConfig(chains=1 if method == "sequential" else 4,
                                       withdraw=method == "withdraw")
            revise_search(stepper, shape, tasks)
        else:
            shape = BeamConfig(width=0 if method == "beam_sqrt" else cfg.width,
                               lookahead=method == "lookahead")
            beam_search(stepper, shape, tasks)
    return tasks


def text_of(node: Node, task: Task, tokenizer: Tokenizer) -> str:
    """What a search has written up to a node, opener included."""
    return tokenizer.decode(node.tokens[len(task.root.tokens) - 1:])


def choice_of(problem: Problem, task: Task, tokenizer: Tokenizer) -> dict:
    """The verdicts on what a search chose by value and by vote, and what it spent."""
    best, verify = task.best(), FAMILIES[problem.family].verify
    keys = answer_keys(problem, [text_of(node, task, tokenizer) for node in task.complete])
    right, voted = (int(verify(problem, text_of(node, task, tokenizer)).correct)
                    for node in (best, task.voted(keys)))
    return {"tokens": task.spent, "correct": right, "voted": voted,
            "candidates": len(task.complete),
            "value": round(best.value, 6) if best.state == COMPLETE else 0.0}


def marked_tree(problem: Problem, task: Task, tokenizer: Tokenizer) -> list[dict]:
    """The search tree with the verifier's mark on every step and answer, put on afterwards."""
    records, family = tree_record(task.root, tokenizer), FAMILIES[problem.family]
    for record, node in zip(records, task.root.subtree(), strict=True):
        text = text_of(node, task, tokenizer)
        if node.state == COMPLETE:
            record["right"] = family.verify(problem, text).correct
        elif node is not task.root:
            steps = text.removeprefix(family.OPENER["cot"]).replace("</think>", ";")
            record["right"] = bool(family.check_steps(
                problem, tuple(steps.removesuffix(";").split(";")))[-1])
    return records


def shown_tree(records: list[dict]) -> dict:
    """The hardest problem that tree search solved at the smallest budget; {} if there is none."""
    rates = np.array([compare.pool_of(record, 1).correct.mean() for record in records])
    for i in np.argsort(rates, kind="stable"):
        tree = records[i].get("tree", [])
        if any(node.get("right") and node["state"] == COMPLETE for node in tree):
            return {"prompt": records[i]["prompt"], "answer": records[i]["answer"],
                    "pass_rate": float(rates[i]), "nodes": tree}
    return {}
