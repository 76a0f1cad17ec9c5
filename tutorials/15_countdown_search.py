# %% [markdown]
# # 15. Searching in text: countdown
#
# Four numbers and a target: use each number once and hit it. No step is hard, but which one to
# take? Such a problem asks for search. We write a depth-first search by hand, measure what a good
# order of moves is worth, and turn a search into a text that a model could learn from, dead ends
# included. It needs no trained model. About 10 seconds.

# %%
import os
from collections import Counter
from itertools import combinations

import numpy as np
from tutorial_tools import keep, mean, panels, share

from minireason.core.config import rng
from minireason.measure.estimates import paired_bootstrap
from minireason.measure.evaluate import frozen_sets
from minireason.model.tokenizer import Tokenizer
from minireason.problems import countdown
from minireason.problems.countdown_authors import given
from minireason.problems.countdown_solver import chance, moves, ordered, solve
from minireason.report.style import BLUE, GREEN, ORANGE, PURPLE

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
N, TRACES = (12, 6) if SMALL else (300, 100)
tokenizer = Tokenizer.build(countdown.TOKENS)
(problems,) = frozen_sets("countdown", "test", N, (4,)).values()

# %% [markdown]
# ## The problem
#
# A state is the tuple of numbers at hand. A move takes two of them and puts one result in their
# place. Every value is a whole number from 0 to 99. The answer is an expression; the verifier needs
# the prompt alone to check it, so a policy may check itself.

# %%
problem = countdown.read("3,7,18,2>46")
print("prompt ", problem.prompt)
for style in ("direct", "optimal", "checked"):
    print(f"{style:<8}{countdown.render(problem, style)}")
assert countdown.is_right(problem, "(18*2)+(3+7)")
assert not countdown.is_right(problem, "(18*2)+7+3+0")

# %% [markdown]
# All moves of a state by hand: every pair, larger number first, every operation with a whole result
# up to 99 that does not waste a number (a - a, times 1, divided by 1).


# %%
def moves_by_hand(state):
    """The states that one move leads to."""
    found = set()
    for i, j in combinations(range(len(state)), 2):
        a, b = max(state[i], state[j]), min(state[i], state[j])
        rest = [state[k] for k in range(len(state)) if k not in (i, j)]
        results = [a + b]
        if a != b:
            results.append(a - b)
        if b >= 2:
            results.append(a * b)
            if a % b == 0:
                results.append(a // b)
        found |= {tuple(sorted([x, *rest])) for x in results if x <= 99}
    return found


for other in problems:
    numbers, _ = given(other)
    assert moves_by_hand(numbers) == {tuple(sorted(m.after)) for m in moves(numbers)}
numbers, target = given(problem)
print(f"from {numbers} one move leads to {len(moves_by_hand(numbers))} states; the same moves as "
      f"the library's on {N} problems")

# %% [markdown]
# ## Depth first
#
# Take a move, then a move from there; at a dead end go back to the last choice. What decides is the
# order in which moves are tried. Three orders: random; by the distances of the numbers to the
# target; by their distances to the nearest factor of the target (Gandhi 2024, arXiv:2404.03683).


# %%
def depth_first(state, target, order, budget):
    """(solved, moves made) of a search that may make `budget` moves."""
    made, seen = 0, set()

    def visit(state):
        nonlocal made
        if len(state) == 1:
            return state[0] == target
        if tuple(sorted(state)) in seen:
            return False
        seen.add(tuple(sorted(state)))
        for move in order(state):
            if made >= budget:
                return False
            made += 1
            if visit(move.after):
                return True
        return False

    return visit(state), made


def order_of(name, target, generator):
    """A function from a state to its moves, in the order in which they are tried."""
    if name == "random":
        return lambda state: [moves(state)[i] for i in generator.permutation(len(moves(state)))]
    return lambda state: ordered(state, target, name)


BUDGETS = (10, 30, 100, 300, 1000)
solved = {}
for name in ("random", "distance", "factor"):
    for i, other in enumerate(problems):
        numbers, target = given(other)
        order = order_of(name, target, rng(0, "tutorial 15", i))
        _, made = depth_first(numbers, target, order, max(BUDGETS))
        for budget in BUDGETS:                     # a larger budget begins like a smaller one
            hit = made < budget or depth_first(
                numbers, target, order_of(name, target, rng(0, "tutorial 15", i)), budget)[0]
            solved.setdefault((name, budget), []).append(hit)
    print(f"{name:<9}", "; ".join(
        f"{budget} moves {100 * np.mean(solved[name, budget]):.0f}%" for budget in BUDGETS))
exact = [solve(given(p)[0], given(p)[1]) is not None for p in problems]
print(f"with a solution at all: {share(sum(exact), N)}")
lucky = np.array([chance(*given(p)) for p in problems])
print(f"one random way to the end hits (%): {mean(lucky)}")
assert all(exact)

# %% [markdown]
# ## A search as text
#
# A Stream of Search writes down what a solver tries. Each step names the operation and the numbers
# then at hand, the result first. `<wrong>` takes back a step, `<wrong>S:` goes back to the state S.
# The line holds dead ends, and it may end without a solution: the solver tries 2 to 4 moves per
# state at most, and has 300 tokens.

# %%
text = countdown.render(problem, "sos")
print(text)
steps, answer = countdown.parse(text)
marks, state = countdown.walk_steps(problem, steps)
print(f"{len(steps)} steps, {sum(marks)} of them exact; the last state is {state}")
assert all(marks)

# %% [markdown]
# Read such a trace by hand: keep a stack of states, pop it where the text takes a step back. The
# state at the end must be the one that the library's checker finds.


# %%
def last_state_by_hand(problem, steps):
    """The state after a trace, by a stack of the states on the way."""
    way = [tuple(sorted(given(problem)[0]))]
    ways = {way[0]: way}
    for step in steps:
        back, colon, rest = step.rpartition(":")
        if colon:                                          # `<wrong>3,7,18:` names a state
            named = back.removeprefix("<wrong>").split(",")
            way = ways[tuple(sorted(map(int, named)))]
        else:
            undone = step.count("<wrong>")
            way, rest = way[:len(way) - undone], step.replace("<wrong>", "")
        if len(way[-1]) == 1:                              # a comparison with the target
            continue
        way = [*way, tuple(sorted(map(int, rest.partition("=")[2].split(","))))]
        ways[way[-1]] = way
    return way[-1]


kinds, rows = Counter(), []
generator = rng(0, "tutorial 15 traces")
for other in problems[:TRACES]:
    text = countdown.search_text(other, generator)
    steps, answer = countdown.parse(text)
    assert last_state_by_hand(other, steps) == countdown.walk_steps(other, steps)[1]
    verdict = countdown.verify(other, text)
    kinds["solved" if verdict.correct else "gave up"] += 1
    optimal = countdown.render(other, "optimal")
    rows.append([len(tokenizer.encode(line)) for line in (text, optimal)])
print(f"streams that end in a solution: {share(kinds['solved'], TRACES)}")
longer = np.array(rows).mean(axis=0)
print(f"tokens of a stream {longer[0]:.0f}, of an optimal path {longer[1]:.0f}")

# %%
figure, axes = panels(2)
for name, color in (("random", ORANGE), ("distance", BLUE), ("factor", GREEN)):
    axes[0].plot(BUDGETS, [100 * np.mean(solved[name, b]) for b in BUDGETS], color=color,
                 marker="o", label=name)
axes[0].set(xscale="log", xlabel="moves that the search may make", ylabel="solved (%)",
            ylim=(0, 103), title="Depth-first search, by order of moves")
axes[0].legend()
axes[1].hist([row[0] for row in rows], bins=20, color=PURPLE)
axes[1].axvline(longer[1], color=GREEN, linestyle="--", label="optimal path, mean")
axes[1].set(xlabel="tokens", ylabel="streams", title="How long a stream of search is")
axes[1].legend()
keep(figure, "15_countdown_search")

# %% [markdown]
# ## The claim
#
# With few moves, the order decides: at 10 moves, trying the moves that come near the target first
# solves more problems than random order (the paired 95% interval lies above 0), and both are far
# ahead of one random way. With many moves the order no longer matters: at 300 the interval lies
# below 5 points. And a stream of search is on average over three times as long as the optimal path:
# learning from searches pays for the dead ends.

# %%
gaps = {}
for budget in (10, 300):
    best, blind = (np.array(solved[name, budget], dtype=float) for name in ("distance", "random"))
    gaps[budget] = paired_bootstrap(best, blind)
    print(f"distance - random at {budget} moves: {mean(best, blind)} points")
assert SMALL or (gaps[10][1] > 0 and gaps[300][2] < 0.05)
assert SMALL or paired_bootstrap(np.array(solved["random", 10], dtype=float), lucky)[1] > 0.05
lengths = np.array(rows, dtype=float)
assert SMALL or paired_bootstrap(lengths[:, 0], 3 * lengths[:, 1])[1] > 0

# %% [markdown]
# Is it worth the price? `minireason countdown` trains both ways on as many tokens: docs/RESULTS.md
# has the tables. In the paper the model that learned from searches solves twice as many held-out
# problems as the one that learned from optimal paths.
#
# In one sentence: where the next step cannot be known, a thought is a search, its order decides
# what it costs, and a trace that keeps its dead ends can teach searching itself.
#
# ## Try it
#
# 1. How many of the problems have more than one solution? Count the different ways of moves that
#    end at the target for the first 50.
# 2. A node is expanded again if it is reached in another order. Take `seen` out of `depth_first`.
#    How many moves does an unlimited search in random order then make, at most, for four numbers?
# 3. What share of streams solves their problem with half the budget of tokens (`BUDGET` of
#    `countdown_solver`)?
#
# <details><summary>Hints</summary>
#
# 1. Recurse over `moves`; count the leaves that equal the target.
# 2. Count all moves of the whole tree, from the root down.
# 3. A trace that is cut earlier begins like the longer one: look where the solution stands.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. 45 of 50. The median is 5 ways, the most 21; many of them write the same expression in another
#    order of moves.
# 2. At most 671 for these 50 problems (136 at least, the median is 383): that is the whole tree of
#    four numbers, and the reason why a budget of 1,000 moves solves every problem in any order.
#    With five or six numbers no budget of that size would.
# 3. 49 of 100 in place of 63 (from the same random streams): most streams that find a solution find
#    it early, and the long ones pay for little.
#
# </details>
