"""Countdown at equal training tokens, greedily, and at equal inference tokens, with N samples.

Whether an expression hits its target can be read from the prompt. `self_check` does so: it picks
a sample that solves, and equals coverage; `majority` does not check. A policy with short traces
affords more samples, so methods are compared where all of them have generated as many tokens
(BUDGETS). `random` is the policy that draws uniformly among the useful operations; its pass@k,
1 - (1 - p)^k with p from full enumeration, is exact and high, and a try costs it the tokens of an
optimal path.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from minireason.core.config import rng, stream_seed
from minireason.measure.estimates import (
    answer_ids,
    pass_at_k,
    share_interval,
    two_way_interval,
    vote_at,
)
from minireason.measure.evaluate import answer_keys
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import Problem, countdown
from minireason.problems.countdown_solver import chance
from minireason.problems.frozen import load_frozen
from minireason.report import style, tables
from minireason.report.runs import group_by, level_of
from minireason.report.seeds import verdicts_of
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.studies import shared

BUDGETS = (250, 1000, 4000)           # tokens per problem
LOOKS = {"sos": ("Stream of Search", style.BLUE, "o"),
         "guided": ("guided search", style.GREEN, "D"),
         "optimal_tokens": ("optimal paths, equal tokens", style.ORANGE, "s"),
         "optimal_examples": ("optimal paths, equal examples", style.SKY, "^")}


# ---- measuring: what the study keeps of each model ----------------------------------------------

Sets = dict[str, list[Problem]]


def greedy_verdicts(folder: Path, device: torch.device, written: str, sets: Sets) -> dict:
    """{set: greedy row of the model}, a digit per problem: 1 where solved.

    written: the style of the completions.
    """
    found = {}
    for name, texts, tokens in completions(folder, device, written, Sampling(temperature=0), sets):
        digits = ""
        for problem, (text,) in zip(sets[name], texts, strict=True):
            digits += str(int(countdown.verify(problem, text).correct))
        found[name] = {"method": "greedy", "set": name, "n": 1, "tokens": tokens,
                       **share_interval(digits.count("1"), len(digits)), "problems": len(digits),
                       "digits": digits}
    return found


def sampled_verdicts(folder: Path, device: torch.device, written: str, seed: int, n: int,
                     sets: Sets) -> dict:
    """{set: what N samples per problem at T = 1 do}: N, mean tokens of one, and, a number per
    problem, how many are `right` and the percentage of votes that a majority wins at each budget.
    """
    found = {}
    for name in sets:
        how = Sampling(n=n, seed=stream_seed(seed, "countdown samples", name))
        ((_, texts, tokens),) = completions(folder, device, written, how, {name: sets[name]})
        right, majority = [], {str(budget): [] for budget in BUDGETS}
        for i, (problem, own) in enumerate(zip(sets[name], texts, strict=True)):
            correct = np.array([countdown.verify(problem, text).correct for text in own])
            answers = answer_ids(answer_keys(problem, own))
            right.append(int(correct.sum()))
            for budget in BUDGETS:
                won = vote_at(answers, np.ones(n), correct, affordable(budget, tokens, n),
                              rng(seed, "subsets", name, i, budget))
                majority[str(budget)].append(round(100 * won))
        found[name] = {"n": n, "tokens": tokens, "right": digits_of(right), "example": texts[0][0],
                       "majority": {key: digits_of(votes) for key, votes in majority.items()}}
    return found


def completions(folder: Path, device: torch.device, written: str, how: Sampling,
                sets: Sets) -> Iterator[tuple[str, list[list[str]], float]]:
    """Yield (set, N texts per problem, mean tokens generated per text) of a model."""
    model, tokenizer = checkpoint.load(folder, device)
    for name, problems in sets.items():
        texts = complete(model, tokenizer, problems, written, how)
        encoded = tokenizer.encode_batch([text for own in texts for text in own])
        yield name, texts, float(np.mean([len(ids) - 1 for ids in encoded]))     # less the opener


def digits_of(numbers: list[int]) -> str:
    """Numbers on one line of JSON."""
    return " ".join(map(str, numbers))


def numbers_of(digits: str) -> np.ndarray:
    """The numbers that `digits_of` wrote, as floats."""
    return np.array(digits.split(), dtype=float)


def affordable(budget: int, tokens: float, most: int) -> int:
    """Samples of so many tokens that a budget pays for, at least one."""
    return max(1, min(most, int(budget // tokens)))


# ---- reading: from what was kept to rows, tables and the figure ---------------------------------

@cache
def chances(name: str) -> np.ndarray:
    """(P,) that one random try solves each problem of a frozen set, exact."""
    return np.array([chance(*countdown.given(problem)) for problem in load_frozen(name)])


@cache
def tokens_of_try(name: str) -> float:
    """What a random try costs: the mean tokens of an optimal path, written out."""
    texts = [countdown.render(problem, "checked") for problem in load_frozen(name)]
    encoded = Tokenizer.build(countdown.TOKENS).encode_batch(texts)
    return float(np.mean([len(ids) - 1 for ids in encoded]))


def random_row(name: str, problems: int, budget: float) -> dict:
    """The random policy on a set, with as many tries as the budget pays for."""
    n = affordable(budget, tokens_of_try(name), 10 ** 9)
    solved = 1 - (1 - chances(name)[:problems]) ** n
    return {"arm": "random", "set": name, "method": "self_check", "n": n,
            **two_way_interval(solved[None])}


def solved_within(samples: dict, n: int) -> np.ndarray:
    """(P,) chance that one at least of n of a problem's samples solves it."""
    return np.array([pass_at_k(samples["n"], int(c), n) for c in numbers_of(samples["right"])])


def budget_rows(cells: list[dict], budget: int) -> list[dict]:
    """Every arm on every set by vote and by self-check, and the random policy, at equal tokens.

    A row is a mean over the arm's seeds with its 95% interval over seeds and problems.
    """
    rows = []
    for arm, own in group_by(cells, "arm").items():
        for name in own[0]["samples"]:
            of_set = [cell["samples"][name] for cell in own]
            counts = [affordable(budget, s["tokens"], s["n"]) for s in of_set]
            votes = [numbers_of(s["majority"][str(budget)]) / 100 for s in of_set]
            solved = [solved_within(s, n) for s, n in zip(of_set, counts, strict=True)]
            for method, values in (("majority", votes), ("self_check", solved)):
                rows.append({"arm": arm, "set": name, "method": method, "n": np.mean(counts),
                             **two_way_interval(np.array(values))})
    for name, samples in cells[0]["samples"].items():
        rows.append(random_row(name, len(samples["right"].split()), budget))
    return rows


def set_title(name: str) -> str:
    """`4 new numbers, new target` of countdown-targets-n4."""
    return f"{level_of(name)} new numbers{', new target' if 'targets' in name else ''}"


def training_table(cells: list[dict]) -> list[list[str]]:
    """Greedy accuracy in percent, a row per arm over its seeds; then margins, paired by problem."""
    names, arms = list(cells[0]["greedy"]), group_by(cells, "arm")
    table = [["arm", "seeds", "training tokens", "examples", "tokens per answer, n4",
              *map(set_title, names)]]
    for arm, own in arms.items():
        answer = np.mean([cell["greedy"][names[-1]]["tokens"] for cell in own])
        table.append([arm, ", ".join(str(cell["seed"]) for cell in own),
                      f"{np.mean([cell['train_tokens'] for cell in own]) / 1e6:.2f}M",
                      f"{own[0]['train_examples']:,}", f"{answer:.0f}",
                      *(tables.accuracy_text([cell["greedy"][name] for cell in own])
                        for name in names)])
    one_try = [random_row(name, cells[0]["greedy"][name]["problems"], 0) for name in names]
    table.append(["random policy, one try", "", "", "", f"{tokens_of_try(names[-1]):.0f}",
                  *(tables.accuracy_text([row]) for row in one_try)])
    for better, worse in (("sos", "optimal_tokens"), ("sos", "optimal_examples"),
                          ("guided", "optimal_tokens"), ("guided", "sos")):
        of = {cell["seed"]: cell for cell in arms.get(worse, [])}
        pairs = [(cell, of[cell["seed"]]) for cell in arms.get(better, []) if cell["seed"] in of]
        if pairs:
            table.append([f"{better} - {worse}, points", "", "", "", "",
                          *(margin_text(pairs, name) for name in names)])
    return table


def margin_text(pairs: list[tuple[dict, dict]], name: str) -> str:
    """Mean greedy difference of two arms, paired by seed and problem, with its 95% interval."""
    a, b = (verdicts_of([pair[side]["greedy"][name] for pair in pairs]) for side in (0, 1))
    return tables.accuracy_text([{"method": "greedy - greedy", **two_way_interval(a, b)}])


def inference_table(cells: list[dict]) -> list[list[str]]:
    """Every arm with as many samples as each budget of tokens pays for, on 4 numbers."""
    names = list(cells[0]["samples"])
    table = [["tokens per problem", "arm", "picked by", "samples, n4", *map(set_title, names)]]
    for budget in BUDGETS:
        for method, rows in group_by(budget_rows(cells, budget), "method").items():
            for arm, own in group_by(rows, "arm").items():
                table.append([str(budget), arm, method.replace("_", "-"), f"{own[-1]['n']:.0f}",
                              *(tables.accuracy_text([row]) for row in own)])
    return table


def coverage(cells: list[dict]) -> Figure:
    """Accuracy with self-check against tokens on 4 numbers: a line per arm, over its seeds, greedy
    at its tokens unconnected; dotted the random policy."""
    names = [name for name in cells[0]["samples"] if level_of(name) == 4]
    figure, panels = style.panels(len(names), 1 + 2.6 * len(names), sharex=True)
    for axes, name in zip(panels, names, strict=True):
        for arm, own in group_by(cells, "arm").items():
            base, _, rl = arm.partition("+")
            label, colour, marker = LOOKS[base]
            label, line = (f"{label}, then RL", "--") if rl else (label, "-")
            of_set, bars, n = [cell["samples"][name] for cell in own], [], 1
            while n <= of_set[0]["n"]:
                solved = np.array([solved_within(samples, n) for samples in of_set])
                bars.append(style.spread([two_way_interval(solved)]))
                n *= 2
            tokens = np.mean([samples["tokens"] for samples in of_set])
            style.whiskers(axes, tokens * 2 ** np.arange(len(bars)), bars, colour, marker, label,
                           line)
            greedy = [cell["greedy"][name] for cell in own]
            interval = two_way_interval(verdicts_of(greedy))
            style.whiskers(axes, [np.mean([row["tokens"] for row in greedy])],
                           [style.spread([interval])], colour, "*")
        problems = len(cells[0]["samples"][name]["right"].split())
        tries = [random_row(name, problems, tokens_of_try(name) * 2 ** i) for i in range(8)]
        axes.plot([row["n"] * tokens_of_try(name) for row in tries],
                  [100 * row["accuracy"] for row in tries], color=style.BLACK, linestyle=":",
                  label="random policy, exact")
        axes.set_xscale("log")
        style.percent_axis(axes, "solved (%)")
        axes.set_title(f"{set_title(name)}; n = {problems} problems, greedy (stars) "
                       f"{cells[0]['greedy'][name]['problems']}", fontsize=9)
    panels[-1].set_xlabel("tokens generated per problem (log scale), one sample that solves is "
                          "enough", fontsize=9)
    style.legend_below(figure, panels[0], 2)
    return figure


def write(result: dict, out: Path) -> None:
    """table.md and coverage.png."""
    cells = result["cells"]
    sizes = ", ".join(str(row["problems"]) for row in cells[0]["greedy"].values())
    sampled = ", ".join(str(len(s["right"].split())) for s in cells[0]["samples"].values())
    text = (f"At equal training tokens (`optimal_examples`: at as many examples as `sos`), greedy; "
            f"n = {sizes} problems per seed, {cells[0]['parameters'] / 1e6:.2f}M parameters; "
            f"accuracy in % [95%, over seeds and problems] (range over seeds):\n\n"
            f"{tables.markdown(training_table(cells))}\n\n<details><summary>At equal inference "
            "tokens</summary>\n\nAs many samples at T = 1 as the tokens pay for, picked by vote or "
            "by self-check (the first that solves: the prompt tells); a random try is charged an "
            f"optimal path's tokens; n = {sampled} problems:\n\n"
            f"{tables.markdown(inference_table(cells))}\n\n</details>\n")
    style.save(out / "coverage.png", coverage, cells)
    shared.write_table(out / "table.md", result, text)
