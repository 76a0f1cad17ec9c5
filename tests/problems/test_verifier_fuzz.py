"""Mutated completions: the verifiers and the judge agree, and a planted bug is found."""

import re
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from verifier_fuzz import LEVELS, fuzz

from minireason.problems import (
    addition,
    arithmetic,
    base,
    chain,
    countdown,
    decomposition,
    instructions,
    maze,
    modular,
    multiplication,
    pathstar,
    program,
    synthesis,
)
from minireason.problems.base import Verdict

SIZE = 2000                           # mutants; `python tests/verifier_fuzz.py` makes a million


@pytest.mark.parametrize("name", LEVELS)
def test_no_mutant_is_misjudged(name):
    counts, examples = fuzz(name, SIZE)
    assert counts["differing"] == 0, examples
    assert counts["steps_valid"] > SIZE / 50 and counts["well_formed"] < 0.9 * SIZE


def loosened(pattern: re.Pattern, old: str, new: str) -> re.Pattern:
    assert old in pattern.pattern
    return re.compile(pattern.pattern.replace(old, new))


def answer_alone(problem, completion):
    parsed = chain.parse(completion)
    good = parsed is not None and parsed[1] == problem.answer
    return Verdict(good, good, parsed is not None, ())


def any_numbers(problem, answer):
    read = arithmetic.operations(answer)
    numbers, target = countdown.given(problem)
    return read is not None and {*read[1]} <= {*numbers} and read[0][-1][3] == target


def floor(left, operator, right):
    return left // right if operator == "/" and right else arithmetic_compute(left, operator, right)


def unbounded(left, operator, right):
    return left * right if operator == "*" else arithmetic_compute(left, operator, right)


def any_way(problem, answer):
    """A walk to the goal that need not be a shortest one."""
    size, here, goal, walls = maze_given(problem)
    for cell in re.findall("..", answer):
        if cell in walls or cell not in maze.neighbours(size)[here]:
            return False
        here = cell
    return here == goal


arithmetic_compute, maze_given = arithmetic.compute, maze.given
given, check_program = decomposition.given, program.check_steps
pieces_of, verify, is_right = (
    decomposition.pieces_of, instructions.verify, instructions.is_right)
PLANTED = {
    "text behind <eos>": ("chain", chain, "_COMPLETION",
                          loosened(chain._COMPLETION, "<eos>", "<eos>(?:.*)")),
    "steps unread": ("chain", chain, "verify", answer_alone),
    "one withdrawal more": ("chain", chain, "MAX_WITHDRAWN", 9),
    "division with a remainder": ("chain", chain, "check_steps",
                                  partial(chain.check_steps, compute=floor)),
    "leading zeros": ("addition", addition, "_COMPLETION",
                      loosened(addition._COMPLETION, "(?:0|[1-9][0-9]*)", "[0-9]+")),
    "reversed answers without $": ("addition", addition, "is_right", lambda problem, answer:
                                   problem.answer in (answer, answer[::-1])),
    "unicode digits": ("addition", addition, "_COMPLETION",
                       loosened(addition._COMPLETION, "[1-9][0-9]*", r"[1-9]\d*")),
    "numbers used twice": ("countdown", countdown, "is_right", any_numbers),
    "values above 99": ("countdown", arithmetic, "compute", unbounded),
    "the reference alone is right": ("countdown", countdown, "is_right", chain.is_right),
    "answers filled up at will": ("multiplication", multiplication, "_COMPLETION", loosened(
        multiplication._COMPLETION, "(?:[0-9]{2})*(?:[0-9][1-9]|[1-9]0)", "[0-9]*[1-9]0*")),
    "sums from the truth, not from the step before": (
        "multiplication", multiplication, "check_steps", lambda problem, steps: [
            i < problem.level and step == problem.steps[i] for i, step in enumerate(steps)]),
    "results above 9": ("modular", modular, "MODULUS", 100),
    "walls walked through": ("maze", maze, "given", lambda problem: (*maze_given(problem)[:3], [])),
    "jumps": ("maze", maze, "is_right", lambda problem, answer: (
        len(answer) == len(problem.answer) and answer[-2:] == maze_given(problem)[2])),
    "the reference plan alone is right": ("maze", maze, "is_right", chain.is_right),
    "plans of any length": ("maze", maze, "is_right", any_way),
    "the search in any order": ("maze", maze, "max", lambda last, at: -1),
    "traces with gaps": ("maze", maze, "DIGITS", ""),
    "the answer unread backwards": ("pathstar", pathstar, "_COMPLETION", loosened(
        pathstar._COMPLETION, r"|\(", r"|\(?")),
    "either end is right": ("pathstar", base, "is_right", lambda problem, answer: {
        a + b for a, b in pairwise(answer)} <= {*re.findall("[a-t]{2}", problem.prompt)}
        and len(answer) == len(problem.answer)),
    "any node of the graph": ("pathstar", pathstar, "check_steps", lambda problem, steps: [
        {*step} <= {*problem.prompt} for step in steps]),
    "steps from the truth alone": ("pathstar", pathstar, "check_steps", lambda problem, steps: [
        step in problem.steps for step in steps]),
    "the other way is as good": ("decomposition", decomposition, "given", lambda problem: (
        "", *given(problem)[1:])),
    "pieces in any order": ("decomposition", decomposition, "pieces_of", lambda *state:
                            pieces_of(*state)[::-1]),
    "two answers that differ": ("instructions", instructions, "_COMPLETION", loosened(
        instructions._COMPLETION, "(?P=once)", "(?:0|[1-9][0-9]?)(?:even|odd)?")),
    "tricks are obedience": ("instructions", instructions, "verify", lambda problem, text: replace(
        verify(problem, text), obeyed=(True,) * len(verify(problem, text).obeyed))),
    "one more is right unasked": ("instructions", instructions, "is_right", lambda problem, answer:
                                  is_right(problem, answer) or str(
                                      (int(problem.answer) + 1) % 100) == answer
                                  if problem.answer.isdecimal() else is_right(problem, answer)),
    "a comparison may claim what it likes": (
        "program", program, "check_steps", lambda problem, steps: [
            step[-2:] in ("=0", "=1") or right
            for step, right in zip(steps, check_program(problem, steps), strict=True)]),
    "programs fitted to what is shown": ("synthesis", synthesis, "is_right",
                                         lambda problem, answer: all(
                                             synthesis.self_check(problem, answer))),
    "only the simplest program is right": ("synthesis", synthesis, "is_right", chain.is_right),
    "some outputs checked": ("synthesis", synthesis, "_STEP", loosened(
        synthesis._STEP, "{0,2})", "{0,3})")),
    "giving up is right": ("countdown", countdown, "is_right", lambda problem, answer:
                           answer in (problem.answer, countdown.GAVE_UP)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug, monkeypatch):
    name, module, attribute, broken = PLANTED[bug]
    monkeypatch.setattr(module, attribute, broken, raising=attribute != "max")
    if attribute == "_COMPLETION" and isinstance(module.parse, partial):
        monkeypatch.setattr(module, "parse", partial(module.parse.func, broken))
    assert fuzz(name, SIZE)[0]["differing"] > 0
