"""decomposition: `((47*8)-89)=287`, operations too big to be safe, taken at once or in pieces.

A first number 10..99, then + - with 10..99 or * with 2..9, every value whole, 0..999, written digit
by digit. An operation on two digits or more may be split before the last of them:

    at once   <think>47*8=376;376-89=287</think>287<eos>
    split     <think>40*8=320;7*8=56;320+56=376;376-80=296;296-9=287</think>287<eos>

Authors do both, by the toss of a coin: at once they err where there is something to carry or to
borrow, more often the more there is; in pieces they mostly only slip (the sum of a product may
carry). A problem may prescribe the way, `once:((47*8)-89)=` or `split:((47*8)-89)=`; an answer
found the other way is not correct. So always and never splitting are modes of one policy, as slow
and fast are in Dualformer (Su 2024, arXiv:2410.09918). Least-to-most prompting (Zhou 2022,
arXiv:2205.10625) splits whole questions.
"""

import re
import zlib
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import base, chain
from minireason.problems.authors import EXACT, Authors, Marked, Outcome, pick
from minireason.problems.base import MALFORMED, SYMBOLS, Problem, Verdict, number_tokens, plain_text
from minireason.problems.mistakes import UNCARRIED, stated_outcomes, without_carries

NAME: str = "decomposition"
LEVELS: tuple[int, ...] = (1, 2, 3, 4)    # the corpus ends at 3 (presets.py)
LEVEL_SYMBOL, LEVEL_NAME, render = chain.LEVEL_SYMBOL, chain.LEVEL_NAME, chain.render
STYLES, OPENER, answer_key, is_right = chain.STYLES, chain.OPENER, chain.answer_key, chain.is_right
SAMPLED: tuple[int, int] = (1, 9)
MODES = ("", "once", "split")             # what a prompt prescribes; "": the way is free
TOKENS = (*number_tokens(1), *SYMBOLS, *MODES[1:])
HIGHEST = 999
TERMS, FACTORS = range(10, 100), range(2, 10)

_NUMBER = "(?:0|[1-9][0-9]{0,2})"
_STEP = re.compile(rf"{_NUMBER}[-+*]{_NUMBER}={_NUMBER}")
_COMPLETION = re.compile(rf"(?:<think>({_STEP.pattern}(?:;{_STEP.pattern})*))?"
                         rf"</think>({_NUMBER})<eos>")
parse = partial(base.parse_by, _COMPLETION)
Operation = tuple[int, str, int]          # left, operator, right
Moves = list[tuple[str, int]]


class State(NamedTuple):
    """Where a thought stands between two steps."""

    done: int                             # operations that are finished
    value: int                            # result of the last of them
    pieces: tuple[int, ...] = ()          # results of the pieces of the one that is being split


class Taken(NamedTuple):
    """A written step as the verifier reads it."""

    right: bool                           # exactly right, given the state before it
    way: str = ""                         # once | split, where it begins what can be split
    operation: Operation = (0, "", 0)     # that it belongs to
    number: int = -1                      # of that operation, from 0


def compute(left: int, operator: str, right: int) -> int | None:
    """The exact value, None outside 0..999 or of an operator that there is not."""
    value = {"+": left + right, "-": left - right, "*": left * right}.get(operator, -1)
    return value if 0 <= value <= HIGHEST else None


def pieces_of(operation: Operation, found: tuple[int, ...] = ()) -> list[Operation]:
    """The pieces of an operation as far as the results found so far say; [] if it has none.

    Split is the first factor, or the second term, if its last digit and what is before are not 0.
    """
    left, operator, right = operation
    many = left if operator == "*" else right
    ones = many % 10
    if many < 10 or ones == 0 or compute(*operation) is None:
        return []
    if operator == "*":
        sums = [(found[0], "+", found[1])] if len(found) > 1 else []
        return [(many - ones, "*", right), (ones, "*", right), *sums]
    return [(left, operator, many - ones), *((part, operator, ones) for part in found[:1])]


def hardness(operation: Operation) -> int:
    """What it asks to be held in mind: digits that it works on, 0 not counted, and carries."""
    many = operation[0] if operation[1] == "*" else operation[2]
    return len(str(many).replace("0", "")) + without_carries(*operation)[1]


def sample(rng: np.random.Generator, level: int) -> Problem:
    """`level` operations, uniform over what stays in the range; the way of half of them is free."""
    first = value = int(rng.integers(10, 100))
    moves: Moves = []
    while len(moves) < level:
        operator = "+-*"[int(rng.integers(3))]
        right = int(rng.integers(2, 10) if operator == "*" else rng.integers(10, 100))
        if (result := compute(value, operator, right)) is not None:
            moves.append((operator, right))
            value = result
    return build(first, moves, ("", *MODES)[int(rng.integers(4))])


def max_new(level: int) -> int:
    """Tokens of a completion at most: an operation in pieces has up to 31."""
    return 16 + 32 * level


def build(first: int, moves: Moves, mode: str = "") -> Problem:
    """The problem that starts at `first`, applies the moves, and prescribes the way.

    Where it is free, the ideal solution is that of an exact author, his coin a hash of the problem.
    """
    bare = chain.build(first, moves, compute, NAME)
    problem = replace(bare, prompt=f"{mode}:{bare.prompt}".removeprefix(":"),
                      key=f"{bare.key} {mode}", split_key=bare.key)
    coin = np.random.default_rng(zlib.crc32(problem.key.encode()))
    _, steps = written_by(EXACT, problem, coin, "cot")
    return replace(problem, steps=tuple(step for step, _ in steps))


def read(text: str) -> Problem:
    """A problem from typed text such as `(47 * 8) - 89` or `split: ((47*8)-89)=`."""
    mode, _, plain = plain_text(text).removesuffix("=").rpartition(":")
    first, moves, why = chain.parse_moves(plain, "[1-9][0-9]?")
    fit = all(right in (FACTORS if operator == "*" else TERMS) for operator, right in moves)
    if mode not in MODES or not fit or not moves or first is None or first not in TERMS:
        raise UserError(f"cannot read {text[:80]!r}: {why}write a chain such as ((47*8)-89): a "
                        "number 10 to 99, then + - with 10 to 99 or * with 2 to 9, innermost "
                        "first; once: or split: may stand before it")
    return build(first, moves, mode)


def operation_of(step: str) -> Operation:
    """(left, operator, right) of a step, whatever its result."""
    left, operator, right = re.split("([-+*])", step.partition("=")[0])
    return int(left), operator, int(right)


def given(problem: Problem) -> tuple[str, int, Moves]:
    """(mode, first number, moves) that a prompt states."""
    mode, _, bare = problem.prompt.rpartition(":")
    first, *words = re.findall("[0-9]+|[-+*]", bare)
    return mode, int(first), list(zip(words[::2], map(int, words[1::2]), strict=True))


def facts(problem: Problem) -> tuple[str, ...]:
    """Its operations, each a fact of arithmetic."""
    return chain.build(*given(problem)[1:], compute).steps


def advanced(state: State, operation: Operation, is_piece: bool, result: int) -> State:
    """The state after a step of the operation that gave this result."""
    found = (*state.pieces, result)
    if is_piece and len(found) < (3 if operation[1] == "*" else 2):
        return state._replace(pieces=found)
    return State(state.done + 1, result)


def walk(problem: Problem, steps: tuple[str, ...]) -> tuple[list[Taken], State]:
    """The steps as read one after the other, each from what the one before claims, and the end.

    A step that is none of those that may follow counts as the next operation, wrong.
    """
    _, first, moves = given(problem)
    state, taken = State(0, first), []
    for step in steps:
        if not _STEP.fullmatch(step) or state.done == len(moves):
            taken.append(Taken(False))
            continue
        operation, result = (state.value, *moves[state.done]), int(step.partition("=")[2])
        written, pieces = operation_of(step), pieces_of(operation, state.pieces)
        is_piece = [written] == pieces[len(state.pieces):][:1]
        fits = is_piece or (written == operation and not state.pieces)
        exact = fits and compute(*written) == result
        begins = fits and bool(pieces) and not state.pieces
        way = ("split" if is_piece else "once") * begins
        taken.append(Taken(exact, way, operation, state.done))
        state = advanced(state, operation, is_piece, result)
    return taken, state


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: may it follow what the step before claims, and is it exact?"""
    return [step.right for step in walk(problem, steps)[0]]


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    if (parsed := parse(completion)) is None:
        return MALFORMED
    mode, _, moves = given(problem)
    taken, end = walk(problem, parsed[0])
    correct = is_right(problem, parsed[1]) and (
        not mode or all(step.way in ("", mode) for step in taken))
    marks = tuple(step.right for step in taken)
    return Verdict(correct, correct and all(marks) and end.done == len(moves), True, marks)


# ---- fallible authors (authors.py) ---------------------------------------------------------------

@cache
def ways_of(authors: Authors, operation: Operation) -> list[Outcome]:
    """The ways in which an author may write an operation; the rule falls on what has pieces.

    Its chance grows with hardness: by default 15, 55 and 80% where that is 3, 4 and 5.
    """
    exact, rule, (wrong, carries) = compute(*operation), None, without_carries(*operation)
    if carries and wrong != exact and pieces_of(operation):
        rule = UNCARRIED[operation[1]][0], False, wrong
        authors = replace(authors, rule={3: authors.rare / 2, 4: (authors.rare + authors.rule) / 2}
                          .get(hardness(operation), authors.rule))
    return stated_outcomes(authors, operation, exact, HIGHEST, rule)


def written_by(authors: Authors, problem: Problem, generator: np.random.Generator,
               style: str) -> tuple[str, Marked]:
    """(completion, marked steps) of an author, who tosses a coin where the way is free."""
    mode, first, moves = given(problem)
    state, marked = State(0, first), []
    while state.done < len(moves):
        operation = (state.value, *moves[state.done])
        pieces = pieces_of(operation, state.pieces)[len(state.pieces):]
        splits = generator.random() < 0.5 if not mode else mode == "split"
        is_piece = bool(pieces and (splits or state.pieces))
        _, text, result, mistake = pick(ways_of(authors, pieces[0] if is_piece else operation),
                                        generator)
        marked.append((text, mistake))
        state = advanced(state, operation, is_piece, int(str(result)))
    own = replace(problem, steps=tuple(step for step, _ in marked), answer=str(state.value))
    return render(own, style), marked


def fact_outcomes(problem: Problem, authors: Authors) -> list[list[Outcome]]:
    """The ways in which an author may state each operation."""
    return [ways_of(authors, operation_of(fact)) for fact in facts(problem)]
