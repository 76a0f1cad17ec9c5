"""`minireason countdown`: is it better to learn from searching than from right answers alone?

Stream of Search (Gandhi 2024, arXiv:2404.03683): a model trained on search traces, dead ends
included and only about half of them successful, solves more held-out problems than one trained on
optimal paths (51.3% against 25.7% with 250M parameters). Here from random weights, with the same
model, the same number of optimizer steps and the same schedule, in three arms:

    sos               search traces
    optimal_tokens    optimal paths, as many as have the same number of tokens
    optimal_examples  optimal paths of the very same problems

Then N samples a problem: countdown_curves.py. `--from FOLDER` draws its figure from result.json.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from minireason import checkpoint, countdown_curves, parallel
from minireason.batches import encode_lines, micro_batches
from minireason.config import UserError, read_json, resolve_device, rng, stream_seed, write_atomic
from minireason.evaluate import evaluate, frozen_sets, prompt_ids
from minireason.generate import Sampling, stream
from minireason.losses import nll
from minireason.model import ModelConfig, Transformer
from minireason.optim import make_optimizer, schedule, train_step
from minireason.problems import Problem, sample_split
from minireason.problems import countdown as family
from minireason.problems.search import chance
from minireason.runlog import RunLog
from minireason.tokenizer import Tokenizer

ARMS = ("sos", "optimal_tokens", "optimal_examples")
SETS = ("test", "targets")            # held-out numbers; held-out numbers and targets


@dataclass(frozen=True)
class Recipe:
    """Model and training of one size."""

    d_model: int
    n_layers: int                 # L
    n_heads: int                  # H
    d_ff: int
    steps: int
    examples_per_step: int        # search traces a step; the other arms follow from it
    lr: float                     # peak learning rate
    eval_n: int                   # frozen problems a set, greedy
    coverage_n: int               # frozen problems a set, N samples each
    n: int                        # N, a power of two
    head_dim: int = 32            # D
    warmup: int = 50              # steps
    weight_decay: float = 0.05
    max_len: int = 256
    save_every: int = 50          # steps between saved states


SIZES = {
    "smoke": Recipe(16, 1, 1, 32, 4, 4, 1e-3, 6, 4, 4, head_dim=16, warmup=2),
    "cpu": Recipe(96, 4, 3, 320, 2400, 16, 2e-3, 500, 200, 32),
    "gpu": Recipe(384, 8, 6, 1024, 8000, 256, 1e-3, 500, 500, 256, head_dim=64, warmup=200),
}


@dataclass(frozen=True)
class CountdownConfig:
    """Stream of Search against optimal paths, at equal tokens and at equal examples."""

    out: str = "runs/countdown"
    size: str = "cpu"             # smoke: only shows that it works | cpu: 0.5M parameters | gpu
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] = ARMS
    four: float = 0.8             # share of training problems with 4 numbers, the rest has 3
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    source: Annotated[str, tyro.conf.arg(name="from")] = ""   # only draw this folder's result.json
    device: str = "auto"

    def __post_init__(self):
        if self.size not in SIZES:
            raise UserError(f"--size {self.size}: choose from {', '.join(SIZES)}")
        if not self.seeds or not self.arms or set(self.arms) - set(ARMS):
            raise UserError(f"--seeds and --arms: at least one each, arms of {', '.join(ARMS)}")


def draw_lines(cfg: CountdownConfig, arm: str, seed: int, step: int,
               count: int) -> tuple[list[str], list[str]]:
    """(prompts, completions) of one step, train split only; equal arms see equal problems."""
    generator = rng(seed, "countdown", step)
    problems = [sample_split(family, generator, 4 if generator.random() < cfg.four else 3, "train")
                for _ in range(count)]
    searching = rng(seed, "countdown search", step)
    return [p.prompt for p in problems], [
        family.search_text(p, searching) if arm == "sos" else family.render(p, "optimal")
        for p in problems]


def rows_per_step(cfg: CountdownConfig, tokenizer: Tokenizer, arm: str) -> int:
    """Rows a step: as many as give `optimal_tokens` the tokens that `sos` has, on average."""
    count = SIZES[cfg.size].examples_per_step
    if arm != "optimal_tokens":
        return count
    means = [np.mean([len(row) for row, _ in encode_lines(
        tokenizer, *draw_lines(cfg, name, 0, -1, 400))]) for name in ("sos", "optimal_tokens")]
    return round(count * means[0] / means[1])


def train(cfg: CountdownConfig, folder: Path, tokenizer: Tokenizer, arm: str, seed: int,
          device: torch.device) -> tuple[Transformer, dict]:
    """One model from random weights; returns it with its losses and what it has seen.

    Killed at any moment, it goes on from the last saved state, as every stage does.
    """
    recipe, count = SIZES[cfg.size], rows_per_step(cfg, tokenizer, arm)
    own = replace(cfg, arms=(arm,), seeds=(seed,))       # a cell may serve a larger run
    log = RunLog(str(folder), "countdown-cell", own, parents={})
    shape = ModelConfig(tokenizer.vocab_size, recipe.d_model, recipe.n_layers, recipe.n_heads,
                        recipe.n_heads, recipe.head_dim, recipe.d_ff, recipe.max_len)
    generator = torch.Generator().manual_seed(stream_seed(seed, "weights"))
    model = Transformer(shape).init_weights(generator).to(device)
    log.start(model, device)
    optimizer = make_optimizer(model, recipe.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), recipe.steps):
        rows = encode_lines(tokenizer, *draw_lines(cfg, arm, seed, step, count))
        batches, counted = micro_batches(rows, cfg.token_budget, tokenizer.pad)
        loss, _ = train_step(
            model, optimizer, batches,
            lambda b, c=counted: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                     b.loss_mask, c),
            schedule(step, recipe.steps, recipe.lr, recipe.warmup))
        log.record(step, **{"train/loss": loss,
                            "train/tokens": sum(len(row) - 1 for row, _ in rows)})
        if (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
    metrics = read_metrics(folder)
    parts = np.array_split([m["train/loss"] for m in metrics], 20)
    return model, {"train_losses": [float(part.mean()) for part in parts if len(part)],
                   "train_tokens": sum(m["train/tokens"] for m in metrics),
                   "train_examples": recipe.steps * count, "parameters": model.n_params}


def read_metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl, once the first rank has written them all."""
    parallel.barrier()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def cell(cfg: CountdownConfig, log: RunLog, tokenizer: Tokenizer, arm: str, seed: int,
         device: torch.device) -> dict:
    """Train and measure one model, or read back what is finished; the weights stay in its folder.

    Two files, each written once: trained.json after the greedy evaluation, samples.json at the end.
    """
    folder = Path(cfg.out) / "cells" / f"{arm}-s{seed}"
    if (folder / "samples.json").exists():
        return read_json(folder / "samples.json")
    recipe, style = SIZES[cfg.size], "sos" if arm == "sos" else "optimal"
    if not (folder / "trained.json").exists():
        start = time.perf_counter()
        model, seen = train(cfg, folder, tokenizer, arm, seed, device)
        sets = {name: problems for split in SETS
                for name, problems in frozen_sets("countdown", split, recipe.eval_n).items()}
        report = evaluate(model, tokenizer, sets, style, Sampling(temperature=0, max_new=200))
        checkpoint.save(folder, model, tokenizer)
        write(folder / "trained.json", {
            "arm": arm, "seed": seed, "accuracy": report, **seen,
            "seconds": round(time.perf_counter() - start, 1)})
        log.say(f"{arm} {seed}: " + ", ".join(
            f"{name} {r['accuracy']:.1%} of {r['n']}" for name, r in report.items()))
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


def draw(cfg: CountdownConfig, model: Transformer, tokenizer: Tokenizer, split: str, style: str,
         seed: int) -> list[dict]:
    """Per problem of the frozen set with 4 numbers: its N samples at T = 1, and what chance does.

    answers: ids of equal expressions, -1 for none or given up; scores: mean log-probabilities.
    """
    recipe = SIZES[cfg.size]
    (problems,) = frozen_sets("countdown", split, recipe.coverage_n, (4,)).values()
    how = Sampling(n=recipe.n, max_new=200, seed=stream_seed(seed, "countdown samples", split))
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


def run(cfg: CountdownConfig) -> dict:
    """All cells, the finished ones read back; writes table.md, coverage.png and result.json."""
    if cfg.source:
        result = read_json(Path(cfg.source) / "result.json")
        countdown_curves.draw(result["cells"], Path(cfg.out))
        return result
    device = parallel.init(resolve_device(cfg.device))
    log = RunLog(cfg.out, "countdown", cfg, parents={})
    if log.done:
        return log.done
    log.rewind(0)
    tokenizer, cells = Tokenizer.build(family.NUMBER_WIDTH), []
    for seed in cfg.seeds:
        for arm in cfg.arms:
            record = cell(cfg, log, tokenizer, arm, seed, device)
            log.record(len(cells), **{f"eval/{arm}/{name}": a["accuracy"]
                                      for name, a in record["accuracy"].items()},
                       **{"train/loss": record["train_losses"][-1],
                          "time/seconds": record["seconds"]})
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
