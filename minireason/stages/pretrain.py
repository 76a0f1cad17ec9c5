"""Pretraining: random weights -> a base model that knows facts and has seen a little reasoning.

Next-token prediction on everything that the mixture holds (mixture.py): facts, direct answers and
a thin tail of worked lines. Every token counts; there is no prompt to hide.
"""

from dataclasses import dataclass, field

import torch

from minireason import checkpoint, parallel
from minireason.batches import encode_lines, micro_batches
from minireason.config import resolve_device, rng, stream_seed
from minireason.evaluate import evaluate, frozen_sets, show
from minireason.generate import Sampling
from minireason.losses import nll
from minireason.mixture import Mixture, draw_line
from minireason.model import ModelConfig, Transformer
from minireason.optim import make_optimizer, schedule, train_step
from minireason.problems import FAMILIES
from minireason.runlog import RunLog
from minireason.tokenizer import Tokenizer


@dataclass(frozen=True)
class PretrainConfig:
    """Stage 1: pretraining on facts, direct answers and a thin tail of worked lines."""

    out: str = "runs/pretrain"
    mixture: Mixture = field(default_factory=Mixture)
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    d_model: int = 96
    n_layers: int = 4             # L
    n_heads: int = 3              # H
    head_dim: int = 32            # D
    d_ff: int = 256
    max_len: int = 128            # tokens a row at most
    steps: int = 2000
    lines_per_step: int = 48      # B
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    lr: float = 2e-3              # peak learning rate
    warmup: int = 50              # steps
    weight_decay: float = 0.1
    save_every: int = 200         # steps between saved states
    eval_n: int = 500             # problems a level
    compile: bool = False         # torch.compile; pays for itself on a GPU only


def run(cfg: PretrainConfig) -> dict:
    """Train from random weights; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    log = RunLog(cfg.out, "pretrain", cfg, parents={})
    if log.done:
        return log.done
    tokenizer = Tokenizer.build(FAMILIES[cfg.family].NUMBER_WIDTH)
    shape = ModelConfig(tokenizer.vocab_size, cfg.d_model, cfg.n_layers, cfg.n_heads, cfg.n_heads,
                        cfg.head_dim, cfg.d_ff, cfg.max_len)
    generator = torch.Generator().manual_seed(stream_seed(cfg.seed, "weights"))
    model = Transformer(shape).init_weights(generator).to(device)
    if cfg.compile:
        model.compile(dynamic=True)
    log.start(model, device)
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        lines_rng = rng(cfg.seed, "pretrain", step)
        lines = [draw_line(cfg.mixture, cfg.family, lines_rng) for _ in range(cfg.lines_per_step)]
        rows = encode_lines(tokenizer, [""] * len(lines), lines)
        batches, count = micro_batches(rows, cfg.token_budget, tokenizer.pad,
                                       packed=device.type == "cuda")
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                   b.loss_mask, n), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
    return finish(cfg, log, model, tokenizer)


def finish(cfg: PretrainConfig, log: RunLog, model: Transformer, tokenizer: Tokenizer) -> dict:
    """Save the weights, then measure direct and chain-of-thought accuracy on the frozen sets."""
    sha256 = checkpoint.save(cfg.out, model, tokenizer)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    greedy = Sampling(temperature=0)
    report = {style: evaluate(model, tokenizer, sets, style, greedy) for style in
              FAMILIES[cfg.family].STYLES}
    few = [sets[name][0] for name in list(sets)[:3]]
    log.samples(show(model, tokenizer, few, "cot", greedy))
    return log.finish(seconds=log.seconds(), weights=sha256, parameters=model.n_params,
                      accuracy=report)
