"""Lee 2023's sample-efficiency table: how many examples teach 3-digit addition, by format.

Four models, equal but for how the same sums are written (problems/addition.py), are trained from
random weights on 1,000 to 10,000 examples. Published (arXiv:2307.03381, `sample_efficiency.csv` of
the authors' repository): written plainly, 2,000 sums teach nothing; worked out in detail, 1,000
teach everything.

What differs from the paper: our transformer (RMSNorm, RoPE, SwiGLU) and no dropout instead of
NanoGPT with 0.2; one example a row instead of windows cut from running text; test problems from our
frozen set. `size="paper"` has the paper's parameters, steps and tokens a step; `size="cpu"` a 70th
of the parameters and a 160th of the tokens. Both keep the paper's rule: equal tokens, and four
times the steps for scratchpads. Recipes are chosen with `split="validation"`.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from minireason.core import parallel
from minireason.core.config import (
    UserError,
    machine,
    read_json,
    resolve_device,
    rng,
    stream_seed,
    write_atomic,
)
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import evaluate, frozen_sets
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import Problem, addition, split_of
from minireason.sampling.sampler import Sampling
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step

PUBLISHED = {                         # test accuracy in %, by number of training examples
    "plain": {250: 0.0, 500: 0.0, 1000: 0.4, 2000: 1.7, 3000: 28.7, 4000: 62.3, 5000: 81.1,
              10_000: 87.4, 20_000: 90.1},
    "reverse": {250: 0.0, 500: 0.0, 1000: 1.6, 2000: 30.6, 3000: 79.1, 4000: 98.2, 5000: 99.8,
                10_000: 100.0, 20_000: 100.0},
    "simplified": {250: 0.4, 500: 0.1, 1000: 84.6, 2000: 99.7, 3000: 99.8, 4000: 99.9,
                   5000: 100.0, 10_000: 100.0, 20_000: 100.0},
    "detailed": {250: 59.5, 500: 92.8, 1000: 99.8, 2000: 99.6, 3000: 100.0, 4000: 100.0,
                 5000: 99.9, 10_000: 100.0, 20_000: 100.0},
}


@dataclass(frozen=True)
class Recipe:
    """Model and training of one size; the formats with a scratchpad have their own batch."""

    d_model: int
    n_layers: int                 # L
    n_heads: int                  # H
    head_dim: int                 # D
    d_ff: int
    bare_tokens: int              # tokens a step, plain and reverse
    bare_steps: int
    thought_tokens: int           # tokens a step, scratchpads
    thought_steps: int
    lr: float                     # peak learning rate
    warmup: int = 100             # steps
    weight_decay: float = 0.1
    beta2: float = 0.99
    rope_theta: float = 10_000.0


SIZES = {
    "cpu": Recipe(64, 3, 4, 16, 172, 2048, 1000, 512, 4000, lr=4e-3, warmup=50, rope_theta=100.0),
    "paper": Recipe(384, 6, 6, 64, 1024, 65_536, 5000, 16_384, 20_000, lr=1e-3),
    "tiny": Recipe(16, 1, 1, 16, 32, 256, 2, 256, 2, lr=1e-3),      # for tests: learns nothing
}


@dataclass(frozen=True)
class Config:
    """Lee 2023's table: one model a format and number of examples."""

    out: str = "runs/reproduce"
    size: str = "cpu"             # cpu: a small model; paper: 10.6M parameters, for a GPU
    styles: tuple[str, ...] = ("plain", "reverse", "simplified", "detailed")
    examples: tuple[int, ...] = (1000, 2000, 5000, 10_000)
    digits: int = 3
    split: str = "test"           # of the frozen set; validation: to choose a recipe
    eval_n: int = 500             # problems a cell
    token_budget: int = 16_384    # tokens a micro-batch; never changes the gradient
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        if self.size not in SIZES:
            raise UserError(f"--size {self.size}: choose from {', '.join(SIZES)}")
        unknown = sorted(set(self.styles) - set(addition.STYLES))
        if unknown:
            raise UserError(f"--styles {unknown}: choose from {', '.join(addition.STYLES)}")
        if self.split not in ("test", "validation"):
            raise UserError(f"--split {self.split}: choose test or validation")
        if not self.styles or not self.examples or min(self.examples) < 1:
            raise UserError("--styles and --examples: give at least one of each, counts above 0")


def training_set(digits: int, n: int, seed: int) -> list[Problem]:
    """n different balanced problems of the train split; a larger set begins with the smaller."""
    generator, found, fruitless = rng(seed, "examples", digits), {}, 0
    while len(found) < n:
        problem = addition.sample_balanced(generator, digits)
        fruitless += 1
        if split_of(problem) == "train" and problem.prompt not in found:
            found[problem.prompt], fruitless = problem, 0
        if fruitless > 1000 + 20 * len(found):
            raise UserError(f"--examples {n}: {digits}-digit addition has only about {len(found)} "
                            "training problems")
    return list(found.values())


def train(cfg: Config, log: RunLog, tokenizer: Tokenizer, style: str, n: int,
          device: torch.device) -> tuple[Transformer, list[float]]:
    """One model from random weights on n examples of a style; returns it with 20 mean losses."""
    recipe, bare = SIZES[cfg.size], addition.OPENER[style] == "</think>"
    problems = training_set(cfg.digits, n, cfg.seed)
    lines = [p.prompt + addition.render(p, style) for p in problems]
    rows = encode_lines(tokenizer, [""] * n, lines)            # all tokens count, as in the paper
    tokens, steps = ((recipe.bare_tokens, recipe.bare_steps) if bare else
                     (recipe.thought_tokens, recipe.thought_steps))
    per_step = max(1, round(tokens * n / sum(len(row) - 1 for row, _ in rows)))     # rows
    shape = ModelConfig(tokenizer.vocab_size, recipe.d_model, recipe.n_layers, recipe.n_heads,
                        recipe.n_heads, recipe.head_dim, recipe.d_ff,
                        max_len=2 * max(len(row) for row, _ in rows),
                        rope_theta=recipe.rope_theta)
    generator = torch.Generator().manual_seed(stream_seed(cfg.seed, "weights"))
    model = Transformer(shape).init_weights(generator).to(device)
    log.start(model, device)
    optimizer = make_optimizer(model, recipe.weight_decay, (0.9, recipe.beta2))
    losses = []
    for step in log.steps(0, steps, f"{style} {n}"):
        chosen = rng(cfg.seed, "rows", style, n, step).integers(0, n, per_step).tolist()
        batches, count = micro_batches([rows[i] for i in chosen], cfg.token_budget, tokenizer.pad)
        loss, _ = train_step(
            model, optimizer, batches,
            lambda b, c=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                   b.loss_mask, c),
            schedule(step, steps, recipe.lr, min(recipe.warmup, steps // 4), floor=0.1))
        losses.append(loss)
    return model, [sum(part) / len(part) for part in (
        losses[i * steps // 20:(i + 1) * steps // 20] for i in range(20)) if part]


def cell(cfg: Config, log: RunLog, tokenizer: Tokenizer, style: str, n: int,
         device: torch.device) -> dict:
    """Train and measure one cell, or read it back if it is finished already."""
    path = Path(cfg.out) / "cells" / f"{style}-{n}.json"
    if path.exists():
        return read_json(path)
    start = time.perf_counter()
    model, losses = train(cfg, log, tokenizer, style, n, device)
    seconds = time.perf_counter() - start
    sets = frozen_sets("addition", cfg.split, cfg.eval_n, (cfg.digits,))
    longest = max(len(tokenizer.encode(addition.render(p, style)))
                  for problems in sets.values() for p in problems)
    (report,) = evaluate(model, tokenizer, sets, style,
                         Sampling(temperature=0, max_new=longest + 8)).values()
    published = PUBLISHED.get(style, {}).get(n) if cfg.digits == 3 else None
    record = {"style": style, "examples": n, "parameters": model.n_params, "train_losses": losses,
              "published": published, **report, "train_seconds": round(seconds, 1),
              "seconds": round(time.perf_counter() - start, 1)}
    if parallel.is_main():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(record, indent=1) + "\n")
    parallel.barrier()
    log.say(f"{style} {n}: {report['accuracy']:.1%} of {report['n']}, published "
            f"{'-' if published is None else f'{published}%'}, {record['seconds']} s")
    return record


def table(cfg: Config, cells: list[dict]) -> str:
    """Markdown: measured % [95% Wilson interval] / published %, a row per number of examples.

    A cell that is not among `cells` says so.
    """
    by_key = {(c["style"], c["examples"]): c for c in cells}
    lines = [f"{cfg.split.capitalize()} accuracy in % on {cells[0]['n']} problems of "
             f"{cfg.digits}-digit addition [95% Wilson interval]; after the slash, Lee 2023 (10.6M "
             "parameters). Ours: "
             f"{cells[0]['parameters'] / 1e6:.2f}M parameters, size `{cfg.size}`, seed {cfg.seed}.",
             "", f"| examples | {' | '.join(cfg.styles)} |", "|---:" * (1 + len(cfg.styles)) + "|"]
    for n in cfg.examples:
        row = []
        for style in cfg.styles:
            c = by_key.get((style, n))
            if c is None:
                row.append("not run")
                continue
            published = "–" if c["published"] is None else f"{c['published']:.1f}"
            row.append(f"{100 * c['accuracy']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}] "
                       f"/ {published}")
        lines.append(f"| {n:,} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def run(cfg: Config) -> dict:
    """All cells, the finished ones read back; writes table.md and returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    log = RunLog(cfg.out, "reproduce", cfg, parents={})
    if log.done:
        return log.done
    log.rewind(0)
    if parallel.is_main():
        write_atomic(Path(cfg.out) / "machine.json", json.dumps(machine()) + "\n")
    tokenizer = Tokenizer.build(addition.TOKENS)
    cells = []
    for n in cfg.examples:
        for style in cfg.styles:
            record = cell(cfg, log, tokenizer, style, n, device)
            log.record(len(cells), **{"train/examples": n, "train/loss": record["train_losses"][-1],
                                      f"eval/{style}": record["accuracy"],
                                      "time/seconds": record["seconds"]})
            cells.append(record)
    text = table(cfg, cells)
    if parallel.is_main():
        write_atomic(Path(cfg.out) / "table.md", text)
    log.say("\n" + text)
    return log.finish(cells=cells, table=text)
