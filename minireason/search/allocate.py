"""Compute-optimal allocation: spend tokens where they help (Snell 2024, arXiv:2408.03314, sec. 3).

A strategy is a method with its budget, or a stopping rule with its threshold. On one half of the
problems each difficulty bin gets the strategy with the best accuracy minus price times tokens; the
other half is answered by these choices, and the other way round. The price is the highest that
still reaches a target accuracy on the choosing half: nothing is fitted to what it is scored on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Strategy:
    """Recorded results of one way to answer P problems."""

    method: str
    n: int                        # budget in samples' tokens, or number of a rule's threshold
    correct: np.ndarray           # (P,) in [0, 1]: right, or the expected share of it
    tokens: np.ndarray            # (P,) drawn for it


@dataclass(frozen=True)
class Allocation:
    """What out-of-sample choices reached on every problem."""

    correct: np.ndarray           # (P,)
    tokens: np.ndarray            # (P,)
    chosen: list[list[str]]       # per fold and bin the strategy used there, as `beam 16`


def stacked(strategies: list[Strategy]) -> tuple[np.ndarray, np.ndarray]:
    """(correct, tokens), each (S, P)."""
    correct = np.stack([s.correct for s in strategies]).astype(float)
    return correct, np.stack([s.tokens for s in strategies]).astype(float)


def difficulty_bins(ease: np.ndarray, bins: int = 5) -> np.ndarray:
    """(P,) bin of each problem, 0 the easiest; bins of equal size by rank, ties in order."""
    order = np.argsort(-np.asarray(ease, dtype=float), kind="stable")
    result = np.empty(len(order), dtype=int)
    result[order] = np.arange(len(order)) * bins // len(order)
    return result


def halves(n: int, generator: np.random.Generator) -> np.ndarray:
    """(n,) fold 0 or 1, as equal in size as can be."""
    return generator.permutation(n) % 2


def choose(strategies: list[Strategy], bins: np.ndarray, used: np.ndarray,
           price: float) -> np.ndarray:
    """Per bin the strategy with the best mean of correct - price * tokens on the `used` problems.

    An empty bin takes what is best on all of them; ties go to the cheaper strategy.
    """
    correct, tokens = stacked(strategies)
    worth = correct - price * tokens                                      # (S, P)
    best = []
    for b in range(bins.max() + 1):
        members = used & (bins == b)
        members = members if members.any() else used
        scores, costs = worth[:, members].mean(axis=1), tokens[:, members].mean(axis=1)
        best.append(min(np.flatnonzero(scores >= scores.max() - 1e-12), key=lambda s: costs[s]))
    return np.array(best)


def allocate(strategies: list[Strategy], bins: np.ndarray, fold: np.ndarray,
             prices: Iterable[float], target: np.ndarray | None = None) -> Allocation:
    """Two-fold cross-validation at the highest price that reaches the target on the choosing half.

    target (P,) holds a reference's results; without it any price will do. Where none reaches it the
    price is 0: the most accurate strategies, whatever they cost. A price finds only strategies on
    the concave hull of accuracy over tokens; several bins fill the gaps between them.
    """
    def cheapest(used: np.ndarray) -> np.ndarray:
        correct, _ = stacked(strategies)
        for price in sorted(prices, reverse=True):
            choice = choose(strategies, bins, used, price)
            picked = correct[choice[bins], np.arange(len(bins))]
            if target is None or picked[used].mean() >= target[used].mean() - 1e-12:
                return choice
        return choose(strategies, bins, used, 0.0)

    return _crossed(strategies, bins, fold, cheapest)


def rule_to_match(strategies: list[Strategy], fold: np.ndarray, target: np.ndarray) -> Allocation:
    """One strategy for all problems, e.g. a stopping threshold: the cheapest that matches.

    Chosen on the other half, as above; the most accurate one where none reaches the target.
    """
    def cheapest(used: np.ndarray) -> np.ndarray:
        correct, tokens = stacked(strategies)
        accuracy, costs = correct[:, used].mean(axis=1), tokens[:, used].mean(axis=1)
        reach = np.flatnonzero(accuracy >= min(accuracy.max(), target[used].mean()) - 1e-12)
        return np.array([min(reach, key=lambda s: costs[s])])

    return _crossed(strategies, np.zeros(len(fold), dtype=int), fold, cheapest)


def _crossed(strategies: list[Strategy], bins: np.ndarray, fold: np.ndarray,
             choose_on: Callable[[np.ndarray], np.ndarray]) -> Allocation:
    """Answer each fold by what choose_on(the other one's problems) takes for each bin."""
    chosen = np.stack([choose_on(fold != 0), choose_on(fold != 1)])       # (2, bins)
    correct, tokens = stacked(strategies)
    strategy, problem = chosen[fold, bins], np.arange(len(bins))
    names = [[f"{strategies[s].method} {strategies[s].n}" for s in of_fold] for of_fold in chosen]
    return Allocation(correct[strategy, problem], tokens[strategy, problem], names)


def stop_when_sure(correct: np.ndarray, values: np.ndarray, tokens: np.ndarray,
                   threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Attempts one after the other until the critic's value of one reaches the threshold.

    All arguments (P, A): attempts in the order they are made, samples or whole searches. Returns
    (correct, tokens), each (P,), of the attempt of highest value among those made.
    """
    sure = values >= threshold
    last = np.where(sure.any(axis=1), sure.argmax(axis=1), values.shape[1] - 1)
    made = np.arange(values.shape[1]) <= last[:, None]                    # (P, A)
    best = np.where(made, values, -np.inf).argmax(axis=1)
    return correct[np.arange(len(best)), best], (tokens * made).sum(axis=1)


def stop_when_decided(answers: np.ndarray, correct: np.ndarray, weights: np.ndarray,
                      tokens: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Votes one after the other until the leader is `margin` ahead of the second.

    answers (P, A) are ids, -1 for none, and correct (P, A) is 1 where they are right; weights are
    1, or values for a critic-weighted vote (the question of Aggarwal 2023, arXiv:2305.11860).
    Returns (correct, tokens), each (P,); a tie for the lead shares the credit.
    """
    n, attempts = answers.shape
    mass = np.zeros((n, max(2, answers.max() + 1)))
    right = np.zeros(mass.shape, dtype=bool)                              # (P, ids)
    problem, attempt = np.nonzero(correct)
    right[problem, answers[problem, attempt]] = True
    credit, spent, running = np.zeros(n), np.zeros(n), np.ones(n, dtype=bool)
    for a in range(attempts):
        voting = running & (answers[:, a] >= 0)
        mass[voting, answers[voting, a]] += weights[voting, a]
        spent[running] += tokens[running, a]
        ordered = np.sort(mass, axis=1)
        decided = running & ((ordered[:, -1] - ordered[:, -2] >= margin) | (a == attempts - 1))
        lead = np.isclose(mass[decided], ordered[decided, -1:]) & (mass[decided] > 0)
        credit[decided] = (lead & right[decided]).sum(axis=1) / np.maximum(1, lead.sum(axis=1))
        running &= ~decided
    return credit, spent


def efficiency(reference: Strategy, allocation: Allocation, generator: np.random.Generator,
               draws: int = 2000) -> dict[str, float]:
    """Tokens of the reference per token of the allocation, and what that does to the accuracy.

    95% intervals are bootstraps over problems with the choices held fixed. The factor is one of
    equal accuracy only if `difference` says so.
    """
    n, gain = len(reference.correct), allocation.correct - reference.correct
    rows = generator.integers(0, n, (draws, n))
    spent = np.maximum(1.0, allocation.tokens)         # nothing drawn counts as one token
    factors = reference.tokens[rows].mean(axis=1) / spent[rows].mean(axis=1)
    found = {"accuracy": allocation.correct.mean(), "tokens": allocation.tokens.mean(),
             "reference_accuracy": reference.correct.mean(),
             "reference_tokens": reference.tokens.mean(),
             "factor": reference.tokens.mean() / spent.mean(),
             "difference": gain.mean()}
    for name, drawn in (("factor", factors), ("difference", gain[rows].mean(axis=1))):
        found[f"{name}_low"], found[f"{name}_high"] = np.quantile(drawn, (0.025, 0.975))
    return {name: float(value) for name, value in found.items()}
