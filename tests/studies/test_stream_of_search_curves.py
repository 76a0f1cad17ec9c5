"""Countdown at equal training and at equal inference tokens: rows by hand, the figure's lines."""

import numpy as np
import pytest

from minireason.measure.estimates import pass_at_k
from minireason.problems import countdown
from minireason.report.runs import select
from minireason.studies import stream_of_search_curves as curves

NAME = "countdown-targets-n4"


def cell(arm: str, seed: int, digits: str, tokens: float = 200.0, n: int = 4) -> dict:
    """One model, each of whose problems is solved greedily and by all samples, or by none."""
    right = "".join(f"{n * int(digit)} " for digit in digits)
    votes = "".join(f"{100 * int(digit)} " for digit in digits)
    greedy = {"method": "greedy", "set": NAME, "n": 1, "tokens": tokens / 2, "digits": digits,
              "accuracy": digits.count("1") / len(digits), "low": 0.0, "high": 1.0,
              "problems": len(digits)}
    return {"arm": arm, "seed": seed, "train_tokens": 2e6, "train_examples": 1234,
            "parameters": 5e5, "greedy": {NAME: greedy},
            "samples": {NAME: {"n": n, "tokens": tokens, "right": right, "majority":
                               {str(budget): votes for budget in curves.BUDGETS}}}}


def test_what_is_kept_of_samples(monkeypatch):
    """Equal expressions are one answer, however written; giving up has no vote; N by budget."""
    problem = countdown.read("3,7,18,2>46")
    texts = ["</think>(18*2)+(7+3)<eos>", "</think>(3+7)+(2*18)<eos>", "</think>18+7<eos>",
             "</think>((18*2)+7)+3<eos>", "<think>7-3=4,18,2</think><wrong><eos>", "nothing"]
    monkeypatch.setattr(curves, "completions", lambda *_: ([texts], 250.0))
    (kept,) = curves.sampled_verdicts(None, None, "sos", 0, 6, {NAME: [problem]}).values()
    assert kept["right"] == "3 " and kept["majority"]["4000"] == "100 "    # 2 of 4 votes
    assert 0 < int(kept["majority"]["250"]) < 100                # one sample: right 3 times in 6
    monkeypatch.setattr(curves, "completions", lambda *_: ([texts[2:3]], 31.0))
    (kept,) = curves.greedy_verdicts(None, None, "sos", {NAME: [problem]}).values()
    assert (kept["digits"], kept["accuracy"], kept["tokens"]) == ("0", 0.0, 31.0)


def test_self_check_is_coverage_and_budgets_buy_samples():
    samples = {"n": 4, "right": "3 0 1 "}
    assert curves.solved_within(samples, 2).tolist() == [pass_at_k(4, c, 2) for c in (3, 0, 1)]
    assert [curves.affordable(budget, 120.0, 8) for budget in (60, 250, 4000)] == [1, 2, 8]


def test_a_random_try_costs_the_tokens_of_an_optimal_path():
    chances, tokens = curves.random_tries(NAME)
    assert 35 < tokens < 50 and 0.02 < chances.mean() < 0.08
    row = curves.random_row(NAME, 100, 250)
    assert row["n"] == 250 // tokens
    assert row["accuracy"] == pytest.approx(np.mean(1 - (1 - chances[:100]) ** row["n"]))


def test_training_rows_pair_arms_by_seed_and_problem():
    """The margin's interval is of paired differences: 0 wide where every problem has the same."""
    rows = curves.training_rows([
        cell("guided", 0, "1110"), cell("optimal_tokens", 0, "1110"), cell("guided", 1, "1100"),
        cell("guided+rl", 0, "1111"), cell("optimal_tokens", 1, "1100"), cell("guided", 2, "1111")])
    (margin,) = [row for row in rows if row["method"] == "greedy - greedy"]
    assert margin["line"] == "guided - optimal_tokens, points"     # seed 2 has nothing to pair with
    assert (margin["accuracy"], margin["low"], margin["high"]) == (0, 0, 0)
    assert len(select(rows, line="guided: 2.00M tokens, 1,234 examples")) == 3
    (chance,) = select(rows, line="random, one try")
    assert chance["n"] == 1 and chance["set"] == NAME


def test_inference_rows_are_at_equal_tokens():
    cells = [cell("sos", 0, "1100", tokens=200), cell("optimal_tokens", 0, "1110", tokens=40, n=16)]
    rows = curves.inference_rows(cells, 250)
    for arm, n, accuracy in (("sos", 1, 0.5), ("optimal_tokens", 6, 0.75)):
        for method in ("majority", "self_check"):
            (row,) = select(rows, arm=arm, method=method)
            assert row["n"] == n and row["accuracy"] == accuracy
    assert {row["line"] for row in select(rows, arm="random")} == {"250 tokens, self-check: random"}


def test_figure_has_a_line_per_arm_its_greedy_star_and_the_random_policy():
    cells = []
    for seed in (0, 1):
        for arm, digits in (("sos", "1000"), ("optimal_tokens", "1100"), ("sos+rl", "1110")):
            cells.append(cell(arm, seed, digits))
    (axes,), (legend,) = (figure := curves.coverage(cells)).axes, figure.legends
    lines = {(tuple(line.get_xdata()), tuple(line.get_ydata().round(6))) for line in axes.lines}
    for y in (25, 50, 75):
        assert ((200, 400, 800), (y,) * 3) in lines and ((100,), (y,)) in lines
    assert sorted(text.get_text() for text in legend.get_texts()) == [
        "Stream of Search", "Stream of Search, then RL", "optimal paths, equal tokens",
        "random policy, exact"]


def test_table_has_both_comparisons(tmp_path):
    cells = [cell(arm, 0, "1100") for arm in ("sos", "optimal_tokens")]
    curves.write({"cells": cells, "command": "minireason countdown"}, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| sos: 2.00M tokens, 1,234 examples | 50.0 [" in text
    assert "| 1000 tokens, majority: optimal_tokens | 50.0 [" in text and ", N = 4 |" in text
    assert "4 new numbers, new target" in text and (tmp_path / "coverage.png").exists()
