"""The supervised loop, once, for stages that learn from what their own policy wrote.

STaR, the flywheel and self-correction differ in what they imitate; the loop is that of
stages/sft.py, where it stands written out.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minireason.core.config import TrainingConfig, read_lines
from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Family
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.training.batches import Row, encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step


def imitate(log: RunLog, model: Transformer, tokenizer: Tokenizer, cfg: TrainingConfig,
            rows_at: Callable[[int], list[Row]],
            counted: Callable[[Tensor], Tensor] | None = None,
            betas: tuple[float, float] = (0.9, 0.95), floor: float = 0.05) -> None:
    """Train the model on rows_at(step) for cfg.steps steps; resumes a run that was killed.

    counted: as for optim.supervised_step; betas: AdamW's; floor: the last learning rate / cfg.lr.
    """
    optimizer = make_optimizer(model, cfg.weight_decay, betas)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup, floor)
        log.record(step, **supervised_step(model, optimizer, rows_at(step), lr, cfg.token_budget,
                                           tokenizer.pad, counted))
        checkpoint.save_state_every(log, cfg, step, model, optimizer)


def run_rounds(log: RunLog, device: torch.device, name: str, n: int, first: str,
               run_round: Callable[[int, str], dict]) -> dict:
    """n rounds, each from the policy of the one before; the last one's policy is the stage's.

    run_round(number, policy folder) works in the folder `<name>-<number>` and returns its
    result.json; this returns the stage's. first: the folder of the first policy.
    """
    log.start(checkpoint.load(first, device)[0], device)
    log.rewind(0)
    history, rows, folder = [], [], Path(first)
    for number in range(1, n + 1):
        result = run_round(number, str(folder))
        folder = log.out / f"{name}-{number}"
        history.append(result)
        rows += [{**row, "round": number} for row in read_lines(folder / "rows.jsonl")]
        shares = {"time/seconds" if key == "seconds" else f"{log.stage}/{key}": value
                  for key, value in result.items() if isinstance(value, float)}
        accuracy = {f"eval/{key}": found["accuracy"]
                    for key, found in result["accuracy"]["cot"].items()}
        log.record(number, **shares, **accuracy)
    sha256 = checkpoint.save(log.out, *checkpoint.load(folder))
    log.samples((folder / "samples.txt").read_text().strip())
    return log.finish(rows, seconds=sum(result["seconds"] for result in history), weights=sha256,
                      accuracy=history[-1]["accuracy"], **{f"{name}s": history})


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
