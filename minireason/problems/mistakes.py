"""Mistakes in one operation on whole numbers 0..99: ten rules by which people err, and slips.

Children's errors are systematic: a procedure applied wrongly, the same way each time (Brown and
Burton 1978, BUGGY; VanLehn 1990, Mind Bugs). A rule falls on an operation whose sign and second
operand it names, where the right calculation would carry or borrow; at most one rule falls. A
wrong result that equals the right one or leaves 0..99 is no mistake. chain.py and countdown.py
write by these rules.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from minireason.problems.arithmetic import HIGHEST, compute
from minireason.problems.authors import SLIP, Authors, Outcome

NEAR_MISS = (-10, -2, -1, 1, 2, 10)   # a slip is off by one of these
LEFT_OUT = "left out"


class Rule(NamedTuple):
    """One wrong procedure."""

    name: str
    example: str
    operator: str
    digits: str                       # last digits of the second operand on which it falls
    wrong: Callable[[int, int], int]  # (left, right) -> the result it gives
    is_rare: bool = False


def _tens_up(number: int) -> int:
    return -(-number // 10) * 10


RULES = (
    Rule("carry forgotten", "27+5=22", "+", "2345", lambda a, b: a + b - 10),
    Rule("carried twice", "27+6=43", "+", "67", lambda a, b: a + b + 10),
    Rule("ten added instead", "27+8=37", "+", "89", lambda a, b: a + _tens_up(b), True),
    Rule("smaller digit from larger", "41-3=42", "-", "2345",
         lambda a, b: 10 * (a // 10 - b // 10) + abs(a % 10 - b % 10)),
    Rule("borrow not paid back", "42-7=45", "-", "67", lambda a, b: a - b + 10),
    Rule("ten taken instead", "42-8=32", "-", "89", lambda a, b: a - _tens_up(b), True),
    Rule("next row of the table", "8*6=56", "*", "67", lambda a, b: a * (b + 1)),
    Rule("row before in the table", "7*8=49", "*", "89", lambda a, b: a * (b - 1), True),
    Rule("half of an odd ten dropped", "34/2=12", "/", "2",
         lambda a, b: a // 20 * 10 + a % 10 // 2),
    Rule("quotient one too large", "27/3=10", "/", "34", lambda a, b: a // b + 1, True),
)
MISTAKES = {rule.name: f"{rule.name}: {rule.example}" for rule in RULES} | {
    SLIP: f"{SLIP}: 27+5=31, a random near miss",
    LEFT_OUT: f"{LEFT_OUT}: 25/3=25, an operation that his own wrong number does not allow"}

UNCARRIED = {      # {operator: (name, example)} of results of long operations without their carries
    "+": ("carry not added", "28+47=65"), "-": ("smaller digit from larger", "41-23=22"),
    "*": ("carry of a product not added", "47*8=326")}


def rule_of(left: int, operator: str, right: int) -> Rule | None:
    """The rule that falls on an operation with a result, if there is one."""
    exact = compute(left, operator, right)
    crosses = {"+": left % 10 + right % 10 > 9, "-": left % 10 < right % 10}.get(operator, True)
    if exact is None or not crosses:
        return None
    for rule in RULES:
        if rule.operator == operator and str(right)[-1] in rule.digits:
            if operator in "*/" and right > 9:
                return None           # rules about rows of the table are about one digit
            wrong = rule.wrong(left, right)
            return rule if wrong != exact and 0 <= wrong <= HIGHEST else None
    return None


def weighted(authors: Authors, right: int, near: list[int], mistake: str = "",
             rule: tuple[str, bool, int] | None = None) -> list[tuple[float, int, str]]:
    """[(probability, result, mistake)], the most probable first; no result stands twice.

    A rule, (name, is it rare, its result), has its chance; of the rest, slips share theirs among
    the near misses. mistake: what `right` itself is called.
    """
    name, is_rare, wrong = rule or ("", False, None)
    chance = 0.0 if wrong is None else authors.rare if is_rare else authors.rule
    missed = [result for result in near if result != wrong]
    found = [(chance, wrong, name), ((1 - chance) * (1 - authors.slip), right, mistake)]
    found += [((1 - chance) * authors.slip / len(missed), result, SLIP) for result in missed]
    return sorted((one for one in found if one[0] > 0), reverse=True)


def near_misses(result: int, highest: int = HIGHEST) -> list[int]:
    """The results that a slip may give instead."""
    return [result + by for by in NEAR_MISS if 0 <= result + by <= highest]


def stated_outcomes(authors: Authors, operation: tuple[int, str, int], exact: int | None,
                    highest: int, rule: tuple[str, bool, int] | None) -> list[Outcome]:
    """The ways in which an author may write an operation, the most probable first.

    He goes on from its result. Where no exact one exists, which only his own earlier mistake can
    bring about, he leaves the operation out. highest: value there is; rule: as for `weighted`.
    """
    stated, why = (operation[0], LEFT_OUT) if exact is None else (exact, "")
    head, near = "".join(map(str, operation)), near_misses(stated, highest)
    return [Outcome(chance, f"{head}={result}", result, mistake)
            for chance, result, mistake in weighted(authors, stated, near, why, rule)]


@cache
def written_operation(authors: Authors, left: int, operator: str, right: int) -> list[Outcome]:
    """`stated_outcomes` of an operation on numbers 0..99, by the rules above."""
    exact, rule = compute(left, operator, right), rule_of(left, operator, right)
    named = rule and (rule.name, rule.is_rare, rule.wrong(left, right))
    return stated_outcomes(authors, (left, operator, right), exact, HIGHEST, named)


def without_carries(left: int, operator: str, right: int) -> tuple[int, int]:
    """(result if nothing is carried or borrowed, how often something should be), digit by digit.

    The highest digit's result stands whole. A product is one by a digit.
    """
    top = len(str(left if operator == "*" else max(left, right))) - 1
    wrong, carries, carry = 0, 0, 0
    for i in range(top + 1):
        a, b = left // 10 ** i % 10, right if operator == "*" else right // 10 ** i % 10
        here = {"+": a + b, "-": abs(a - b), "*": a * b}[operator]
        wrong += (here if i == top else here % 10) * 10 ** i
        carry = int(a - b - carry < 0) if operator == "-" else (here + carry) // 10
        carries += carry > 0
    return wrong, carries
