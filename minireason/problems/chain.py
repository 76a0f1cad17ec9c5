"""chain: `((23+4)*3)=81`, a chain of exact operations whose level is their number.

The first operand is 1..99, the others 2..9, and every value on the way stays in 0..99, so each
step is one of about 1,900 facts. What grows with the level is only the number of steps: a small
model cannot produce the answer in one step, but step by step it needs one fact at a time.

    cot     <think>23+4=27;27*3=81</think>81<eos>
    direct  </think>81<eos>

A step that `<wrong>` follows in place of `;` is withdrawn, as if it had never been written:
`<think>23+4=28<wrong>23+4=27;27*3=81</think>81<eos>`.
"""

import ast
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import base
from minireason.problems.arithmetic import HIGHEST, NUMBER, OPERATORS, compute, parse_expression
from minireason.problems.authors import Authors, Outcome
from minireason.problems.base import SYMBOLS, Parsed, Problem, Verdict, number_tokens, plain_text
from minireason.problems.mistakes import MISTAKES as MISTAKES
from minireason.problems.mistakes import written_operation

NAME: str = "chain"
LEVELS = tuple(range(1, 13))          # levels with a frozen set: operations
SAMPLED: tuple[int, int] = (1, 99)
LEVEL_SYMBOL: str = "k"
LEVEL_NAME: str = "operations in the expression"
STYLES, OPENER, render = base.STYLES, base.OPENER, base.render
answer_key, is_right, facts = base.answer_key, base.is_right, base.facts
TOKENS = (*number_tokens(2), *SYMBOLS)    # 0..99: one token per number
Compute = Callable[[int, str, int], int | None]    # (value, operator, operand) -> its result
MAX_WITHDRAWN = 8                     # steps that a completion may withdraw

_STEP = re.compile(rf"({NUMBER})([-+*/])({NUMBER})=({NUMBER})")
_STEPS = rf"{NUMBER}[-+*/]{NUMBER}={NUMBER}(?:(?:;|<wrong>){NUMBER}[-+*/]{NUMBER}={NUMBER})*"
_COMPLETION = re.compile(rf"(?:<think>({_STEPS}))?</think>({NUMBER})<eos>")

class Operation(NamedTuple):
    """One operation on a value, and how it is written."""

    operator: str
    right: int
    result: int
    step: str                         # e.g. "23+4=27"
    tail: str                         # e.g. "+4)"


def operation_of(value: int, operator: str, right: int, result: int) -> Operation:
    """The operation with its texts."""
    return Operation(operator, right, result, f"{value}{operator}{right}={result}",
                     f"{operator}{right})")


_MOVES = defaultdict(lambda: defaultdict(list))     # value -> operator -> moves
for _value, _operator, _right in product(range(HIGHEST + 1), "*+-/", range(2, 10)):
    if (_result := compute(_value, _operator, _right)) is not None:
        _MOVES[_value][_operator].append(operation_of(_value, _operator, _right, _result))
_CHOICES = {value: list(moves.values()) for value, moves in _MOVES.items()}


def sample(rng: np.random.Generator, level: int) -> Problem:
    """A chain of `level` operations: operator uniform over the possible, then its operand."""
    first_draw, *draws = rng.random(2 * level + 1).tolist()
    first = value = 1 + int(first_draw * 99)
    moves = []
    for i in range(0, 2 * level, 2):
        operators = _CHOICES[value]
        choices = operators[int(draws[i] * len(operators))]
        move = choices[int(draws[i + 1] * len(choices))]
        value = move.result
        moves.append(move)
    return problem_of(first, moves)


def max_new(level: int) -> int:
    """Tokens of a completion at most: six per step, and room to ramble."""
    return max(64, 8 * level)


def build(first: int, moves: list[tuple[str, int]], compute: Compute = compute,
          name: str = NAME) -> Problem:
    """The problem that starts at `first` and applies the moves; each must be possible.

    compute, name: of the family; modular.py has others.
    """
    value, written = first, []
    for operator, right in moves:
        result = compute(value, operator, right)
        if result is None:
            raise UserError(f"{value}{operator}{right} leaves the numbers that {name} has")
        written.append(operation_of(value, operator, right, result))
        value = result
    return problem_of(first, written, name)


def problem_of(first: int, moves: list[Operation], name: str = NAME) -> Problem:
    """The problem that starts at `first` and makes the moves."""
    operator, right, *_ = moves[0]          # equal problems: a first sum may be written either way
    low, high = (right, first) if operator in "+*" and right < first else (first, right)
    tails = [move.tail for move in moves]
    key = f"{name} {low}{operator}{high} {''.join(tails[1:]).replace(')', ' ')}".rstrip()
    return Problem(f"{'(' * len(moves)}{first}{''.join(tails)}=", str(moves[-1].result),
                   tuple([move.step for move in moves]), name, len(moves), key)


def parse_moves(plain: str, operand: str = "[2-9]") -> tuple[int | None, list, str]:
    """(first number, moves innermost first, "") of an expression without white space.

    The first number is None if it is no chain of such operands; then why, if that can be said.
    """
    node, moves = parse_expression(plain), []
    while isinstance(node, ast.BinOp):
        operator = OPERATORS.get(type(node.op))
        right = plain[node.right.col_offset:node.right.end_col_offset]
        if operator is None or not re.fullmatch(operand, right):
            return None, [], f"{right[:40]} stands to the right of an operator; "
        moves.append((operator, int(right)))
        node = node.left
    first = node.value if isinstance(node, ast.Constant) else None
    return first if isinstance(first, int) else None, moves[::-1], ""


def read(text: str, build: Callable[[int, list], Problem] = build,
         highest: int = HIGHEST) -> Problem:
    """A problem from typed text such as `(23 + 4) * 3`, `((23+4)*3)=` or `23+4-7`."""
    first, moves, why = parse_moves(plain_text(text).removesuffix("="))
    if not moves or first is None or not 1 <= first <= highest:
        raise UserError(f"cannot read {text[:80]!r}: {why}write a chain such as "
                        f"(({min(23, highest)}+4)*3): a number 1 to {highest}, then + - * / with "
                        "2 to 9, innermost first")
    return build(first, moves)


def parse(completion: str) -> Parsed:
    """(steps, answer) of a completion that matches the grammar to its end, else None.

    Withdrawn steps do not count among the steps; more than MAX_WITHDRAWN of them are refused.
    """
    match = _COMPLETION.fullmatch(completion)
    if match is None or completion.count("<wrong>") > MAX_WITHDRAWN:
        return None
    parts = match[1].split(";") if match[1] else []
    return tuple(part.rpartition("<wrong>")[2] for part in parts), match[2]


def withdrawn(completion: str) -> list[tuple[int, str]]:
    """(index of the kept step that stands in its place, step) of every withdrawn step.

    Empty for a completion that parse refuses.
    """
    found = []
    if parse(completion) is not None:
        thought = completion.removeprefix("<think>").partition("</think>")[0]
        for i, part in enumerate(thought.split(";")):
            found += [(i, step) for step in part.split("<wrong>")[:-1]]
    return found


def check_steps(problem: Problem, steps: tuple[str, ...],
                compute: Compute = compute) -> list[bool]:
    """For each step: is it the next operation on the state before it, computed exactly?

    The state is the value that the step before it claimed, so that one wrong step is counted once.
    """
    marks, state = [], None
    for i, step in enumerate(steps):
        match = _STEP.fullmatch(step)
        expected = _STEP.fullmatch(problem.steps[i]) if i < len(problem.steps) else None
        marks.append(match is not None and expected is not None
                     and match[1] == (state or expected[1])
                     and match.group(2, 3) == expected.group(2, 3)
                     and compute(int(match[1]), match[2], int(match[3])) == int(match[4]))
        state = match[4] if match else None
    return marks


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    return base.stepwise_verdict(problem, parse(completion), check_steps)


# ---- fallible authors (authors.py): a state is the author's own value ----------------------------

def outcomes(problem: Problem, authors: Authors, number: int,
             state: int | None) -> list[Outcome]:
    """The ways in which an author may write step `number` on his own value."""
    if number == len(problem.steps):
        return []
    value, operator, right = _operation(problem.steps[number])
    return written_operation(authors, value if state is None else state, operator, right)


def answer_of_state(problem: Problem, state: int) -> str:
    """His last value."""
    return str(state)


@cache
def _operation(step: str) -> tuple[int, str, int]:
    """(value, operator, operand) of a step, whatever its result."""
    operation = step.partition("=")[0]
    return int(operation[:-2]), operation[-2], int(operation[-1])


def log_probability(problem: Problem) -> float:
    """log P(`sample` gives this problem), given its level."""
    total = -math.log(HIGHEST)
    for value, operator, _ in map(_operation, problem.steps):
        total -= math.log(len(_MOVES[value]) * len(_MOVES[value][operator]))
    return total


def problems_of_facts(facts: list[str]) -> Iterator[tuple[Problem, list[str]]]:
    """For each order of these facts, right or wrong, that is a chain: (problem, facts in order)."""
    operations = [_operation(fact) for fact in facts]

    def chains(order: list[int], value: int) -> Iterator[list[int]]:
        if len(order) == len(facts):
            yield order
        for i, (left, operator, right) in enumerate(operations):
            if i not in order and (left == value or not order):
                yield from chains([*order, i], compute(left, operator, right) or 0)

    for order in chains([], 0):
        first = operations[order[0]][0]
        if first > 0:
            yield build(first, [operations[i][1:] for i in order]), [facts[i] for i in order]
