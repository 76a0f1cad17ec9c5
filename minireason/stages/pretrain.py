"""Pretraining: random weights -> a base model that knows facts and has seen a little reasoning.

Next-token prediction on everything that the mixture holds (mixture.py): facts, direct answers and
a thin tail of worked lines. Every token counts; there is no prompt to hide.

How to find the i-th operation of a nested expression is learnt all at once, after a plateau whose
length differs from seed to seed (docs/LOG.md). With a `target`, training ends a fixed number of
steps after validation accuracy reached it, so that seeds start post-training equally able.
"""

from dataclasses import dataclass, field

import torch

from minireason.core import parallel
from minireason.core.config import read_lines, resolve_device, rng, stream_seed
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import evaluate, frozen_sets, show
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import FAMILIES
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.sampler import Sampling
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step, trapezoid


@dataclass(frozen=True)
class Config:
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
    steps: int = 2600             # at most
    target: float = 0.45          # validation accuracy, step by step at target_level, from which
    target_level: int = 4         # the learning rate falls; 0: a cosine over all steps
    check_every: int = 25         # steps between two looks at it
    check_n: int = 200            # validation problems
    decay: int = 150              # steps of the fall, the last ones
    lines_per_step: int = 48      # B
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    lr: float = 2e-3              # peak learning rate
    warmup: int = 50              # steps
    weight_decay: float = 0.1
    save_every: int = 200         # steps between saved states
    eval_n: int = 500             # problems a level
    compile: bool = False         # torch.compile; pays for itself on a GPU only


def run(cfg: Config) -> dict:
    """Train from random weights; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    log = RunLog(cfg.out, "pretrain", cfg, parents={})
    if log.done:
        return log.done
    tokenizer = Tokenizer.build(FAMILIES[cfg.family].TOKENS)
    shape = ModelConfig(tokenizer.vocab_size, cfg.d_model, cfg.n_layers, cfg.n_heads, cfg.n_heads,
                        cfg.head_dim, cfg.d_ff, cfg.max_len)
    generator = torch.Generator().manual_seed(stream_seed(cfg.seed, "weights"))
    model = Transformer(shape).init_weights(generator).to(device)
    if cfg.compile:
        model.compile(dynamic=True)
    log.start(model, device)
    optimizer = make_optimizer(model, cfg.weight_decay)
    start = checkpoint.resume(log, model, optimizer)
    fall = fall_of(cfg, start, read_lines(log.out / "metrics.jsonl"))
    for step in log.steps(start, cfg.steps):
        if fall is not None and step == fall + cfg.decay:
            break
        lines = corpus_lines(cfg.mixture, FAMILIES[cfg.family], rng(cfg.seed, "pretrain", step),
                             cfg.lines_per_step)
        rows = encode_lines(tokenizer, [""] * len(lines), lines)
        batches, count = micro_batches(rows, cfg.token_budget, tokenizer.pad)
        lr = (trapezoid(step, cfg.lr, cfg.warmup, fall, cfg.decay) if cfg.target else
              schedule(step, cfg.steps, cfg.lr, cfg.warmup))
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                   b.loss_mask, n), lr)
        found = checked(cfg, step, fall, model, tokenizer)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count}, **found)
        if fall is None:
            fall = fall_of(cfg, step + 1, [{"step": step, **found}])
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
    return finish(cfg, log, model, tokenizer)


def checked(cfg: Config, step: int, fall: int | None, model: Transformer,
            tokenizer: Tokenizer) -> dict[str, float]:
    """The validation accuracy that is compared with the target, where this step looks at it."""
    if not cfg.target or fall is not None or (step + 1) % cfg.check_every:
        return {}
    sets = frozen_sets(cfg.family, "validation", cfg.check_n, (cfg.target_level,))
    (found,) = evaluate(model, tokenizer, sets, "cot", Sampling(temperature=0)).values()
    return {"eval/target": found["accuracy"]}


def fall_of(cfg: Config, step: int, records: list[dict]) -> int | None:
    """The step from which the learning rate falls, as far as the records before `step` tell."""
    for record in records:
        if record.get("eval/target", 0.0) >= cfg.target > 0:
            return record["step"] + 1
    last = cfg.steps - cfg.decay
    return last if cfg.target and step >= last else None


def finish(cfg: Config, log: RunLog, model: Transformer, tokenizer: Tokenizer) -> dict:
    """Save the weights, then measure direct and chain-of-thought accuracy on the frozen sets."""
    sha256 = checkpoint.save(cfg.out, model, tokenizer)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    greedy = Sampling(temperature=0)
    report = {style: evaluate(model, tokenizer, sets, style, greedy)
              for style in ("direct", "cot")}
    few = [sets[name][0] for name in list(sets)[:3]]
    log.samples(show(model, tokenizer, few, "cot", greedy))
    return log.finish(seconds=log.seconds(), weights=sha256, parameters=model.n_params,
                      accuracy=report)
