"""The test-time stage: its rows are the estimators of its samples."""

import numpy as np
import pytest

from minireason.core.errors import UserError
from minireason.core.files import read_checked, read_lines
from minireason.measure.estimates import Pool, chance_coverage, mean_interval, paired_bootstrap
from minireason.measure.samples import load_pools
from minireason.stages import testtime


def read_records(folder, kind: str, name: str) -> list[dict]:
    """The samples of one set, shard by shard."""
    paths = folder.glob(f"{kind}-{name}-*.json")
    records = []
    for path in sorted(paths, key=lambda path: int(path.stem.rpartition("-")[2])):
        records += read_checked(path)
    return records


def test_rows_are_the_estimators_of_the_samples(ladder):
    """N = 1 is the mean for every method, coverage bounds all, differences are paired."""
    folder = ladder / "testtime"
    rows = read_lines(folder / "rows.jsonl")
    for name in ("chain-test-k1", "chain-test-k2"):
        at = {}                                               # {temperature: pools}
        for temperature, kind in ((1.0, "samples"), (0.7, "samples_t0.7")):
            at[temperature] = [Pool.of(record) for record in read_records(folder, kind, name)]
        single = np.array([pool.correct.mean() for pool in at[1.0]])
        mine = [row for row in rows if row["set"] == name]
        points = {(row["method"], row["n"]): row for row in mine if "tokens" in row}
        assert set(points) == {(m, n) for m in testtime.METHODS for n in (1, 2, 4)}
        for (_, n), row in points.items():
            assert row["problems"] == 6 and row["seed"] == 0
            pools = at[row["temperature"]]
            assert row["tokens"] == pytest.approx(n * np.mean([pool.tokens for pool in pools]))
            bound = np.mean([pool.accuracy("coverage", n, None) for pool in pools])
            assert row["accuracy"] <= bound + 1e-12
        for method in ("critic_best_of_n", "coverage"):
            pools = at[points[method, 1]["temperature"]]
            assert points[method, 1]["accuracy"] == pytest.approx(
                np.mean([pool.correct.mean() for pool in pools]), abs=1e-12)
        assert mean_interval(single).items() <= points["single", 4].items()
        pools = at[points["coverage", 4]["temperature"]]
        covered = np.array([float(pool.correct.any()) for pool in pools])
        assert points["coverage", 4]["accuracy"] == pytest.approx(covered.mean())
        pools = at[points["critic_best_of_n", 4]["temperature"]]
        best = np.array([pool.accuracy("best_of_n", 4, None) for pool in pools])
        (difference,) = [r for r in mine if r["method"] == "critic_best_of_n - single"]
        assert (difference["accuracy"], difference["low"], difference["high"]) == (
            paired_bootstrap(best, single))
        assert difference["n"] == 4
        kind = "samples" if points["coverage", 4]["temperature"] == 1 else "samples_t0.7"
        lucky = 1 - (1 - chance_coverage(read_records(folder, kind, name))) ** 4
        (chance,) = [row for row in mine if row["method"] == "chance" and row["n"] == 4]
        assert chance["accuracy"] == pytest.approx(lucky.mean())
        binned = [row for row in mine if row["method"] == "calibration"]
        assert sum(row["count"] for row in binned) == 6 * 4
        (greedy,) = [row for row in mine if row["method"] == "greedy"]
        assert greedy["n"] == 1 and 0 <= greedy["low"] <= greedy["accuracy"] <= greedy["high"] <= 1


def test_calibration_bins_hold_every_sample():
    records = [{"values": [0.0, 0.05, 0.95, 1.0], "correct": [0, 1, 1, 1]}]
    rows = testtime.calibration_rows(records)
    assert [(row["count"], row["accuracy"]) for row in rows] == [(2, 0.5), (2, 1.0)]
    assert [row["value"] for row in rows] == pytest.approx([0.025, 0.975])


def test_a_method_draws_at_the_temperature_that_does_best_on_validation():
    cfg = testtime.Config(policy="p", critic="c", tuning_n=2)

    def records(right: list[int], values: list[float]) -> list[dict]:
        answers = ["1" if good else str(7 + i) for i, good in enumerate(right)]
        return [{"correct": right, "answers": answers, "answer": "1", "values": values,
                 "tokens": [3] * len(right)}]

    tried = {0.5: records([1, 1], [0.1, 0.1]), 1.0: records([0, 1], [0.2, 0.9])}
    found = testtime.best_temperatures(cfg, tried)
    assert found == {"single": 1.0, "majority": 0.5, "critic_vote": 1.0, "critic_best_of_n": 1.0,
                     "coverage": 1.0}                     # the highest of equals; one at T = 1
    with pytest.raises(UserError, match="must hold 1"):
        testtime.Config(policy="p", critic="c", temperatures=(0.5,))


def test_flops_count_the_prompt_once_and_what_a_critic_reads_again():
    cfg = testtime.Config(policy="p", critic="c", n=2, temperatures=(1.0,))
    record = {"correct": [1, 0], "answers": ["1", "2"], "answer": "1", "values": [0.9, 0.1],
              "tokens": [4, 6]}
    rows = testtime.sample_rows(cfg, {1.0: [record]}, dict.fromkeys(testtime.METHODS, 1.0), 100,
                                7.0, np.array([1.0]))
    flops = {(row["method"], row["n"]): row["flops"] for row in rows if "flops" in row}
    assert flops["majority", 2] == 2 * 100 * (7 + 2 * 5)
    assert flops["critic_vote", 2] == 2 * 100 * (7 + 2 * 5 + 2 * (7 + 5))


def test_without_a_critic_votes_and_coverage_are_the_same(ladder, tmp_path):
    cfg = dict(policy=str(ladder / "star"), device="cpu", levels=(1,), problems=4, n=4, shard=2,
               temperatures=(1.0,))
    found = {}
    for name, critic in (("with", str(ladder / "critic")), ("without", "")):
        testtime.run(testtime.Config(critic=critic, out=str(tmp_path / name), **cfg))
        found[name] = read_lines(tmp_path / name / "rows.jsonl")
    assert {row["method"] for row in found["without"]} == {
        "greedy", "single", "majority", "coverage", "chance", "majority - single",
        "majority - greedy"}
    assert all(row in found["with"] for row in found["without"])
    pools = [load_pools(tmp_path / name / "pools.npz", "chain-test-k1", 1.0, "correct")
             for name in found]
    for a, b in zip(*pools, strict=True):
        assert all(np.array_equal(value, vars(b)[field]) for field, value in vars(a).items())
