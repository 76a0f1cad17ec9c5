"""One made-up run with its page."""

from pathlib import Path

import pytest
from made_runs import made_run

from minireason.report import build


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """One complete run folder of made-up numbers with its page; tests only read it."""
    folder = made_run(tmp_path_factory.mktemp("report") / "run")
    assert build.run(build.Config(run=str(folder))) == folder / "report.html"
    return folder
