"""`minireason scale`: the laws of the two axes, drawn from our own runs.

    (a) loss and accuracy against pretraining compute, five model sizes or more at equal tokens
    (b) accuracy against RL compute             read from finished `minireason rl` folders
    (c) accuracy against test-time tokens, every method; coverage c = exp(a k^b) with the histogram
        of pass@1 that explains it              read from finished testtime and search folders
    (d) a small model that may think longer against one about 14 times larger, at equal total
        FLOPs, for three ratios of inference to pretraining tokens (Snell 2024, section 7)

(a) and (d) are run here, one resumable cell per model; `--from FOLDER` fits the points of its
result.json anew. The validation loss counts the completion of worked lines, which the prompt
determines: its entropy, the ideal E, is zero.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minireason.core import parallel
from minireason.core.config import stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.core.files import read_lines
from minireason.core.runlog import RunLog
from minireason.measure.estimates import Pool, expected_accuracy, share_interval
from minireason.measure.evaluate import frozen_sets
from minireason.measure.samples import load_pools, sample_records
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES
from minireason.problems.corpus import Mixture
from minireason.report import style
from minireason.report.runs import group_by, select
from minireason.sampling.sampler import Sampling
from minireason.stages import pretrain
from minireason.studies import fits, scaling_laws, shared
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.optim import batch_nll

RATIOS = (0.16, 0.79, 22.0)           # R, inference tokens / pretraining tokens, as in Snell 2024
METHODS = {"small_vote": "majority", "small_oracle": "coverage", "small_single": "single"}
COMPUTE = {"rl": "flops", "testtime": "tokens", "search": "tokens"}     # of a row, by kind of run
CURVES = {"rl": ("greedy", "sampled"), "testtime": style.METHODS, "search": style.METHODS}


@dataclass(frozen=True)
class Sweep:
    """The pretraining runs of one size; shapes ascend."""

    shapes: tuple[tuple[int, int, int, int], ...]    # (d_model, n_layers, n_heads, d_ff)
    small: int                    # index of the model that thinks longer
    large: int                    # index of the one about 14 times its size
    n: int                        # N samples of the small model, a power of two
    levels: tuple[int, ...]       # difficulty bins of (d)
    problems: int                 # frozen test problems per level of (d)
    training: pretrain.Config


SIZES = {
    "smoke": Sweep(((8, 1, 1, 16), (8, 2, 1, 16), (16, 1, 1, 32), (16, 2, 1, 48), (32, 2, 2, 64)),
                   0, 4, 4, (1, 2), 6, pretrain.Config(
                       head_dim=16, steps=20, rows_per_step=16, lr=3e-3, eval_n=4,
                       mixture=Mixture(max_level=2))),
    "cpu": Sweep(((32, 2, 2, 96), (48, 3, 3, 128), (64, 3, 4, 176), (96, 4, 6, 256),
                  (128, 5, 8, 384)), 0, 3, 64, (1, 2, 4, 6), 200, pretrain.Config(
                      head_dim=16, steps=1600, rows_per_step=48, lr=2e-3, eval_n=200)),
    "gpu": Sweep(((64, 3, 2, 176), (128, 4, 4, 344), (192, 6, 6, 512), (256, 6, 8, 688),
                  (384, 8, 12, 1024), (512, 8, 16, 1376)), 1, 4, 256, (2, 4, 6, 8), 500,
                 pretrain.Config(head_dim=32, steps=6000, rows_per_step=1024, lr=2e-3,
                                 eval_n=500)),
}


@dataclass(frozen=True)
class Config(shared.Study):
    """Loss, accuracy, RL and test-time compute: the fits and their figures."""

    size: str = "cpu"             # smoke: shows that it works | cpu: 0.03 to 1.1M parameters | gpu
    seeds: tuple[int, ...] = (0,)
    rl: tuple[str, ...] = ()      # folders of finished RL runs, one per seed
    testtime: tuple[str, ...] = ()   # folders of finished test-time runs, one per seed
    search: tuple[str, ...] = ()  # folders of finished search runs, one per seed
    device: str = "auto"

    def __post_init__(self):
        check_choice("size", self.size, SIZES)
        if not self.seeds:
            raise UserError("--seeds: give at least one")


def run(cfg: Config) -> dict:
    """All cells, the finished ones read back; writes result.json, table.md and the figures."""
    return shared.run_study("scale", cfg, measure, write)


def measure(cfg: Config, log: RunLog, device: torch.device) -> dict:
    """{"cells", "exchange", "points", "right"}: what is measured here, and what other runs say."""
    found = read_runs(vars(cfg))
    sweep, cells = SIZES[cfg.size], []
    for seed in cfg.seeds:
        for index in range(len(sweep.shapes)):
            name = f"cells/shape{index}-s{seed}"
            work = partial(trained_cell, cfg, log.out / name, index, seed, device)
            cells.append(log.once(f"{name}/scale.json", work))
    traded = exchange(sweep, cells)
    for cell in cells:
        cell.pop("samples", None)
    return {"cells": cells, "exchange": traded, **found}


def write(result: dict, out: Path) -> None:
    """fits.json, table.md and every figure."""
    laws = scaling_laws.laws(result)
    shared.write_json(out / "fits.json", {name: asdict(fit) for name, fit in laws.items()})
    scaling_laws.write_figures(result, laws, out)
    shared.write_table(out / "table.md", result, scaling_laws.laws_table(laws) + "\n")


# ---- (b) and (c) what other runs say ------------------------------------------------------------

def read_runs(folders: dict[str, tuple[str, ...]]) -> dict:
    """{"points", "right"} of finished runs {kind: folders}: rows that name a compute, and the
    curve of each; {set: [samples, right ones] per problem} of the test-time runs, of all seeds."""
    points, right = [], {}
    for kind, compute in COMPUTE.items():
        for run, folder in enumerate(map(Path, folders[kind])):
            rows = []
            for row in read_lines(folder / "rows.jsonl"):
                if row.get(compute) and row["method"] in CURVES[kind]:
                    rows.append({"curve": f"{kind} {row['set']}", "run": run, **row,
                                 "compute": row[compute]})
            if not rows:
                raise UserError(f"{folder}: no finished {kind} run (rows.jsonl has no curve)")
            points += rows
            if kind == "testtime":
                for name in group_by(rows, "set"):
                    for pool in load_pools(folder / "pools.npz", name, temperature=1.0):
                        count = [len(pool.correct), int(pool.correct.sum())]
                        right.setdefault(name, []).append(count)
    return {"points": points, "right": right}


# ---- (a) one model of the sweep -----------------------------------------------------------------

def trained_cell(cfg: Config, out: Path, index: int, seed: int, device: torch.device) -> dict:
    """Pretrain one shape and measure it."""
    sweep = SIZES[cfg.size]
    d_model, n_layers, n_heads, d_ff = sweep.shapes[index]
    training = replace(sweep.training, out=str(out), seed=seed, device=cfg.device, d_model=d_model,
                       n_layers=n_layers, n_heads=n_heads, d_ff=d_ff)
    result = pretrain.run(training)
    model, tokenizer = checkpoint.load(out, device)
    tokens = sum(line["train/tokens"] for line in read_lines(out / "metrics.jsonl"))
    cell = {"index": index, "seed": seed, "parameters": model.n_params, "tokens": tokens,
            "flops": fits.training_flops(model.n_params, tokens),
            "loss": validation_loss(model, tokenizer, training.eval_n, training.mixture.max_level),
            "accuracy": result["accuracy"]["cot"]}
    if index not in (sweep.small, sweep.large):
        return cell
    samples, n = {}, sweep.n if index == sweep.small else 1       # one, the large model's, greedy
    for name, problems in frozen_sets("chain", "test", sweep.problems, sweep.levels).items():
        how = Sampling(n=n, temperature=float(n > 1), seed=stream_seed(seed, "scale", name))
        samples[name] = sample_records(model, tokenizer, {}, problems, how)
    return {**cell, "samples": samples}


@torch.inference_mode()
def validation_loss(model: Transformer, tokenizer: Tokenizer, n: int, levels: int) -> float:
    """NLL per token of the worked completions of the frozen validation sets 1..levels, in nats."""
    prompts, completions = [], []
    for problems in frozen_sets("chain", "validation", n, tuple(range(1, levels + 1))).values():
        prompts += [problem.prompt for problem in problems]
        completions += [FAMILIES["chain"].render(problem, "cot") for problem in problems]
    device = model.embedding.weight.device
    total = torch.zeros(1, device=device)
    batches, count = micro_batches(encode_lines(tokenizer, prompts, completions), 8192,
                                   tokenizer.pad)
    for batch in batches:
        total += batch_nll(model, batch.to(device), count)
    parallel.all_sum([total])
    return total.item()


# ---- (d) thinking longer or being larger --------------------------------------------------------

def exchange(sweep: Sweep, cells: list[dict]) -> list[dict]:
    """Per seed, level and R: the small model's vote at equal total FLOPs, and the large, greedy.

    The small model may draw as many samples as cost what the large one's single answer costs, its
    larger pretraining included; where that is more than were drawn, `capped` says so.
    """
    rows = []
    for small in select(cells, index=sweep.small):
        (large,) = select(cells, index=sweep.large, seed=small["seed"])
        times = large["parameters"] / small["parameters"]
        for name, records in small["samples"].items():
            pools = [Pool.of(record, values="correct") for record in records]
            greedy = [record["correct"][0] for record in large["samples"][name]]
            for ratio in RATIOS:
                wanted = int(fits.inference_multiple(times, ratio))
                n = min(wanted, sweep.n)
                row = {"set": name, "seed": small["seed"], "R": ratio, "times": times,
                       "samples": n, "capped": n < wanted, "problems": len(records)}
                for key, method in METHODS.items():
                    values = expected_accuracy(pools, method, n, small["seed"], "scale vote", name)
                    row[key] = share_interval(values.sum(), len(values))
                row["large_greedy"] = share_interval(np.sum(greedy), len(greedy))
                rows.append(row)
    return rows
