"""Lee 2023's sample-efficiency table: how many examples teach 3-digit addition, by format.

Four models, equal but for how the same sums are written (problems/addition.py), are trained from
random weights on 1,000 to 10,000 examples. Published (arXiv:2307.03381, `sample_efficiency.csv` of
the authors' repository): written plainly, 2,000 sums teach nothing; worked out in detail, 1,000
teach everything.

Unlike the paper's NanoGPT ours has RMSNorm, RoPE, SwiGLU and no dropout, sees one example per row
instead of windows cut from running text, and is tested on our frozen set. Size "paper" has the
paper's parameters, steps and tokens per step; "cpu" a 70th of the parameters and a 160th of the
tokens. Both keep its rule: equal tokens, and four times the steps for scratchpads.
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minireason.core.config import rng
from minireason.core.errors import UserError, check_choice
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import evaluate, frozen_sets
from minireason.model.tokenizer import Tokenizer
from minireason.problems import Problem, addition, split_of
from minireason.report import tables
from minireason.sampling.sampler import Sampling
from minireason.studies import shared
from minireason.studies.shared import Recipe
from minireason.training.batches import Row, encode_lines
from minireason.training.imitate import imitate

COUNTS = (250, 500, 1000, 2000, 3000, 4000, 5000, 10_000, 20_000)    # training examples
PUBLISHED = {                         # test accuracy in %, one per count
    "plain": (0.0, 0.0, 0.4, 1.7, 28.7, 62.3, 81.1, 87.4, 90.1),
    "reverse": (0.0, 0.0, 1.6, 30.6, 79.1, 98.2, 99.8, 100.0, 100.0),
    "simplified": (0.4, 0.1, 84.6, 99.7, 99.8, 99.9, 100.0, 100.0, 100.0),
    "detailed": (59.5, 92.8, 99.8, 99.6, 100.0, 100.0, 99.9, 100.0, 100.0),
}
DIGITS = 3
SIZES = {      # plain and reverse; with a scratchpad 1/4 of the tokens, four times the steps
    "cpu": Recipe(d_model=64, n_layers=3, n_heads=4, head_dim=16, d_ff=172, rope_theta=100.0,
                  tokens_per_step=2048, steps=1000, token_budget=16_384, lr=4e-3, warmup=50),
    "paper": Recipe(d_model=384, n_layers=6, n_heads=6, head_dim=64, d_ff=1024, warmup=100,
                    tokens_per_step=65_536, steps=5000, token_budget=16_384, lr=1e-3),
    "tiny": Recipe(d_model=16, n_layers=1, n_heads=1, head_dim=16, d_ff=32, tokens_per_step=256,
                   steps=2, lr=1e-3, warmup=0),      # for tests: learns nothing
}


@dataclass(frozen=True)
class Config(shared.Study):
    """Lee 2023's table: one model per format and number of examples."""

    size: str = "cpu"             # cpu: a small model; paper: 10.6M parameters, for a GPU
    styles: tuple[str, ...] = ("plain", "reverse", "simplified", "detailed")
    examples: tuple[int, ...] = (1000, 2000, 5000, 10_000)
    split: str = "test"           # of the frozen set; validation: to choose a recipe
    eval_n: int = 500             # problems per model
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        check_choice("size", self.size, SIZES)
        for style in self.styles:
            check_choice("styles", style, addition.STYLES)
        if not self.styles or not self.examples or min(self.examples) < 1:
            raise UserError("--styles and --examples: give at least one of each, counts above 0")


def run(cfg: Config) -> dict:
    """All models, the finished ones read back; writes result.json and table.md."""
    return shared.run_study("reproduce", cfg, measure, write)


def measure(cfg: Config, log: RunLog, device: torch.device) -> dict:
    """{"split", "cells"}: a cell per number of examples and style."""
    cells = []
    for n in cfg.examples:
        for style in cfg.styles:
            cell = log.once(f"cells/{style}-{n}.json", partial(trained, cfg, log, style, n, device))
            log.say(f"{style} {n}: {cell['accuracy']:.1%} of {cell['n']}")
            cells.append(cell)
    return {"split": cfg.split, "cells": cells}


def trained(cfg: Config, study: RunLog, style: str, n: int, device: torch.device) -> dict:
    """The accuracy of one model, trained from random weights on n examples of a style."""
    log = RunLog(f"{study.out}/cells/{style}-{n}", "reproduce-cell", cfg, parents={})
    tokenizer, recipe = Tokenizer.build(addition.TOKENS), SIZES[cfg.size]
    lines = [p.prompt + addition.render(p, style) for p in training_set(DIGITS, n, cfg.seed)]
    rows = encode_lines(tokenizer, [""] * n, lines)            # all tokens count, as in the paper
    lengths = [len(row) for row, _ in rows]
    cut = 4 if addition.OPENER[style] == "<think>" else 1      # tokens per step, of a scratchpad
    per_step = max(1, round(recipe.tokens_per_step // cut * n / (sum(lengths) - n)))
    recipe = replace(recipe, rows_per_step=per_step, steps=recipe.steps * cut)
    model = shared.random_model(tokenizer, recipe, cfg.seed, 2 * max(lengths), recipe.rope_theta)
    log.start(model.to(device), device)

    def rows_at(step: int) -> list[Row]:
        chosen = rng(cfg.seed, "rows", style, n, step).integers(0, n, per_step)
        return [rows[i] for i in chosen]

    imitate(log, model, tokenizer, recipe, rows_at, betas=(0.9, 0.99), floor=0.1)
    sets = frozen_sets("addition", cfg.split, cfg.eval_n, (DIGITS,))
    (problems,) = sets.values()
    longest = max(len(tokenizer.encode(addition.render(p, style))) for p in problems)
    how = Sampling(temperature=0, max_new=longest + 8)
    (report,) = evaluate(model, tokenizer, sets, style, how).values()
    return {"style": style, "examples": n, "parameters": model.n_params, **report}


def sample_balanced(generator: np.random.Generator, level: int) -> Problem:
    """Training data balanced as in Lee 2023, section 3: few short numbers, all carry counts.

    A tenth of the problems has fewer digits, a tenth of those fewer still (at 3 digits: 1%, 9%,
    90%); the number of carries is then uniform. The paper fills quotas, we draw independently.
    """
    digits = level
    while digits > 1 and generator.random() < 0.1:
        digits -= 1
    wanted = int(generator.integers(0, digits + 1))
    while True:
        problem = addition.sample(generator, digits)
        summands = sum(map(int, re.sub(r"\D", "", problem.prompt)))      # digit sums; each carry
        if summands - sum(map(int, problem.answer)) == 9 * wanted:       # makes the answer's 9 less
            return problem


def training_set(digits: int, n: int, seed: int) -> list[Problem]:
    """n different balanced problems of the train split; a larger set begins with the smaller."""
    generator, found, fruitless = rng(seed, "examples", digits), {}, 0
    while len(found) < n:
        problem = sample_balanced(generator, digits)
        fruitless += 1
        if split_of(problem) == "train" and problem.prompt not in found:
            found[problem.prompt], fruitless = problem, 0
        if fruitless > 1000 + 20 * len(found):
            raise UserError(f"--examples {n}: {digits}-digit addition has only about {len(found)} "
                            "training problems")
    return list(found.values())


def write(result: dict, out: Path) -> None:
    """table.md: measured % [95% Wilson interval] / published %, a row per number of examples."""
    cells = result["cells"]
    table = tables.pivot(cells, "examples", "style", text=beside_published)
    text = (f"{result['split'].capitalize()} accuracy in % on {cells[0]['n']} problems of {DIGITS}-"
            "digit addition [95% Wilson interval]; after the slash, Lee 2023 (10.6M parameters). "
            f"Ours: {cells[0]['parameters'] / 1e6:.2f}M parameters.\n\n{tables.markdown(table)}\n")
    shared.write_table(out / "table.md", result, text)


def beside_published(cells: list[dict]) -> str:
    """`25.0 [20.0, 31.0] / 0.4`: the accuracy of one cell, and the paper's."""
    published = dict(zip(COUNTS, PUBLISHED.get(cells[0]["style"], ()), strict=False))
    paper = published.get(cells[0]["examples"], "–")
    return f"{tables.accuracy_text(cells, digits=1)} / {paper}"
