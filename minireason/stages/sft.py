"""Supervised fine-tuning: a few chain-of-thought traces bind the format of thinking.

The loss counts completions only. A share of the traces is hinted (`<hint>answer` stands before the
thought), so that the policy can later explain an answer it is told: that is what STaR's
rationalization asks of it (Zelikman 2022, section 3.2). With `replay`, a share of every batch comes
from the pretraining mixture, so that few traces seen many times do not overwrite what the base
knew; the quickstart does without, which leaves STaR room to improve.
"""

from dataclasses import dataclass

from minireason.core.config import Share, TrainingConfig, rng
from minireason.measure.evaluate import finish_policy
from minireason.model import checkpoint
from minireason.problems import FAMILIES, sample_levels
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.training.batches import check_longest, encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Stage 2: chain-of-thought fine-tuning on few exact traces."""

    init: str                     # folder of the pretrained model; for replay, with its mixture
    out: str = "runs/sft"
    traces: int = 60              # worked examples in all, each seen many times
    min_level: int = 1
    max_level: int = 8            # longest trace
    hinted: Share = 0.25          # share of rows that show the answer first
    replay: Share = 0.0           # share of rows from the pretraining mixture
    steps: int = 30
    lr: float = 5e-4              # peak learning rate
    warmup: int = 10              # steps
    save_every: int = 50          # steps between saved states


def traces(cfg: Config) -> list[tuple[str, str, str]]:
    """(prompt, hint, completion) of every trace, levels in equal shares."""
    family = FAMILIES[cfg.family]
    problems = sample_levels(family, rng(cfg.seed, "sft traces"), (cfg.min_level, cfg.max_level),
                             cfg.traces)
    return [(p.prompt, f"<hint>{p.answer}", family.render(p, "cot")) for p in problems]


def run(cfg: Config) -> dict:
    """Fine-tune the model in `init`; returns result.json's content."""
    log, device = checkpoint.open_stage("sft", cfg, cfg.out, init=cfg.init)
    if log.done:
        return log.done
    model, tokenizer = checkpoint.load(cfg.init, device)
    log.start(model, device)
    pool, family = traces(cfg), FAMILIES[cfg.family]
    mixture = Mixture.of(cfg.init) if cfg.replay else None
    check_longest(model.config.max_len, tokenizer, family, cfg.max_level, mixture)
    n_replay = round(cfg.replay * cfg.rows_per_step)
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        generator = rng(cfg.seed, "sft", step)
        chosen = generator.integers(0, len(pool), cfg.rows_per_step - n_replay)
        hinted = generator.random(len(chosen)) < cfg.hinted
        prompts, completions = [], []
        for i, shown in zip(chosen, hinted, strict=True):
            prompt, hint, completion = pool[i]
            prompts.append(prompt + hint if shown else prompt)
            completions.append(completion)
        lines = corpus_lines(mixture, family, generator, n_replay) if mixture else []
        rows = encode_lines(tokenizer, prompts + [""] * len(lines), completions + lines)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        log.record(step, **supervised_step(model, optimizer, rows, lr, cfg.token_budget,
                                           tokenizer.pad))
        checkpoint.save_state_every(log, cfg, step, model, optimizer)
    return finish_policy(log, cfg, model, tokenizer)
