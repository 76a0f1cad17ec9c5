"""A checkpoint is a folder: weights, config, tokenizer, and the hash of its parents.

    config.json        stage, its config, its parents' weight hashes   (written first, by RunLog)
    model.safetensors  weights; its metadata holds the model config and a sha256 of the payload
    tokenizer.json
    state.safetensors  weights + AdamW moments + step, while a stage is under way
    result.json        written last: its presence means the stage is finished

Every file is written whole or not at all. Only safetensors is ever read: a pickle is refused
without being opened, and every byte is checked against the stored hash before it is used.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from minireason.core import parallel
from minireason.core.config import StageConfig, TrainingConfig, from_dict, resolve_device, to_dict
from minireason.core.errors import UserError
from minireason.core.files import STATE, check_manifest, read_json, read_text, write_atomic
from minireason.core.runlog import RunLog
from minireason.model.tensors import read_tensors, write_tensors
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import FAMILIES, check_config

Model = TypeVar("Model", bound=Transformer)


class Optimizer(Protocol):
    """What of an optimizer a saved state holds; training.optim.Optimizer is one."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[Tensor, dict[str, Tensor]]


def check_finite(folder: Path, model: torch.nn.Module) -> None:
    """UserError before weights that are not finite are written into the folder."""
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{folder}: {name} holds numbers that are not finite and is not saved; "
                            "lower the learning rate and choose another --out")


def save(folder: Path | str, model: Transformer, tokenizer: Tokenizer) -> str:
    """Write weights and tokenizer into the folder; returns the weights' sha256.

    Only the main rank writes, and only it gets the sha256; all wait until the files are there.
    UserError if a weight is not finite: no loss has seen what the last step did.
    """
    folder, sha256 = Path(folder), ""
    check_finite(folder, model)
    if parallel.is_main():
        write_atomic(folder / "tokenizer.json", tokenizer.to_json())
        sha256 = write_tensors(folder / "model.safetensors", model.state_dict(),
                               model=to_dict(model.config), value_head=model.KIND == "critic",
                               tokenizer=tokenizer.sha256)
    parallel.barrier()
    return sha256


def round_weights(folder: Path, out: Path) -> None:
    """Copy a checkpoint's weights in float16, half as many bytes, and its tokenizer into `out`.

    The metadata's `rounded_from` is the sha256 of the weights as they were; `load` gives float32.
    """
    tensors, metadata, sha256 = read_tensors(folder / "model.safetensors")
    write_tensors(out / "model.safetensors", {name: t.half() for name, t in tensors.items()},
                  **{"rounded_from": sha256} | metadata)
    write_atomic(out / "tokenizer.json", read_text(folder / "tokenizer.json"))


def load(folder: Path | str, device: torch.device | str = "cpu", kind: type[Model] = Transformer,
         reads: Tokenizer | None = None) -> tuple[Model, Tokenizer]:
    """A model with its tokenizer; UserError says which file is wrong and why.

    kind: the class that the folder must hold, Transformer for a policy, Critic for a critic.
    reads: the tokenizer of the policy whose text it is to read, so its own must be the same.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; give the folder of a finished stage")
    if os.path.exists(folder / "result.json"):
        check_manifest(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    tensors, metadata, _ = read_tensors(folder / "model.safetensors")
    try:
        config = from_dict(ModelConfig, metadata["model"])
        found = "critic" if metadata["value_head"] else "policy"
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/model.safetensors: no model config inside ({error})") from None
    if found != kind.KIND:
        raise UserError(f"{folder}: holds a {found}; give the folder of a {kind.KIND}")
    if reads and tokenizer.sha256 != reads.sha256:
        raise UserError(f"{folder}: its tokenizer is not the policy's; give the folder of a "
                        f"{kind.KIND} of the same family")
    if tokenizer.sha256 != metadata.get("tokenizer"):
        raise UserError(f"{folder}/tokenizer.json: is not the one that model.safetensors was "
                        "trained with; restore it, or run its stage again")
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in kind(config).state_dict().items()}
    if shapes != {name: t.shape for name, t in tensors.items()}:
        raise UserError(f"{folder}/model.safetensors: its tensors do not fit its model config")
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise UserError(f"{folder}/model.safetensors: holds numbers that are not finite; run its "
                        "stage again with a lower learning rate")
    model = kind(config)
    model.load_state_dict(tensors)
    return model.to(device), tokenizer


def weights_hash(folder: Path | str) -> str:
    """The sha256 that names a checkpoint's weights, verified; how a child records its parent."""
    return weights_names(folder)[0]


def weights_names(folder: Path | str) -> tuple[str, str]:
    """weights_hash, and the same from before `round_weights`, by which older children know it."""
    if os.path.exists(Path(folder) / "result.json"):
        check_manifest(Path(folder))
    _, metadata, sha256 = read_tensors(Path(folder) / "model.safetensors")
    return sha256, metadata.get("rounded_from", sha256)


def family_of(folder: Path | str) -> str:
    """The family that a stage's folder says it was trained on; "" if it says none."""
    path = Path(folder) / "config.json"
    found = read_json(path).get("config") if os.path.exists(path) else {}
    return str(found.get("family", "")) if isinstance(found, dict) else ""


def said_of_family(field: str, folder: str, family: str) -> list[str]:
    """A warning if a parent is of another family, which may be meant; UserError if that has other
    tokens, as what it was taught would then mean something else."""
    other = family_of(folder)
    if other == family or not {other, family} <= FAMILIES.keys():
        return []
    text = f"--{field} {folder} was trained on {other}"
    if FAMILIES[other].TOKENS != FAMILIES[family].TOKENS:
        raise UserError(f"{text}, whose tokens are others; give --family {other}, or a folder of "
                        f"{family}")
    return [f"warning: {text}, and this is {family}"]


def open_stage(name: str, cfg: StageConfig, out: str,
               **parents: str) -> tuple[RunLog, torch.device]:
    """A stage's folder and device; parents {field: folder} are recorded by their weights' hash.

    A folder "" is no parent. UserError if one is missing, damaged or of a family with other tokens,
    or `out` holds another run.
    """
    check_config(cfg)
    device = parallel.init(resolve_device(cfg.device))
    held, hashes, warnings = {}, {}, []
    if os.path.exists(Path(out) / "result.json"):       # it may have known parents before rounding
        held = read_json(Path(out) / "config.json").get("parents")
        held = held if isinstance(held, dict) else {}
    for field, folder in parents.items():
        if folder:
            now, before = weights_names(folder)
            hashes[field] = before if held.get(field) == before else now
            warnings += said_of_family(field, folder, getattr(cfg, "family", ""))
    log = RunLog(out, name, cfg, hashes)
    for text in warnings:
        log.say(text)
    return log, device


def save_state_every(log: RunLog, cfg: TrainingConfig, step: int, model: Transformer,
                     optimizer: Optimizer) -> None:
    """save_state after every save_every steps, but not after the last one."""
    if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
        save_state(log, step + 1, model, optimizer)


def save_state(log: RunLog, step: int, model: Transformer,
               optimizer: Optimizer) -> None:
    """Everything needed to resume from `step` with bit-identical results."""
    check_finite(log.out, model)
    if not parallel.is_main():
        return
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for i, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{i}.{key}"] = value
    write_tensors(log.out / STATE, tensors, step=step, spent=log.spent(), owner=log.owner(STATE),
                  **log.mark())


def resume(log: RunLog, model: Transformer, optimizer: Optimizer) -> int:
    """Restore the last saved state, cut the metrics back to it, and return the next step.

    Without a saved state the metrics are cut to nothing and the step is 0.
    """
    path = log.out / STATE
    if not path.exists():
        log.rewind()
        parallel.barrier()
        return 0
    tensors, metadata, _ = read_tensors(path)
    if metadata.get("owner") != log.owner(STATE):
        raise UserError(f"{path}: belongs to another run; delete it and run the same command "
                        "again")
    log.resume_at(metadata.get("spent", {}))
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items()
                           if name.startswith("model.")})
    for i, parameter in enumerate(_parameters(optimizer)):
        # The fused AdamW keeps its step count, too, on the device of the parameter. Copies: what is
        # read lies in the file's own pages, and Windows replaces no file that is mapped.
        optimizer.state[parameter] = {
            name.rpartition(".")[2]: t.to(parameter.device, copy=True)
            for name, t in tensors.items() if name.startswith(f"optimizer.{i}.")}
    log.rewind(metadata["offset"], metadata["log"])
    parallel.barrier()
    log.say(f"resuming from step {metadata['step']}")
    return metadata["step"]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
