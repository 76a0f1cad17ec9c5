"""Small pictures for tests that never look at pixels, and one made-up run with its page."""

from pathlib import Path

import pytest
from made_runs import made_run

from minireason.report import build, style


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """A low resolution."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style.STYLE, "savefig.dpi", 40)
        yield


@pytest.fixture(scope="module")
def made(coarse, tmp_path_factory) -> Path:
    """One complete run folder of made-up numbers with its page; tests only read it."""
    folder = made_run(tmp_path_factory.mktemp("report") / "run")
    assert build.run(build.Config(run=str(folder))) == folder / "report.html"
    return folder
