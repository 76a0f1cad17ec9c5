"""Small copies of runs that a repository can hold: for tables and figures, or to start from.

A copy has the run's layout without rollouts and most samples, so the same functions read both; one
that `--ship` makes also has every stage's weights, in float16.
"""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from minireason.core import files
from minireason.core.errors import UserError
from minireason.core.files import read_text, write_atomic, write_manifest
from minireason.model import checkpoint
from minireason.report import runs as results
from minireason.report import seeds

THIN = 200                    # lines of metrics that a copy keeps at most
COPIED = ("config.json", "result.json", "rows.jsonl", "tree.json", "verdicts.json", "pools.npz")
SHIPPED = "SHIPPED"           # marks a copy made by --ship


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


def check_apart(run: Path, out: Path, flag: str) -> None:
    """UserError if a copy in `out` would replace the run, a part of it, or what holds it."""
    a, b = run.resolve(), out.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise UserError(f"{flag} {out}: is, holds or lies in {run}, which is to be copied; choose "
                        "another folder")


def replaced(out: Path, fill: Callable[[Path], None]) -> None:
    """A folder that `fill` fills, put in the place of `out` when it is whole."""
    new, old = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    if old.exists() and not out.exists():                      # killed between the two renames
        os.replace(old, out)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    fill(new)
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)


def keep(run: Path | str, out: Path | str) -> None:
    """Copy what the figures need of a run, thinned, into `out`, which is new."""
    run, out = Path(run), Path(out)
    paths = list(run.glob("*.json"))
    for stage in results.load_run(run):
        paths += [*(run / stage).glob("*.json*"), *(run / stage).glob("*.npz"),
                  *(run / stage).glob("*/**/metrics.jsonl"),
                  *(run / stage).glob("*/**/verdicts.json")]
    for path in paths:
        target = out / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name in COPIED:
            shutil.copyfile(path, target)
        elif path.name == "metrics.jsonl":
            lines = map(json.dumps, thin(files.read_lines(path), THIN))
            files.write_atomic(target, "\n".join(lines) + "\n")
        elif path.match("samples-*-0.json"):
            records = files.read_checked(path)[:results.EXAMPLES]
            for record in records:             # of several samples the one that is shown
                for field, value in record.items():
                    record[field] = value[:1] if isinstance(value, list) else value
            files.write_checked(target, records)


def keep_runs(runs: tuple[str, ...], reference: Path) -> None:
    """Copy the small files of each run to reference/seed-<seed>; UserError if they do not match."""
    loaded = [results.load_run(folder) for folder in runs]
    numbers = [run["pretrain"]["config"]["seed"] for run in loaded]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--runs: seeds {numbers}; give one run per seed")
    for folder, run in zip(runs, loaded, strict=True):
        if seeds.settings_of(run) != seeds.settings_of(loaded[0]):
            raise UserError(f"--runs: {folder} has other stages or settings than {runs[0]}; only "
                            "runs that differ in nothing but the seed can be averaged")
    targets = [reference / f"seed-{seed}" for seed in numbers]
    for path in sorted(reference.glob("seed-*")):
        if path not in targets or any(path.rglob("*.safetensors")) or not (
                path / "pretrain" / "result.json").is_file():
            raise UserError(f"{path}: is not an older copy of these runs; delete it or choose "
                            "another --reference")
    for folder, target in zip(map(Path, runs), targets, strict=True):
        check_apart(folder, target, "--reference")
    for folder, target in zip(runs, targets, strict=True):
        replaced(target, partial(keep, folder))
    write_atomic(reference / seeds.BAND, json.dumps(seeds.band_of(loaded)) + "\n")


def ship(run: Path, out: Path) -> Path:
    """Keep a run's small files and weights in `out`; UserError if that is anything but a copy."""
    if out.exists() and not (out / SHIPPED).is_file():
        raise UserError(f"--ship {out}: is there and no copy made by --ship; choose a new folder")
    check_apart(run, out, "--ship")

    def fill(new: Path) -> None:
        keep(run, new)
        for stage in results.load_run(run):
            if (run / stage / "model.safetensors").is_file():
                checkpoint.round_weights(run / stage, new / stage)
            write_manifest(new / stage, "result.json", read_text(run / stage / "result.json"))
        write_atomic(new / SHIPPED, "A finished run, its weights in float16: report --ship\n")

    replaced(out, fill)
    return out
