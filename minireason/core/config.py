"""Dataclass <-> JSON, random streams, devices, and the one exception that users see.

Every random draw comes from a stream named by (seed, purpose, step), never from hidden global
state: a run that is killed and resumed draws what it would have drawn.
"""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


class UserError(Exception):
    """An error the user can fix: bad input, missing file, full disk; one line: what, where, how."""


def check_choice(flag: str, value: str, choices: Iterable[str]) -> None:
    """UserError that names the flag and the choices, if the value is none of them."""
    if value not in choices:
        raise UserError(f"--{flag} {value}: must be one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """The fields that every stage has; a stage's Config adds its own and overrides defaults."""

    family: str = "chain"         # chain | addition | countdown
    seed: int = 0
    device: str = "auto"          # auto | cpu | cuda


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


def to_dict(config) -> dict:
    """The dataclass as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls, values: dict):
    """Rebuild a flat dataclass; raises UserError on missing or unknown fields."""
    known = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(known))
    missing = sorted(name for name, field in known.items()
                     if name not in values and field.default is dataclasses.MISSING
                     and field.default_factory is dataclasses.MISSING)
    if unknown or missing:
        raise UserError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def read_json(path: Path | str) -> dict:
    """Parsed JSON file; UserError names the file if it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_lines(path: Path) -> list[dict]:
    """The JSON object of every line; none if there is no such file."""
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
                if line.strip()]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: a line is not valid JSON ({error})") from None


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    data = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn a full or read-only disk into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise UserError(f"{path}: cannot write ({error.strerror}); free some space or choose "
                            "another --out, then run the same command again") from error
        raise


def stream_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for the stream named by (seed, *purpose)."""
    name = json.dumps([seed, *map(str, purpose)]).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1


def rng(seed: int, *purpose: object) -> np.random.Generator:
    """Independent random stream for one purpose, e.g. rng(cfg.seed, "sft", step)."""
    return np.random.default_rng(stream_seed(seed, *purpose))


def resolve_device(name: str) -> torch.device:
    """'auto' means the GPU if there is one; asking for a missing device is a UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device is visible to PyTorch; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; use auto, cpu or cuda") from None


def machine() -> dict[str, object]:
    """What a time measured here depends on: cores, threads, torch version, GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cores": cores, "threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found
