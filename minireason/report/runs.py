"""What a run folder holds, as plain values, and its small copy that a repository can hold.

    {stage: {"config": ..., "result": ..., "metrics": [...], "tokens": ..., "examples": {...}}}

Only finished stages are there: what has no result.json is missing, and is said to be missing by
whoever asks. The copy (`keep`) has the same layout without weights, rollouts and most samples, so
the same functions read both, and every figure can be drawn anew from committed files.
"""

import json
from pathlib import Path

import numpy as np

from minireason.core.config import UserError, read_json, read_lines, write_atomic

STAGES = ("pretrain", "sft", "star", "critic", "outcome", "testtime", "rl", "rl_critic",
          "rl_testtime", "revise", "search", "flywheel")   # of a run, in order
EXAMPLES = 24                 # problems a set whose first sample is shown or kept
THIN = 200                    # lines of metrics that a copy keeps at most


def load_run(folder: Path | str) -> dict[str, dict]:
    """Finished stages of a run; UserError if even pretraining is not among them."""
    folder = Path(folder)
    found = {path.parent.name: load_stage(path.parent) for path in folder.glob("*/result.json")}
    if "pretrain" not in found:
        raise UserError(f"{folder}: holds no finished pretrain stage; give the folder of a "
                        "`minireason run`, such as runs/quickstart")
    order = [name for name in STAGES if name in found]
    return {name: found[name] for name in order + sorted(set(found) - set(order))}


def load_stage(folder: Path) -> dict:
    """One stage's records; "tokens" counts those trained on, parts such as rounds included."""
    metrics = read_lines(folder / "metrics.jsonl")
    parts = [line for path in sorted(folder.glob("*/**/metrics.jsonl"))
             for line in read_lines(path)]
    examples: dict[str, list] = {}
    for path in sorted(folder.glob("samples-*-0.json")):       # the first shard of each set
        name = path.stem.removeprefix("samples-").rpartition("-")[0]
        examples[name] = read_json(path)[:EXAMPLES]
    return {**read_json(folder / "config.json"), "result": read_json(folder / "result.json"),
            "metrics": metrics, "examples": examples,
            "trees": read_json(trees) if (trees := folder / "tree.json").exists() else {},
            "tokens": int(sum(line.get("train/tokens", line.get("train/trained_tokens", 0))
                              for line in metrics + parts))}


def load_machine(folder: Path | str) -> str:
    """What a run says of the machine it ran on, as a phrase."""
    path = Path(folder) / "machine.json"
    if not path.exists():
        return "machine not recorded"
    return ", ".join(f"{name} {value}" for name, value in read_json(path).items())


def rungs(run: dict[str, dict], rounds: bool = False) -> dict[str, dict[str, dict]]:
    """{rung: {set name: fields of Accuracy}} from direct answers up; `rounds` splits STaR's."""
    base = run["pretrain"]["result"]["accuracy"]
    ladder = {"direct answer": base["direct"], "pretrained, step by step": base["cot"]}
    if "sft" in run:
        ladder["SFT"] = run["sft"]["result"]["accuracy"]["cot"]
    if "star" in run:
        history = run["star"]["result"]["rounds"]
        for number, result in enumerate(history, 1):
            if rounds or number == len(history):
                name = f"STaR, round {number}" if rounds else "STaR"
                ladder[name] = result["accuracy"]["cot"]
    if "rl" in run:
        ladder["RL"] = run["rl"]["result"]["accuracy"]["cot"]
    if "flywheel" in run:
        ladder["flywheel"] = run["flywheel"]["result"]["accuracy"]["cot"]
    return ladder


def level_of(name: str) -> int:
    """The level in a frozen set's name: 6 of chain-test-k6."""
    return int("".join(c for c in name.rpartition("-")[2] if c.isdigit()))


def thin(metrics: list[dict], at_most: int) -> list[dict]:
    """Blocks of steps as one line each: tokens are summed, all else is averaged."""
    lines = []
    for block in np.array_split(np.arange(len(metrics)), min(at_most, len(metrics)) or 1):
        members = [metrics[i] for i in block]
        line = {"step": members[-1]["step"]} if members else {}
        for key in (key for key in (members[-1] if members else {}) if key != "step"):
            values = [member[key] for member in members if key in member]
            mean = sum(values) / len(values)
            line[key] = sum(values) if key.endswith("tokens") else float(f"{mean:.5g}")
        lines += [line] if line else []
    return lines


def keep(run: Path | str, out: Path | str) -> None:
    """Copy what the figures need of a run, thinned, into `out`; paths become relative to it."""
    run, out = Path(run), Path(out)
    paths, stages = list(run.glob("*.json")), load_run(run)
    root = json.dumps(str(Path(stages["pretrain"]["config"]["out"]).parent))[1:-1]
    for stage in stages:
        paths += [*(run / stage).glob("*.json"), *(run / stage).rglob("metrics.jsonl")]
    for old in [*out.rglob("*.json"), *out.rglob("*.jsonl")]:      # of an older copy
        old.unlink()
    for path in sorted(paths):
        target = out / path.relative_to(run)
        if path.name in ("config.json", "result.json", "machine.json", "tree.json"):
            text = json.dumps(read_json(path), indent=1).replace(f'"{root}', f'"{out.name}')
        elif path.name == "metrics.jsonl":
            text = "\n".join(map(json.dumps, thin(read_lines(path), THIN)))
            if not text:
                continue
        elif path.name.startswith("samples-") and path.stem.endswith("-0"):
            text = json.dumps([first_sample(record) for record in read_json(path)[:EXAMPLES]])
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, text + "\n")


def first_sample(record: dict) -> dict:
    """A test-time record cut down to the sample that is shown."""
    return {key: value[:1] if isinstance(value, list) else value for key, value in record.items()}
