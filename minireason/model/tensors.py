"""Files of tensors: safetensors alone, written whole or not at all, every byte under a sha256."""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor

from minireason.core.errors import UserError
from minireason.core.files import write_atomic


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, types and bytes, in the order of names."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha256.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], **metadata: object) -> str:
    """Write tensors and JSON-able metadata atomically; returns the sha256 of the payload."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    plain = json.dumps(metadata, sort_keys=True)
    payload = digest(tensors)
    sha256 = hashlib.sha256((payload + plain).encode()).hexdigest()
    # save_file would write through a temporary file of its own, with a random name that stays
    # behind when the process is killed
    write_atomic(path, serialized(tensors, {"metadata": plain, "sha256": sha256}))
    return sha256


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict, str]:
    """(tensors, metadata, sha256); UserError if missing, truncated, altered or another format."""
    if not os.path.isfile(path):              # False, too, for a name that no file can have
        raise UserError(f"{path}: no such file; give the folder of a finished stage")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); it is truncated or "
                        "of another format, copy it again or rerun its stage") from None
    plain = header.get("metadata", "")
    if hashlib.sha256((digest(tensors) + plain).encode()).hexdigest() != header.get("sha256"):
        if "sha256" not in header:
            raise UserError(f"{path}: was not written by minireason; `minireason import` reads a "
                            "folder that transformers wrote")
        raise UserError(f"{path}: the stored sha256 does not match its content; the file is "
                        "damaged, copy it again or rerun its stage")
    return tensors, json.loads(plain), header["sha256"]
