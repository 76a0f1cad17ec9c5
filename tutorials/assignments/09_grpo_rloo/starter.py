"""Assignment 9: GRPO against RLOO, over seeds. See README.md."""

import numpy as np


def advantages(rewards: np.ndarray, group_size: int, how: str) -> np.ndarray:
    """(P * G,) advantages from (P * G,) rewards; samples of a prompt stand together.

        rloo   r - mean of the OTHER samples of the group                     (arXiv:2402.14740)
        grpo   (r - mean of the group) / population standard deviation        (arXiv:2402.03300)

    A group whose rewards are all equal gets exactly 0.
    """
    raise NotImplementedError


def push(p: float, group_size: int, how: str) -> float:
    """How hard a prompt whose samples are right with chance p pushes them, in expectation.

    The expected value of (sum of the advantages of the group's RIGHT samples) / G, over the number
    of right samples c, which is binomial (G, p); rewards are 0 and 1. Exact, not simulated.
    """
    raise NotImplementedError


def over_seeds(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of accuracy a - b over S trainings; a and b (S, P).

    The trainings are the sample: the mean over seeds of each seed's own mean difference, -/+ t
    s / sqrt(S), with s the sample's standard deviation (S - 1) of these S numbers and t the 97.5%
    quantile of Student's distribution with S - 1 degrees of freedom: T[S - 2]. One seed says
    nothing of other seeds: then low and high are -1 and 1. No bound lies outside -1..1. S <= 10.
    """
    raise NotImplementedError


T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)       # 1 to 9 degrees
