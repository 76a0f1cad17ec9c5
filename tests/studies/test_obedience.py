"""Obedience: every rung and arm is measured once, and the tables follow from rows by hand."""

import re
import shutil
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from tiny_run import tiny_ladder

from minireason import cli
from minireason.core.errors import UserError
from minireason.core.files import read_checked, read_json, write_checked
from minireason.measure.evaluate import frozen_sets
from minireason.problems import instructions
from minireason.report.runs import group_by, select
from minireason.studies import obedience

RUNGS = ["pretrained, step by step", "SFT", "STaR", "RL", "RL, format reward 1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny_ladder(tmp_path_factory.mktemp("obedience") / "run", "instructions")


@pytest.fixture(scope="module")
def measured(finished):
    return obedience.run(obedience.Config(runs=(str(finished),), weights=(1.0,),
                                          out=str(finished.parent / "o")))


def test_every_rung_and_the_arm_are_measured_on_every_kind(finished, measured):
    rows = measured["rows"]
    assert list(group_by(rows, "policy")) == RUNGS
    rewards = read_json(finished / "obedience/RL-format-reward-1/config.json")["config"]["rewards"]
    assert rewards == {"outcome": 1.0, "format": 1.0, "process": 0.0, "price": 0.0}
    for own in group_by(rows, "policy").values():
        for method in ("greedy", "sampled"):
            cells = select(own, method=method)
            assert sum(len(row["right"]) for row in select(cells, asked="held")) == 5 * 3
            assert sum(len(row["right"]) for row in select(cells, asked=(1, 2))) == 5 * 3
            for row in cells:
                problems = len(row["right"])
                assert len(row["obedient"]) == problems
                assert sum(of for _, of in row["obeyed"].values()) == problems * (
                    1 if row["asked"] == 1 else 2)
                assert sum(of for _, _, of in row["lengths"]) <= problems


def test_rows_are_as_by_hand(monkeypatch):
    """Greedily all is done that is asked, in a sample the answer never stands twice."""
    asked, named, free, obeyed_free = set(), Counter(), 0, 0

    def drawn(policy, tokenizer, problems, style, how):
        asked.update(problem.prompt for problem in problems)
        ideal = [instructions.render(problem, style) for problem in problems]
        return [[re.sub(",[a-z0-9]+<eos>", "<eos>", text) if how.temperature else text]
                for text in ideal]

    monkeypatch.setattr(obedience, "complete", drawn)
    rows = obedience.rows_of_policy({"split": "validation", "problems": 20, "seed": 0}, None, None)
    for kind in ("validation", "held-validation"):
        for problems in frozen_sets(instructions.NAME, kind, 20).values():
            assert asked >= {problem.prompt for problem in problems}
            told = [re.findall("[a-z]+", problem.prompt.partition(":")[0]) for problem in problems]
            named.update(chain(*told))
            free += sum({"only", "most", "stop"}.isdisjoint(names) for names in told)
            obeyed_free += sum({"only", "most", "stop", "twice"}.isdisjoint(names)
                               for names in told)
    for row in rows:
        sampled, doubled = row["method"] == "sampled", row["obeyed"].get("twice", (0, 0))[1]
        assert set(row["right"]) == {"1"} and row["obedient"].count("0") == sampled * doubled
        for name, (obeyed, of) in row["obeyed"].items():
            assert name in instructions.KINDS and obeyed == of * (not (sampled and name == "twice"))
    greedy = select(rows, method="greedy")
    assert named == sum((Counter({name: of for name, (_, of) in row["obeyed"].items()})
                         for row in greedy), Counter())
    assert free == sum(of for row in greedy for _, _, of in row["lengths"])
    assert obeyed_free < free and obeyed_free == sum(
        obeyed for row in select(rows, method="sampled") for _, obeyed, _ in row["lengths"])
    monkeypatch.setattr(obedience, "complete", lambda policy, tokenizer, problems, style, how: [
        ["<eos>"] for _ in problems])
    for row in obedience.rows_of_policy({"split": "validation", "problems": 2, "seed": 0}, None,
                                        None):
        assert {pieces for pieces, _, _ in row["lengths"]} <= {-1}           # unreadable
    told = select(rows, level=4, method="greedy")
    assert max(pieces for row in told for pieces, _, _ in row["lengths"]) == 5  # `begin` is a piece


def test_a_finished_study_is_only_written_again(finished, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(obedience, "complete", None)             # would fail
    out = finished.parent / "o"
    assert obedience.run(obedience.Config(runs=(str(finished),), weights=(1.0,),
                                          out=str(out))) == measured
    assert cli.main(["obedience", "--from", str(out), "--out", str(tmp_path / "again")]) == 0
    for name in ("obedience.json", "obedience.md", "obedience.png"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_kept_rows_of_an_older_form_are_made_again(finished, measured):
    path = finished / "obedience/SFT.json"
    kept = read_checked(path)
    for about in ({}, {"code": "of before"}):
        kept["about"].pop("code", None)
        write_checked(path, kept | {"about": kept["about"] | about,
                                    "rows": [{**row, "lengths": [0]} for row in kept["rows"]]})
        assert obedience.run(obedience.Config(runs=(str(finished),), weights=(1.0,), out=str(
            finished.parent / "o"))) == measured
        kept = read_checked(path)


def made_rows(seed: int, after: str = "1100") -> list[dict]:
    """Four rungs and an arm at two levels; RL obeys `after`, the others always."""
    rows = []
    for policy in RUNGS:
        for level in (1, 2):
            for asked in (1, 2, "held"):
                obedient = after if policy == "RL" and level == 2 else "1111"
                names, followed = ("plus", "parity")[:1 if asked == 1 else 2], obedient.count("1")
                rows.append({
                    "policy": policy, "seed": seed, "method": "sampled", "level": level,
                    "asked": asked, "right": "1010", "obedient": obedient,
                    "lengths": [[pieces, int(digit), 1] for pieces, digit in
                                zip((0, 1, 3, 7), obedient, strict=True)],
                    "obeyed": {name: [followed, 4] for name in names}})
    return rows + [{**row, "method": "greedy", "right": "1111"} for row in rows]


def test_tables_are_as_by_hand():
    rows = made_rows(0) + made_rows(1)
    text = obedience.text_of(rows)
    assert "| RL | 50 / 75 / 38 | 50 / 75 / 38 | 50 / 75 / 38 |" in text
    assert "| STaR | 50 / 100 / 50 |" in text
    assert "RL - STaR, points per operation: right +0.0 [+0.0, +0.0], obedient -50.0 [" in text
    assert "| RL - STaR, one instruction | +0.0 [+0.0, +0.0] | -25.0 [" in text
    assert "| RL, format reward 1 - RL, two, held out | +0.0 [+0.0, +0.0] | +25.0 [" in text
    assert "| policy | 0 | 1 to 2 | 3 to 4 | 5 on |" not in text
    assert "| pieces in the thought | 0 | 1 to 2 | 3 to 4 | 5 on |" in text
    assert "| RL | 100 (8) | 100 (8) | 50 (8) | 50 (8) |" in text
    assert "| obeyed | plus | parity |" in text and "| RL | 75 (32) | 75 (16) |" in text
    row = {"policy": "RL", "lengths": [[-1, 0, 2], [0, 1, 1], [2, 1, 1], [9, 1, 4]]}
    assert [(one["length"], one["obeyed"], one["of"]) for one in obedience.length_rows([row])] == [
        ("unreadable", 0, 2), ("0", 1, 1), ("1 to 2", 1, 1), ("5 on", 1, 4)]
    slope = obedience.slope_text(select(made_rows(0, "1000"), method="sampled"), "RL", "STaR",
                                 "obedient")
    assert slope == "-75.0"
    both = obedience.values(select(rows, policy="RL", method="sampled", level=2, asked=1), "both")
    assert np.array_equal(both, [[1, 0, 0, 0]] * 2)
    upper, lower = obedience.figure_of(rows).axes
    assert upper.get_legend_handles_labels()[1] == RUNGS and "right" in lower.get_ylabel()
    assert np.allclose(lower.lines[0].get_ydata(), 50)           # of samples, not greedily


def test_runs_of_another_family_or_seed_are_refused(finished, tmp_path):
    for runs, words in (((), "give --runs"), ((str(finished),) * 2, "one run per seed")):
        with pytest.raises(UserError, match=words):
            obedience.run(obedience.Config(runs=runs, out=str(tmp_path)))


def test_an_unfinished_run_is_refused_before_any_arm_is_trained(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(obedience.ladders.rl, "run", None)       # would fail
    other = shutil.copytree(finished, tmp_path / "other")
    record = (other / "rl/config.json").read_text()
    (other / "rl/config.json").write_text(record.replace('"seed": 0', '"seed": 1'))
    (other / "star/model.safetensors").unlink()
    cfg = obedience.Config(runs=(str(finished), str(other)), out=str(tmp_path / "o"))
    with pytest.raises(UserError, match=r"star/model\.safetensors: cannot read"):
        obedience.run(cfg)
