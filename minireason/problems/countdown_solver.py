"""Symbolic search for countdown: the exact solver, and the streams of search that teach.

A state is the tuple of numbers at hand; a move takes two, puts their result first and leaves the
rest. The solvers of Gandhi 2024 (arXiv:2404.03683, section 4): depth-first and breadth-first, at
most `breadth` children a state, ordered by one of two heuristics: the distances of the numbers to
the target, or to the nearest factor of the target. No solver comes back to a state.
"""

from collections.abc import Callable
from functools import cache
from itertools import combinations

import numpy as np

from minireason.problems.arithmetic import HIGHEST, Move, compute

BUDGET = 300                          # tokens of a stream of search at most
NEAR = 5                              # a result this near to the target is compared with it
SOLVERS = (                           # (order, heuristic, children a state)
    ("depth", "distance", 3), ("depth", "distance", 4), ("depth", "factor", 2),
    ("depth", "factor", 3), ("depth", "factor", 4), ("breadth", "factor", 2))


State = tuple[int, ...]               # the numbers at hand
Stream = tuple[list[tuple[int | State, Move]], list[Move] | None]


@cache
def results(a: int, b: int) -> list[tuple[str, int]]:
    """Useful operations on a >= b with whole results up to 99: nothing that wastes a number twice.

    a-b=0, times 1 and divided by 1 are left out, as a solution exists without them or not at all
    in nearly every case; the verifier accepts them.
    """
    found = []
    for operator in "+-*/":
        result = compute(a, operator, b)
        wasteful = (operator == "-" and a == b) or (operator in "*/" and b < 2)
        if result is not None and not wasteful:
            found.append((operator, result))
    return found


_FACTORS = [[d for d in range(1, t + 1) if t % d == 0] or [0] for t in range(HIGHEST + 1)]
_TO_FACTOR = [[min(abs(x - d) for d in factors) for x in range(HIGHEST + 1)]
              for factors in _FACTORS]


Results = Callable[[int, int], list[tuple[str, int]]]


def moves(state: State, results_of: Results = results) -> list[Move]:
    """All different useful moves of a state, in the arithmetic of `results_of`."""
    found, seen = [], set()
    for i, j in combinations(range(len(state)), 2):
        a, b = max(state[i], state[j]), min(state[i], state[j])
        if (a, b) in seen:
            continue
        seen.add((a, b))
        rest = state[:i] + state[i + 1:j] + state[j + 1:]
        found += [Move(a, operator, b, (result, *rest)) for operator, result in results_of(a, b)]
    return found


def ordered(state: State, target: int, heuristic: str, results_of: Results = results) -> list[Move]:
    """Moves, the most promising first; a last operation is judged by its distance alone."""
    if heuristic == "distance" or len(state) == 2:
        return sorted(moves(state, results_of), key=lambda m: sum(abs(x - target) for x in m.after))
    table = _TO_FACTOR[target]
    return sorted(moves(state, results_of), key=lambda m: sum(table[x] for x in m.after))


def solve(state: State, target: int, dead: set[State] | None = None) -> list[Move] | None:
    """The first way to the target in the order of the factor heuristic, None if there is none.

    dead: sorted states known to have none; those that are found are added.
    """
    if len(state) == 1:
        return [] if state[0] == target else None
    dead = set() if dead is None else dead
    key = tuple(sorted(state))
    if key in dead:
        return None
    for move in ordered(state, target, "factor"):
        rest = solve(move.after, target, dead)
        if rest is not None:
            return [move, *rest]
    dead.add(key)
    return None


def chance(state: State, target: int) -> float:
    """P(a policy that draws uniformly among the useful moves hits the target), exact."""
    if len(state) == 1:
        return float(state[0] == target)
    choices = moves(state)
    return sum(chance(move.after, target) for move in choices) / max(1, len(choices))


def comparison(result: int, target: int) -> Move | None:
    """A last result compared with the target, larger minus smaller, as `49-46=3`.

    None where it is not within NEAR: that it misses is seen without calculating.
    """
    high, low = max(result, target), min(result, target)
    return Move(high, "-", low, (high - low,)) if high - low <= NEAR else None


def stream(numbers: State, target: int, generator: np.random.Generator) -> Stream:
    """(steps, way to the target or None) of a solver drawn at random, cut off at BUDGET tokens.

    A step is (jump, move): jump says how many steps are taken back first, or names the state to
    go back to. A last result near the target is compared with it, here as in `guided`.
    """
    order, heuristic, breadth = SOLVERS[int(generator.integers(len(SOLVERS)))]
    steps, spent, before, state = [], 0, None, numbers
    waiting: list[list[Move]] = [[]]  # ways, as moves from the root
    seen: set[State] = set()          # states of two numbers or more
    while waiting:
        path = waiting.pop(-1 if order == "depth" else 0)
        found = path[-1].after if path else numbers
        key = tuple(sorted(found))
        if key in seen:
            continue
        if len(key) > 1:
            seen.add(key)
        if path:
            origin, move = path[-2].after if path[1:] else numbers, path[-1]
            jump = 0 if origin == state else 1 if origin == before else origin
            spent += cost(jump, move)
            if spent > BUDGET:
                break
            steps.append((jump, move))
            before, state = origin, found
            compared = comparison(found[0], target) if len(found) == 1 else None
            if compared:
                spent += cost(0, compared)
                if spent > BUDGET:
                    break
                steps.append((0, compared))
            if found == (target,):
                return steps, path
        width = breadth if len(found) > 2 else 1       # of two numbers, what hits comes first
        children = [[*path, move] for move in ordered(found, target, heuristic)[:width]]
        waiting += children[::-1] if order == "depth" else children
    return steps, None


def cost(jump: int | State, move: Move) -> int:
    """Tokens of a step, the separator included."""
    return 4 + 2 * len(move.after) + (jump if isinstance(jump, int) else 1 + 2 * len(jump))


def guided(numbers: State, target: int, generator: np.random.Generator) -> Stream:
    """(steps, way to the target or None): depth first, by one who sees which moves can succeed.

    At each state it takes such a move with a chance drawn once a stream; else, at first, any other
    and then the next one in the order of `moves`, so that a policy learns to guess and, where its
    guess was wrong, to go through what is left. The search is given up at BUDGET tokens.
    """
    chance_right = generator.uniform(0.6, 0.95)
    dead: set[State] = set()          # states that cannot succeed
    steps, spent, back = [], 0, 0     # back: steps to take back first

    def add(move: Move) -> bool:
        nonlocal spent, back
        spent += cost(back, move)
        if spent <= BUDGET:
            steps.append((back, move))
            back = 0
        return spent <= BUDGET

    def way_from(state: State) -> list[Move] | None:
        nonlocal back
        if len(state) == 1:
            compared = comparison(state[0], target)
            if compared and not add(compared):
                return None
            return [] if state == (target,) else None
        waiting = moves(state) if len(state) > 2 else ordered(state, target, "distance")[:1]
        for tried in range(len(waiting)):
            good = [move for move in waiting if solve(move.after, target, dead) is not None]
            bad = [move for move in waiting if move not in good]
            if good and (not bad or generator.random() < chance_right):
                move = good[int(generator.integers(len(good)))]
            else:
                move = bad[0 if tried else int(generator.integers(len(bad)))]
            waiting.remove(move)
            if not add(move):
                return None
            rest = way_from(move.after)
            if rest is not None or spent > BUDGET:
                return None if rest is None else [move, *rest]
            back += 1
        return None

    return steps, way_from(numbers)
