"""The contract of a problem family, and the split of its problems.

A family is a module that has what `Family` names; chain.py is the shortest complete example. Text
is one line. The prompt is `<bos>` + problem.prompt; a completion begins with the style's opener,
which the sampler forces: `<think>` opens a thought, `</think>` goes straight to the answer.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from minireason.core.errors import UserError

SPLITS = ("train", "validation", "test")
SYMBOLS = tuple("+-*/()=;,:>. $[]ACDENadghist")   # what families of arithmetic write beside numbers

SPELLING = str.maketrans("×÷−", "*/-")
BOM = "\ufeff"                     # byte order mark, which some editors put before a text


@dataclass(frozen=True)
class Problem:
    """One question with its exact answer and the exact steps that lead there."""

    prompt: str               # e.g. "((23+4)*3)="
    answer: str               # e.g. "81"
    steps: tuple[str, ...]    # e.g. ("23+4=27", "27*3=81")
    family: str
    level: int                # difficulty: number of operations or digits
    key: str                  # canonical form: equal problems have equal keys
    split_key: str = ""       # what decides the split, if not the key itself


@dataclass(frozen=True)
class Verdict:
    """What the exact verifier says of one completion; correct implies well_formed."""

    correct: bool             # the grammar matches to the end and the answer is right
    steps_valid: bool         # every step is present and exactly right
    well_formed: bool         # the grammar matches to the end, <eos> included
    marks: tuple[bool, ...] = ()   # per step: exactly right, given the state before it
    obeyed: tuple[bool, ...] = ()  # per instruction of the prompt: followed, right or wrong

    @property
    def obedient(self) -> bool:
        """Well formed, with every instruction followed; most families give none."""
        return self.well_formed and all(self.obeyed)


MALFORMED = Verdict(False, False, False)
Parsed = tuple[tuple[str, ...], str] | None     # (steps, answer); None if malformed


class Family(Protocol):
    """What a family module provides.

    Optional: `self_check(problem, answer)`, a tuple of bools, the tests that a method may put an
    answer to at test time, without the verifier (synthesis.py); `withdrawn(completion)`, the steps
    that `<wrong>` took back (chain.py); EXTRA_SETS,
    {name: sampler} of further frozen sets, and `prompt_of(record)`, the prompt of a record as
    other projects write it, None if it is none (countdown.py); `running_sums(problem)`, a number to
    be read off before each digit of a direct answer (multiplication.py); `drawing(problem,
    answer)`, text that chat shows with an answer; what fallible authors write, as
    authors.AuthoredFamily has it.
    """

    NAME: str
    LEVELS: tuple[int, ...]           # levels with a frozen set
    SAMPLED: tuple[int, int]          # lowest and highest level that `sample` makes
    LEVEL_SYMBOL: str                 # of a level in the names of the frozen sets
    LEVEL_NAME: str                   # what a level counts, for axes
    STYLES: tuple[str, ...]
    OPENER: dict[str, str]            # of each style, and of its aliases `direct` and `cot`
    TOKENS: tuple[str, ...]           # numbers and symbols, one token each

    def max_new(self, level: int) -> int:
        """Tokens of a completion of this level at most, <eos> included."""
        ...

    def sample(self, rng: np.random.Generator, level: int, /) -> Problem:
        """One random problem."""
        ...

    def read(self, text: str) -> Problem:
        """The problem that a user typed; UserError if it is unreadable."""
        ...

    def render(self, problem: Problem, style: str) -> str:
        """The ideal completion, opener and <eos> included."""
        ...

    def parse(self, completion: str, /) -> Parsed:
        """(steps, answer); None if the completion does not match the grammar to its end."""
        ...

    def answer_key(self, answer: str) -> str:
        """Two answers are the same answer if their keys are equal; "" stands for giving up."""
        ...

    def is_right(self, problem: Problem, answer: str) -> bool:
        """Is this a right answer, exactly? There may be several, with different keys."""
        ...

    def check_steps(self, problem: Problem, steps: tuple[str, ...]) -> list[bool]:
        """Each step, verified from the state before it."""
        ...

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """The exact ground truth of this project."""
        ...

    def facts(self, problem: Problem) -> tuple[str, ...]:
        """True single statements that its solution contains: pretraining text (corpus.py)."""
        ...


def plain_text(text: str) -> str:
    """Typed text without white space, × ÷ − as * / -; UserError if a number is torn apart."""
    if torn := re.search(r"\d\s+\d", text):
        raise UserError(f"cannot read {text[:80]!r}: white space inside a number ({torn[0][:9]!r})")
    return re.sub(r"\s+", "", text.removeprefix(BOM)).translate(SPELLING)


# ---- what families with one answer, written in one way, share ------------------------------------

STYLES: tuple[str, ...] = ("direct", "cot")
OPENER = {"cot": "<think>", "direct": "</think>"}


def answer_key(answer: str) -> str:
    """Equal answers are written alike."""
    return answer


def is_right(problem: Problem, answer: str) -> bool:
    """There is one right answer."""
    return answer == problem.answer


def render(problem: Problem, style: str) -> str:
    """The ideal completion in the style, from its opener to <eos>."""
    thought = "" if style == "direct" else f"<think>{';'.join(problem.steps)}"
    return f"{thought}</think>{problem.answer}<eos>"


def facts(problem: Problem) -> tuple[str, ...]:
    """Its steps."""
    return problem.steps


def parse_by(grammar: re.Pattern[str], completion: str) -> Parsed:
    """(steps, answer) of a completion that matches the grammar to its end, else None.

    Its first two groups are the thought, whose steps `;` separates, and the answer.
    """
    match = grammar.fullmatch(completion)
    return match and (tuple(match[1].split(";")) if match[1] else (), match[2])


def stepwise_verdict(problem: Problem, parsed: Parsed,
                     check_steps: Callable[[Problem, tuple[str, ...]], list[bool]]) -> Verdict:
    """The verdict where only the problem's own steps are a valid thought."""
    if parsed is None:
        return MALFORMED
    steps, answer = parsed
    correct = is_right(problem, answer)
    return Verdict(correct, correct and steps == problem.steps, True,
                   tuple(check_steps(problem, steps)))


def number_tokens(digits: int) -> tuple[str, ...]:
    """All whole numbers of up to so many digits, as tokens."""
    return tuple(str(number) for number in range(10 ** digits))


def check_prefix(family: Family, problem: Problem, prefix: str, completion: str) -> bool:
    """Is the completion exactly right up to the end of this prefix, a step end?

    A thought that closes must also be complete: closed too early, it is not right. At `<eos>` the
    verdict on the answer counts.
    """
    if prefix.endswith("<eos>"):
        return family.verify(problem, prefix).correct
    if prefix.endswith("</think>"):
        closed = family.verify(problem, f"{prefix}{problem.answer}<eos>").steps_valid
        return closed or family.verify(problem, completion).steps_valid
    thought = prefix.removeprefix(family.OPENER["cot"]).removesuffix(";")
    if "</think>" in thought:
        return False
    marks = family.verify(problem, f"{prefix[:-1]}</think>{problem.answer}<eos>").marks
    return all(marks or family.check_steps(problem, tuple(thought.split(";"))))


def split_by_hash(text: str) -> str:
    """80 / 10 / 10 by hash of a text."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else SPLITS[tenth - 7]


def split_of(problem: Problem) -> str:
    """The split that a problem belongs to: a test problem can never be trained on."""
    return split_by_hash(problem.split_key or problem.key)


def sample_split(family: Family, rng: np.random.Generator, level: int, split: str,
                 sample: Callable[[np.random.Generator, int], Problem] | None = None) -> Problem:
    """A random problem of one split, from `sample` or the family's own; UserError if none is."""
    check_level(family, level)
    for _ in range(10_000):
        problem = (sample or family.sample)(rng, level)
        if split_of(problem) == split:
            return problem
    raise UserError(f"{family.NAME} level {level}: no problem in split {split!r}")


def check_level(family: Family, level: int, name: str = "level") -> None:
    """UserError if the family cannot make problems of this level, which has that name."""
    lowest, highest = family.SAMPLED
    if not lowest <= level <= highest:
        raise UserError(f"{name} {level}: {family.NAME} has levels {lowest} to {highest}")


def sample_levels(family: Family, rng: np.random.Generator, levels: tuple[int, int],
                  n: int) -> list[Problem]:
    """n train problems, levels lowest..highest in equal shares, in turn."""
    lowest, highest = levels
    if lowest > highest:
        raise UserError(f"levels {lowest} to {highest}: the lowest is above the highest")
    return [sample_split(family, rng, lowest + i % (highest - lowest + 1), "train")
            for i in range(n)]
