"""Every method that a stage measures is drawn, and a curve is the mean and range over seeds."""

from pathlib import Path

import numpy as np
import pytest
from made_runs import add_limits, add_rl, made_run
from matplotlib.figure import Figure

from minireason.report import figures, figures_testtime, style
from minireason.report import runs as results
from minireason.search import compare
from minireason.stages import guided_search, testtime


def test_every_method_of_the_test_time_stages_is_drawn():
    measured = {*testtime.METHODS, *testtime.OUTCOME, *testtime.SELF_CHECK,
                *compare.SAMPLED, *guided_search.METHODS}
    assert set(style.METHODS) == measured
    assert set(style.SHOWN) == {*measured, "greedy", "chance"}
    assert set(style.SEARCHES) == set(guided_search.METHODS)


def test_a_point_shows_one_runs_interval_or_the_range_of_several():
    rows = [{"n": 1, "tokens": 40.0, "accuracy": 0.5, "low": 0.4, "high": 0.7},
            {"n": 2, "tokens": 80.0, "accuracy": 0.6}]
    x, spreads = figures.along(rows, "n", "tokens")
    assert x.tolist() == [40.0, 80.0]
    np.testing.assert_allclose(spreads, [(50, 40, 70), (60, 60, 60)])
    x, spreads = figures.along([*rows, {"n": 1, "tokens": 50.0, "accuracy": 0.7}], "n", "tokens")
    assert x.tolist() == [45.0, 80.0]
    np.testing.assert_allclose(spreads[0], (60, 50, 70))


def dashed(figure: Figure) -> dict[str, float]:
    """{label: height at the left end} of the dashed lines of a figure's first axes."""
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    return {line.get_label(): float(line.get_ydata()[0]) for line in lines}


@pytest.fixture
def limited(tmp_path) -> list[dict]:
    """A run whose pretraining text was written by fallible authors."""
    folder = made_run(tmp_path / "run")
    add_rl(folder)
    add_limits(folder)
    return [results.load_run(folder)]


def test_every_curve_shows_what_its_teachers_can_do(limited):
    name = "chain-test-k8"
    assert dashed(figures.ladder(limited)) == {"its teachers": 42}
    assert dashed(figures.by_round(limited, "star", "round"))["its teachers"] == 42
    assert dashed(figures.rl_curve(limited)) == {"its teachers, one sample": 31,
                                                 "its teachers, greedy": 42}
    assert dashed(figures.pretraining(limited)) == {"entropy of the text": 0.9}
    assert figures_testtime.climb(limited, name).axes[0].get_title() == (
        "dashed: its teachers, greedy")
    for axis in ("n", "tokens", "flops"):
        drawn = dashed(figures_testtime.methods_curve(limited, name, axis, "testtime"))
        assert drawn["its teachers, one sample"] == 31
        assert drawn["its teachers, majority vote"] == 43


def test_without_authors_no_limit_is_drawn(tmp_path):
    folder = made_run(tmp_path / "run")
    add_rl(folder)
    runs = [results.load_run(folder)]
    for figure in (figures.ladder(runs), figures.by_round(runs, "star", "round"),
                   figures.rl_curve(runs), figures.pretraining(runs)):
        assert dashed(figure) == {}


def test_greedy_and_random_answers_stand_in_every_figure_of_votes(limited):
    figure = figures_testtime.methods_curve(limited, "chain-test-k8", "n", "testtime")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["greedy"].get_ydata(), 55)
    x, y = lines["random answers"].get_data()
    np.testing.assert_allclose(x, [1, 2, 4, 8])
    np.testing.assert_allclose(y, [2, 4, 8, 16])


def test_the_committed_range_is_shaded(tmp_path):
    runs = [results.load_run(made_run(Path(tmp_path) / "run", stages=2))]
    band = {"rungs": {"SFT": {"chain-test-k1": [0.7, 0.9, 0.8], "chain-test-k2": [0.6, 0.6, 0.7]}}}
    assert len(figures.ladder(runs).axes[0].collections) + 1 == len(
        figures.ladder(runs, band).axes[0].collections)


SOUND = {"accuracy": 0.6, "share_cut": 0.01, "share_silent": 0.3, "entropy": 0.1,
         "length_right": 40.0, "length_wrong": 50.0}


def metrics_of(**last: float) -> list[dict]:
    """Metrics of 40 steps; in the second half some keys have other values."""
    steps = [SOUND] * 20 + [{**SOUND, **last}] * 20
    return [{f"train/{key}": value for key, value in step.items()} for step in steps]


def test_a_sound_run_has_numbers_and_no_warning():
    signs = figures.signs_of(metrics_of())
    assert [advice for _, advice in signs] == [""] * 4
    assert [number for number, _ in signs] == [
        "completions cut at max_new (%): 1 at first, 1 at the end",
        "groups without signal (%): 30 at first, 30 at the end",
        "entropy (nats per completion): 4.4 at first, 4.4 at the end",
        "length (tokens): 44 at first, 44 at the end"]


@pytest.mark.parametrize("sign, last, words", [
    (0, {"share_cut": 0.06}, "lower --lr"),
    (1, {"share_silent": 0.8}, "equally right: raise --min-level"),
    (1, {"share_silent": 0.8, "accuracy": 0.1}, "equally wrong: lower --max-level"),
    (2, {"entropy": 0.01}, "raise --clip-high"),
    (3, {"length_right": 70.0, "length_wrong": 80.0}, "--aggregation token")])
def test_each_sign_says_what_to_do(sign, last, words):
    signs = figures.signs_of(metrics_of(**last))
    assert words in signs[sign][1]
    assert [bool(advice) for _, advice in signs] == [number == sign for number in range(4)]


def test_little_entropy_is_no_loss_where_all_is_solved():
    assert figures.signs_of(metrics_of(entropy=0.001, accuracy=0.97))[2][1] == ""


def test_what_was_not_measured_is_left_out():
    assert figures.signs_of([]) == []
    old = [{key: value for key, value in line.items() if key != "train/share_cut"}
           for line in metrics_of()]
    assert len(figures.signs_of(old)) == 3
    never = [{key: value for key, value in line.items() if key != "train/length_right"}
             for line in metrics_of(accuracy=0.0)]
    assert figures.signs_of(never)[3][0] == "length (tokens): 50 at first, 50 at the end"
