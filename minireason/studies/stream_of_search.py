"""`minireason countdown`: is it better to learn from searching than from right answers alone?

Stream of Search (Gandhi 2024, arXiv:2404.03683): a model trained on search traces, dead ends
included and only 57% of them successful, solves more held-out problems than one trained on
optimal paths (51.3% against 25.7% with 250M parameters). Here ARMS differ in their lines alone:
model, first weights, optimizer steps and schedule are equal, and each compares its last result
with the target. As in the paper the first weights are random: a pretrained base of this family has
read optimal paths already. `--init` starts every arm from another policy (of the family chain).

`--rl ARM` continues with reinforcement learning from a finished arm, the outcome alone as reward,
in small steps (docs/LOG.md). Then N samples per problem: stream_of_search_curves.py.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minireason.core.config import rng
from minireason.core.errors import UserError, check_choice
from minireason.core.files import read_lines
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Problem, countdown, sample_split
from minireason.stages import rl
from minireason.studies import shared
from minireason.studies import stream_of_search_curves as curves
from minireason.training.batches import Row, encode_lines, rows_before
from minireason.training.imitate import imitate
from minireason.training.rollouts import Rewards

SEARCHES = ("sos",                # traces of the paper's solvers
            "guided")             # of a solver that sees solutions and errs on purpose
ARMS = (*SEARCHES,
        "optimal_tokens",         # optimal paths, as many as have the same number of tokens
        "optimal_examples")       # optimal paths, as many as `sos` has traces, as in the paper
FOUR = 0.8                        # share of training problems with 4 numbers, the rest has 3
TARGETS = {"test": "targets", "validation": "targets-validation"}    # split: sets of new targets


@dataclass(frozen=True, kw_only=True)
class Recipe(shared.Recipe):
    """Model, training and measurement of one size; tokens per step are equal in all arms."""

    max_len: int = 384
    weight_decay: float = 0.05
    save_every: int = 50
    coverage_n: int               # frozen problems per set, N samples each
    n: int                        # N of search traces; of optimal paths, which are shorter, 3/2 N
    rl: rl.Config                 # of `<arm>+rl`


RL = rl.Config(                   # traces are long, their signal is weak: lr 3e-4 undoes the policy
    init="", family="countdown", steps=160, prompts_per_step=16, group_size=16, min_level=4,
    max_level=4, rewards=Rewards(outcome=1.0, process=0.0), lr=1e-4, save_every=50, eval_every=40,
    validation_n=200, eval_n=200)
SIZES = {
    "smoke": Recipe(d_model=16, n_layers=1, n_heads=1, head_dim=16, d_ff=32, steps=4, warmup=2,
                    tokens_per_step=500, eval_n=6, coverage_n=4, n=4, rl=replace(
                        RL, steps=2, prompts_per_step=2, group_size=2, eval_every=1,
                        validation_n=4, eval_n=4)),
    "cpu": Recipe(d_model=96, n_layers=4, n_heads=3, head_dim=32, d_ff=320, steps=9600, warmup=50,
                  tokens_per_step=1700, lr=2e-3, coverage_n=200, n=128, rl=RL),
    "gpu": Recipe(d_model=384, n_layers=8, n_heads=6, head_dim=64, d_ff=1024, steps=8000,
                  warmup=200, tokens_per_step=30_000, coverage_n=500, n=256, rl=replace(
                      RL, steps=400, prompts_per_step=64, eval_every=100, validation_n=500,
                      eval_n=500)),
}


@dataclass(frozen=True)
class Config(shared.Study):
    """Stream of Search against optimal paths, at equal tokens and at equal examples; RL on top."""

    size: str = "cpu"             # smoke: only shows that it works | cpu: 0.5M parameters | gpu
    init: str = ""                # a policy that can calculate, as runs/s{seed}/star; "": none
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] = ARMS
    split: str = "test"           # of the frozen sets; validation: to choose a recipe
    rl: tuple[str, ...] = ()      # arms that reinforcement learning continues from
    device: str = "auto"

    def __post_init__(self):
        shared.check_arms(self, SIZES, ARMS)
        check_choice("split", self.split, TARGETS)


@dataclass(frozen=True)
class Cell:
    """One model of the study."""

    size: str
    init: str                     # folder of the model that it starts from; "": random weights
    seed: int
    arm: str                      # of ARMS, or `guided+rl`: RL on top of it

    @property
    def style(self) -> str:
        """How its completions are written."""
        base = self.arm.removesuffix("+rl")
        return base if base in SEARCHES else "checked"


def run(cfg: Config) -> dict:
    """All models, the finished ones read back; writes result.json, table.md and coverage.png."""
    inits = {f"init of seed {seed}": cfg.init.replace("{seed}", str(seed)) for seed in cfg.seeds}
    return shared.run_study("countdown", cfg, measure, curves.write, **(inits if cfg.init else {}))


def measure(cfg: Config, log: RunLog, device: torch.device) -> dict:
    """{"cells"}: per seed, every arm and then those after RL.

    Of several arms or seeds each is a study of its own below `cells/`, where `minireason sweep
    --command countdown --vary seeds=0,1,2 arms=sos,guided --out <out>/cells` may have trained it.
    """
    if len(cfg.seeds) == len(cfg.arms) == 1 and not cfg.rl:
        seed, arm = cfg.seeds[0], cfg.arms[0]
        cell = Cell(cfg.size, cfg.init.replace("{seed}", str(seed)), seed, arm)
        return {"cells": [measured_cell(cfg, log, cell, device)]}
    cells = []
    for seed in cfg.seeds:
        parts = {arm: f"{log.out}/cells/seeds={seed}_arms={arm}" for arm in cfg.arms}
        for arm, out in parts.items():
            cells += run(replace(cfg, seeds=(seed,), arms=(arm,), rl=(), out=out))["cells"]
        for arm in cfg.rl:
            cell = Cell(cfg.size, f"{parts[arm]}/cells/{arm}-s{seed}", seed, f"{arm}+rl")
            cells.append(measured_cell(cfg, log, cell, device))
    return {"cells": cells}


def measured_cell(cfg: Config, log: RunLog, cell: Cell, device: torch.device) -> dict:
    """One model, trained, then answering greedily, then with N samples."""
    recipe, name = SIZES[cfg.size], f"cells/{cell.arm}-s{cell.seed}"
    folder = log.out / name
    found = log.once(f"{name}/trained.json", partial(trained_cell, cell, folder, device))
    sets = sets_of(cfg.split, recipe.eval_n)
    found["greedy"] = log.once(f"{name}/greedy.json", partial(
        curves.greedy_verdicts, folder, device, cell.style, sets))
    sets = sets_of(cfg.split, recipe.coverage_n)
    found["samples"] = log.once(f"{name}/samples.json", partial(
        curves.sampled_verdicts, folder, device, cell.style, cell.seed,
        recipe.n if cell.style in SEARCHES else recipe.n * 3 // 2, sets))
    log.say(f"{cell.arm} {cell.seed}: " + ", ".join(
        f"{key} {row['accuracy']:.1%}" for key, row in found["greedy"].items()))
    return found


def sets_of(split: str, n: int) -> dict[str, list[Problem]]:
    """The first n problems of each frozen set of a split: new numbers, then new targets too."""
    return frozen_sets("countdown", split, n) | frozen_sets("countdown", TARGETS[split], n)


def trained_cell(cell: Cell, folder: Path, device: torch.device) -> dict:
    """One model and what it has seen; the weights stay in the folder."""
    tokenizer = Tokenizer.build(countdown.TOKENS)
    if cell.arm.endswith("+rl"):
        model, seen = reinforce(cell, folder, device)
    else:
        model, seen = train(cell, folder, tokenizer, device)
    checkpoint.save(folder, model, tokenizer)
    return {"arm": cell.arm, "seed": cell.seed, "parameters": model.n_params, **seen}


def lines_of_step(arm: str, seed: int, step: int, count: int) -> tuple[list[str], list[str]]:
    """(prompts, completions) of one step, train split only; equal arms see equal problems."""
    generator, searching = rng(seed, "countdown", step), rng(seed, "countdown search", step)
    prompts, completions = [], []
    for _ in range(count):
        level = 4 if generator.random() < FOUR else 3
        problem = sample_split(countdown, generator, level, "train")
        prompts.append(problem.prompt)
        if arm in SEARCHES:
            completions.append(countdown.search_text(problem, searching, arm))
        else:
            completions.append(countdown.render(problem, "checked"))
    return prompts, completions


def rows_per_step(recipe: Recipe, tokenizer: Tokenizer, arm: str) -> float:
    """Mean rows that have tokens_per_step tokens; `optimal_examples` has as many as `sos`."""
    counted = "sos" if arm == "optimal_examples" else arm
    rows = encode_lines(tokenizer, *lines_of_step(counted, 0, -1, min(4000, 100 * recipe.steps)))
    return float(recipe.tokens_per_step / np.mean([len(row) - 1 for row, _ in rows]))


def first_model(recipe: Recipe, cell: Cell, tokenizer: Tokenizer) -> Transformer:
    """A model with random weights, or a policy that knows its arithmetic, with longer rows."""
    if not cell.init:
        return shared.random_model(tokenizer, recipe, cell.seed, recipe.max_len)
    parent, words = checkpoint.load(cell.init)
    if words.to_json() != tokenizer.to_json():
        raise UserError(f"{cell.init}: its tokenizer is not countdown's, numbers of up to 2 digits "
                        "as one token; give a folder of the family chain")
    model = Transformer(replace(parent.config, max_len=recipe.max_len))
    model.load_state_dict(parent.state_dict())
    return model


def train(cell: Cell, folder: Path, tokenizer: Tokenizer,
          device: torch.device) -> tuple[Transformer, dict]:
    """A model trained on its arm's lines, and what it has seen; resumes if killed."""
    parents = {"init": checkpoint.weights_hash(cell.init)} if cell.init else {}
    log = RunLog(str(folder), "countdown-cell", cell, parents)
    recipe = SIZES[cell.size]
    before = partial(rows_before, rows_per_step(recipe, tokenizer, cell.arm))
    model = first_model(recipe, cell, tokenizer).to(device)
    log.start(model, device)
    tokens: dict[int, int] = {}       # {step: tokens}, prompts included

    def rows_at(step: int) -> list[Row]:
        lines = lines_of_step(cell.arm, cell.seed, step, before(step + 1) - before(step))
        rows = encode_lines(tokenizer, *lines)
        tokens[step] = sum(len(row) - 1 for row, _ in rows)
        return rows

    imitate(log, model, tokenizer, recipe, rows_at)
    for step in set(range(recipe.steps)) - set(tokens):       # trained by a killed process
        rows_at(step)
    return model, {"train_tokens": sum(tokens.values()),
                   "train_examples": before(recipe.steps)}


def reinforce(cell: Cell, folder: Path, device: torch.device) -> tuple[Transformer, dict]:
    """A finished arm after RL on problems with 4 numbers, and what it has seen."""
    cfg = replace(SIZES[cell.size].rl, init=cell.init, out=str(folder / "rl"), seed=cell.seed,
                  device=str(device))
    rl.run(cfg)
    model, _ = checkpoint.load(cfg.out, device)
    metrics = read_lines(folder / "rl" / "metrics.jsonl")
    return model, {"train_tokens": sum(m.get("train/generated_tokens", 0) for m in metrics),
                   "train_examples": cfg.steps * cfg.prompts_per_step * cfg.group_size}
