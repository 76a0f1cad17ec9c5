"""Fits recover known truths within their intervals; equal FLOPs agree with hand arithmetic."""

import sys

import numpy as np
import pytest

from minireason.core.errors import UserError
from minireason.studies import fits, laws

SIZES = np.geomspace(3e4, 3e7, 7).repeat(3)              # seven sizes, three seeds each


def within(fit, truth: dict[str, float]) -> bool:
    return all(fit.low[name] <= value <= fit.high[name] for name, value in truth.items())


def test_power_law_without_noise_is_exact(monkeypatch):
    monkeypatch.setattr(fits, "DRAWS", 50)
    truth = {"E": 0.4, "A": 0.7, "a": 0.35}
    scale = np.exp(np.log(SIZES).mean())
    fit = fits.power_law(SIZES, 0.4 + 0.7 * (SIZES / scale) ** -0.35)
    for name, value in truth.items():
        assert fit.values[name] == pytest.approx(value, rel=1e-4)
    assert fit.r2 > 0.9999 and fit.n == 21 and fit.values["N0"] == pytest.approx(scale)


@pytest.mark.parametrize(("sets", "least"), [
    (20, 14), pytest.param(40, 30, marks=pytest.mark.long)])
def test_power_law_covers_the_truth_at_its_rate(monkeypatch, sets, least):
    """95% intervals hold the exponent in most of 40 noisy data sets; 30 allows 4 sigma of 40."""
    monkeypatch.setattr(fits, "DRAWS", 5 * sets)
    scale = np.exp(np.log(SIZES).mean())
    clean = 0.4 + 0.7 * (SIZES / scale) ** -0.35
    hits = 0
    for seed in range(sets):
        noisy = clean + np.random.default_rng(seed).normal(0, 0.02, len(SIZES))
        fit = fits.power_law(SIZES, noisy)
        hits += within(fit, {"a": 0.35})
        assert fit.low["a"] <= fit.values["a"] <= fit.high["a"] and fit.values["E"] >= 0
    assert least <= hits


def test_power_law_without_offset_stays_at_zero(monkeypatch):
    monkeypatch.setattr(fits, "DRAWS", 50)
    fit = fits.power_law(SIZES, 2.0 * (SIZES / 1e6) ** -0.5)
    assert fit.values["E"] == pytest.approx(0, abs=1e-3) and fit.low["E"] >= 0
    assert fit.values["a"] == pytest.approx(0.5, rel=1e-3)


def test_log_linear_is_ordinary_least_squares():
    x = np.array([1.0, 10, 100, 1000, 1e4])
    y = np.array([0.1, 0.22, 0.29, 0.41, 0.5])
    fit = fits.log_linear(x, y)
    q, p = np.polyfit(np.log10(x), y, 1)
    assert (fit.values["p"], fit.values["q"]) == pytest.approx((p, q), rel=1e-9)
    assert fit.r2 == pytest.approx(np.corrcoef(np.log10(x), y)[0, 1] ** 2, rel=1e-9)
    assert fit.low["q"] < q < fit.high["q"] < 0.13
    assert fits.log_linear(x, np.full(5, 0.3)).r2 == 0            # constant: nothing explained


def test_log_linear_covers_the_truth_at_its_rate(monkeypatch):
    """54 of 60 are expected of a residual bootstrap with n = 9 (90%); 45 is 4 sigma below."""
    monkeypatch.setattr(fits, "DRAWS", 200)
    x, hits = np.geomspace(1, 1e4, 9), 0
    for seed in range(60):
        noisy = 0.1 + 0.1 * np.log10(x) + np.random.default_rng(seed).normal(0, 0.03, 9)
        hits += within(fits.log_linear(x, noisy), {"q": 0.1})
    assert 45 <= hits


TRUTHS = {                        # law: (parameters, x)
    laws.LINEAR: ((0.2, 1e-3), np.geomspace(1, 500, 8)),
    laws.LOG_LINEAR: ((0.1, 0.12), np.geomspace(1, 500, 8)),
    laws.SATURATING: ((0.2, 0.95, 3e11, 1.5), np.geomspace(1e10, 1e13, 8)),
    laws.POWER: ((3e4, 0.45), np.geomspace(1e10, 1e13, 8)),
    laws.SIZES: ((0.02, 0.6, 0.05, 0.9), np.array([(n, d) for n in (0.03, 0.1, 0.5, 2.0)
                                                   for d in (0.1, 0.4, 1.6)])),
    laws.COVERAGE: ((-1.33, -0.43), 2.0 ** np.arange(11)),      # Llama-3-8B on MATH (Brown 2024)
    laws.BETA: ((0.3, 2.0), 2.0 ** np.arange(11))}


@pytest.mark.parametrize("law", TRUTHS, ids=lambda law: "-".join(law.names))
def test_a_law_without_noise_is_found_and_foretells_what_it_has_not_seen(law):
    truth, x = TRUTHS[law]
    x, run = np.concatenate([x] * 2), np.repeat([0, 1], len(x))
    level = np.tile(np.arange(len(x) // 2), 2)
    fit = fits.over_runs(law, x, law.predict(x, *truth), run, level)
    assert list(fit.values.values()) == pytest.approx(truth, rel=2e-2)
    assert fit.r2 > 0.9999 and fit.held_out < 2e-3 and fit.beyond < 1e-2 and fit.n == len(x)


def test_beta_coverage_is_the_mean_over_problems():
    p = np.random.default_rng(0).beta(0.4, 1.5, 400_000)
    for k in (1, 7, 64):
        assert laws.beta_coverage(np.array([k]), 0.4, 1.5)[0] == pytest.approx(
            (1 - (1 - p) ** k).mean(), abs=3e-3)


def test_intervals_are_for_new_runs():
    """Three runs that differ as a whole: the slope's interval must hold the truth in about 95% of
    new triples (with the t widening 93 to 99%), which residuals as if independent do not."""
    generator, x, hits = np.random.default_rng(0), np.geomspace(1, 100, 6), 0
    every, run = np.tile(x, 3), np.repeat([0, 1, 2], 6)
    for _ in range(100):
        slopes = 0.1 + 0.03 * generator.standard_normal(3)
        fit = fits.over_runs(laws.LOG_LINEAR, every,
                             (slopes[:, None] * np.log10(x)).ravel(), run)
        hits += fit.low["q"] <= 0.1 <= fit.high["q"]
    assert 88 <= hits
    alone = fits.over_runs(laws.LOG_LINEAR, x, 0.1 * np.log10(x) + 0.2, np.zeros(6))
    assert alone.low == alone.high == alone.values and alone.text("q") == "0.1"
    many = fits.over_runs(laws.LOG_LINEAR, np.tile(x, 6),
                          (np.arange(1, 7)[:, None] * np.log10(x)).ravel(), np.repeat(range(6), 6))
    assert many.low["q"] < 3.5 < many.high["q"]


def test_the_interval_of_a_positive_parameter_is_positive():
    """Of runs whose coefficients differ by factors; widened as they are, it ends below 0."""
    x = np.tile(np.array([(n, d) for n in (0.03, 0.3, 2.0) for d in (0.1, 0.4, 1.6)]), (3, 1))
    run = np.repeat([0, 1, 2], 9)
    y = laws.sizes(x, np.array([0.02, 0.02, 0.2])[run], 0.6, 0.05, 0.9)
    fit = fits.over_runs(laws.SIZES, x, y, run, x[:, 0] * x[:, 1])
    for name in "AaBb":
        assert 0 < fit.low[name] <= fit.values[name] <= fit.high[name]
    assert fit.low["A"] < 0.02 and fit.high["A"] > 0.2
    x, run = np.tile(np.geomspace(1, 1000, 8), 3), np.repeat([0, 1, 2], 8)
    tops = np.array([0.8, 0.9, 0.99])[run]
    fit = fits.over_runs(laws.SATURATING, x, laws.saturating(x, 0.1, tops, 30.0, 1.0), run)
    assert 0 <= fit.low["start"] and fit.high["top"] <= 1


def test_errors_that_halve_by_every_so_much_compute_are_found():
    x = np.repeat(np.geomspace(1e9, 1e12, 8), 2)
    fit = fits.over_runs(laws.EXPONENTIAL, x, 1 - 0.6 * 0.5 ** (x / 1e11), np.tile([0, 1], 8))
    assert fit.values["start"] == pytest.approx(0.4)
    assert fit.values["scale"] == pytest.approx(1e11 / np.log(2)) and fit.beyond < 1e-6


def test_errors_on_what_was_left_out_are_those_of_fits_without_it():
    x = np.array([1.0, 10, 100, 1000])
    y = np.array([0.0, 0.1, 0.2, 0.6])
    fit = fits.over_runs(laws.LOG_LINEAR, x, y, np.zeros(4))
    errors = []
    for i in range(4):
        rest = np.arange(4) != i
        q, p = np.polyfit(np.log10(x[rest]), y[rest], 1)
        errors.append(p + q * np.log10(x[i]) - y[i])
    assert fit.held_out == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert fit.beyond == pytest.approx(0.6 - 0.3)               # by the line through the first two
    short = fits.over_runs(laws.LOG_LINEAR, x[:3], y[:3], np.zeros(3))
    assert np.isnan(short.beyond) and short.held_out < 1e-9     # one point is no line


def test_what_saturates_is_not_foretold_by_a_straight_line():
    x = np.geomspace(1, 1e4, 9)
    y = laws.saturating(x, 0.2, 0.9, 30.0, 1.2)
    line, curve = (fits.over_runs(law, x, y, np.zeros(9))
                   for law in (laws.LOG_LINEAR, laws.SATURATING))
    assert curve.beyond < 0.02 < 0.1 < line.beyond and line.r2 < curve.r2


def test_mean_over_runs_has_the_interval_of_student():
    found = fits.mean_over_runs([1.0, 2.0, 3.0])
    assert found["accuracy"] == 2 and found["high"] - 2 == pytest.approx(4.303 / np.sqrt(3))
    assert fits.mean_over_runs([0.4]) == {"accuracy": 0.4, "low": 0.4, "high": 0.4}


def test_equal_total_flops():
    """The small model with m times the inference tokens costs what the 14 times larger one does."""
    for ratio in (0.16, 0.79, 22.0):
        pretrain, small = 1e9, 1e5
        inference = ratio * pretrain
        m = fits.inference_multiple(14, ratio)
        ours = fits.training_flops(small, pretrain) + 2 * small * m * inference
        theirs = fits.training_flops(14 * small, pretrain) + 2 * 14 * small * inference
        assert ours == pytest.approx(theirs)


def test_without_scipy_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"needs scipy.*pip install 'minireason\[studies\]'"):
        fits.power_law(SIZES, 2.0 * (SIZES / 1e6) ** -0.5)
    assert fits.log_linear([1, 10, 100], [0.1, 0.2, 0.3]).values["q"] == pytest.approx(0.1)


def test_too_few_points_are_refused():
    with pytest.raises(UserError, match="3 parameters need more than 3 points"):
        fits.power_law([1e4, 1e5, 1e6], [3.0, 2.0, 1.5])
