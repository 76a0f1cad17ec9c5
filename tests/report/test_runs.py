"""Loading, selecting and thinning what a run folder holds."""

import shutil
from pathlib import Path

import pytest
from made_runs import made_run

from minireason.core.errors import UserError
from minireason.report import build, copies
from minireason.report import runs as results


def test_rows_are_selected_by_fields_and_by_their_absence():
    rows = [{"set": "a", "n": 1}, {"set": "a", "n": 2, "step": 3}, {"set": "b", "n": 2}]
    assert results.select(rows, set="a", step=None) == rows[:1]
    assert results.select(rows, n=2) == results.select(rows, n=(2, 3)) == rows[1:]
    assert results.group_by(rows, "step") == {None: [rows[0], rows[2]], 3: [rows[1]]}
    assert results.at_largest_n(rows) == rows[1:] and results.at_largest_n([]) == []
    assert results.tagged(rows[:1], n=7) == [{"set": "a", "n": 7}]


def test_the_last_round_is_a_policys_result(tmp_path):
    runs = [results.load_run(made_run(tmp_path / "run", stages=3))]
    assert {row["round"] for row in results.final_rows(runs, "star")} == {3}
    assert len(results.rung_rows(runs)) == 4 * 8
    assert results.rows_of(runs, stage="rl") == results.final_rows(runs, "rl") == []


def test_thinning_sums_tokens_and_averages_the_rest():
    lines = [{"step": i, "train/tokens": 10, "train/loss": float(i)} for i in range(10)]
    assert copies.thin(lines, 5)[:2] == [{"step": 1, "train/tokens": 20, "train/loss": 0.5},
                                          {"step": 3, "train/tokens": 20, "train/loss": 2.5}]
    assert copies.thin([], 5) == []


def test_reference_is_small_and_names_no_path_of_the_machine(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path / "runs/absolute")
    made_run(Path(here), seed=7)
    build.run(build.Config(runs=(here,), reference="kept"))
    files = [path for path in Path("kept").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert {path.suffix for path in files} == {".json", ".jsonl"}
    assert not any(str(tmp_path) in path.read_text() for path in files)
    kept, whole = results.load_run("kept/seed-7"), results.load_run(here)
    assert kept["star"]["config"]["init"] == "../sft"
    assert len(kept["pretrain"]["metrics"]) == copies.THIN < len(whole["pretrain"]["metrics"])
    for name, stage in kept.items():
        assert stage["rows"] == whole[name]["rows"]
    assert len(kept["testtime"]["examples"]["chain-test-k8"][0]["values"]) == 1
    page = build.run(build.Config(run="kept/seed-7"))           # a copy has a page too
    assert "the right one is" in page.read_text()


def test_a_round_that_has_changed_is_refused_like_its_stage(ladder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(ladder, run)
    verdicts = next(run.glob("star/round-*/verdicts.json"))
    verdicts.write_text('{"greedy": {}}\n')
    with pytest.raises(UserError, match=f"{verdicts.parent.name}.*verdicts.json"):
        results.load_run(run)
