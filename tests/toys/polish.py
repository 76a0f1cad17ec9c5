"""A toy stage from one file: the RL policy, polished on a few ideal completions."""

from dataclasses import dataclass

from minireason.core.config import TrainingConfig, rng
from minireason.measure.evaluate import finish_policy
from minireason.model import checkpoint
from minireason.problems import FAMILIES, sample_levels
from minireason.problems.corpus import Mixture
from minireason.training.imitate import imitate, replayed_rows


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """A few steps on ideal completions."""

    init: str
    out: str = "runs/polish"
    steps: int = 4
    rows_per_step: int = 8
    save_every: int = 2
    eval_n: int = 10


def run(cfg: Config) -> dict:
    """Polish the policy in `init`."""
    log, device = checkpoint.open_stage("polish", cfg, cfg.out, init=cfg.init)
    if log.done:
        return log.done
    model, tokenizer = checkpoint.load(cfg.init, device)
    family = FAMILIES[cfg.family]
    examples = [(p.prompt, family.render(p, "cot"))
                for p in sample_levels(family, rng(cfg.seed, "polish"), (1, 2), 20)]
    imitate(log, model, tokenizer, cfg, lambda step: replayed_rows(
        tokenizer, examples, cfg.rows_per_step, Mixture(), family, 0.0,
        rng(cfg.seed, "rows", step)))
    return finish_policy(log, cfg, model, tokenizer)
