"""How fallible authors solve countdown: sure of their own arithmetic.

The answer is an expression, so a miscalculated step alone would not make it wrong. But an author
who believes that 18+7=15 may find a way to the target with it, whose true value misses. In this
order, if there is such a way, he takes with his chances: the first one with one operation by a
frequent rule of mistakes.py; the first with one by a rare rule; the first that misses the target
by one, which he takes for a hit (chance `rare`); one that misses it by two (a slip). Else he takes
the exact way. "First" is the order of the solver; none of his ways has dead ends.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import permutations

from minireason.core.config import rng
from minireason.problems.arithmetic import HIGHEST, Move, compute, expression
from minireason.problems.authors import SLIP, Authors, Outcome, outcomes_of_ways
from minireason.problems.base import Problem
from minireason.problems.countdown_solver import State, moves, ordered, results, solve
from minireason.problems.mistakes import LEFT_OUT, rule_of, written_operation
from minireason.problems.mistakes import MISTAKES as OPERATION_MISTAKES

ONE_OFF = "one off taken as a hit"
MISTAKES = {name: line for name, line in OPERATION_MISTAKES.items() if name != LEFT_OUT} | {
    ONE_OFF: f"{ONE_OFF}: 17*2=35, where 35 is the target"}
HELD_OUT = frozenset(range(14, 100, 11))    # targets kept from training: 14, 25, 36, ... 91
Steps = tuple[str, ...]
Way = tuple[float, Steps, Steps]      # its chance, its steps, the mistake of each or ""
Rare = bool | None                    # of ways: one operation by a rule, rare or not; None: exact


def given(problem: Problem) -> tuple[State, int]:
    """(numbers, target), as the prompt has them."""
    numbers, _, target = problem.prompt.removesuffix("=").partition(">")
    return tuple(map(int, numbers.split(","))), int(target)


def read_step(step: str) -> Move:
    """The operation of a step as it is claimed."""
    left, operator, right, _, after = re.split("([-+*/=])", step)
    return Move(int(left), operator, int(right), tuple(map(int, after.split(","))))


def mistake_of(move: Move) -> str:
    """Name of the mistake in a claimed operation, "" if it is exact."""
    exact, rule, claimed = compute(*move[:3]), rule_of(*move[:3]), move.after[0]
    if exact is None or exact == claimed:
        return ""
    if rule is not None and rule.wrong(move.left, move.right) == claimed:
        return rule.name
    return ONE_OFF if abs(exact - claimed) == 1 else SLIP


@cache
def results_by(rare: Rare, a: int, b: int) -> list[tuple[str, int]]:
    """Exact results on a >= b and, behind them, those of the rules of a kind."""
    found = list(results(a, b))
    for operator, _ in results(a, b):
        rule = rule_of(a, operator, b)
        if rule is not None and rule.is_rare == rare:
            found.append((operator, rule.wrong(a, b)))
    return found


def _rest_of_kind(rare: Rare, move: Move) -> Rare:
    """The kind of what follows a move: exact once the rule has been used."""
    return rare if move.after[0] == compute(*move[:3]) else None


@lru_cache(maxsize=1 << 18)
def reached(state: State, rare: Rare) -> int:
    """The targets that ways of a kind reach, as bits; state sorted."""
    if len(state) == 1:
        return 1 << state[0] if rare is None else 0
    targets = 0
    for move in moves(state, partial(results_by, rare)):
        targets |= reached(tuple(sorted(move.after)), _rest_of_kind(rare, move))
    return targets


def way(state: State, target: int, rare: Rare) -> list[Move] | None:
    """The first way of a kind, in the order of the solver."""
    if not reached(tuple(sorted(state)), rare) >> target & 1:
        return None
    for move in ordered(state, target, "factor", partial(results_by, rare)):
        rest = way(move.after, target, _rest_of_kind(rare, move))
        if rest is not None:
            return [move, *rest]
    return []


def ways_off_by(numbers: State, target: int, distance: int) -> list[list[Move]]:
    """Exact ways that miss the target by this, whose last operation is claimed to hit it."""
    near = [near for near in (target - distance, target + distance) if 0 <= near <= HIGHEST]
    paths = [path for path in (way(numbers, end, None) for end in near) if path]
    return [[*path[:-1], path[-1]._replace(after=(target,))] for path in paths]


@lru_cache(maxsize=4096)
def ways(numbers: State, target: int, exact: Steps, authors: Authors) -> list[Way]:
    """An author's ways; numbers sorted, exact: the right way."""
    tried = ((authors.rule, [way(numbers, target, False)]),
             (authors.rare, [way(numbers, target, True)]),
             (authors.rare, ways_off_by(numbers, target, 1)[:1]),
             (authors.slip, ways_off_by(numbers, target, 2)))
    found, left = [], 1.0
    for chance, paths in tried:
        there = [path for path in paths if path is not None]
        for path in there:
            found.append((left * chance / len(there), tuple(map(str, path))))
        left -= left * chance if there else 0.0
    return [(chance, steps, tuple(mistake_of(read_step(step)) for step in steps))
            for chance, steps in (*found, (left, exact))]


def outcomes(problem: Problem, authors: Authors, number: int, state: Steps | None) -> list[Outcome]:
    """The ways in which an author may go on from the steps that he has written, his state."""
    numbers, target = given(problem)
    found = ways(tuple(sorted(numbers)), target, problem.steps, authors)
    return outcomes_of_ways(found, number, state)


def answer_of_state(problem: Problem, state: Steps) -> str:
    """His steps as one expression."""
    return expression(list(map(read_step, state)))


def fact_outcomes(problem: Problem, authors: Authors) -> list[list[Outcome]]:
    """The ways in which an author may state each operation of the exact way, without its state."""
    return [written_operation(authors, *read_step(step)[:3]) for step in problem.steps]


# ---- the probability of problems, for the entropy of the corpus ---------------------------------

@lru_cache(maxsize=1 << 16)
def target_chances(state: State) -> dict[int, float]:
    """{last number: chance} of the random ways by which `sample` finds a target; state sorted."""
    if len(state) == 1:
        return {state[0]: 1.0}
    found, choices = defaultdict(float), moves(state)
    operators = [move.operator for move in choices]
    for move in choices:
        chance = 1 / (len(set(operators)) * operators.count(move.operator))
        for last, share in target_chances(tuple(sorted(move.after))).items():
            found[last] += chance * share
    return found


def allowed(target: int, held_out: bool = False) -> bool:
    """May a problem, in training or held out, have this target?"""
    return target >= 10 and (target in HELD_OUT) == held_out


@cache
def accepted(level: int, n: int = 4000) -> float:
    """Share of random ways whose last number is an allowed target, estimated to about 1%."""
    drawn = rng(0, "countdown targets", level).integers(1, 21, (n, level)).tolist()
    return sum(chance for numbers in drawn
               for last, chance in target_chances(tuple(sorted(numbers))).items()
               if allowed(last)) / n


def log_probability(problem: Problem) -> float:
    """log P(`sample` gives this problem), given its level, by the share `accepted`."""
    numbers, target = given(problem)
    chance = target_chances(tuple(sorted(numbers)))[target] / accepted(len(numbers))
    return math.log(chance) - len(numbers) * math.log(20)


def problems_of_facts(build: Callable[[State, int], Problem],
                      facts: list[str]) -> Iterator[tuple[Problem, list[str]]]:
    """For each problem and order in which these facts, right or wrong, are its: (it, facts)."""
    operations = [read_step(fact)[:3] for fact in facts]
    exact = [compute(*operation) or 0 for operation in operations]
    operands = Counter([value for left, _, right in operations for value in (left, right)])
    starts = set()                    # (numbers, target) that the operations may join
    for last, target in enumerate(exact):
        made = Counter(exact[:last] + exact[last + 1:])          # each is an operand later on
        numbers = tuple(sorted((operands - made).elements()))
        if made <= operands and numbers[-1] <= 20 and allowed(target) and solve(numbers, target):
            starts.add((numbers, target))
    for numbers, target in sorted(starts):
        problem = build(numbers, target)
        sought = [read_step(step)[:3] for step in problem.steps]
        for order in permutations(range(len(facts))):
            if [operations[i] for i in order] == sought:
                for prompt in {",".join(map(str, chosen)) for chosen in permutations(numbers)}:
                    yield (replace(problem, prompt=f"{prompt}>{target}="),
                           [facts[i] for i in order])
