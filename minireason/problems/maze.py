"""maze: `5:a0>e4#d0b1c2=`, a shortest plan from cell a0 to e4 of a 5 x 5 grid with walls d0 b1 c2.

A cell is a column a to j and a row 0 to 9, one token; a plan names the cells moved to, and any
shortest one is right. The thought is a breadth-first search from the goal: a step closes a cell,
with its distance, and names the new free cells beside it. So the plan is read off forwards: the
cell whose step discovered the place where one stands is the next (why that matters: pathstar.py).

    direct  </think>a1a2a3a4b4c4d4e4<eos>
    cot     <think>0e4:d4e3;1d4:c4d3;1e3:e2;2c4:b4c3;...</think>a1a2a3a4b4c4d4e4<eos>
    drop3   <think>e4:d4e3;d4:c4d3;c4:b4c3;b4:a4b3;...</think>a1a2a3a4b4c4d4e4<eos>

Search traces: Searchformer (Lehnert 2024, arXiv:2402.14083). Dropping parts of them: Dualformer (Su
2024, arXiv:2410.09918), whose four levels are here drop1, without distances; drop2, also without
steps that discover nothing; drop3, also without a random 30% of the rest; and direct. A thought
with distances must be the whole search, one without them may leave steps out.
"""

import re
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import pairwise, product

import numpy as np

from minireason.core.config import rng
from minireason.core.errors import UserError, check_choice
from minireason.problems import base
from minireason.problems.authors import SLIP, Authors, Outcome, outcomes_of_ways
from minireason.problems.base import MALFORMED, Problem, Verdict, number_tokens, plain_text

NAME: str = "maze"
LEVELS: tuple[int, ...] = (4, 5, 6, 8, 10)    # levels with a frozen set: side of the grid
SAMPLED: tuple[int, int] = (3, 10)
LEVEL_SYMBOL: str = "n"
LEVEL_NAME: str = "side of the grid"
STYLES: tuple[str, ...] = ("direct", "cot", "drop1", "drop2", "drop3")
OPENER = dict.fromkeys(STYLES, "<think>") | {"direct": "</think>"}
answer_key = base.answer_key
COLUMNS, DIGITS = "abcdefghij", "0123456789"
TOKENS = (*(column + row for row in DIGITS for column in COLUMNS), *number_tokens(2), *":;>#=")

DEEP, OVERLOOKED = "depth first", "wall overlooked"
MISTAKES = {DEEP: f"{DEEP}: 1e3:d3e2 before 1d4:c4d3, the way found last is followed to its end",
            OVERLOOKED: f"{OVERLOOKED}: 0e4:d4e3 though d4 is a wall, the first beside the goal",
            SLIP: f"{SLIP}: 3b4:b3, where the free a4 is taken for a wall"}

_CELL = re.compile("[a-j][0-9]")
_PLAN = "(?:[a-j][0-9])+"
_STEP = "(?:0|[1-9][0-9]?)?[a-j][0-9]:(?:[a-j][0-9])*"
_COMPLETION = re.compile(f"(?:<think>({_STEP}(?:;{_STEP})*))?</think>({_PLAN})<eos>")
parse = partial(base.parse_by, _COMPLETION)
_PROMPT = re.compile(f"([0-9]{{1,2}}):([a-j][0-9])>([a-j][0-9])(?:#({_PLAN}))?=?")
Steps = tuple[str, ...]


@cache
def neighbours(size: int) -> dict[str, list[str]]:
    """Of each cell of a grid, row by row, those beside it: right, below, left, above."""
    found = {}
    for row, column in product(range(size), repeat=2):
        beside = ((column + 1, row), (column, row + 1), (column - 1, row), (column, row - 1))
        found[f"{COLUMNS[column]}{row}"] = [f"{COLUMNS[x]}{y}" for x, y in beside
                                            if 0 <= x < size and 0 <= y < size]
    return found


def search_steps(size: int, start: str, goal: str, walls: set[str], deep: bool = False) -> Steps:
    """The search from the goal until the start is discovered, or until nothing is left.

    deep: the way found last is followed to its end, in place of the nearest cell.
    """
    beside, closed, seen = neighbours(size), {*walls}, {goal, *walls}
    opened, steps, new = [(0, goal)], [], []
    while opened and start not in new:
        distance, cell = opened.pop(-1 if deep else 0)
        if cell not in closed:
            closed.add(cell)
            new = [other for other in beside[cell] if other not in (closed if deep else seen)]
            seen.update(new)
            opened += [(distance + 1, other) for other in new]
            steps.append(f"{distance}{cell}:{''.join(new)}")
    return tuple(steps)


def plan_of(steps: Steps, start: str) -> str:
    """The plan that a search from the goal leads to, "" if it has not discovered the start."""
    discoverer, plan = {}, ""
    for step in steps:
        cell, *new = _CELL.findall(step)
        discoverer |= dict.fromkeys(new, cell)
    while start in discoverer:
        start = discoverer[start]
        plan += start
    return plan


def given(problem: Problem) -> tuple[int, str, str, list[str]]:
    """(side, start, goal, walls row by row)."""
    start, goal, *walls = _CELL.findall(problem.prompt)
    return problem.level, start, goal, walls


def build(size: int, start: str, goal: str, walls: set[str]) -> Problem:
    """The problem, whose answer is "" if there is no plan."""
    steps = search_steps(size, start, goal, walls)
    named = "".join(cell for cell in neighbours(size) if cell in walls)
    prompt = f"{size}:{start}>{goal}{'#' * bool(walls)}{named}="
    return Problem(prompt, plan_of(steps, start), steps, NAME, size, f"{NAME} {prompt}")


def sample(generator: np.random.Generator, level: int) -> Problem:
    """Walls on 25 to 40% of the cells, a random goal, and a random start of those from which it
    takes at least `level` moves."""
    cells = [*neighbours(level)]
    while True:
        count = int(generator.integers(level ** 2 // 4, level ** 2 * 2 // 5 + 1))
        goal, *walls = (cells[i] for i in generator.permutation(level ** 2)[:1 + count].tolist())
        closed = [step.partition(":")[0] for step in search_steps(level, "", goal, {*walls})]
        far = [cell[-2:] for cell in closed if int(cell[:-2]) >= level]
        if far:
            return build(level, far[int(generator.integers(len(far)))], goal, {*walls})


def max_new(level: int) -> int:
    """Tokens of a completion at most: five per cell, and a little room."""
    return 16 + 5 * level ** 2


def read(text: str) -> Problem:
    """A problem from typed text such as `5:a0>e4#d0b1c2`."""
    match = _PROMPT.fullmatch(plain_text(text))
    size, cells = int(match[1]) if match else 0, _CELL.findall(match[0]) if match else []
    known = 3 <= size <= 10 and neighbours(size).keys() >= {*cells}
    if not known or len({*cells}) < len(cells):
        raise UserError(f"cannot read {text[:80]!r}: write side:start>goal#walls with a side of 3 "
                        "to 10 and different cells, such as 5:a0>e4#d0b1c2")
    problem = build(size, cells[0], cells[1], {*cells[2:]})
    if not problem.answer:
        raise UserError(f"cannot solve {text[:80]!r}: walls part {cells[0]} from {cells[1]}")
    return problem


def render(problem: Problem, style: str) -> str:
    """The ideal completion in the style, from its opener to <eos>."""
    check_choice("style", style, OPENER)
    steps, drop = problem.steps, int(style[4:]) if style.startswith("drop") else 0
    if drop:
        steps = [step.lstrip(DIGITS) for step in steps if drop == 1 or step[-1] != ":"]
    if drop == 3:
        draws = rng(0, "maze drops", problem.prompt).random(len(steps))
        steps = [step for step, draw in zip(steps, draws, strict=True) if draw < 0.7] or steps[-1:]
    return base.render(replace(problem, steps=tuple(steps)), style)


def is_right(problem: Problem, answer: str) -> bool:
    """Walk the plan: each move to a free cell beside, the last to the goal; none is shorter."""
    size, here, goal, walls = given(problem)
    if not re.fullmatch(_PLAN, answer) or len(answer) != len(problem.answer):
        return False
    for cell in _CELL.findall(answer):
        if cell in walls or cell not in neighbours(size)[here]:
            return False
        here = cell
    return here == goal


def check_steps(problem: Problem, steps: Steps) -> list[bool]:
    """For each step: is it, with its distance or without, one of the true search, in its order?"""
    places, marks, last = {}, [], -1
    for i, step in enumerate(problem.steps):
        places[step] = places[step.lstrip(DIGITS)] = i
    for step in steps:
        marks.append(places.get(step, -1) > last)
        last = max(last, places.get(step, -1))
    return marks


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    if (parsed := parse(completion)) is None:
        return MALFORMED
    steps, answer = parsed
    correct, marks = is_right(problem, answer), tuple(check_steps(problem, steps))
    whole = steps == problem.steps or (steps and not any(step[0] in DIGITS for step in steps))
    return Verdict(correct, correct and bool(whole) and all(marks), True, marks)


def facts(problem: Problem) -> Steps:
    """The moves of its plan, such as `a0>a1`."""
    return tuple(f"{here}>{there}" for here, there in pairwise(
        [given(problem)[1], *_CELL.findall(problem.answer)]))


def drawing(problem: Problem, answer: str) -> str:
    """The maze as text, with the cells of a plan."""
    size, start, goal, walls = given(problem)
    signs = dict.fromkeys(_CELL.findall(answer), "*") | dict.fromkeys(walls, "#")
    signs |= {start: "S", goal: "G"}
    lines = ["  " + " ".join(COLUMNS[:size])]
    for row in DIGITS[:size]:
        lines.append(" ".join([row, *(signs.get(column + row, ".") for column in COLUMNS[:size])]))
    return "\n".join(lines)


# ---- fallible authors (authors.py): a state is the steps written so far --------------------------

@lru_cache(maxsize=4096)
def ways(problem: Problem, authors: Authors) -> list[tuple[float, Steps, Steps]]:
    """[(probability, steps, the mistake of each or "")] of an author's searches: with chance `rule`
    depth first, up to the first path; else, `rare`, with a wall beside the goal overlooked; else,
    `slip`, with the middle of the plan taken for a wall."""
    size, start, goal, walls = given(problem)
    beside, cells = [w for w in walls if w in neighbours(size)[goal]], _CELL.findall(problem.answer)
    tried = ((authors.rule, DEEP, {*walls}), (authors.rare, OVERLOOKED, {*walls} - {*beside[:1]}),
             (authors.slip, SLIP, {*walls, cells[(len(cells) - 1) // 2]} - {goal}))
    found, left = [], 1.0
    for chance, name, seen in tried:
        steps = search_steps(size, start, goal, seen, name == DEEP) if chance else problem.steps
        if steps != problem.steps and plan_of(steps, start):
            marks = check_steps(problem, steps)
            found.append((left * chance, steps, tuple("" if good else name for good in marks)))
            left -= left * chance
    return [*found, (left, problem.steps, ("",) * len(problem.steps))]


def outcomes(problem: Problem, authors: Authors, number: int, state: Steps | None) -> list[Outcome]:
    """The ways in which an author may go on from the steps that he has written, his state."""
    return outcomes_of_ways(ways(problem, authors), number, state)


def answer_of_state(problem: Problem, state: Steps) -> str:
    """The plan that his search led him to."""
    return plan_of(state, given(problem)[1])


def fact_outcomes(problem: Problem, authors: Authors) -> list[list[Outcome]]:
    """A move to a cell beside is stated without mistakes."""
    return [[Outcome(1.0, fact, None, "")] for fact in facts(problem)]
