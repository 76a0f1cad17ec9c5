"""A written addition, column by column from the lowest: exact, and as fallible authors do it.

A state is what is left and what is done: (digits left of a, digits left of b, answer so far,
carry). Eight rules by which children err (VanLehn 1990, Mind Bugs); each gives a wrong total of
the column, its carry included. A total that is right or above 19 is no mistake.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from minireason.problems.authors import SLIP, Authors, Outcome
from minireason.problems.base import Problem
from minireason.problems.mistakes import weighted

State = tuple[str, str, str, int]


def start(prompt: str, style: str = "simplified") -> tuple[list[str], State]:
    """(operands, state before the first column); `star` pads the shorter number with zeros."""
    operands = prompt.removesuffix("=").split("+")
    width = max(map(len, operands)) if style == "star" else 0
    return operands, (operands[0].zfill(width), operands[1].zfill(width), "", 0)


def column(state: State) -> tuple[int, int, int, State]:
    """(a, b, sum with carry, state after) of the lowest column that is left."""
    x, y, answer, carry = state
    a, b = int(x[-1:] or 0), int(y[-1:] or 0)
    total = a + b + carry
    return a, b, total, (x[:-1], y[:-1], f"{total % 10}{answer}", total // 10)


# ---- fallible authors (authors.py) ---------------------------------------------------------------

class Rule(NamedTuple):
    """One wrong procedure for a column a + b + carry."""

    name: str
    example: str                      # a+b+carry=total
    falls: Callable[[int, int, int], bool]
    wrong: Callable[[int, int, int], int]    # the total it gives
    is_rare: bool = False


ENDED = Rule("carry lost where a number ends", "9+0+1=9",    # the only rule where one has ended
             lambda a, b, c: c == 1, lambda a, b, c: a + b)
RULES = (                             # the first that falls
    Rule("nought makes nought", "7+0+0=0",
         lambda a, b, c: b == 0, lambda a, b, c: c),
    Rule("nine counted as ten", "9+4+0=14",
         lambda a, b, c: a == 9, lambda a, b, c: 10 + b + c, True),
    Rule("double one too large", "6+6+0=13",
         lambda a, b, c: a == b > 4, lambda a, b, c: a + b + c + 1, True),
    Rule("taken as subtraction", "7+2+0=5",
         lambda a, b, c: a > b == 2, lambda a, b, c: a - b),
    Rule("carry forgotten", "8+5+0=3",
         lambda a, b, c: b < 6 and a + b + c > 9, lambda a, b, c: a + b + c - 10),
    Rule("carry not added", "5+7+1=12",
         lambda a, b, c: b in (6, 7) and c == 1, lambda a, b, c: a + b),
    Rule("carried without need", "1+7+0=18",
         lambda a, b, c: b > 5 and a + b + c in (8, 9), lambda a, b, c: a + b + c + 10, True),
)
MISTAKES = {rule.name: f"{rule.name}: {rule.example}" for rule in (ENDED, *RULES)} | {
    SLIP: f"{SLIP}: 2+4+0=7, one too many or too few"}


@cache
def totals(authors: Authors, a: int, b: int, carry: int,
           ended: bool) -> list[tuple[float, int, str]]:
    """[(probability, total, mistake)] of a column; ended: one of the numbers has no digit there."""
    total, named = a + b + carry, None
    rule = next((rule for rule in ((ENDED,) if ended else RULES) if rule.falls(a, b, carry)), None)
    if rule is not None and rule.wrong(a, b, carry) != total and rule.wrong(a, b, carry) < 20:
        named = rule.name, rule.is_rare, rule.wrong(a, b, carry)
    near = [near for near in (total - 1, total + 1) if 0 <= near < 20]
    return weighted(authors, total, near, rule=named)


def outcomes(problem: Problem, authors: Authors, number: int, state: State | None) -> list[Outcome]:
    """The ways in which an author may write column `number` in the simplified scratchpad."""
    state = state or start(problem.prompt)[1]
    if not (state[0] or state[1]):
        return []
    a, b, _, (x, y, _, _) = column(state)
    ways = totals(authors, a, b, state[3], not (state[0] and state[1]))
    return [Outcome(chance, f"A->{total % 10} , C->{total // 10}",
                    (x, y, f"{total % 10}{state[2]}", total // 10), mistake)
            for chance, total, mistake in ways]


def answer_of_state(problem: Problem, state: State) -> str:
    """His last carry and his digits, without leading zeros."""
    return str(int(f"{state[3]}{state[2]}"))


def fact_outcomes(problem: Problem, authors: Authors) -> list[list[Outcome]]:
    """The ways in which an author may state each column's sum, such as `8+7+0=15`."""
    found, state = [], start(problem.prompt)[1]
    while state[0] or state[1]:
        a, b, _, after = column(state)
        ways = totals(authors, a, b, state[3], not (state[0] and state[1]))
        found.append([Outcome(chance, f"{a}+{b}+{state[3]}={total}", None, mistake)
                      for chance, total, mistake in ways])
        state = after
    return found
