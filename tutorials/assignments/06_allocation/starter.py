"""Assignment 6: spend tokens where they help."""

import numpy as np


def difficulty_bins(ease: np.ndarray, bins: int) -> np.ndarray:
    """(n,) bin of each problem, 0 the easiest, from how easy each looks (n,).

    Bins of equal size by rank: the problem of rank r (0 the easiest, ties in their order) is in bin
    r * bins // n.
    """
    raise NotImplementedError


def choose(correct: np.ndarray, tokens: np.ndarray, bins: np.ndarray, used: np.ndarray,
           price: float) -> np.ndarray:
    """Per bin the index of the strategy with the best mean of correct - price * tokens.

    correct, tokens (S, n); bins (n,) holds 0 .. B - 1; used (n,) bool: only these problems may be
    looked at. Returns (B,). Of strategies as good as the best (up to 1e-12) the one with the lowest
    mean tokens on these problems. A bin without a used problem takes what is best on all used ones.
    """
    raise NotImplementedError


def allocate(correct: np.ndarray, tokens: np.ndarray, bins: np.ndarray, fold: np.ndarray,
             price: float) -> tuple[np.ndarray, np.ndarray]:
    """(correct, tokens), each (n,), of two-fold cross-validation; fold (n,) is 0 or 1.

    The problems of a fold are answered by the strategies that were chosen on the other fold.
    """
    raise NotImplementedError


def saved(reference: np.ndarray, tokens: np.ndarray,
          rows: np.ndarray) -> tuple[float, float, float]:
    """(factor, low, high): mean tokens of the reference per mean token of the allocation.

    reference, tokens (n,). The interval is the 2.5% and 97.5% quantile of the same factor over
    bootstrap draws of problems: rows (R, n) holds their indices.
    """
    raise NotImplementedError
