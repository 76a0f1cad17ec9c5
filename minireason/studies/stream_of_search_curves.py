"""Countdown with N samples a problem: methods that check themselves, and those that do not.

Whether an expression hits its target can be read from the prompt. `self_check` does so: it picks
a sample that solves, and equals coverage. `majority` and `likelihood` (best mean log-probability)
do not check. `random` is the policy that draws uniformly among the useful operations; its pass@k,
1 - (1 - p)^k with p from full enumeration, is exact and high.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minireason.core.config import rng
from minireason.measure.estimates import best_of_n, paired_bootstrap, pass_at_k, vote_at
from minireason.report import style
from minireason.report.tables import accuracy_text

METHODS = ("single", "majority", "likelihood", "self_check")
LOOKS = {"sos": ("Stream of Search", style.BLUE, "o"),
         "guided": ("guided search", style.GREEN, "D"),
         "optimal_tokens": ("optimal paths, equal tokens", style.ORANGE, "s"),
         "optimal_examples": ("optimal paths, equal examples", style.SKY, "^")}
SETS = {"countdown-test-n4": "new numbers", "countdown-targets-n4": "new numbers and targets"}


def curve(records: list[dict], seed: int) -> list[dict]:
    """Every method at every N: accuracy with a 95% bootstrap interval over problems."""
    points, most = [], len(records[0]["answers"])
    for n in [2 ** i for i in range(most.bit_length())]:
        values = {method: np.array([per_problem(record, n, method, seed, i)
                                    for i, record in enumerate(records)]) for method in METHODS}
        values["random"] = np.array([1 - (1 - record["chance"]) ** n for record in records])
        tokens = n * float(np.mean([record["tokens"] for record in records]))
        points.append({"n": n, "tokens": tokens, **{
            method: dict(zip(("accuracy", "low", "high"), paired_bootstrap(
                value, np.zeros(len(value)), draws=1000), strict=True))
            for method, value in values.items()}})
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
    right = np.unique(answers[correct == 1])
    return vote_at(answers, np.ones(len(answers)), right, n, rng(seed, "subsets", index, n))


def summary(cells: list[dict]) -> str:
    """Greedy accuracy in percent, a row an arm over its seeds, and what search traces gain."""
    arms: dict[str, list[dict]] = {}
    for c in cells:
        arms.setdefault(c["arm"], []).append(c)
    names = list(cells[0]["accuracy"])
    lines = ["| countdown arm | seeds | tokens | examples | " + " | ".join(names) + " |",
             "|---" * (4 + len(names)) + "|"]
    for arm, own in arms.items():
        tokens = np.mean([c["train_tokens"] for c in own]) / 1e6
        found = [accuracy_text([c["accuracy"][name] for c in own]) for name in names]
        lines.append(f"| {arm} | {', '.join(str(c['seed']) for c in own)} | {tokens:.2f}M | "
                     f"{own[0]['train_examples']:,} | {' | '.join(found)} |")
    reference = {c["seed"]: c["accuracy"] for c in arms.get("optimal_tokens", [])}
    for arm, own in arms.items():
        pairs = [(c["accuracy"], reference[c["seed"]]) for c in own if c["seed"] in reference]
        if pairs and "optimal" not in arm and "+" not in arm:
            lines.append(f"| {arm} - optimal_tokens, points (lowest 95% bound of any seed) | | | | "
                         + " | ".join(margin([(a[name], b[name]) for a, b in pairs])
                                      for name in names) + " |")
    chances = [f"{100 * points[0]['random']['accuracy']:.1f} ({SETS[name]})"
               for name, points in cells[0]["curves"].items()]
    lines += ["", f"Greedy, n = {', '.join(str(a['n']) for a in cells[0]['accuracy'].values())} a "
              f"seed; {cells[0]['parameters'] / 1e6:.2f}M parameters. A random policy solves with "
              f"one try, of 4 numbers: {', '.join(chances)}."]
    return "\n".join(lines)


def margin(pairs: list[tuple[dict, dict]]) -> str:
    """Mean difference of two accuracies over seeds and the lowest bound of any seed, unpaired."""
    gains, bounds = [], []
    for a, b in pairs:
        gains.append(a["accuracy"] - b["accuracy"])
        bounds.append(gains[-1] - 1.96 * sum(
            x["accuracy"] * (1 - x["accuracy"]) / x["n"] for x in (a, b)) ** 0.5)
    return f"{100 * np.mean(gains):+.1f} ({100 * min(bounds):+.1f})"


def table(cells: list[dict]) -> str:
    """The summary, then every method with N samples a problem."""
    lines = [summary(cells), "", "N samples a problem at T = 1, of 4 numbers:", "",
             "| arm | seed | set | N | tokens | " + " | ".join((*METHODS, "random")) + " |",
             "|---" * (6 + len(METHODS)) + "|"]
    for c in cells:
        for name, points in c["curves"].items():
            for p in (points[0], points[len(points) // 2], points[-1]):
                lines.append(f"| {c['arm']} | {c['seed']} | {name} | {p['n']} | {p['tokens']:.0f} "
                             "| " + " | ".join(f"{100 * p[m]['accuracy']:.1f}"
                                               for m in (*METHODS, "random")) + " |")
    return "\n".join(lines) + "\n"


def coverage(cells: list[dict]) -> Figure:
    """pass@k of every arm, one line a seed with its 95% interval, greedy at the left; by chance."""
    names = list(cells[0]["curves"])
    figure = Figure(figsize=(style.WIDTH, 1 + 2.6 * len(names)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(names), 1, sharex=True))
    for axes, name in zip(panels, names, strict=True):
        for c in cells:
            arm, _, rl = c["arm"].partition("+")
            label, colour, marker = LOOKS[arm]
            label += ", then RL" if rl else ""
            points, greedy = c["curves"][name], c["accuracy"][name]
            ks, rows = [p["n"] for p in points], [style.spread([p["self_check"]]) for p in points]
            label = label if c["seed"] == cells[0]["seed"] else ""
            style.whiskers(axes, ks, rows, colour, marker, label, "--" if rl else "-")
            style.whiskers(axes, [0.6 if rl else 0.5], [style.spread([greedy])], colour, marker)
        axes.plot(ks, [100 * p["random"]["accuracy"] for p in cells[0]["curves"][name]],
                  color=style.BLACK, linestyle=":", label="random policy, exact")
        axes.set_xscale("log", base=2)
        then = any("+" in c["arm"] for c in cells)
        axes.set_xticks([0.5, *ks], ["greedy\n(RL right)" if then else "greedy", *map(str, ks)])
        style.percent_axis(axes, "pass@k (%)")
        axes.set_title(f"{SETS[name]}: {len(cells)} models, {greedy['n']} problems greedy",
                       fontsize=9)
    panels[-1].set_xlabel("samples k (log scale); a solver checks itself, so pass@k is reached")
    style.legend_below(figure, panels[0], 2)
    return figure


def draw(cells: list[dict], out: Path) -> Path:
    """Write the figure into the folder."""
    out.mkdir(parents=True, exist_ok=True)
    return style.save(out / "coverage.png", coverage, cells)
