"""The search stage: resumes by shards, spends no more than it says, compares fairly."""

import dataclasses
import json

import numpy as np
import pytest

from minireason.core.errors import UserError
from minireason.core.files import read_lines
from minireason.model import checkpoint
from minireason.search import compare
from minireason.search.allocate import Strategy
from minireason.search.sequential import standing
from minireason.stages import guided_search as search
from minireason.stages.guided_search import Config as SearchConfig


@pytest.fixture
def tiny(ladder, tmp_path) -> SearchConfig:
    return SearchConfig(policy=str(ladder / "star"), critic=str(ladder / "critic"),
                        reviser=str(ladder / "sft"), out=str(tmp_path / "search"), device="cpu",
                        levels=(1,), problems=6, samples=(1, 3), methods=search.METHODS,
                        max_step=8, shard=3)


def test_stage_resumes_by_shards_and_repeats_itself(tiny, tmp_path, monkeypatch):
    """A run that lost a shard draws only that one again, and ends as a whole one did."""
    result = search.run(tiny)
    files = sorted(p.name for p in (tmp_path / "search").iterdir())
    assert {"result.json", "tree.json", "search-chain-test-k1-0.json",
            "search-chain-test-k1-3.json"} <= set(files)
    held = {name: (tmp_path / "search" / name).read_bytes() for name in files}
    for name in ("result.json", "tree.json", "search-chain-test-k1-3.json"):
        (tmp_path / "search" / name).unlink()
    drawn, whole = [], search.search_shard
    monkeypatch.setattr(search, "search_shard", lambda *a: drawn.append(a[4]) or whole(*a))
    again = search.run(tiny)
    assert drawn == ["chain-test-k1 3"]
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    for name in set(files) - {"result.json", "manifest.json"}:            # they hold times
        assert (tmp_path / "search" / name).read_bytes() == held[name], name
    assert search.run(tiny) == json.loads((tmp_path / "search/result.json").read_text())
    with pytest.raises(UserError, match="another configuration"):
        search.run(dataclasses.replace(tiny, probe=2))
    rows = read_lines(tmp_path / "search" / "rows.jsonl")
    assert {f"{r['method']} {r['n']}" for r in rows if " - " in r["method"]} == {
        f"{m} - best_of_n {n}" for n in (1, 3) for m in (
            "majority", "critic_vote", *(m + v for m in search.METHODS for v in ("", "_vote")))}
    for row in rows:
        assert row["set"] == "chain-test-k1" and row["seed"] == 0
        if "unit" in row:
            assert row["tokens"] <= row["n"] * row["unit"]
    measured = {row["method"] for row in rows if "unit" in row}
    assert set(search.METHODS) < measured


def test_config_names_mistakes(tiny):
    with pytest.raises(UserError, match="greedy: must be one of beam"):
        dataclasses.replace(tiny, methods=("beam", "greedy"))
    with pytest.raises(UserError, match="must ascend"):
        dataclasses.replace(tiny, samples=(16, 4))
    with pytest.raises(UserError, match="sequential, withdraw need --reviser"):
        dataclasses.replace(tiny, reviser="")
    dataclasses.replace(tiny, reviser="", methods=("beam", "tree"))


def test_only_revisions_draw_from_the_reviser(tiny, tmp_path, monkeypatch):
    """The critic reads its rows without their withdrawn steps; every chain has its own shape."""
    asked, shapes = {}, []

    def spying(name, whole):
        def spy(stepper, shape, *arguments):
            asked.setdefault(name, []).append((stepper.policy, stepper.values))
            shapes.append(shape)
            return whole(stepper, shape, *arguments)
        monkeypatch.setattr(search, name, spy)

    for name in ("beam_search", "tree_search", "revise_search"):
        spying(name, getattr(search, name))
    search.run(dataclasses.replace(tiny, samples=(2,), shard=6, methods=("beam", "tree",
                                                                         *search.REVISIONS)))
    mended = checkpoint.load(tiny.reviser)[0].state_dict()
    for name, calls in asked.items():
        for policy, _ in calls:
            same = all(t.equal(mended[key]) for key, t in policy.state_dict().items())
            assert same == (name == "revise_search"), name
    assert [(s.chains, s.withdraw) for s in shapes[2:]] == [(4, False), (1, False), (4, True)]
    tokenizer = checkpoint.load(tiny.reviser)[1]
    rows = [tokenizer.encode("((2+3)*4)=<think>" + text) for text in (
        "2+3=6<wrong>2+3=5;", "2+3=5;", "2+3=5;5*4=21<wrong>")]
    read = asked["revise_search"][0][1]
    plain = asked["beam_search"][0][1](rows[1:2])[0]
    assert read(rows)[:2] == pytest.approx([plain] * 2, rel=1e-3, abs=0)   # fp32 logits near -30
    assert standing(tokenizer, rows[2]) == rows[1]


def record(correct: list[int], values: list[float], cells: dict, tokens: int = 10) -> dict:
    """A record of one problem; answers follow from correct: every wrong one is its own."""
    return {"answer": "7", "tokens": [tokens] * len(correct), "correct": correct, "values": values,
            "answers": ["7" if c else f"x{i}" for i, c in enumerate(correct)], "cells": cells}


def made_up(n: int = 200) -> list[dict]:
    """Even problems: any sample is right and valued 0.9. Odd: samples wrong, valued 0.2; the
    search at 2 samples' tokens is right and valued 0.9."""
    def cells(value, right, size):
        return {f"beam {size}": {"tokens": 10 * size, "correct": right, "voted": right,
                                 "value": value}}
    return [record([1] * 16, [0.9] * 16, cells(0.4, 0, 2)) if i % 2 == 0
            else record([0] * 16, [0.2] * 16, cells(0.9, 1, 2)) for i in range(n)]


def test_strategies_count_what_fits_and_average_over_subsets():
    records = [record([1, 0, 0, 0] * 2, [0.9, 0.5, 0.1, 0.2] * 2, {})]
    found = {f"{s.method} {s.n}": (s.correct[0], s.tokens[0])
             for s in compare.strategies_of(records, 10, [1, 2, 4], seed=0)}
    assert found["single 4"] == (0.25, 40) and found["coverage 2"] == (0.5, 20)
    assert found["best_of_n 1"] == (0.25, 10) and found["best_of_n 2"] == (0.5, 20)
    first = {s.method: (s.correct[0], s.tokens[0])
             for s in compare.strategies_of(records, 25, [1], 0, leading=True)}
    assert first["best_of_n"] == (1, 20) and first["single"] == (0.5, 20)   # the leading two
    broke = compare.strategies_of(records, 9, [1], 0, leading=True)
    assert {(s.correct[0], s.tokens[0]) for s in broke} == {(0, 0)}


def test_difficulty_is_measured_apart_and_predicted_by_values():
    """The oracle reads the second half, the prediction the first values of the first half."""
    hard = record([1, 1, 1, 1, 0, 0, 0, 0], [0.9, 0.9, 0.1, 0.1] * 2, {})
    easy = record([0, 0, 0, 0, 1, 1, 1, 1], [0.2, 0.2, 0.9, 0.9] * 2, {})
    predicted, known = compare.difficulty([hard, easy] * 5, probe=2)
    assert np.bincount(known[1::2]).argmax() == 0 and set(known[::2]) == {2, 3, 4}
    assert set(predicted[::2]) == {0, 1, 2} and set(predicted[1::2]) == {2, 3, 4}


def test_probe_is_paid_for_once_where_it_is_reused():
    made = [record([0] * 4, [0.1] * 4, {}, tokens=20)] * 2              # two probes: 40 tokens
    plain = [Strategy("majority", 4, np.ones(2), np.array([30.0, 90])),
             Strategy("beam_vote", 4, np.ones(2), np.array([50.0, 50]))]
    paid = compare.after_probe(plain, made, 2, ("beam", "tree"))
    assert [s.tokens.tolist() for s in paid] == [[40, 90], [90, 90]]
    assert plain[0].tokens.tolist() == [30, 90]


def test_bins_show_where_search_helps_and_hurts():
    strategies = compare.strategies_of(made_up(), 10, [1, 2, 4, 8], seed=0)
    rows = compare.difference_rows(strategies, np.arange(200) % 2)
    whole, easy, hard = [row for row in rows if row["method"] == "beam - best_of_n"]
    assert (whole["n"], whole["accuracy"], whole["problems"]) == (2, 0, 200)
    assert [row["accuracy"] for row in (easy, hard)] == [-1, 1]
    assert [(row["bin"], row["problems"]) for row in (easy, hard)] == [(0, 100), (1, 100)]
    assert (easy["method_accuracy"], easy["best_of_n_accuracy"]) == (0, 1)
    assert {row["n"] for row in rows} == {2}                            # where a search was run


def test_allocation_finds_the_known_optimum_and_pays_the_probe():
    report = {row["method"].removeprefix("allocation: "): row
              for row in compare.allocation_rows(made_up(), 10, [1, 2, 4, 8], probe=1, seed=0)}
    bins = report["predicted bins"]
    assert bins["reference_accuracy"] == 0.5 and bins["reference_tokens"] == 80
    assert bins["accuracy"] >= 0.5 and bins["tokens"] <= 10             # one sample is enough
    assert report["oracle bins"]["difference"] >= 0
    rule = report["samples, then beam"]
    assert rule["accuracy"] >= 0.5 and rule["tokens"] <= 20
    stop = report["sample until sure"]
    assert stop["difference"] == 0
    assert stop["factor"] == pytest.approx(80 / 45)      # 1 sample where sure, 8 where never so
    assert {name for of_fold in stop["chosen"] for name in of_fold} <= {
        f"sample until sure {i}" for i in range(len(compare.THRESHOLDS))}
    for entry in report.values():
        assert entry["factor_low"] <= entry["factor"] <= entry["factor_high"]


def test_tree_marks_and_choice_of_the_shown_tree():
    nodes = [{"state": "open"}, {"state": "complete", "right": True}]
    easy, hard, unsolved = made_up(2) + made_up(2)[1:]
    easy["tree"] = hard["tree"] = nodes
    easy["prompt"], hard["prompt"], unsolved["prompt"] = "easy", "hard", "unsolved"
    assert search.shown_tree([easy, unsolved, hard])["prompt"] == "hard"
    assert search.shown_tree([unsolved]) == {}
