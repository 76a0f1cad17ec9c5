"""One pivot: what meets in a cell, over seeds and for a single run."""

import pytest

from minireason.report import tables


def row(method: str, accuracy: float, **fields: object) -> dict:
    """A row with an interval of a tenth on both sides."""
    return {"set": "chain-test-k7", "method": method, "accuracy": accuracy,
            "low": accuracy - 0.1, "high": accuracy + 0.1, **fields}


def test_a_cell_is_the_mean_its_interval_and_the_range_over_seeds():
    seeds = [row("beam", 0.5), row("beam", 0.7)]
    assert tables.accuracy_text(seeds) == "60.0 [50, 70] (50 to 70)"
    assert tables.accuracy_text(seeds[:1], digits=1) == "50.0 [40.0, 60.0]"
    assert tables.accuracy_text([row("a - b", 0.021), row("a - b", 0.041)]) == "+3.1 [-6.9, +13.1]"
    assert tables.accuracy_text([{"method": "kept", "count": 1200}]) == "1200"
    assert tables.accuracy_text([{"accuracy": 0.912}]) == "91.2"


def test_pivot_keeps_order_and_leaves_empty_what_was_not_measured():
    rows = [row("beam_vote", 0.5, n=4), row("single", 0.3, n=16, temperature=1.0)]
    table = tables.pivot(rows, "method", "n", "accuracy (%)")
    assert tables.markdown(table) == ("| accuracy (%) | 4 samples | 16 samples |\n|---|---|---|\n"
                                "| beam search, vote | 50.0 [40, 60] |  |\n"
                                "| single sample, T = 1 |  | 30.0 [20, 40] |")
    named = tables.pivot(rows, "set", "method", names={"absent": "A", "single": "S"})
    assert named == [["set", "A", "S"], ["level 7", "", "30.0 [20, 40]"]]


def test_differences_give_the_lowest_bound_of_any_seed():
    rows = [row("majority - single", value, n=64, problems=500, seed=seed, stage="testtime")
            for seed, value in enumerate((0.2, 0.3))]
    runs = [{"testtime": {"rows": [r]}} for r in rows]
    table = tables.differences(runs, "testtime", "chain-test-k7")
    assert table[0][0].startswith("level 7, N = 64, n = 500 problems")
    assert table[1:] == [["majority vote - single sample", "+25.0 [+15.0, +35.0]", "+10.0"]]


def test_methods_are_held_together_at_the_largest_equal_n():
    def run(stage: str, policy: str, counts: tuple[int, ...], methods: tuple[str, ...]) -> dict:
        rows = [row(method, 0.01 * n, n=n, policy=policy, stage=stage)
                for n in counts for method in methods]
        return {"stage": "testtime", "rows": rows}

    runs = [{"testtime": run("testtime", "STaR", (1, 8, 64), ("majority", "outcome_vote")),
             "rl_testtime": run("rl_testtime", "RL", (1, 8), ("majority",)),
             "testtime_deep": run("testtime_deep", "STaR", (8,), ("single",))}]
    (table,) = tables.by_policy(runs)
    assert table == [["level 7, N = 8, accuracy (%)", "STaR", "RL"],
                     ["majority vote", "8.0 [-2, 18]", "8.0 [-2, 18]"]]
    assert tables.by_policy([{"testtime": runs[0]["testtime"]}]) == []


@pytest.mark.parametrize("rows", [[], [{"set": "a", "method": "no number"}]])
def test_rows_without_numbers_give_an_empty_table(rows):
    assert tables.every_row({"rows": rows})[1:] == []
