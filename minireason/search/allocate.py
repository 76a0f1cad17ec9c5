"""Compute-optimal allocation: spend tokens where they help (Snell 2024, arXiv:2408.03314, sec. 3).

A strategy is a method with its budget, or a stopping rule with its threshold. On one half of the
problems each difficulty bin gets the strategy with the best accuracy minus price times tokens; the
other half is answered by these choices, and the other way round. The price is the highest that
still reaches a target accuracy on the choosing half: nothing is fitted to what it is scored on.
Everything here is arithmetic on recorded results.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Table:
    """Recorded results of S strategies on n problems."""

    names: tuple[str, ...]        # S
    correct: np.ndarray           # (S, n) in [0, 1]: right, or the expected share of it
    tokens: np.ndarray            # (S, n) drawn for it

    def __post_init__(self):
        assert self.correct.shape == self.tokens.shape == (len(self.names), self.correct.shape[1])

    def with_probe(self, probe: np.ndarray, reuse: list[bool]) -> "Table":
        """The table when `probe` (n,) tokens were drawn first; a strategy may reuse those."""
        tokens = np.where(np.array(reuse)[:, None], np.maximum(self.tokens, probe),
                          self.tokens + probe)
        return Table(self.names, self.correct, tokens)


@dataclass(frozen=True)
class Allocation:
    """What out-of-sample choices reached on every problem."""

    correct: np.ndarray           # (n,)
    tokens: np.ndarray            # (n,)
    chosen: np.ndarray            # (folds, bins) index of the strategy used on that fold


def difficulty_bins(ease: np.ndarray, bins: int = 5) -> np.ndarray:
    """(n,) bin of each problem, 0 the easiest; bins of equal size by rank, ties in order."""
    order = np.argsort(-np.asarray(ease, dtype=float), kind="stable")
    result = np.empty(len(order), dtype=int)
    result[order] = np.arange(len(order)) * bins // len(order)
    return result


def halves(n: int, generator: np.random.Generator) -> np.ndarray:
    """(n,) fold 0 or 1, as equal in size as can be."""
    return generator.permutation(n) % 2


def choose(table: Table, bins: np.ndarray, used: np.ndarray, price: float) -> np.ndarray:
    """Per bin the strategy with the best mean of correct - price * tokens on the `used` problems.

    An empty bin takes what is best on all of them; ties go to the cheaper strategy.
    """
    worth = table.correct - price * table.tokens                          # (S, n)
    best = []
    for b in range(bins.max() + 1):
        members = used & (bins == b)
        members = members if members.any() else used
        scores, costs = worth[:, members].mean(axis=1), table.tokens[:, members].mean(axis=1)
        best.append(min(np.flatnonzero(scores >= scores.max() - 1e-12), key=lambda s: costs[s]))
    return np.array(best)


def allocate(table: Table, bins: np.ndarray, fold: np.ndarray, price: float) -> Allocation:
    """Two-fold cross-validation at a fixed price of a token."""
    return _apply(table, bins, fold, [choose(table, bins, fold != f, price) for f in (0, 1)])


def allocate_to_match(table: Table, bins: np.ndarray, fold: np.ndarray, target: np.ndarray,
                      prices: np.ndarray) -> Allocation:
    """Two-fold cross-validation that aims at a reference's accuracy for the fewest tokens.

    target (n,) holds the reference's results. Where no price reaches it on the choosing half, the
    price is 0: the most accurate strategies, whatever they cost. A price finds only strategies on
    the concave hull of accuracy over tokens; several bins fill the gaps between them.
    """
    choices = []
    for f in (0, 1):
        used = fold != f
        for price in sorted(prices, reverse=True):
            choice = choose(table, bins, used, price)
            picked = table.correct[choice[bins], np.arange(len(bins))]
            if picked[used].mean() >= target[used].mean() - 1e-12:
                break
        else:
            choice = choose(table, bins, used, 0.0)
        choices.append(choice)
    return _apply(table, bins, fold, choices)


def rule_to_match(table: Table, fold: np.ndarray, target: np.ndarray) -> Allocation:
    """One strategy for all problems, e.g. a stopping threshold: the cheapest that matches.

    Chosen on the other half, as above; the most accurate one where none reaches the target.
    """
    choices = []
    for f in (0, 1):
        used = fold != f
        accuracy = table.correct[:, used].mean(axis=1)
        reach = np.flatnonzero(accuracy >= min(accuracy.max(), target[used].mean()) - 1e-12)
        costs = table.tokens[:, used].mean(axis=1)
        choices.append(np.array([min(reach, key=lambda s: costs[s])]))
    return _apply(table, np.zeros(len(fold), dtype=int), fold, choices)


def _apply(table: Table, bins: np.ndarray, fold: np.ndarray,
           choices: list[np.ndarray]) -> Allocation:
    """Answer each fold by the choices made on the other."""
    chosen = np.stack(choices)                                            # (2, bins)
    strategy, problem = chosen[fold, bins], np.arange(len(bins))
    return Allocation(table.correct[strategy, problem], table.tokens[strategy, problem], chosen)


def stop_when_sure(correct: np.ndarray, values: np.ndarray, tokens: np.ndarray,
                   threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Attempts one after the other until the critic's value of one reaches the threshold.

    All arguments (n, A): attempts in the order they are made, samples or whole searches. Returns
    (correct, tokens), each (n,), of the attempt of highest value among those made.
    """
    sure = values >= threshold
    last = np.where(sure.any(axis=1), sure.argmax(axis=1), values.shape[1] - 1)
    made = np.arange(values.shape[1]) <= last[:, None]                    # (n, A)
    best = np.where(made, values, -np.inf).argmax(axis=1)
    return correct[np.arange(len(best)), best].astype(float), (tokens * made).sum(axis=1)


def stop_when_decided(answers: np.ndarray, weights: np.ndarray, tokens: np.ndarray,
                      margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Votes one after the other until the leader is `margin` ahead of the second.

    answers (n, A) are ids with 0 for the right one and -1 for none; weights are 1, or values for
    a critic-weighted vote (the question of Aggarwal 2023, arXiv:2305.11860). Returns (correct,
    tokens), each (n,); a tie for the lead shares the credit.
    """
    n, attempts = answers.shape
    mass = np.zeros((n, max(2, answers.max() + 1)))
    correct, spent, running = np.zeros(n), np.zeros(n), np.ones(n, dtype=bool)
    for a in range(attempts):
        voting = running & (answers[:, a] >= 0)
        mass[voting, answers[voting, a]] += weights[voting, a]
        spent[running] += tokens[running, a]
        ordered = np.sort(mass, axis=1)
        decided = running & ((ordered[:, -1] - ordered[:, -2] >= margin) | (a == attempts - 1))
        lead = np.isclose(mass[decided], ordered[decided, -1:]) & (mass[decided] > 0)
        correct[decided] = lead[:, 0] / np.maximum(1, lead.sum(axis=1))
        running &= ~decided
    return correct, spent


def efficiency(reference: tuple[np.ndarray, np.ndarray], allocation: Allocation,
               generator: np.random.Generator, draws: int = 2000) -> dict:
    """Tokens of the reference per token of the allocation, and what that does to the accuracy.

    reference: its (correct, tokens), each (n,). 95% intervals are bootstraps over problems with
    the choices held fixed. The factor is one of equal accuracy only if `difference` says so.
    """
    correct, tokens = reference
    n = len(correct)
    rows = generator.integers(0, n, (draws, n))
    factors = tokens[rows].mean(axis=1) / allocation.tokens[rows].mean(axis=1)
    gain = allocation.correct - correct
    differences = gain[rows].mean(axis=1)
    return {"accuracy": float(allocation.correct.mean()), "tokens": float(allocation.tokens.mean()),
            "reference_accuracy": float(correct.mean()), "reference_tokens": float(tokens.mean()),
            "factor": float(tokens.mean() / allocation.tokens.mean()),
            **_interval("factor", factors),
            "difference": float(gain.mean()), **_interval("difference", differences)}


def _interval(name: str, draws: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
