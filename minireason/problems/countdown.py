"""countdown: `3,7,18,2>46=`, reach the target with every number once, every value whole, 0..99.

Level n is how many numbers are given. A step names an operation and the numbers then at hand,
the result first; each `<wrong>` takes back a step, `<wrong>S:` goes back to the state S. A single
number may be compared with the target: `49-46=3` (larger minus smaller) changes nothing.

    direct   </think>(18*2)+(7+3)<eos>
    optimal  <think>7+3=10,2,18;18*2=36,10;36+10=46</think>(18*2)+(7+3)<eos>
    checked  <think>7+3=10,2,18;18*2=36,10;36+10=46;46-46=0</think>(18*2)+(7+3)<eos>
    sos      <think>18+7=25,3,2;25-3=22,2;22*2=44;46-44=2;<wrong>25,3,2:...</think><wrong><eos>
    guided   <think>7+3=10,18,2;18*2=36,10;36+10=46;46-46=0</think>(18*2)+(7+3)<eos>

`sos` is a Stream of Search (Gandhi 2024, arXiv:2404.03683): one of several solvers drawn at
random, with its dead ends, cut off at a token budget (countdown_solver.py). `guided` is the stream
of one that sees where solutions lie and errs on purpose. A search that found nothing answers
`<wrong>`: only some traces solve. Inputs are held out by the hash of the numbers alone
(split_key), and targets of HELD_OUT are never trained on.
"""

import re
from functools import partial

import numpy as np

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.problems import countdown_authors as authors
from minireason.problems.arithmetic import (
    MOST_NUMBERS,
    NUMBER,
    commuted,
    compute,
    expression,
    operations,
)
from minireason.problems.base import MALFORMED, SYMBOLS, Problem, Verdict, number_tokens, plain_text
from minireason.problems.countdown_authors import allowed, given
from minireason.problems.countdown_solver import BUDGET, comparison, guided, moves, solve, stream

NAME: str = "countdown"
LEVELS: tuple[int, ...] = (3, 4)      # levels with a frozen set: how many numbers
SAMPLED: tuple[int, int] = (2, MOST_NUMBERS)
LEVEL_SYMBOL: str = "n"
LEVEL_NAME: str = "numbers given"
STYLES: tuple[str, ...] = ("direct", "optimal", "checked", "sos", "guided")
OPENER = dict.fromkeys((*STYLES, "cot"), "<think>") | {"direct": "</think>"}
TOKENS = (*number_tokens(2), *SYMBOLS)    # chain's: a policy that can calculate may start it
GAVE_UP = "<wrong>"                   # the answer of a search that found nothing

_STATE = rf"{NUMBER}(?:,{NUMBER})*"
_STEP = re.compile(rf"(?:((?:<wrong>)+)|<wrong>({_STATE}):)?"
                   rf"({NUMBER})([-+*/])({NUMBER})=({_STATE})")
_COMPLETION = re.compile(r"(?:<think>([^<>]*(?:<wrong>[^<>]*)*))?"
                         r"</think>(<wrong>|[-+*/()0-9]+)<eos>")


def sample(generator: np.random.Generator, level: int, held_out: bool = False) -> Problem:
    """Numbers uniform in 1..20 and the target, at least 10, of a random way through them.

    The target is none of HELD_OUT, or with `held_out` one of them, which no training problem has.
    """
    while True:
        numbers = state = tuple(generator.integers(1, 21, level).tolist())
        while len(state) > 1 and (choices := moves(state)):
            operators = sorted({move.operator for move in choices})
            operator = operators[int(generator.integers(len(operators)))]
            choices = [move for move in choices if move.operator == operator]
            state = choices[int(generator.integers(len(choices)))].after
        if len(state) == 1 and allowed(state[0], held_out):
            return build(numbers, state[0])


EXTRA_SETS = dict.fromkeys(("targets", "targets-validation"), partial(sample, held_out=True))


def max_new(level: int) -> int:
    """Tokens of a completion at most: a search of BUDGET tokens and its answer."""
    return BUDGET + 30


def build(numbers: tuple[int, ...], target: int) -> Problem:
    """The problem; its answer and steps are the same in whatever order the numbers stand."""
    path = solve(tuple(sorted(numbers)), target)
    if path is None:
        raise UserError(f"{target} cannot be reached from {','.join(map(str, numbers))} with whole "
                        "numbers 0 to 99, each number used once")
    steps = tuple(map(str, path))
    split_key = f"{NAME} {','.join(map(str, sorted(numbers)))}"   # held out with every target
    return Problem(f"{','.join(map(str, numbers))}>{target}=", expression(path), steps, NAME,
                   len(numbers), f"{split_key}>{target}", split_key)


def read(text: str) -> Problem:
    """A problem from typed text such as `3, 7, 18, 2 > 46`."""
    match = re.fullmatch(rf"({_STATE})>({NUMBER})=?", plain_text(text))
    numbers = tuple(map(int, match[1].split(","))) if match else ()
    if match is None or not 2 <= len(numbers) <= MOST_NUMBERS or 0 in numbers:
        raise UserError(f"cannot read {text[:80]!r}: write 2 to {MOST_NUMBERS} numbers of 1 to "
                        "99 and the target, such as 3,7,18,2>46")
    return build(numbers, int(match[2]))


def prompt_of(record: dict) -> str | None:
    """The prompt of a record as TinyZero has it, `{"nums": [3, 7, 18, 2], "target": 46}`."""
    numbers, target = record.get("nums"), record.get("target")
    if not isinstance(numbers, list) or any(type(n) is not int for n in (*numbers, target)):
        return None
    return f"{','.join(map(str, numbers))}>{target}"


# ---- writing ------------------------------------------------------------------------------------

def render(problem: Problem, style: str) -> str:
    """The completion in the style, opener to <eos>; for `sos` of the prompt's own random stream."""
    if style == "direct":
        return f"</think>{problem.answer}<eos>"
    if style in ("optimal", "checked"):
        target = given(problem)[1]
        checks = (str(comparison(target, target)),) if style == "checked" else ()
        return f"<think>{';'.join(problem.steps + checks)}</think>{problem.answer}<eos>"
    if style not in OPENER:
        raise UserError(f"countdown has no style {style!r}; choose from {', '.join(STYLES)}")
    return search_text(problem, rng(0, "countdown", problem.prompt), style)


def search_text(problem: Problem, generator: np.random.Generator, style: str = "sos") -> str:
    """A stream of search, `sos` or `guided`; it may end without a solution."""
    steps, path = (guided if style == "guided" else stream)(*given(problem), generator)
    written = []
    for jump, move in steps:          # steps that are taken back, or the state to go back to
        back = GAVE_UP * jump if isinstance(jump, int) else f"<wrong>{','.join(map(str, jump))}:"
        written.append(f"{back}{move}")
    return f"<think>{';'.join(written)}</think>{expression(path) if path else GAVE_UP}<eos>"


# ---- reading and checking -----------------------------------------------------------------------

def parse(completion: str) -> tuple[tuple[str, ...], str] | None:
    """(steps, answer) of a completion that matches the grammar to its end, else None.

    The answer is an expression or, where the search gave up, `<wrong>`.
    """
    match = _COMPLETION.fullmatch(completion)
    if match is None or (match[2] != GAVE_UP and operations(match[2]) is None):
        return None
    if match[1] is None:
        return None if match[2] == GAVE_UP else ((), match[2])
    steps = tuple(match[1].split(";"))
    return (steps, match[2]) if all(map(_STEP.fullmatch, steps)) else None


def answer_key(answer: str) -> str:
    """The expression in its normal form: `(7+3)+18*2` is the same answer as `(18*2)+(3+7)`."""
    return "" if answer == GAVE_UP else commuted(answer)


def is_right(problem: Problem, answer: str) -> bool:
    """Every number used once, every value whole in 0..99, the target hit.

    It needs the prompt alone: a policy may check itself with it (and then says so).
    """
    read_answer = operations(answer)
    if read_answer is None:
        return False
    numbers, target = given(problem)
    return sorted(read_answer[1]) == sorted(numbers) and read_answer[0][-1][3] == target


def walk_steps(problem: Problem, steps: tuple[str, ...]) -> tuple[list[bool], tuple[int, ...]]:
    """(marks, last state as claimed) of a search trace.

    A step is right if its operation uses two numbers of the state before it, is exact, and leaves
    the others; or if it compares a last number with the target, larger minus smaller, which leaves
    the state as it is. Steps can only be taken back as far as the start; `<wrong>S:` must name a
    state that was reached before. A wrong step's claimed state is taken as it stands, so that one
    wrong step is counted once.
    """
    numbers, target = given(problem)
    way = [tuple(sorted(numbers))]                      # the states from the start to this one
    ways, marks = {way[0]: way}, []                     # the last way to each state
    for step in steps:
        match = _STEP.fullmatch(step)
        if match is None:
            marks.append(False)
            continue
        undone, named, _, operator, *_ = match.groups()
        left, right, after = int(match[3]), int(match[5]), tuple(map(int, match[6].split(",")))
        if undone:
            way = way[:max(0, len(way) - undone.count(GAVE_UP))]
        elif named:
            way = ways.get(tuple(sorted(map(int, named.split(",")))), [])
        elif way and len(way[-1]) == 1:                 # compared, nothing moved
            compared = operator == "-" and {left, right} == {*way[-1], target}
            marks.append(compared and after == (compute(left, "-", right),))
            continue
        before = tuple(sorted((left, right, *after[1:])))
        marks.append(way[-1:] == [before] and after[0] == compute(left, operator, right))
        way = [*way, tuple(sorted(after))]
        ways[way[-1]] = way
    return marks, way[-1]


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it exact, given the numbers before it? See walk_steps."""
    return walk_steps(problem, steps)[0]


def facts(problem: Problem) -> tuple[str, ...]:
    """The operations of its solution, such as `18-3=15`."""
    return tuple(step.partition(",")[0] for step in problem.steps)


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included.

    steps_valid: every step is exact, the last one reaches the target, and the answer consists of
    operations that were tried.
    """
    if (parsed := parse(completion)) is None:
        return MALFORMED
    steps, answer = parsed
    marks, state = walk_steps(problem, steps)
    correct = is_right(problem, answer)
    reached = correct and state == (given(problem)[1],)
    tried = {step.rpartition(":")[2].replace(GAVE_UP, "").partition(",")[0] for step in steps}
    used, _ = operations(answer) or ([], [])
    all_tried = all(f"{a}{operator}{b}={result}" in tried for a, operator, b, result in used)
    return Verdict(correct, reached and all(marks) and all_tried, True, tuple(marks))


# ---- fallible authors: countdown_authors.py -----------------------------------------------------

AUTHORS_STYLE, MISTAKES, outcomes = "optimal", authors.MISTAKES, authors.outcomes
answer_of_state, log_probability = authors.answer_of_state, authors.log_probability
fact_outcomes = authors.fact_outcomes
problems_of_facts = partial(authors.problems_of_facts, build)
