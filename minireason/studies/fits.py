"""Fits of the laws (laws.py), each with its R^2, its error on what it has not seen, an interval.

`over_runs` is for several runs, its intervals for new ones. `power_law` and `log_linear` are for
the points of a single curve and resample residuals.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from minireason.core.errors import UserError
from minireason.measure.estimates import T_QUANTILES
from minireason.studies.laws import Law, log_line, positive_log, scipy_optimize

DRAWS = 1000                      # bootstrap draws R of a fit to points


@dataclass(frozen=True)
class Fit:
    """Parameters by name with their 95% intervals, and how well they describe what they saw."""

    values: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    r2: float                     # share of the variance explained, on the scale that was fitted
    n: int                        # points
    held_out: float = math.nan    # RMS error at a level that was left out, mean over levels
    beyond: float = math.nan      # RMS error at the highest level of a fit to all but the top two

    def text(self, name: str) -> str:
        """`0.34 [0.29, 0.40]`, without an interval where there is none."""
        low, high = self.low[name], self.high[name]
        return f"{self.values[name]:.3g}" + (f" [{low:.3g}, {high:.3g}]" if low < high else "")


def r_squared(y: np.ndarray, fitted: np.ndarray) -> float:
    """1 - residual / total sum of squares; 0 if y is constant but for rounding."""
    total = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - fitted) ** 2).sum()) / total if total > 1e-20 * len(y) else 0.0


def rms(errors: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


# ---- over runs -----------------------------------------------------------------------------------

def widening(runs: int) -> float:
    """What deviations of so few resampled runs are multiplied by (estimates.two_way_interval)."""
    return T_QUANTILES[min(runs, 10) - 2] / 1.959964 * math.sqrt(runs / (runs - 1))


def over_runs(law: Law, x, y, run, level=None) -> Fit:
    """One curve for all runs; 95% intervals are for new runs, so there are none of a single one.

    x (n, ...), y, run, level (n,): level says which points of different runs belong together, x if
    it is not given. Intervals: whole runs are drawn anew, all S^S ways of up to 4 runs, and the
    deviations, of a positive parameter in logarithms, widened for their small number.
    """
    x, y, run = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(run)
    level = x if level is None else np.asarray(level)
    best = np.asarray(law.solve(x, y))
    members = [np.flatnonzero(run == which) for which in np.unique(run)]
    logs = np.isin(law.names, law.positive)

    def line(values: np.ndarray) -> np.ndarray:    # where deviations may be widened
        return np.where(logs, positive_log(values), values)

    drawn, count = [line(best)], len(members)
    if count > 1:
        ways = list(product(range(count), repeat=count)) if count < 5 else (
            np.random.default_rng(0).integers(0, count, (200, count)).tolist())
        for way, times in Counter(tuple(sorted(way)) for way in ways).items():
            chosen = np.concatenate([members[i] for i in way])
            moved = line(np.asarray(law.solve(x[chosen], y[chosen]))) - line(best)
            drawn += [line(best) + widening(count) * moved] * times
    low, high = (np.where(logs, np.exp(np.where(logs, end, 0)), end)
                 for end in np.quantile(drawn, (0.025, 0.975), axis=0))
    low, high = (np.where(np.isin(law.names, law.shares), np.clip(end, 0, 1), end)
                 for end in (low, high))
    levels, rest = np.unique(level), {}

    def error(seen: np.ndarray, tested: np.ndarray) -> float:
        if len(np.unique(level[seen])) < len(best):
            return math.nan
        fitted = law.predict(x[tested], *law.solve(x[seen], y[seen]))
        return rms(law.scale(fitted) - law.scale(y[tested]))

    rest["held_out"] = rms(np.array([error(level != one, level == one) for one in levels]))
    if len(levels) > 2:
        rest["beyond"] = error(level < levels[-2], level == levels[-1])
    r2 = r_squared(law.scale(y), law.scale(law.predict(x, *best)))
    named = (dict(zip(law.names, part.tolist(), strict=True)) for part in (best, low, high))
    return Fit(*named, r2, len(y), **rest)  # pyright: ignore


def mean_over_runs(values) -> dict[str, float]:
    """Mean of one value per run as {accuracy, low, high}, the 95% interval by t for new runs."""
    values = np.asarray(values, dtype=float)
    half = 0.0
    if len(values) > 1:
        half = T_QUANTILES[min(len(values), 10) - 2] * values.std(ddof=1) / math.sqrt(len(values))
    mean = float(values.mean())
    return {"accuracy": mean, "low": mean - half, "high": mean + half}


# ---- the points of one curve ---------------------------------------------------------------------

def fit_points(solve: Callable, law: Callable, x, y, names: tuple[str, ...], free: int) -> Fit:
    """Fit law(x, *parameters) to y and bootstrap it over residuals; x and y (n,).

    solve(ys) with ys (R, n) returns parameters (R, P). Residuals are scaled by sqrt(n / (n - F)),
    as the fit itself, of F free parameters, has made them smaller.
    """
    if len(x) != len(y) or len(x) <= free:
        raise UserError(f"{free} parameters need more than {len(x)} points")
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    best = solve(y[None])[0]
    fitted = law(x, *best)
    residuals = (y - fitted) * np.sqrt(len(x) / (len(x) - free))
    chosen = np.random.default_rng(0).integers(0, len(x), (DRAWS, len(x)))
    low, high = np.quantile(solve(fitted + residuals[chosen]), (0.025, 0.975), axis=0)
    named = (dict(zip(names, part.tolist(), strict=True)) for part in (best, low, high))
    return Fit(*named, r_squared(y, fitted), len(x))  # pyright: ignore


def power(n, E, A, a, N0):
    """The power law of `power_law`."""
    return E + A * (n / N0) ** -a


def power_law(sizes, losses) -> Fit:
    """L = E + A / (N / N0)^a with E, A >= 0, N0 the geometric mean of the sizes (n,)."""
    optimize, sizes = scipy_optimize(), np.asarray(sizes, dtype=float)
    scale = float(np.exp(np.log(sizes).mean()))

    def basis(exponent):                                              # (n, 2), of E and A
        return np.stack([np.ones(len(sizes)), (sizes / scale) ** -exponent], axis=1)

    def solve(ys):
        found = np.empty((len(ys), 4))
        for i, row in enumerate(ys):
            best = optimize.minimize_scalar(lambda a, y=row: optimize.nnls(basis(a), y)[1],
                                            bounds=(0.01, 3), method="bounded").x
            found[i] = *optimize.nnls(basis(best), row)[0], best, scale
        return found

    return fit_points(solve, power, sizes, losses, ("E", "A", "a", "N0"), free=3)


def log_linear(x, y) -> Fit:
    """y = p + q log10(x): q is the gain of ten times the compute."""
    return fit_points(lambda ys: np.polyfit(np.log10(x), ys.T, 1)[::-1].T, log_line, x, y,
                      ("p", "q"), free=2)


def training_flops(n_params: float, tokens: float) -> float:
    """6 N D (Kaplan 2020, table 1)."""
    return 6.0 * n_params * tokens


def inference_multiple(larger: float, ratio: float) -> float:
    """How many times its inference tokens a model may spend to cost what one `larger` times does.

    ratio R = inference tokens / pretraining tokens over the model's life. Inference costs 2 N per
    token, so equal totals 6 N Dp + 2 N Di m = M (6 N Dp + 2 N Di) give m = M + 3 (M - 1) / R
    (Snell 2024, section 7).
    """
    return larger + 3 * (larger - 1) / ratio
