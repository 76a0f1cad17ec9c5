"""What the studies share: a small model's recipe, and the way from a run to its table.

A study is measure(cfg, log, device), which gives result.json, and write(result, folder), which
makes table.md and the pictures of it; `--from FOLDER` does the second alone.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    out = Path(cfg.out or cfg.source or f"runs/{name}")
    if cfg.source:
        result = read_json(Path(cfg.source) / "result.json")
        check_kept(out / "result.json", result)
        make_folder(out)
    else:
        log, device = checkpoint.open_stage(name, cfg, str(out), **parents)
        result = log.done or log.finish(**measure(cfg, log, device),
                                        **made_with(name, cfg))
    if parallel.is_main():
        with drawn_from(cfg, "result.json"):
            write(result, out)
    parallel.barrier()
    return result


@contextmanager
def drawn_from(cfg: Study, name: str) -> Iterator[None]:
    """What a damaged or older file of --from breaks in the code that draws it is a UserError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if not cfg.source:
            raise
        raise UserError(f"{cfg.source}/{name}: is damaged or of another version of minireason "
                        f"({type(error).__name__}: {error}); restore it, or run the study "
                        "again") from error


def check_kept(path: Path, result: dict) -> None:
    """UserError if the file holds what another command found and this result does not have."""
    held = read_json(path) if path.exists() else {}
    kept = set(map(json.dumps, result.get("rows", [])))
    if (held.get("command") not in (None, result.get("command"))
            and not kept.issuperset(map(json.dumps, held.get("rows", [held])))):
        raise UserError(f"{path}: holds the results of `{held['command']}`, which would be lost; "
                        "give another --out, or delete it")


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
    text += f"\nMade by `{result['command']}`"
    if earlier := result.get("earlier"):
        text += f", with rows of {len(earlier)} earlier command{'s' * (len(earlier) > 1)},"
    if "machine" in result:
        text += " on: " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    write_atomic(path, f"{text}.\n")
    print(f"{text}.")


def study_rows(cfg: Study, command: str, alone: str, make: Callable[[Path], list[dict]],
               text_of: Callable[[list[dict]], str], figures: dict[str, Callable], name: str = "",
               merged: Callable[[Path, list[dict]], list[dict]] | None = None) -> dict:
    """The rows of make(folder of the results), or those of --from, with their table and pictures.

    Writes <name>.json, .md and a .png per figure, {end of its name: figure of the rows}; the name
    is the command's if not given. alone: the folder if neither --out nor --from is given.
    merged(<name>.json, rows): the rows with those that the file holds, called before all work, too.
    Without it the file may hold nothing that this command has not found.
    """
    out, name = Path(cfg.out or cfg.source or alone), name or command
    path = out / f"{name}.json"
    result = read_json(Path(cfg.source) / path.name) if cfg.source else made_with(command, cfg)
    with drawn_from(cfg, path.name):
        if merged:
            merged(path, result.get("rows", []))
        else:
            check_kept(path, result)
        result["rows"] = result["rows"] if cfg.source else make(out)
        make_folder(out)
        locks.lock_folder(out, wait=True)           # another may add rows of its own
        if merged and path.exists():
            result["rows"] = merged(path, result["rows"])
            held = read_json(path)
            made = (*held.get("earlier", ()), held["command"])
            result["earlier"] = [words for words in made if words != result["command"]]
        text = text_of(result["rows"])
        write_json(path, result)
        write_table(path.with_suffix(".md"), result, text)
        for end, figure_of in figures.items():
            style.save(out / f"{name}{end}.png", figure_of, result["rows"])
        locks.unlock_folder(out)
    return result
