"""Data parallelism under `torchrun`: every rank works on its share of the rows.

The gradients of a sum over rows add up, so ranks need only sum them; the division by the global
count of counted tokens happens once, in the loss. Without torchrun every function is the identity.
"""

import atexit
import os

import torch
import torch.distributed as dist

from minireason.core.errors import UserError


def init(device: torch.device) -> torch.device:
    """Join the process group that torchrun describes; returns this rank's device.

    UserError if the environment describes none that this process can join.
    """
    if "RANK" in os.environ and not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as error:
            raise UserError(f"RANK={os.environ['RANK']} is set, but no process group can be joined "
                            f"({str(error).splitlines()[0]}); start several processes with "
                            "torchrun, or unset RANK for one") from None
        # Left to the interpreter's shutdown, Gloo's threads abort the finished process now and
        # then (pytorch/pytorch issue 179291).
        atexit.register(dist.destroy_process_group)
    if device.type == "cuda" and dist.is_initialized():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the one process that writes files and prints."""
    return rank() == 0


def all_sum(tensors: list[torch.Tensor]) -> None:
    """Sum float tensors over the ranks in place, as one message."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, piece in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def share(items: list) -> list:
    """This rank's every world_size-th item."""
    return items[own()]


def own() -> slice:
    """The places of this rank's items in any list of all of them."""
    return slice(rank(), None, world_size())


def gather(items: list) -> list:
    """Undo `share`: all ranks' (picklable) items in the original order, on every rank."""
    if world_size() == 1:
        return items
    parts: list = [None] * world_size()
    dist.all_gather_object(parts, items)
    whole = [None] * sum(map(len, parts))
    for start, part in enumerate(parts):
        whole[start::world_size()] = part
    return whole


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()
