"""A tiny language that `program` runs and `synthesis` writes: total, and never executed by Python.

x and y start as the input, the output is x. A program is a list of statements; its length is its
number of parts: assignments, comparisons and repeats.

    x=x*3           assignment: x or y, from + - * of a variable and a variable or number
    ?x>9:x=x-4      if: the statement behind it counts only where the comparison (> <) holds
    2:x=x+y         repeat: the statement behind it, 2 to 9 times; two prefixes may stand in a row

A value outside 0..99, or more than STEP_LIMIT instructions, ends a run without output.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minireason.problems.arithmetic import NUMBER, compute

INPUTS = range(1, 13)                 # what examples and sampled runs start with
STEP_LIMIT = 100                      # instructions, repeats written out
MOST_STATEMENTS = 16

_OPERAND = rf"(?:[xy]|{NUMBER})"
STATEMENT = rf"(?:(?:\?[xy][<>]{_OPERAND}|[2-9]):){{0,2}}[xy]=[xy][-+*]{_OPERAND}"
PROGRAM = rf"{STATEMENT}(?:,{STATEMENT}){{0,{MOST_STATEMENTS - 1}}}"
Values = tuple[int, int]              # of x and y

# the parts of short programs, whose y is the input
SETTINGS = (*(f"x=x{o}{n}" for o in "+-*" for n in range(2, 10)), "x=x+y", "x=x-y", "x=x*y")
PREFIXES = ("2:", "3:", *(f"?x{sign}{n}:" for sign in "><" for n in range(2, 10)))
MOST_PARTS = 3
LEAST_DEFINED = 8                     # inputs for which a short program has an output
NO_OUTPUT = 100                       # stands for "no output" in tables


class Instruction(NamedTuple):
    """One assignment, or one comparison that skips what follows it unless it holds."""

    target: str                       # variable that is set; "": a comparison
    left: str                         # variable
    operator: str                     # + - * or > <
    right: str                        # variable or number
    skip: int = 0                     # instructions passed over where a comparison fails
    again: bool = False               # in the second or a later round of a repeat

    def operands(self, values: Values) -> Values:
        """The two numbers that it works on."""
        known = dict(zip("xy", values, strict=True))
        return known[self.left], known[self.right] if self.right in known else int(self.right)

    def result(self, values: Values) -> int | None:
        """What it gives: a value, None outside 0..99; 1 or 0 of a comparison."""
        a, b = self.operands(values)
        return compute(a, self.operator, b) if self.target else int((a > b, a < b)["<" in self])

    def written(self, operands: Values, result: int | None) -> str:
        """The step in a trace."""
        head = f"{self.target}=" * bool(self.target)
        return f"{head}{operands[0]}{self.operator}{operands[1]}={result}"

    def after(self, number: int, values: Values, result: int) -> tuple[int, Values]:
        """(number of the next instruction, values) once this one, of that number, gave a result."""
        if self.target:
            return number + 1, (result, values[1]) if self.target == "x" else (values[0], result)
        return number + 1 + self.skip * (not result), values


@lru_cache(maxsize=1 << 16)
def code_of(program: str) -> tuple[Instruction, ...]:
    """A program with its repeats written out; () if it is none or has more than STEP_LIMIT."""
    code: list[Instruction] = []
    for statement in program.split(",") if re.fullmatch(PROGRAM, program) else ():
        *prefixes, setting = statement.split(":")
        body = [Instruction(setting[0], setting[2], setting[3], setting[4:])]
        for prefix in reversed(prefixes):
            if prefix[0] == "?":
                body.insert(0, Instruction("", prefix[1], prefix[2], prefix[3:], len(body)))
            else:
                body += [one._replace(again=True) for one in body] * (int(prefix) - 1)
        code += body
    return tuple(code) if len(code) <= STEP_LIMIT else ()


def running(program: str, values: Values) -> Iterator[tuple[str, Values | None]]:
    """(step, values after it) of a run from these values; values None, the last, out of range."""
    code, number = code_of(program), 0
    while number < len(code):
        result = code[number].result(values)
        step = code[number].written(code[number].operands(values), result)
        if result is None:
            yield step, None
            return
        number, values = code[number].after(number, values, result)
        yield step, values


@lru_cache(maxsize=1 << 18)
def output(program: str, value: int) -> int | None:
    """What a program gives for an input, None where it gives nothing."""
    ran = list(running(program, (value, value)))
    return ran[-1][1][0] if ran and ran[-1][1] else None


def length(program: str) -> int:
    """Its assignments, comparisons and repeats."""
    return 1 + program.count(",") + program.count(":")


# ---- all short programs --------------------------------------------------------------------------

class Programs(NamedTuple):
    """Programs in order of length, whose outputs, on LEAST_DEFINED inputs or more, are not all one.
    """

    texts: list[str]
    outputs: NDArray[np.uint8]        # (programs, INPUTS) by columns, NO_OUTPUT where there is none
    levels: NDArray[np.int8]
    first: dict[bytes, int]           # row of outputs -> the first program that gives it

    def simplest(self, examples: tuple[tuple[int, int], ...]) -> str:
        """The first that fits these examples of (input, output); "" if none does."""
        fits = np.ones(len(self.texts), bool)
        for given, wanted in examples:
            fits &= self.outputs[:, given - INPUTS[0]] == wanted
        return self.texts[fits.argmax()] if fits.any() else ""

    def equivalent(self, program: str) -> str:
        """The first that gives the same on all INPUTS; the program itself if none does."""
        row = [output(program, value) for value in INPUTS]
        index = self.first.get(bytes(NO_OUTPUT if value is None else value for value in row))
        return program if index is None else self.texts[index]


def _effect(setting: str) -> NDArray[np.uint8]:
    """(100 + 1, INPUTS): x after an assignment, by x before and input; NO_OUTPUT stays so."""
    operator, right = setting[3], setting[4:]
    effect = np.full((NO_OUTPUT + 1, len(INPUTS)), NO_OUTPUT, np.uint8)
    for x, i in product(range(NO_OUTPUT), range(len(INPUTS))):
        result = compute(x, operator, INPUTS[i] if right == "y" else int(right))
        effect[x, i] = NO_OUTPUT if result is None else result
    return effect


def _behind(prefix: str, effect: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The effect of a statement behind a prefix."""
    before, column = np.indices(effect.shape)
    if prefix[0] != "?":
        after = effect
        for _ in range(int(prefix[:-1]) - 1):
            after = effect[after, column]
        return after
    number = int(prefix[3:-1])
    holds = before > number if prefix[2] == ">" else before < number
    return np.where(holds, effect, before).astype(np.uint8)


@cache
def programs() -> Programs:
    """All of up to three parts, made once; 0.5 s."""
    start = np.array(INPUTS, dtype=np.uint8)
    column = np.arange(len(INPUTS))
    statements = [{setting: _effect(setting) for setting in SETTINGS}]   # by parts, from 1
    for _ in range(1, MOST_PARTS):
        statements.append({prefix + text: _behind(prefix, effect) for prefix in PREFIXES
                           for text, effect in statements[-1].items()})
    reached: list[dict[str, NDArray]] = [{"": start}]        # by parts, from 0
    for parts in range(1, MOST_PARTS + 1):
        found = {}
        for last in range(1, parts + 1):                     # statements without prefix first
            for head, values in reached[parts - last].items():
                for text, effect in statements[last - 1].items():
                    found[f"{head},{text}".lstrip(",")] = effect[values, column]
        reached.append(found)
    texts = [text for found in reached[1:] for text in found]
    outputs = np.stack([row for found in reached[1:] for row in found.values()])
    defined = outputs < NO_OUTPUT
    varied = np.where(defined, outputs, 0).max(axis=1) > outputs.min(axis=1)
    kept = np.flatnonzero(varied & (defined.sum(axis=1) >= LEAST_DEFINED))
    texts, outputs, first = [texts[i] for i in kept], outputs[kept], {}
    for i, row in enumerate(outputs):
        first.setdefault(row.tobytes(), i)
    levels = np.array([length(text) for text in texts], np.int8)
    return Programs(texts, np.asfortranarray(outputs), levels, first)
