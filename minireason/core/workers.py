"""Worker processes: deaf to Ctrl-C, which is their parent's to answer, and gone when it is."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process

import torch
from tqdm import tqdm


def is_worker() -> bool:
    """Whether this process is one, beside another that shows its progress."""
    return parent_process() is not None


def line_start() -> str:
    """What a worker's line on a terminal begins with: it takes the place of the parent's bar."""
    return "\r\033[2K" * (is_worker() and sys.stderr.isatty())


def start_workers(n: int) -> ProcessPoolExecutor:
    """A pool of n processes, each started by `submit` when it is needed."""
    return ProcessPoolExecutor(n, get_context("spawn"), _begin, (torch.get_num_threads(),))


def submit(pool: ProcessPoolExecutor, function: Callable, *arguments: object) -> Future:
    """Have a worker call a picklable function.

    It may start a worker, which inherits that Ctrl-C waits: before `_begin` it would answer with a
    traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):                    # not a POSIX system
        return pool.submit(function, *arguments)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers(pool: ProcessPoolExecutor | None) -> None:
    """Kill the pool's processes, whatever they do, and wait until they are gone."""
    if pool:
        for process in [*(pool._processes or {}).values()]:
            process.kill()
        pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())          # its own is a semaphore, which a killed process leaks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)
