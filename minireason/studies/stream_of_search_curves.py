"""Countdown at equal training tokens, greedily, and at equal inference tokens, with N samples.

Whether an expression hits its target can be read from the prompt. `self_check` does so: it picks
a sample that solves, and equals coverage; `majority` does not check. A policy with short traces
affords more samples, so methods are compared where all of them have generated as many tokens
(BUDGETS). `random` is the policy that draws uniformly among the useful operations; its pass@k,
1 - (1 - p)^k with p from full enumeration, is exact and high, and a try costs it the tokens of an
optimal path.
"""

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
from minireason.report.runs import group_by, level_of, tagged
from minireason.report.seeds import margin_rows, verdicts_of
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.studies import shared

BUDGETS = (250, 1000, 4000)           # tokens per problem
MARGINS = (("sos", "optimal_tokens"), ("sos", "optimal_examples"), ("guided", "optimal_tokens"),
           ("guided", "sos"))
LOOKS = {"sos": ("Stream of Search", style.BLUE, "o"),
         "guided": ("guided search", style.GREEN, "D"),
         "optimal_tokens": ("optimal paths, equal tokens", style.ORANGE, "s"),
         "optimal_examples": ("optimal paths, equal examples", style.SKY, "^")}


Sets = dict[str, list[Problem]]


# ---- measuring: what the study keeps of each model ----------------------------------------------

def greedy_verdicts(folder: Path, device: torch.device, written: str, sets: Sets) -> dict:
    """{set: greedy row of the model}, a digit per problem: 1 where solved.

    written: the style of the completions.
    """
    found = {}
    for name, problems in sets.items():
        texts, tokens = completions(folder, device, written, Sampling(temperature=0), problems)
        digits = "".join(str(int(countdown.verify(problem, text).correct))
                         for problem, (text,) in zip(problems, texts, strict=True))
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
    for name, problems in sets.items():
        how = Sampling(n=n, seed=stream_seed(seed, "countdown samples", name))
        texts, tokens = completions(folder, device, written, how, problems)
        right, majority = "", dict.fromkeys(map(str, BUDGETS), "")
        for i, (problem, own) in enumerate(zip(problems, texts, strict=True)):
            correct = np.array([countdown.verify(problem, text).correct for text in own])
            answers = answer_ids(answer_keys(problem, own))
            right += f"{correct.sum()} "
            for budget in BUDGETS:
                won = vote_at(answers, np.ones(n), correct, affordable(budget, tokens, n),
                              rng(seed, "subsets", name, i, budget))
                majority[str(budget)] += f"{100 * won:.0f} "
        found[name] = {"n": n, "tokens": tokens, "example": texts[0][0], "right": right,
                       "majority": majority}
    return found


def completions(folder: Path, device: torch.device, written: str, how: Sampling,
                problems: list[Problem]) -> tuple[list[list[str]], float]:
    """(N texts per problem, mean tokens generated per text) of a model."""
    model, tokenizer = checkpoint.load(folder, device)
    texts = complete(model, tokenizer, problems, written, how)
    encoded = tokenizer.encode_batch([text for own in texts for text in own])
    return texts, float(np.mean([len(ids) - 1 for ids in encoded]))       # less the opener


def affordable(budget: int, tokens: float, most: int) -> int:
    """Samples of so many tokens that a budget pays for, at least one."""
    return max(1, min(most, int(budget // tokens)))


# ---- reading: from what was kept to rows, tables and the figure ---------------------------------

@cache
def random_tries(name: str) -> tuple[np.ndarray, float]:
    """(P,) that one random try solves each problem of a frozen set, exact; the tokens of a try."""
    problems, tokenizer = load_frozen(name), Tokenizer.build(countdown.TOKENS)
    paths = tokenizer.encode_batch([countdown.render(p, "checked") for p in problems])
    return (np.array([chance(*countdown.given(problem)) for problem in problems]),
            float(np.mean([len(ids) - 1 for ids in paths])))


def random_row(name: str, problems: int, budget: int) -> dict:
    """The random policy on a set, with as many tries as the budget pays for."""
    chances, tokens = random_tries(name)
    n = affordable(budget, tokens, 10 ** 9)
    return {"arm": "random", "set": name, "method": "self_check", "n": n, "tokens": n * tokens,
            **two_way_interval(1 - (1 - chances[None, :problems]) ** n)}


def numbers_of(text: str) -> np.ndarray:
    """The numbers of a text such as `12 0 31 `, one per problem."""
    return np.array(text.split(), dtype=float)


def solved_within(samples: dict, n: int) -> np.ndarray:
    """(P,) chance that one at least of n of a problem's samples solves it."""
    return np.array([pass_at_k(samples["n"], int(c), n) for c in numbers_of(samples["right"])])


def set_title(name: str) -> str:
    """`4 new numbers, new target` of countdown-targets-n4."""
    return f"{level_of(name)} new numbers{', new target' if 'targets' in name else ''}"


def training_rows(cells: list[dict]) -> list[dict]:
    """The arms' greedy rows, one random try, and margins of arms, paired by seed and problem."""
    rows = []
    for arm, own in group_by(cells, "arm").items():
        tokens = np.mean([cell["train_tokens"] for cell in own]) / 1e6
        line = (f"{arm}: {tokens:.2f}M {'generated ' if '+' in arm else ''}tokens, "
                f"{own[0]['train_examples']:,} examples")
        for cell in own:
            rows += tagged(list(cell["greedy"].values()), line=line, arm=arm, seed=cell["seed"])
    margins = margin_rows(rows, "arm", MARGINS)
    for name, greedy in cells[0]["greedy"].items():
        rows.append({**random_row(name, greedy["problems"], 0), "line": "random, one try"})
    return rows + [{**row, "line": f"{row['arm']}, points"} for row in margins]


def inference_rows(cells: list[dict], budget: int) -> list[dict]:
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
    return [{**row, "line": f"{budget} tokens, {row['method'].replace('_', '-')}: {row['arm']}"}
            for row in sorted(rows, key=lambda row: row["method"])]


def counted_text(rows: list[dict]) -> str:
    """`43.8 [40, 48], N = 5`: the accuracy of one row, and of how many samples."""
    return f"{tables.accuracy_text(rows)}, N = {rows[0]['n']:.0f}"


def coverage(cells: list[dict]) -> Figure:
    """Accuracy with self-check against tokens on 4 numbers: a line per arm, over its seeds, greedy
    at its tokens unconnected; dotted the random policy."""
    names = [name for name in cells[0]["samples"] if level_of(name) == 4]
    figure, panels = style.panels(len(names), 1 + 2.6 * len(names), sharex=True)
    for axes, name in zip(panels, names, strict=True):
        for arm, own in group_by(cells, "arm").items():
            base, _, rl = arm.partition("+")
            label, colour, marker = LOOKS[base]
            of_set, bars, n = [cell["samples"][name] for cell in own], [], 1
            while n <= of_set[0]["n"]:
                solved = np.array([solved_within(samples, n) for samples in of_set])
                bars.append(style.spread([two_way_interval(solved)]))
                n *= 2
            tokens = np.mean([samples["tokens"] for samples in of_set])
            style.whiskers(axes, tokens * 2 ** np.arange(len(bars)), bars, colour, marker,
                           f"{label}, then RL" if rl else label, "--" if rl else "-")
            greedy = [cell["greedy"][name] for cell in own]
            style.whiskers(axes, [np.mean([row["tokens"] for row in greedy])],
                           [style.spread([two_way_interval(verdicts_of(greedy))])], colour, "*")
        problems = len(cells[0]["samples"][name]["right"].split())
        tries = [random_row(name, problems, 50 * 2 ** i) for i in range(8)]
        axes.plot([row["tokens"] for row in tries], [100 * row["accuracy"] for row in tries],
                  color=style.BLACK, linestyle=":", label="random policy, exact")
        axes.set_xscale("log")
        style.percent_axis(axes, "solved (%)")
        axes.set_title(f"{set_title(name)}; n = {problems} problems, greedy (stars) "
                       f"{cells[0]['greedy'][name]['problems']}", fontsize=9)
    panels[-1].set_xlabel("tokens generated per problem (log scale)")
    style.legend_below(figure, panels[0], 2)
    return figure


def write(result: dict, out: Path) -> None:
    """table.md and coverage.png."""
    cells, rows = result["cells"], []
    for budget in BUDGETS:
        rows += inference_rows(cells, budget)
    names = {name: set_title(name) for name in cells[0]["greedy"]}
    sizes = ", ".join(str(row["problems"]) for row in cells[0]["greedy"].values())
    sampled = ", ".join(str(len(s["right"].split())) for s in cells[0]["samples"].values())
    trained = tables.markdown(tables.pivot(training_rows(cells), "line", "set", "arm", names=names))
    spent = tables.markdown(tables.pivot(rows, "line", "set", "arm", names=names,
                                         text=counted_text))
    text = ("At equal training tokens (`optimal_examples`: at as many examples as `sos`; `+rl`: "
            "what RL generates comes on top of its arm's), greedy: "
            "accuracy in % [95%, over seeds and problems] (range over seeds "
            f"{', '.join(map(str, group_by(cells, 'seed')))}); n = {sizes} problems, "
            f"{cells[0]['parameters'] / 1e6:.2f}M parameters.\n\n{trained}\n\n<details><summary>At "
            "equal inference tokens per problem</summary>\n\nAs many samples N at T = 1 as the "
            "tokens pay for, picked by vote or by self-check (any that solves: the prompt tells); "
            f"a random try costs an optimal path's tokens; n = {sampled} problems.\n\n{spent}"
            "\n\n</details>\n")
    style.save(out / "coverage.png", coverage, cells)
    shared.write_table(out / "table.md", result, text)
