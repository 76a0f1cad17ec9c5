"""chain: `((23+4)*3)=81`, a chain of exact operations whose level is their number.

The first operand is 1..99, the others 2..9, and every value on the way stays in 0..99, so each
step is one of about 1,900 facts. What grows with the level is only the number of steps: directly,
the answer is out of a small model's reach; step by step, it needs one fact at a time.

    cot     <think>23+4=27;27*3=81</think>81<eos>
    direct  </think>81<eos>

A step that `<wrong>` follows in place of `;` is withdrawn, as if it had never been written:
`<think>23+4=28<wrong>23+4=27;27*3=81</think>81<eos>`.
"""

import ast
import re

import numpy as np

from minireason.core.config import UserError
from minireason.problems.arithmetic import HIGHEST, LOWEST, OPERATORS, compute, parse_expression
from minireason.problems.base import MALFORMED, SYMBOLS, Problem, Verdict, number_tokens

NAME = "chain"
LEVELS = tuple(range(1, 9))           # levels with a frozen set: operations
LEVEL_SYMBOL, LEVEL_NAME = "k", "operations in the expression"
STYLES = ("direct", "cot")
OPENER = {"cot": "<think>", "direct": "</think>"}
TOKENS = (*number_tokens(2), *SYMBOLS)    # 0..99: one token per number
MAX_WITHDRAWN = 8                     # steps that a completion may withdraw

_NUMBER = r"(?:0|[1-9]\d?)"
_PLAIN = rf"{_NUMBER}[-+*/]{_NUMBER}={_NUMBER}"
_STEP = re.compile(rf"({_NUMBER})([-+*/])({_NUMBER})=({_NUMBER})", re.ASCII)
_COT = re.compile(rf"<think>({_PLAIN}(?:(?:;|<wrong>){_PLAIN})*)</think>({_NUMBER})<eos>", re.ASCII)
_DIRECT = re.compile(rf"</think>({_NUMBER})<eos>", re.ASCII)

_MOVES = {value: tuple((operator, right, result) for operator in "+-*/" for right in range(2, 10)
                       if (result := compute(value, operator, right)) is not None)
          for value in range(LOWEST, HIGHEST + 1)}
_BY_OPERATOR = {value: {operator: tuple(move for move in moves if move[0] == operator)
                        for operator in sorted({move[0] for move in moves})}
                for value, moves in _MOVES.items()}


def sample(rng: np.random.Generator, level: int) -> Problem:
    """A chain of `level` operations: operator uniform over the possible, then its operand."""
    draws = rng.random(2 * level + 1).tolist()
    first = value = 1 + int(draws[0] * 99)
    moves = []
    for i in range(level):
        by_operator = _BY_OPERATOR[value]
        operators = tuple(by_operator)
        choices = by_operator[operators[int(draws[2 * i + 1] * len(operators))]]
        operator, right, value = choices[int(draws[2 * i + 2] * len(choices))]
        moves.append((operator, right))
    return build(first, moves)


def max_new(level: int) -> int:
    """Tokens of a completion at most: six per step, and room to ramble."""
    return max(64, 8 * level)


def build(first: int, moves: list[tuple[str, int]]) -> Problem:
    """The problem that starts at `first` and applies the moves; each must be possible."""
    value, text, steps = first, str(first), []
    for operator, right in moves:
        result = compute(value, operator, right)
        if result is None:
            raise UserError(f"{value}{operator}{right} leaves the whole numbers {LOWEST} to "
                            f"{HIGHEST}")
        steps.append(f"{value}{operator}{right}={result}")
        text = f"({text}{operator}{right})"
        value = result
    operator, right = moves[0]              # equal problems: a first sum may be written either way
    head = sorted((first, right)) if operator in "+*" else (first, right)
    key = f"chain {head[0]}{operator}{head[1]}" + "".join(f" {o}{r}" for o, r in moves[1:])
    return Problem(text + "=", str(value), tuple(steps), NAME, len(moves), key)


def read(text: str) -> Problem:
    """A problem from typed text such as `(23 + 4) * 3`, `((23+4)*3)=` or `23+4-7`."""
    hint = ("write a chain such as ((23+4)*3): a number 1 to 99, then + - * / with 2 to 9, "
            "innermost first")
    node = parse_expression(re.sub(r"\s+", "", text).removesuffix("="))
    moves: list[tuple[str, int]] = []
    while isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
        operator, right = OPERATORS.get(type(node.op)), node.right.value
        if operator is None or not isinstance(right, int) or not 2 <= right <= 9:
            break
        moves.append((operator, right))
        node = node.left
    first = node.value if isinstance(node, ast.Constant) else None
    if not moves or not isinstance(first, int) or not 1 <= first <= HIGHEST:
        raise UserError(f"cannot read {text[:80]!r}: {hint}")
    return build(first, moves[::-1])



def render(problem: Problem, style: str) -> str:
    """The ideal completion in the style, from its opener to <eos>."""
    if style == "direct":
        return f"</think>{problem.answer}<eos>"
    return f"<think>{';'.join(problem.steps)}</think>{problem.answer}<eos>"


def parse(completion: str) -> tuple[tuple[str, ...], str] | None:
    """(steps, answer) of a completion that matches the grammar to its end, else None.

    Withdrawn steps do not count among the steps; more than MAX_WITHDRAWN of them are refused.
    """
    if match := _DIRECT.fullmatch(completion):
        return (), match[1]
    match = _COT.fullmatch(completion)
    if match is None or completion.count("<wrong>") > MAX_WITHDRAWN:
        return None
    return tuple(part.rpartition("<wrong>")[2] for part in match[1].split(";")), match[2]


def withdrawn(completion: str) -> list[tuple[int, str]]:
    """(index of the kept step that stands in its place, step) of every withdrawn step.

    Empty for a completion that parse refuses.
    """
    if parse(completion) is None or "<wrong>" not in completion:
        return []
    thought = completion.removeprefix("<think>").partition("</think>")[0]
    return [(i, step) for i, part in enumerate(thought.split(";"))
            for step in part.split("<wrong>")[:-1]]


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it the next operation on the state before it, computed exactly?

    The state is the value that the step before it claimed, so that one wrong step is counted once.
    """
    marks, state = [], None
    for i, step in enumerate(steps):
        match = _STEP.fullmatch(step)
        expected = _STEP.fullmatch(problem.steps[i]) if i < len(problem.steps) else None
        right_step = (match is not None and expected is not None
                      and match[2] == expected[2] and match[3] == expected[3]
                      and match[1] == (state if state is not None else expected[1])
                      and compute(int(match[1]), match[2], int(match[3])) == int(match[4]))
        marks.append(right_step)
        state = match[4] if match else None
    return marks


def facts(problem: Problem) -> tuple[str, ...]:
    """Its steps, each a fact of arithmetic."""
    return problem.steps


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    parsed = parse(completion)
    if parsed is None:
        return MALFORMED
    steps, answer = parsed
    marks = check_steps(problem, steps)
    complete = len(steps) == len(problem.steps) and all(marks)
    steps_valid = complete and steps[-1].partition("=")[2] == answer
    return Verdict(answer == problem.answer, steps_valid, True, tuple(marks))
