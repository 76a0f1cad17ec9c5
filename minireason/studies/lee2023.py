"""Lee 2023's sample-efficiency table: how many examples teach 3-digit addition, by format.

Four models, equal but for how the same sums are written (problems/addition.py), are trained from
random weights on 1,000 to 10,000 examples. Published (arXiv:2307.03381, `sample_efficiency.csv` of
the authors' repository): written plainly, 2,000 sums teach nothing; worked out in detail, 1,000
teach everything.

Unlike the paper's NanoGPT ours has RMSNorm, RoPE, SwiGLU and no dropout, is tested on our frozen
set, and sees one example per row; with `--window 256` it sees, as the paper's, windows cut from
running text, which takes away what it knows from few examples. Size "paper" has the
paper's parameters, steps and tokens per step; "cpu" a 70th of the parameters and a 40th of the
tokens. Both keep its rule: equal tokens, and four times the steps for scratchpads; but "cpu" gives
`detailed` twice as many, as its rows are five times as long.

Every model has its own folder and may be trained by a process of its own:

    minireason sweep --command reproduce --vary seeds=0,1,2 examples=1000,2000,5000,10000 \\
        styles=plain,reverse,simplified,detailed --out runs/reproduce/cells
    minireason reproduce              reads back what is there, trains what is not
"""

import itertools
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minireason.core.config import rng
from minireason.core.errors import UserError, check_choice
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import accuracy_of, frozen_sets, grade
from minireason.model.tokenizer import Tokenizer
from minireason.problems import Problem, addition, split_of
from minireason.report import tables
from minireason.report.runs import group_by
from minireason.sampling.sampler import Sampling
from minireason.studies import shared
from minireason.studies.shared import Recipe
from minireason.training.batches import Row, encode_lines, rows_before
from minireason.training.imitate import imitate

COUNTS = (250, 500, 1000, 2000, 3000, 4000, 5000, 10_000, 20_000)    # training examples
PUBLISHED = {                         # test accuracy in %, one per count
    "plain": (0.0, 0.0, 0.4, 1.7, 28.7, 62.3, 81.1, 87.4, 90.1),
    "reverse": (0.0, 0.0, 1.6, 30.6, 79.1, 98.2, 99.8, 100.0, 100.0),
    "simplified": (0.4, 0.1, 84.6, 99.7, 99.8, 99.9, 100.0, 100.0, 100.0),
    "detailed": (59.5, 92.8, 99.8, 99.6, 100.0, 100.0, 99.9, 100.0, 100.0),
}
DIGITS, NEAR = 3, 5.0              # points within which a cell counts as the published one
LONGER = {"detailed": {"cpu": 2}}     # times the steps, by format and size
SIZES = {      # plain and reverse; with a scratchpad 1/4 of the tokens, four times the steps
    "cpu": Recipe(d_model=64, n_layers=3, n_heads=4, head_dim=16, d_ff=172, rope_theta=100.0,
                  tokens_per_step=2048, steps=4000, token_budget=16_384, lr=4e-3, warmup=50),
    "paper": Recipe(d_model=384, n_layers=6, n_heads=6, head_dim=64, d_ff=1024, warmup=100,
                    tokens_per_step=65_536, steps=5000, token_budget=16_384, lr=1e-3),
    "tiny": Recipe(d_model=16, n_layers=1, n_heads=1, head_dim=16, d_ff=32, tokens_per_step=256,
                   steps=2, lr=1e-3, warmup=0),      # for tests: learns nothing
}


@dataclass(frozen=True)
class Config(shared.Study):
    """Lee 2023's table: one model per format, number of examples and seed."""

    size: str = "cpu"             # cpu: a small model; paper: 10.6M parameters, for a GPU
    styles: tuple[str, ...] = ("plain", "reverse", "simplified", "detailed")
    examples: tuple[int, ...] = (1000, 2000, 5000, 10_000)
    window: int = 0               # tokens per row, cut from all examples in turn; 0: one example
    extra_steps: float = 0.0      # added to the recipe's, as a share of them: 3 makes four times
    split: str = "test"           # of the frozen set; validation: to choose a recipe
    eval_n: int = 500             # problems per model
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "auto"

    def __post_init__(self):
        check_choice("size", self.size, SIZES)
        for style in self.styles:
            check_choice("styles", style, addition.STYLES)
        if self.extra_steps < 0:
            raise UserError(f"--extra-steps {self.extra_steps}: give 0 or more")
        if not (self.styles and self.examples and self.seeds) or min(self.examples) < 1:
            raise UserError("--styles, --examples and --seeds: give at least one of each, counts "
                            "above 0")


def run(cfg: Config) -> dict:
    """All models, the finished ones read back; writes result.json and table.md."""
    return shared.run_study("reproduce", cfg, measure, write)


def measure(cfg: Config, log: RunLog, device: torch.device) -> dict:
    """{"split", "cells"}: a cell per number of examples, style and seed, each in its own folder."""
    parts = parts_of(cfg, log.out)
    if len(parts) == 1:
        return {"split": cfg.split, "cells": [trained(cfg, log, device)]}
    cells = []
    for part in parts:
        cells += run(part)["cells"]
    return {"split": cfg.split, "cells": cells}


def parts_of(cfg: Config, out: Path) -> list[Config]:
    """The study of each model alone, in the folder that a sweep over all three fields gives it."""
    found = []
    for n, style, seed in itertools.product(cfg.examples, cfg.styles, cfg.seeds):
        folder = out / "cells" / f"seeds={seed}_examples={n}_styles={style}"
        found.append(replace(cfg, examples=(n,), styles=(style,), seeds=(seed,), out=str(folder)))
    return found


def trained(cfg: Config, log: RunLog, device: torch.device) -> dict:
    """The accuracy of the one model of a study; resumes from its last saved state if killed."""
    (style,), (n,), (seed,) = cfg.styles, cfg.examples, cfg.seeds
    tokenizer, recipe = Tokenizer.build(addition.TOKENS), SIZES[cfg.size]
    lines = [p.prompt + addition.render(p, style) for p in training_set(DIGITS, n, seed)]
    rows = encode_lines(tokenizer, [""] * n, lines)            # all tokens count, as in the paper
    lengths = [len(row) for row, _ in rows]
    cut = 4 if addition.OPENER[style] == "<think>" else 1      # tokens per step, of a scratchpad
    row_tokens = cfg.window or sum(lengths) / n - 1
    before = partial(rows_before, recipe.tokens_per_step / cut / row_tokens)
    longer = LONGER.get(style, {}).get(cfg.size, 1) * (1 + cfg.extra_steps)
    recipe = replace(recipe, steps=round(recipe.steps * cut * longer))
    text = [token for row, _ in rows for token in row]
    if len(text) <= cfg.window:
        raise UserError(f"--window {cfg.window}: {n} examples have {len(text)} tokens; give fewer")
    model = shared.random_model(tokenizer, recipe, seed, max(2 * max(lengths), cfg.window),
                                recipe.rope_theta)
    log.start(model.to(device), device)

    def rows_at(step: int) -> list[Row]:
        generator, per_step = rng(seed, "rows", style, n, step), before(step + 1) - before(step)
        if cfg.window:
            starts = generator.integers(0, len(text) - cfg.window, per_step)
            return [(text[i:i + cfg.window + 1], 1) for i in starts]
        return [rows[i] for i in generator.integers(0, n, per_step)]

    imitate(log, model, tokenizer, recipe, rows_at, betas=(0.9, 0.99), floor=0.1)
    sets = frozen_sets("addition", cfg.split, cfg.eval_n, (DIGITS,))
    (problems,) = sets.values()
    longest = max(len(tokenizer.encode(addition.render(p, style))) for p in problems)
    graded, _ = grade(model, tokenizer, sets, style, Sampling(temperature=0, max_new=longest + 8))
    (verdicts,) = graded.values()
    return {"style": style, "examples": n, "seed": seed, "parameters": model.n_params,
            "passes": round(before(recipe.steps) * row_tokens / (len(text) - n), 1),
            **accuracy_of(verdicts),
            "digits": "".join(str(int(verdict.correct)) for verdict in verdicts)}


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
    """table.md: measured % [95% interval] / published %, a row per number of examples."""
    cells = result["cells"]
    table = tables.pivot(cells, "examples", "style", text=beside_published)
    table[0].append(f"within {NEAR:g} points")
    for line, of_row in zip(table[1:], group_by(cells, "examples").values(), strict=True):
        near = [style for style, own in group_by(of_row, "style").items() if is_near(own)]
        line.append(", ".join(near) or "none")
    text = (f"{result['split'].capitalize()} accuracy in % on {cells[0]['n']} problems of {DIGITS}-"
            "digit addition, mean over seeds "
            f"{', '.join(map(str, group_by(cells, 'seed')))} [95%, over seeds and problems] (range "
            "over seeds); after the slash, Lee 2023 (10.6M parameters). Ours: "
            f"{cells[0]['parameters'] / 1e6:.2f}M parameters.\n\n{tables.markdown(table)}\n")
    shared.write_table(out / "table.md", result, text)


def published(cells: list[dict]) -> float | None:
    """The paper's accuracy in % where these cells stand, None where it has none."""
    known = dict(zip(COUNTS, PUBLISHED.get(cells[0]["style"], ()), strict=False))
    return known.get(cells[0]["examples"])


def is_near(cells: list[dict]) -> bool:
    """Is the mean over seeds within NEAR points of the published accuracy?"""
    paper, measured = published(cells), float(np.mean([cell["accuracy"] for cell in cells]))
    return paper is not None and abs(100 * measured - paper) <= NEAR


def beside_published(cells: list[dict]) -> str:
    """`25.0 [20, 31] (21 to 29) / 0.4`: the mean over seeds, and the paper's."""
    paper = published(cells)
    return f"{tables.accuracy_text(cells)} / {'–' if paper is None else paper}"
