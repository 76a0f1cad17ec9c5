"""Several seeds: intervals over seeds and problems together, gains, and the committed range."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import add_verdicts, made_run

from minireason.core import files
from minireason.measure.estimates import two_way_interval
from minireason.problems.frozen import alike, frozen_folder
from minireason.report import build, copies, seeds, tables
from minireason.report import runs as results


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> list[Path]:
    """Runs of three seeds that kept their verdicts."""
    folders = []
    for seed in range(3):
        folders.append(made_run(tmp_path_factory.mktemp("seeds") / f"s{seed}", seed, stages=3))
        add_verdicts(folders[-1])
    return folders


def test_intervals_cover_seeds_and_problems_together(three):
    runs = [results.load_run(folder) for folder in three]
    rows = results.select(results.final_rows(runs, "star"), set="chain-test-k8")
    right = np.array([[digit == "2" for digit in row["digits"]] for row in rows], dtype=float)
    found = two_way_interval(right)
    low, high = (round(100 * found[end]) for end in ("low", "high"))
    assert f"[{low}, {high}] (" in tables.accuracy_text(rows)
    wilson = 100 * np.mean([row["high"] - row["low"] for row in rows])
    assert high - low > wilson + 1                     # the seeds differ, which Wilson cannot know
    alone = [{key: value for key, value in row.items() if key != "digits"} for row in rows]
    assert f"[{low}, {high}]" not in tables.accuracy_text(alone)
    assert "digits" in rows[0] and rows[0]["round"] == 3        # of the last round's own folder


def test_problems_of_one_program_are_drawn_together():
    numbers = alike("synthesis-test-p2", 232)
    assert len(set(numbers)) == 58 and numbers.tolist() == alike("synthesis-test-p2", 232).tolist()
    assert len(set(alike("chain-test-k8", 500))) == 500
    assert alike("chain-test-k8", 501) is None and alike("of-another-version", 5) is None
    rows = [{"digits": "".join(str(n % 2) for n in numbers)}] * 2
    together, apart = (seeds.interval_of([{**row, "set": name} for row in rows])
                       for name in ("synthesis-test-p2", "none"))
    assert together["high"] - together["low"] > 1.8 * (apart["high"] - apart["low"])


def test_gains_are_paired_by_seed_and_problem(three):
    runs = [results.load_run(folder) for folder in three]
    gains = seeds.gain_rows(runs)
    assert list(results.group_by(gains, "rung")) == ["SFT - pretrained, step by step",
                                                     "STaR - SFT"]
    (gain,) = results.select(gains, rung="STaR - SFT", set="chain-test-k5")
    upper, lower = (seeds.verdicts_of(results.select(results.final_rows(runs, name),
                                                     set="chain-test-k5"))
                    for name in ("star", "sft"))
    expected = two_way_interval(upper, lower)
    assert {key: gain[key] for key in expected} == expected
    assert tables.by_level([gain], "gain")[0][1][1].startswith("+")
    assert seeds.gain_rows(runs[:1]) == []                             # one seed is no interval


def test_verdicts_are_kept_and_runs_without_them_have_no_gains(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build.run(build.Config(runs=tuple(map(str, three)), reference="kept"))
    kept = [results.load_run(f"kept/seed-{seed}") for seed in range(3)]
    whole = [results.load_run(folder) for folder in three]
    assert seeds.gain_rows(kept) == seeds.gain_rows(whole) != []
    for path in Path("kept").rglob("verdicts.json"):
        path.unlink()
    assert seeds.gain_rows([results.load_run(f"kept/seed-{seed}") for seed in range(3)]) == []


def test_a_stage_that_only_sampled_shows_what_its_policy_answers_greedily(three, tmp_path):
    folder = Path(shutil.copytree(three[0], tmp_path / "run"))
    record = {"stage": "search", "config": {"policy": "../sft", "seed": 0}}
    (folder / "search").mkdir()
    for name, content in (("config", record), ("result", {"seconds": 1.0})):
        (folder / f"search/{name}.json").write_text(json.dumps(content))
    row = {"set": "chain-test-k5", "method": "single", "n": 4, "accuracy": 0.4, "problems": 200,
           "seed": 0}
    (folder / "search/rows.jsonl").write_text(json.dumps(row) + "\n")
    run = results.load_run(folder)
    (greedy,) = results.select(run["search"]["rows"], method="greedy")
    (own,) = results.select(run["sft"]["rows"], method="greedy", set="chain-test-k5")
    assert greedy["problems"] == 200 and greedy["rung"] == "SFT, greedy"
    assert greedy["accuracy"] == own["digits"][:200].count("2") / 200 != own["accuracy"]


@pytest.fixture
def committed(three, tmp_path, monkeypatch) -> Path:
    """The range of seeds 0 and 1 as the committed one of size quickstart."""
    monkeypatch.setattr(seeds, "frozen_folder", lambda: tmp_path)
    folder = tmp_path / "reference/quickstart"
    build.run(build.Config(runs=tuple(map(str, three[:2])), reference=str(folder)))
    return folder


def test_a_run_is_held_against_the_committed_range(three, committed, undrawn):
    run = results.load_run(three[2])                           # two points above seed 1, or four
    band = seeds.committed_band(three[2], run)
    assert band and band["seeds"] == [0, 1]
    lines = seeds.band_lines(run, band)
    assert lines[0] == "direct answer: inside at every level"
    assert lines[2].startswith("SFT: outside at level 1, 85.0 (81.0 to 83.0); level 2, 76.0 (")
    page = build.write_page(three[2]).read_text()
    assert f"<li>{lines[2]}</li>" in page
    assert "seeds 0, 1; one more seed lies outside at 67%" in page
    inside = seeds.band_lines(results.load_run(three[1]), band)
    assert all(line.endswith("inside at every level") for line in inside)


@pytest.mark.parametrize("stage, change", [("sft", {"traces": 5}), ("pretrain", {"split": "x"})])
def test_other_settings_and_other_sizes_are_not_compared(three, committed, tmp_path, undrawn,
                                                         stage, change):
    folder = Path(shutil.copytree(three[2], tmp_path / "other"))
    assert seeds.committed_band(folder, results.load_run(folder))
    path = folder / f"{stage}/config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "config": {**record["config"], **change}}))
    assert seeds.committed_band(folder, results.load_run(folder)) is None
    assert "one more seed" not in build.write_page(folder).read_text()
    for config in ({"size": "gpu"}, {"size": "quickstart", "family": "addition"}, {}):
        (folder / "config.json").write_text(json.dumps({"config": config}))
        assert seeds.committed_band(folder, results.load_run(three[2])) is None


def test_controls_of_equal_flops_stand_in_the_table(tmp_path):
    rows = [{"arm": "pretraining continued", "set": "chain-test-k8", "method": "greedy",
             "accuracy": 0.41, "against": "RL"},
            {"arm": "twice", "set": "chain-test-k8", "method": "greedy", "accuracy": 0.2,
             "against": "pretrained", "times": 2.0},
            {"arm": "RL", "set": "chain-test-k8", "method": "greedy", "accuracy": 0.9}]
    (tmp_path / "controls").mkdir()
    (tmp_path / "controls/controls.json").write_text(json.dumps({"rows": rows}))
    row, twice = seeds.control_rows(tmp_path / "quickstart")
    assert row["rung"] == "control: pretraining continued (FLOPs of RL)"
    assert twice["rung"] == "control: twice (2 times the FLOPs)"
    assert seeds.control_rows(tmp_path / "quickstart", "sampled") == []
    assert seeds.control_rows(tmp_path / "elsewhere/quickstart") == []


def test_the_committed_range_is_that_of_the_committed_runs():
    found = list((frozen_folder() / "reference").glob(f"*/{seeds.BAND}"))
    assert found
    for path in found:
        runs = [results.load_run(folder) for folder in sorted(path.parent.glob("seed-*"))]
        assert files.read_json(path) == json.loads(json.dumps(seeds.band_of(runs)))
        assert path.stat().st_size < 50_000


def test_paired_differences_follow_from_the_committed_samples(ladder, tmp_path):
    """Every pair's mean is the stage's own; one more seed widens the interval, not the mean."""
    copies.keep(ladder, tmp_path / "kept")
    run = results.load_run(tmp_path / "kept")
    for name in ("chain-test-k1", "chain-test-k2"):
        measured = results.differences(results.rows_of([run], stage="testtime", set=name))
        for runs in ([run], [run, run]):
            found = seeds.paired_rows(runs, "testtime", name)
            assert [row["method"] for row in found] == [row["method"] for row in measured]
            for mine, row in zip(found, measured, strict=True):
                assert mine["accuracy"] == pytest.approx(row["accuracy"], abs=1e-12)
    run["testtime"]["pools"] = None
    assert seeds.paired_rows([run], "testtime", name) == []
