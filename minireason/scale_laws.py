"""Every fit of `minireason scale`, computed from its measured points alone."""

from dataclasses import asdict

import numpy as np

from minireason.scaling import coverage_law, hinge, log_linear, power_law


def laws(measured: dict) -> dict:
    """{name: Fit as a dict} of all that has enough points; see scale.py for the names."""
    found = pretraining(measured["cells"])
    for key, points in rl_points(measured["rl"]).items():
        found |= curve_fits(f"rl {key}", *points)
    for (name, method), points in testtime_points(measured["testtime"]).items():
        found |= curve_fits(f"testtime {name} {method}", *points)
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


def curve_fits(name: str, x, y) -> dict:
    """Log-linear over all points, and the hinge that shows where it saturates."""
    kinds = len(set(x))
    fits = {name: log_linear(x, y)} if len(x) > 2 and kinds > 2 else {}
    if len(x) > 3 and kinds > 3:
        fits[f"{name} saturating"] = hinge(x, y)
    return fits


def rl_points(runs: list[dict]) -> dict[str, tuple[list, list]]:
    """{eval key: (FLOPs, accuracy)} over all runs, but for the points before any compute."""
    points: dict[str, tuple[list, list]] = {}
    for run in runs:
        for record in run["curve"]:
            for key in (key for key in record if key.startswith("eval/") and record["flops"] > 0):
                x, y = points.setdefault(key.removeprefix("eval/"), ([], []))
                x.append(record["flops"])
                y.append(record[key])
    return points


def testtime_points(runs: list[dict]) -> dict[tuple[str, str], tuple[list, list]]:
    """{(set, method): (tokens a problem, accuracy)} over all runs."""
    points: dict[tuple[str, str], tuple[list, list]] = {}
    for run in runs:
        for name, curve in run["curves"].items():
            for record in curve.values():
                for method in (m for m, value in record.items() if isinstance(value, dict)):
                    x, y = points.setdefault((name, method), ([], []))
                    x.append(record["tokens"])
                    y.append(record[method]["accuracy"])
    return points


def right_counts(runs: list[dict]) -> dict[str, list]:
    """{set: [samples, right ones] a problem}; problems of several seeds stand side by side."""
    found: dict[str, list] = {}
    for run in runs:
        for name, pairs in run["right"].items():
            found.setdefault(name, []).extend(pairs)
    return {name: pairs for name, pairs in found.items() if pairs}
