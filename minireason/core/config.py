"""Configurations and their JSON, random streams, devices.

Every random draw comes from a stream named by (seed, purpose, step), never from hidden global
state: a run that is killed and resumed draws what it would have drawn.
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
import typing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from minireason import __version__
from minireason.core import parallel
from minireason.core.errors import UserError

MAY_BE_ZERO = ("warmup", "mc_check", "decay", "workers")     # beside fields whose default is 0
MOST = 10 ** 7                    # of whole numbers: what they count is held in memory, but for
NOT_HELD = ("seed", "seeds", "steps", "save_every", "eval_every", "limit", "token_budget",
            "max_new", "warmup")  # these, below 2 ** 63
RANGES = {"lr": (0.0, 1.0),       # AdamW moves every weight by up to about lr per step
          "temperature": (1e-3, 1e3), "temperatures": (1e-3, 1e3)}   # or 0; logits stay finite
PATHS = ("out", "init", "base", "start", "policy", "critic", "outcome", "reviser",
         "source")   # folders
Share = Annotated[float, "0 to 1"]
used: dict[str, str] = {}         # "attention", "decoder", "layers": what runs here, once chosen


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """The fields that every stage has; a stage's Config adds its own and overrides defaults."""

    family: str = "chain"         # one of problems.FAMILIES, such as countdown
    seed: int = 0
    split: str = "test"           # frozen sets of the results; validation: to choose a recipe by
    device: str = "auto"          # auto | cpu | cuda | mps
    track: str = ""               # trackio | wandb | tensorboard: shows metrics.jsonl there, too


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(StageConfig):
    """The fields that every supervised training loop reads."""

    steps: int
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens per micro-batch; never changes the gradient
    lr: float = 1e-3              # peak learning rate
    warmup: int = 20              # steps
    weight_decay: float = 0.1
    save_every: int = 100         # steps between saved states
    eval_n: int = 500             # problems per level at the end
    eval_levels: tuple[int, ...] = ()     # measured then; (): all that have a frozen set


def to_dict(config) -> dict:
    """The dataclass as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls, values: dict):
    """Rebuild a dataclass and those in it; UserError on missing, unknown or unfit fields.

    Fields are int, float, str, bool or tuples of one of them. A whole number passes as float, True
    and False only as bool.
    """
    known = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(known))
    missing = sorted(name for name, field in known.items()
                     if name not in values and field.default is dataclasses.MISSING
                     and field.default_factory is dataclasses.MISSING)
    if unknown or missing:
        raise UserError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}")
    found = {}
    kinds = typing.get_type_hints(cls)
    for name, value in values.items():
        wanted = kinds[name]
        if dataclasses.is_dataclass(wanted):
            found[name] = from_dict(wanted, value) if isinstance(value, dict) else value
            continue
        found[name] = value = tuple(value) if isinstance(value, list) else value
        kind, members = typing.get_origin(wanted) or wanted, (value,)
        if kind is tuple and isinstance(value, tuple):
            kind, members = typing.get_args(wanted)[0], value
        for member in members:
            fits = isinstance(member, (int, float) if kind is float else kind)
            if not fits or (isinstance(member, bool) and kind is not bool):
                raise UserError(f"{cls.__name__}: {name} must be {wanted.__name__}, not {value!r}")
    return cls(**found)


def check_numbers(config, prefix: str = "") -> None:
    """UserError that names the flag of the first number that no run can work with.

    Numbers are finite and not negative, a Share at most 1; whole ones 1 to MOST, or 0 where 0 is
    the default or named in MAY_BE_ZERO. prefix: what stands before the names of the flags.
    """
    kinds = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, whole = getattr(config, field.name), "int" in str(kinds[field.name])
        default = field.default if isinstance(field.default, tuple) else (field.default,)
        least = 0 if not default or 0 in default or field.name in MAY_BE_ZERO else 1
        most = 2 ** 63 - 1 if field.name in NOT_HELD else MOST
        low, high = RANGES.get(field.name, (0.0, math.inf))
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            flag = f"--{prefix}{field.name}".replace("_", "-") + f" {number}"
            if not math.isfinite(number) or number < 0:
                raise UserError(f"{flag}: must be a finite number, not below 0")
            if kinds[field.name] == Share and number > 1:
                raise UserError(f"{flag}: is a share, so it must be at most 1")
            if whole and not least <= number <= most:
                raise UserError(f"{flag}: must be a whole number from {least} to {most}")
            if number and not low <= number <= high:
                raise UserError(f"{flag}: must be 0 or from {low:g} to {high:g}")


def stream_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for the stream named by (seed, *purpose)."""
    name = json.dumps([seed, *map(str, purpose)]).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1


def rng(seed: int, *purpose: object) -> np.random.Generator:
    """Independent random stream for one purpose, e.g. rng(cfg.seed, "sft", step)."""
    return np.random.default_rng(stream_seed(seed, *purpose))


def resolve_device(name: str) -> torch.device:
    """'auto' means an NVIDIA GPU if there is one; asking for a missing device is a UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name}: only auto, cpu, cuda and mps are supported")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: no Apple GPU is visible to PyTorch; use --device cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device is visible to PyTorch; use --device cpu")
    if (device.index or 0) >= (torch.cuda.device_count() if device.type == "cuda" else 1):
        raise UserError(f"--device {name}: there is no device of this number")
    return device


def portable(config, out: Path) -> dict:
    """A config as JSON that holds wherever its folder is moved: folders as seen from `out`.

    Who shows the metrics and who draws is left out: a run may be resumed with others, or none.
    """
    record = to_dict(config)
    for name in ("track", "workers"):
        record.pop(name, None)
    for name in PATHS:
        if record.get(name):
            record[name] = os.path.relpath(record[name], out)
    if "device" in record:
        record["device"] = resolve_device(record["device"]).type
    return record


def cores() -> int:
    """Cores that this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1)


def machine() -> dict[str, object]:
    """What a time measured here depends on: cores, threads, torch version, GPU."""
    found: dict[str, object] = {"cores": cores(), "threads": torch.get_num_threads(),
                                "torch": torch.__version__}
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found


def made_with() -> dict[str, object]:
    """What numbers may hang on beside the configuration: versions, processor, threads, ranks."""
    found = machine() | {"minireason": __version__, "python": platform.python_version(),
                         "ranks": parallel.world_size(),
                         "processor": torch.backends.cpu.get_cpu_capability()}
    for package in ("numpy", "tokenizers", "safetensors"):
        found[package] = version(package)
    return found | {name: value for name, value in sorted(os.environ.items())
                    if name in ("MINIREASON_DECODE", "MINIREASON_ATTENTION", "MINIREASON_LAYERS")}
