"""program: `5>x=x*3,?x>9:x=x-4=`, what a program (interpreter.py) gives for an input.

Level n is the length of the program in parts: assignments, comparisons and repeats. A step is one
instruction with its values; a comparison gives 1 or 0:

    cot     <think>x=5*3=15;15>9=1;x=15-4=11</think>11<eos>
    direct  </think>11<eos>

Programs are held out whole, with every input. synthesis.py asks the other way round, for a program
from examples.
"""

import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import base
from minireason.problems.arithmetic import HIGHEST, NUMBER, compute
from minireason.problems.authors import SLIP, Authors, Outcome
from minireason.problems.base import Problem, Verdict, number_tokens, plain_text
from minireason.problems.interpreter import (
    INPUTS,
    MOST_STATEMENTS,
    PROGRAM,
    STEP_LIMIT,
    Instruction,
    Values,
    code_of,
    length,
    running,
)
from minireason.problems.mistakes import LEFT_OUT, RULES, written_operation

NAME: str = "program"
LEVELS: tuple[int, ...] = tuple(range(1, 7))      # levels with a frozen set: parts
SAMPLED: tuple[int, int] = (1, 16)
LEVEL_SYMBOL: str = "p"
LEVEL_NAME: str = "parts of the program"
STYLES, OPENER, render = base.STYLES, base.OPENER, base.render
answer_key, is_right, facts = base.answer_key, base.is_right, base.facts
TOKENS = (*number_tokens(2), *"+-*=;,:><?xy")
ROOM = 4                              # instructions beyond its level that a sampled run may take

_SET = re.compile(rf"([xy])=({NUMBER})([-+*])({NUMBER})=({NUMBER})")
_STEP = rf"(?:[xy]={NUMBER}[-+*]{NUMBER}={NUMBER}|{NUMBER}[<>]{NUMBER}=[01])"
_COMPLETION = re.compile(rf"(?:<think>({_STEP}(?:;{_STEP})*))?</think>({NUMBER})<eos>")
parse = partial(base.parse_by, _COMPLETION)


def _random_statement(draws: Iterator[float], prefixes: int, values: Values, last: bool) -> str:
    """A statement behind so many prefixes; comparisons are with a number near the value now."""
    text = ""
    for _ in range(prefixes):
        repeats, count, of, sign, by = (next(draws) for _ in range(5))
        near = min(HIGHEST, max(0, values[of < 0.3] + int(11 * by) - 5))
        text += f"{2 + int(2 * count)}:" if repeats < 0.4 else (
            f"?{'xy'[of < 0.3]}{'><'[sign < 0.5]}{near}:")
    target, left, sign, variable, number = (next(draws) for _ in range(5))
    operands = "xy" if left < 0.7 else "yx"
    right = operands[1] if variable < 0.3 else 2 + int(8 * number)
    return f"{text}{'xy'[target < 0.3 and not last]}={operands[0]}{'+-*'[int(3 * sign)]}{right}"


def sample(rng: np.random.Generator, level: int) -> Problem:
    """Statement by statement, each drawn again until the run stays in 0..99 and is short enough.

    Half of the statements have no prefix, a third one, the others two.
    """
    while True:
        value = int(rng.integers(INPUTS[0], INPUTS[-1] + 1))
        statements, left, steps, values = [], level, 0, (value, value)
        for _ in range(10 * level):
            many, *draws = rng.random(16).tolist()
            prefixes = min(left - 1, (many > 0.5) + (many > 0.83))
            text = _random_statement(iter(draws), prefixes, values, left == prefixes + 1)
            ran = list(running(text, values))
            if ran[-1][1] is None or steps + len(ran) > level + ROOM:
                continue
            statements.append(text)
            left, steps, values = left - prefixes - 1, steps + len(ran), ran[-1][1]
            if left == 0:
                return build(value, ",".join(statements))


def max_new(level: int) -> int:
    """Tokens of a completion at most: eight per step of the longest run, and a little room."""
    return 8 * (level + ROOM + 1)


def build(value: int, program: str) -> Problem:
    """The problem of a program and its input; UserError if it gives no output."""
    ran = list(running(program, (value, value))) or [("", None)]
    if ran[-1][1] is None:
        step = ran[-1][0].removesuffix("=None")
        why = f"{step} leaves 0 to {HIGHEST}" if step else f"more than {STEP_LIMIT} instructions"
        raise UserError(f"{value}>{program[:80]}: has no output ({why})")
    return Problem(f"{value}>{program}=", str(ran[-1][1][0]), tuple(step for step, _ in ran), NAME,
                   length(program), f"{NAME} {value}>{program}", f"{NAME} {program}")


def read(text: str) -> Problem:
    """A problem from typed text such as `5 > x=x*3, ?x>9: x=x-4`."""
    match = re.fullmatch(rf"({NUMBER})>(.*?)=?", plain_text(text))
    if match is None or not re.fullmatch(PROGRAM, match[2]):
        raise UserError(f"cannot read {text[:80]!r}: write an input and up to {MOST_STATEMENTS} "
                        "statements, such as 5>x=x*3,?x>9:x=x-4,2:x=x+y")
    return build(int(match[1]), match[2])


def _given(problem: Problem) -> tuple[int, tuple[Instruction, ...]]:
    """(input, instructions), as the prompt has them."""
    value, _, program = problem.prompt.removesuffix("=").partition(">")
    return int(value), code_of(program)


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it the next instruction on the values before it, computed exactly?

    What a step claims is taken as it stands, a value as a branch, so that one wrong step is counted
    once; a step of another kind than the next instruction passes over it.
    """
    value, code = _given(problem)
    marks, number, values = [], 0, (value, value)
    for step in steps:
        if number >= len(code):
            marks.append(False)
            continue
        one, claimed = code[number], _SET.fullmatch(step)
        marks.append(step == one.written(one.operands(values), one.result(values)))
        if claimed:
            _, values = Instruction(claimed[1], "", "", "").after(0, values, int(claimed[5]))
        number += 1 + one.skip * (not claimed and step[-2:] == "=0")
    return marks


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    return base.stepwise_verdict(problem, parse(completion), check_steps)


# ---- fallible authors (authors.py) ---------------------------------------------------------------
# They calculate as in mistakes.py. A state is (number of the instruction, values, and those before
# the last step, where a round may be taken from them).

EQUAL, SIGN = "equal is beyond", "< read as >"
OLD_Y, OLD_ROUND = "y still the input", "round from the old value"
MISTAKES = {rule.name: f"{rule.name}: {rule.example}" for rule in RULES if rule.operator != "/"} | {
    SLIP: f"{SLIP}: 27+5=31, a random near miss", LEFT_OUT: f"{LEFT_OUT}: 3-9=3",
    EQUAL: f"{EQUAL}: 7>7=1", SIGN: f"{SIGN}: 4<9=0", OLD_Y: f"{OLD_Y}: x=9+5=14, where y is 8",
    OLD_ROUND: f"{OLD_ROUND}: x=5+2=7 twice"}


def outcomes(problem: Problem, authors: Authors, number: int,
             state: tuple[int, Values, Values] | None) -> list[Outcome]:
    """The ways in which an author may write the step after his own ones, likeliest first."""
    value, code = _given(problem)
    at, values, before = state or (0, (value, value), (value, value))
    if at >= len(code):
        return []
    one, found = code[at], []
    a, b = one.operands(values)

    def way(chance: float, operands: Values, result: int, mistake: str) -> None:
        following, after = one.after(at, values, result)
        kept = values if following < len(code) and code[following].again else after
        found.append(Outcome(chance, one.written(operands, result), (following, after, kept),
                             mistake))

    if not one.target:
        truth = one.result(values) or 0
        chance, name = (authors.rule, EQUAL) if a == b else (
            authors.rare, SIGN) if one.operator == "<" else (authors.slip, SLIP)
        way(1 - chance, (a, b), truth, "")
        way(chance, (a, b), 1 - truth, name)
    else:
        stale, chance, name = (a, value), authors.rule, OLD_Y
        if one.right != "y" or b == value:
            stale, chance, name = (one.operands(before)[0], b), authors.rare, OLD_ROUND
        old = compute(stale[0], one.operator, stale[1])
        if stale == (a, b) or old is None or (name == OLD_ROUND and not one.again):
            chance = 0.0
        else:
            way(chance, stale, old, name)
        for operation in written_operation(authors, a, one.operator, b):
            way((1 - chance) * operation.probability, (a, b), int(str(operation.state)),
                operation.mistake)
    return sorted((one for one in found if one.probability > 0), reverse=True)


def answer_of_state(problem: Problem, state: tuple[int, Values, Values]) -> str:
    """His last x."""
    return str(state[1][0])
