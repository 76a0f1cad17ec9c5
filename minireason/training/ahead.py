"""What a training step reads, made by worker processes ahead of it.

A step's rows are a pure function of (seed, step), so any process may make them, in any order, and
they are the same bit for bit. The training process is then left with what only it can do.
"""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

import torch

from minireason.core import parallel
from minireason.core.config import cores
from minireason.core.errors import UserError
from minireason.core.workers import UNGUARDED, end_workers, start_workers, submit
from minireason.training.batches import Batch

AHEAD = 2                         # steps per worker that are made before they are asked for
Data = tuple[list[Batch], int]    # a step's micro-batches and its global token count


def workers_for(device: torch.device, asked: int | None) -> int:
    """Worker processes: as asked for; else none for a CPU, and up to 8 of a rank's cores."""
    if asked is None and device.type == "cuda":
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", parallel.world_size()))
        return max(0, min(8, cores() // ranks_here - 1))
    return asked or 0


def made_ahead(make: Callable[[int], Data], steps: range,
               workers: int) -> Generator[Data, None, None]:
    """make(step) of each step in order, made by so many processes; by this one if there are none.

    `make` must be picklable and know its rank: no worker is one. Close the iterator to end them.
    UserError if a worker fails.
    """
    if not workers or not steps:
        yield from map(make, steps)
        return
    pool, later = None, iter(steps)
    try:
        pool = start_workers(min(workers, len(steps)))
        waiting = deque(submit(pool, _arrays, make, s) for s in islice(later, AHEAD * workers))
        while waiting:
            batches, count = waiting.popleft().result()
            waiting.extend(submit(pool, _arrays, make, s) for s in islice(later, 1))
            yield [_batch(arrays) for arrays in batches], count
    except BrokenProcessPool:
        raise UserError("a worker process that draws ahead was killed or could not start; run the "
                        "same command again, with fewer --workers if memory is short; "
                        + UNGUARDED) from None
    except OSError as error:
        raise UserError(f"worker processes that draw ahead cannot be started ({error}); with "
                        "--workers 0 nothing runs beside this process") from None
    finally:
        end_workers(pool)


def _arrays(make: Callable[[int], Data], step: int) -> tuple[list[dict[str, Any]], int]:
    """A step's data as NumPy arrays, which need no shared memory on their way to the parent."""
    try:
        batches, count = make(step)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"a worker process failed at step {step} ({type(error).__name__}: "
                        f"{error}); with --workers 0 nothing runs beside this process") from None
    return [{name: value.numpy() if isinstance(value, torch.Tensor) else value
             for name, value in vars(batch).items()} for batch in batches], count


def _batch(arrays: dict[str, Any]) -> Batch:
    values: dict[str, Any] = {name: torch.from_numpy(value) if hasattr(value, "dtype") else value
                              for name, value in arrays.items()}
    return Batch(**values)
