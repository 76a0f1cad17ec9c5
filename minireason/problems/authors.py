"""Fallible authors: who wrote the text that a base model reads, and what imitating them is worth.

An author errs by rule and slips at random, goes on from his own result and states it. A model
that imitates such text comes to err as its authors do, however long it trains; only a verifier
leads beyond them. One function of a family says how an author goes on,

    outcomes(problem, authors, number, state) -> [Outcome]   (state None: nothing is written yet)

and everything follows from it: text and the exact limits of imitation here, the entropy of the
corpus in corpus.py. Outcomes differ in their text; after the last step there are none. Where text
does not grow step by step, or states are too many, a family gives the text alone, without limits:

    written_by(authors, problem, generator, style) -> (completion, marked steps)

A family with neither function is written exactly.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from minireason.core.errors import UserError
from minireason.problems.base import Family, Problem

SLIP = "slip"


class Outcome(NamedTuple):
    """One way in which an author may go on."""

    probability: float
    text: str                         # the step as he writes it, e.g. "27+5=22"
    state: Hashable                   # what he goes on from
    mistake: str                      # name of the rule, "slip", or "" if the step is right


@dataclass(frozen=True)
class Authors:
    """How often authors err; all zero: never."""

    rule: float = 0.8                 # P(a step on which a frequent rule falls follows it)
    rare: float = 0.3                 # the same for a rare rule
    slip: float = 0.03                # P(a step that follows no rule slips)

    def __post_init__(self) -> None:
        if not (0 <= self.rule <= 1 and 0 <= self.rare <= 1 and 0 <= self.slip < 1):
            raise UserError(f"authors err with chances of 0 to 1, not rule {self.rule}, rare "
                            f"{self.rare}, slip {self.slip}")

    @property
    def exact(self) -> bool:
        """Do they never err?"""
        return not (self.rule or self.rare or self.slip)


EXACT = Authors(0.0, 0.0, 0.0)


# ---- what a family says of its authors, and what holds where it says nothing ---------------------

class AuthoredFamily(Family, Protocol):
    """A family with fallible authors.

    Optional: `fact_outcomes(problem, authors)`, for each of `facts` the ways in which an author
    may state it, where they are not its steps; AUTHORS_STYLE, where authors do not write "cot".
    Without log_probability and problems_of_facts the corpus has no known entropy.
    """

    MISTAKES: dict[str, str]          # {name: "name: example"}, what an Outcome's mistake may be

    def outcomes(self, problem: Problem, authors: Authors, number: int,
                 state: Hashable, /) -> list[Outcome]:
        """How an author may write step `number`."""
        ...

    def answer_of_state(self, problem: Problem, state: Hashable, /) -> str:
        """The answer of an author who ends in this state."""
        ...

    def log_probability(self, problem: Problem) -> float:
        """log P(`sample` gives this problem), given its level."""
        ...

    def problems_of_facts(self, facts: list[str]) -> Iterable[tuple[Problem, list[str]]]:
        """(problem, facts in its order) for each order of these, as stated, that is a problem's."""
        ...


def outcomes_of(family: Family) -> Callable[[Problem, Authors, int, Hashable], list[Outcome]]:
    """The family's `outcomes`, or its exact steps."""
    return getattr(family, "outcomes", lambda problem, authors, number, state: [
        Outcome(1.0, step, number, "") for step in problem.steps[number:number + 1]])


def outcomes_of_ways(ways: Iterable[tuple[float, tuple[str, ...], tuple[str, ...]]], number: int,
                     done: tuple[str, ...] | None) -> list[Outcome]:
    """How one goes on who takes one of several whole ways: (chance, steps, the mistake of each).

    done: the `number` steps that he has written, which are the state.
    """
    done, after = done or (), {}
    for chance, steps, mistakes in ways:
        if chance > 0 and len(steps) > number and steps[:number] == done:
            before, mistake = after.get(steps[number], (0.0, mistakes[number]))
            after[steps[number]] = before + chance, mistake
    total = sum(chance for chance, _ in after.values())
    return [Outcome(chance / total, step, (*done, step), mistake)
            for step, (chance, mistake) in after.items()]


def _answer(family: Family, problem: Problem, state: Hashable) -> str:
    """The family's `answer_of_state`, or the right answer."""
    return getattr(family, "answer_of_state", lambda *_: problem.answer)(problem, state)


def fact_outcomes(family: Family, problem: Problem, authors: Authors) -> list[list[Outcome]]:
    """For each fact, the ways in which an author may state it, himself without mistake before."""
    own = getattr(family, "fact_outcomes", None)
    if own is not None:
        return own(problem, authors)
    if not hasattr(family, "outcomes"):
        return [[Outcome(1.0, fact, None, "")] for fact in family.facts(problem)]
    outcomes, state, found = outcomes_of(family), None, []
    while right := outcomes(problem, EXACT, len(found), state):
        found.append(outcomes(problem, authors, len(found), state))
        state = right[0].state
    return found


# ---- writing -------------------------------------------------------------------------------------

Marked = list[tuple[str, str]]        # [(step or fact, its mistake or "")]


def pick(outcomes: list[Outcome], generator: np.random.Generator) -> Outcome:
    """One outcome by its probability."""
    left = generator.random() if len(outcomes) > 1 else 0.0
    for outcome in outcomes:
        left -= outcome.probability
        if left < 0:
            return outcome
    return outcomes[0]                # the probabilities add up to 1 but for rounding


def written(family: Family, problem: Problem, authors: Authors, generator: np.random.Generator,
            style: str = "cot") -> tuple[str, Marked]:
    """(completion, marked steps) of an author; in the style "direct" the steps stay in his head.

    The completion is the family's rendering of a problem whose steps and answer are his own.
    """
    if own_text := getattr(family, "written_by", None):
        return own_text(authors, problem, generator, style)
    outcomes, state, steps, mistakes = outcomes_of(family), None, [], []
    while found := outcomes(problem, authors, len(steps), state):
        _, step, state, mistake = pick(found, generator)
        steps.append(step)
        mistakes.append(mistake)
    own = Problem(problem.prompt, _answer(family, problem, state), tuple(steps), problem.family,
                  problem.level, problem.key, problem.split_key)
    style = getattr(family, "AUTHORS_STYLE", style) if style == "cot" else style
    return family.render(own, style), list(zip(steps, mistakes, strict=True))


def stated_facts(family: Family, problem: Problem, authors: Authors,
                 generator: np.random.Generator) -> Marked:
    """The problem's facts as an author states them, each on its own."""
    picked = [pick(found, generator) for found in fact_outcomes(family, problem, authors)]
    return [(outcome.text, outcome.mistake) for outcome in picked]


# ---- what imitation is worth, exactly ------------------------------------------------------------

def likeliest(outcomes: list[Outcome]) -> list[Outcome]:
    """The most probable outcomes, in equal shares."""
    most = max((outcome.probability for outcome in outcomes), default=0.0) - 1e-9
    best = [outcome for outcome in outcomes if outcome.probability > most]
    return [outcome._replace(probability=1 / len(best)) for outcome in best]


def answer_chances(family: Family, problem: Problem, authors: Authors,
                   greedy: bool = False) -> dict[str, float]:
    """{answer: probability} of an author's answers, exact, by dynamic programming over states.

    greedy: of one who writes the most probable step each time; ties in equal shares.
    """
    outcomes, number, answers = outcomes_of(family), 0, defaultdict(float)
    states: dict[Hashable, float] = {None: 1.0}
    while states:
        after: dict[Hashable, float] = defaultdict(float)
        for state, chance in states.items():
            found = outcomes(problem, authors, number, state)
            if not found:
                answers[_answer(family, problem, state)] += chance
            for probability, _, reached, _ in likeliest(found) if greedy else found:
                after[reached] += chance * probability
        states, number = after, number + 1
    return dict(answers)


def limits(family: Family, problems: list[Problem], authors: Authors) -> dict[str, float]:
    """Accuracies of a perfect imitator of the authors: {"single", "greedy", "majority"}.

    single: one sample; greedy: the most probable step each time; majority: the most probable
    answer, the limit of many votes. Equally probable ones count by their share.
    """
    sums: dict[str, float] = dict.fromkeys(("single", "greedy", "majority"), 0.0)
    for problem in problems:
        chances = answer_chances(family, problem, authors)
        greedy = answer_chances(family, problem, authors, greedy=True)
        votes, voted = defaultdict(float), {}
        for answer, chance in chances.items():
            votes[family.answer_key(answer)] += chance
            voted[family.answer_key(answer)] = answer
        most = max(votes.values()) - 1e-9
        best = [voted[name] for name, chance in votes.items() if chance > most]
        majority = {answer: 1 / len(best) for answer in best}
        for name, shares in (("single", chances), ("greedy", greedy), ("majority", majority)):
            sums[name] += sum(share for answer, share in shares.items()
                              if family.is_right(problem, answer))
    return {name: total / len(problems) for name, total in sums.items()}
