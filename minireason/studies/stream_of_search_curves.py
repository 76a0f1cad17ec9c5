"""Countdown with N samples per problem: methods that check themselves, and those that do not.

Whether an expression hits its target can be read from the prompt. `self_check` does so: it picks
a sample that solves, and equals coverage. `majority` and `likelihood` (best mean log-probability)
do not check. `random` is the policy that draws uniformly among the useful operations; its pass@k,
1 - (1 - p)^k with p from full enumeration, is exact and high.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minireason.core.config import rng
from minireason.measure.estimates import best_of_n, mean_interval, pass_at_k, vote_at
from minireason.report import style
from minireason.studies import shared

METHODS = ("single", "majority", "likelihood", "self_check")
LOOKS = {"sos": ("Stream of Search", style.BLUE, "o"),
         "guided": ("guided search", style.GREEN, "D"),
         "optimal_tokens": ("optimal paths, equal tokens", style.ORANGE, "s"),
         "optimal_examples": ("optimal paths, equal examples", style.SKY, "^")}
SETS = {"countdown-test-n4": "new numbers", "countdown-targets-n4": "new numbers and targets"}


def curve(records: list[dict], seed: int) -> list[dict]:
    """Every method at every N: accuracy with a 95% bootstrap interval over problems."""
    points, most = [], len(records[0]["answers"])
    tokens = float(np.mean([record["tokens"] for record in records]))
    for n in [2 ** i for i in range(most.bit_length())]:
        point = {"n": n, "tokens": n * tokens}
        for method in METHODS:
            values = [per_problem(record, n, method, seed, i) for i, record in enumerate(records)]
            point[method] = mean_interval(np.array(values), draws=1000)
        chances = np.array([1 - (1 - record["chance"]) ** n for record in records])
        points.append({**point, "random": mean_interval(chances, draws=1000)})
    return points


def per_problem(record: dict, n: int, method: str, seed: int, index: int) -> float:
    """Expected accuracy of a method with n samples on one problem."""
    correct, answers = np.array(record["correct"]), np.array(record["answers"])
    if method == "single":
        return float(correct.mean())
    if method == "self_check":
        return pass_at_k(len(correct), int(correct.sum()), n)
    if method == "likelihood":
        return best_of_n(correct, np.array(record["scores"]), n)
    right = np.unique(answers[correct == 1])                 # several expressions may be right
    return vote_at(answers, np.ones(len(answers)), right, n, rng(seed, "subsets", index, n))


def greedy_table(cells: list[dict]) -> str:
    """Greedy accuracy in percent, a row per arm over its seeds, and what search traces gain."""
    names, lines = list(cells[0]["accuracy"]), []
    arms = shared.group_by(cells, "arm")
    for arm, own in arms.items():
        seeds = ", ".join(str(cell["seed"]) for cell in own)
        tokens = np.mean([cell["train_tokens"] for cell in own]) / 1e6
        line = [arm, seeds, f"{tokens:.2f}M", f"{own[0]['train_examples']:,}"]
        for name in names:
            line.append(shared.percent_text([cell["accuracy"][name] for cell in own]))
        lines.append(line)
    reference = {cell["seed"]: cell["accuracy"] for cell in arms.get("optimal_tokens", [])}
    for arm in (arm for arm in ("sos", "guided") if arm in arms):
        line = [f"{arm} - optimal_tokens, points (lowest 95% bound of any seed)", "", "", ""]
        for name in names:
            pairs = [(cell["accuracy"][name], reference[cell["seed"]][name])
                     for cell in arms[arm] if cell["seed"] in reference]
            line += [gain_text(pairs)] if pairs else []
        lines += [line] if reference else []
    return shared.markdown_table(["countdown arm", "seeds", "tokens", "examples", *names], lines)


def gain_text(pairs: list[tuple[dict, dict]]) -> str:
    """Mean difference of two accuracies over seeds and the lowest bound of any seed, unpaired."""
    gains, bounds = [], []
    for a, b in pairs:
        variance = sum(x["accuracy"] * (1 - x["accuracy"]) / x["n"] for x in (a, b))
        gains.append(a["accuracy"] - b["accuracy"])
        bounds.append(gains[-1] - 1.96 * variance ** 0.5)
    return f"{100 * np.mean(gains):+.1f} ({100 * min(bounds):+.1f})"


def samples_table(cells: list[dict]) -> str:
    """Every method with one, some and all samples per problem, of each model."""
    methods, lines = (*METHODS, "random"), []
    for cell in cells:
        for name, points in cell["curves"].items():
            for point in (points[0], points[len(points) // 2], points[-1]):
                percents = [f"{100 * point[method]['accuracy']:.1f}" for method in methods]
                lines.append([cell["arm"], str(cell["seed"]), name, str(point["n"]),
                              f"{point['tokens']:.0f}", *percents])
    return shared.markdown_table(["arm", "seed", "set", "N", "tokens", *methods], lines)


def coverage(cells: list[dict]) -> Figure:
    """pass@k of every arm, one line per seed with its 95% interval, greedy at the left; chance."""
    names = list(cells[0]["curves"])
    figure = Figure(figsize=(style.WIDTH, 1 + 2.6 * len(names)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(names), 1, sharex=True))
    for axes, name in zip(panels, names, strict=True):
        for cell in cells:
            arm, _, rl = cell["arm"].partition("+")
            label, colour, marker = LOOKS[arm]
            label = f"{label}, then RL" if rl else label
            points, greedy = cell["curves"][name], cell["accuracy"][name]
            ks = [point["n"] for point in points]
            bars = [style.spread([point["self_check"]]) for point in points]
            style.whiskers(axes, ks, bars, colour, marker,
                           label if cell["seed"] == cells[0]["seed"] else "", "--" if rl else "-")
            style.whiskers(axes, [0.6 if rl else 0.5], [style.spread([greedy])], colour, marker)
        chances = [100 * point["random"]["accuracy"] for point in cells[0]["curves"][name]]
        axes.plot(ks, chances, color=style.BLACK, linestyle=":", label="random policy, exact")
        axes.set_xscale("log", base=2)
        left = "greedy\n(RL right)" if any("+" in cell["arm"] for cell in cells) else "greedy"
        axes.set_xticks([0.5, *ks], [left, *map(str, ks)])
        style.percent_axis(axes, "pass@k (%)")
        axes.set_title(f"{SETS[name]}: {len(cells)} models, {greedy['n']} problems greedy",
                       fontsize=9)
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
