"""One model of the countdown experiment: what it reads, how it is trained, what RL adds.

Everything before the lines is equal between the arms: model, starting weights, optimizer steps,
schedule. RL goes on from a finished model with the outcome alone as reward, in small steps
(docs/LOG.md). countdown.py is the experiment.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from minireason.core import parallel
from minireason.core.config import UserError, read_lines, rng, stream_seed
from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import countdown as family
from minireason.problems import sample_split
from minireason.stages import rl
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step
from minireason.training.rollouts import Rewards

SEARCHES = ("sos", "guided")
ARMS = (*SEARCHES, "optimal_tokens", "optimal_examples")
MAX_NEW = 330                     # tokens a completion at most


@dataclass(frozen=True)
class Recipe:
    """Model and training of one size."""

    d_model: int
    n_layers: int                 # L
    n_heads: int                  # H
    d_ff: int
    steps: int
    tokens_per_step: int          # on average, equal in all arms but optimal_examples
    lr: float                     # peak learning rate
    eval_n: int                   # frozen problems a set, greedy
    coverage_n: int               # frozen problems a set, N samples each
    n: int                        # N, a power of two
    rl_steps: int
    rl_prompts: int = 16          # a step
    rl_group: int = 16            # rollouts a prompt
    rl_lr: float = 1e-4           # traces are long, their signal is weak: 3e-4 undoes the policy
    head_dim: int = 32            # D
    warmup: int = 50              # steps
    weight_decay: float = 0.05
    max_len: int = 384
    save_every: int = 50          # steps between saved states


def style_of(arm: str) -> str:
    """How the arm's completions are written."""
    return arm if arm in SEARCHES else "optimal"


def draw_lines(four: float, arm: str, seed: int, step: int,
               count: int) -> tuple[list[str], list[str]]:
    """(prompts, completions) of one step, train split only; equal arms see equal problems.

    four: share of problems with 4 numbers; the others have 3.
    """
    generator = rng(seed, "countdown", step)
    problems = [sample_split(family, generator, 4 if generator.random() < four else 3, "train")
                for _ in range(count)]
    searching = rng(seed, "countdown search", step)
    return [p.prompt for p in problems], [
        family.search_text(p, searching, arm) if arm in SEARCHES else family.render(p, "optimal")
        for p in problems]


def rows_per_step(recipe: Recipe, four: float, tokenizer: Tokenizer, arm: str) -> int:
    """Rows that have tokens_per_step tokens on average; `optimal_examples` has as many as `sos`."""
    counted = "sos" if arm == "optimal_examples" else arm
    lengths = [len(row) for row, _ in encode_lines(tokenizer, *draw_lines(four, counted, 0, -1,
                                                                          400))]
    return max(1, round(recipe.tokens_per_step / np.mean(lengths)))


def start(recipe: Recipe, init: str, tokenizer: Tokenizer, seed: int,
          device: torch.device) -> Transformer:
    """A model with random weights, or a policy that knows its arithmetic, with longer rows."""
    if not init:
        shape = ModelConfig(tokenizer.vocab_size, recipe.d_model, recipe.n_layers, recipe.n_heads,
                            recipe.n_heads, recipe.head_dim, recipe.d_ff, recipe.max_len)
        generator = torch.Generator().manual_seed(stream_seed(seed, "weights"))
        return Transformer(shape).init_weights(generator).to(device)
    parent, words = checkpoint.load(init, device)
    if words.to_json() != tokenizer.to_json():
        raise UserError(f"{init}: its tokenizer is not countdown's, numbers of up to 2 digits as "
                        "one token; give a folder of the family chain")
    model = Transformer(replace(parent.config, max_len=recipe.max_len)).to(device)
    model.load_state_dict(parent.state_dict())
    return model


def train(recipe: Recipe, four: float, token_budget: int, init: str, log: RunLog,
          tokenizer: Tokenizer, arm: str, seed: int,
          device: torch.device) -> tuple[Transformer, dict]:
    """One model on its arm's lines; returns it with its losses and what it has seen.

    Killed at any moment, it goes on from the last saved state, as every stage does.
    """
    count = rows_per_step(recipe, four, tokenizer, arm)
    model = start(recipe, init, tokenizer, seed, device)
    log.start(model, device)
    optimizer = make_optimizer(model, recipe.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), recipe.steps):
        rows = encode_lines(tokenizer, *draw_lines(four, arm, seed, step, count))
        batches, counted = micro_batches(rows, token_budget, tokenizer.pad)
        loss, _ = train_step(
            model, optimizer, batches,
            lambda b, c=counted: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                     b.loss_mask, c),
            schedule(step, recipe.steps, recipe.lr, recipe.warmup))
        log.record(step, **{"train/loss": loss,
                            "train/tokens": sum(len(row) - 1 for row, _ in rows)})
        if (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
    parallel.barrier()                                  # the first rank has written every line
    metrics = read_lines(log.out / "metrics.jsonl")
    parts = np.array_split([m["train/loss"] for m in metrics], 20)
    return model, {"train_losses": [float(part.mean()) for part in parts if len(part)],
                   "train_tokens": sum(m["train/tokens"] for m in metrics),
                   "train_examples": recipe.steps * count, "parameters": model.n_params}


def reinforce(recipe: Recipe, folder: Path, out: Path, seed: int,
              device: str) -> tuple[Transformer, dict]:
    """RL from the model in `folder` on problems with 4 numbers; the policy and what it has seen."""
    result = rl.run(rl.Config(
        init=str(folder), out=str(out), family="countdown", seed=seed, device=device,
        steps=recipe.rl_steps, prompts_per_step=recipe.rl_prompts, group_size=recipe.rl_group,
        min_level=4, max_level=4, rewards=Rewards(outcome=1.0, process=0.0),
        lr=recipe.rl_lr, save_every=recipe.save_every, eval_every=max(1, recipe.rl_steps // 4),
        validation_n=recipe.coverage_n, eval_n=recipe.coverage_n))
    metrics = [m for m in read_lines(out / "metrics.jsonl") if "train/reward" in m]
    model, _ = checkpoint.load(out, torch.device(device))
    return model, {"train_rewards": [float(np.mean(part)) for part in np.array_split(
                       [m["train/reward"] for m in metrics], 20) if len(part)],
                   "train_tokens": sum(m["train/generated_tokens"] for m in metrics),
                   "train_examples": recipe.rl_steps * recipe.rl_prompts * recipe.rl_group,
                   "parameters": model.n_params, "rl_seconds": result["seconds"]}
