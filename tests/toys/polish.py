"""A toy stage from one file: the RL policy, polished on a few ideal completions."""

from dataclasses import dataclass

from minireason.core.config import TrainingConfig, rng
from minireason.measure.evaluate import finish_policy
from minireason.model import checkpoint
from minireason.problems import FAMILIES, sample_levels
from minireason.training.batches import encode_lines
from minireason.training.imitate import imitate


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """A few steps on ideal completions."""

    init: str
    out: str = "runs/polish"
    steps: int = 4
    save_every: int = 2
    eval_n: int = 10


def run(cfg: Config) -> dict:
    """Polish the policy in `init`."""
    log, device = checkpoint.open_stage("polish", cfg, cfg.out, init=cfg.init)
    if log.done:
        return log.done
    model, tokenizer = checkpoint.load(cfg.init, device)
    family = FAMILIES[cfg.family]
    problems = sample_levels(family, rng(cfg.seed, "polish"), (1, 2), 20)
    rows = encode_lines(tokenizer, [p.prompt for p in problems],
                        [family.render(p, "cot") for p in problems])
    imitate(log, model, tokenizer, cfg, lambda step: rows)
    return finish_policy(log, cfg, model, tokenizer)
