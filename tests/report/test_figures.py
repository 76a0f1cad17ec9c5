"""Every method that a stage measures is drawn, and a curve is the mean and range over seeds."""

import numpy as np

from minireason.report import figures, style
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
