"""The laws that are fitted to our own runs.

    LINEAR       y = p + q x                        nothing saturates
    LOG_LINEAR   y = p + q log10 x                  the shape of OpenAI o1's two curves (2024)
    EXPONENTIAL  y = 1 - (1 - s) exp(-x / m)        errors halve by every so much x
    SATURATING   y = s + (A - s) / (1 + (m / x)^B)  Khatri 2025 (arXiv:2510.13786): from s up to A
    POWER        y = A x^-a, on logarithms          loss above a known entropy (Kaplan 2020)
    SIZES        y = A N^-a + B D^-b, the same      Hoffmann 2022 (arXiv:2203.15556), E known
    COVERAGE     c = exp(a k^b)                     Brown 2024 (arXiv:2407.21787, section 3.1)
    BETA         c = 1 - B(u, v + k) / B(u, v)      pass@1 is Beta(u, v): a power law only if many
                                                    problems are almost hopeless (Schaeffer 2025,
                                                    arXiv:2502.17578)

SciPy solves those that are not linear (the extra `studies`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minireason.core.errors import UserError


def scipy_optimize():
    """SciPy's optimizers; UserError if it is not installed."""
    try:
        from scipy import optimize
    except ImportError:
        raise UserError("fitting this law needs scipy, which is not installed; "
                        "pip install 'minireason[studies]'") from None
    return optimize


class Law(NamedTuple):
    """A family of curves; errors are taken on the scale that `scale` gives."""

    names: tuple[str, ...]
    predict: Callable[..., np.ndarray]                          # (x, *parameters) -> (n,)
    solve: Callable[[np.ndarray, np.ndarray], np.ndarray]       # x (n, ...), y (n,) -> parameters
    scale: Callable[[np.ndarray], np.ndarray] = np.asarray
    positive: tuple[str, ...] = ()                              # whose intervals are of logarithms
    shares: tuple[str, ...] = ()                                # between 0 and 1


def positive_log(values: np.ndarray) -> np.ndarray:
    """log, of what is above 0."""
    return np.log(np.maximum(values, 1e-300))


def log_line(x, p, q):
    """A straight line in log10(x)."""
    return p + q * np.log10(x)


def exponential(x, start, scale):
    """From start up to 1, errors falling exponentially in x itself."""
    return 1 - (1 - start) * np.exp(-x / scale)


def saturating(x, start, top, middle, steep):
    """An S in log x from start to top, half way at `middle`."""
    return start + (top - start) / (1 + (middle / x) ** steep)


def sizes(x, A, a, B, b):
    """Hoffmann's law without E of x (n, 2): parameters N and tokens D, both in millions."""
    return A * x[:, 0] ** -a + B * x[:, 1] ** -b


def coverage(k, a, b):
    """Brown's law of pass@k."""
    return np.exp(a * k ** b)


def beta_coverage(k, u, v):
    """E[1 - (1 - p)^k] of p drawn from Beta(u, v)."""
    gamma = np.vectorize(math.lgamma, otypes=[float])
    return 1 - np.exp(gamma(v + k) + gamma(u + v) - gamma(u + v + k) - gamma(v))


def squares(law: Callable, starts: list, lower, upper, logs: bool = False) -> Callable:
    """solve(x, y): the best least-squares fit of several starts, within bounds.

    starts: functions of (x, y) or parameters. logs: errors of logarithms.
    """
    def solve(x, y):
        optimize, found = scipy_optimize(), []
        scale = positive_log if logs else np.asarray

        def errors(theta):
            return scale(law(x, *theta)) - scale(y)

        for start in starts:
            first = np.clip(start(x, y) if callable(start) else start, lower, upper)  # pyright: ignore
            found.append(optimize.least_squares(errors, first, bounds=(lower, upper),
                                                x_scale="jac"))
        return min(found, key=lambda fit: fit.cost).x

    return solve


def _scurve(quantile: float) -> Callable:
    return lambda x, y: (y.min(), y.max(), np.quantile(x, quantile), 1.0)


LINEAR = Law(("p", "q"), lambda x, p, q: p + q * x, lambda x, y: np.polyfit(x, y, 1)[::-1])
LOG_LINEAR = Law(("p", "q"), log_line, lambda x, y: np.polyfit(np.log10(x), y, 1)[::-1])
EXPONENTIAL = Law(("start", "scale"), exponential, squares(
    exponential, [lambda x, y, part=part: (y.min(), part * x.max()) for part in (0.01, 0.1, 1)],
    (0, 1e-3), (1, 1e25)), positive=("scale",), shares=("start",))
SATURATING = Law(("start", "top", "middle", "steep"), saturating, squares(
    saturating, [_scurve(0.25), _scurve(0.5), _scurve(0.75)],
    (0, 0, 1e-3, 0.2), (1, 1, 1e25, 6)), positive=("middle", "steep"),
    shares=("start", "top"))
POWER = Law(("A", "a"), lambda x, A, a: A * x ** -a, lambda x, y: (
    lambda slope, first: np.array([np.exp(first), -slope]))(*np.polyfit(np.log(x), np.log(y), 1)),
    positive_log, ("A",))
SIZES = Law(("A", "a", "B", "b"), sizes, squares(
    sizes, [(0.02, 0.5, 0.02, 0.5), (0.05, 1.0, 0.05, 1.0)],
    (1e-9, 0.01, 1e-9, 0.01), (1e3, 4, 1e3, 4), logs=True), positive_log, ("A", "a", "B", "b"))
COVERAGE = Law(("a", "b"), coverage, squares(
    coverage, [lambda k, c: (np.log(np.clip(c.min(), 1e-6, 1 - 1e-6)), -0.5)],
    (-50, -5), (0, 0)))
BETA = Law(("u", "v"), beta_coverage, squares(
    beta_coverage, [(0.5, 0.5), (2.0, 2.0)], (1e-3, 1e-3), (1e3, 1e3)), positive=("u", "v"))
