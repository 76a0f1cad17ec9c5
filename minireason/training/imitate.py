"""The supervised loop, once, for stages that learn from what their own policy wrote.

STaR, the flywheel and self-correction differ in what they imitate; the loop is that of
stages/sft.py, where it stands written out.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Family
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.training.batches import Row, encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step


class Recipe(Protocol):
    """What a training loop reads of a stage's Config."""

    steps: int
    rows_per_step: int            # B
    token_budget: int             # tokens per micro-batch; never changes the gradient
    lr: float                     # peak learning rate
    warmup: int                   # steps
    weight_decay: float
    save_every: int               # steps between saved states


def imitate(log: RunLog, model: Transformer, tokenizer: Tokenizer, recipe: Recipe,
            rows_at: Callable[[int], list[Row]],
            counted: Callable[[Tensor], Tensor] | None = None) -> None:
    """Train the model on rows_at(step) for recipe.steps steps; resumes a run that was killed.

    counted: which of the targets (..., T) count, as bool (..., T), beside those of each row.
    """
    optimizer = make_optimizer(model, recipe.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), recipe.steps):
        rows = rows_at(step)
        batches, count = micro_batches(rows, recipe.token_budget, tokenizer.pad)
        if counted is not None:
            for batch in batches:
                batch.loss_mask.mul_(counted(batch.targets))
            for tokens, _ in rows:                # all rows of all ranks, as in micro_batches
                count -= int((~counted(torch.tensor(tokens[1:]))).sum())
        lr = schedule(step, recipe.steps, recipe.lr, recipe.warmup)
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                   b.loss_mask, n), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        if (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)


def replayed_rows(tokenizer: Tokenizer, examples: Sequence[Sequence[str]], n: int,
                  mixture: Mixture | None, family: Family, share: float,
                  rng: np.random.Generator) -> list[Row]:
    """n rows: random (prompt, completion) examples, and a `share` of lines of the mixture.

    The replay keeps a model that sees few examples many times from forgetting (docs/LOG.md).
    """
    n_replay = round(share * n)
    chosen = [examples[i] for i in rng.integers(0, len(examples), n - n_replay)]
    lines = corpus_lines(mixture, family, rng, n_replay) if mixture else []
    return encode_lines(tokenizer, [prompt for prompt, _ in chosen] + [""] * len(lines),
                        [completion for _, completion in chosen] + lines)
