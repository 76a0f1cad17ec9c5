"""Countdown with N samples per problem: methods that check themselves, and those that do not.

Whether an expression hits its target can be read from the prompt. `self_check` does so: it picks
a sample that solves, and equals coverage. `majority` and `likelihood` (best mean log-probability)
do not check. `random` is the policy that draws uniformly among the useful operations; its pass@k,
1 - (1 - p)^k with p from full enumeration, is exact and high.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from minireason.core.config import stream_seed
from minireason.measure.estimates import Pool, answer_ids, expected_accuracy, mean_interval
from minireason.measure.evaluate import answer_keys
from minireason.model import checkpoint
from minireason.problems import Problem, countdown
from minireason.problems.countdown_solver import chance
from minireason.problems.frozen import load_frozen
from minireason.report import style, tables
from minireason.report.runs import group_by, select
from minireason.sampling.complete import prompt_ids, stream
from minireason.sampling.sampler import Sampling
from minireason.studies import shared

METHODS = {                           # {name: that of measure/estimates.py}
    "single": "single", "majority": "majority", "likelihood": "best_of_n", "self_check": "coverage"}
LOOKS = {"sos": ("Stream of Search", style.BLUE, "o"),
         "guided": ("guided search", style.GREEN, "D"),
         "optimal_tokens": ("optimal paths, equal tokens", style.ORANGE, "s"),
         "optimal_examples": ("optimal paths, equal examples", style.SKY, "^")}
SETS = {"countdown-test-n4": "new numbers", "countdown-targets-n4": "new numbers and targets"}


def sampled_records(folder: Path, device: torch.device, written: str, seed: int, n: int,
                    problems_per_set: int) -> dict[str, list[dict]]:
    """{set: [record per problem]} with 4 numbers: N samples at T = 1, and what chance does.

    written: the style of the completions. A record's scores are mean log-probabilities.
    """
    model, tokenizer = checkpoint.load(folder, device)
    found = {}
    for name in SETS:
        problems = load_frozen(name)[:problems_per_set]
        how = Sampling(n=n, max_new=countdown.max_new(4),
                       seed=stream_seed(seed, "countdown samples", name.split("-")[1]))
        texts, tokens, scores = [], [], []                        # of all samples, in order
        for part in stream(model, tokenizer, prompt_ids(tokenizer, problems, written), how):
            assert part.logprobs is not None, "the sampler keeps them by default"
            lengths = part.mask.sum(1)
            texts += [countdown.OPENER[written] + text for text in part.texts(tokenizer)]
            tokens += lengths.tolist()
            scores += (part.logprobs.sum(1) / lengths).tolist()
        found[name] = []
        for i, problem in enumerate(problems):
            own = slice(i * n, (i + 1) * n)
            found[name].append({**verdicts(problem, texts[own]), "tokens": tokens[own],
                                "scores": [round(score, 5) for score in scores[own]]})
    return found


def verdicts(problem: Problem, texts: list[str]) -> dict:
    """What is kept of a problem and the completions of its samples.

    answers: ids of equal expressions, -1 for none or given up.
    """
    return {"prompt": problem.prompt, "chance": chance(*countdown.given(problem)),
            "answers": answer_ids(answer_keys(problem, texts)).tolist(),
            "correct": [int(countdown.verify(problem, text).correct) for text in texts],
            "example": texts[0]}


def curve(records: list[dict], seed: int) -> list[dict]:
    """Every method at every N: accuracy with a 95% bootstrap interval over problems."""
    points, n = [], 1
    pools = []
    for record in records:
        pools.append(Pool(*(np.array(record[field])
                            for field in ("correct", "answers", "scores", "tokens"))))
    tokens = float(np.mean([pool.tokens for pool in pools]))
    chances = np.array([record["chance"] for record in records])
    while n <= len(pools[0].answers):
        point = {"n": n, "tokens": n * tokens}
        for name, method in METHODS.items():
            values = expected_accuracy(pools, method, n, seed, "subsets")
            point[name] = mean_interval(values, draws=1000)
        points.append({**point, "random": mean_interval(1 - (1 - chances) ** n, draws=1000)})
        n *= 2
    return points


def greedy_table(cells: list[dict]) -> str:
    """Greedy accuracy in percent, a row per arm over its seeds, and what search traces gain."""
    names, arms = list(cells[0]["accuracy"]), group_by(cells, "arm")
    table = [["countdown arm", "seeds", "tokens", "examples", *names]]
    for arm, own in arms.items():
        seeds = ", ".join(str(cell["seed"]) for cell in own)
        tokens = np.mean([cell["train_tokens"] for cell in own]) / 1e6
        line = [arm, seeds, f"{tokens:.2f}M", f"{own[0]['train_examples']:,}"]
        for name in names:
            line.append(tables.accuracy_text([cell["accuracy"][name] for cell in own]))
        table.append(line)
    optimal = {cell["seed"]: cell for cell in arms.get("optimal_tokens", [])}
    for arm in ("sos", "guided"):
        own = select(arms.get(arm, []), seed=tuple(optimal))
        if own:
            table.append([f"{arm} - optimal_tokens, points (lowest 95% bound of any seed)",
                          "", "", "", *(gain_text(own, optimal, name) for name in names)])
    return tables.markdown(table)


def gain_text(cells: list[dict], optimal: dict[int, dict], name: str) -> str:
    """Mean difference to optimal paths, unpaired, and the lowest bound of any seed."""
    gains, bounds = [], []
    for cell in cells:
        a, b = cell["accuracy"][name], optimal[cell["seed"]]["accuracy"][name]
        variance = sum(x["accuracy"] * (1 - x["accuracy"]) / x["n"] for x in (a, b))
        gains.append(a["accuracy"] - b["accuracy"])
        bounds.append(gains[-1] - 1.96 * variance ** 0.5)
    return f"{100 * np.mean(gains):+.1f} ({100 * min(bounds):+.1f})"


def samples_table(cells: list[dict]) -> str:
    """Every method with one, some and all samples per problem, of each model."""
    methods = (*METHODS, "random")
    table = [["arm", "seed", "set", "N", "tokens", *methods]]
    for cell in cells:
        for name, points in cell["curves"].items():
            for point in (points[0], points[len(points) // 2], points[-1]):
                percents = [f"{100 * point[method]['accuracy']:.1f}" for method in methods]
                table.append([cell["arm"], str(cell["seed"]), name, str(point["n"]),
                              f"{point['tokens']:.0f}", *percents])
    return tables.markdown(table)


def coverage(cells: list[dict]) -> Figure:
    """pass@k of every arm, one line per seed with its 95% interval, greedy at the left; chance."""
    names = list(cells[0]["curves"])
    figure, panels = style.panels(len(names), 1 + 2.6 * len(names), sharex=True)
    for axes, name in zip(panels, names, strict=True):
        ks = [point["n"] for point in cells[0]["curves"][name]]
        for cell in cells:
            arm, _, rl = cell["arm"].partition("+")
            label, colour, marker = LOOKS[arm]
            label = f"{label}, then RL" if rl else label
            bars = [style.spread([point["self_check"]]) for point in cell["curves"][name]]
            style.whiskers(axes, ks, bars, colour, marker,
                           label if cell["seed"] == cells[0]["seed"] else "", "--" if rl else "-")
            style.whiskers(axes, [0.6 if rl else 0.5], [style.spread([cell["accuracy"][name]])],
                           colour, marker)
        chances = [100 * point["random"]["accuracy"] for point in cells[0]["curves"][name]]
        axes.plot(ks, chances, color=style.BLACK, linestyle=":", label="random policy, exact")
        axes.set_xscale("log", base=2)
        left = "greedy\n(RL right)" if any("+" in cell["arm"] for cell in cells) else "greedy"
        axes.set_xticks([0.5, *ks], [left, *map(str, ks)])
        style.percent_axis(axes, "pass@k (%)")
        axes.set_title(f"{SETS[name]}: {len(cells)} models, "
                       f"{cells[0]['accuracy'][name]['n']} problems greedy", fontsize=9)
    panels[-1].set_xlabel("samples k (log scale); a solver checks itself, so pass@k is reached")
    style.legend_below(figure, panels[0], 2)
    return figure


def write(result: dict, out: Path) -> None:
    """table.md and coverage.png."""
    cells = result["cells"]
    sizes = ", ".join(str(report["n"]) for report in cells[0]["accuracy"].values())
    chances = []
    for name, points in cells[0]["curves"].items():
        chances.append(f"{100 * points[0]['random']['accuracy']:.1f} ({SETS[name]})")
    text = (f"{greedy_table(cells)}\n\nGreedy, n = {sizes} per seed; "
            f"{cells[0]['parameters'] / 1e6:.2f}M parameters. A random policy solves with one try, "
            f"of 4 numbers: {', '.join(chances)}.\n\n<details><summary>N samples per problem at "
            f"T = 1, of 4 numbers</summary>\n\n{samples_table(cells)}\n\n</details>\n")
    style.save(out / "coverage.png", coverage, cells)
    shared.write_table(out / "table.md", result, text)
