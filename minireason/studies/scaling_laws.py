"""Every fit of `minireason scale`, from measured points alone, and where those are read from."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from minireason.core.config import UserError, read_json
from minireason.measure.fits import coverage_law, hinge, log_linear, log_linear_runs, power_law
from minireason.measure.samples import read_records
from minireason.report import style


def laws(measured: dict) -> dict:
    """{name: Fit as a dict} of all that has enough points; see scale.py for the names."""
    found = pretraining(measured["cells"])
    for key, points in rl_points(measured["rl"]).items():
        found |= curve_fits(f"rl {key}", *points)
    for kind in ("testtime", "search"):
        for (name, method), points in testtime_points(measured[kind]).items():
            found |= curve_fits(f"{kind} {name} {method}", *points)
    for name, pairs in right_counts(measured["testtime"]).items():
        n, correct = np.array(pairs).T
        if 0 < correct.sum() < n.sum():
            found[f"coverage {name}"] = coverage_law(n, correct, powers(int(n.min())))
    return {name: asdict(fit) for name, fit in found.items()}


def powers(most: int) -> np.ndarray:
    """1, 2, 4, ... up to `most`."""
    return 2 ** np.arange(int(most).bit_length())


def mean_accuracy(cell: dict) -> float:
    """Greedy chain-of-thought accuracy, mean over the levels."""
    return float(np.mean([point["accuracy"] for point in cell["accuracy"].values()]))


def pretraining(cells: list[dict]) -> dict:
    """Power law of the loss in parameters, log-linear accuracy in compute."""
    sizes = [cell["parameters"] for cell in cells]
    if len(cells) <= 3 or len(set(sizes)) <= 3:
        return {}
    return {"pretrain loss": power_law(sizes, [cell["loss"] for cell in cells]),
            **curve_fits("pretrain accuracy", [cell["flops"] for cell in cells],
                         [mean_accuracy(cell) for cell in cells])}


def curve_fits(name: str, x, y, run=()) -> dict:
    """Log-linear over all points, the hinge that shows where it saturates, and one slope for all
    runs with a start each; run (n,) names the run of a point."""
    kinds = len(set(x))
    fits = {name: log_linear(x, y)} if len(x) > 2 and kinds > 2 else {}
    if fits and len(set(run)) > 1 and len(x) > len(set(run)) + 1:
        fits[f"{name} own starts"] = log_linear_runs(x, y, run)
    if len(x) > 3 and kinds > 3:
        fits[f"{name} saturating"] = hinge(x, y)
    return fits


def rl_points(runs: list[dict]) -> dict[str, tuple[list, list, list]]:
    """{eval key: (FLOPs, accuracy, run)} of all runs, but for the points before any compute."""
    points: dict[str, tuple[list, list, list]] = {}
    for i, run in enumerate(runs):
        for record in run["curve"]:
            for key in (key for key in record if key.startswith("eval/") and record["flops"] > 0):
                x, y, member = points.setdefault(key.removeprefix("eval/"), ([], [], []))
                x.append(record["flops"])
                y.append(record[key])
                member.append(i)
    return points


def testtime_points(runs: list[dict]) -> dict[tuple[str, str], tuple[list, list, list]]:
    """{(set, method): (tokens a problem, accuracy, run)} over all runs."""
    points: dict[tuple[str, str], tuple[list, list, list]] = {}
    for i, run in enumerate(runs):
        for name, curves in run["curves"].items():
            for method, curve in curves.items():
                x, y, member = points.setdefault((name, method), ([], [], []))
                x += [point["tokens"] for point in curve.values()]
                y += [point["accuracy"] for point in curve.values()]
                member += [i] * len(curve)
    return points


def right_counts(runs: list[dict]) -> dict[str, list]:
    """{set: [samples, right ones] a problem}; problems of several seeds stand side by side."""
    found: dict[str, list] = {}
    for run in runs:
        for name, pairs in run["right"].items():
            found.setdefault(name, []).extend(pairs)
    return {name: pairs for name, pairs in found.items() if pairs}


# ---- what other commands have measured -----------------------------------------------------------

def read_rl(folder: Path) -> dict:
    """The validation curve of an RL run; UserError if the folder is none."""
    result = read_json(folder / "result.json")
    if not result.get("curve"):
        raise UserError(f"{folder}: no finished RL run (its result.json has no curve)")
    return {"curve": result["curve"]}


def read_testtime(folder: Path) -> dict:
    """{set: {method: {N: point}}} of a test-time run; per problem how many samples were right."""
    result = read_json(folder / "result.json")
    if not result.get("curves"):
        raise UserError(f"{folder}: no finished test-time run (its result.json has no curves)")
    right = {name: [[len(r["correct"]), sum(r["correct"])]
                    for r in read_records(folder, "samples", name)] for name in result["curves"]}
    curves: dict = {name: {} for name in result["curves"]}
    for name, curve in result["curves"].items():
        for n, record in curve["points"].items():
            for method in (m for m, value in record.items() if isinstance(value, dict)):
                point = {**record[method], "tokens": record["tokens"]}
                curves[name].setdefault(method, {})[n] = point
    return {"curves": curves, "right": right}


def read_search(folder: Path) -> dict:
    """{set: {method: {N: point}}} of a search run, answers by value only; tokens as spent."""
    result = read_json(folder / "result.json")
    if not result.get("sets"):
        raise UserError(f"{folder}: no finished search run (its result.json has no sets)")
    return {"curves": {name: {method: {n: {**point, "accuracy": point["mean"]}
                                       for n, point in points.items()}
                              for method, points in found["curves"].items()
                              if method in style.METHODS}
                       for name, found in result["sets"].items()}}
