"""Rationales that a policy writes for itself: chosen by search, kept by a filter, measured exactly.

Search and filter may know only what they are given (answers, values, or the verifier's verdicts).
The truth about what was kept is measured in every case, and decides nothing.
"""

from collections import Counter
from dataclasses import dataclass

from minireason.measure.estimates import wilson
from minireason.measure.evaluate import answer_of
from minireason.problems import Problem, Verdict

SEARCHES = ("critic", "majority", "single")
FILTERS = ("verifier", "critic", "none")


@dataclass(frozen=True)
class Solution:
    """The sample that search chose for one problem."""

    problem: Problem
    text: str                     # completion, opener included
    value: float                  # the critic's, after the whole completion
    verdict: Verdict              # the exact truth


def choose(how: str, answers: list[str | None], values: list[float]) -> int | None:
    """Index of the sample that search settles on, None if no sample is well-formed.

    critic: the highest value; single: the first; majority: of those with the most frequent answer
    (the earliest of equally frequent ones) the one of highest value.
    """
    valid = [i for i, answer in enumerate(answers) if answer is not None]
    if not valid:
        return None
    if how == "single":
        return valid[0]
    if how == "majority":
        agreeing = agreement(answers)
        valid = [i for i in valid if agreeing[i]]
    return max(valid, key=lambda i: values[i])


def agreement(answers: list[str | None]) -> list[bool]:
    """For each sample: is its answer the majority's? It stands for the truth where there is none.

    Of equally frequent answers the earliest is the majority's.
    """
    votes = Counter(answer for answer in answers if answer is not None).most_common(1)
    return [bool(votes) and answer == votes[0][0] for answer in answers]


def searched(how: str, problems: list[Problem], completions: list[list[str]],
             values: list[list[float]], verdicts: list[list[Verdict]]) -> list[Solution]:
    """What search settles on for each problem, those without a well-formed sample left out."""
    found = []
    for problem, texts, marks, row in zip(problems, completions, values, verdicts, strict=True):
        i = choose(how, [answer_of(problem, text) for text in texts], marks)
        if i is not None:
            found.append(Solution(problem, texts[i], marks[i], row[i]))
    return found


def passes(how: str, solution: Solution, threshold: float) -> bool:
    """Does the filter let a solution through? Only "verifier" looks at the truth."""
    if how == "verifier":
        return solution.verdict.correct
    return how == "none" or solution.value >= threshold


def truth(kept: list[Solution]) -> dict[str, float]:
    """How much of what was kept is right, with a 95% interval, and how sure the critic was.

    A share of nothing is left out: where nothing was kept, only `kept` remains.
    """
    n, right = len(kept), sum(s.verdict.correct for s in kept)
    if n == 0:
        return {"kept": 0}
    low, high = wilson(right, n)
    return {"kept": n, "precision": right / n, "precision_low": low, "precision_high": high,
            "steps_valid": sum(s.verdict.steps_valid for s in kept) / n,
            "mean_value": sum(s.value for s in kept) / n}
