"""minireason scale: the exchange at equal FLOPs, a sweep at equal tokens, figures from a file."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from test_scaling_laws import measured

from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.studies import scaling, scaling_laws
from minireason.studies.fits import inference_multiple


def test_exchange_spends_equal_flops_and_says_when_capped():
    def records(rows: list[list[int]], answers: list[list[str]]) -> dict:
        found = [{"answer": "7", "answers": given, "correct": row, "tokens": [9] * len(row)}
                 for row, given in zip(rows, answers, strict=True)]
        return {"samples": {"chain-test-k1": found}}

    small = {"index": 0, "seed": 0, "parameters": 100,
             **records([[1] * 20 + [0] * 12] * 3, [["7"] * 20 + ["8"] * 12] * 3)}
    large = {"index": 3, "seed": 0, "parameters": 1400,
             **records([[1], [0], [1]], [["7"], ["8"], ["7"]])}
    rows = scaling.exchange(replace(scaling.SIZES["cpu"], n=32), [small, large])
    by_ratio = {row["R"]: row for row in rows}
    assert set(by_ratio) == set(scaling.RATIOS)
    assert by_ratio[22.0]["samples"] == int(inference_multiple(14, 22.0)) == 15
    assert not by_ratio[22.0]["capped"] and by_ratio[0.16]["capped"]
    assert by_ratio[0.16]["samples"] == 32 and by_ratio[0.16]["small_vote"]["accuracy"] == 1
    assert by_ratio[22.0]["small_single"]["accuracy"] == pytest.approx(20 / 32)
    assert by_ratio[22.0]["large_greedy"]["accuracy"] == pytest.approx(2 / 3)


def test_figures_and_table_come_from_the_result_alone(tmp_path):
    result = measured()
    (tmp_path / "held").mkdir()
    held = {**result, "command": "minireason scale"}
    (tmp_path / "held/result.json").write_text(json.dumps(held))
    scaling.run(scaling.Config(source=str(tmp_path / "held"), out=str(tmp_path / "drawn")))
    fits = {name: asdict(fit) for name, fit in scaling_laws.laws(result).items()}
    assert read_json(tmp_path / "drawn/fits.json") == fits
    assert {path.name for path in (tmp_path / "drawn").glob("*.png")} == {
        "pretrain-loss.png", "pretrain-accuracy.png", "rl-chain-validation-k8-sampled.png",
        "testtime-chain-test-k8.png", "search-chain-test-k8.png", "coverage-chain-test-k8.png"}
    text = (tmp_path / "drawn/table.md").read_text()
    assert "- pretrain loss: E = " in text
    assert "| search chain-test-k8 beam | 4 | 10.0 [10.0, 10.0] points per decade, " in text
    assert text.endswith("Made by `minireason scale`.\n")


def test_a_sweep_trains_every_size_on_the_same_tokens(tmp_path, monkeypatch):
    smoke = scaling.SIZES["smoke"]
    tiny = replace(smoke, n=2, problems=2, training=replace(smoke.training, steps=3,
                                                            rows_per_step=4, eval_n=2))
    monkeypatch.setitem(scaling.SIZES, "smoke", tiny)
    cfg = scaling.Config(size="smoke", out=str(tmp_path / "a"), device="cpu")
    result = scaling.run(cfg)
    cells = result["cells"]
    assert len(cells) == 5 and len({cell["tokens"] for cell in cells}) == 1
    assert len({cell["parameters"] for cell in cells}) == 5
    assert {row["set"] for row in result["exchange"]} == {"chain-test-k1", "chain-test-k2"}
    assert scaling.run(cfg) == result == read_json(tmp_path / "a/result.json")


def test_bad_configuration_is_a_user_error():
    with pytest.raises(UserError, match="--size huge"):
        scaling.Config(size="huge")
    with pytest.raises(UserError, match="--seeds"):
        scaling.Config(seeds=())


def test_shares_of_problems_count_towards_an_interval():
    """An oracle's or a vote's expected share of a problem lies between 0 and 1."""
    records = [{"answer": "7", "answers": ["7", "8"], "correct": [1, 0], "tokens": [9, 9]}]
    model = {"seed": 0, "samples": {"chain-test-k1": records}}
    (row, *_) = scaling.exchange(replace(scaling.SIZES["cpu"], n=2), [
        {**model, "index": 0, "parameters": 1}, {**model, "index": 3, "parameters": 1}])
    assert row["samples"] == 1 and row["small_oracle"]["accuracy"] == 0.5
    assert row["small_oracle"]["low"] < np.float64(0.5) < row["small_oracle"]["high"]
