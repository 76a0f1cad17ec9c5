"""What several test files share: one thread, and one finished tiny ladder."""

from pathlib import Path

import pytest
import torch
from tiny_run import tiny_stages

torch.set_num_threads(1)          # models this small wait for threads longer than they compute


@pytest.fixture(scope="session")
def ladder(tmp_path_factory) -> Path:
    """A folder in which every stage has run once; a test that changes it works on a copy."""
    root = tmp_path_factory.mktemp("ladder")
    for run, config in tiny_stages(root).values():
        run(config)
    return root
