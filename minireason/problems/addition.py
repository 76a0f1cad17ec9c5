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

import re

import numpy as np

from minireason.core.config import UserError
from minireason.problems.base import MALFORMED, SYMBOLS, Problem, Verdict, number_tokens

NAME = "addition"
LEVELS = tuple(range(1, 8))           # levels with a frozen set: digits
LEVEL_SYMBOL, LEVEL_NAME = "d", "digits of the longer number"
STYLES = ("plain", "reverse", "simplified", "detailed", "star")
ALIASES = {"direct": "plain", "cot": "simplified"}
OPENER = {"plain": "</think>", "reverse": "</think>", "simplified": "<think>",
          "detailed": "<think>", "star": "<think>", "direct": "</think>", "cot": "<think>"}
TOKENS = (*number_tokens(1), *SYMBOLS)    # every digit is a token, so carries must be learned
MAX_DIGITS = 20

_NUMBER = r"(?:0|[1-9]\d*)"
_LIST, _SPACED = r"\[((?:\d(?:,\d)*)?)\]", r"(\d(?: \d)*)"    # [1,2,8] or [], and 1 2 8
_HEAD = re.compile(rf"{_LIST} has \d+ digits\.", re.ASCII)
_LINE = re.compile(rf"{_LIST} \+ {_LIST} , A={_LIST} , C=[01] , \d\+\d\+[01]=1?\d , "
                   r"A->(\d) , C->([01])", re.ASCII)
_END = re.compile(rf"\[\] \+ \[\] , A={_LIST} C=[01] , END", re.ASCII)
_SIMPLE = re.compile(r"A->(\d) , C->([01])", re.ASCII)
_STAR = re.compile(rf"(?:{_SPACED} \+ {_SPACED} )?, (?:{_SPACED} )?C: ([01])", re.ASCII)
_STAR_END = re.compile(r"[01](?: \d)+", re.ASCII)
_THOUGHT = re.compile(rf"<think>([^<]*)</think>({_NUMBER})<eos>", re.ASCII)
_PLAIN = re.compile(rf"</think>({_NUMBER})<eos>", re.ASCII)
_REVERSE = re.compile(r"</think>\$(0|\d*[1-9])\$<eos>", re.ASCII)
_PROMPT = re.compile(rf"({_NUMBER})\+({_NUMBER})=?", re.ASCII)


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
    level = len(str(max(a, b)))
    steps = _steps((str(a), str(b)), "simplified")
    low, high = sorted((a, b))
    return Problem(f"{a}+{b}=", str(a + b), steps, NAME, level, f"addition {low}+{high}")


def read(text: str) -> Problem:
    """A problem from typed text such as `128 + 367` or `128+367=`."""
    match = _PROMPT.fullmatch(re.sub(r"\s+", "", text))
    if match is None or max(map(len, match.groups())) > MAX_DIGITS:
        raise UserError(f"cannot read {text[:80]!r}: write a sum of two whole numbers of up to "
                        f"{MAX_DIGITS} digits such as 128+367, without leading zeros")
    return build(int(match[1]), int(match[2]))


# ---- scratchpads: a state is (digits left of a, digits left of b, answer so far, carry) ----------

def _start(operands: tuple[str, str], style: str) -> tuple:
    """The state before the first column; `star` has equal lengths, so the shorter gets zeros."""
    width = max(map(len, operands)) if style == "star" else 0
    return operands[0].zfill(width), operands[1].zfill(width), "", 0


def _column(state: tuple) -> tuple:
    """(a, b, sum with carry, state after) of the lowest column that is left."""
    x, y, answer, carry = state
    a, b = int(x[-1:] or 0), int(y[-1:] or 0)
    total = a + b + carry
    return a, b, total, (x[:-1], y[:-1], f"{total % 10}{answer}", total // 10)


def _expected(operands: tuple[str, str], style: str, i: int, state: tuple | None) -> str | None:
    """Step number i of the style, computed from the state before it; None after the last."""
    columns = max(map(len, operands))
    if state is None or i >= columns + {"simplified": 0, "detailed": 3, "star": 2}[style]:
        return None
    x, y, answer, carry = state
    a, b, total, _ = _column(state)
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


def _claimed(style: str, step: str, state: tuple | None) -> tuple | None:
    """The state that a step claims to leave behind; None if it claims none."""
    if style == "simplified":
        match = _SIMPLE.fullmatch(step)
        if match is None or state is None:
            return None
        return state[0][:-1], state[1][:-1], match[1] + state[2], int(match[2])
    if style == "detailed":
        if _HEAD.fullmatch(step):
            return state
        match = _LINE.fullmatch(step)
        if match is None:
            return None
        x, y, answer = (part.replace(",", "") for part in match.groups()[:3])
        return x[:-1], y[:-1], match[4] + answer, int(match[5])
    match = _STAR.fullmatch(step)
    if match is None:
        return None
    x, y, answer = ((part or "").replace(" ", "") for part in match.groups()[:3])
    shown = x, y, answer, int(match[4])
    return _column(shown)[3] if x or y else shown


def _steps(operands: tuple[str, str], style: str) -> tuple[str, ...]:
    """The whole ideal scratchpad."""
    state, steps = _start(operands, style), []
    while (step := _expected(operands, style, len(steps), state)) is not None:
        steps.append(step)
        state = _claimed(style, step, state)
    return tuple(steps)


def _style_of(steps: tuple[str, ...]) -> str | None:
    """The scratchpad style whose grammar all steps match in their order, else None."""
    n = len(steps)
    for style, shapes in (("simplified", [_SIMPLE] * n),
                          ("detailed", [_HEAD, _HEAD, *[_LINE] * (n - 3), _END]),
                          ("star", [*[_STAR] * (n - 1), _STAR_END])):
        if len(shapes) == n and all(map(re.Pattern.fullmatch, shapes, steps)):
            return style
    return None


def _operands(problem: Problem) -> tuple[str, str]:
    first, _, second = problem.prompt.removesuffix("=").partition("+")
    return first, second


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
    return f"<think>{';'.join(_steps(_operands(problem), style))}{dot}</think>{problem.answer}<eos>"


def parse(completion: str) -> tuple[tuple[str, ...], str] | None:
    """(steps, answer) of a completion that matches the grammar to its end, else None.

    The answer is in ordinary digit order whatever the style.
    """
    if match := _PLAIN.fullmatch(completion):
        return (), match[1]
    if match := _REVERSE.fullmatch(completion):
        return (), match[1][::-1]
    match = _THOUGHT.fullmatch(completion)
    if match is None:
        return None
    steps = tuple(match[1].removesuffix(".").split(";"))
    style = _style_of(steps)
    if style is None or match[1].endswith(".") != (style == "simplified"):
        return None
    return steps, match[2]


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it exactly the next one of its style, from the state before it?

    The state is what the step before it claimed, so that one wrong step is counted once.
    """
    first = steps[0] if steps else ""
    style = "simplified" if first[:1] == "A" else "detailed" if first[:1] == "[" else "star"
    operands = _operands(problem)
    state, marks = _start(operands, style), []
    for i, step in enumerate(steps):
        marks.append(step == _expected(operands, style, i, state))
        state = _claimed(style, step, state)
    return marks


def facts(problem: Problem) -> tuple[str, ...]:
    """The sums of its columns, such as `8+7+0=15`: digits and carry."""
    found, state = [], _start(_operands(problem), "simplified")
    for _ in range(problem.level):
        (_, _, _, carry), (a, b, total, state) = state, _column(state)
        found.append(f"{a}+{b}+{carry}={total}")
    return tuple(found)


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    parsed = parse(completion)
    if parsed is None:
        return MALFORMED
    steps, answer = parsed
    marks = tuple(check_steps(problem, steps))
    correct = answer == problem.answer
    style = _style_of(steps)
    whole = style is not None and bool(steps) and steps == _steps(_operands(problem), style)
    return Verdict(correct, correct and whole and all(marks), True, marks)
