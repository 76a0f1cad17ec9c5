"""What a run folder holds, as plain values, and its small copy that a repository can hold.

    {stage: {"stage": kind, "config", "result", "rows", "metrics", "examples", "trees"}}

Rows (rows.jsonl) are the one source of every table and figure: flat objects such as
{"set": "chain-test-k6", "method": "majority", "n": 64, "accuracy": 0.77, "low": ..., "high": ...,
"seed": 0}, to which loading adds "stage", the name of the folder, "kind", that of the stage,
"policy", the one that was measured at test time, and "rung", the row's name on the climb. Only
finished stages, those with a result.json, are loaded. The copy (`keep`) has the same layout without
weights, rollouts and most samples, so the same functions read both.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from minireason import stages
from minireason.core import files
from minireason.core.errors import UserError
from minireason.report import style

EXAMPLES = 24                 # problems per set whose first sample is shown or kept
THIN = 200                    # lines of metrics that a copy keeps at most
COPIED = ("config.json", "result.json", "rows.jsonl", "machine.json", "tree.json")   # whole


def load_run(folder: Path | str) -> dict[str, dict]:
    """Finished stages of a run in the ladder's order; UserError without a pretrain stage."""
    folder = Path(folder)
    found = {path.parent.name: load_stage(path.parent) for path in folder.glob("*/result.json")}
    if "pretrain" not in found:
        raise UserError(f"{folder}: holds no finished pretrain stage; give the folder of a "
                        "`minireason run`, such as runs/quickstart")
    names = [stage.name for stage in stages.STAGES] + sorted(found)
    return {name: found[name] for name in names if name in found}


def load_stage(folder: Path) -> dict:
    """One stage's records."""
    if (folder / files.MANIFEST).exists():                     # not in a thinned copy
        files.check_manifest(folder)
    record, rows = files.read_json(folder / "config.json"), files.read_lines(folder / "rows.jsonl")
    labels = {stage.name: stage.label for stage in stages.STAGES}
    policy = labels.get(Path(record["config"].get("policy", "")).name, "")
    rungs = {"direct": "direct answer", "greedy": labels.get(folder.name, "")}
    for row in rows:
        method = f"{policy}, {style.method_name(row, with_n='n' in row)}"
        row |= {"stage": folder.name, "kind": record["stage"], "policy": policy,
                "rung": rungs.get(row["method"], method)}
    examples = {}
    for path in sorted(folder.glob("samples-*-0.json")):       # the first shard of each set
        name = path.stem.removeprefix("samples-").removesuffix("-0")
        examples[name] = files.read_checked(path)[:EXAMPLES]
    trees = folder / "tree.json"
    return {**record, "result": files.read_json(folder / "result.json"), "rows": rows,
            "examples": examples, "metrics": files.read_lines(folder / "metrics.jsonl"),
            "trees": files.read_json(trees) if trees.exists() else {}}


def load_machine(folder: Path | str) -> str:
    """What a run says of the machine it ran on, as a phrase."""
    path = Path(folder) / "machine.json"
    if not path.exists():
        return "machine not recorded"
    return ", ".join(f"{name} {value}" for name, value in files.read_json(path).items())


def select(rows: list[dict], **where: object) -> list[dict]:
    """The rows whose fields have these values: one of them for a tuple, no such field for None."""
    for field, value in where.items():
        allowed = value if isinstance(value, tuple) else (value,)
        rows = [row for row in rows if row.get(field) in allowed]
    return rows


def group_by(rows: list[dict], field: str) -> dict:
    """{value of the field: its rows}, in order of appearance; None where the field is missing."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(row.get(field), []).append(row)
    return groups


def tagged(rows: list[dict], **fields: object) -> list[dict]:
    """The rows with these fields set."""
    return [{**row, **fields} for row in rows]


def rows_of(runs: list[dict], **where: object) -> list[dict]:
    """The rows of several runs (one per seed), all stages in order, that `select` leaves."""
    found = []
    for run in runs:
        for stage in run.values():
            found += select(stage["rows"], **where)
    return found


def at_largest_n(rows: list[dict]) -> list[dict]:
    """The rows at the largest n of all."""
    return select(rows, n=max((row["n"] for row in rows), default=0))


def differences(rows: list[dict]) -> list[dict]:
    """The rows of paired differences, method "a - b"."""
    return [row for row in rows if " - " in row["method"]]


def final_rows(runs: list[dict], stage: str) -> list[dict]:
    """Greedy accuracy of a policy on the test sets: after the last round where there are rounds."""
    rows = rows_of(runs, stage=stage, method="greedy", step=None)   # a step: validation problems
    return list(group_by(rows, "round").values())[-1] if rows else []


def rung_rows(runs: list[dict]) -> list[dict]:
    """Greedy accuracy of every policy of the ladder, direct answers first."""
    found = rows_of(runs, stage="pretrain", method="direct")
    for stage in stages.STAGES:
        if stage.label:
            found += final_rows(runs, stage.name)
    return found


def sampled_rows(runs: list[dict], **where: object) -> list[dict]:
    """The rows of every test-time method, in the order of style.METHODS."""
    order = tuple(style.METHODS)
    rows = rows_of(runs, method=order, **where)
    return sorted(rows, key=lambda row: order.index(row["method"]))


def hardest_set(run: dict[str, dict], *kinds: str) -> str:
    """The last set that the last stage of these kinds measured, else the ladder's last."""
    rows = rows_of([run], kind=kinds)
    rows = select(rows, stage=rows[-1]["stage"]) if rows else rung_rows([run])
    return list(group_by(rows, "set"))[-1]


def level_of(name: str) -> int:
    """The level in a frozen set's name: 6 of chain-test-k6."""
    return int("".join(filter(str.isdigit, name.rpartition("-")[2])))


def thin(metrics: list[dict], at_most: int) -> list[dict]:
    """Blocks of steps as one line each: tokens are summed, all else is averaged."""
    lines = []
    blocks = min(at_most, len(metrics))
    for members in np.array_split(np.array(metrics), blocks) if blocks else ():
        line = dict(members[-1])
        for key in line.keys() - {"step"}:
            values = [member[key] for member in members if key in member]
            mean = float(f"{sum(values) / len(values):.5g}")
            line[key] = sum(values) if key.endswith("tokens") else mean
        lines.append(line)
    return lines


def keep(run: Path | str, out: Path | str) -> None:
    """Copy what the figures need of a run, thinned, into `out`."""
    run, out = Path(run), Path(out)
    loaded = load_run(run)
    paths = list(run.glob("*.json"))
    for stage in loaded:
        paths += [*(run / stage).glob("*.json*"), *(run / stage).glob("*/**/metrics.jsonl")]
    shutil.rmtree(out, ignore_errors=True)                     # an older copy
    for path in paths:
        if path.name in COPIED:
            lines = path.read_text(encoding="utf-8").splitlines()
        elif path.name == "metrics.jsonl":
            lines = map(json.dumps, thin(files.read_lines(path), THIN))
        elif path.match("samples-*-0.json"):
            records = files.read_checked(path)[:EXAMPLES]
            for record in records:             # of several samples the one that is shown
                for field, value in record.items():
                    record[field] = value[:1] if isinstance(value, list) else value
            lines = [files.checked_form(records)]
        else:
            continue
        target = out / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(target, "\n".join(lines) + "\n")
