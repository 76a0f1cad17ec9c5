# %% [markdown]
# # 20. Planning: why a search is written down
#
# A maze has a shortest way. Each of its moves is a single token, but the first of them depends on
# the whole maze. We search by hand, write the search as a thought, and see that a reader who only
# looks things up can then plan. Then the same in its purest form, a star of paths, where learning
# the next token well teaches nothing about the first. It needs no trained model. About 10 seconds.

# %%
import os
from collections import deque
from itertools import pairwise

import numpy as np
from tutorial_tools import keep, mean, panels

from minireason.core.config import rng
from minireason.measure.estimates import paired_bootstrap
from minireason.measure.evaluate import frozen_sets
from minireason.model.tokenizer import Tokenizer
from minireason.problems import maze, pathstar
from minireason.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
N = 20 if SMALL else 300
tokenizer = Tokenizer.build(maze.TOKENS)

# %% [markdown]
# ## The problem
#
# `5:a0>e4#d0b1c2b3d3=`: a grid of 5 x 5 cells, from a0 to e4, walls at d0, b1, c2, b3 and d3. A
# plan names the cells moved to. The verifier walks it, and compares its length with the shortest: a
# plan that gets there by a detour is wrong.

# %%
problem = maze.read("5:a0>e4#d0b1c2b3d3")
print(problem.prompt)
print(maze.drawing(problem, problem.answer))
print("plan   ", problem.answer)
for wrong in ("a1a2a3a4b4c4c3c4d4e4", "a1b1c1d1e1e2e3e4"):    # a detour; through a wall
    print("       ", wrong, maze.is_right(problem, wrong))
    assert not maze.is_right(problem, wrong)
assert maze.is_right(problem, "b0c0c1d1e1e2e3e4")             # as short, on the other side

# %% [markdown]
# Breadth-first search by hand, from the goal: a queue of cells, each with its distance. The plan
# then goes from the start to whichever neighbour is one nearer.


# %%
def distances_by_hand(problem):
    """{cell: moves to the goal} for every cell that leads there."""
    size, _, goal, walls = maze.given(problem)
    found, queue = {goal: 0}, deque([goal])
    while queue:
        cell = queue.popleft()
        for other in maze.neighbours(size)[cell]:
            if other not in walls and other not in found:
                found[other] = found[cell] + 1
                queue.append(other)
    return found


def plan_by_hand(problem):
    """A shortest plan, by the distances."""
    (size, here, goal, _), near, plan = maze.given(problem), distances_by_hand(problem), ""
    while here != goal:
        here = next(other for other in maze.neighbours(size)[here]
                    if near.get(other) == near[here] - 1)
        plan += here
    return plan


levels = (4, 6, 8, 10)
mazes = dict(zip(levels, frozen_sets("maze", "test", N, levels).values(), strict=True))
for own in mazes.values():
    for one in own:
        plan = plan_by_hand(one)
        assert maze.is_right(one, plan) and len(plan) == len(one.answer)
print(f"{sum(map(len, mazes.values()))} mazes: the plans found by hand are right and as short")

# %% [markdown]
# ## Without a search
#
# What does the next move look like without a search? A sensible *local* rule: of the free cells
# beside, take the one nearest to the goal as if there were no walls, and never go back.


# %%
def local_plan(problem):
    """Moves to the free neighbour nearest to the goal without walls, until stuck or there."""
    size, here, goal, walls = maze.given(problem)
    seen, plan = {here}, ""
    while here != goal:
        free = [c for c in maze.neighbours(size)[here] if c not in walls and c not in seen]
        if not free:
            break
        here = min(free, key=lambda c: sum(abs(ord(a) - ord(b))
                                           for a, b in zip(c, goal, strict=True)))
        seen.add(here)
        plan += here
    return plan


local = {n: np.array([maze.is_right(one, local_plan(one)) for one in own], float)
         for n, own in mazes.items()}
for n, values in local.items():
    print(f"{n:>2} x {n}: the local rule is right (%): {mean(values)}")

# %% [markdown]
# ## The search as a thought
#
# Each step of the thought closes a cell and names the new cells beside it. It is written from the
# goal, so that the plan can be read off *forwards*: the cell whose step discovered the place where
# one stands is the next. That reader searches nothing. He finds one token and copies the cell at
# the head of its step, which is what an attention head does well.


# %%
def read_off(steps, start):
    """The plan by look-ups alone; "" where no step names the start."""
    plan, here = "", start
    while True:
        step = next((step for step in steps if here in step.partition(":")[2]), None)
        if step is None:
            return plan
        here = step.partition(":")[0][-2:]
        plan += here


print(maze.render(problem, "cot"))
for own in mazes.values():
    assert all(maze.is_right(one, read_off(one.steps, maze.given(one)[1])) for one in own)
print("read off the whole search, every plan is right")

# %% [markdown]
# A search is long. Which parts of it may be left out? Dualformer (Su 2024, arXiv:2410.09918) trains
# on searches with less and less in them; here `drop1` leaves out the distances, `drop2` the steps
# that discover nothing, too, and `drop3` a random 30% of the rest. How long is what is left, and is
# the plan still in it?

# %%
STYLES = ("cot", "drop1", "drop2", "drop3", "direct")
tokens, readable = {}, {}
for n, own in mazes.items():
    for style in STYLES:
        texts = [maze.render(one, style) for one in own]
        tokens[n, style] = [len(tokenizer.encode(text)) for text in texts]
        readable[n, style] = np.array(
            [maze.is_right(one, read_off(maze.parse(text)[0], maze.given(one)[1]))
             for one, text in zip(own, texts, strict=True)], float)
    print(f"{n:>2} x {n}: tokens", ", ".join(f"{s} {np.mean(tokens[n, s]):.0f}" for s in STYLES))
    print(f"         plan in it (%): drop2 {100 * readable[n, 'drop2'].mean():.0f}, "
          f"drop3 {mean(readable[n, 'drop3'])}")

# %% [markdown]
# Distances and steps that discover nothing can go. The random holes of `drop3` break most plans,
# and nearly all in the largest mazes: a model trained on them has to fill holes by itself, which
# the paper likens to taking shortcuts.
#
# ## A star of paths
#
# Two paths of five nodes start at one node. The prompt lists their edges, shuffled, `hd` for the
# one from h to d, then the centre and one end; the answer is the path to that end, or in
# parentheses the same path from its end (Bachmann and Nagarajan 2024, arXiv:2403.06963). A
# predictor that only looks up edges gets every node *but the first*: its edge starts at the centre
# like the other path's, and which is right depends on the far end.


# %%
def looked_up(problem, style):
    """(nodes,) 1 where a look-up in the edges gives the next node, given the true ones before.

    Where two edges fit it takes either, which counts as one half.
    """
    edges = problem.prompt.partition(":")[0]
    pairs = [tuple(edge) for edge in edges.split(",")]
    path = problem.answer
    if style == "reverse":
        path, pairs = path[::-1], [pair[::-1] for pair in pairs]
    found = []
    for here, there in pairwise(path):
        heads = [head for tail, head in pairs if tail == here]
        found.append(heads.count(there) / len(heads))
    return found


stars = [pathstar.sample(rng(0, "tutorial 20", i), 5) for i in range(N)]
print(stars[0].prompt, pathstar.render(stars[0], "direct"), pathstar.render(stars[0], "reverse"))
by_place = {style: np.mean([looked_up(one, style) for one in stars], axis=0)
            for style in ("direct", "reverse")}
for style, values in by_place.items():
    print(f"{style:<8} per node: {values.round(2).tolist()}, whole paths: {values.prod():.2f}")
loss = -np.log(by_place["direct"]).sum()
print(f"what a perfect looker-up still loses: {loss:.3f} nats per path = ln 2")
assert np.allclose(by_place["direct"], [0.5, 1, 1, 1]) and np.allclose(by_place["reverse"], 1)

# %% [markdown]
# A model that has learned the look-ups has almost no loss left, and nothing that would teach it the
# first node: that takes following the path from its end, and the nodes on the way, which could
# teach following, are predicted already. In the paper it stays at chance, one half for two paths
# (Frydenlund 2024, arXiv:2410.13779, finds settings in which it is learned all the same). Written
# from the end, the same path is nothing but look-ups. A thought that walks from the end to the
# centre does the same before the answer begins: it is the search of the maze again.

# %%
figure, axes = panels(2)
axes[0].plot(levels, [100 * local[n].mean() for n in levels], color=ORANGE, marker="o",
             label="local rule, no thought")
for style, color in (("drop3", PURPLE), ("drop2", BLUE)):
    axes[0].plot(levels, [100 * readable[n, style].mean() for n in levels], color=color,
                 marker="o", label=f"read off {style}")
axes[0].set(xlabel="side of the grid", ylabel="right (%)", ylim=(0, 103), xticks=levels,
            title="Planning by look-ups")
axes[0].legend()
for style, color in zip(STYLES, (GREEN, SKY, BLUE, PURPLE, GREY), strict=True):
    axes[1].plot(levels, [np.mean(tokens[n, style]) for n in levels], color=color, marker="o",
                 label=style)
axes[1].set(xlabel="side of the grid", ylabel="tokens", yscale="log", xticks=levels,
            title="What the thought costs")
axes[1].legend()
keep(figure, "20_planning")

# %% [markdown]
# ## The claim
#
# A written search turns planning into look-ups: read off `drop2`, over a quarter shorter than the
# whole search, every plan is right, while the local rule is right in fewer than half of the largest
# mazes and loses more the larger they are (the 95% intervals say so).

# %%
print(f"drop2 - local rule at {levels[-1]} x {levels[-1]}: "
      f"{mean(readable[levels[-1], 'drop2'], local[levels[-1]])} points")
assert all(readable[n, "drop2"].all() for n in levels)
assert SMALL or paired_bootstrap(local[10], np.full(N, 0.5))[2] < 0
assert SMALL or paired_bootstrap(local[4], local[10])[1] > 0.1
assert SMALL or all(paired_bootstrap(0.75 * np.array(tokens[n, "cot"]),
                                     np.array(tokens[n, "drop2"], float))[1] > 0 for n in levels)

# %% [markdown]
# Whether a model learns it at equal tokens, and whether one model can answer fast and slow, is what
# `minireason planning` measures, on mazes and on stars.
#
# In one sentence: a plan's first move hangs on its last, and a search that is written down turns
# that into one look-up after the other.
#
# ## Try it
#
# 1. How many shortest plans does a maze have? Count them, per size, from `distances_by_hand`.
# 2. Depth first in place of breadth first: `maze.search_steps(size, start, goal, walls, deep=True)`
#    and `maze.plan_of`. What does it save, and what does it cost?
# 3. Let the reader of `drop3` fill the holes: where no step names the cell he stands on, he moves
#    by the local rule. In how many mazes is he right?
#
# <details><summary>Hints</summary>
#
# 1. The ways from a cell are the sum of the ways from its neighbours that are one nearer.
# 2. Compare the numbers of steps, the lengths of the plans, and the shares that are right.
# 3. Join `read_off` and `local_plan`; keep `seen`, or he may go in circles.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. In the median 1.5, 2, 4 and 5, at most 380 (10 x 10); 50 to 87% of the mazes have more than
#    one. So a plan cannot be marked against one solution: the verifier has to walk it.
# 2. It closes about a quarter fewer cells, and the first way that it finds is 1.15 to 1.7 times as
#    long: 74, 43, 33 and 22% of the plans are shortest. The fallible authors of the pretraining
#    text search like this now and then.
# 3. 94, 89, 81 and 72%, against 20, 13, 3 and 1% without filling and 86, 68, 55 and 40% by the
#    local rule alone: half a search is most of a plan, to one who has learned what to do without.
#
# </details>
