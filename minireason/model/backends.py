"""Which implementation of attention runs, and why.

`reference` is the formula of attention.py, written to be read; `sdpa` calls PyTorch's fused kernel;
`by hand` is layers.cpp or cpu_layers.py; `cuda` calls the kernels of cuda_ext, and `emulated` runs
those on the CPU. `auto` takes whichever was measured to be faster; the environment variable
MINIREASON_ATTENTION asks for another one (transformer.py).
"""

import functools
import json
from pathlib import Path

import torch

from cuda_ext import build, calls
from minireason.core.errors import UserError

KERNELS = ("cuda", "emulated")
IMPLS = ("auto", "reference", "sdpa", *KERNELS)
# Up to which row length the kernels beat SDPA, as cuda_ext/gpu_check.py measured it.
CROSSOVER = json.loads((Path(build.__file__).parent / "crossover.json").read_text())
NVCC = build.has_nvcc()
OLDEST = 80                       # cp.async and bf16 products need an sm_80
_refusals: dict[tuple[str, int], str] = {}     # of this process's GPU, by number and head_dim


def choose_impl(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, max_len: int,
                kind: str = "self") -> tuple[str, str]:
    """(implementation, reason) for rows of at most max_len tokens.

    kind: "self" (padded rows), "packed" (rows end to end) or "decode" (one new token per row).

    UserError: unknown name, or `cuda` or `emulated` where they cannot run.
    """
    if name == "auto":
        return _fastest(device, dtype, head_dim, max_len, kind)
    if name not in IMPLS:
        raise UserError(f"attention {name}: no such implementation; have {', '.join(IMPLS)}")
    if name in KERNELS:
        _check_kernels_run(name, device, dtype, head_dim)
    return name, "asked for"


def _fastest(device: torch.device, dtype: torch.dtype, head_dim: int, max_len: int,
             kind: str) -> tuple[str, str]:
    if device.type == "cpu":
        return "by hand", "fastest on a CPU: layers.cpp; else cpu_layers.py; sdpa for shared keys"
    if device.type != "cuda":
        return "sdpa", f"the CUDA kernels need an NVIDIA GPU, and this is {device.type}"
    if CROSSOVER["measured"] is None:
        return "sdpa", "the CUDA kernels are not measured against it yet"
    number = str(dtype).removeprefix("torch.")
    longest = CROSSOVER["longest_row"][kind].get(number, {}).get(str(head_dim), 0)
    if max_len > longest:
        return "sdpa", (f"beyond {longest} tokens the CUDA kernels were not measured faster "
                        f"({kind}, {number}, head_dim {head_dim}, {CROSSOVER['measured']})")
    if not NVCC:
        return "sdpa", "the CUDA kernels would be faster, but nvcc is missing to build them"
    key = number, head_dim
    if key not in _refusals and not torch.compiler.is_compiling():     # which cannot trace a build
        _refusals[key] = _refusal(device, dtype, head_dim)
    if refusal := _refusals.get(key):
        return "sdpa", f"the CUDA kernels do not run here: {refusal}"
    return "cuda", f"measured faster up to {longest} tokens ({CROSSOVER['measured']})"


def _refusal(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why the kernels, measured on another machine, cannot run on this GPU; empty if they can."""
    arch, = calls.device_facts(device.index)[0]
    if int(arch) < OLDEST:
        return f"they need an sm_{OLDEST}, and this is an sm_{arch}"
    try:
        _build_kernels("cuda", device, dtype, head_dim)
    except UserError as error:
        return str(error)
    return ""


def _check_kernels_run(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    if name == "cuda" and device.type != "cuda":
        raise UserError(f"attention cuda: needs an NVIDIA GPU, and this model is on {device.type}; "
                        "run with --device cuda on a machine that has one, or choose sdpa")
    if name == "cuda" and not NVCC:
        raise UserError("attention cuda: needs nvcc to build its kernels; install the CUDA toolkit "
                        "12.4 or later and put its bin folder on PATH, or choose sdpa")
    if name == "emulated" and device.type != "cpu":
        raise UserError("attention emulated: runs the CUDA kernels on the CPU; choose cuda here")
    if dtype not in calls.DTYPE_NAMES or head_dim not in build.HEAD_DIMS:
        raise UserError(f"attention {name}: no kernels for {dtype} with head_dim {head_dim}; use a "
                        f"head_dim of {', '.join(map(str, build.HEAD_DIMS))}, or choose sdpa")
    if not torch.compiler.is_compiling():     # which cannot trace a build; the first call made one
        _build_kernels(name, device, dtype, head_dim)


@functools.cache
def _build_kernels(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    try:
        calls.library_of(torch.empty(0, dtype=dtype, device=device), head_dim)
    except (build.BuildError, OSError) as error:
        raise UserError(f"attention {name}: {error}; or choose sdpa") from None
