"""A new family is one file and one line, a new stage one file and one row: the whole ladder runs,
and the report and chat know both."""

import io
import sys
from pathlib import Path

import pytest
from tiny_run import draw_nothing, tiny_size
from toys import parity, polish

from minireason import chat, cli, pipeline, stages
from minireason.core.files import read_lines
from minireason.model import checkpoint
from minireason.presets import SIZES
from minireason.problems import FAMILIES, frozen
from minireason.report import style

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toy family with its frozen sets, and the toy stage as the ladder's last row."""
    folder = tmp_path_factory.mktemp("toys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "parity", parity)
        patch.setattr(stages, "STAGES", (*stages.STAGES, stages.Stage(
            "polish", polish.__name__, "a toy", {"init": "rl"}, label="polished")))
        patch.syspath_prepend(str(DATA))
        import make_eval
        patch.setattr(make_eval, "FAMILIES", {"parity": parity})
        patch.setattr(make_eval, "PER_LEVEL", 20)          # which takes longer where problems end
        (folder / "SHA256SUMS").write_text(make_eval.make(folder))
        patch.setattr(frozen, "frozen_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="module")
def run(toys):
    """`minireason run --family parity --size tiny`."""
    out = toys / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", tiny_size())
        patch.setattr(style, "save", draw_nothing)
        assert cli.main(["run", "--family", "parity", "--size", "tiny", "--out", str(out),
                         "--device", "cpu", "--jobs", "1"]) == 0
    return out


def test_the_whole_ladder_runs(run):
    wanted = [stage.name for stage in stages.STAGES if stage.in_run]
    assert wanted[-1] == "polish"
    for name in wanted:
        assert (run / name / "result.json").exists(), name
    rows = [row for row in read_lines(run / "polish" / "rows.jsonl") if row["method"] == "greedy"]
    assert {row["set"] for row in rows} == {"parity-test-b1", "parity-test-b2"}
    assert checkpoint.load(run / "polish")[1].vocab_size == 7 + len(parity.TOKENS) + 1


def test_the_report_shows_both(run):
    page = (run / "report.html").read_text()
    assert "polished" in page and "parity" in page


def test_chat_answers_with_the_last_policy(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("011010\n"))
    assert chat.run(chat.Config(run=str(run), device="cpu", show_thoughts=True)) == 1
    said = capsys.readouterr()
    assert f"{run}/polish answers" in said.err and said.out.strip()


def test_the_stage_is_a_command_and_in_every_size(toys):
    assert cli.commands()["polish"][0] == f"{polish.__name__}:run"
    for size in ("smoke", "quickstart", "gpu"):
        plan = pipeline.plan_of(pipeline.Config(size=size, family="parity"))
        assert plan[-1][0] == "polish"
