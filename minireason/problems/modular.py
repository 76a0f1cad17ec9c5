"""modular: `((3+4)*5)=5`, chains of operations on digits, each result modulo 10.

The smallest task with several steps: what lies between question and answer is one digit per step,
so one random thought in ten holds the digit that a two-step question needs. A first operand is
1..9, the others 2..9, the operators are + - *; a step is one of 240 facts. Text, steps and
grammar are those of chain.py; larger numbers match its grammar and are wrong. Solutions are
written exactly: this family has no fallible authors (authors.py).

    cot     <think>3+4=7;7*5=5</think>5<eos>
    direct  </think>5<eos>
"""

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import chain
from minireason.problems.base import SYMBOLS, Problem, Verdict, number_tokens, stepwise_verdict

NAME: str = "modular"
LEVELS: tuple[int, ...] = (1, 2, 3, 4)
LEVEL_SYMBOL, LEVEL_NAME, SAMPLED = chain.LEVEL_SYMBOL, chain.LEVEL_NAME, chain.SAMPLED
STYLES, OPENER, render, parse = chain.STYLES, chain.OPENER, chain.render, chain.parse
facts, max_new, withdrawn = chain.facts, chain.max_new, chain.withdrawn
answer_key, is_right = chain.answer_key, chain.is_right
TOKENS = (*number_tokens(1), *SYMBOLS)
MODULUS = 10


def compute(left: int, operator: str, right: int) -> int:
    """The exact value modulo 10."""
    if operator == "/":
        raise UserError("modular: there is no division modulo 10; write + - or *")
    return {"+": left + right, "-": left - right, "*": left * right}[operator] % MODULUS


def build(first: int, moves: list[tuple[str, int]]) -> Problem:
    """The problem that starts at `first` and applies the moves."""
    return chain.build(first, moves, compute, NAME)


def sample(rng: np.random.Generator, level: int) -> Problem:
    """A chain of `level` operations, all uniform."""
    first, *draws = rng.random(2 * level + 1).tolist()
    moves = [("+-*"[int(3 * draws[2 * i])], 2 + int(8 * draws[2 * i + 1])) for i in range(level)]
    return build(1 + int(9 * first), moves)


def read(text: str) -> Problem:
    """A problem from typed text such as `(3 + 4) * 5` or `((3+4)*5)=`."""
    return chain.read(text, build, 9)


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """As chain's, computed modulo 10."""
    return chain.check_steps(problem, steps, compute)


def verify(problem: Problem, completion: str) -> Verdict:
    """As chain's, computed modulo 10."""
    return stepwise_verdict(problem, parse(completion), check_steps)
