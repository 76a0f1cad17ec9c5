"""Symbolic search for countdown: the exact solver, and the streams of search that teach.

A state is the tuple of numbers at hand; a move takes two, puts their result first and leaves the
rest. The solvers of Gandhi 2024 (arXiv:2404.03683, section 4): depth-first and breadth-first, at
most `breadth` children a state, ordered by one of two heuristics: the distances of the numbers to
the target, or to the nearest factor of the target. No solver comes back to a state.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from minireason.problems.arithmetic import HIGHEST, Move

BUDGET = 300                          # tokens of a stream of search at most
NEAR = 5                              # a result this near to the target is compared with it
SOLVERS = (                           # (order, heuristic, children a state)
    ("depth", "distance", 3), ("depth", "distance", 4), ("depth", "factor", 2),
    ("depth", "factor", 3), ("depth", "factor", 4), ("breadth", "factor", 2))


def results(a: int, b: int) -> list[tuple[str, int]]:
    """Useful operations on a >= b with whole results up to 99: nothing that wastes a number twice.

    a-b=0, times 1 and divided by 1 are left out, as a solution exists without them or not at all
    in nearly every case; the verifier accepts them.
    """
    found = [("+", a + b)] if a + b <= HIGHEST else []
    if a > b:
        found.append(("-", a - b))
    if b > 1 and a * b <= HIGHEST:
        found.append(("*", a * b))
    if b > 1 and a % b == 0:
        found.append(("/", a // b))
    return found


_RESULTS = {(a, b): tuple(results(a, b)) for a in range(HIGHEST + 1) for b in range(a + 1)}
_FACTORS = [[d for d in range(1, t + 1) if t % d == 0] or [0] for t in range(HIGHEST + 1)]
_TO_FACTOR = [[min(abs(x - d) for d in factors) for x in range(HIGHEST + 1)]
              for factors in _FACTORS]


def moves(state: tuple[int, ...]) -> list[Move]:
    """All different useful moves of a state."""
    found, seen = [], set()
    for i, j in combinations(range(len(state)), 2):
        a, b = max(state[i], state[j]), min(state[i], state[j])
        if (a, b) in seen:
            continue
        seen.add((a, b))
        rest = state[:i] + state[i + 1:j] + state[j + 1:]
        found += [Move(a, operator, b, (result, *rest)) for operator, result in _RESULTS[a, b]]
    return found


def ordered(state: tuple[int, ...], target: int, heuristic: str) -> list[Move]:
    """Moves, the most promising first; a last operation is judged by its distance alone."""
    if heuristic == "distance" or len(state) == 2:
        return sorted(moves(state), key=lambda m: sum(abs(x - target) for x in m.after))
    table = _TO_FACTOR[target]
    return sorted(moves(state), key=lambda m: sum(table[x] for x in m.after))


def solve(state: tuple[int, ...], target: int) -> list[Move] | None:
    """The first way to the target in the order of the factor heuristic, None if there is none."""
    dead: set[tuple[int, ...]] = set()

    def search(state: tuple[int, ...]) -> list[Move] | None:
        if len(state) == 1:
            return [] if state[0] == target else None
        key = tuple(sorted(state))
        if key in dead:
            return None
        for move in ordered(state, target, "factor"):
            rest = search(move.after)
            if rest is not None:
                return [move, *rest]
        dead.add(key)
        return None

    return search(state)


def chance(state: tuple[int, ...], target: int) -> float:
    """P(a policy that draws uniformly among the useful moves hits the target), exact."""
    if len(state) == 1:
        return float(state[0] == target)
    choices = moves(state)
    return sum(chance(move.after, target) for move in choices) / max(1, len(choices))


Step = tuple[int | tuple[int, ...], Move]


def stream(numbers: tuple[int, ...], target: int,
           generator: np.random.Generator) -> tuple[list[Step], list[Move] | None]:
    """(steps, way to the target or None) of a solver drawn at random, cut off at BUDGET tokens.

    A step is (jump, move): jump says how many steps are taken back first, or names the state to
    go back to.
    """
    order, heuristic, breadth = SOLVERS[int(generator.integers(len(SOLVERS)))]
    steps: list[Step] = []
    spent, before, state = 0, None, numbers
    for path in visits(numbers, target, order, heuristic, breadth):
        origin, move = path[-2].after if path[1:] else numbers, path[-1]
        jump = 0 if origin == state else 1 if origin == before else origin
        spent += cost(jump, move)
        if spent > BUDGET:
            break
        steps.append((jump, move))
        before, state = origin, move.after
        if state == (target,):
            return steps, path
    return steps, None


def cost(jump: int | tuple[int, ...], move: Move) -> int:
    """Tokens of a step, the separator included."""
    return 4 + 2 * len(move.after) + (jump if isinstance(jump, int) else 1 + 2 * len(jump))


def guided(numbers: tuple[int, ...], target: int,
           generator: np.random.Generator) -> tuple[list[Step], list[Move] | None]:
    """(steps, way to the target or None): depth first, by one who sees which moves can succeed.

    At each state it takes such a move with a chance drawn once a stream; else, at first, any other
    and then the next one in the order of `moves`, so that a policy learns to guess and, where its
    guess was wrong, to go through what is left. A result within NEAR of the target is compared
    with it by a subtraction. The search is given up at BUDGET tokens.
    """
    chance_right = generator.uniform(0.6, 0.95)
    open_states: dict[tuple[int, ...], bool] = {}           # sorted state -> can it succeed?
    steps: list[Step] = []
    spent, back = 0, 0                                      # tokens; steps to take back first

    def alive(state: tuple[int, ...]) -> bool:
        key = tuple(sorted(state))
        if key not in open_states:
            open_states[key] = (state[0] == target if len(state) == 1 else
                                any(alive(move.after) for move in moves(key)))
        return open_states[key]

    def add(move: Move) -> bool:
        nonlocal spent, back
        spent += cost(back, move)
        if spent <= BUDGET:
            steps.append((back, move))
            back = 0
        return spent <= BUDGET

    def search(state: tuple[int, ...]) -> list[Move] | None:
        nonlocal back
        if len(state) == 1:
            high, low = max(state[0], target), min(state[0], target)
            if high - low <= NEAR and not add(Move(high, "-", low, (high - low,))):
                return None
            return [] if high == low else None
        waiting = moves(state) if len(state) > 2 else ordered(state, target, "distance")[:1]
        for tried in range(len(waiting)):
            good = [move for move in waiting if alive(move.after)]
            bad = [move for move in waiting if not alive(move.after)]
            if good and (not bad or generator.random() < chance_right):
                move = good[int(generator.integers(len(good)))]
            else:
                move = bad[0 if tried else int(generator.integers(len(bad)))]
            waiting.remove(move)
            if not add(move):
                return None
            rest = search(move.after)
            if rest is not None or spent > BUDGET:
                return None if rest is None else [move, *rest]
            back += 1
        return None

    return steps, search(numbers)


def visits(numbers: tuple[int, ...], target: int, order: str, heuristic: str,
           breadth: int) -> Iterator[list[Move]]:
    """The ways (moves from the root) in the order in which a solver comes upon them.

    Of two numbers only the most promising operation is tried: one that hits comes first.
    """
    waiting: list[list[Move]] = [[]]
    seen: set[tuple[int, ...]] = set()                 # states of two numbers or more
    while waiting:
        path = waiting.pop() if order == "depth" else waiting.pop(0)
        state = path[-1].after if path else numbers
        if tuple(sorted(state)) in seen:
            continue
        if len(state) > 1:
            seen.add(tuple(sorted(state)))
        if path:
            yield path
        width = breadth if len(state) > 2 else 1
        children = [[*path, move] for move in ordered(state, target, heuristic)[:width]]
        waiting += children[::-1] if order == "depth" else children
