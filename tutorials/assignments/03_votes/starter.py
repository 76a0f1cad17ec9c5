"""Assignment 3: choosing among samples."""

import numpy as np


def pass_at_k(n: int, correct: int, k: int) -> float:
    """P(at least one of k samples is right), over all subsets of k of n samples, `correct` of them
    right (Chen 2021, arXiv:2107.03374). k <= n; n may be in the thousands.
    """
    raise NotImplementedError


def majority(answers: list[str | None]) -> str | None:
    """The most frequent answer; of equally frequent ones that which came first.

    None is a sample without an answer: it has no vote. None if there is no answer.
    """
    raise NotImplementedError


def weighted_vote(answers: np.ndarray, weights: np.ndarray, right: int) -> float:
    """The credit of a weighted vote: 1 if the answer `right` has the largest sum of weights.

    answers (S,) are ids >= 0, -1 for a sample without an answer, which has no vote; weights (S,).
    Where m answers share the largest sum (up to rounding) and `right` is among them: 1 / m. 0.0 if
    nobody votes.
    """
    raise NotImplementedError


def best_of_n(correct: np.ndarray, scores: np.ndarray, n: int) -> float:
    """P(the highest-scored of n samples is right), over all subsets of n of the S samples.

    correct (S,) 0 or 1, scores (S,), n <= S. Samples of equal score share the credit evenly:
    where the highest score of a subset is s, the credit is the mean of `correct` over ALL samples
    of score s. S may be 64: do not enumerate the subsets.
    """
    raise NotImplementedError
