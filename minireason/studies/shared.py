"""What the studies share: a small model's recipe, and the way from a run to its table.

A study is measure(cfg, log, device), which gives result.json, and write(result, folder), which
makes table.md and the pictures of it; `--from FOLDER` does the second alone.
"""

import importlib
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from minireason.core import parallel
from minireason.core.config import (
    PATHS,
    TrainingConfig,
    from_dict,
    machine,
    resolve_device,
    stream_seed,
)
from minireason.core.errors import UserError
from minireason.core.files import make_folder, read_json, write_atomic
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.report import style
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
        found[label] = arms / label.replace(",", "").replace(" ", "-")
        rl.run(replace(own, out=str(found[label]), rewards=replace(own.rewards, **rewards)))
    return found


def measured_once(policy: Path, path: Path, about: dict,
                  make: Callable[[Transformer, Tokenizer], list[dict]]) -> list[dict]:
    """The rows of make(policy, tokenizer), kept in `path`.

    They are made again only if the weights, or what `about` says of the measurement, have changed.
    """
    made = {"weights": checkpoint.weights_hash(policy), "about": about}
    held = read_json(path) if path.exists() else {}
    if {key: held.get(key) for key in made} != made:
        rows = make(*checkpoint.load(policy, resolve_device("auto")))
        make_folder(path.parent)
        write_json(path, made | {"rows": rows})
        return rows
    return held["rows"]


def run_study(name: str, cfg, measure: Callable, write: Callable, **parents: str) -> dict:
    """Measure, or read the result of --from; then write table and pictures into --out."""
    out = Path(cfg.out or cfg.source or f"runs/{name}")
    if cfg.source:
        result = read_json(Path(cfg.source) / "result.json")
        out.mkdir(parents=True, exist_ok=True)
    else:
        log, device = checkpoint.open_stage(name, cfg, str(out), **parents)
        result = log.done or log.finish(**measure(cfg, log, device),
                                        **made_with(name, cfg))
    if parallel.is_main():
        try:
            write(result, out)
        except KeyError as error:
            if not cfg.source:
                raise
            raise UserError(f"{cfg.source}/result.json: of an older minireason (has no {error}); "
                            f"redraw it with that one, or run `minireason {name}` again") from error
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
    text += f"\nMade by `{result['command']}`"
    if "machine" in result:
        text += " on: " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    write_atomic(path, f"{text}.\n")
    print(f"{text}.")


def study_runs(cfg: Study, name: str, runs: tuple[str, ...], rows_of_run: Callable[[Path], list],
               text_of: Callable[[list[dict]], str], figure_of: Callable) -> dict:
    """Measure what finished runs lack, or redraw `--from`; writes <name>.json, .md and .png."""
    out = Path(cfg.out or cfg.source or f"runs/{name}")
    if cfg.source:
        result = read_json(Path(cfg.source) / f"{name}.json")
    else:
        check_seeds(runs)
        rows = [row for folder in runs for row in rows_of_run(Path(folder))]
        result = {**made_with(name, cfg), "rows": rows}
    make_folder(out)
    write_json(out / f"{name}.json", result)
    write_table(out / f"{name}.md", result, text_of(result["rows"]))
    style.save(out / f"{name}.png", figure_of, result["rows"])
    return result
