"""synthesis: `1>4,4>7,8>20=`, write a program (interpreter.py) that does what three examples show.

What is meant is the simplest program: the first of all those with up to three parts that fit the
examples, shorter ones first; the level is its length. Right is whatever gives what it gives on the
three examples and on five more inputs, which the prompt does not show but determines: a table of
the examples, or a fit to them alone, is wrong. `self_check` may run a program on the shown
examples, as AlphaCode does (Li 2022, arXiv:2203.07814). Two programs are the same answer if they
give the same on all inputs. Programs are held out with all their examples, but authors who err may
name one of them as the answer to others.

    cot     <think>?x>4:x=x+9>1,4,17;x=x+3>4,7,20;4,7,20</think>?x>4:x=x+9,x=x+3<eos>
    direct  </think>?x>4:x=x+9,x=x+3<eos>

A step is a statement and what x then is on each example; the last, the outputs that were checked.
"""

import re
from functools import lru_cache

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import program
from minireason.problems.arithmetic import NUMBER
from minireason.problems.authors import SLIP, Authors, Outcome
from minireason.problems.base import MALFORMED, Problem, Verdict, plain_text
from minireason.problems.interpreter import (
    INPUTS,
    LEAST_DEFINED,
    MOST_PARTS,
    NO_OUTPUT,
    PROGRAM,
    STATEMENT,
    length,
    output,
    programs,
    running,
)

NAME: str = "synthesis"
LEVELS: tuple[int, ...] = tuple(range(1, MOST_PARTS + 1))     # parts of the simplest program
SAMPLED: tuple[int, int] = (1, MOST_PARTS)
LEVEL_SYMBOL, LEVEL_NAME, TOKENS = program.LEVEL_SYMBOL, program.LEVEL_NAME, program.TOKENS
STYLES, OPENER, render = program.STYLES, program.OPENER, program.render
SHOWN, HIDDEN = 3, LEAST_DEFINED - 3  # examples
MOST_ALIKE: int = 4                   # problems of a frozen set that one program may be meant by

_EXAMPLE = rf"{NUMBER}>{NUMBER}"
_VALUES = rf"{NUMBER}(?:,{NUMBER}){{0,{SHOWN - 1}}}"
_STEP = re.compile(rf"(?:({STATEMENT})>)?({_VALUES})")
_COMPLETION = re.compile(rf"(?:<think>([^<]*(?:<[^/][^<]*)*))?</think>({PROGRAM})<eos>")
Example = tuple[int, int]             # input, output


# ---- problems ------------------------------------------------------------------------------------

def sample(rng: np.random.Generator, level: int) -> Problem:
    """A program of that length and three of its examples, uniform, if nothing shorter fits them."""
    known = programs()
    low, high = np.searchsorted(known.levels, (level, level + 1)).tolist()
    while True:
        row = known.outputs[low + int(rng.random() * (high - low))]
        defined = np.flatnonzero(row < NO_OUTPUT)
        shown = np.sort(rng.permutation(defined)[:SHOWN]).tolist()
        problem = build(tuple((INPUTS[i], int(row[i])) for i in shown))
        if problem.level == level:
            return problem


def max_new(level: int) -> int:
    """Tokens of a completion at most: 16 per statement, its values and its copy, and some room."""
    return 32 + 24 * level


@lru_cache(maxsize=1 << 16)
def build(examples: tuple[Example, ...]) -> Problem:
    """The problem of these examples, in order of their inputs; UserError if no program fits."""
    text = programs().simplest(examples)
    prompt = ",".join(f"{given}>{wanted}" for given, wanted in examples)
    if not text:
        raise UserError(f"{prompt}: no program of up to {MOST_PARTS} parts fits these examples")
    return Problem(f"{prompt}=", text, _steps(text, examples, SHOWN), NAME, length(text),
                   f"{NAME} {prompt}", f"{NAME} 9 {text}")    # 9: short ones in every split


def read(text: str) -> Problem:
    """A problem from typed text such as `1>4, 4>7, 8>20`."""
    plain = plain_text(text).removesuffix("=")
    written = re.fullmatch(rf"{_EXAMPLE}(?:,{_EXAMPLE}){{{SHOWN - 1}}}", plain)
    examples = tuple(sorted(_examples(plain))) if written else ()
    if len({given for given, _ in examples} & {*INPUTS}) < SHOWN:
        raise UserError(f"cannot read {text[:80]!r}: write {SHOWN} examples INPUT>OUTPUT with "
                        f"different inputs {INPUTS[0]} to {INPUTS[-1]}, such as 1>4,4>7,8>20")
    return build(examples)


def _examples(prompt: str) -> tuple[Example, ...]:
    return tuple((int(given), int(wanted)) for given, wanted in re.findall(r"(\d+)>(\d+)", prompt))


@lru_cache(maxsize=1 << 16)
def hidden_examples(problem: Problem) -> tuple[Example, ...]:
    """Five of the other inputs that have an output, from the lowest to the highest."""
    shown = [given for given, _ in _examples(problem.prompt)]
    more = [(given, wanted) for given in INPUTS if given not in shown
            if (wanted := output(problem.answer, given)) is not None]
    return tuple(more[i * (len(more) - 1) // (HIDDEN - 1)] for i in range(HIDDEN))


# ---- writing, reading and checking ---------------------------------------------------------------

def _after(statement: str, given: tuple[int, ...], values: tuple[int, ...]) -> tuple | None:
    """x on each example after a statement; None where one has no value or y, the input, is set."""
    after = []
    for value, x in zip(given, values, strict=True):
        ran = list(running(statement, (x, value)))
        last = ran[-1][1] if ran else None
        if last is None or last[1] != value:
            return None
        after.append(last[0])
    return tuple(after)


def _steps(program: str, examples: tuple[Example, ...], checked: int) -> tuple[str, ...]:
    """The thought of one who writes this program and looks at so many outputs; () if he cannot."""
    given = values = tuple(given for given, _ in examples)
    steps = []
    for statement in program.split(","):
        values = _after(statement, given, values)
        if values is None:
            return ()
        steps.append(f"{statement}>{','.join(map(str, values))}")
    return (*steps, ",".join(map(str, values[:checked])))


def parse(completion: str) -> tuple[tuple[str, ...], str] | None:
    """(steps, answer) of a completion that matches the grammar to its end, else None."""
    match = _COMPLETION.fullmatch(completion)
    steps = () if match is None or match[1] is None else tuple(match[1].split(";"))
    return (steps, match[2]) if match and all(map(_STEP.fullmatch, steps)) else None


def answer_key(answer: str) -> str:
    """The simplest program that gives the same on all inputs; the text itself if none is known."""
    return programs().equivalent(answer)


def self_check(problem: Problem, answer: str) -> tuple[bool, ...]:
    """Does the program give what each shown example wants? This needs the prompt alone."""
    return tuple(output(answer, given) == wanted for given, wanted in _examples(problem.prompt))


def is_right(problem: Problem, answer: str) -> bool:
    """Does the program give what is wanted on the shown and on the hidden examples?"""
    return all(self_check(problem, answer)) and all(
        output(answer, given) == wanted for given, wanted in hidden_examples(problem))


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: does it state exactly what its statement makes of the values claimed before?

    A step without statement is right if it states all outputs, and they are the values before it.
    """
    given, wanted = zip(*_examples(problem.prompt), strict=True)
    values, marks = given, []
    for step in steps:
        match = _STEP.fullmatch(step)
        claimed = tuple(map(int, match[2].split(","))) if match else ()
        if match and match[1]:
            marks.append(claimed == _after(match[1], given, values))
            values = claimed if len(claimed) == SHOWN else values
        else:
            marks.append(claimed == wanted == values)
    return marks


def facts(problem: Problem) -> tuple[str, ...]:
    """What the simplest program gives on each example, shown or hidden: `1>x=x+3=4`."""
    examples = _examples(problem.prompt) + hidden_examples(problem)
    return tuple(f"{given}>{problem.answer}={wanted}" for given, wanted in examples)


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict; steps_valid: every step is exact, and the statements are the answer's."""
    if (parsed := parse(completion)) is None:
        return MALFORMED
    steps, answer = parsed
    marks, correct = check_steps(problem, steps), is_right(problem, answer)
    statements = [step.rpartition(">")[0] for step in steps]
    whole = statements == [*answer.split(","), ""]
    return Verdict(correct, correct and whole and all(marks), True, tuple(marks))


# ---- fallible authors (authors.py): exact in running programs, they look at too few examples -----
# A state holds the ways, (chance, steps, mistake), that begin with what is written so far.

TWO, ONE = "two examples fitted", "one example fitted"
MISTAKES = {TWO: f"{TWO}: 1>4,2>5,8>20 by x=x+3", ONE: f"{ONE}: 2>4,3>6,5>10 by x=x+2",
            SLIP: f"{SLIP}: x=x+4 for x=x+3, not compared"}
Way = tuple[float, tuple[str, ...], str]


@lru_cache(maxsize=1 << 14)
def _ways(problem: Problem, authors: Authors) -> tuple[Way, ...]:
    """The simplest program for the first two examples if it is wrong, else that for the first one;
    the right one; and that with its last number one off, if it is wrong then (a slip)."""
    examples, found = _examples(problem.prompt), []
    for looked, chance, name in ((2, authors.rule, TWO), (1, authors.rare, ONE)):
        text = programs().simplest(examples[:looked])
        steps = () if is_right(problem, text) else _steps(text, examples, looked)
        if steps and chance > 0 and not found:
            found.append((chance, steps, name))
    left, slips, last = 1 - sum(way[0] for way in found), [], problem.answer[-1]
    for number in (int(last) - 1, int(last) + 1) if last.isdigit() else ():
        text = f"{problem.answer[:-1]}{number}"
        steps = () if is_right(problem, text) else _steps(text, examples, SHOWN)
        slips += [steps] if steps else []
    slip = authors.slip * bool(slips)
    found.append((left * (1 - slip), problem.steps, ""))
    found += [(left * slip / len(slips), steps, SLIP) for steps in slips]
    return tuple(way for way in found if way[0] > 0)


def outcomes(problem: Problem, authors: Authors, number: int,
             state: tuple[Way, ...] | None) -> list[Outcome]:
    """The ways in which an author may go on; a mistake is named where he states the outputs."""
    groups: dict[str, list[Way]] = {}
    for way in state or _ways(problem, authors):
        if number < len(way[1]):
            groups.setdefault(way[1][number], []).append(way)
    total = sum(way[0] for ways in groups.values() for way in ways)
    found = [Outcome(sum(way[0] for way in ways) / total, text, tuple(ways),
                     "" if ">" in text else ways[0][2]) for text, ways in groups.items()]
    return sorted(found, key=lambda one: -one.probability)


def answer_of_state(problem: Problem, state: tuple[Way, ...]) -> str:
    """The program of his statements."""
    return ",".join(step.rpartition(">")[0] for step in state[0][1][:-1])
