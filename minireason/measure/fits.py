"""Scaling laws fitted to our own runs, each with a 95% bootstrap interval.

    power_law       L = E + A / N^a               Kaplan 2020 (arXiv:2001.08361), Hoffmann 2022
    log_linear      y = p + q log10(x)            the shape of OpenAI o1's two curves (2024)
    log_linear_runs y = p_r + q log10(x)          each run its own start, one slope for all
    hinge           log-linear, flat from x0 on   where it saturates
    coverage_law    c = exp(a k^b)                Brown 2024 (arXiv:2407.21787, section 3.1)

Grid search over the exponent with linear least squares inside, and Gauss-Newton for coverage.
Fits to points resample residuals; coverage resamples problems, its unit of chance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minireason.core.config import UserError


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


def r_squared(y: np.ndarray, fitted: np.ndarray) -> float:
    """1 - residual / total sum of squares; 0 if y is constant but for rounding."""
    total = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - fitted) ** 2).sum()) / total if total > 1e-20 * len(y) else 0.0


def fit_points(solve: Callable, predict: Callable, x, y, names: tuple[str, ...], seed: int = 0,
               draws: int = 1000, nuisance: int = 0) -> Fit:
    """Fit y(x) and bootstrap it over residuals.

    solve(x, ys) with ys (R, n) returns parameters (R, P); predict(x, parameters) is (n,). Residuals
    are scaled by sqrt(n / (n - P)), as the fit itself has made them smaller; P counts `nuisance`
    parameters too, which were taken out of y before.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    fitted_away = len(names) + nuisance
    if len(x) != len(y) or len(x) <= fitted_away:
        raise UserError(f"{fitted_away} parameters need more than {len(x)} points")
    best = solve(x, y[None])[0]
    fitted = predict(x, best)
    residuals = (y - fitted) * np.sqrt(len(x) / (len(x) - fitted_away))
    chosen = np.random.default_rng(seed).integers(0, len(x), (draws, len(x)))
    low, high = np.quantile(solve(x, fitted + residuals[chosen]), (0.025, 0.975), axis=0)
    return Fit(*(dict(zip(names, map(float, part), strict=True)) for part in (best, low, high)),
               r_squared(y, fitted), len(x))


def _two_terms(basis: np.ndarray, ys: np.ndarray, positive: bool) -> tuple[np.ndarray, ...]:
    """Least squares y = p + q u for G bases u (G, n) and R targets (R, n): p, q, error (R, G).

    With `positive`, p < 0 is replaced by the best fit through p = 0.
    """
    mean_u, mean_y = basis.mean(1), ys.mean(1)[:, None]
    centred = basis - mean_u[:, None]
    q = (ys @ centred.T) / (centred ** 2).sum(1)
    p = mean_y - q * mean_u
    if positive:
        through_zero = (ys @ basis.T) / (basis ** 2).sum(1)
        q, p = np.where(p < 0, through_zero, q), np.maximum(p, 0)
    error = ((ys ** 2).sum(1)[:, None] - 2 * p * ys.sum(1)[:, None] - 2 * q * (ys @ basis.T)
             + basis.shape[1] * p ** 2 + 2 * p * q * basis.sum(1) + q ** 2 * (basis ** 2).sum(1))
    return p, q, error


def _best_of(grid: np.ndarray, basis: np.ndarray, ys: np.ndarray, positive: bool) -> np.ndarray:
    """(R, 3): p, q and the grid value whose basis fits best."""
    p, q, error = _two_terms(basis, ys, positive)
    best, rows = error.argmin(1), np.arange(len(ys))
    return np.stack([p[rows, best], q[rows, best], grid[best]], axis=1)


def power_law(sizes, losses, seed: int = 0, draws: int = 1000) -> Fit:
    """L = E + A / (N / N0)^a with E >= 0, N0 the geometric mean of the sizes (n,)."""
    exponents = np.geomspace(0.01, 3, 400)              # 1.4% apart: below any interval's width
    scale = float(np.exp(np.log(np.asarray(sizes, dtype=float)).mean()))

    def solve(x, ys):
        return _best_of(exponents, (x / scale)[None] ** -exponents[:, None], ys, positive=True)

    fit = fit_points(solve, lambda x, t: t[0] + t[1] * (x / scale) ** -t[2], sizes, losses,
                     ("E", "A", "a"), seed, draws)
    return Fit({**fit.values, "N0": scale}, {**fit.low, "N0": scale}, {**fit.high, "N0": scale},
               fit.r2, fit.n)


def log_linear(x, y, seed: int = 0, draws: int = 1000) -> Fit:
    """y = p + q log10(x): q is the gain of ten times the compute."""
    def solve(x, ys):
        return _best_of(np.zeros(1), np.log10(x)[None], ys, positive=False)[:, :2]

    return fit_points(solve, lambda x, t: t[0] + t[1] * np.log10(x), x, y, ("p", "q"),
                      seed, draws)


def log_linear_runs(x, y, run, seed: int = 0, draws: int = 1000) -> Fit:
    """y = p_r + q log10(x): every run r its own start p_r, one slope q; R^2 is within runs.

    run (n,) names the run of each point. Where runs start far apart, log_linear's R^2 mostly says
    so.
    """
    names, member = np.unique(np.asarray(run), return_inverse=True)

    def within(values):
        means = np.bincount(member, values) / np.bincount(member)
        return values - means[member]

    u = within(np.log10(np.asarray(x, dtype=float)))
    return fit_points(lambda _, ys: (ys @ u / (u @ u))[:, None], lambda _, t: t[0] * u, x,
                      within(np.asarray(y, dtype=float)), ("q",), seed, draws, len(names))


def hinge(x, y, seed: int = 0, draws: int = 1000) -> Fit:
    """y = p + q log10(min(x, x0)): log-linear up to x0, flat from there; x0 = max(x) if never."""
    logs = np.log10(np.asarray(x, dtype=float))
    if len(np.unique(logs)) < 3:
        raise UserError("a hinge needs at least three different x")
    second, last = np.unique(logs)[[1, -1]]
    knees = np.linspace(second, last, 200)

    def solve(x, ys):
        found = _best_of(knees, np.minimum(np.log10(x)[None], knees[:, None]), ys, positive=False)
        return np.column_stack([found[:, :2], 10 ** found[:, 2]])

    return fit_points(solve, lambda x, t: t[0] + t[1] * np.log10(np.minimum(x, t[2])), x, y,
                      ("p", "q", "x0"), seed, draws)


def pass_matrix(n: np.ndarray, correct: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """(P, K) unbiased pass@k of problems with `correct` of n samples right; n, correct (P,)."""
    table = np.ones((len(n), len(ks)))
    for j, k in enumerate(ks):
        for i, (size, right) in enumerate(zip(n, correct, strict=True)):
            wrong = size - right
            table[i, j] = 1.0 if wrong < k else 1 - np.prod(
                1 - k / np.arange(wrong + 1, size + 1))
    return table


def _coverage_parameters(logk: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(a, b) of c = exp(a k^b) by damped Gauss-Newton from the straight line log(-log c)."""
    inside = np.clip(c, 1e-6, 1 - 1e-6)
    theta = np.polyfit(logk, np.log(-np.log(inside)), 1)[::-1]           # log(-a), b
    error = np.inf
    for _ in range(60):
        u = np.exp(theta[0] + theta[1] * logk)
        f = np.exp(-u)
        jacobian = np.stack([-f * u, -f * u * logk], axis=1)
        step = np.linalg.lstsq(jacobian, c - f, rcond=None)[0]
        size = 1.0
        while size > 1e-4:
            trial = theta + size * step
            new = float(((np.exp(-np.exp(trial[0] + trial[1] * logk)) - c) ** 2).sum())
            if new < error:
                break
            size /= 2
        if size <= 1e-4 or error - new < 1e-14:
            break
        theta, error = trial, new
    return np.array([-np.exp(theta[0]), theta[1]])


def coverage_law(n: np.ndarray, correct: np.ndarray, ks: np.ndarray, seed: int = 0,
                 draws: int = 400) -> Fit:
    """c = exp(a k^b) fitted to mean pass@k; bootstrap over problems. n, correct (P,); ks (K,)."""
    table, logk = pass_matrix(n, correct, ks), np.log(ks)
    if not 0 < table[:, 0].mean() < 1:
        raise UserError("coverage is 0 or 1 at the first k: there is no curve to fit")
    best = _coverage_parameters(logk, table.mean(0))
    chosen = np.random.default_rng(seed).integers(0, len(table), (draws, len(table)))
    drawn = np.array([_coverage_parameters(logk, table[rows].mean(0)) for rows in chosen])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return Fit(*(dict(zip("ab", map(float, part), strict=True)) for part in (best, low, high)),
               r_squared(table.mean(0), np.exp(best[0] * ks ** best[1])), len(table))


def reach(x, y, level: float) -> float | None:
    """The smallest x at which y, made non-decreasing, reaches `level`, on a log axis; None: never.

    x ascending and positive. Ratios of two methods' reaches are exchange rates.
    """
    x, y = np.asarray(x, dtype=float), np.maximum.accumulate(np.asarray(y, dtype=float))
    if y[-1] < level:
        return None
    i = int(np.argmax(y >= level))
    if i == 0:
        return float(x[0])
    share = (level - y[i - 1]) / (y[i] - y[i - 1])
    return float(np.exp(np.log(x[i - 1]) + share * (np.log(x[i]) - np.log(x[i - 1]))))


def training_flops(n_params: float, tokens: float) -> float:
    """6 N D (Kaplan 2020, table 1)."""
    return 6.0 * n_params * tokens


def inference_flops(n_params: float, tokens: float) -> float:
    """2 N a token, read or generated."""
    return 2.0 * n_params * tokens


def inference_multiple(larger: float, ratio: float) -> float:
    """How many times its inference tokens a model may spend to cost what one `larger` times does.

    ratio R = inference tokens / pretraining tokens over the model's life. Equal totals
    6 N Dp + 2 N Di m = M (6 N Dp + 2 N Di) give m = M + 3 (M - 1) / R (Snell 2024, section 7).
    """
    return larger + 3 * (larger - 1) / ratio
