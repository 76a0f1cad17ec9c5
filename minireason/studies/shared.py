"""What the studies share: a small model's recipe, and the way from a run to its table.

A study is measure(cfg, log, device), which gives result.json, and write(result, folder), which
makes table.md and the pictures of it; `--from FOLDER` does the second alone.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from minireason.core import locks, parallel
from minireason.core.config import (
    TrainingConfig,
    machine,
    stream_seed,
)
from minireason.core.errors import UserError, check_choice, check_once
from minireason.core.files import make_folder, read_json, write_atomic
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.report import style
from minireason.stages import pretrain

# (the file, its rows, those found now): all that are kept
Merged = Callable[[Path, list[dict], list[dict]], list[dict]]


@dataclass(frozen=True)
class Study:
    """What the Config of every study has."""

    out: str = ""                 # folder of the results; default: runs/<command>, or --from
    source: Annotated[str, tyro.conf.arg(name="from")] = ""   # only redraw this folder


def folder_of(cfg: Study, alone: str) -> Path:
    """Where the results go, `alone` if neither --out nor --from is given; UserError if --from
    stands beside a flag that redrawing does not heed."""
    for field in fields(cfg) if cfg.source else ():
        if field.name not in ("out", "source", "stage") and (
                getattr(cfg, field.name) != field.default):
            raise UserError(f"--{field.name.replace('_', '-')}: has no meaning beside --from, "
                            "which draws all that the folder holds; leave one of them out")
    return Path(cfg.out or cfg.source or alone)


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


def random_model(tokenizer: Tokenizer, shape: Recipe | pretrain.Config, seed: int, max_len: int,
                 rope_theta: float = 10_000.0) -> Transformer:
    """A transformer with random weights."""
    return Transformer.random(
        ModelConfig(tokenizer.vocab_size, shape.d_model, shape.n_layers, shape.n_heads,
                    shape.n_heads, shape.head_dim, shape.d_ff, max_len, rope_theta),
        stream_seed(seed, "weights"))


def check_arms(cfg, sizes: Iterable[str], arms: Iterable[str]) -> None:
    """UserError unless size, arms and seeds of a study are known and rl names some of its arms."""
    check_choice("size", cfg.size, sizes)
    for arm in cfg.arms:
        check_choice("arms", arm, arms)
    for arm in cfg.rl:
        check_choice("rl", arm, cfg.arms)
    if not cfg.seeds or not cfg.arms:
        raise UserError("--seeds and --arms: give at least one of each")
    for flag in ("seeds", "arms", "rl"):
        check_once(flag, getattr(cfg, flag))


def run_study(name: str, cfg, measure: Callable, write: Callable, **parents: str) -> dict:
    """Measure, or read the result of --from; then write table and pictures into --out."""
    out = folder_of(cfg, f"runs/{name}")
    if cfg.source:
        result = result_in(Path(cfg.source) / "result.json")
        with_held(out / "result.json", result)
        make_folder(out)
    else:
        log, device = checkpoint.open_stage(name, cfg, str(out), **parents)
        result = log.done or log.finish(**measure(cfg, log, device),
                                        **made_with(name, cfg))
    if parallel.is_main():
        with readable(cfg.source and Path(cfg.source) / "result.json"):
            write(result, out)
    parallel.barrier()
    return result


def result_in(path: Path) -> dict:
    """What a study wrote; UserError if its rows are no list of objects."""
    result = read_json(path)
    rows = result.get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: is damaged, its rows are no list of objects; restore it")
    return result


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """What a damaged or older file breaks in the code that reads it is a UserError; "": no file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if not path:
            raise
        raise UserError(f"{path}: is damaged or of another version of minireason "
                        f"({type(error).__name__}: {error}); restore it, or run its study "
                        "again") from error


def with_held(path: Path, result: dict, merged: Merged | None = None) -> dict:
    """The result, `merged` with the rows that the file holds and "earlier", the commands of those.

    UserError if the file holds what this result would replace: rows, or of a study without rows the
    result of another command. A row is still there if one has all of its fields.
    """
    held = result_in(path) if path.exists() else {}
    command, rows, old = result.get("command"), result.get("rows", []), held.get("rows", [])
    if merged and held:
        with readable(path):
            result = {**result, "rows": merged(path, old, rows)}
        made = (*held.get("earlier", ()), held.get("command"))
        if missing_in(rows, old):
            result["earlier"] = [words for words in made if words not in (None, command)]
    if missing_in(result.get("rows", []), old) or (
            "rows" not in result and held.get("command", command) != command):
        raise UserError(f"{path}: holds results of `{held.get('command')}` that would be lost; "
                        "give another --out, or delete it")
    return result


def missing_in(rows: list[dict], old: list[dict]) -> list[dict]:
    """The old rows of which no row has all the fields with their values."""
    same = set(map(json.dumps, rows))
    return [row for row in old if json.dumps(row) not in same
            and not any(new.items() >= row.items() for new in rows)]


def made_with(name: str, cfg) -> dict:
    """The command line of a run, every flag spelled out, and the machine it ran on."""
    words = ["minireason", name]
    for key, value in vars(cfg).items():
        if value not in ("", ()) and key not in ("out", "source", "device"):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{key.replace('_', '-')}", *map(str, values)]
    return {"command": shlex.join(words), "machine": machine()}


def write_json(path: Path, result: dict) -> None:
    """The result, whole or not at all; each of its rows is a line, as some hold many numbers."""
    text, rows = json.dumps(result, indent=1), result.get("rows")
    if rows:
        lines = ",\n  ".join(map(json.dumps, rows))
        text = json.dumps({**result, "rows": []}, indent=1).replace(
            '"rows": []', f'"rows": [\n  {lines}\n ]', 1)
    write_atomic(path, f"{text}\n")


def write_table(path: Path, result: dict, text: str) -> None:
    """The text, and a last line that says which command made it and, where known, on what."""
    text += f"\nMade by `{result['command']}`"
    if earlier := result.get("earlier"):
        text += f", with rows of {len(earlier)} earlier command{'s' * (len(earlier) > 1)},"
    if "machine" in result:
        text += " on: " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    write_atomic(path, f"{text}.\n")
    print(f"{text}.")


def study_rows(cfg: Study, command: str, alone: str, make: Callable[[Path], list[dict]],
               text_of: Callable[[list[dict]], str], figures: dict[str, Callable], name: str = "",
               merged: Merged | None = None) -> dict:
    """The rows of make(folder of the results), or those of --from, with their table and pictures.

    Writes <name>.json, .md and a .png per figure, {end of its name: figure of the rows}; the name
    is the command's if not given. alone: the folder if neither --out nor --from is given.
    merged: what of the file's rows is kept beside; without it they may only be what is found again.
    """
    out, name = folder_of(cfg, alone), name or command
    path, source = out / f"{name}.json", cfg.source and Path(cfg.source) / f"{name}.json"
    result = result_in(Path(source)) if source else made_with(command, cfg)
    if merged:
        with_held(path, {"rows": [], **result}, merged)        # fails before all work
    if not source:
        result["rows"] = make(out)
    make_folder(out)
    locks.lock_folder(out, wait=True)           # another may add rows of its own
    result = with_held(path, result, merged)
    with readable(source):
        text = text_of(result["rows"])
        write_json(path, result)
        write_table(path.with_suffix(".md"), result, text)
        for end, figure_of in figures.items():
            style.save(out / f"{name}{end}.png", figure_of, result["rows"])
    locks.unlock_folder(out)
    return result
