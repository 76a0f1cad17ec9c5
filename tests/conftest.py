"""What several test files share: one thread, an order, one finished tiny ladder, figures that are
not drawn, and sudden deaths."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_run import draw_nothing, tiny_stages

from minireason.report import style

torch.set_num_threads(1)          # models this small wait for threads longer than they compute
os.environ.setdefault("OMP_NUM_THREADS", "1")          # the same in the processes that tests start


def pytest_collection_modifyitems(items):
    """Files with slow tests come first and those with few tests last, so that two processes end
    at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """The report's figures are made but not drawn."""
    monkeypatch.setattr(style, "save", draw_nothing)


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
