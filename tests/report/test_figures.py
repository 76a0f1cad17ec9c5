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
    measured = {*testtime.METHODS, *testtime.OUTCOME, *compare.SAMPLED, *guided_search.METHODS}
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
