"""`minireason scale`: the laws of the two axes, drawn from our own runs.

    (a) loss and accuracy against pretraining compute, five model sizes or more at equal tokens
    (b) accuracy against RL compute             read from finished `minireason rl` folders
    (c) accuracy against test-time tokens, every method; coverage c = exp(a k^b) with the histogram
        of pass@1 that explains it              read from finished testtime and search folders
    (d) a small model that may think longer against one about 14 times larger, at equal total
        FLOPs, for three ratios of inference to pretraining tokens (Snell 2024, section 7)

(a) and (d) are run here, one resumable cell a model. Everything that a figure shows stands in
result.json: `--from FOLDER` fits its points anew and draws them without any run. The validation
loss counts the completion of worked lines, which the prompt determines: its entropy, the ideal E,
is zero.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from minireason.core import parallel
from minireason.core.config import (
    UserError,
    read_json,
    resolve_device,
    rng,
    stream_seed,
    write_atomic,
)
from minireason.core.runlog import RunLog
from minireason.measure.estimates import pass_at_k, vote_at, wilson
from minireason.measure.evaluate import answer_of, frozen_sets, verdicts_of
from minireason.measure.fits import inference_multiple, training_flops
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES
from minireason.problems.corpus import Mixture
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages import pretrain
from minireason.studies import scaling_figures as scale_figures
from minireason.studies.scaling_laws import laws, read_rl, read_search, read_testtime
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll

RATIOS = (0.16, 0.79, 22.0)           # R, inference tokens / pretraining tokens, as in Snell 2024


@dataclass(frozen=True)
class Sweep:
    """The pretraining runs of one size; shapes ascend."""

    shapes: tuple[tuple[int, int, int, int], ...]    # (d_model, n_layers, n_heads, d_ff)
    head_dim: int
    small: int                    # index of the model that thinks longer
    large: int                    # index of the one about 14 times its size
    steps: int
    lines_per_step: int
    lr: float
    n: int                        # N samples of the small model, a power of two
    levels: tuple[int, ...]       # difficulty bins of (d)
    problems: int                 # frozen test problems a level of (d)
    eval_n: int                   # frozen problems a level of (a)
    mixture: Mixture = field(default_factory=Mixture)


SIZES = {
    "smoke": Sweep(((8, 1, 1, 16), (8, 2, 1, 16), (16, 1, 1, 32), (16, 2, 1, 48), (32, 2, 2, 64)),
                   16, 0, 4, 20, 16, 3e-3, 4, (1, 2), 6, 4, Mixture(max_level=2)),
    "cpu": Sweep(((32, 2, 2, 96), (48, 3, 3, 128), (64, 3, 4, 176), (96, 4, 6, 256),
                  (128, 5, 8, 384)), 16, 0, 3, 1600, 48, 2e-3, 64, (1, 2, 4, 6), 200, 200),
    "gpu": Sweep(((64, 3, 2, 176), (128, 4, 4, 344), (192, 6, 6, 512), (256, 6, 8, 688),
                  (384, 8, 12, 1024), (512, 8, 16, 1376)), 32, 1, 4, 6000, 1024, 2e-3, 256,
                 (2, 4, 6, 8), 500, 500),
}


@dataclass(frozen=True)
class Config:
    """Loss, accuracy, RL and test-time compute: the fits and their figures."""

    out: str = "runs/scale"
    size: str = "cpu"             # smoke: shows that it works | cpu: 0.03 to 1.1M parameters | gpu
    seeds: tuple[int, ...] = (0,)
    rl: tuple[str, ...] = ()      # folders of finished RL runs, one a seed
    testtime: tuple[str, ...] = ()   # folders of finished test-time runs, one a seed
    search: tuple[str, ...] = ()  # folders of finished search runs, one a seed
    source: Annotated[str, tyro.conf.arg(name="from")] = ""   # only fit and draw this result.json
    device: str = "auto"

    def __post_init__(self):
        if self.size not in SIZES:
            raise UserError(f"--size {self.size}: choose from {', '.join(SIZES)}")
        if not self.seeds:
            raise UserError("--seeds: give at least one")


def run(cfg: Config) -> dict:
    """All cells, the finished ones read back; writes result.json and the figures."""
    if cfg.source:
        result = read_json(Path(cfg.source) / "result.json")
        result["fits"] = laws(result)
        Path(cfg.out).mkdir(parents=True, exist_ok=True)
        write_atomic(Path(cfg.out) / "result.json", json.dumps(result, indent=1) + "\n")
        scale_figures.draw_all(result, Path(cfg.out))
        return result
    device = parallel.init(resolve_device(cfg.device))
    log = RunLog(cfg.out, "scale", cfg, parents={})
    if not log.done:
        log.rewind(0)
        sweep, cells = SIZES[cfg.size], []
        for seed in cfg.seeds:
            for index in range(len(sweep.shapes)):
                cells.append(cell(cfg, log, index, seed, device))
                log.record(len(cells), **{"eval/loss": cells[-1]["loss"],
                                          "train/flops": cells[-1]["flops"]})
        kept = [{key: value for key, value in one.items() if key != "samples"} for one in cells]
        measured = {"cells": kept, "exchange": exchange(sweep, cells),
                    "rl": [read_rl(Path(folder)) for folder in cfg.rl],
                    "testtime": [read_testtime(Path(folder)) for folder in cfg.testtime],
                    "search": [read_search(Path(folder)) for folder in cfg.search]}
        log.finish(seconds=log.seconds(), **measured, fits=laws(measured))
    if parallel.is_main():
        scale_figures.draw_all(log.done, Path(cfg.out))
    parallel.barrier()
    return log.done


# ---- (a) one model of the sweep -----------------------------------------------------------------

def cell(cfg: Config, log: RunLog, index: int, seed: int, device: torch.device) -> dict:
    """Pretrain one shape and measure it; a finished cell is read back from scale.json."""
    sweep = SIZES[cfg.size]
    d_model, n_layers, n_heads, d_ff = sweep.shapes[index]
    out = Path(cfg.out) / "cells" / f"shape{index}-s{seed}"
    if (out / "scale.json").exists():
        return read_json(out / "scale.json")
    result = pretrain.run(pretrain.Config(
        out=str(out), mixture=sweep.mixture, seed=seed, device=cfg.device, d_model=d_model,
        n_layers=n_layers, n_heads=n_heads, head_dim=sweep.head_dim, d_ff=d_ff, steps=sweep.steps,
        rows_per_step=sweep.lines_per_step, lr=sweep.lr, target=0.0,   # equal tokens: no early end
        eval_n=sweep.eval_n))
    model, tokenizer = checkpoint.load(out, device)
    tokens = sum(json.loads(line)["train/tokens"]
                 for line in (out / "metrics.jsonl").read_text().splitlines())
    record = {"index": index, "seed": seed, "parameters": model.n_params, "tokens": tokens,
              "flops": training_flops(model.n_params, tokens),
              "loss": validation_loss(model, tokenizer, sweep.eval_n, sweep.mixture.max_level),
              "accuracy": result["accuracy"]["cot"]}
    if index in (sweep.small, sweep.large):
        record["samples"] = draw(sweep, model, tokenizer, seed, sweep.n if index == sweep.small
                                 else 1)
    if parallel.is_main():
        write_atomic(out / "scale.json", json.dumps(record) + "\n")
    parallel.barrier()
    log.say(f"shape {index}, seed {seed}: {model.n_params:,} parameters, loss {record['loss']:.4f}")
    return record


@torch.inference_mode()
def validation_loss(model: Transformer, tokenizer: Tokenizer, n: int, levels: int) -> float:
    """NLL a token of the worked completions of the frozen validation sets 1..levels, in nats."""
    sets = frozen_sets("chain", "validation", n, tuple(range(1, levels + 1)))
    problems = [problem for members in sets.values() for problem in members]
    rows = encode_lines(tokenizer, [p.prompt for p in problems],
                        [FAMILIES[p.family].render(p, "cot") for p in problems])
    device = model.embedding.weight.device
    batches, count = micro_batches(rows, 8192, tokenizer.pad)
    total = torch.zeros(1, device=device)
    for batch in (b.to(device) for b in batches):
        total += nll(model(batch.inputs, batch.cu_seqlens, batch.max_len), batch.targets,
                     batch.loss_mask, count)
    parallel.all_sum([total])
    return total.item()


# ---- (d) thinking longer or being larger --------------------------------------------------------

def draw(sweep: Sweep, model: Transformer, tokenizer: Tokenizer, seed: int, n: int) -> dict:
    """{set: [answers, correct]} of n samples a problem, greedy if n is 1; answers as ids."""
    sets = frozen_sets("chain", "test", sweep.problems, sweep.levels)
    drawn = {}
    for name, problems in sets.items():
        how = Sampling(n=n, temperature=float(n > 1), seed=stream_seed(seed, "scale", name))
        completions = complete(model, tokenizer, problems, "cot", how)
        verdicts = verdicts_of(problems, completions)
        drawn[name] = []
        for problem, texts, row in zip(problems, completions, verdicts, strict=True):
            ids = {None: -1, problem.answer: 0}
            answers = [ids.setdefault(answer_of(problem, t), len(ids) - 1) for t in texts]
            drawn[name].append([answers, [int(v.correct) for v in row]])
    return drawn


def exchange(sweep: Sweep, cells: list[dict]) -> list[dict]:
    """Per seed, level and R: the small model's vote at equal total FLOPs, and the large, greedy.

    The small model may draw as many samples as cost what the large one's single answer costs, its
    larger pretraining included; where that is more than were drawn, `capped` says so.
    """
    rows = []
    for small in (c for c in cells if c["index"] == sweep.small):
        large = next(c for c in cells
                     if c["index"] == sweep.large and c["seed"] == small["seed"])
        times = large["parameters"] / small["parameters"]
        for name, records in small["samples"].items():
            greedy = sum(correct[0] for _, correct in large["samples"][name])
            for ratio in RATIOS:
                wanted = int(inference_multiple(times, ratio))
                n = min(wanted, len(records[0][0]))
                votes = np.array([vote_at(np.array(answers), np.ones(len(answers)), 0, n,
                                          rng(small["seed"], "scale vote", name, i, n))
                                  for i, (answers, _) in enumerate(records)])
                bound = [pass_at_k(len(c), sum(c), n) for _, c in records]
                rows.append({
                    "set": name, "seed": small["seed"], "R": ratio, "times": times,
                    "samples": n, "capped": n < wanted, "problems": len(records),
                    "small_vote": interval(votes.sum(), len(votes)),
                    "small_oracle": interval(float(np.sum(bound)), len(votes)),
                    "small_single": interval(sum(np.mean(c) for _, c in records), len(votes)),
                    "large_greedy": interval(greedy, len(records))})
    return rows


def interval(successes: float, n: int) -> dict:
    """A proportion with its 95% Wilson interval; for shares of a problem it is conservative."""
    return dict(zip(("accuracy", "low", "high"), (float(successes) / n, *wilson(successes, n)),
                    strict=True))
