"""A toy family from one file: `011010=1`, the parity of some bits, step by step the running one.

    cot     <think>0;1;0;0;1;1</think>1<eos>
    direct  </think>1<eos>
"""

import re

import numpy as np

from minireason.core.errors import UserError
from minireason.problems.base import MALFORMED, Problem, Verdict

NAME = "parity"
LEVELS = (1, 2)
SAMPLED = (1, 7)
LEVEL_SYMBOL, LEVEL_NAME = "b", "thirds of a dozen bits"
STYLES = ("direct", "cot")
OPENER = {"direct": "</think>", "cot": "<think>"}
TOKENS = ("0", "1", ";", "=")
_COT = re.compile(r"<think>([01](?:;[01])*)</think>([01])<eos>", re.ASCII)
_DIRECT = re.compile(r"</think>([01])<eos>", re.ASCII)


def max_new(level: int) -> int:
    return 12 + 8 * level


def sample(rng: np.random.Generator, level: int) -> Problem:
    return read("".join(map(str, rng.integers(0, 2, 4 + 4 * level))))


def read(text: str) -> Problem:
    bits = text.strip().removesuffix("=")
    if not re.fullmatch(r"[01]{1,32}", bits, re.ASCII):
        raise UserError(f"cannot read {text[:40]!r}: write some bits such as 0110")
    steps = tuple(str(bits[:end].count("1") % 2) for end in range(1, len(bits) + 1))
    return Problem(f"{bits}=", steps[-1], steps, NAME, len(bits) // 4 - 1, f"parity {bits}")


def render(problem: Problem, style: str) -> str:
    thought = f"<think>{';'.join(problem.steps)}" if style == "cot" else ""
    return f"{thought}</think>{problem.answer}<eos>"


def parse(completion: str) -> tuple[tuple[str, ...], str] | None:
    if match := _DIRECT.fullmatch(completion):
        return (), match[1]
    match = _COT.fullmatch(completion)
    return match and (tuple(match[1].split(";")), match[2])


def answer_key(answer: str) -> str:
    return answer


def is_right(problem: Problem, answer: str) -> bool:
    return answer == problem.answer


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    return [i < len(problem.steps) and step == problem.steps[i] for i, step in enumerate(steps)]


def facts(problem: Problem) -> tuple[str, ...]:
    return problem.steps


def verify(problem: Problem, completion: str) -> Verdict:
    parsed = parse(completion)
    if parsed is None:
        return MALFORMED
    steps, answer = parsed
    marks = tuple(check_steps(problem, steps))
    return Verdict(answer == problem.answer, steps == problem.steps and answer == problem.answer,
                   True, marks)
