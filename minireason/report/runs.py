"""What a run folder holds, as plain values.

    {stage: {"stage": kind, "config", "result", "rows", "metrics", "examples", "trees", "pools"}}

Rows (rows.jsonl) are the one source of every table and figure: flat objects such as
{"set": "chain-test-k6", "method": "majority", "n": 64, "accuracy": 0.77, "low": ..., "high": ...,
"seed": 0}, to which loading adds "stage", the name of the folder, "kind", that of the stage,
"policy", the one that was measured at test time, "rung", the row's name on the climb, and "digits",
a verdict per problem (verdicts.json), where it was kept. Only finished stages, those with a
result.json, are loaded; copies (copies.py) have the same layout.
"""

from pathlib import Path

from minireason import stages
from minireason.core import files
from minireason.core.errors import UserError
from minireason.measure.estimates import share_interval
from minireason.report import style

EXAMPLES = 24                 # problems per set whose first sample is shown or kept
TESTTIME = tuple(s.name for s in stages.STAGES if s.module.endswith(".testtime"))   # in a run
MACHINE = ("cores", "threads", "torch", "GPU")     # what a run was made with that its time hangs on


def load_run(folder: Path | str) -> dict[str, dict]:
    """Finished stages of a run in the ladder's order; UserError without a pretrain stage."""
    folder = Path(folder)
    found = {path.parent.name: load_stage(path.parent) for path in folder.glob("*/result.json")}
    if "pretrain" not in found:
        raise UserError(f"{folder}: holds no finished pretrain stage; give the folder of a "
                        "`minireason run`, such as runs/quickstart")
    names = [stage.name for stage in stages.STAGES] + sorted(found)
    run = {name: found[name] for name in names if name in found}
    for stage in run.values():
        add_greedy(run, stage)
    return run


def load_stage(folder: Path) -> dict:
    """One stage's records."""
    for path in folder.rglob(files.MANIFEST):      # of rounds, too; none in a thinned copy
        files.check_manifest(path.parent)
    record, rows = files.read_json(folder / "config.json"), rows_with_verdicts(folder)
    labels = {stage.name: stage.label for stage in stages.STAGES}
    policy = labels.get(Path(record["config"].get("policy", "")).name, "")
    rung = labels.get(folder.name) or f"{policy}, greedy"
    rungs = {"direct": "direct answer", "greedy": rung, "sampled": rung}
    for row in rows:
        method = f"{policy}, {style.method_name(row, with_n='n' in row)}"
        if row["method"] in style.LIMITS:
            method = "its teachers"
        row |= {"stage": folder.name, "kind": record["stage"], "policy": policy,
                "rung": rungs.get(row["method"], method)}
    examples = {}
    for path in sorted(folder.glob("samples-*-0.json")):       # the first shard of each set
        name = path.stem.removeprefix("samples-").removesuffix("-0")
        examples[name] = files.read_checked(path)[:EXAMPLES]
    trees, pools = folder / "tree.json", folder / "pools.npz"
    return {**record, "result": files.read_json(folder / "result.json"), "rows": rows,
            "examples": examples, "metrics": files.read_lines(folder / "metrics.jsonl"),
            "trees": files.read_json(trees) if trees.exists() else {},
            "pools": pools if pools.exists() else None}


def rows_with_verdicts(folder: Path) -> list[dict]:
    """The rows of a stage and its rounds, with a digit per problem where verdicts were kept."""
    rows, found = files.read_lines(folder / "rows.jsonl"), {}
    for path in (*folder.glob("verdicts.json"), *folder.glob("*-*/verdicts.json")):
        number = None if path.parent == folder else int(path.parent.name.rpartition("-")[2])
        for method, sets in files.read_json(path).items():
            found |= {(number, method, name): digits for name, digits in sets.items()}
    for row in rows:
        digits = found.get((row.get("round"), row["method"], row["set"]))
        if digits and "step" not in row:
            row["digits"] = digits
    return rows


def add_greedy(run: dict[str, dict], stage: dict) -> None:
    """What the policy answers greedily, to the rows of a stage that only sampled from it.

    The stage's problems are the first of the frozen sets that its policy was measured on.
    """
    policy = Path(stage["config"].get("policy", "")).name
    if policy not in run or select(stage["rows"], method="greedy"):
        return
    for row in final_rows([run], policy):
        of_set = select(stage["rows"], set=row["set"])
        if of_set:
            tags = {field: of_set[0][field] for field in ("stage", "kind", "policy", "seed")}
            tags |= {"round": None, "rung": f"{of_set[0]['policy']}, greedy"}
            if "digits" in row:
                digits = row["digits"][:of_set[0]["problems"]]
                tags |= share_interval(len(digits) - digits.count("0"), len(digits))
                tags |= {"problems": len(digits), "digits": digits}
            stage["rows"].append({**row, **tags})


def load_machine(folder: Path | str) -> str:
    """What a run says of the machine it was begun on, as a phrase."""
    path = Path(folder) / "config.json"
    known = files.read_json(path).get("made_with", {}) if path.exists() else {}
    found = [f"{name} {known[name]}" for name in MACHINE if name in known]
    return ", ".join(found) or "machine not recorded"


def select(rows: list[dict], **where: object) -> list[dict]:
    """The rows whose fields have these values: one of them for a tuple, no such field for None."""
    for field, value in where.items():
        allowed = value if isinstance(value, tuple) else (value,)
        rows = [row for row in rows if row.get(field) in allowed]
    return rows


def group_by(rows: list[dict], *fields: str) -> dict:
    """{value of the field, of several a tuple: its rows}, in order of appearance.

    None where a field is missing.
    """
    groups: dict = {}
    for row in rows:
        values = tuple(row.get(field) for field in fields)
        groups.setdefault(values if len(fields) > 1 else values[0], []).append(row)
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


def at_n(rows: list[dict], n: int) -> list[dict]:
    """The rows at n samples, and greedy ones, which need no samples."""
    return [row for row in rows if row["n"] == n or row.get("method") == "greedy"]


def at_largest_n(rows: list[dict]) -> list[dict]:
    """The rows at the largest n of all, and greedy ones."""
    return at_n(rows, max((row["n"] for row in rows), default=0))


def differences(rows: list[dict]) -> list[dict]:
    """The rows of paired differences, method "a - b"."""
    return [row for row in rows if " - " in row["method"]]


def final_rows(runs: list[dict], stage: str, method: str = "greedy") -> list[dict]:
    """Accuracy of a policy on the test sets: after the last round where there are rounds."""
    rows = rows_of(runs, stage=stage, method=method, step=None)   # a step: validation problems
    return list(group_by(rows, "round").values())[-1] if rows else []


def rung_rows(runs: list[dict], method: str = "greedy") -> list[dict]:
    """Accuracy of every policy of the ladder, greedy ("sampled": of one sample); greedy ones have
    the direct answers before them."""
    found = rows_of(runs, stage="pretrain", method="direct") if method == "greedy" else []
    for stage in stages.STAGES:
        if stage.label:
            found += final_rows(runs, stage.name, method)
    return found


def limit_rows(runs: list[dict], method: str = "greedy", **where: object) -> list[dict]:
    """What imitating the pretraining text reaches on each test set, computed, so the same for every
    seed; [] where no author errs."""
    return rows_of(runs[:1], stage="pretrain", method=f"limit_{method}", **where)


def sampled_rows(runs: list[dict], **where: object) -> list[dict]:
    """The rows of every test-time method, in the order of style.SHOWN."""
    order = tuple(style.SHOWN)
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
