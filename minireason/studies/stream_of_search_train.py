"""One model of the countdown study: what it reads, how it is trained, what RL adds.

All but the lines is equal between the arms: model, starting weights, optimizer steps, schedule. RL
continues from a finished model with the outcome alone as reward, in small steps (docs/LOG.md).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from minireason.core.config import UserError, read_lines, rng
from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import countdown as family
from minireason.problems import sample_split
from minireason.stages import rl
from minireason.studies import shared
from minireason.training.batches import Row, encode_lines
from minireason.training.imitate import imitate
from minireason.training.rollouts import Rewards

SEARCHES = ("sos", "guided")
ARMS = (*SEARCHES, "optimal_tokens", "optimal_examples")
FOUR = 0.8                        # share of training problems with 4 numbers, the rest has 3


@dataclass(frozen=True, kw_only=True)
class Recipe(shared.Recipe):
    """Model, training and measurement of one size; tokens per step are equal in all arms."""

    head_dim: int = 32            # D
    max_len: int = 384
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.05
    save_every: int = 50
    coverage_n: int               # frozen problems per set, N samples each
    n: int                        # N, a power of two
    rl_steps: int
    rl_prompts: int = 16          # P, per step
    rl_group: int = 16            # G, rollouts per prompt
    rl_lr: float = 1e-4           # traces are long, their signal is weak: 3e-4 undoes the policy


SIZES = {
    "smoke": Recipe(d_model=16, n_layers=1, n_heads=1, head_dim=16, d_ff=32, steps=4, warmup=2,
                    tokens_per_step=500, eval_n=6, coverage_n=4, n=4, rl_steps=2, rl_prompts=2,
                    rl_group=2),
    "cpu": Recipe(d_model=96, n_layers=4, n_heads=3, d_ff=320, steps=4800, tokens_per_step=1700,
                  lr=2e-3, coverage_n=200, n=32, rl_steps=160),
    "gpu": Recipe(d_model=384, n_layers=8, n_heads=6, head_dim=64, d_ff=1024, steps=8000,
                  warmup=200, tokens_per_step=30_000, coverage_n=500, n=256, rl_steps=400,
                  rl_prompts=64),
}


@dataclass(frozen=True)
class Cell:
    """One model of the study."""

    size: str
    init: str                     # folder of the model that it starts from; "": random weights
    seed: int
    arm: str                      # of ARMS, or `guided+rl`: RL on top of it

    @property
    def style(self) -> str:
        """How its completions are written."""
        base = self.arm.removesuffix("+rl")
        return base if base in SEARCHES else "optimal"


def lines_of_step(arm: str, seed: int, step: int, count: int) -> tuple[list[str], list[str]]:
    """(prompts, completions) of one step, train split only; equal arms see equal problems."""
    generator, searching = rng(seed, "countdown", step), rng(seed, "countdown search", step)
    prompts, completions = [], []
    for _ in range(count):
        level = 4 if generator.random() < FOUR else 3
        problem = sample_split(family, generator, level, "train")
        prompts.append(problem.prompt)
        completions.append(family.search_text(problem, searching, arm) if arm in SEARCHES else
                           family.render(problem, "optimal"))
    return prompts, completions


def rows_per_step(recipe: Recipe, tokenizer: Tokenizer, arm: str) -> int:
    """Rows that have tokens_per_step tokens on average; `optimal_examples` has as many as `sos`."""
    counted = "sos" if arm == "optimal_examples" else arm
    rows = encode_lines(tokenizer, *lines_of_step(counted, 0, -1, 400))
    return max(1, round(recipe.tokens_per_step / np.mean([len(row) for row, _ in rows])))


def first_model(recipe: Recipe, cell: Cell, tokenizer: Tokenizer) -> Transformer:
    """A model with random weights, or a policy that knows its arithmetic, with longer rows."""
    if not cell.init:
        return shared.random_model(tokenizer, recipe, cell.seed, recipe.max_len)
    parent, words = checkpoint.load(cell.init)
    if words.to_json() != tokenizer.to_json():
        raise UserError(f"{cell.init}: its tokenizer is not countdown's, numbers of up to 2 digits "
                        "as one token; give a folder of the family chain")
    model = Transformer(replace(parent.config, max_len=recipe.max_len))
    model.load_state_dict(parent.state_dict())
    return model


def train(cell: Cell, folder: Path, tokenizer: Tokenizer,
          device: torch.device) -> tuple[Transformer, dict]:
    """A model trained on its arm's lines, and what it has seen; resumes if killed."""
    parents = {"init": checkpoint.weights_hash(cell.init)} if cell.init else {}
    log = RunLog(str(folder), "countdown-cell", cell, parents)
    recipe = SIZES[cell.size]
    recipe = replace(recipe, rows_per_step=rows_per_step(recipe, tokenizer, cell.arm))
    model = first_model(recipe, cell, tokenizer).to(device)
    log.start(model, device)
    tokens: dict[int, int] = {}       # {step: tokens}, prompts included

    def rows_at(step: int) -> list[Row]:
        lines = lines_of_step(cell.arm, cell.seed, step, recipe.rows_per_step)
        rows = encode_lines(tokenizer, *lines)
        tokens[step] = sum(len(row) - 1 for row, _ in rows)
        return rows

    imitate(log, model, tokenizer, recipe, rows_at)
    for step in range(recipe.steps):
        if step not in tokens:        # trained by a process that was killed
            rows_at(step)
    return model, {"train_tokens": sum(tokens.values()),
                   "train_examples": recipe.steps * recipe.rows_per_step}


def reinforce(cell: Cell, folder: Path, device: torch.device) -> tuple[Transformer, dict]:
    """A finished arm after RL on problems with 4 numbers, and what it has seen."""
    recipe = SIZES[cell.size]
    rl.run(rl.Config(
        init=cell.init, out=str(folder / "rl"), family="countdown", seed=cell.seed,
        device=str(device), steps=recipe.rl_steps, prompts_per_step=recipe.rl_prompts,
        group_size=recipe.rl_group, min_level=4, max_level=4,
        rewards=Rewards(outcome=1.0, process=0.0), lr=recipe.rl_lr, save_every=recipe.save_every,
        eval_every=max(1, recipe.rl_steps // 4), validation_n=recipe.coverage_n,
        eval_n=recipe.coverage_n))
    model, _ = checkpoint.load(folder / "rl", device)
    metrics = read_lines(folder / "rl" / "metrics.jsonl")
    return model, {"train_tokens": sum(m.get("train/generated_tokens", 0) for m in metrics),
                   "train_examples": recipe.rl_steps * recipe.rl_prompts * recipe.rl_group}
