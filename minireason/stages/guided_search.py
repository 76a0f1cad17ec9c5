"""Search at test time: every method at the same token budgets, on frozen test problems.

Samples, beams and trees (search/) all draw from one policy and are judged by one critic; revisions
draw from a self-correcting policy and are judged by the same. The exact verifier only scores the
final answers, marks the tree that is shown, and measures the difficulty of a problem where a
result says "oracle" (Snell 2024, arXiv:2408.03314).
"""

import json
import math
from dataclasses import dataclass, replace

import numpy as np

from minireason.core import parallel
from minireason.core.config import UserError, read_json, resolve_device, stream_seed, write_atomic
from minireason.core.runlog import RunLog
from minireason.critics.value_head import Critic, prefix_values, rollout_ids
from minireason.measure.evaluate import answer_of, frozen_sets, judge
from minireason.model import checkpoint
from minireason.problems import FAMILIES, Problem
from minireason.sampling.complete import prompt_ids, sample
from minireason.sampling.sampler import Sampling
from minireason.search import compare
from minireason.search.beam import BeamConfig, beam_search
from minireason.search.sequential import ReviseSearchConfig, revise_search, standing
from minireason.search.steps import COMPLETE, Outcome, Stepper, tree_record
from minireason.search.tree import TreeConfig, tree_search

REVISIONS = ("revise", "sequential", "withdraw")   # 4 chains, 1 chain, 4 that keep errors in sight
METHODS = ("beam", "beam_sqrt", "lookahead", "tree", "uct", *REVISIONS)


@dataclass(frozen=True)
class Config:
    """Accuracy at equal tokens: sampling, beam search, tree search, allocation."""

    policy: str                   # folder of the policy
    critic: str                   # folder of its critic
    reviser: str = ""             # folder of a self-correcting policy, for revisions only
    out: str = "runs/search"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    levels: tuple[int, ...] = (8,)
    problems: int = 200           # frozen test problems a level
    samples: tuple[int, ...] = (4, 16, 64)   # budgets, in samples' tokens
    methods: tuple[str, ...] = ("beam", "lookahead", "tree")
    temperature: float = 1.0
    width: int = 4                # M steps drawn after a beam
    tree_width: int = 2           # M steps drawn at a visit of a tree search
    c: float = 0.3                # weight of exploration in tree search
    max_step: int = 12            # tokens a step at most
    probe: int = 4                # samples that predict a problem's difficulty
    shard: int = 50               # problems between two saved results

    def __post_init__(self):
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise UserError(f"--methods {' '.join(unknown)}: must be among {', '.join(METHODS)}")
        if not self.samples or list(self.samples) != sorted(set(self.samples)):
            raise UserError(f"--samples {' '.join(map(str, self.samples))}: must ascend")
        if set(self.methods) & set(REVISIONS) and not self.reviser:
            raise UserError(f"--methods {' '.join(self.methods)}: {', '.join(REVISIONS)} need "
                            "--reviser, the folder of a policy that `minireason revise` taught")


def run(cfg: Config) -> dict:
    """Sample, search, compare; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    folders = [name for name in ("policy", "critic", "reviser") if getattr(cfg, name)]
    log = RunLog(cfg.out, "search", cfg, {name: checkpoint.weights_hash(getattr(cfg, name))
                                          for name in folders})
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.policy, device)
    critic, _ = checkpoint.load(cfg.critic, device, Critic)
    log.start(policy, device)
    log.rewind(0)
    stepper = Stepper(policy, tokenizer, lambda rows: prefix_values(critic, tokenizer, rows),
                      cfg.temperature, cfg.max_step)
    reviser = stepper
    if cfg.reviser:                       # its critic has never seen a withdrawn step
        reviser = replace(stepper, policy=checkpoint.load(cfg.reviser, device)[0], values=lambda
                          rows: stepper.values([standing(tokenizer, row) for row in rows]))
    sets = frozen_sets(cfg.family, "test", cfg.problems, cfg.levels)
    shards = parallel.share([(name, start) for name in sets
                             for start in range(0, len(sets[name]), cfg.shard)])
    for i in log.steps(0, len(shards)):
        name, start = shards[i]
        path = log.out / f"search-{name}-{start}.json"
        if not path.exists():
            level = cfg.levels[list(sets).index(name)]
            records = search_shard(cfg, stepper, sets[name][start:start + cfg.shard],
                                   f"{name} {start}", unit_of(cfg, stepper, level), reviser)
            write_atomic(path, json.dumps(records))
    parallel.barrier()
    report, trees = {}, {}
    for name in sets:
        records = [record for start in range(0, len(sets[name]), cfg.shard)
                   for record in read_json(log.out / f"search-{name}-{start}.json")]
        report[name] = compare.summary(records, cfg.samples, cfg.probe, cfg.seed)
        trees[name] = compare.shown_tree(records)
        for method, points in report[name]["curves"].items():
            for n, point in points.items():
                log.record(int(n), **{f"eval/{name}/{method}": point["mean"]})
    if parallel.is_main():
        write_atomic(log.out / "tree.json", json.dumps(trees, indent=1) + "\n")
    return log.finish(seconds=log.seconds(), sets=report)


def unit_of(cfg: Config, stepper: Stepper, level: int) -> int:
    """Tokens of one sample, rounded up: the mean over validation problems of the level."""
    (problems,) = frozen_sets(cfg.family, "validation", 50, (level,)).values()
    how = Sampling(n=4, temperature=cfg.temperature, max_new=room(stepper, problems),
                   seed=stream_seed(cfg.seed, "search unit", level))
    texts = [t for row in complete_here(stepper, problems, how) for t in row]
    return math.ceil(np.mean([len(ids) - 1 for ids in stepper.tokenizer.encode_batch(texts)]))


def search_shard(cfg: Config, stepper: Stepper, problems: list[Problem], purpose: str,
                 unit: int, reviser: Stepper) -> list[dict]:
    """Per problem: two pools of samples, and what every search at every budget chose and cost."""
    n = cfg.samples[-1] + cfg.samples[-1] // 8              # some samples end early
    records = sample_pools(cfg, stepper, problems, purpose, 2 * n)
    for record in records:
        record |= {"unit": unit, "cells": {}}
    prompts = prompt_ids(stepper.tokenizer, problems, "cot")
    for method in cfg.methods:
        for samples in cfg.samples:
            seed = stream_seed(cfg.seed, "search", purpose, method, samples)
            drawer = reviser if method in REVISIONS else stepper
            outcomes = search(cfg, method, replace(drawer, seed=seed), prompts,
                              [samples * unit] * len(problems), unit)
            for record, problem, prompt, outcome in zip(records, problems, prompts, outcomes,
                                                        strict=True):
                record["cells"][f"{method} {samples}"] = cell(
                    problem, len(prompt), outcome, stepper)
                if samples == cfg.samples[0] and method in ("tree", "uct"):
                    record["tree"] = marked_tree(problem, outcome, stepper)
    return records


def search(cfg: Config, method: str, stepper: Stepper, prompts: list[list[int]],
           budgets: list[int], unit: int) -> list[Outcome]:
    """Run one method on all prompts."""
    if method in ("tree", "uct"):
        shape = TreeConfig(rule="uct" if method == "uct" else "puct", c=cfg.c,
                           width=cfg.tree_width)
        return tree_search(stepper, shape, prompts, budgets, unit)
    if method in REVISIONS:
        shape = ReviseSearchConfig(chains=1 if method == "sequential" else 4,
                                   withdraw=method == "withdraw")
        return revise_search(stepper, shape, prompts, budgets, unit)
    shape = BeamConfig(width=0 if method == "beam_sqrt" else cfg.width,
                       lookahead=int(method == "lookahead"))
    return beam_search(stepper, shape, prompts, budgets, unit)


def sample_pools(cfg: Config, stepper: Stepper, problems: list[Problem], purpose: str,
                 n: int) -> list[dict]:
    """Answers, verdicts, tokens and final values of n samples a problem."""
    how = Sampling(n=n, temperature=cfg.temperature, max_new=room(stepper, problems),
                   seed=stream_seed(cfg.seed, "search samples", purpose), chunk=stepper.chunk)
    completions = complete_here(stepper, problems, how)
    pairs = list(dict.fromkeys((problem, text) for problem, texts in
                               zip(problems, completions, strict=True) for text in texts))
    rows = [ids for ids, _ in rollout_ids(stepper.tokenizer, [p for p, _ in pairs],
                                          [text for _, text in pairs])]
    value_of = dict(zip(pairs, stepper.values(rows), strict=True))
    records = []
    for problem, texts, verdicts in zip(problems, completions, judge(problems, completions),
                                        strict=True):
        records.append({
            "prompt": problem.prompt, "answer": problem.answer,
            "tokens": [len(ids) - 1 for ids in stepper.tokenizer.encode_batch(texts)],
            "answers": [answer_of(problem, text) for text in texts],
            "correct": [int(v.correct) for v in verdicts],
            # a sample that never ended states no answer: no search would return it
            "values": [round(value_of[problem, t], 6) if t.endswith("<eos>") else 0.0
                       for t in texts]})
    return records


def complete_here(stepper: Stepper, problems: list[Problem], how: Sampling) -> list[list[str]]:
    """N completions a problem, opener included, on this rank alone: ranks share whole shards."""
    texts = sample(stepper.policy, stepper.tokenizer,
                   prompt_ids(stepper.tokenizer, problems, "cot"), how)
    return [[FAMILIES[p.family].OPENER["cot"] + text for text in texts[i * how.n:(i + 1) * how.n]]
            for i, p in enumerate(problems)]


def room(stepper: Stepper, problems: list[Problem]) -> int:
    """The longest completion that the model has room for, opener not counted."""
    longest = max(map(len, prompt_ids(stepper.tokenizer, problems, "cot")))
    return stepper.policy.config.max_len - longest


def cell(problem: Problem, prompt_tokens: int, outcome: Outcome, stepper: Stepper) -> dict:
    """The verdicts on what a search chose by value and by vote, and what it spent."""
    best, voted = outcome.best(), outcome.voted(stepper.tokenizer.end_think)
    texts = [stepper.tokenizer.decode(node.tokens[prompt_tokens - 1:]) for node in (best, voted)]
    (verdicts,) = judge([problem], [texts])
    return {"tokens": outcome.spent, "correct": int(verdicts[0].correct),
            "voted": int(verdicts[1].correct), "candidates": len(outcome.complete),
            "value": round(best.value, 6) if best.state == COMPLETE else 0.0}


def marked_tree(problem: Problem, outcome: Outcome, stepper: Stepper) -> list[dict]:
    """The search tree with the verifier's mark on every step and answer, put on afterwards."""
    nodes = tree_record(outcome.root, stepper.tokenizer)
    family, opener = FAMILIES[problem.family], FAMILIES[problem.family].OPENER["cot"]
    paths = {0: ()}
    for node in nodes[1:]:
        paths[node["id"]] = path = (*paths[node["parent"]], node["text"])
        if node["state"] == COMPLETE:
            node["right"] = family.verify(problem, opener + "".join(path)).correct
        else:
            steps = tuple(text.removesuffix("</think>").removesuffix(";") for text in path)
            node["right"] = bool(family.check_steps(problem, steps)[-1])
    return nodes
