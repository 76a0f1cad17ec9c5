"""Machines that are not here: a device that is neither a CPU nor NVIDIA's, a system without POSIX.

    with Elsewhere():   `mps` is a device that computes, in truth on the CPU; but it has no float64
                        and mixes with no tensor of the CPU
    without_posix()     takes away what Windows lacks, and refuses what Windows refuses
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("mps:0")
STANDS_FOR_IT = torch.device("meta:1")    # to PyTorch's C++, which has no guard of an absent device
MOVES = ("_to_copy", "copy_", "_local_scalar_dense")


class Away(torch.Tensor):
    """A tensor of the device: `held`, on the CPU, does the work."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=STANDS_FOR_IT, requires_grad=held.requires_grad)

    def __init__(self, held):
        self.held = held

    @property
    def device(self):
        return DEVICE

    def tolist(self):
        return self.held.tolist()         # which PyTorch does for no subclass

    def __repr__(self):
        return f"Away({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def check(name: str, tensors: list[torch.Tensor]) -> None:
    """What the device refuses."""
    away = [t for t in tensors if isinstance(t, Away)]
    if away and name not in MOVES and any(t.dim() for t in tensors if not isinstance(t, Away)):
        raise RuntimeError(f"{name}: tensors of two devices")
    if any(t.dtype == torch.float64 for t in away):
        raise TypeError(f"{name}: the device has no float64")


def compute(func, args, kwargs):
    """An operation on tensors of the device, of the CPU, or from one to the other."""
    name, target = func.overloadpacket.__name__, kwargs.get("device")
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    check(name, tensors)
    goes = any(isinstance(t, Away) for t in (args[:1] if name == "copy_" else tensors))
    if target is not None:
        goes = torch.device(target) == STANDS_FOR_IT
        if goes or name in MOVES:
            kwargs = {**kwargs, "device": None if not goes and target.type == "meta" else "cpu"}
    args_held, kwargs_held = tree_map_only(Away, lambda t: t.held, (args, kwargs))
    found = func(*args_held, **kwargs_held)
    if not goes:
        return found
    found = tree_map_only(torch.Tensor, Away, found)
    check(name, [t for t in tree_flatten(found)[0] if isinstance(t, Away)])
    return return_and_correct_aliasing(func, args, kwargs, found)


class Computes(TorchDispatchMode):
    """Operations that make a tensor of the device from none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Elsewhere(TorchFunctionMode):
    """While it is entered, tensors can be made on, and moved to, the device `mps`."""

    def __enter__(self):
        self.mode = Computes()
        self.mode.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.mode.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)

        def named(value):
            here = isinstance(value, torch.device) and value.type == "mps"
            return STANDS_FOR_IT if here or value in ("mps", "mps:0") else value

        args = tuple(named(a) if isinstance(a, str | torch.device) else a for a in args)
        if "device" in kwargs:
            kwargs["device"] = named(kwargs["device"])
        return func(*args, **kwargs)


def without_posix() -> None:
    """From now on this process is on a system like Windows, as far as Python shows it."""
    sys.modules["fcntl"] = None
    os.environ.setdefault("USERNAME", "user")      # which PyTorch asks for where there is no uid
    for module, names in ((os, ("fork", "forkpty", "geteuid", "getuid", "getpgid", "killpg",
                                "setsid", "sched_getaffinity", "O_DIRECTORY", "sysconf")),
                          (signal, ("SIGHUP", "SIGKILL", "SIGALRM"))):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    opened, fsync, replace, unlink = os.open, os.fsync, os.replace, os.unlink

    def open_file(path, flags, *more, **named):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return opened(path, flags, *more, **named)

    def sync_file(descriptor):
        mode = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:")[1].split()[0]
        if int(mode, 8) & 3 == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        fsync(descriptor)

    def refuse_mapped(path):
        if f"{os.path.realpath(path)}\n" in Path("/proc/self/maps").read_text():
            raise PermissionError(13, "mapped into memory", os.fspath(path))

    def replace_file(source, target):
        refuse_mapped(target)
        replace(source, target)

    def unlink_file(path, **named):
        refuse_mapped(path)
        unlink(path, **named)

    os.open, os.fsync, os.replace, os.unlink = open_file, sync_file, replace_file, unlink_file
