"""What several test files share: one thread, one finished tiny ladder, and sudden deaths."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_stages

torch.set_num_threads(1)          # models this small wait for threads longer than they compute
os.environ.setdefault("OMP_NUM_THREADS", "1")          # the same in the processes that tests start


@pytest.fixture(scope="session")
def ladder(tmp_path_factory) -> Path:
    """A folder in which every stage has run once; a test that changes it works on a copy."""
    root = tmp_path_factory.mktemp("ladder")
    for run, config in tiny_stages(root).values():
        run(config)
    return root


class Killed(BaseException):
    """Stands for the end of the process: nothing in the library may catch it."""


@pytest.fixture
def run_with_deaths(monkeypatch) -> Callable[[Callable[[], object], int], int]:
    """run_with_deaths(run, n): run() dies at its n-th file, is run again and dies at the n-th file
    of that attempt, and so on, one file later each time, until it ends; returns how often it died.
    """
    real = os.replace

    def until_it_ends(run: Callable[[], object], n: int) -> int:
        deaths = 0
        while True:
            left = [n + deaths]

            def replace(source, target, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                real(source, target)

            monkeypatch.setattr(os, "replace", replace)
            try:
                run()
                return deaths
            except Killed:
                deaths += 1
            finally:
                monkeypatch.setattr(os, "replace", real)

    return until_it_ends
