"""`minireason doctor`: what this machine has, what a run uses of it, and what would make it faster.

It asks the same functions that a run asks, so it says what a run would say. The sampler's C++, or
a GPU's attention kernels, are built if they have not been yet, as the first run would.
"""

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass

import torch

from cuda_ext import build, cache
from minireason import __version__
from minireason.core import locks
from minireason.core.config import machine, made_with, resolve_device
from minireason.core.errors import UserError
from minireason.model.backends import CROSSOVER, NVCC, choose_impl
from minireason.model.transformer import ModelConfig
from minireason.sampling.native import decoder_choice

EXTRAS = {"web": ("starlette", "uvicorn"), "studies": ("scipy",), "sweep": ("ray",),
          "gym": ("reasoning_gym",), "track": ("tensorboard",), "docs": ("material",)}
NOT_RUN = "written for it and tested with a simulated one, never run on a real one"


@dataclass(frozen=True)
class Config:
    """What was found, what is used, and what it would take to be faster."""

    device: str = "auto"          # auto | cpu | cuda | mps


def run(cfg: Config) -> dict[str, dict[str, str]]:
    """Print the three parts; returns {part: {what: words}}. UserError for a missing device."""
    parts = {"found": found(), "used": in_use(cfg.device)}
    parts["to be faster"] = {str(i): line for i, line in enumerate(advice(cfg.device), 1)}
    for title, lines in parts.items():
        print(f"{title}:")
        for name, words in lines.items():
            print(f"  {name:<14} {words}")
    return parts


def found() -> dict[str, str]:
    """What the machine and its Python have, none of it needed but torch."""
    facts, lines = machine(), {}
    lines["minireason"] = f"{__version__}, Python {platform.python_version()}, {system()}"
    lines["torch"] = f"{torch.__version__}, CPU instructions {made_with()['processor']}"
    lines["processor"] = f"{facts['cores']} cores for this process, {facts['threads']} threads used"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        lines["memory"] = f"{size / 2 ** 30:.1f} GiB"
    lines["compiler"] = or_why(lambda: " ".join(build.find_host_compiler()))
    lines["kernel cache"] = or_why(cache_words)
    lines["NVIDIA GPU"] = gpu_words()
    lines["nvcc"] = or_why(build.find_nvcc)
    lines["Apple GPU"] = f"yes; {NOT_RUN}" if torch.backends.mps.is_available() else "none"
    lines["folder locks"] = ("flock" if locks.fcntl else
                             "none: two processes in one folder are not kept apart")
    lines["processes"] = "started anew (no fork is used), " + (
        "ended as groups" if hasattr(os, "killpg") else "no groups on this system")
    for extra, modules in EXTRAS.items():
        there = all(importlib.util.find_spec(module) for module in modules)
        lines[f"extra {extra}"] = "yes" if there else f"no: pip install 'minireason[{extra}]'"
    return lines


def in_use(device_name: str) -> dict[str, str]:
    """What a run with --device device_name would use."""
    device, shape = resolve_device(device_name), ModelConfig()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    asked = os.environ.get("MINIREASON_ATTENTION", "auto"), device, dtype, shape.head_dim
    impl, why = choose_impl(*asked, shape.max_len, "packed")
    lines = {"device": f"{device}{f' ({NOT_RUN})' if device.type == 'mps' else ''}",
             "numbers": "bf16 products, fp32 weights" if device.type == "cuda" else "fp32",
             "attention": f"{impl}: {why}", "sampler": "torch: the plain loop"}
    if device.type == "cpu":
        lines["sampler"] = ": ".join(decoder_choice(os.environ.get("MINIREASON_DECODE", "auto")))
    elif choose_impl(*asked, shape.max_len, "decode")[0] == "cuda":
        lines["sampler"] = "cuda graph: the kernels of cuda_ext, recorded once"
    return lines


def advice(device_name: str) -> list[str]:
    """What would make a run faster here, the cheapest first; one line that says so if nothing."""
    device, facts, lines = resolve_device(device_name), machine(), []
    cores, threads = int(str(facts["cores"])), int(str(facts["threads"]))
    if device.type == "cpu":
        name, why = decoder_choice(os.environ.get("MINIREASON_DECODE", "auto"))
        if name == "torch":
            lines.append(f"let the sampler be compiled ({why})")
        if threads < cores:
            lines.append(f"use all cores: unset OMP_NUM_THREADS ({threads} of {cores} now), or run "
                         f"{cores // threads} seeds side by side")
        if made_with()["processor"] == "DEFAULT":
            lines.append("a processor with AVX2 or AVX512, or a torch that was built to use it")
        if torch.cuda.is_available():
            lines.append("the GPU: --device cuda, with --size gpu for a model worth its while")
        elif shutil.which("nvidia-smi"):
            lines.append("the NVIDIA GPU whose driver is here: install a torch built for CUDA")
        if torch.backends.mps.is_available():
            lines.append(f"perhaps the Apple GPU: --device mps ({NOT_RUN})")
    if device.type == "cuda":
        if CROSSOVER["measured"] is None:
            lines.append("measure the kernels here: python -m cuda_ext.gpu_check")
        elif not NVCC:
            lines.append("install the CUDA toolkit, so that the kernels of cuda_ext can be built")
    return lines or ["nothing: all that this machine has is in use"]


def or_why(find) -> str:
    """What `find` returns, or why it cannot."""
    try:
        return find()
    except (cache.BuildError, UserError) as error:
        return f"none: {error}"


def cache_words() -> str:
    """Folder and size of the compiled code that is kept."""
    cache.check_system()
    folder = cache.folder()
    sizes = [path.stat().st_size for path in folder.glob("*.so")]
    return f"{folder}, {len(sizes)} builds, {sum(sizes) / 2 ** 20:.1f} MiB"


def gpu_words() -> str:
    """Name, memory and compute capability of the first GPU that torch sees."""
    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi")
        return "a driver is here, but this torch cannot use it" if driver else "none"
    facts = torch.cuda.get_device_properties(0)
    return (f"{facts.name}, {facts.total_memory / 2 ** 30:.0f} GiB, sm_{facts.major}{facts.minor}, "
            f"{torch.cuda.device_count()} in all")


def system() -> str:
    """The operating system, and whether it is one that this was run on."""
    tried = "" if sys.platform == "linux" else f" ({NOT_RUN})"
    return f"{platform.system()} {platform.machine()}{tried}"
