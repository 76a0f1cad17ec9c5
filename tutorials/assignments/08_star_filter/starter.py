"""Assignment 8: what STaR's filter lets through, and what it is worth. See README.md."""

import numpy as np

Sample = tuple[str | None, bool, bool]      # (answer or None, answer right, every step right)


def keep(samples: list[Sample], rule: str) -> int | None:
    """Index of the sample of ONE problem that a rule keeps, None if it keeps none.

        none      the first that has an answer
        majority  the first with the most frequent answer (of equally frequent ones the first to
                  come); it needs no verifier
        answer    the first whose answer is right                     (Zelikman 2022)
        steps     the first whose answer and steps are all right
    """
    raise NotImplementedError


def unsound(problems: list[list[Sample]], rule: str) -> tuple[float, float, float]:
    """(share, low, high) of kept samples whose answer is right but whose steps are not.

    Of all samples that the rule keeps. low, high: Wilson's 95% interval, z = 1.959964,

        (p + z^2/2n  -/+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2/n)

    within 0 and 1; (0, 0, 1) if nothing is kept.
    """
    raise NotImplementedError


def gain(after: np.ndarray, before: np.ndarray, rows: np.ndarray) -> tuple[float, float, float]:
    """(mean difference, low, high) of accuracy; after and before (S, P): seeds by problems.

    All seeds are measured on the same P problems. The interval is the 2.5% and 97.5% quantile over
    bootstrap draws of PROBLEMS, rows (R, P) indices: a drawn problem brings the results of all its
    seeds, and `after` and `before` of it stay together.
    """
    raise NotImplementedError
