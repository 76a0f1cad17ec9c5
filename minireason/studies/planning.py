"""`minireason planning`: is a plan better found by a search that is written down, and when?

Every arm is a model from the same random weights that reads exact lines in its own styles, at equal
tokens. Mazes, as in Searchformer (Lehnert 2024, arXiv:2402.14083) and Dualformer (Su 2024,
arXiv:2410.09918); path-star graphs, which defeat next-token training (Bachmann and Nagarajan 2024,
arXiv:2403.06963); programs, run at once or state by state (Nye 2021, arXiv:2112.00114):

    plan          plans alone                  star           the path
    trace         the whole search, too        star_reversed  the path from its end
    dropped       with parts of it left out    star_thought   a thought that walks it backwards, too
                  in Dualformer's shares       star_mixed     half `star`, half `star_thought`
    program       its output alone             program_trace  the states on the way, too

A model answers fast (made to answer at once), slow (made to think) or auto (it opens as it likes),
as far as it has learned to. `--rl ARM` continues with RL by the outcome and a small price per
token, in which it opens freely.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from minireason.core.config import rng, stream_seed
from minireason.core.files import read_lines
from minireason.core.runlog import RunLog
from minireason.measure.estimates import share_interval
from minireason.measure.evaluate import answer_keys, frozen_sets
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Family, Problem, sample_split
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages import think_budget
from minireason.studies import shared
from minireason.studies.planning_recipes import ARMS, MODES, RL, SIZES, Recipe
from minireason.studies.planning_tables import VOTES, write
from minireason.training.batches import Row, encode_lines, rows_before
from minireason.training.imitate import imitate
from minireason.training.optim import make_optimizer


@dataclass(frozen=True)
class Config(shared.Study):
    """Plans alone, search traces and dropped traces on mazes; path-star graphs."""

    size: str = "cpu"             # smoke: only shows that it works | cpu: 0.5M parameters | gpu
    arms: tuple[str, ...] = tuple(ARMS)
    rl: tuple[str, ...] = ()      # of these arms, those that reinforcement learning continues from
    seeds: tuple[int, ...] = (0, 1, 2)
    split: str = "test"           # of the frozen sets; validation: to choose a recipe
    device: str = "auto"

    def __post_init__(self):
        shared.check_arms(self, SIZES, ARMS)


@dataclass(frozen=True)
class Cell:
    """One model of the study."""

    size: str
    seed: int
    arm: str                      # of ARMS, or `star+rl`: RL on top of it

    @property
    def family(self) -> Family:
        """Whose problems it solves."""
        return FAMILIES[ARMS[self.arm.removesuffix("+rl")][0]]

    @property
    def recipe(self) -> Recipe:
        """Its family's, of the study's size."""
        return SIZES[self.size][self.family.NAME]

    @property
    def modes(self) -> list[str]:
        """How it can answer."""
        openers = {self.family.OPENER[name] for name in ARMS[self.arm.removesuffix("+rl")][1]}
        known = [mode for mode in ("fast", "slow") if self.family.OPENER[MODES[mode]] in openers]
        return [*known, "auto"] if len(known) > 1 else known


def run(cfg: Config) -> dict:
    """All models, the finished ones read back; writes result.json, table.md and planning.png."""
    return shared.run_study("planning", cfg, measure, write)


def measure(cfg: Config, log: RunLog, device: torch.device) -> dict:
    """{"models", "measured"}: of every arm, then of those after RL.

    Of several seeds each is a study of its own below `seeds/`, where `minireason sweep --command
    planning --vary seeds=0,1,2 --out <out>/seeds` may have trained it.
    """
    models, rows = [], []
    for seed in cfg.seeds:
        if len(cfg.seeds) > 1:
            found = run(replace(cfg, seeds=(seed,), out=f"{log.out}/seeds/seeds={seed}"))
            models, rows = models + found["models"], rows + found["measured"]
            continue
        for arm in (*cfg.arms, *(f"{arm}+rl" for arm in cfg.rl)):
            cell, folder = Cell(cfg.size, seed, arm), log.out / "cells" / arm
            models.append(log.once(f"cells/{arm}/trained.json",
                                   partial(trained_model, cell, folder, device)))
            found = log.once(f"cells/{arm}/{cfg.split}.json",
                             partial(measured_rows, cell, folder, device, cfg.split))["rows"]
            log.say(f"{arm} {seed}: " + ", ".join(
                f"{row['line']} {row['set']} {row['method']} {row['accuracy']:.1%}"
                for row in found))
            rows += found
    return {"models": models, "measured": rows}


def trained_model(cell: Cell, folder: Path, device: torch.device) -> dict:
    """One model and what it has seen; the weights stay in the folder; resumes if killed."""
    parents = {}
    if cell.arm.endswith("+rl"):
        init = folder.parent / cell.arm.removesuffix("+rl")
        parents, (model, tokenizer) = {"init": checkpoint.weights_hash(init)}, checkpoint.load(init)
    else:
        tokenizer = Tokenizer.build(cell.family.TOKENS)
        model = shared.random_model(tokenizer, cell.recipe, cell.seed, cell.recipe.max_len)
    log = RunLog(str(folder), "planning-cell", cell, parents)
    model.to(device)
    log.start(model, device)
    learn = reinforce if parents else train
    seen = learn(cell, log, model, tokenizer)
    checkpoint.save(folder, model, tokenizer)
    return {"arm": cell.arm, "seed": cell.seed, "parameters": model.n_params, **seen}


def lines_of_step(cell: Cell, step: int, count: int) -> tuple[list[str], list[str]]:
    """(prompts, completions) of one step, train split only; equal arms see equal problems."""
    generator, chance = rng(cell.seed, "planning", step), rng(cell.seed, "planning styles", step)
    (low, high), (_, styles) = cell.recipe.levels, ARMS[cell.arm]
    prompts, completions = [], []
    for _ in range(count):
        problem = sample_split(cell.family, generator, int(generator.integers(low, high + 1)),
                               "train")
        prompts.append(problem.prompt)
        name = chance.choice(list(styles), p=list(styles.values()))
        completions.append(cell.family.render(problem, str(name)))
    return prompts, completions


def train(cell: Cell, log: RunLog, model: Transformer, tokenizer: Tokenizer) -> dict:
    """Imitate the arm's lines; rows per step such that their tokens are as many in every arm."""
    recipe = cell.recipe
    sample = encode_lines(tokenizer, *lines_of_step(
        replace(cell, seed=0), -1, min(4000, 100 * recipe.steps)))
    length = float(np.mean([len(row) - 1 for row, _ in sample]))
    before = partial(rows_before, recipe.tokens_per_step / length)

    def rows_at(step: int) -> list[Row]:
        lines = lines_of_step(cell, step, before(step + 1) - before(step))
        return encode_lines(tokenizer, *lines)
    imitate(log, model, tokenizer, recipe, rows_at, muon=True)
    examples = before(recipe.steps)
    return {"train_examples": examples, "train_tokens": round(examples * length)}


def reinforce(cell: Cell, log: RunLog, model: Transformer, tokenizer: Tokenizer) -> dict:
    """RL by outcome and price on the train split, from the arm's weights; the opener is drawn."""
    low, high = cell.recipe.levels
    cfg = think_budget.Config(init="", critic="", family=cell.family.NAME, seed=cell.seed,
                              min_level=low, max_level=high, **RL[cell.size])
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        log.record(step, **think_budget.reinforce(cfg, step, model, optimizer, tokenizer))
        checkpoint.save_state_every(log, cfg, step, model, optimizer)
    tokens = sum(line["train/generated_tokens"] for line in read_lines(log.metrics))
    return {"train_examples": cfg.steps * cfg.prompts_per_step * cfg.group_size,
            "train_tokens": tokens}


def measured_rows(cell: Cell, folder: Path, device: torch.device, split: str) -> dict:
    """{"rows"}: accuracy in every mode, greedily and of one sample, and of a vote of fast answers,
    which costs about as much as a maze's thought, on every frozen set of the trained levels, a
    digit per problem; tokens and share of thoughts per answer."""
    model, tokenizer = checkpoint.load(folder, device)
    family, (low, high), rows = cell.family, cell.recipe.levels, []
    levels = tuple(level for level in family.LEVELS if low <= level <= high)
    sets = frozen_sets(family.NAME, split, cell.recipe.eval_n, levels)
    seed = stream_seed(cell.seed, "planning sampled")
    hows = [("greedy", mode, Sampling(temperature=0)) for mode in cell.modes]
    hows += [("sampled", mode, Sampling(seed=seed)) for mode in cell.modes]
    hows += [("greedy", mode, Sampling(VOTES, seed=seed)) for mode in cell.modes if mode == "fast"]
    for method, mode, how in hows:
        for name, problems in sets.items():
            drawn = complete(model, tokenizer, problems, MODES[mode], how)
            texts = list(map(most_frequent, problems, drawn))
            verdicts = list(map(family.verify, problems, texts))
            digits = "".join(str(int(verdict.correct)) for verdict in verdicts)
            tokens = list(map(len, tokenizer.encode_batch(list(chain(*drawn)))))
            rows.append({"line": f"{cell.arm}, {mode}" + f" x {how.n}" * (how.n > 1),
                         "family": family.NAME, "seed": cell.seed, "set": name, "method": method,
                         "n": how.n, "digits": digits, "tokens": sum(tokens) / len(problems),
                         "steps": float(np.mean(list(map(steps_written, texts)))),
                         "thinking": float(np.mean([text[:7] == "<think>" for text in texts])),
                         "problems": len(texts), **share_interval(digits.count("1"), len(texts))})
    return {"rows": rows}


def most_frequent(problem: Problem, texts: list[str]) -> str:
    """The first completion of the answer that most of them give; the first one if none does."""
    keys = answer_keys(problem, texts)
    counts = Counter(key for key in keys if key is not None)
    return texts[keys.index(max(counts, key=counts.__getitem__, default=keys[0]))]


def steps_written(text: str) -> int:
    """Steps in the thought of a completion, right or wrong, of a malformed one and a cut one, too;
    0 without a thought."""
    thought = text.removeprefix("<think>").partition("</think>")[0].removesuffix("<eos>")
    return thought.count(";") + 1 if text.startswith("<think>") and thought else 0
