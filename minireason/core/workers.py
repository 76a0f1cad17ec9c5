"""Worker processes: deaf to signals, which are their parent's to answer, and gone when it is."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context, parent_process

import torch
from tqdm import tqdm

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
           if hasattr(signal, name)]
UNGUARDED = "a script of your own must begin its work under `if __name__ == '__main__':`"


def is_worker() -> bool:
    """Whether this process is one, beside another that shows its progress."""
    return parent_process() is not None


def line_start(stage: str) -> str:
    """What a line begins with; a worker's on a terminal takes the place of the parent's bar."""
    clear = "\r\033[2K" * (is_worker() and sys.stderr.isatty())
    return f"{clear}[{stage}{', second process' * is_worker()}]"


def start_workers(n: int) -> ProcessPoolExecutor:
    """A pool of n processes, each started by `submit` when it is needed."""
    return ProcessPoolExecutor(n, get_context("spawn"), _begin, (torch.get_num_threads(),))


def submit(pool: ProcessPoolExecutor, function: Callable, *arguments: object) -> Future:
    """Have a worker call a picklable function; OSError if the system gives it no thread.

    It may start a worker, which inherits that signals wait: before `_begin` it would answer with a
    traceback of its own, as to a parent that leaves it half started.
    """
    before = None
    if hasattr(signal, "pthread_sigmask"):                        # a POSIX system
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return pool.submit(function, *arguments)
    except RuntimeError as error:
        if isinstance(error, BrokenExecutor):
            raise
        raise OSError(str(error)) from None
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers(pool: ProcessPoolExecutor | None) -> None:
    """Kill the pool's processes, whatever they do, and wait until they are gone."""
    if pool:
        for process in [*(pool._processes or {}).values()]:
            process.kill()
        with suppress(RuntimeError):          # its thread never started
            pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())          # its own is a semaphore, which a killed process leaks
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)
