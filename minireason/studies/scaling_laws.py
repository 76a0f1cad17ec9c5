"""What `minireason scale` reads of other runs, as flat rows, and every law that it fits."""

from pathlib import Path

import numpy as np

from minireason.core.errors import UserError
from minireason.core.files import read_lines
from minireason.measure.samples import read_records
from minireason.report import style, tables
from minireason.report.runs import group_by
from minireason.studies import fits
from minireason.studies.fits import Fit

COMPUTE = {"rl": "flops", "testtime": "tokens", "search": "tokens"}     # of a row, by kind of run
METHODS = {"rl": ("greedy", "sampled"), "testtime": style.METHODS, "search": style.METHODS}


def read_runs(folders: dict[str, tuple[str, ...]]) -> dict:
    """{"points", "right"} of finished runs {kind: folders}: rows that name a compute, and the
    curve of each; {set: [samples, right ones] per problem} of the test-time runs, of all seeds."""
    points, right = [], {}
    for kind, compute in COMPUTE.items():
        for run, folder in enumerate(map(Path, folders[kind])):
            rows = []
            for row in read_lines(folder / "rows.jsonl"):
                if row.get(compute) and row["method"] in METHODS[kind]:
                    rows.append({"curve": f"{kind} {row['set']}", "run": run, **row,
                                 "compute": row[compute]})
            if not rows:
                raise UserError(f"{folder}: no finished {kind} run (rows.jsonl has no curve)")
            points += rows
            if kind == "testtime":
                for name in group_by(rows, "set"):
                    for record in read_records(folder, "samples", name):
                        count = [len(record["correct"]), sum(record["correct"])]
                        right.setdefault(name, []).append(count)
    return {"points": points, "right": right}


def laws(result: dict) -> dict[str, Fit]:
    """Every law with enough points, named `<kind> <set> <method>`."""
    cells, found = result["cells"], {}
    if len(group_by(cells, "parameters")) > 3:
        found["pretrain loss"] = fits.power_law([cell["parameters"] for cell in cells],
                                                [cell["loss"] for cell in cells])
        found |= curve_laws("pretrain accuracy", [{
            "compute": cell["flops"], "accuracy": mean_accuracy(cell), "run": 0} for cell in cells])
    for curve, rows in group_by(result["points"], "curve").items():
        for method, own in group_by(rows, "method").items():
            found |= curve_laws(f"{curve} {method}", own)
    for name, pairs in result["right"].items():
        n, correct = np.array(pairs).T
        if 0 < correct.sum() < n.sum():
            found[f"coverage {name}"] = fits.coverage_law(n, correct)
    return found


def mean_accuracy(cell: dict) -> float:
    """Greedy chain-of-thought accuracy, mean over the levels."""
    return float(np.mean([point["accuracy"] for point in cell["accuracy"].values()]))


def curve_laws(name: str, rows: list[dict]) -> dict[str, Fit]:
    """Log-linear over all points, one slope for all runs with a start each, and the hinge."""
    x, y, run = ([row[key] for row in rows] for key in ("compute", "accuracy", "run"))
    kinds, runs, found = len(set(x)), len(set(run)), {}
    if kinds > 2:
        found[name] = fits.log_linear(x, y)
        if runs > 1 and len(x) > runs + 1:
            found[f"{name} own starts"] = fits.log_linear_runs(x, y, run)
    if kinds > 3:
        found[f"{name} saturating"] = fits.hinge(x, y)
    return found


def slope(fit: Fit) -> str:
    """`12.3 [9.9, 14.0] points per decade`: accuracy per tenfold compute, with its interval."""
    mean, low, high = (100 * part["q"] for part in (fit.values, fit.low, fit.high))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}] points per decade, R² = {fit.r2:.2f}"


def laws_table(found: dict[str, Fit]) -> str:
    """A line per law of another form, then the slopes of every curve and where they end."""
    text, table = [], [["accuracy against compute", "n", "over all points", "a start per run",
                        "flat from (FLOPs or tokens)"]]
    for name, fit in found.items():
        if "q" not in fit.values:
            values = ", ".join(f"{key} = {fit.text(key)}" for key in fit.values if key != "N0")
            text.append(f"- {name}: {values}, R² = {fit.r2:.3f}, n = {fit.n}")
        elif f"{name} saturating" in found:
            own = found.get(f"{name} own starts")
            table.append([name, str(fit.n), slope(fit), slope(own) if own else "",
                          found[f"{name} saturating"].text("x0")])
    return "\n".join([*text, "", tables.markdown(table)])
