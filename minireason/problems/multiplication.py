"""multiplication: `12*34=`, n by n digits, as Deng 2024 (arXiv:2405.14838) writes it.

Level n is the number of digits of each number. What the model writes has its lowest digit first
and a fixed width, filled up with zeros: a step per digit of the second number, its partial product
and, in brackets, the running sum; the answer is the last running sum.

    cot     3719*3349=<think>17433;067841(132281);0075111(1397921);00075111</think>(13945421)<eos>
    direct  3719*3349=</think>(13945421)<eos>

Differences from the paper: `;` stands for ` + `, `</think>` for `####`, digits are tokens without
spaces between them, and the two numbers stand in the usual order, as a user types them. An answer
without brackets is read in the usual order. Solutions are written exactly: this family has no
fallible authors (authors.py).
"""

import re
from dataclasses import replace

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import base
from minireason.problems.base import SYMBOLS, Parsed, Problem, Verdict, number_tokens, plain_text

NAME: str = "multiplication"
LEVELS: tuple[int, ...] = (2, 3, 4)   # levels with a frozen set: digits
SAMPLED: tuple[int, int] = (1, 9)
LEVEL_SYMBOL: str = "d"
LEVEL_NAME: str = "digits of each number"
STYLES, OPENER = base.STYLES, base.OPENER
answer_key, is_right = base.answer_key, base.is_right
TOKENS = (*number_tokens(1), *SYMBOLS)

_NUMBER, _DIGITS = "[1-9][0-9]*", "[0-9]{1,99}"
_STEP = re.compile(rf"({_DIGITS})(?:\(({_DIGITS})\))?")
_STEPS = rf"{_DIGITS}(?:\({_DIGITS}\))?(?:;{_DIGITS}(?:\({_DIGITS}\))?)*"
_REVERSED = r"\(((?:[0-9]{2})*(?:[0-9][1-9]|[1-9]0))\)"       # the one width that 2n digits allow
_COMPLETION = re.compile(rf"(?:<think>({_STEPS}))?</think>(?:{_REVERSED}|({_NUMBER}))<eos>")


def sample(rng: np.random.Generator, level: int) -> Problem:
    """Two numbers of `level` digits, uniform."""
    a, b = rng.integers(10 ** (level - 1), 10 ** level, 2).tolist()
    return build(a, b)


def max_new(level: int) -> int:
    """Tokens of a completion at most: the whole thought's, and a little room."""
    return 16 + 3 * level * (level + 1)


def build(a: int, b: int) -> Problem:
    """The problem a*b of two numbers with equally many digits."""
    low, high = sorted((a, b))
    steps: list[str] = []
    while (step := _expected(a, b, len(steps), _sum_after(steps))) is not None:
        steps.append(step)
    return Problem(f"{a}*{b}=", str(a * b), tuple(steps), NAME, len(str(a)),
                   f"multiplication {low}*{high}")


def read(text: str) -> Problem:
    """A problem from typed text such as `12 * 34` or `12*34=`."""
    match = re.fullmatch(rf"({_NUMBER})\*({_NUMBER})=?", plain_text(text))
    if match is None or len(match[1]) != len(match[2]) or len(match[1]) > SAMPLED[1]:
        raise UserError(f"cannot read {text[:80]!r}: write a product of two whole numbers with "
                        f"equally many digits, 1 to {SAMPLED[1]}, such as 12*34")
    return build(int(match[1]), int(match[2]))


def _written(value: int, width: int) -> str:
    """Its digits, the lowest first, filled up with zeros."""
    return str(value)[::-1].ljust(width, "0")


def _expected(a: int, b: int, i: int, total: int) -> str | None:
    """Step number i, computed from the running sum before it; None after the last."""
    digits = str(b)[::-1]
    if i >= len(digits):
        return None
    width = len(digits) + 1 + i
    partial = a * int(digits[i]) * 10 ** i
    shown = _written(partial, width)
    if 0 < i < len(digits) - 1:           # the first sum is the product, the last one the answer
        shown += f"({_written(total + partial, width)})"
    return shown


def _sum_after(steps: list[str]) -> int:
    """The running sum that the last well-formed step claims, 0 before the first step."""
    for step in reversed(steps):
        if match := _STEP.fullmatch(step):
            return int((match[2] or match[1])[::-1])
    return 0


def render(problem: Problem, style: str) -> str:
    """The ideal completion in the style, from its opener to <eos>."""
    written = _written(int(problem.answer), 2 * problem.level)
    return base.render(replace(problem, answer=f"({written})"), style)


def parse(completion: str) -> Parsed:
    """(steps, answer in the usual order) of a completion that matches the grammar, else None."""
    match = _COMPLETION.fullmatch(completion)
    if match is None:
        return None
    answer = match[3] or match[2][::-1].removeprefix("0")
    return tuple(match[1].split(";")) if match[1] else (), answer


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it exactly the next one, from the running sum that the one before claims?

    So one wrong step is counted once.
    """
    a, b = map(int, problem.prompt.removesuffix("=").split("*"))
    return [step == _expected(a, b, i, _sum_after(list(steps[:i])))
            for i, step in enumerate(steps)]


def facts(problem: Problem) -> tuple[str, ...]:
    """The products of its digits, such as `7*9=63`."""
    a, b = problem.prompt.removesuffix("=").split("*")
    return tuple(f"{x}*{y}={int(x) * int(y)}" for y in reversed(b) for x in reversed(a))


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    return base.stepwise_verdict(problem, parse(completion), check_steps)


def running_sums(problem: Problem) -> tuple[int, ...]:
    """For each digit k of a direct answer, the sum that it is the last digit of (Bai 2025).

    c_k = sum of a_i b_(k-i) over i, and floor(c_(k-1) / 10), the carry (arXiv:2510.00184).
    """
    a, b = (number[::-1] for number in problem.prompt.removesuffix("=").split("*"))
    sums, carry = [], 0
    for k in range(2 * problem.level):
        total = carry
        for i in range(max(0, k - len(b) + 1), min(k + 1, len(a))):
            total += int(a[i]) * int(b[k - i])
        sums.append(total)
        carry = total // 10
    return tuple(sums)
