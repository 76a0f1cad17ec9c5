"""`minireason countdown`: is it better to learn from searching than from right answers alone?

Stream of Search (Gandhi 2024, arXiv:2404.03683): a model trained on search traces, dead ends
included and only about half of them successful, solves more held-out problems than one trained on
optimal paths (51.3% against 25.7% with 250M parameters). Here with the same model, the same number
of optimizer steps and the same schedule, in four arms:

    sos               search traces of the paper's solvers
    guided            search traces of a solver that sees solutions and errs on purpose
    optimal_tokens    optimal paths, as many as have the same number of tokens
    optimal_examples  optimal paths, as many as `sos` has traces

`--init` starts every arm from a policy that knows its arithmetic (a folder of the family chain);
without it, weights are random and small models mostly learn to add. `--rl ARM` goes on with
reinforcement learning from a finished arm. Then N samples a problem: countdown_curves.py. `--from
FOLDER` draws its figure from result.json.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from minireason.core import parallel
from minireason.core.config import UserError, read_json, resolve_device, stream_seed, write_atomic
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import evaluate, frozen_sets
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Problem
from minireason.problems import countdown as family
from minireason.problems.countdown_solver import chance
from minireason.sampling.complete import prompt_ids, stream
from minireason.sampling.sampler import Sampling
from minireason.studies import stream_of_search_curves as countdown_curves
from minireason.studies.stream_of_search_train import (
    ARMS,
    MAX_NEW,
    Recipe,
    reinforce,
    style_of,
    train,
)

SETS = ("test", "targets")            # held-out numbers; held-out numbers and targets
SIZES = {
    "smoke": Recipe(16, 1, 1, 32, 4, 500, 1e-3, 6, 4, 4, rl_steps=2, rl_prompts=2, rl_group=2,
                    head_dim=16, warmup=2),
    "cpu": Recipe(96, 4, 3, 320, 4800, 1700, 2e-3, 500, 200, 32, rl_steps=160),
    "gpu": Recipe(384, 8, 6, 1024, 8000, 30_000, 1e-3, 500, 500, 256, rl_steps=400, rl_prompts=64,
                  head_dim=64, warmup=200),
}


@dataclass(frozen=True)
class Config:
    """Stream of Search against optimal paths, at equal tokens and at equal examples; RL on top."""

    out: str = "runs/countdown"
    size: str = "cpu"             # smoke: only shows that it works | cpu: 0.5M parameters | gpu
    init: str = ""                # folder of a policy that knows arithmetic, "{seed}" standing for
                                  # the seed (runs/s{seed}/star); "": random weights
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] = ("sos", "guided", "optimal_tokens")
    rl: tuple[str, ...] = ()      # arms that reinforcement learning goes on from
    four: float = 0.8             # share of training problems with 4 numbers, the rest has 3
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    source: Annotated[str, tyro.conf.arg(name="from")] = ""   # only draw this folder's result.json
    device: str = "auto"

    def __post_init__(self):
        if self.size not in SIZES:
            raise UserError(f"--size {self.size}: choose from {', '.join(SIZES)}")
        if not self.seeds or not self.arms or set(self.arms) - set(ARMS):
            raise UserError(f"--seeds and --arms: at least one each, arms of {', '.join(ARMS)}")
        if set(self.rl) - set(self.arms):
            raise UserError(f"--rl: only the --arms of this run: {', '.join(self.arms)}")


def supervised(cfg: Config, tokenizer: Tokenizer, arm: str, seed: int,
               device: torch.device) -> dict:
    """The arm's model, trained and measured."""
    folder = folder_of(cfg, arm, seed)

    def make() -> tuple[Transformer, dict]:
        init = init_of(cfg, seed)
        own = replace(cfg, arms=(arm,), seeds=(seed,), rl=(), init=init)   # may serve a larger run
        log = RunLog(str(folder), "countdown-cell", own, parents=parents_of(init))
        return train(SIZES[cfg.size], cfg.four, cfg.token_budget, init, log, tokenizer, arm, seed,
                     device)

    return cell(cfg, folder, tokenizer, arm, seed, device, make)


def reinforced(cfg: Config, tokenizer: Tokenizer, arm: str, seed: int,
               device: torch.device) -> dict:
    """The same model after reinforcement learning, measured in the same way."""
    folder = folder_of(cfg, f"{arm}+rl", seed)

    def make() -> tuple[Transformer, dict]:
        return reinforce(SIZES[cfg.size], folder_of(cfg, arm, seed), folder / "rl", seed,
                         str(device))

    return cell(cfg, folder, tokenizer, f"{arm}+rl", seed, device, make)


def init_of(cfg: Config, seed: int) -> str:
    """The folder that a seed's arms start from."""
    return cfg.init.replace("{seed}", str(seed))


def parents_of(init: str) -> dict[str, str]:
    """Hash of the policy that arms start from, if there is one."""
    return {"init": checkpoint.weights_hash(init)} if init else {}


def folder_of(cfg: Config, arm: str, seed: int) -> Path:
    """Where a model of this run lies."""
    return Path(cfg.out) / "cells" / f"{arm}-s{seed}"


def cell(cfg: Config, folder: Path, tokenizer: Tokenizer, arm: str, seed: int,
         device: torch.device, make: Callable[[], tuple[Transformer, dict]]) -> dict:
    """Make and measure one model, or read back what is finished; the weights stay in its folder.

    Two files, each written once: trained.json after the greedy evaluation, samples.json at the end.
    """
    if (folder / "samples.json").exists():
        return read_json(folder / "samples.json")
    recipe, style = SIZES[cfg.size], style_of(arm.removesuffix("+rl"))
    if not (folder / "trained.json").exists():
        begun = time.perf_counter()
        model, seen = make()
        sets = {name: problems for split in SETS
                for name, problems in frozen_sets("countdown", split, recipe.eval_n).items()}
        report = evaluate(model, tokenizer, sets, style, Sampling(temperature=0, max_new=MAX_NEW))
        checkpoint.save(folder, model, tokenizer)
        write(folder / "trained.json", {
            "arm": arm, "seed": seed, "accuracy": report, **seen,
            "seconds": round(time.perf_counter() - begun, 1)})
    model, _ = checkpoint.load(folder, device)
    records = {f"countdown-{split}-n4": draw(cfg, model, tokenizer, split, style, seed)
               for split in SETS}
    record = {**read_json(folder / "trained.json"), "records": records}
    write(folder / "samples.json", record)
    return record


def write(path: Path, record: dict) -> None:
    """JSON, by the main process, whole or not at all."""
    if parallel.is_main():
        write_atomic(path, json.dumps(record) + "\n")
    parallel.barrier()


def draw(cfg: Config, model: Transformer, tokenizer: Tokenizer, split: str, style: str,
         seed: int) -> list[dict]:
    """Per problem of the frozen set with 4 numbers: its N samples at T = 1, and what chance does.

    answers: ids of equal expressions, -1 for none or given up; scores: mean log-probabilities.
    """
    recipe = SIZES[cfg.size]
    (problems,) = frozen_sets("countdown", split, recipe.coverage_n, (4,)).values()
    how = Sampling(n=recipe.n, max_new=MAX_NEW, seed=stream_seed(seed, "countdown samples", split))
    drawn = []
    for part in stream(model, tokenizer, prompt_ids(tokenizer, problems, style), how):
        means = (part.logprobs.sum(1) / part.mask.sum(1)).tolist()
        drawn += zip(part.texts(tokenizer), part.mask.sum(1).tolist(), means, strict=True)
    return [one_record(problem, style, drawn[i * how.n:(i + 1) * how.n])
            for i, problem in enumerate(problems)]


def one_record(problem: Problem, style: str, samples: list[tuple[str, int, float]]) -> dict:
    """What is kept of a problem's samples (text, tokens, mean log-probability)."""
    texts = [family.OPENER[style] + text for text, _, _ in samples]
    parsed = [family.parse(text) for text in texts]
    names: dict[str, int] = {}
    return {"prompt": problem.prompt, "chance": chance(*family.given(problem)),
            "answers": [-1 if p is None or p[1] == family.GAVE_UP
                        else names.setdefault(p[1], len(names)) for p in parsed],
            "correct": [int(family.verify(problem, text).correct) for text in texts],
            "tokens": [tokens for _, tokens, _ in samples],
            "scores": [round(score, 5) for _, _, score in samples], "example": texts[0]}


def run(cfg: Config) -> dict:
    """All cells, the finished ones read back; writes table.md, coverage.png and result.json."""
    if cfg.source:
        result = read_json(Path(cfg.source) / "result.json")
        countdown_curves.draw(result["cells"], Path(cfg.out))
        return result
    device = parallel.init(resolve_device(cfg.device))
    parents = {f"init of seed {seed}": digest for seed in cfg.seeds
               for digest in parents_of(init_of(cfg, seed)).values()}
    log = RunLog(cfg.out, "countdown", cfg, parents=parents)
    if log.done:
        return log.done
    log.rewind(0)
    tokenizer, cells = Tokenizer.build(family.TOKENS), []
    for seed in cfg.seeds:
        plan = [(supervised, arm) for arm in cfg.arms] + [(reinforced, arm) for arm in cfg.rl]
        for make, arm in plan:
            record = make(cfg, tokenizer, arm, seed, device)
            log.say(f"{record['arm']} {seed}: " + ", ".join(
                f"{name} {r['accuracy']:.1%} of {r['n']}"
                for name, r in record["accuracy"].items()))
            log.record(len(cells), **{f"eval/{record['arm']}/{name}": a["accuracy"]
                                      for name, a in record["accuracy"].items()},
                       **{"time/seconds": record["seconds"]})
            records = record.pop("records")
            curves = {name: countdown_curves.curve(problems, seed)
                      for name, problems in records.items()}
            cells.append({**record, "curves": curves})
    text = countdown_curves.table(cells)
    if parallel.is_main():
        countdown_curves.draw(cells, Path(cfg.out))
        write_atomic(Path(cfg.out) / "table.md", text)
    log.say("\n" + text)
    return log.finish(seconds=log.seconds(), cells=cells, table=text)
