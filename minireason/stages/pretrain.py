"""Pretraining: random weights -> a base model that knows facts and has seen a little reasoning.

Next-token prediction on everything that the mixture holds (mixture.py): facts, direct answers and
a thin tail of worked lines. Every token counts; there is no prompt to hide.

How to find the i-th operation of a nested expression is learned all at once, after a plateau whose
length differs from seed to seed (docs/LOG.md). With a `target`, training ends a fixed number of
steps after validation accuracy reached it, so that seeds start post-training equally able.
"""

from dataclasses import dataclass, field

from minireason.core.config import TrainingConfig, rng, stream_seed
from minireason.measure.evaluate import evaluate, finish_policy, frozen_sets, rows_of
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import FAMILIES
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.sampler import Sampling
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step, trapezoid


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Stage 1: pretraining on facts, direct answers and a thin tail of worked lines."""

    out: str = "runs/pretrain"
    mixture: Mixture = field(default_factory=Mixture)
    d_model: int = 96
    n_layers: int = 4             # L
    n_heads: int = 3              # H
    head_dim: int = 32            # D
    d_ff: int = 256
    max_len: int = 128            # tokens per row at most
    steps: int = 2600             # at most
    rows_per_step: int = 48       # B, lines
    target: float = 0.45          # validation accuracy, step by step at target_level, from which
    target_level: int = 4         # the learning rate falls; 0: a cosine over all steps
    check_every: int = 25         # steps between two looks at it
    check_n: int = 200            # validation problems
    decay: int = 150              # steps of the fall, the last ones
    lr: float = 2e-3              # peak learning rate
    warmup: int = 50              # steps
    save_every: int = 200         # steps between saved states
    compile: bool = False         # torch.compile; pays for itself on a GPU only


def run(cfg: Config) -> dict:
    """Train from random weights; returns result.json's content."""
    log, device = checkpoint.open_stage("pretrain", cfg, cfg.out)
    if log.done:
        return log.done
    family = FAMILIES[cfg.family]
    tokenizer = Tokenizer.build(family.TOKENS)
    shape = ModelConfig(tokenizer.vocab_size, cfg.d_model, cfg.n_layers, cfg.n_heads, cfg.n_heads,
                        cfg.head_dim, cfg.d_ff, cfg.max_len)
    model = Transformer.random(shape, stream_seed(cfg.seed, "weights")).to(device)
    if cfg.compile:
        model.compile(dynamic=True)
    log.start(model, device)
    optimizer = make_optimizer(model, cfg.weight_decay)
    start = checkpoint.resume(log, model, optimizer)
    fall = log.saved.get("fall", cfg.steps - cfg.decay)   # from here the learning rate falls
    for step in log.steps(start, cfg.steps):
        if cfg.target and step == fall + cfg.decay:
            break
        lines = corpus_lines(cfg.mixture, family, rng(cfg.seed, "pretrain", step),
                             cfg.rows_per_step)
        rows = encode_lines(tokenizer, [""] * len(lines), lines)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        if cfg.target:
            lr = trapezoid(step, cfg.lr, cfg.warmup, fall, cfg.decay)
        record = supervised_step(model, optimizer, rows, lr, cfg.token_budget, tokenizer.pad)
        if cfg.target and step < fall and (step + 1) % cfg.check_every == 0:
            record["eval/target"] = accuracy_at_target(cfg, model, tokenizer)
            if record["eval/target"] >= cfg.target:
                fall = step + 1
        log.record(step, **record)
        checkpoint.save_state_every(log, cfg, step, model, optimizer, fall=fall)
    direct = evaluate(model, tokenizer, frozen_sets(cfg.family, "test", cfg.eval_n), "direct",
                      Sampling(temperature=0))
    return finish_policy(log, cfg, model, tokenizer, rows_of(direct, "direct"),
                         {"direct": direct}, parameters=model.n_params)


def accuracy_at_target(cfg: Config, model: Transformer, tokenizer: Tokenizer) -> float:
    """The validation accuracy that is compared with the target."""
    sets = frozen_sets(cfg.family, "validation", cfg.check_n, (cfg.target_level,))
    (found,) = evaluate(model, tokenizer, sets, "cot", Sampling(temperature=0)).values()
    return found["accuracy"]
