"""Assignment 10: a critic that picks among samples. See README.md."""

import numpy as np


def auc(values: np.ndarray, right: np.ndarray) -> float:
    """P(a right sample has a higher value than a wrong one), ties count half; both (M,).

    0.5 if there is none of one kind. M may be 10,000: do not go through all pairs in Python.
    """
    raise NotImplementedError


def calibration_error(values: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Expected calibration error: mean over samples of |mean value - share right| of their bin.

    Bins of equal width: value v of 0..1 is in bin min(int(v * bins), bins - 1). (Guo 2017,
    arXiv:1706.04599, eq. 3)
    """
    raise NotImplementedError


def pick(answers: list[str | None], values: list[float], how: str) -> int | None:
    """Index of the sample that a rule picks; None if no sample has an answer.

        first      the first that has an answer
        best       the one of highest value, of equal ones the first    (best-of-N: Cobbe 2021)
        majority   the first with the most frequent answer              (Wang 2022)
        weighted   the first with the answer whose values sum to most   (Li 2022)

    Only samples with an answer count. Of tied answers the one that came first; sums within 1e-9 are
    tied.
    """
    raise NotImplementedError


def closed(picked: np.ndarray, first: np.ndarray, oracle: np.ndarray,
           rows: np.ndarray) -> tuple[float, float, float]:
    """(share, low, high) of the gap between one sample and an oracle that the picks close.

    share = (mean picked - mean first) / (mean oracle - mean first); picked, first, oracle (P,). The
    interval is the 2.5% and 97.5% quantile of the same share over bootstrap draws of problems, rows
    (R, P) indices; draws without a gap are left out. (0, 0, 0) if there is no gap at all.
    """
    raise NotImplementedError
