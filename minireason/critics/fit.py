"""Training a critic: the values at step ends towards their labels, once for every stage."""

from collections.abc import Callable

import numpy as np
import torch

from minireason.core.config import TrainingConfig
from minireason.core.runlog import RunLog
from minireason.critics.value_head import Critic, critic_loss, rollout_ids, value_batches
from minireason.model import checkpoint
from minireason.model.tokenizer import STEP_ENDS, Tokenizer
from minireason.problems import Problem
from minireason.training.optim import make_optimizer, schedule, train_step

LabelledRow = tuple[list[int], int, list[float]]   # tokens, first counted index, a label per end


def labelled_rows(tokenizer: Tokenizer, problems: list[Problem], completions: list[str],
                  labels: list[list[float]]) -> list[LabelledRow]:
    """Whole rows (prompt, opener, completion) with the label of every step end."""
    ids = rollout_ids(tokenizer, problems, completions)
    return [(tokens, first, ends) for (tokens, first), ends in zip(ids, labels, strict=True)]


def fit_critic(log: RunLog, critic: Critic, tokenizer: Tokenizer, cfg: TrainingConfig,
               rows: list[LabelledRow], rng_at: Callable[[int], np.random.Generator],
               imitation: float) -> None:
    """Train the value head and its backbone; rng_at(step) chooses the rows of a step.

    imitation: weight of right thoughts' tokens beside the values (value_head.critic_loss).
    """
    ends = torch.tensor(tokenizer.ids_of(*STEP_ENDS))
    optimizer = make_optimizer(critic, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, critic, optimizer), cfg.steps):
        chosen = rng_at(step).integers(0, len(rows), cfg.rows_per_step)
        batches, count = value_batches([rows[i] for i in chosen], ends, cfg.token_budget,
                                       tokenizer.pad)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            critic, optimizer, batches,
            lambda batch, n=count: critic_loss(critic, batch, n, imitation), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        checkpoint.save_state_every(log, cfg, step, critic, optimizer)
