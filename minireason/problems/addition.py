"""addition: `128+367=495`, n digits long, in the data formats of Lee 2023 (arXiv:2307.03381).

The idea of the paper: the same sums, written so that each next token follows from few earlier
ones, need far fewer examples. Level n is the number of digits of the longer operand.

    plain       </think>495<eos>
    reverse     </think>$594$<eos>                        lowest digit first, between the paper's $
    simplified  <think>A->5 , C->1;A->9 , C->0;A->4 , C->0.</think>495<eos>
    detailed    <think>[1,2,8] has 3 digits.;[3,6,7] has 3 digits.;
                [1,2,8] + [3,6,7] , A=[] , C=0 , 8+7+0=15 , A->5 , C->1; ...
                [] + [] , A=[4,9,5] C=0 , END</think>495<eos>
    star        <think>1 2 8 + 3 6 7 , C: 0;1 2 + 3 6 , 5 C: 1; ... ;0 4 9 5</think>495<eos>

`star` is the scratchpad of STaR (Zelikman 2022, arXiv:2203.14465). Differences from the papers: a
line break is `;`; our openers stand for `Target:` and `<scratch>`; the `$` embrace the answer, not
the whole line, which is what tells a reversed answer from a plain one; the answer after a
scratchpad is never spaced. `direct` and `cot` also name `plain` and `simplified`.
"""

import math
import re
from collections.abc import Iterator
from itertools import permutations

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import base, columns
from minireason.problems.base import MALFORMED, SYMBOLS, Problem, Verdict, number_tokens, plain_text
from minireason.problems.columns import State, column, start

NAME: str = "addition"
LEVELS = tuple(range(1, 8))           # levels with a frozen set: digits
SAMPLED: tuple[int, int] = (1, 18)
LEVEL_SYMBOL: str = "d"
LEVEL_NAME: str = "digits of the longer number"
STYLES: tuple[str, ...] = ("plain", "reverse", "simplified", "detailed", "star")
ALIASES = {"direct": "plain", "cot": "simplified"}
OPENER = dict.fromkeys((*STYLES, *ALIASES), "<think>")
OPENER |= dict.fromkeys(("plain", "reverse", "direct"), "</think>")
TOKENS = (*number_tokens(1), *SYMBOLS)    # every digit is a token, so carries must be learned
MAX_DIGITS = 20
answer_key, is_right = base.answer_key, base.is_right

_NUMBER = "(?:0|[1-9][0-9]*)"
_LIST, _SPACED = r"\[((?:[0-9](?:,[0-9])*)?)\]", "([0-9](?: [0-9])*)"    # [1,2,8] or [], 1 2 8
_HEAD = rf"{_LIST} has [0-9]+ digits\."
_SIMPLE = "A->([0-9]) , C->([01])"
_LINE = rf"{_LIST} \+ {_LIST} , A={_LIST} , C=[01] , [0-9]\+[0-9]\+[01]=1?[0-9] , {_SIMPLE}"
_END = rf"\[\] \+ \[\] , A={_LIST} C=[01] , END"
_STAR = rf"(?:{_SPACED} \+ {_SPACED} )?, (?:{_SPACED} )?C: ([01])"
_CLAIM = {"simplified": _SIMPLE, "detailed": _LINE, "star": _STAR}    # steps that claim a state
_THOUGHT = (rf"{_SIMPLE}(?:;{_SIMPLE})*\.|{_HEAD};{_HEAD};(?:{_LINE};)*{_END}"
            rf"|(?:{_STAR};)*[01](?: [0-9])+")
_COMPLETION = re.compile(rf"(?:<think>(?P<thought>{_THOUGHT}))?</think>(?P<answer>{_NUMBER})<eos>"
                         r"|</think>\$(?P<reversed>0|[0-9]*[1-9])\$<eos>")


def sample(rng: np.random.Generator, level: int) -> Problem:
    """Two numbers uniform among the pairs whose longer one has `level` digits."""
    while True:
        a, b = rng.integers(0, 10 ** level, 2).tolist()
        if len(str(max(a, b))) == level:
            return build(a, b)


def max_new(level: int) -> int:
    """Tokens of a completion at most: the detailed scratchpad's, and a little room."""
    return 80 + 60 * level + 3 * level ** 2


def build(a: int, b: int) -> Problem:
    """The problem a+b; its steps are the simplified scratchpad."""
    low, high = sorted((a, b))
    steps = _steps(f"{a}+{b}=", "simplified")
    return Problem(f"{a}+{b}=", str(a + b), steps, NAME, len(str(high)), f"addition {low}+{high}")


def read(text: str) -> Problem:
    """A problem from typed text such as `128 + 367` or `128+367=`."""
    match = re.fullmatch(rf"({_NUMBER})\+({_NUMBER})=?", plain_text(text))
    if match is None or max(map(len, match.groups())) > MAX_DIGITS:
        raise UserError(f"cannot read {text[:80]!r}: write a sum of two whole numbers of up to "
                        f"{MAX_DIGITS} digits such as 128+367, without leading zeros")
    return build(int(match[1]), int(match[2]))


# ---- scratchpads: states are those of columns.py ------------------------------------------------

def _expected(operands: list[str], style: str, i: int, state: State | None) -> str | None:
    """Step number i of the style, computed from the state before it; None after the last."""
    columns = max(map(len, operands))
    if state is None or i >= columns + {"simplified": 0, "detailed": 3, "star": 2}[style]:
        return None
    x, y, answer, carry = state
    a, b, total, _ = column(state)
    if style == "simplified":
        return f"A->{total % 10} , C->{total // 10}"
    if style == "star":
        if i == columns + 1:
            return " ".join(f"{carry}{answer}")
        left = f"{' '.join(x)} + {' '.join(y)} " if x or y else ""
        return f"{left}, {' '.join(answer)}{' ' if answer else ''}C: {carry}"
    if i < 2:
        return f"[{','.join(operands[i])}] has {len(operands[i])} digits."
    head = f"[{','.join(x)}] + [{','.join(y)}] , A=[{','.join(answer)}]"
    if not (x or y):
        return f"{head} C={carry} , END"
    return f"{head} , C={carry} , {a}+{b}+{carry}={total} , A->{total % 10} , C->{total // 10}"


def _claimed(style: str, step: str, state: State | None) -> State | None:
    """The state that a step claims to leave behind; None if it claims none."""
    if style == "detailed" and re.fullmatch(_HEAD, step):
        return state
    match = re.fullmatch(_CLAIM[style], step)
    if match is None:
        return None
    *numbers, carry = (part.replace(",", "").replace(" ", "") for part in match.groups(""))
    if style == "star":
        x, y, answer = numbers
        shown = x, y, answer, int(carry)
        return column(shown)[3] if x or y else shown
    if style == "simplified":
        if state is None:
            return None
        numbers = [*state[:3], *numbers]
    x, y, answer, digit = numbers
    return x[:-1], y[:-1], digit + answer, int(carry)


def _steps(prompt: str, style: str) -> tuple[str, ...]:
    """The whole ideal scratchpad."""
    (operands, state), steps = start(prompt, style), []
    while (step := _expected(operands, style, len(steps), state)) is not None:
        steps.append(step)
        state = _claimed(style, step, state)
    return tuple(steps)


def render(problem: Problem, style: str) -> str:
    """The ideal completion in the style, from its opener to <eos>; UserError if unknown."""
    style = ALIASES.get(style, style)
    if style == "plain":
        return f"</think>{problem.answer}<eos>"
    if style == "reverse":
        return f"</think>${problem.answer[::-1]}$<eos>"
    if style not in STYLES:
        raise UserError(f"addition has no style {style!r}; choose from {', '.join(STYLES)}")
    dot = "." if style == "simplified" else ""
    steps = problem.steps if style == "simplified" else _steps(problem.prompt, style)
    return f"<think>{';'.join(steps)}{dot}</think>{problem.answer}<eos>"


def parse(completion: str) -> tuple[tuple[str, ...], str] | None:
    """(steps, answer) of a completion that matches the grammar to its end, else None.

    The answer is in ordinary digit order whatever the style.
    """
    match = _COMPLETION.fullmatch(completion)
    if match is None:
        return None
    steps = match["thought"].removesuffix(".").split(";") if match["thought"] else ()
    return tuple(steps), match["answer"] or match["reversed"][::-1]


def _style_of(steps: tuple[str, ...]) -> str:
    """The only scratchpad style whose first step can begin so."""
    return {"A": "simplified", "[": "detailed"}.get(steps[0][:1] if steps else "", "star")


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it exactly the next one of its style, from the state before it?

    The state is what the step before it claimed, so that one wrong step is counted once.
    """
    style = _style_of(steps)
    (operands, state), marks = start(problem.prompt, style), []
    for i, step in enumerate(steps):
        marks.append(step == _expected(operands, style, i, state))
        state = _claimed(style, step, state)
    return marks


def facts(problem: Problem) -> tuple[str, ...]:
    """The sums of its columns, such as `8+7+0=15`: digits and carry."""
    lines = _steps(problem.prompt, "detailed")[2:-1]
    return tuple(line.split(" , ")[3] for line in lines)


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    if (parsed := parse(completion)) is None:
        return MALFORMED
    steps, answer = parsed
    correct = is_right(problem, answer)
    whole = bool(steps) and completion == render(problem, _style_of(steps))
    return Verdict(correct, correct and whole, True, tuple(check_steps(problem, steps)))


# ---- fallible authors (authors.py): columns.py says how they go on ------------------------------

MISTAKES, outcomes, fact_outcomes = columns.MISTAKES, columns.outcomes, columns.fact_outcomes
answer_of_state = columns.answer_of_state


def log_probability(problem: Problem) -> float:
    """log P(`sample` gives this problem), given its level: all pairs are equally frequent."""
    shorter = 100 ** (problem.level - 1) if problem.level > 1 else 0
    return -math.log(100 ** problem.level - shorter)


def problems_of_facts(facts: list[str]) -> Iterator[tuple[Problem, list[str]]]:
    """For each order of these facts, right or wrong, that is a sum: (problem, facts in order)."""
    for order in permutations(facts):
        sums = [tuple(map(int, fact.partition("=")[0].split("+"))) for fact in order]
        carries = [0, *(sum(terms) // 10 for terms in sums[:-1])]
        if carries == [carry for _, _, carry in sums]:
            a, b = (int("".join(str(terms[i]) for terms in sums[::-1])) for i in (0, 1))
            problem = build(a, b)
            if problem.level == len(facts):
                yield problem, list(order)
