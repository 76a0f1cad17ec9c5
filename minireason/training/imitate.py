"""The supervised loop, once, for stages that learn from what their own policy wrote.

STaR, the flywheel and self-correction differ in what they imitate; the loop is that of
stages/sft.py, where it stands written out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minireason.core import parallel
from minireason.core.config import Share, TrainingConfig, rng, stream_seed
from minireason.core.files import read_lines, read_text, write_atomic
from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, sample_levels
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Row, check_longest, encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step


@dataclass(frozen=True, kw_only=True)
class OwnSamplesConfig(TrainingConfig):
    """The fields of a stage that learns from its policy's own samples of train problems."""

    init: str                     # folder of the policy
    problems: int
    min_level: int = 1
    max_level: int = 8
    n: int = 4                    # N samples per problem
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RoundsConfig(OwnSamplesConfig):
    """The fields of a stage that samples and imitates in turn (run_rounds)."""

    out: str                      # the last policy; each round has its own folder below it
    base: str                     # pretrained folder: its mixture is replayed; see restart
    restart: bool                 # each round trains `base` anew; else the last policy
    replay: Share = 0.5           # share of rows from the pretraining mixture


def sample_own(cfg: OwnSamplesConfig, policy: Transformer, tokenizer: Tokenizer, purpose: str,
               *number: int,
               max_new: int | None = None) -> tuple[list[Problem], list[list[str]]]:
    """New train problems, levels in equal shares, and the policy's N completions of each.

    purpose and number (of the round) name the random streams.
    """
    problems = sample_levels(FAMILIES[cfg.family], rng(cfg.seed, f"{purpose} problems", *number),
                             (cfg.min_level, cfg.max_level), cfg.problems)
    how = Sampling(n=cfg.n, temperature=cfg.temperature, max_new=max_new,
                   seed=stream_seed(cfg.seed, f"{purpose} samples", *number))
    return problems, complete(policy, tokenizer, problems, "cot", how)


def imitate(log: RunLog, model: Transformer, tokenizer: Tokenizer, cfg: TrainingConfig,
            rows_at: Callable[[int], list[Row]], betas: tuple[float, float] = (0.9, 0.95),
            floor: float = 0.05, muon: bool = False) -> None:
    """Train the model on rows_at(step) for cfg.steps steps; resumes a run that was killed.

    betas: AdamW's; floor: the last learning rate / cfg.lr; muon: for the blocks' matrices.
    """
    optimizer = make_optimizer(model, cfg.weight_decay, betas, muon)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup, floor)
        log.record(step, **supervised_step(model, optimizer, rows_at(step), lr, cfg.token_budget,
                                           tokenizer.pad))
        checkpoint.save_state_every(log, cfg, step, model, optimizer)


def run_rounds(stage: str, name: str, cfg: RoundsConfig, n: int,
               run_round: Callable[[int, str], dict], **parents: str) -> dict:
    """n rounds, each from the policy of the one before; the last one's policy is the stage's.

    run_round(number, policy folder) works in the folder `<name>-<number>` and returns its
    result.json; this returns the stage's. parents: folders beside cfg.init and cfg.base.
    """
    log, device = checkpoint.open_stage(stage, cfg, cfg.out, init=cfg.init, base=cfg.base,
                                        **parents)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.init, device)
    check_longest(policy.config.max_len, tokenizer, FAMILIES[cfg.family], cfg.max_level,
                  Mixture.of(cfg.base) if cfg.replay else None)
    log.start(policy, device)
    log.rewind(0)
    history, rows, folder = [], [], Path(cfg.init)
    for number in range(1, n + 1):
        result = run_round(number, str(folder))
        folder = log.out / f"{name}-{number}"
        history.append(result)
        rows += [{**row, "round": number} for row in read_lines(folder / "rows.jsonl")]
        metrics = {"time/seconds": result["seconds"]}
        for key, value in result.items():
            if isinstance(value, float) and key not in ("seconds", "flops"):
                metrics[f"{stage}/{key}"] = value
        for key, found in result["accuracy"]["cot"].items():
            metrics[f"eval/{key}"] = found["accuracy"]
        log.record(number, **metrics)
    sha256 = checkpoint.save(log.out, *checkpoint.load(folder))
    log.samples(read_text(folder / "samples.txt").strip())
    if parallel.is_main():
        write_atomic(log.out / "verdicts.json", read_text(folder / "verdicts.json"))
    return log.finish(rows, weights=sha256,
                      seconds=sum(result["seconds"] for result in history),
                      flops=sum(result["flops"] for result in history),
                      accuracy=history[-1]["accuracy"], **{f"{name}s": history})


def imitate_kept(log: RunLog, cfg: RoundsConfig, examples: Sequence[tuple[str, str]],
                 policy_folder: str, device: torch.device, purpose: str,
                 number: int) -> tuple[Transformer, Tokenizer]:
    """The round's policy, trained on the (prompt, completion) examples that it kept.

    Each batch replays the base's mixture, which keeps a model that sees few examples many times
    from forgetting (docs/LOG.md). purpose and number: as for sample_own. If nothing was kept,
    nothing is trained and the policy is passed on as it was.
    """
    if not examples:
        log.say("nothing was kept, so this round trains nothing and passes its policy on; lower "
                "--min-level, raise --n, or keep more")
        return checkpoint.load(policy_folder, device)
    model, tokenizer = checkpoint.load(cfg.base if cfg.restart else policy_folder, device)
    mixture = Mixture.of(cfg.base)
    n_replay = round(cfg.replay * cfg.rows_per_step)

    def rows_at(step: int) -> list[Row]:
        generator = rng(cfg.seed, f"{purpose} rows", number, step)
        prompts, completions = [], []
        for i in generator.integers(0, len(examples), cfg.rows_per_step - n_replay):
            prompts.append(examples[i][0])
            completions.append(examples[i][1])
        lines = corpus_lines(mixture, FAMILIES[cfg.family], generator, n_replay)
        return encode_lines(tokenizer, prompts + [""] * n_replay, completions + lines)

    imitate(log, model, tokenizer, cfg, rows_at)
    return model, tokenizer
