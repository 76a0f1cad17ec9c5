"""What several runs of one recipe say together: gains of the rungs, controls, the committed range.

`BAND` lies beside the committed copies of runs, in a wheel too: {"seeds", "settings" of the
policies' stages, "rungs": {rung: {set: greedy accuracy of each seed}}}. A user's run of the same
settings is held against it.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from minireason import stages
from minireason.core import files
from minireason.core.config import PATHS
from minireason.measure.estimates import expected_accuracy, two_way_interval
from minireason.measure.samples import load_pools, values_field
from minireason.problems import FAMILIES
from minireason.problems.frozen import alike, frozen_folder
from minireason.report.runs import differences, group_by, level_of, rows_of, rung_rows, select

BAND = "band.json"


def verdicts_of(rows: list[dict]) -> np.ndarray:
    """(S, P) 1 where a seed's policy answers a problem right, else 0; the rows have digits."""
    return np.array([[digit > "0" for digit in row["digits"]] for row in rows], dtype=float)


def interval_of(rows: list[dict], others: list[dict] | None = None) -> dict[str, float]:
    """two_way_interval of the rows of one frozen set, or of rows less others, a row per seed."""
    right = verdicts_of(rows)
    return two_way_interval(right, verdicts_of(others) if others else None,
                            alike(rows[0].get("set", ""), right.shape[1]))


def gain_rows(runs: list[dict], method: str = "greedy") -> list[dict]:
    """Every rung minus the one below it on each set, with intervals over seeds and problems.

    Paired by seed and problem; [] for runs without verdicts.
    """
    rungs, found = group_by(rung_rows(runs, method), "rung"), []
    for (before, lower), (after, upper) in pairwise(rungs.items()):
        for name, rows in group_by(upper, "set").items() if len(runs) > 1 else ():
            others = select(lower, set=name)
            if len(rows) == len(others) and all("digits" in row for row in rows + others):
                found.append({"set": name, "method": f"{method} - {method}",
                              "rung": f"{after} - {before}",
                              **interval_of(rows, others)})
    return found


def margin_rows(rows: list[dict], field: str, pairs: Iterable[tuple[str, str]]) -> list[dict]:
    """Of each pair (better, worse) of values of a field, the difference on each set.

    Paired by seed and problem, with intervals over both; the rows have digits.
    """
    found, lines = [], group_by(rows, field)
    for better, worse in pairs:
        others = {(row["set"], row["seed"]): row for row in lines.get(worse, [])}
        own = [row for row in lines.get(better, []) if (row["set"], row["seed"]) in others]
        for name, members in group_by(own, "set").items():
            of_worse = [others[name, row["seed"]] for row in members]
            found.append({field: f"{better} - {worse}", "set": name, "method": "greedy - greedy",
                          **interval_of(members, of_worse)})
    return found


def accuracies(stage: dict, name: str, method: str, n: int) -> np.ndarray:
    """(P,) expected accuracy of a method on each problem of a set, from the n samples kept."""
    if method == "greedy":
        with np.load(stage["pools"]) as arrays:
            return arrays[f"{name} greedy"].astype(float)
    (row,) = select(stage["rows"], set=name, method=method, n=n)
    pools = load_pools(stage["pools"], name, row["temperature"], values_field(method))
    return expected_accuracy(pools, method, n, 0)


def paired_rows(runs: list[dict], stage: str, name: str) -> list[dict]:
    """The differences of a test-time stage at its largest N, over seeds and problems together.

    Computed anew from the samples; [] where a run has not kept them.
    """
    measured, found = [run[stage] for run in runs if stage in run], []
    pairs = group_by(differences(rows_of(runs, stage=stage, set=name)), "method")
    for pair, rows in pairs.items() if all(one.get("pools") for one in measured) else ():
        a, b = ([accuracies(one, name, method, rows[0]["n"]) for one in measured]
                for method in pair.split(" - "))
        found.append({**rows[0], **two_way_interval(np.array(a), np.array(b),
                                                    alike(name, len(a[0])))})
    return found


def control_rows(reference: Path, method: str = "greedy") -> list[dict]:
    """The arms of equal FLOPs that `minireason controls` left beside the reference; [] if none."""
    path, found = reference.parent / "controls" / "controls.json", []
    for row in select(files.read_json(path)["rows"] if path.exists() else [], method=method):
        if "against" in row:
            times = row.get("times", 1.0)
            flops = f"{times:g} times the FLOPs" if times != 1 else f"FLOPs of {row['against']}"
            found.append({**row, "rung": f"control: {row['arm']} ({flops})"})
    return found


def settings_of(run: dict[str, dict]) -> dict[str, dict]:
    """{stage: its config without seed, device and folders}: what runs of one recipe share."""
    apart = (*PATHS, "seed", "device")
    return {name: {key: value for key, value in stage["config"].items() if key not in apart}
            for name, stage in run.items()}


def band_of(runs: list[dict]) -> dict:
    """What `BAND` holds."""
    rows, settings = rung_rows(runs), settings_of(runs[0])
    rungs = {rung: {name: [round(row["accuracy"], 4) for row in of_set]
                    for name, of_set in group_by(members, "set").items()}
             for rung, members in group_by(rows, "rung").items()}
    return {"seeds": list(group_by(rows, "seed")), "rungs": rungs,
            "settings": {s.name: settings[s.name] for s in stages.STAGES
                         if s.label and s.name in settings}}


def committed_band(folder: Path, run: dict[str, dict]) -> dict | None:
    """The band of the committed runs of this run's size and family, None without one.

    Also None if a stage has other settings: such runs cannot be held against each other.
    """
    record, first = folder / "config.json", next(iter(FAMILIES))
    config = files.read_json(record)["config"] if record.exists() else {}
    family, size = config.get("family", first), config.get("size", "")
    path = frozen_folder() / "reference" / (size if family == first else f"{family}-{size}") / BAND
    if not path.is_file():
        return None
    band, settings = files.read_json(path), settings_of(run)
    same = all(settings[name] == held for name, held in band["settings"].items()
               if name in settings)
    return band if same else None


def band_lines(run: dict[str, dict], band: dict) -> list[str]:
    """One line per rung of a run: inside the range over the committed seeds, or where not."""
    lines = []
    for rung, rows in group_by(rung_rows([run]), "rung").items():
        outside = []
        for row in rows:
            accuracies = band["rungs"].get(rung, {}).get(row["set"], [0.0, 1.0])
            low, high = min(accuracies), max(accuracies)
            if not low <= round(row["accuracy"], 4) <= high:
                outside.append(f"level {level_of(row['set'])}, {100 * row['accuracy']:.1f} "
                               f"({100 * low:.1f} to {100 * high:.1f})")
        lines.append(f"{rung}: " + ("outside at " + "; ".join(outside) if outside
                                    else "inside at every level"))
    return lines
