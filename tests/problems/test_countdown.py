"""Countdown: solver, streams of search and verifier against brute force; the experiment's parts."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch

from minireason.core.config import UserError, rng
from minireason.measure.estimates import pass_at_k
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import addition, chain, countdown, split_of
from minireason.problems.arithmetic import operations
from minireason.problems.countdown_solver import BUDGET, NEAR, chance, guided, moves, solve
from minireason.problems.frozen import load_frozen
from minireason.studies import stream_of_search as experiment
from minireason.studies import stream_of_search_curves as countdown_curves
from minireason.studies import stream_of_search_train as countdown_train
from minireason.studies.stream_of_search import Config as CountdownConfig
from minireason.studies.stream_of_search_train import ARMS, draw_lines, rows_per_step


def reachable(state: tuple[int, ...]) -> set[int]:
    """Every target, by trying every order and operation in rational arithmetic."""
    if len(state) == 1:
        return {state[0]}
    found = set()
    for a, b, *rest in permutations(state):
        for value in (a + b, a - b, a * b, Fraction(a, b) if b else Fraction(-1)):
            if value == int(value) and 0 <= value <= 99:
                found |= reachable((int(value), *rest))
    return found


def test_solver_agrees_with_brute_force():
    """Complete but for ways that need 0, x-x or x*1, which it leaves out on purpose."""
    for i in range(6):
        numbers = tuple(rng(i, "brute").integers(1, 21, 3).tolist())
        truth = reachable(numbers)
        for target in range(10, 100):
            path = solve(numbers, target)
            assert path is None or target in truth
            if path is None and target in truth:                 # only through a wasted number
                assert target in {v for n in range(1, 3) for part in permutations(numbers, n)
                                  for v in reachable(part)}


def test_chance_is_that_of_a_random_player():
    problem = countdown.sample(rng(3, "chance"), 3)
    numbers, target = countdown.given(problem)
    generator, hits, draws = rng(0, "play"), 0, 2000
    for _ in range(draws):
        state = numbers
        while len(state) > 1:
            choices = moves(state)
            state = choices[int(generator.integers(len(choices)))].after
        hits += state[0] == target
    p = chance(numbers, target)
    assert abs(hits / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5     # five standard deviations


@pytest.mark.parametrize("style, solved", [("sos", (0.4, 0.7)), ("guided", (0.85, 1))])
def test_streams_are_exact_bounded_and_only_some_solve(style, solved):
    """Of 400 in a longer run `sos` solves 0.59 and `guided` 0.96."""
    tokenizer, generator, found = Tokenizer.build(chain.TOKENS), rng(0, "streams"), []
    for _ in range(150):
        problem = countdown.sample(generator, 4)
        text = countdown.search_text(problem, generator, style)
        verdict = countdown.verify(problem, text)
        assert verdict.well_formed and all(verdict.marks) and verdict.correct == verdict.steps_valid
        thought = text.partition("</think>")[0].removeprefix("<think>")
        assert len(tokenizer.encode(thought)) <= BUDGET
        found.append(verdict.correct)
    assert solved[0] < np.mean(found) < solved[1]


def test_what_guided_search_takes_back_could_not_succeed():
    """And below one state it tries no move twice, compares what is near, and ends with the way."""
    generator = rng(1, "guided")
    for _ in range(60):
        numbers, target = countdown.given(countdown.sample(generator, 4))
        steps, path = guided(numbers, target, generator)
        way, moved, tried, compared = [numbers], [], set(), False
        for back, move in steps:
            if len(way[-1]) == 1 and not back:
                assert (abs(way[-1][0] - target),) == move.after and move.after[0] <= NEAR
                compared = True
                continue
            assert len(way[-1]) > 1 or compared or abs(way[-1][0] - target) > NEAR
            compared = False
            for state in way[len(way) - back:]:
                assert state != (target,) and (len(state) == 1 or solve(state, target) is None)
            way, moved = way[:len(way) - back], moved[:len(moved) - back]
            way, moved = [*way, move.after], [*moved, move]
            assert tuple(moved) not in tried
            tried.add(tuple(moved))
        assert path is None or (way[-1] == (target,) and [m.after for m in path] == way[1:])


def test_backtracking_is_checked_against_the_state_gone_back_to():
    problem = countdown.read("3,7,18,2>46")
    right = ("18-3=15,7,2", "15+7=22,2", "<wrong>15*2=30,7", "<wrong>3,7,18,2:7-3=4,18,2")
    assert countdown.check_steps(problem, right) == [True] * 4
    for i, wrong in ((2, "15*2=30,7"), (2, "<wrong>22*2=44"), (3, "<wrong>7-3=4,18,2"),
                     (3, "<wrong>3,7,19,2:7-3=4,19,2"), (1, "15+7=22"), (1, "15+7=23,2"),
                     (1, "15+2=17,2"), (0, "18-3=15,7,2,1"), (0, "18-4=14,7,2")):
        marks = countdown.check_steps(problem, (*right[:i], wrong))
        assert marks == [True] * i + [False], wrong
    undone = ("18-3=15,7,2", "15+7=22,2", "22+2=24", "<wrong><wrong>15*2=30,7",
              "<wrong><wrong>7-3=4,18,2", "<wrong>18+2=20,3,7")
    assert countdown.check_steps(problem, undone) == [True] * 6
    for i, wrong in ((3, "<wrong>15*2=30,7"), (4, "<wrong>7-3=4,18,2"),
                     (3, "<wrong>" * 4 + "7-3=4,18,2"),
                     (5, "<wrong><wrong>18+2=20,3,7"), (0, "<wrong>18-3=15,7,2")):
        assert countdown.check_steps(problem, (*undone[:i], wrong))[-1] is False, wrong
    near = ("18-3=15,7,2", "15*2=30,7", "30+7=37")
    for step, fine in (("46-37=9", True), ("46-37=8", False), ("37-46=9", False),
                       ("46-36=10", False), ("46+37=83", False), ("46+37=9", False),
                       ("37-37=0", False), ("<wrong>46-37=9", False)):
        assert countdown.check_steps(problem, (*near, step))[-1] is fine, step
    on = (*near, "46-37=9", "<wrong><wrong>15+7=22,2")
    assert countdown.check_steps(problem, on) == [True] * 5
    after = countdown.check_steps(problem, ("18-3=16,7,2", "16+7=23,2"))   # counted once
    assert after == [False, True]


@pytest.mark.parametrize("text", [
    "(3+7)+(18+2)", "((18*2)+7)+3", "46", "(18*2)+(7+3)+0", "18*2+7+3", "((18*2)+(7+3))",
    "(18*2)+(7+4)", "(18*2)+10", "(18*2)+(7--3)", "(18**2)+(7+3)", "(18*2)+(07+3)", "__import__",
    "(18*2)+(7+3) ", "(18*2)+(7+3.0)", "(36*1)+(7+3)", "(", ""])
def test_only_the_exact_expression_solves(text):
    problem = countdown.read("3,7,18,2>46")
    assert countdown.self_check(problem, "(18*2)+(7+3)")
    assert countdown.self_check(problem, "(7+3)+(18*2)")
    assert countdown.self_check(problem, text) == (text == "((18*2)+7)+3")


def test_values_outside_0_to_99_or_not_whole_do_not_count():
    problem = dataclasses.replace(countdown.read("3,7,18,2>46"), prompt="20,7,94>46=")
    assert not countdown.self_check(problem, "(20*7)-94")            # passes through 140
    assert operations("(20*7)-94")[0][0][3] is None and operations("7/2")[0][0][3] is None


def test_held_out_numbers_and_targets_stay_held_out():
    generator = rng(0, "held out")
    drawn = [countdown.sample(generator, 3 + i % 2) for i in range(300)]
    assert not {countdown.given(p)[1] for p in drawn} & countdown.HELD_OUT
    for problem in load_frozen("countdown-targets-n4")[:60]:
        assert countdown.given(problem)[1] in countdown.HELD_OUT
    by_numbers = {}
    for problem in drawn:                                        # one split, whatever the target
        numbers = problem.key.partition(">")[0]
        split, other = split_of(problem), replace(problem, key=f"{numbers}>99")
        assert by_numbers.setdefault(numbers, split) == split == split_of(other)


# ---- the experiment -----------------------------------------------------------------------------

def test_arms_see_equal_problems_and_equal_tokens():
    tokenizer, recipe = Tokenizer.build(chain.TOKENS), experiment.SIZES["smoke"]
    sos, paths = (draw_lines(0.8, arm, 0, 5, 12) for arm in ("sos", "optimal_examples"))
    assert sos[0] == paths[0] and sos[1] != paths[1]
    assert all("<wrong>" not in text for text in paths[1])
    counts = {arm: rows_per_step(recipe, 0.8, tokenizer, arm) for arm in ARMS}
    assert counts["sos"] == counts["optimal_examples"] < counts["optimal_tokens"]
    for arm in ("sos", "guided", "optimal_tokens"):
        tokens = sum(map(len, tokenizer.encode_batch([p + c for p, c in zip(
            *draw_lines(0.8, arm, 1, 0, 60 * counts[arm]), strict=True)])))
        assert tokens == pytest.approx(60 * recipe.tokens_per_step, rel=0.15)   # rows are whole


def test_vote_and_self_check_of_many_right_answers():
    """Two different right expressions share one problem: both count, and so does their vote."""
    record = {"answers": [0, 1, 1, -1], "correct": [1, 1, 1, 0], "scores": [0.1, 0.2, 0.3, 0.9],
              "tokens": [9] * 4, "chance": 0.25}
    score = {m: countdown_curves.per_problem(record, 4, m, 0, 0) for m in countdown_curves.METHODS}
    assert score == {"single": 0.75, "majority": 1.0, "likelihood": 0.0, "self_check": 1.0}
    assert countdown_curves.per_problem(record, 2, "self_check", 0, 0) == pass_at_k(4, 3, 2)
    points = countdown_curves.curve([record, {**record, "chance": 0.5}], seed=0)
    assert [p["n"] for p in points] == [1, 2, 4] and points[1]["tokens"] == 18
    assert points[1]["random"]["accuracy"] == pytest.approx((1 - 0.75 ** 2 + 1 - 0.5 ** 2) / 2)


def test_smoke_runs_resumes_and_is_the_same(tmp_path, monkeypatch):
    recipe = dataclasses.replace(experiment.SIZES["smoke"], eval_n=2, coverage_n=2, save_every=1)
    monkeypatch.setitem(experiment.SIZES, "smoke", recipe)
    cfg = CountdownConfig(out=str(tmp_path / "a"), size="smoke", arms=("sos",), device="cpu")
    whole, steps = countdown_train.train_step, []

    def dies(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(countdown_train, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(cfg)
    result = experiment.run(cfg)                                 # from step 2, not from the start
    assert len(steps) == 3 + recipe.steps - 2
    other = experiment.run(dataclasses.replace(cfg, out=str(tmp_path / "b")))
    one, two = ({k: v for k, v in r["cells"][0].items() if k != "seconds"} for r in (result, other))
    assert one == two
    text = (tmp_path / "a/table.md").read_text()
    assert re.search(r"\| sos \| 0 \| .* \| 0\.0 \[", text) and "random" in text
    assert json.loads((tmp_path / "a/result.json").read_text()) == result == experiment.run(cfg)
    experiment.run(CountdownConfig(source=str(tmp_path / "a"), out=str(tmp_path / "drawn")))
    assert ((tmp_path / "drawn/coverage.png").read_bytes()
            == (tmp_path / "a/coverage.png").read_bytes())       # from result.json alone
    with pytest.raises(UserError, match="--size huge"):
        CountdownConfig(size="huge")


def test_arms_start_from_a_policy_and_rl_goes_on_from_an_arm(ladder, tmp_path, monkeypatch):
    recipe = dataclasses.replace(experiment.SIZES["smoke"], eval_n=2, coverage_n=2, steps=1, n=2)
    monkeypatch.setitem(experiment.SIZES, "smoke", recipe)
    star, tokenizer = str(ladder / "star"), Tokenizer.build(chain.TOKENS)
    model = countdown_train.start(recipe, star, tokenizer, 0, torch.device("cpu"))
    parent, _ = checkpoint.load(star, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parent.parameters(),
                                                 strict=True))
    assert model.config.max_len == recipe.max_len != parent.config.max_len
    with pytest.raises(UserError, match="its tokenizer is not countdown's"):
        countdown_train.start(recipe, star, Tokenizer.build(addition.TOKENS), 0,
                              torch.device("cpu"))
    shutil.copytree(star, tmp_path / "s0")
    result = experiment.run(CountdownConfig(
        out=str(tmp_path / "a"), size="smoke", init=str(tmp_path / "s{seed}"),
        arms=("optimal_tokens", "guided"), rl=("guided",), device="cpu"))
    assert [c["arm"] for c in result["cells"]] == ["optimal_tokens", "guided", "guided+rl"]
    own = json.loads((tmp_path / "a/cells/guided-s0/config.json").read_text())
    assert own["config"]["init"] == str(tmp_path / "s0")            # "{seed}" stood for it
    assert result["cells"][2]["train_rewards"] and (tmp_path / "a/coverage.png").exists()
    with pytest.raises(UserError, match="--rl: only the --arms"):
        CountdownConfig(arms=("sos",), rl=("guided",))


def test_summary_has_a_row_an_arm_and_the_margin_of_search_traces():
    def made(arm, seed, level):
        point = {"accuracy": level, "low": level - 0.1, "high": level + 0.1, "n": 100}
        return {"arm": arm, "seed": seed, "accuracy": {"countdown-test-n4": point},
                "train_tokens": 2e6, "train_examples": 1234, "parameters": 5e5,
                "curves": {"countdown-test-n4": [{"n": 1, "random": {"accuracy": 0.03}}]}}

    text = countdown_curves.summary([made("guided", 0, 0.5), made("optimal_tokens", 0, 0.3),
                                     made("guided+rl", 0, 0.6), made("guided", 1, 0.7),
                                     made("optimal_tokens", 1, 0.3)])
    assert "| guided | 0, 1 | 2.00M | 1,234 | 60.0 [50, 70] (50 to 70) |" in text
    bound = 100 * (0.2 - 1.96 * (0.5 * 0.5 / 100 + 0.3 * 0.7 / 100) ** 0.5)
    assert f"any seed) | | | | +30.0 ({bound:+.1f}) |" in text
    assert text.count("optimal_tokens, points") == 1                # RL is not at equal tokens


def test_figure_has_a_line_a_seed_and_the_random_policy():
    def cell(arm, seed, level):
        point = {"accuracy": level, "low": level - 0.1, "high": level + 0.1, "n": 500}
        return {"arm": arm, "seed": seed, "accuracy": {"countdown-test-n4": point},
                "curves": {"countdown-test-n4": [
                    {"n": n, "self_check": point, "random": {"accuracy": 0.03 * n}}
                    for n in (1, 2, 4)]}}

    figure = countdown_curves.coverage([cell(arm, seed, 0.2 + 0.2 * i + 0.1 * seed)
                                        for seed in (0, 1) for i, arm in enumerate(
                                            ("sos", "optimal_tokens", "sos+rl"))])
    (axes,) = figure.axes
    lines = {tuple(line.get_ydata().round(6)) for line in axes.lines}
    assert {(y,) * 3 for y in (20, 40, 60, 30, 50, 70)} <= lines and (3, 6, 12) in lines
    assert {(y,) for y in (20, 40, 60, 30, 50, 70)} <= lines      # greedy, beside its own arm's
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["Stream of Search", "Stream of Search, then RL",
                             "optimal paths, equal tokens", "random policy, exact"]
