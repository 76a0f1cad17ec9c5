"""Every estimator of this project: proportions, means over problems, and choices among N samples.

From the N samples of a problem the expected result for n <= N is an average over all subsets of n:
exact where order statistics give it (coverage, best-of-N), by random subsets for the votes.
Majority vote: Wang 2022 (arXiv:2203.11171); best-of-N: Cobbe 2021 (arXiv:2110.14168); weighted
vote: Li 2022 (arXiv:2206.02336).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minireason.core.config import rng

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5%, 1 to 9 df


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); well-behaved at 0 and at n."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def share_interval(successes: float, n: int) -> dict[str, float]:
    """A proportion as {accuracy, low, high}, with its Wilson interval; n > 0.

    For sums of expected shares, which vary less than 0 and 1 do, the interval is conservative.
    """
    low, high = wilson(successes, n)
    return {"accuracy": float(successes) / n, "low": low, "high": high}


def paired_bootstrap(a: np.ndarray, b: np.ndarray,
                     draws: int = 10_000) -> tuple[float, float, float]:
    """mean(a - b) over problems with its 95% percentile interval; a and b (P,)."""
    assert a.shape == b.shape, "paired values need equal shapes"
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    generator = np.random.default_rng(0)
    n, means = len(difference), []
    for start in range(0, draws, 500):                                # bounds the memory
        rows = generator.integers(0, n, (min(500, draws - start), n))
        means.append(difference[rows].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)


def mean_interval(values: np.ndarray, others: np.ndarray | None = None,
                  draws: int = 2000) -> dict[str, float]:
    """Mean over problems (P,), of values or of values - others, as {accuracy, low, high}."""
    others = np.zeros(len(values)) if others is None else others
    mean, low, high = paired_bootstrap(values, others, draws=draws)
    return {"accuracy": mean, "low": low, "high": high}


def two_way_interval(a: np.ndarray, b: np.ndarray | None = None,
                     groups: np.ndarray | None = None, draws: int = 4000) -> dict[str, float]:
    """Mean of a, or of a - b, over S seeds and P problems, as {accuracy, low, high}; both (S, P),
    shares from 0 to 1, which an interval of a alone does not leave.

    The 95% interval is for new seeds and new problems: both are drawn anew, crossed (Owen 2007,
    arXiv:0712.1111). The seeds' deviations are widened by t(S - 1) / z * sqrt(S / (S - 1)), as few
    seeds spread too little (Hesterberg 2015, arXiv:1411.5279, section 4.3): with 5 it covers 96 to
    100%, without 87 to 100%. One seed says nothing of others: its interval is over problems alone.
    groups: (P,) numbers from 0 on; problems of one number, as of one program, are drawn together.
    """
    difference = np.array(a, dtype=float)
    if b is not None:
        assert difference.shape == np.shape(b), "paired values need equal shapes"
        difference -= b
    seeds, problems = difference.shape
    mean = difference.mean()
    if seeds > 1:
        t = T_QUANTILES[min(seeds - 2, len(T_QUANTILES) - 1)]
        widened = t / 1.959964 * math.sqrt(seeds / (seeds - 1))
        difference += (widened - 1) * (difference.mean(axis=1, keepdims=True) - mean)
    generator = np.random.default_rng(0)
    shares = generator.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds  # (draws, S)
    sizes = np.bincount(np.arange(problems) if groups is None else groups)
    sums = np.zeros((len(sizes), seeds))
    np.add.at(sums, np.arange(problems) if groups is None else groups, difference.T)
    means = []
    for part in np.array_split(shares, -(-draws // 500)):             # bounds the memory
        columns = generator.integers(0, len(sizes), (len(part), len(sizes)))
        drawn = np.take_along_axis(part @ sums.T, columns, axis=1).sum(axis=1)
        means.append(drawn / sizes[columns].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    low, high = (low, high) if b is not None else np.clip((low, high), 0, 1)
    return {"accuracy": float(mean), "low": float(low), "high": float(high)}


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """P(a right completion scores above a wrong one), ties half; 0.5 if one kind is missing."""
    read, right = np.asarray(scores, dtype=np.float32), np.asarray(labels, dtype=bool)
    good, bad = read[right], np.sort(read[~right])
    pairs = len(good) * len(bad)
    if pairs == 0:
        return 0.5
    below = int(np.searchsorted(bad, good, side="left").sum())
    not_above = int(np.searchsorted(bad, good, side="right").sum())
    return below / pairs + 0.5 * ((not_above - below) / pairs)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased P(at least one of k samples is right) (Chen 2021, arXiv:2107.03374, eq. 1)."""
    assert k <= n, "cannot estimate k beyond the samples drawn"
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


def chance_coverage(records: list[dict]) -> np.ndarray:
    """(P,) chance that one answer drawn from those that the other problems got is the right one.

    records: a set's samples (measure/samples.py). n such draws cover 1 - (1 - chance) ** n: what
    a coverage at n owes to the set having few answers.
    """
    given = Counter(answer for record in records for answer in record["answers"])
    found = []
    for record in records:
        own, right = record["answers"], record["answer"]
        others = given.total() - len(own)
        found.append((given[right] - own.count(right)) / max(1, others))
    return np.array(found)


def best_of_n(correct: np.ndarray, scores: np.ndarray, n: int) -> float:
    """P(the top-scored of n random samples is right), exact over all subsets.

    correct and scores (N,); ties share the credit evenly. An oracle's scores give pass@n, a
    constant score gives the mean.
    """
    size = len(correct)
    assert size >= n, "cannot estimate N beyond the samples drawn"
    order = np.argsort(scores, kind="stable")
    correct, scores = correct[order].astype(float), scores[order]
    edges = np.flatnonzero(np.diff(scores)) + 1
    total, below = 0.0, 0
    for group in np.split(correct, edges):          # ascending groups of equal scores
        above = below + len(group)
        chance = (math.comb(above, n) - math.comb(below, n)) / math.comb(size, n)
        total += chance * group.mean()              # P(the maximum falls in this group)
        below = above
    return total


def answer_ids(keys: Sequence[str | None]) -> np.ndarray:
    """(N,) one number per different answer, in the order in which they appear; -1 for None."""
    ids: dict[str | None, int] = {None: -1}
    return np.array([ids.setdefault(key, len(ids) - 1) for key in keys])


def votes(answers: np.ndarray, weights: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """(S,) weighted votes over rows of answer ids (S, N), -1 for none: 1 if a right answer wins.

    Ties share. correct (S, N): 1 where right. Different right answers are no group: a voter cannot
    know them.
    """
    valid, shape = answers >= 0, (len(answers), int(answers.max(initial=0)) + 1)
    places = (np.arange(shape[0])[:, None] * shape[1] + answers)[valid]      # a row's own answers
    given, mass, right = (np.bincount(places, column, shape[0] * shape[1]).reshape(shape)
                          for column in (None, weights[valid], correct[valid] > 0))
    top = np.where(given > 0, mass, -np.inf).max(axis=1, keepdims=True)
    winners = (given > 0) & (mass >= top * (1 - 1e-12))
    return (winners & (right > 0)).sum(axis=1) / np.maximum(winners.sum(axis=1), 1)


def vote_at(answers: np.ndarray, weights: np.ndarray, correct: np.ndarray, n: int,
            generator: np.random.Generator, subsets: int = 32) -> float:
    """Expected vote over n of the samples, averaged over random subsets (exact if n is all)."""
    assert n <= len(answers), "cannot estimate N beyond the samples drawn"
    chosen = np.arange(n)[None]
    if n < len(answers):
        chosen = np.stack([generator.permutation(len(answers))[:n] for _ in range(subsets)])
    won = votes(answers[chosen], weights[chosen], correct[chosen])
    return sum(won.tolist()) / len(won)


@dataclass(frozen=True)
class Pool:
    """The samples of one problem, one entry per sample in every field (N,)."""

    correct: np.ndarray           # 1 where right, else 0
    answers: np.ndarray           # ids, as answer_ids gives them
    values: np.ndarray            # a critic's, of the whole sample
    tokens: np.ndarray            # generated

    @classmethod
    def of(cls, record: dict, values: str = "values") -> "Pool":
        """The samples of a record (measure/samples.py), judged by the named field's critic."""
        return cls(np.array(record["correct"], dtype=float),
                   answer_ids(record["answers"]), np.array(record[values]),
                   np.array(record["tokens"]))

    def __getitem__(self, part: slice) -> "Pool":
        """Some of the samples."""
        return Pool(self.correct[part], self.answers[part], self.values[part], self.tokens[part])

    def accuracy(self, method: str, n: int, generator: np.random.Generator) -> float:
        """Expected accuracy of a method with n of the samples.

        single | coverage (an oracle bound) | majority | ..._vote (weighted by the critic) |
        ...best_of_n (by the critic)
        """
        size = len(self.correct)
        if method == "single":
            return float(self.correct.mean())
        if method == "coverage":
            return pass_at_k(size, int(self.correct.sum()), n)
        if method.endswith("best_of_n"):
            return best_of_n(self.correct, self.values, n)
        weights = np.ones(size) if method == "majority" else self.values
        return vote_at(self.answers, weights, self.correct, n, generator)


def expected_accuracy(pools: Sequence[Pool], method: str, n: int, seed: int,
                      *purpose: object) -> np.ndarray:
    """(P,) accuracy of a method with n samples of each problem; seed and purpose name the draws."""
    found = []
    for i, pool in enumerate(pools):
        found.append(pool.accuracy(method, n, rng(seed, *purpose, i, n)))
    return np.array(found)
