"""`minireason countdown`: is it better to learn from searching than from right answers alone?

Stream of Search (Gandhi 2024, arXiv:2404.03683): a model trained on search traces, dead ends
included and only about half of them successful, solves more held-out problems than one trained on
optimal paths (51.3% against 25.7% with 250M parameters). Here with the same model, the same number
of optimizer steps and the same schedule, in four arms:

    sos               search traces of the paper's solvers
    guided            search traces of a solver that sees solutions and errs on purpose
    optimal_tokens    optimal paths, as many as have the same number of tokens
    optimal_examples  optimal paths, as many as `sos` has traces

`--init` starts every arm from a policy that knows its arithmetic (a folder of the family chain);
without it, weights are random and small models mostly learn to add. `--rl ARM` continues with
reinforcement learning from a finished arm, the outcome alone as reward, in small steps
(docs/LOG.md). Then N samples per problem: stream_of_search_curves.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from minireason.core.config import UserError, check_choice, stream_seed
from minireason.core.runlog import RunLog
from minireason.measure.estimates import answer_ids
from minireason.measure.evaluate import evaluate, frozen_sets
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import Problem
from minireason.problems import countdown as family
from minireason.problems.countdown_solver import chance
from minireason.sampling.complete import prompt_ids, stream
from minireason.sampling.sampler import Sampling
from minireason.studies import shared
from minireason.studies import stream_of_search_curves as curves
from minireason.studies.stream_of_search_train import ARMS, SIZES, Cell, reinforce, train

SETS = ("test", "targets")            # held-out numbers; held-out numbers and targets


@dataclass(frozen=True)
class Config(shared.Study):
    """Stream of Search against optimal paths, at equal tokens and at equal examples; RL on top."""

    size: str = "cpu"             # smoke: only shows that it works | cpu: 0.5M parameters | gpu
    init: str = ""                # a policy that can calculate, as runs/s{seed}/star; "": none
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] = ("sos", "guided", "optimal_tokens")
    rl: tuple[str, ...] = ()      # arms that reinforcement learning continues from
    device: str = "auto"

    def __post_init__(self):
        check_choice("size", self.size, SIZES)
        for arm in self.arms:
            check_choice("arms", arm, ARMS)
        for arm in self.rl:
            check_choice("rl", arm, self.arms)
        if not self.seeds or not self.arms:
            raise UserError("--seeds and --arms: give at least one of each")


def run(cfg: Config) -> dict:
    """All models, the finished ones read back; writes result.json, table.md and coverage.png."""
    inits = {f"init of seed {seed}": cfg.init.replace("{seed}", str(seed)) for seed in cfg.seeds}
    return shared.run_study("countdown", cfg, measure, curves.write, **(inits if cfg.init else {}))


def measure(cfg: Config, log: RunLog, device: torch.device) -> dict:
    """{"cells"}: per seed, every arm and then every arm after RL."""
    cells = []
    for seed in cfg.seeds:
        inits = dict.fromkeys(cfg.arms, cfg.init.replace("{seed}", str(seed)))
        for arm in cfg.rl:
            inits[f"{arm}+rl"] = f"{log.out}/cells/{arm}-s{seed}"
        for arm, init in inits.items():
            name = f"cells/{arm}-s{seed}"
            work = Cell(cfg.size, init, seed, arm), log.out / name, device
            found = log.once(f"{name}/trained.json", partial(trained_cell, *work))
            records = log.once(f"{name}/samples.json", partial(sampled_cell, *work))
            found["curves"] = {key: curves.curve(part, seed) for key, part in records.items()}
            for key, report in found["accuracy"].items():
                log.say(f"{arm} {seed} {key}: {report['accuracy']:.1%} of {report['n']}")
            cells.append(found)
    return {"cells": cells}


def trained_cell(cell: Cell, folder: Path, device: torch.device) -> dict:
    """One model and its greedy accuracy; the weights stay in the folder."""
    tokenizer = Tokenizer.build(family.TOKENS)
    if cell.arm.endswith("+rl"):
        model, seen = reinforce(cell, folder, device)
    else:
        model, seen = train(cell, folder, tokenizer, device)
    sets = {}
    for split in SETS:
        sets |= frozen_sets("countdown", split, SIZES[cell.size].eval_n)
    report = evaluate(model, tokenizer, sets, cell.style, Sampling(temperature=0))
    checkpoint.save(folder, model, tokenizer)
    return {"arm": cell.arm, "seed": cell.seed, "accuracy": report,
            "parameters": model.n_params, **seen}


def sampled_cell(cell: Cell, folder: Path, device: torch.device) -> dict:
    """{set: [record per problem]} with 4 numbers: N samples at T = 1, and what chance does.

    answers: ids of equal expressions, -1 for none or given up; scores: mean log-probabilities.
    """
    model, tokenizer = checkpoint.load(folder, device)
    recipe, found = SIZES[cell.size], {}
    for split in SETS:
        ((name, problems),) = frozen_sets("countdown", split, recipe.coverage_n, (4,)).items()
        prompts = prompt_ids(tokenizer, problems, cell.style)
        how = Sampling(n=recipe.n, max_new=family.max_new(4),
                       seed=stream_seed(cell.seed, "countdown samples", split))
        texts, tokens, scores = [], [], []                        # of all samples, in order
        for part in stream(model, tokenizer, prompts, how):
            lengths = part.mask.sum(1)
            texts += [family.OPENER[cell.style] + text for text in part.texts(tokenizer)]
            tokens += lengths.tolist()
            scores += (part.logprobs.sum(1) / lengths).tolist()
        found[name] = []
        for i, problem in enumerate(problems):
            own = slice(i * how.n, (i + 1) * how.n)
            found[name].append({**verdicts(problem, texts[own]), "tokens": tokens[own],
                                "scores": [round(score, 5) for score in scores[own]]})
    return found


def verdicts(problem: Problem, texts: list[str]) -> dict:
    """What is kept of a problem and the completions of its samples."""
    answers, correct = [], []
    for text in texts:
        parsed = family.parse(text)
        gave_up = parsed is None or parsed[1] == family.GAVE_UP
        answers.append(None if gave_up else parsed[1])
        correct.append(int(family.verify(problem, text).correct))
    return {"prompt": problem.prompt, "chance": chance(*family.given(problem)),
            "answers": answer_ids(answers, "").tolist(), "correct": correct, "example": texts[0]}
