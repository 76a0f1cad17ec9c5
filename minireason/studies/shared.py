"""What the studies share: a small model's recipe, and the way from a run to its table.

A study is measure(cfg, log, device), which gives result.json, and write(result, folder), which
makes table.md and the pictures of it; `--from FOLDER` does the second alone.
"""

import importlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from minireason.core import locks, parallel
from minireason.core.config import (
    PATHS,
    TrainingConfig,
    from_dict,
    machine,
    resolve_device,
    stream_seed,
)
from minireason.core.errors import UserError, check_choice, check_once
from minireason.core.files import make_folder, read_checked, read_json, write_atomic, write_checked
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.report import style
from minireason.report.runs import tagged
from minireason.stages import STAGES, pretrain, rl


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


def config_of(run: Path | str, name: str):
    """The Config of a run's own stage, its folders as seen from here; UserError if it is none."""
    folder = Path(run) / name
    (stage,) = (stage for stage in STAGES if stage.name == name)
    record = read_json(folder / "config.json")
    kind = stage.module.rpartition(".")[2]
    if record.get("stage") not in (name, kind):
        raise UserError(f"{folder}: is a {record.get('stage')!r} folder")
    settings = record["config"]
    for field in PATHS:
        if settings.get(field):
            settings[field] = os.path.normpath(folder / settings[field])
    return from_dict(importlib.import_module(stage.module).Config, settings)


def check_seeds(runs: tuple[str, ...]) -> None:
    """UserError unless the runs are of different seeds and their policies were measured alike."""
    found = [config_of(run, "rl") for run in runs]
    seeds, kinds = [own.seed for own in found], {(own.split, own.eval_n) for own in found}
    if len(set(seeds)) < len(seeds) or len(kinds) > 1:
        raise UserError(f"--runs: seeds {seeds}, measured on {sorted(kinds)}; give one run per "
                        "seed, all of one recipe")


def policies_of(run: Path, arms: Path, others: dict[str, dict[str, float]],
                family: str) -> dict[str, Path]:
    """{label: folder} of a run's policies up to RL, and of its RL again with other rewards.

    others: {label: what it changes of the run's own Rewards}; such an arm is trained below `arms`
    unless it is there. UserError if the run is not of the family.
    """
    own = config_of(run, "rl")
    if own.family != family:
        raise UserError(f"{run}: is a run of {own.family}, not of {family}")
    names = ("pretrain", "sft", "star", "rl")
    found = {stage.label: run / stage.name for stage in STAGES if stage.name in names}
    for label, rewards in others.items():
        found[label] = arms / folder_name(label)
        rl.run(replace(own, out=str(found[label]), rewards=replace(own.rewards, **rewards)))
    return found


def folder_name(label: str) -> str:
    """`RL-price-0.002` of `RL, price 0.002`."""
    return label.replace(",", "").replace(" ", "-")


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


def measured_once(policy: Path, path: Path, about: dict,
                  make: Callable[[Transformer, Tokenizer], list[dict]]) -> list[dict]:
    """The rows of make(policy, tokenizer), kept in `path`.

    They are made again only if the weights, or what `about` says of the measurement, have changed.
    """
    made = {"weights": checkpoint.weights_hash(policy), "about": about}
    held = read_checked(path) if path.exists() else {}
    if {key: held.get(key) for key in made} != made:
        rows = make(*checkpoint.load(policy, resolve_device("auto")))
        make_folder(path.parent)
        write_checked(path, made | {"rows": rows})
        return rows
    return held["rows"]


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
        text += f", some of its rows by {len(earlier)} commands before it,"
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


def study_ladders(cfg: Study, name: str, runs: tuple[str, ...], family: str,
                  others: dict[str, dict[str, float]], about: dict, rows_of_policy: Callable,
                  text_of: Callable[[list[dict]], str], figure_of: Callable) -> dict:
    """`study_rows` of the policies of finished runs, and of the arms `others` in RUN/<name>.

    rows_of_policy(about, policy, tokenizer) is told what `about` says beside the run's own split,
    seed and number of problems; its rows are kept, and tagged with policy and seed.
    """
    def make(_: Path) -> list[dict]:
        check_seeds(runs)
        rows = []
        for run in map(Path, runs):
            own, arms = config_of(run, "rl"), run / name
            told = {"split": own.split, "seed": own.seed, "problems": own.eval_n, **about}
            for label, policy in policies_of(run, arms, others, family).items():
                found = measured_once(policy, arms / f"{folder_name(label)}.json", told,
                                      partial(rows_of_policy, told))
                rows += tagged(found, policy=label, seed=own.seed)
        return rows

    return study_rows(cfg, name, f"runs/{name}", make, text_of, {"": figure_of})
