"""The laws of measured points, and the rows of other runs that they are measured by."""

import json
from pathlib import Path

import numpy as np
import pytest

from minireason.core.errors import UserError
from minireason.measure.samples import save_pools
from minireason.studies import scaling, scaling_laws


def measured() -> dict:
    """A result of six sizes, two RL runs and two test-time runs, made from known laws."""
    points = {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    cells = [{"index": i, "seed": s, "parameters": 30_000 * 2 ** i, "tokens": 1000,
              "flops": 6e3 * 30_000 * 2 ** i, "loss": 0.1 + 2.0 ** (-0.4 * i),
              "accuracy": {"chain-test-k1": {**points, "accuracy": 0.1 + 0.1 * i}}}
             for i in range(6) for s in (0, 1)]
    rows = []
    for run in (0, 1):
        rows += [{"curve": "rl chain-validation-k8", "run": run, "method": "sampled",
                  "compute": 1e9 * i, "accuracy": 0.2 + 0.1 * np.log10(1 + i)}
                 for i in range(1, 9)]
        for n in (1, 2, 4, 8):
            row = {"run": run, "n": n, "tokens": 40.0 * n, "compute": 40.0 * n, **points}
            rows += [{"curve": "testtime chain-test-k8", "method": method, **row}
                     for method in ("single", "majority")]
            if run == 0:
                rising = {**row, "accuracy": 0.1 * np.log10(40.0 * n)}
                rows += [{"curve": "search chain-test-k8", "method": "revise", **row},
                         {"curve": "search chain-test-k8", "method": "beam", **rising}]
    return {"cells": cells, "exchange": [], "points": rows,
            "right": {"chain-test-k8": [[8, i % 9] for i in range(60)] * 2}}


def test_laws_recover_what_the_points_were_made_of():
    fits = scaling_laws.laws(measured())
    assert fits["pretrain loss"].values["a"] == pytest.approx(0.4, rel=1e-3)
    assert fits["pretrain accuracy"].values["q"] == pytest.approx(0.1 / np.log10(2))
    assert fits["rl chain-validation-k8 sampled"].n == 16
    slopes = [fits[f"rl chain-validation-k8 sampled{which}"].values["q"]
              for which in ("", " own starts")]
    assert slopes[0] == pytest.approx(slopes[1])                 # equal runs
    assert fits["testtime chain-test-k8 majority"].values["q"] == pytest.approx(0, abs=1e-9)
    assert fits["search chain-test-k8 beam"].values["q"] == pytest.approx(0.1)
    assert fits["coverage chain-test-k8"].n == 120
    assert scaling_laws.slope(fits["search chain-test-k8 beam"]) == (
        "10.0 [10.0, 10.0] points per decade, R² = 1.00")


def test_rows_of_other_runs_have_one_shape(tmp_path):
    """Only rows with a compute: no greedy answers, differences, allocations or first RL points."""
    folders = {}
    for kind, rows in {
            "rl": [{"method": "greedy", "accuracy": 0.9}, {"method": "sampled_before"},
                   {"method": "greedy", "flops": 0.0, "step": 0, "accuracy": 0.1},
                   {"method": "greedy", "flops": 1e9, "step": 9, "accuracy": 0.2}],
            "testtime": [{"method": "greedy", "accuracy": 0.9}, {"method": "majority - single"},
                         {"method": "majority", "n": 2, "tokens": 80.0, "accuracy": 0.5}],
            "search": [{"method": "tree", "n": 2, "tokens": 70.0, "accuracy": 0.5},
                       {"method": "tree_vote", "n": 2, "tokens": 70.0, "accuracy": 0.6},
                       {"method": "allocation: oracle", "tokens": 9.0}]}.items():
        folders[kind] = tmp_path / kind
        folders[kind].mkdir()
        (folders[kind] / "rows.jsonl").write_text(
            "".join(json.dumps({"set": "k8", **row}) + "\n" for row in rows))
    drawn = {"answers": ["7"] * 3, "tokens": [9] * 3, "values": [0.5] * 3}
    records = [{**drawn, "correct": [1, 0, 1]}, {**drawn, "correct": [0, 0, 0]}]
    save_pools(tmp_path / "testtime/pools.npz", {1.0: {"k8": records}}, {})
    found = scaling.read_runs({kind: (folder, folder) for kind, folder in folders.items()})
    assert [(r["curve"], r["run"], r["method"], r["compute"]) for r in found["points"]] == [
        ("rl k8", 0, "greedy", 1e9), ("rl k8", 1, "greedy", 1e9),
        ("testtime k8", 0, "majority", 80.0), ("testtime k8", 1, "majority", 80.0),
        ("search k8", 0, "tree", 70.0), ("search k8", 1, "tree", 70.0)]
    assert found["right"] == {"k8": [[3, 2], [3, 0]] * 2}


@pytest.mark.parametrize("kind", scaling.COMPUTE)
def test_folders_without_curves_are_refused(tmp_path, kind):
    (Path(tmp_path) / "rows.jsonl").write_text('{"set": "k8", "method": "greedy", "accuracy": 1}\n')
    with pytest.raises(UserError, match=f"no finished {kind} run"):
        scaling.read_runs({**dict.fromkeys(scaling.COMPUTE, ()), kind: (tmp_path,)})
