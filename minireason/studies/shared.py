"""What the studies share: a small model's recipe, the way from a run to its table, rows to tables.

A study is measure(cfg, log, device), which gives result.json, and write(result, folder), which
makes table.md and the pictures of it; `--from FOLDER` does the second alone.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from minireason.core import parallel
from minireason.core.config import TrainingConfig, machine, read_json, stream_seed, write_atomic
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer


@dataclass(frozen=True)
class Study:
    """What the Config of every study has."""

    out: str = ""                 # folder of the results; default: runs/<command>, or --from
    source: Annotated[str, tyro.conf.arg(name="from")] = ""   # only redraw this folder


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingConfig):
    """Model and training of one size; `imitate` reads it."""

    d_model: int
    n_layers: int                 # L
    n_heads: int                  # H
    head_dim: int                 # D
    d_ff: int
    rope_theta: float = 10_000.0
    tokens_per_step: int          # on average; gives rows_per_step


def random_model(tokenizer: Tokenizer, recipe: Recipe, seed: int, max_len: int) -> Transformer:
    """A transformer with random weights."""
    shape = ModelConfig(tokenizer.vocab_size, recipe.d_model, recipe.n_layers, recipe.n_heads,
                        recipe.n_heads, recipe.head_dim, recipe.d_ff, max_len, recipe.rope_theta)
    return Transformer.random(shape, stream_seed(seed, "weights"))


def run_study(name: str, cfg, measure: Callable, write: Callable, **parents: str) -> dict:
    """Measure, or read the result of --from; then write table and pictures into --out."""
    out = Path(cfg.out or cfg.source or f"runs/{name}")
    if cfg.source:
        result = read_json(Path(cfg.source) / "result.json")
        out.mkdir(parents=True, exist_ok=True)
    else:
        log, device = checkpoint.open_stage(name, cfg, str(out), **parents)
        result = log.done or log.finish(**measure(cfg, log, device), seconds=log.seconds(),
                                        **made_with(name, cfg))
    if parallel.is_main():
        write(result, out)
    parallel.barrier()
    return result


def made_with(name: str, cfg) -> dict:
    """The command line of a run, every flag spelled out, and the machine it ran on."""
    words = ["minireason", name]
    for key, value in vars(cfg).items():
        if value not in ("", ()) and key not in ("out", "source", "device"):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{key.replace('_', '-')}", *map(str, values)]
    return {"command": shlex.join(words), "machine": machine()}


def write_json(path: Path, result: dict) -> None:
    """The result, whole or not at all."""
    write_atomic(path, json.dumps(result, indent=1) + "\n")


def write_table(path: Path, result: dict, text: str) -> None:
    """The text, and a last line that says which command made it and, where known, on what."""
    made = f"Made by `{result['command']}`"
    if "machine" in result:
        made += " on: " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    write_atomic(path, f"{text}\n{made}.\n")
    print(f"{text}\n{made}.")


def select(rows: list[dict], **wanted: object) -> list[dict]:
    """The rows whose fields have these values."""
    return [row for row in rows if wanted.items() <= row.items()]


def group_by(rows: list[dict], field: str) -> dict:
    """{value of the field: its rows}, in order of appearance."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(row[field], []).append(row)
    return groups


def pivot(rows: list[dict], by: str, across: str, cell: Callable[[list[dict]], str]) -> list:
    """A line per value of `by`: the value, then a cell per value of `across`."""
    columns, lines = group_by(rows, across), []
    for label, own in group_by(rows, by).items():
        found = group_by(own, across)
        lines.append([str(label), *(cell(found[key]) if key in found else "" for key in columns)])
    return lines


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    """A markdown table; a line that is too short ends in empty cells."""
    text = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for line in lines:
        text.append(f"| {' | '.join(line + [''] * (len(header) - len(line)))} |")
    return "\n".join(text)


def percent_text(points: list[dict]) -> str:
    """Mean over seeds [mean of their 95% intervals] (lowest to highest seed), in percent."""
    mean, low, high = (100 * float(np.mean([point[key] for point in points]))
                       for key in ("accuracy", "low", "high"))
    return f"{mean:.1f} [{low:.0f}, {high:.0f}]" + range_text([100 * p["accuracy"] for p in points])


def range_text(values: list[float]) -> str:
    """` (73 to 81)` of several seeds, nothing of one."""
    return f" ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else ""
