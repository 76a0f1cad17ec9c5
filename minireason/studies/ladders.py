"""What studies of finished runs share: the runs' settings, their policies and other arms of them,
and measurements that are kept."""

import hashlib
import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from minireason.core.config import PATHS, from_dict, resolve_device
from minireason.core.errors import UserError
from minireason.core.files import make_folder, read_checked, read_json, write_checked
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.report.runs import tagged
from minireason.stages import STAGES, rl
from minireason.studies import shared

RUNGS = ("pretrain", "sft", "star", "rl")      # stages of a run whose policies are studied


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


def check_runs(runs: tuple[str, ...], family: str) -> None:
    """UserError unless the runs are of the family and of different seeds, hold their policies up to
    RL, and measured these alike."""
    found = [config_of(run, "rl") for run in runs]
    for run, own in zip(runs, found, strict=True):
        if own.family != family:
            raise UserError(f"{run}: is a run of {own.family}, not of {family}")
    seeds, kinds = [own.seed for own in found], {(own.split, own.eval_n) for own in found}
    if len(set(seeds)) < len(seeds) or len(kinds) > 1:
        raise UserError(f"--runs: seeds {seeds}, measured on {sorted(kinds)}; give one run per "
                        "seed, all of one recipe")
    for run, name in product(runs, RUNGS):
        checkpoint.weights_hash(Path(run) / name)


def policies_of(run: Path, arms: Path, others: dict[str, dict[str, float]]) -> dict[str, Path]:
    """{label: folder} of a run's policies up to RL, and of its RL again with other rewards.

    others: {label: what it changes of the run's own Rewards}; such an arm is trained below `arms`
    unless it is there.
    """
    own = config_of(run, "rl")
    found = {stage.label: run / stage.name for stage in STAGES if stage.name in RUNGS}
    for label, rewards in others.items():
        found[label] = arms / folder_name(label)
        rl.run(replace(own, out=str(found[label]), rewards=replace(own.rewards, **rewards)))
    return found


def folder_name(label: str) -> str:
    """`RL-price-0.002` of `RL, price 0.002`."""
    return label.replace(",", "").replace(" ", "-")


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


def study_ladders(cfg: shared.Study, name: str, runs: tuple[str, ...], family: str,
                  others: dict[str, dict[str, float]], about: dict, rows_of_policy: Callable,
                  text_of: Callable[[list[dict]], str], figure_of: Callable) -> dict:
    """`study_rows` of the policies of finished runs, and of the arms `others` in RUN/<name>.

    rows_of_policy(about, policy, tokenizer) is told what `about` says beside the run's own split,
    seed and number of problems; its rows are kept, and tagged with policy and seed. They are made
    again if its file is another, too: rows in a form of before are none that text_of can read.
    """
    code = hashlib.sha256(Path(inspect.getfile(rows_of_policy)).read_bytes()).hexdigest()

    def make(_: Path) -> list[dict]:
        check_runs(runs, family)
        rows = []
        for run in map(Path, runs):
            own, arms = config_of(run, "rl"), run / name
            told = {"split": own.split, "seed": own.seed, "problems": own.eval_n, **about}
            for label, policy in policies_of(run, arms, others).items():
                found = measured_once(policy, arms / f"{folder_name(label)}.json",
                                      told | {"code": code}, partial(rows_of_policy, told))
                rows += tagged(found, policy=label, seed=own.seed)
        return rows

    return shared.study_rows(cfg, name, f"runs/{name}", make, text_of, {"": figure_of})
