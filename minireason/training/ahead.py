"""What a training step reads, made by worker processes ahead of it.

A step's rows are a pure function of (seed, step), so any process may make them, in any order, and
they are the same bit for bit. The training process is then left with what only it can do.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from minireason.core import parallel
from minireason.core.config import cores
from minireason.core.errors import UserError
from minireason.training.batches import Batch

AHEAD = 2                         # steps per worker that are made before they are asked for
LEAVE = getattr(signal, "SIGUSR1", None)     # ends a worker that still starts; others ignore it
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
        pool = ProcessPoolExecutor(min(workers, len(steps)), get_context("spawn"), _start_worker)
        waiting = deque(_ask(pool, make, s) for s in islice(later, AHEAD * workers))
        while waiting:
            batches, count = waiting.popleft().result()
            waiting.extend(_ask(pool, make, s) for s in islice(later, 1))
            yield [_batch(arrays) for arrays in batches], count
    except BrokenProcessPool:
        raise UserError("a worker process that draws ahead was killed or could not start; run the "
                        "same command again, with fewer --workers if memory is short; a script of "
                        "your own must begin its work under `if __name__ == '__main__':`") from None
    except OSError as error:
        raise UserError(f"worker processes that draw ahead cannot be started ({error}); with "
                        "--workers 0 nothing runs beside this process") from None
    finally:
        if pool:
            for worker in [*(pool._processes or {})]:
                with suppress(ProcessLookupError):
                    if LEAVE:
                        os.kill(worker, LEAVE)
            pool.shutdown(cancel_futures=True)


def _ask(pool: ProcessPoolExecutor, make: Callable[[int], Data], step: int) -> Future:
    """Have a step made. It may start a worker, which inherits that Ctrl-C waits: before
    `_start_worker` it would answer with a traceback of its own."""
    if not hasattr(signal, "pthread_sigmask"):                    # not a POSIX system
        return pool.submit(_arrays, make, step)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_arrays, make, step)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """Ctrl-C is the parent's to answer, and a worker does not outlive it, however it ends."""
    for number in filter(None, (signal.SIGINT, LEAVE)):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


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
