"""What a run folder holds, as plain values, and its small copy that a repository can hold.

    {stage: {"stage": kind, "config", "result", "rows", "metrics", "examples", "trees", "tokens"}}

Rows (rows.jsonl) are the one source of every table and figure: flat objects such as
{"set": "chain-test-k6", "method": "majority", "n": 64, "accuracy": 0.77, "low": ..., "high": ...,
"seed": 0}, to which loading adds "stage", the name of the folder, "policy", the one that was
measured at test time, and "rung", the row's name on the climb. Only finished stages, those with a
result.json, are loaded. The copy (`keep`) has the same layout without weights, rollouts and most
samples, so the same functions read both.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from minireason import stages
from minireason.core.errors import UserError
from minireason.core.files import (
    MANIFEST,
    check_manifest,
    checked_form,
    read_checked,
    read_json,
    read_lines,
    write_atomic,
)
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
    order = [stage.name for stage in stages.STAGES if stage.name in found]
    return {name: found[name] for name in [*order, *sorted(set(found) - set(order))]}


def load_stage(folder: Path) -> dict:
    """One stage's records; "tokens" counts those trained on, parts such as rounds included."""
    if (folder / MANIFEST).exists():                           # not in a thinned copy
        check_manifest(folder)
    record, result = read_json(folder / "config.json"), read_json(folder / "result.json")
    rows = read_lines(folder / "rows.jsonl")
    labels = {stage.name: stage.label for stage in stages.STAGES}
    policy = labels.get(Path(record["config"].get("policy", "")).name, "")
    rungs = {"direct": "direct answer", "greedy": labels.get(folder.name, "")}
    for row in rows:
        method = f"{policy}, {style.method_name(row, with_n='n' in row)}"
        row |= {"stage": folder.name, "policy": policy, "rung": rungs.get(row["method"], method)}
    examples: dict[str, list] = {}
    for path in sorted(folder.glob("samples-*-0.json")):       # the first shard of each set
        name = path.stem.removeprefix("samples-").rpartition("-")[0]
        examples[name] = read_checked(path)[:EXAMPLES]
    tokens = 0.0
    for path in [folder / "metrics.jsonl", *folder.glob("*/**/metrics.jsonl")]:
        for line in read_lines(path):
            tokens += line.get("train/tokens", line.get("train/trained_tokens", 0))
    trees = folder / "tree.json"
    return {**record, "result": result, "rows": rows, "examples": examples,
            "metrics": read_lines(folder / "metrics.jsonl"), "tokens": int(tokens),
            "trees": read_json(trees) if trees.exists() else {}}


def load_machine(folder: Path | str) -> str:
    """What a run says of the machine it ran on, as a phrase."""
    path = Path(folder) / "machine.json"
    if not path.exists():
        return "machine not recorded"
    return ", ".join(f"{name} {value}" for name, value in read_json(path).items())


def select(rows: list[dict], **where: object) -> list[dict]:
    """The rows whose fields have these values; None selects the rows without the field."""
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]


def group_by(rows: list[dict], field: str) -> dict:
    """{value of the field: its rows}, in order of appearance; None where the field is missing."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(row.get(field), []).append(row)
    return groups


def tagged(rows: list[dict], **fields: object) -> list[dict]:
    """The rows with these fields set."""
    return [{**row, **fields} for row in rows]


def rows_of(runs: list[dict], stage: str, **where: object) -> list[dict]:
    """The rows of one stage over several runs (one per seed); none where it is missing."""
    found = []
    for run in runs:
        if stage in run:
            found += select(run[stage]["rows"], **where)
    return found


def at_largest_n(rows: list[dict]) -> list[dict]:
    """The rows at the largest n of all."""
    return select(rows, n=max((row["n"] for row in rows), default=0))


def differences(rows: list[dict]) -> list[dict]:
    """The rows of paired differences, method "a - b"."""
    return [row for row in rows if " - " in row["method"]]


def final_rows(runs: list[dict], stage: str) -> list[dict]:
    """Greedy accuracy of a policy on the test sets: after the last round where there are rounds."""
    rows = rows_of(runs, stage, method="greedy", step=None)     # a step: on validation problems
    last = max((row.get("round", 0) for row in rows), default=0)
    return [row for row in rows if row.get("round", 0) == last]


def rung_rows(runs: list[dict]) -> list[dict]:
    """Greedy accuracy of every policy of the ladder, direct answers first."""
    found = rows_of(runs, "pretrain", method="direct")
    for stage in stages.STAGES:
        if stage.label:
            found += final_rows(runs, stage.name)
    return found


def sampled_rows(runs: list[dict], stage: str) -> list[dict]:
    """Every test-time method of a stage, in the order of style.METHODS."""
    found = []
    for method in style.METHODS:
        found += rows_of(runs, stage, method=method)
    return found


def stages_of(run: dict[str, dict], *kinds: str) -> list[str]:
    """Names of the run's stages of these kinds: testtime and rl_testtime are of kind testtime."""
    return [name for name, stage in run.items() if stage["stage"] in kinds]


def hardest_set(run: dict[str, dict], *kinds: str) -> str:
    """The last set that the last stage of these kinds measured, else the ladder's last."""
    names = stages_of(run, *kinds)
    rows = run[names[-1]]["rows"] if names else rung_rows([run])
    return list(group_by(rows, "set"))[-1]


def level_of(name: str) -> int:
    """The level in a frozen set's name: 6 of chain-test-k6."""
    return int("".join(c for c in name.rpartition("-")[2] if c.isdigit()))


def thin(metrics: list[dict], at_most: int) -> list[dict]:
    """Blocks of steps as one line each: tokens are summed, all else is averaged."""
    lines = []
    for block in np.array_split(np.arange(len(metrics)), max(1, min(at_most, len(metrics)))):
        members = [metrics[i] for i in block]
        for key in members[-1] if members else ():
            if key == "step":
                lines.append({"step": members[-1]["step"]})
                continue
            values = [member[key] for member in members if key in member]
            mean = float(f"{sum(values) / len(values):.5g}")
            lines[-1][key] = sum(values) if key.endswith("tokens") else mean
    return lines


def keep(run: Path | str, out: Path | str) -> None:
    """Copy what the figures need of a run, thinned, into `out`."""
    run, out = Path(run), Path(out)
    loaded = load_run(run)
    paths = list(run.glob("*.json"))
    for stage in loaded:
        paths += [*(run / stage).glob("*.json*"), *(run / stage).glob("*/**/metrics.jsonl")]
    shutil.rmtree(out, ignore_errors=True)                     # an older copy
    for path in sorted(paths):
        if path.name in COPIED:
            lines = path.read_text(encoding="utf-8").splitlines()
        elif path.name == "metrics.jsonl":
            lines = [json.dumps(line) for line in thin(read_lines(path), THIN)]
        elif path.name.startswith("samples-") and path.stem.endswith("-0"):
            lines = [checked_form([first_sample(record)
                                   for record in read_checked(path)[:EXAMPLES]])]
        else:
            continue
        target = out / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, "\n".join(lines) + "\n")


def first_sample(record: dict) -> dict:
    """A test-time record cut down to the sample that is shown."""
    return {key: value[:1] if isinstance(value, list) else value for key, value in record.items()}
