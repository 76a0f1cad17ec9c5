"""Fits recover known truths within their intervals; equal FLOPs agree with hand arithmetic."""

import sys

import numpy as np
import pytest

from minireason.core.errors import UserError
from minireason.measure.estimates import pass_at_k
from minireason.studies import fits

SIZES = np.geomspace(3e4, 3e7, 7).repeat(3)              # seven sizes, three seeds each


def within(fit, truth: dict[str, float]) -> bool:
    return all(fit.low[name] <= value <= fit.high[name] for name, value in truth.items())


def test_power_law_without_noise_is_exact():
    truth = {"E": 0.4, "A": 0.7, "a": 0.35}
    scale = np.exp(np.log(SIZES).mean())
    fit = fits.power_law(SIZES, 0.4 + 0.7 * (SIZES / scale) ** -0.35)
    for name, value in truth.items():
        assert fit.values[name] == pytest.approx(value, rel=1e-4)
    assert fit.r2 > 0.9999 and fit.n == 21 and fit.values["N0"] == pytest.approx(scale)


def test_power_law_covers_the_truth_at_its_rate(monkeypatch):
    """95% intervals hold the exponent in most of 40 noisy data sets; 30 allows 4 sigma of 40."""
    monkeypatch.setattr(fits, "DRAWS", 200)
    scale = np.exp(np.log(SIZES).mean())
    clean = 0.4 + 0.7 * (SIZES / scale) ** -0.35
    hits = 0
    for seed in range(40):
        noisy = clean + np.random.default_rng(seed).normal(0, 0.02, len(SIZES))
        fit = fits.power_law(SIZES, noisy)
        hits += within(fit, {"a": 0.35})
        assert fit.low["a"] <= fit.values["a"] <= fit.high["a"] and fit.values["E"] >= 0
    assert 30 <= hits


def test_power_law_without_offset_stays_at_zero():
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


def test_runs_with_starts_of_their_own_share_a_slope():
    generator, x = np.random.default_rng(0), np.tile(10.0 ** np.arange(1, 9), 3)
    run = np.repeat([7, 3, 5], 8)
    y = np.array([0.1, 0.5, 0.8])[np.argsort([7, 3, 5]).argsort()].repeat(8) + 0.04 * np.log10(x)
    exact = fits.log_linear_runs(x, y, run)
    assert exact.values["q"] == pytest.approx(0.04) and exact.r2 == pytest.approx(1)
    assert fits.log_linear(x, y).r2 < 0.2                       # the starts hide the slope
    covered = 0
    for _ in range(60):
        fit = fits.log_linear_runs(x, y + 0.05 * generator.standard_normal(24), run)
        covered += fit.low["q"] <= 0.04 <= fit.high["q"]
    assert covered >= 52                                   # 95% of 60 is 57, less three deviations
    with pytest.raises(UserError, match="parameters need more than"):
        fits.log_linear_runs(x[:4], y[:4], [0, 1, 2, 3])


def test_hinge_finds_where_it_saturates(monkeypatch):
    monkeypatch.setattr(fits, "DRAWS", 200)
    x = np.geomspace(1, 1e4, 13)
    y = 0.1 + 0.2 * np.log10(np.minimum(x, 300))
    hits = 0
    for seed in range(40):                               # 90% of 40 are expected, 28 is 4 sigma
        noisy = y + np.random.default_rng(seed).normal(0, 0.01, 13)
        fit = fits.hinge(x, noisy)
        hits += within(fit, {"q": 0.2, "x0": 300.0})
        assert fit.r2 > fits.log_linear(x, noisy).r2 and fit.high["x0"] < 1000
    assert 28 <= hits
    rising = fits.hinge(x, 0.1 + 0.2 * np.log10(x))
    assert rising.values["x0"] == pytest.approx(1e4)


def test_pass_matrix_is_the_unbiased_estimator():
    n, correct = np.array([16, 16, 8]), np.array([0, 5, 8])
    ks, table = fits.pass_matrix(n, correct)
    assert ks.tolist() == [1, 2, 4, 8]
    assert table == pytest.approx(np.array([[pass_at_k(size, right, k) for k in ks]
                                            for size, right in zip(n, correct, strict=True)]))


def test_coverage_law_recovers_a_and_b():
    """Per-problem failure is exponential; this mixture of p makes the mean follow the law."""
    ks = 2.0 ** np.arange(11)
    truth = fits.coverage(ks, -1.33, -0.43)           # Llama-3-8B on MATH (Brown 2024)
    for noise, tolerance in ((0, 1e-4), (0.003, 0.05)):
        seen = truth + np.random.default_rng(0).normal(0, noise, 11)
        found = fits.coverage_fit(ks, seen)
        assert found == pytest.approx([-1.33, -0.43], rel=tolerance)


def test_coverage_interval_is_over_problems():
    generator = np.random.default_rng(0)
    p = generator.beta(0.3, 2.0, 200)
    correct, n = generator.binomial(256, p), np.full(200, 256)
    ks = 2 ** np.arange(9)
    fit = fits.coverage_law(n, correct, draws=100)
    many = generator.beta(0.3, 2.0, 20_000)
    mean = np.array([(1 - (1 - many) ** k).mean() for k in ks])
    whole = fits.coverage_fit(ks.astype(float), mean)
    assert within(fit, {"a": whole[0], "b": whole[1]}) and fit.n == 200
    wider = fits.coverage_law(n[:50], correct[:50], draws=100)
    assert wider.high["b"] - wider.low["b"] > fit.high["b"] - fit.low["b"]
    rare = fits.coverage_law(np.full(20, 8), np.arange(20) // 19, draws=50)
    assert np.isfinite([*rare.low.values(), *rare.high.values()]).all()   # draws without any right


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
