"""What the training assignments share: a policy to start from, fine-tuning, accuracy, a table.

The policy comes from a finished run (`--run DIR`, stage `sft`) or is trained here, once
(`runs/assignments`), small enough for a few minutes of one core. Each experiment prints a table and
writes it to `results.json` for the report.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from student import load

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.measure.evaluate import frozen_sets, verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Problem, chain, sample_split
from minireason.problems.corpus import Mixture
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages import pretrain, sft
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step

OWN = "runs/assignments"


@dataclass
class Setting:
    """What an experiment works with."""

    functions: ModuleType     # the student's
    start: str                # folder of the policy
    levels: tuple[int, ...]   # of the problems: those the policy is neither sure of nor lost at
    seeds: tuple[int, ...]
    small: bool               # the tests' size: runs in seconds, shows nothing


def setting(description: str) -> Setting:
    """From the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("solution", help="your starter.py, filled in")
    parser.add_argument("--run", default="", help="a finished run, whose stage sft is the start")
    parser.add_argument("--levels", type=int, nargs="+", help="of the problems")
    parser.add_argument("--seeds", type=int, default=3, help="how many repetitions (default 3)")
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not Path(options.solution).is_file():
        raise SystemExit(f"{options.solution}: no such file")
    if options.run and not (Path(options.run) / "sft" / "result.json").is_file():
        raise SystemExit(f"{options.run}: holds no finished stage sft; run `minireason run` first, "
                         "or leave --run out")
    if options.seeds < 1:
        raise SystemExit("--seeds must be at least 1")
    try:
        start = f"{options.run}/sft" if options.run else own_policy(options.small)
    except UserError as error:
        raise SystemExit(str(error)) from None
    levels = options.levels or ((4, 5, 6) if options.run else (1, 2) if options.small else (2, 3))
    if not set(levels) <= {*chain.LEVELS}:
        raise SystemExit(f"--levels {levels}: must lie in 1 to {max(chain.LEVELS)}")
    return Setting(load(options.solution), start, tuple(levels), tuple(range(options.seeds)),
                   options.small)


def own_policy(small: bool) -> str:
    """Folder of a policy that is pretrained and fine-tuned here; what is finished is kept."""
    out = f"{OWN}-small" if small else OWN
    shape = {"d_model": 48, "n_layers": 2, "n_heads": 3, "head_dim": 16, "d_ff": 96}
    if not small:
        shape = {"d_model": 64, "n_layers": 3, "n_heads": 4, "head_dim": 16, "d_ff": 160}
    pretrain.run(pretrain.Config(
        out=f"{out}/pretrain", device="cpu", steps=20 if small else 1500, lr=4e-3, eval_n=20,
        rows_per_step=32, mixture=Mixture(facts=0.15, direct=0.1, max_level=3, facts_per_line=3),
        **shape))
    sft.run(sft.Config(init=f"{out}/pretrain", out=f"{out}/sft", device="cpu", max_level=3,
                       steps=5 if small else 30, rows_per_step=32, eval_n=20))
    return f"{out}/sft"


def train_problems(levels: tuple[int, ...], n: int, seed: int, *purpose: object) -> list[Problem]:
    """n problems of the train split, levels in turn."""
    generator = rng(seed, "assignment", *purpose)
    return [sample_split(chain, generator, levels[i % len(levels)], "train") for i in range(n)]


def validation_problems(levels: tuple[int, ...], n: int) -> list[Problem]:
    """n frozen problems of each level; no training problem is among them."""
    return [p for members in frozen_sets("chain", "validation", n, levels).values()
            for p in members]


def fine_tuned(start: str, examples: list[tuple[str, str]], steps: int, seed: int,
               lr: float = 3e-4) -> tuple[Transformer, Tokenizer]:
    """The policy in `start`, trained on (prompt, completion) pairs; untouched if there are none."""
    policy, tokenizer = checkpoint.load(start)
    optimizer = make_optimizer(policy, 0.1)
    for step in range(steps if examples else 0):
        chosen = rng(seed, "assignment rows", step).integers(0, len(examples), 32)
        rows = encode_lines(tokenizer, [examples[i][0] for i in chosen],
                            [examples[i][1] for i in chosen])
        supervised_step(policy, optimizer, rows, schedule(step, steps, lr, 10), 1024, tokenizer.pad)
    return policy, tokenizer


def right(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem]) -> np.ndarray:
    """(P,) 1.0 where the greedy completion is right."""
    texts = complete(policy, tokenizer, problems, "cot", Sampling(temperature=0))
    return np.array([row[0].correct for row in verdicts_of(problems, texts)], dtype=float)


def run(description: str, experiment: Callable[[Setting], list[dict]]) -> None:
    """Run an experiment, print its rows as a table, and write results.json."""
    began, given = time.monotonic(), setting(description)
    try:
        rows = experiment(given)
    except NotImplementedError:
        raise SystemExit(f"{given.functions.__file__}: a function is not written yet; `python "
                         "grade.py` says which") from None
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = [[f"{row[n]:.3f}" if isinstance(row.get(n), float) else str(row.get(n, ""))
              for n in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *shown, strict=True)]
    for line in (names, *shown):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    Path("results.json").write_text(json.dumps(
        {"start": given.start, "levels": given.levels, "seeds": given.seeds, "rows": rows},
        indent=1))
    print(f"results.json written, {time.monotonic() - began:.0f} s", file=sys.stderr)
