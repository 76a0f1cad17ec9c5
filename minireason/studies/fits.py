"""Scaling laws fitted to our own runs, each with a 95% bootstrap interval.

    power_law       L = E + A / N^a               Kaplan 2020 (arXiv:2001.08361), Hoffmann 2022
    log_linear      y = p + q log10(x)            the shape of OpenAI o1's two curves (2024)
    log_linear_runs y = p_r + q log10(x)          each run its own start, one slope for all
    hinge           log-linear, flat from x0 on   where it saturates
    coverage_law    c = exp(a k^b)                Brown 2024 (arXiv:2407.21787, section 3.1)

Fits to points resample residuals; coverage resamples problems, its unit of chance. SciPy solves
the two laws that are not linear (the extra `studies`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minireason.core.errors import UserError
from minireason.measure.estimates import pass_at_k

DRAWS = 1000                      # bootstrap draws R of a fit to points


@dataclass(frozen=True)
class Fit:
    """Parameters by name with their 95% intervals, and how much of the variance they explain."""

    values: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    r2: float                     # share of variance explained, on the scale that was fitted
    n: int                        # points, or problems for coverage

    def text(self, name: str) -> str:
        """`0.34 [0.29, 0.40]`."""
        return f"{self.values[name]:.3g} [{self.low[name]:.3g}, {self.high[name]:.3g}]"


def scipy_optimize():
    """SciPy's optimizers; UserError if it is not installed."""
    try:
        from scipy import optimize
    except ImportError:
        raise UserError("fitting this law needs scipy, which is not installed; "
                        "pip install 'minireason[studies]'") from None
    return optimize


def fit_with_interval(names: tuple[str, ...], best: np.ndarray, drawn: np.ndarray, y: np.ndarray,
                      fitted: np.ndarray, n: int) -> Fit:
    """Parameters (P,), the 95% percentile interval of their bootstrap draws (R, P), R^2 of the fit.

    R^2 is 1 - residual / total sum of squares; 0 if y is constant but for rounding.
    """
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - fitted) ** 2).sum()) / total if total > 1e-20 * len(y) else 0.0
    return Fit(dict(zip(names, best.tolist(), strict=True)),
               dict(zip(names, low.tolist(), strict=True)),
               dict(zip(names, high.tolist(), strict=True)), r2, n)


def fit_points(solve: Callable, law: Callable, x, y, names: tuple[str, ...], free: int) -> Fit:
    """Fit law(x, *parameters) to y and bootstrap it over residuals; x and y (n,).

    solve(ys) with ys (R, n) returns parameters (R, P). Residuals are scaled by sqrt(n / (n - F)),
    as the fit itself has made them smaller. F = free counts what is fitted: no constants, but also
    what was taken out of y before.
    """
    if len(x) != len(y) or len(x) <= free:
        raise UserError(f"{free} parameters need more than {len(x)} points")
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    best = solve(y[None])[0]
    fitted = law(x, *best)
    residuals = (y - fitted) * np.sqrt(len(x) / (len(x) - free))
    chosen = np.random.default_rng(0).integers(0, len(x), (DRAWS, len(x)))
    return fit_with_interval(names, best, solve(fitted + residuals[chosen]), y, fitted, len(x))


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


def log_line(x, p, q, x0=np.inf):
    """A straight line in log10(x), flat from x0 on."""
    return p + q * np.log10(np.minimum(x, x0))


def log_linear(x, y) -> Fit:
    """y = p + q log10(x): q is the gain of ten times the compute."""
    return fit_points(lambda ys: np.polyfit(np.log10(x), ys.T, 1)[::-1].T, log_line, x, y,
                      ("p", "q"), free=2)


def log_linear_runs(x, y, run) -> Fit:
    """y = p_r + q log10(x): every run r its own start p_r, one slope q; R^2 is within runs.

    run (n,) names the run of each point. Where runs start far apart, log_linear's R^2 mostly says
    so.
    """
    runs, member = np.unique(np.asarray(run), return_inverse=True)

    def within(values):
        means = np.bincount(member, values) / np.bincount(member)
        return values - means[member]

    u = within(np.log10(x))
    return fit_points(lambda ys: (ys @ u / (u @ u))[:, None], lambda u, q: q * u, u, within(y),
                      ("q",), free=1 + len(runs))


def hinge(x, y) -> Fit:
    """y = p + q log10(min(x, x0)): log-linear up to x0, flat from there; x0 = max(x) if never.

    The error has a minimum between most neighbouring points, in which a solver by gradients stays.
    So 200 knees are tried, each a linear fit of all bootstrap draws at once.
    """
    logs = np.log10(np.asarray(x, dtype=float))
    distinct = np.unique(logs)

    def solve(ys):
        best, found = np.full(len(ys), np.inf), np.empty((len(ys), 3))
        for knee in np.linspace(distinct[1], distinct[-1], 200):
            basis = np.stack([np.ones(len(logs)), np.minimum(logs, knee)], axis=1)    # (n, 2)
            terms, errors, *_ = np.linalg.lstsq(basis, ys.T)                          # (2, R), (R,)
            better = errors < best
            best[better] = errors[better]
            found[better, :2] = terms.T[better]
            found[better, 2] = 10 ** knee
        return found

    return fit_points(solve, log_line, x, y, ("p", "q", "x0"), free=3)


def pass_matrix(n: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k = 1, 2, 4, ... up to the samples that every problem has (K,), and unbiased pass@k (P, K).

    n, correct (P,): samples of each problem, and how many of them are right.
    """
    ks = 2 ** np.arange(int(n.min()).bit_length())
    return ks, np.vectorize(pass_at_k, otypes=[float])(n[:, None], correct[:, None], ks)


def coverage(k, a, b):
    """Brown's law of pass@k."""
    return np.exp(a * k ** b)


def coverage_fit(ks: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(a, b) with which the law comes closest to mean pass@k; ks and mean (K,)."""
    first = np.log(np.clip(mean[0], 1e-6, 1 - 1e-6))          # a draw may hold no right sample
    return scipy_optimize().least_squares(lambda theta: coverage(ks, *theta) - mean,
                                          (first, -0.5)).x


def coverage_law(n: np.ndarray, correct: np.ndarray, draws: int = 400) -> Fit:
    """c = exp(a k^b) fitted to mean pass@k, which is neither 0 nor 1; n and correct (P,).

    The bootstrap is over problems.
    """
    ks, matrix = pass_matrix(n, correct)
    mean = matrix.mean(axis=0)                                            # (K,)
    best, generator, drawn = coverage_fit(ks, mean), np.random.default_rng(0), []
    for _ in range(draws):
        chosen = generator.integers(0, len(matrix), len(matrix))
        drawn.append(coverage_fit(ks, matrix[chosen].mean(axis=0)))
    return fit_with_interval(("a", "b"), best, np.array(drawn), mean, coverage(ks, *best),
                             len(matrix))


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
