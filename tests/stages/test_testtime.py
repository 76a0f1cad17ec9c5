"""The test-time stage: its rows are the estimators of its samples."""

import numpy as np
import pytest

from minireason.core.config import read_lines
from minireason.measure.estimates import Pool, mean_interval, paired_bootstrap
from minireason.measure.samples import read_records
from minireason.stages import testtime


def test_rows_are_the_estimators_of_the_samples(ladder):
    """N = 1 is the mean for every method, coverage bounds all, differences are paired."""
    folder = ladder / "testtime"
    rows = read_lines(folder / "rows.jsonl")
    for name in ("chain-test-k1", "chain-test-k2"):
        pools = [Pool.of(record) for record in read_records(folder, "samples", name)]
        single = np.array([pool.correct.mean() for pool in pools])
        mine = [row for row in rows if row["set"] == name]
        points = {(row["method"], row["n"]): row for row in mine if "tokens" in row}
        assert set(points) == {(m, n) for m in testtime.METHODS for n in (1, 2, 4)}
        for (_, n), row in points.items():
            assert row["problems"] == 6 and row["temperature"] == 1.0 and row["seed"] == 0
            assert row["tokens"] == pytest.approx(n * np.mean([pool.tokens for pool in pools]))
            assert row["accuracy"] <= points["coverage", n]["accuracy"] + 1e-12
        for method in ("critic_best_of_n", "coverage"):
            assert points[method, 1]["accuracy"] == pytest.approx(single.mean(), abs=1e-12)
        assert mean_interval(single).items() <= points["single", 4].items()
        covered = np.array([float(pool.correct.any()) for pool in pools])
        assert points["coverage", 4]["accuracy"] == pytest.approx(covered.mean())
        best = np.array([pool.accuracy("best_of_n", 4, None) for pool in pools])
        (difference,) = [r for r in mine if r["method"] == "critic_best_of_n - single"]
        assert (difference["accuracy"], difference["low"], difference["high"]) == (
            paired_bootstrap(best, single))
        assert difference["n"] == 4
        binned = [row for row in mine if row["method"] == "calibration"]
        assert sum(row["count"] for row in binned) == 6 * 4
        (greedy,) = [row for row in mine if row["method"] == "greedy"]
        assert greedy["n"] == 1 and 0 <= greedy["low"] <= greedy["accuracy"] <= greedy["high"] <= 1


def test_calibration_bins_hold_every_sample():
    records = [{"values": [0.0, 0.05, 0.95, 1.0], "correct": [0, 1, 1, 1]}]
    rows = testtime.calibration_rows(records)
    assert [(row["count"], row["accuracy"]) for row in rows] == [(2, 0.5), (2, 1.0)]
    assert [row["value"] for row in rows] == pytest.approx([0.025, 0.975])
