"""Countdown with N samples: each method by hand, the table's margins, the figure's lines."""

import pytest

from minireason.measure.estimates import pass_at_k
from minireason.problems import countdown
from minireason.studies import stream_of_search_curves as curves


def cell(arm: str, seed: int, level: float, n: int = 100) -> dict:
    """One model, as accurate greedily as with self-checks."""
    point = {"accuracy": level, "low": level - 0.1, "high": level + 0.1, "n": n}
    return {"arm": arm, "seed": seed, "accuracy": {"countdown-test-n4": point},
            "train_tokens": 2e6, "train_examples": 1234, "parameters": 5e5,
            "curves": {"countdown-test-n4": [
                {"n": n, "self_check": point, "random": {"accuracy": 0.03 * n}}
                for n in (1, 2, 4)]}}


def test_what_is_kept_of_samples():
    """Equal expressions have equal numbers, however written; giving up is no answer."""
    problem = countdown.read("3,7,18,2>46")
    texts = ["</think>(18*2)+(7+3)<eos>", "</think>(3+7)+(2*18)<eos>", "</think>18+7<eos>",
             "</think>((18*2)+7)+3<eos>", "<think>7-3=4,18,2</think><wrong><eos>", "nothing"]
    kept = curves.verdicts(problem, texts)
    assert kept["answers"] == [0, 0, 1, 2, -1, -1] and kept["correct"] == [1, 1, 0, 1, 0, 0]


def test_vote_and_self_check_of_many_right_answers():
    """Two different right expressions share one problem: both count, and so does their vote."""
    record = {"answers": [0, 1, 1, -1], "correct": [1, 1, 1, 0], "scores": [0.1, 0.2, 0.3, 0.9],
              "tokens": [9] * 4, "chance": 0.25}
    points = curves.curve([record, {**record, "chance": 0.5}], seed=0)
    score = {method: points[-1][method]["accuracy"] for method in curves.METHODS}
    assert score == {"single": 0.75, "majority": 1.0, "likelihood": 0.0, "self_check": 1.0}
    assert points[1]["self_check"]["accuracy"] == pass_at_k(4, 3, 2)
    assert [p["n"] for p in points] == [1, 2, 4] and points[1]["tokens"] == 18
    assert points[1]["random"]["accuracy"] == pytest.approx((1 - 0.75 ** 2 + 1 - 0.5 ** 2) / 2)


def test_the_table_has_a_row_per_arm_and_the_margin_of_search_traces():
    text = curves.greedy_table([
        cell("guided", 0, 0.5), cell("optimal_tokens", 0, 0.3), cell("guided+rl", 0, 0.6),
        cell("guided", 1, 0.7), cell("optimal_tokens", 1, 0.3)])
    assert "| guided | 0, 1 | 2.00M | 1,234 | 60.0 [50, 70] (50 to 70) |" in text
    bound = 100 * (0.2 - 1.96 * (0.5 * 0.5 / 100 + 0.3 * 0.7 / 100) ** 0.5)
    assert f"any seed) |  |  |  | +30.0 ({bound:+.1f}) |" in text
    assert text.count("optimal_tokens, points") == 1                # RL is not at equal tokens
    assert "points" not in curves.greedy_table([cell("guided", 0, 0.5)])    # nothing to compare


def test_figure_has_a_line_per_seed_and_the_random_policy():
    cells = []
    for seed in (0, 1):
        for i, arm in enumerate(("sos", "optimal_tokens", "sos+rl")):
            cells.append(cell(arm, seed, 0.2 + 0.2 * i + 0.1 * seed, 500))
    (axes,), (legend,) = (figure := curves.coverage(cells)).axes, figure.legends
    lines = {tuple(line.get_ydata().round(6)) for line in axes.lines}
    assert {(y,) * 3 for y in (20, 40, 60, 30, 50, 70)} <= lines and (3, 6, 12) in lines
    assert {(y,) for y in (20, 40, 60, 30, 50, 70)} <= lines      # greedy, beside its own arm's
    assert sorted(text.get_text() for text in legend.get_texts()) == [
        "Stream of Search", "Stream of Search, then RL", "optimal paths, equal tokens",
        "random policy, exact"]
