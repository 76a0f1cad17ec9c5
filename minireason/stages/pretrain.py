"""Pretraining: random weights -> a base model that knows facts and has seen a little reasoning.

Next-token prediction on everything that the mixture holds (corpus.py): facts, direct answers and
worked lines, all by fallible authors. Every token counts; there is no prompt to hide. The model
comes to err as its authors do and can get no further by imitation: `limit_rows` computes how far
that is, and `text_losses`, where the family knows how probable its problems are, the loss that no
model can beat. From `init` training continues with new lines and a learning rate that rises and
falls anew.
"""

from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from minireason.core import parallel
from minireason.core.config import TrainingConfig, rng, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.measure.evaluate import final_sets, finish_policy, grade
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import FAMILIES, authors
from minireason.problems.corpus import Mixture, corpus_lines, entropy_lines, per_token
from minireason.sampling.sampler import Sampling
from minireason.training.ahead import made_ahead, workers_for
from minireason.training.batches import (
    Batch,
    check_longest,
    encode_lines,
    micro_batches,
    pad_right,
)
from minireason.training.losses import gather_logprobs
from minireason.training.optim import likelihood_step, make_optimizer, schedule


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Stage 1: pretraining on facts, direct answers and worked lines."""

    init: str = ""                # folder of a policy of this shape to continue; "": random
    out: str = "runs/pretrain"
    mixture: Mixture = field(default_factory=Mixture)
    d_model: int = 96
    n_layers: int = 4             # L
    n_heads: int = 3              # H
    head_dim: int = 32            # D
    d_ff: int = 256
    max_len: int = 128            # tokens per row at most
    steps: int = 2000
    rows_per_step: int = 48       # B, lines
    optimizer: str = "muon"       # of the blocks' matrices: muon | adamw
    lr: float = 2e-3              # peak learning rate
    warmup: int = 50              # steps
    save_every: int = 200         # steps between saved states
    compile: bool = False         # torch.compile; pays for itself on a GPU only
    workers: int | None = None    # processes that draw ahead; None: 0 on a CPU, up to 8 for a GPU

    def __post_init__(self):
        check_choice("optimizer", self.optimizer, ("muon", "adamw"))


def run(cfg: Config) -> dict:
    """Train; returns result.json's content."""
    family = FAMILIES[cfg.family]
    tokenizer = Tokenizer.build(family.TOKENS)
    shape = ModelConfig(tokenizer.vocab_size, cfg.d_model, cfg.n_layers, cfg.n_heads, cfg.n_heads,
                        cfg.head_dim, cfg.d_ff, cfg.max_len)
    if cfg.init and checkpoint.load(cfg.init)[0].config != shape:
        raise UserError(f"{cfg.init}: is of another shape; give pretrain the --family, --d-model, "
                        "--n-layers, --n-heads, --head-dim, --d-ff and --max-len of its base")
    log, device = checkpoint.open_stage("pretrain", cfg, cfg.out, init=cfg.init)
    if log.done:
        return log.done
    check_longest(cfg.max_len, tokenizer, family, mixture=cfg.mixture)
    model = Transformer.random(shape, stream_seed(cfg.seed, "weights")).to(device)
    stream = "pretrain"
    if cfg.init:
        (model, tokenizer), stream = checkpoint.load(cfg.init, device), "pretrain continued"
    if cfg.compile:
        model.compile(dynamic=True)
    log.start(model, device)
    optimizer = make_optimizer(model, cfg.weight_decay, muon=cfg.optimizer == "muon")
    start = checkpoint.resume(log, model, optimizer)
    make = partial(step_data, cfg, tokenizer, stream, parallel.own())
    with closing(made_ahead(make, range(start, cfg.steps),
                            workers_for(device, cfg.workers))) as made:
        for step, (batches, count) in zip(log.steps(start, cfg.steps), made, strict=True):
            lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
            log.record(step, **likelihood_step(model, optimizer, batches, count, lr))
            checkpoint.save_state_every(log, cfg, step, model, optimizer)
    direct, _ = grade(model, tokenizer, final_sets(cfg), "direct", Sampling(temperature=0))
    result: dict[str, Any] = {"parameters": model.n_params}
    err = not cfg.mixture.authors.exact
    limits = limit_rows(cfg) if err and hasattr(family, "outcomes") else []
    if err and hasattr(family, "log_probability"):
        result |= text_losses(cfg, model, tokenizer)
    return finish_policy(log, cfg, model, tokenizer, limits, {"direct": direct}, None, **result)


def step_data(cfg: Config, tokenizer: Tokenizer, stream: str, mine: slice,
              step: int) -> tuple[list[Batch], int]:
    """A step's micro-batches of the rows of one rank, `mine`, and its global token count."""
    lines = corpus_lines(cfg.mixture, FAMILIES[cfg.family], rng(cfg.seed, stream, step),
                         cfg.rows_per_step)
    rows = encode_lines(tokenizer, [""] * len(lines), lines)
    return micro_batches(rows, cfg.token_budget, tokenizer.pad, mine=mine)


def limit_rows(cfg: Config) -> list[dict]:
    """What a perfect imitator of the authors would reach on every frozen set, exactly."""
    rows = []
    for name, problems in final_sets(cfg).items():
        found = authors.limits(FAMILIES[cfg.family], problems, cfg.mixture.authors)
        for kind, accuracy in found.items():
            rows.append({"set": name, "method": f"limit_{kind}", "accuracy": accuracy,
                         "problems": len(problems)})
    return rows


@torch.inference_mode()
def text_losses(cfg: Config, model: Transformer, tokenizer: Tokenizer) -> dict[str, float]:
    """Nats per token of fresh lines, <eos> included, each with its standard error.

    entropy: of the text, computed from its authors' rules. loss: the model's. excess: loss less
    entropy on the same lines, so no less than 0 but for chance, and known far better than either;
    of facts, direct and worked lines also alone, as nats per line.
    Recipes are chosen by other lines than results are measured on (`split`).
    """
    lines, entropy = entropy_lines(cfg.mixture, FAMILIES[cfg.family],
                                   seed=int(cfg.split == "validation"))
    rows, losses = encode_lines(tokenizer, [""] * len(lines), lines), []
    for start in range(0, len(rows), 64):
        batch = pad_right(rows[start:start + 64], tokenizer.pad).to(model.embedding.weight.device)
        logprobs = gather_logprobs(model(batch.inputs), batch.targets)          # (64, T)
        losses += (-logprobs * batch.loss_mask).sum(dim=1).tolist()
    tokens, found = np.array([len(row[0]) - 1 for row in rows]), {}
    loss = np.array(losses)
    for name, nats in (("entropy", entropy), ("loss", loss), ("excess", loss - entropy)):
        found[f"{name}_per_token"], found[f"{name}_error"] = per_token(nats, tokens)
    worked = np.array(["<think>" in line for line in lines])
    facts = np.array(["</think>" not in line for line in lines])
    for name, own in (("facts", facts), ("direct", ~worked & ~facts), ("worked", worked)):
        if own.any():
            found[f"excess_per_{name}_line"] = float((loss - entropy)[own].mean())
    return found
