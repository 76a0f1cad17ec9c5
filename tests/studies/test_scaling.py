"""minireason scale: laws from measured points, the exchange at equal FLOPs, figures from a file."""

import json
from dataclasses import replace

import numpy as np
import pytest

from minireason.core.config import UserError, read_json
from minireason.measure.fits import inference_multiple
from minireason.studies import scaling as scale
from minireason.studies import scaling_figures as scale_figures
from minireason.studies import scaling_laws as scale_laws


def measured() -> dict:
    """Results of six sizes, two RL runs and two test-time runs, made from known laws."""
    points = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    cells = [{"index": i, "seed": s, "parameters": 30_000 * 2 ** i, "tokens": 1000,
              "flops": 6e3 * 30_000 * 2 ** i, "loss": 0.1 + 2.0 ** (-0.4 * i),
              "accuracy": {"chain-test-k1": {**points, "accuracy": 0.1 + 0.1 * i}}}
             for i in range(6) for s in (0, 1)]
    curve = [{"step": i, "generated_tokens": i, "flops": 1e9 * i,
              "eval/chain-validation-k8/sampled": 0.2 + 0.1 * np.log10(1 + i)} for i in range(9)]
    flat = {str(n): {**points, "tokens": 40.0 * n} for n in (1, 2, 4, 8)}
    run = {"curves": {"chain-test-k8": {"single": flat, "majority": flat}},
           "right": {"chain-test-k8": [[8, i % 9] for i in range(60)]}}
    rising = {n: {**p, "accuracy": 0.1 * np.log10(p["tokens"])} for n, p in flat.items()}
    return {"cells": cells, "exchange": [], "rl": [{"curve": curve}] * 2, "testtime": [run] * 2,
            "search": [{"curves": {"chain-test-k8": {"beam": rising, "revise": flat}}}]}


def test_laws_recover_what_the_points_were_made_of():
    fits = scale_laws.laws(measured())
    assert fits["pretrain loss"]["values"]["a"] == pytest.approx(0.4, rel=0.02)   # grid: 1.4%
    assert fits["pretrain accuracy"]["values"]["q"] == pytest.approx(0.1 / np.log10(2))
    assert fits["rl chain-validation-k8/sampled"]["n"] == 16     # the point before any compute: out
    slopes = [fits[f"rl chain-validation-k8/sampled{which}"]["values"]["q"]
              for which in ("", " own starts")]
    assert slopes[0] == pytest.approx(slopes[1])                 # equal runs
    assert fits["testtime chain-test-k8 majority"]["values"]["q"] == pytest.approx(0, abs=1e-9)
    assert fits["search chain-test-k8 beam"]["values"]["q"] == pytest.approx(0.1)
    assert fits["coverage chain-test-k8"]["n"] == 120
    assert scale_figures.slope(fits["search chain-test-k8 beam"]) == (
        "10.0 [10.0, 10.0] points a decade, R² = 1.00")


def test_exchange_spends_equal_flops_and_says_when_capped():
    small = {"index": 0, "seed": 0, "parameters": 100, "samples": {
        "chain-test-k1": [[[0] * 20 + [1] * 12, [1] * 20 + [0] * 12]] * 3}}
    large = {"index": 3, "seed": 0, "parameters": 1400,
             "samples": {"chain-test-k1": [[[0], [1]], [[1], [0]], [[0], [1]]]}}
    rows = scale.exchange(scale.SIZES["cpu"], [small, large])
    by_ratio = {row["R"]: row for row in rows}
    assert set(by_ratio) == set(scale.RATIOS)
    assert by_ratio[22.0]["samples"] == int(inference_multiple(14, 22.0)) == 15
    assert not by_ratio[22.0]["capped"] and by_ratio[0.16]["capped"]
    assert by_ratio[0.16]["samples"] == 32 and by_ratio[0.16]["small_vote"]["accuracy"] == 1
    assert by_ratio[22.0]["small_single"]["accuracy"] == pytest.approx(20 / 32)
    assert by_ratio[22.0]["large_greedy"]["accuracy"] == pytest.approx(2 / 3)


def test_figures_come_from_the_result_file_alone(tmp_path):
    result = measured()
    (tmp_path / "held").mkdir()
    (tmp_path / "held/result.json").write_text(json.dumps({**result, "fits": {}}))
    scale.run(scale.Config(source=str(tmp_path / "held"), out=str(tmp_path / "drawn")))
    assert read_json(tmp_path / "drawn/result.json")["fits"] == scale_laws.laws(result)
    assert {path.name for path in (tmp_path / "drawn").glob("*.png")} == {
        "pretrain-loss.png", "pretrain-accuracy.png", "rl-chain-validation-k8-sampled.png",
        "testtime-chain-test-k8.png", "search-chain-test-k8.png", "coverage-chain-test-k8.png"}
    assert scale_figures.said(scale_laws.laws(result)["pretrain loss"], "a").startswith("0.4")


def test_folders_without_curves_are_refused(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    for read in (scale_laws.read_rl, scale_laws.read_testtime, scale_laws.read_search):
        with pytest.raises(UserError, match="no finished"):
            read(tmp_path)
    with pytest.raises(UserError, match="--size huge"):
        scale.Config(size="huge")


def test_points_of_both_test_time_stages_have_one_shape(tmp_path):
    """A search's tokens are its own; votes among a search's answers stay out."""
    point = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    (tmp_path / "result.json").write_text(json.dumps({
        "curves": {"chain-test-k8": {"points": {"2": {"tokens": 80.0, "single": point}}}},
        "sets": {"chain-test-k8": {"curves": {
            method: {"2": {"mean": 0.5, "low": 0.4, "high": 0.6, "tokens": 70.0}}
            for method in ("tree", "tree_vote")}}}}))
    drawn, searched = scale_laws.read_testtime(tmp_path), scale_laws.read_search(tmp_path)
    assert drawn["curves"] == {"chain-test-k8": {"single": {"2": {**point, "tokens": 80.0}}}}
    assert searched["curves"]["chain-test-k8"].keys() == {"tree"}
    assert scale_laws.testtime_points([searched] * 2) == {
        ("chain-test-k8", "tree"): ([70.0] * 2, [0.5] * 2, [0, 1])}
    assert drawn["right"] == {"chain-test-k8": []}


def test_a_sweep_trains_every_size_on_the_same_tokens(tmp_path, monkeypatch):
    """No size stops early, however soon it is good: a pretraining target would end it."""
    tiny = replace(scale.SIZES["smoke"], steps=3, lines_per_step=4, n=2, problems=2, eval_n=2)
    monkeypatch.setitem(scale.SIZES, "smoke", tiny)
    cfg = scale.Config(size="smoke", out=str(tmp_path / "a"), device="cpu")
    result = scale.run(cfg)
    cells = result["cells"]
    assert len(cells) == 5 and len({cell["tokens"] for cell in cells}) == 1
    assert len({cell["parameters"] for cell in cells}) == 5
    for folder in (tmp_path / "a" / "cells").iterdir():
        assert read_json(folder / "config.json")["config"]["target"] == 0
    assert {row["set"] for row in result["exchange"]} == {"chain-test-k1", "chain-test-k2"}
    assert scale.run(cfg) == result
