# %% [markdown]
# # 21. Reasoning against obedience
#
# "Answer in at most two steps." A policy that was made to reason well by rewards for right answers
# has every reason not to listen. We judge right and obedient apart, measure what it costs a real
# policy to obey, and let a policy of one number learn by outcome, with and without a reward for
# obeying. The tutorial reads a finished run (`minireason run`). About 40 seconds.

# %%
import copy
import dataclasses
import os
import re

import numpy as np
from tutorial_tools import finished, keep, mean, panels, share

from minireason.core.config import rng
from minireason.measure import thinking
from minireason.measure.estimates import paired_bootstrap
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.problems import chain, instructions, sample_levels
from minireason.problems.authors import Authors, written
from minireason.report.style import BLUE, GREEN, ORANGE, PURPLE
from minireason.sampling.forcing import Forcing
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
N, WRITTEN, TAUGHT, STEPS = (10, 40, 2, 20) if SMALL else (200, 2000, 120, 100)
LEVELS = (2, 3, 4)
RUN = finished("rl")
policy, tokenizer = checkpoint.load(RUN / "rl")

# %% [markdown]
# ## Two verdicts
#
# The family `instructions` puts one or two instructions before a chain. `most2`: at most two
# operations in the thought, the rest in the head. `twice`: the answer stands twice. `plus`: one
# more than the value. A completion is *right* if it states the value of the chain (or what `plus`
# makes of it), and *obedient* if it does what was asked, whatever its numbers.

# %%
problem = instructions.read("twice,most1:((23+4)*3)")
for text in ("<think>23+4=27</think>81,81<eos>", "<think>23+4=27;27*3=81</think>81,81<eos>",
             "<think>23+4=28</think>84,84<eos>"):
    verdict = instructions.verify(problem, text)
    print(f"{text:<42} right: {verdict.correct!s:<6} obedient: {verdict.obedient}")

# %% [markdown]
# Three instructions checked by hand, on what fallible authors write (they also overlook three in
# ten):


# %%
def obedient_by_hand(kind, number, text):
    """Does a completion of authors do what this one instruction says?"""
    thought, answer = re.fullmatch("<think>(.*)</think>(.*)<eos>", text).groups()
    operations = thought.split(";")
    if kind == "most":
        return len(operations) <= number
    if kind == "twice":
        return "," in answer
    value = int(re.match("[0-9]+", answer)[0])                              # plus
    return value == (int(operations[-1].split("=")[1]) + 1) % 100


authors, checked, obeyed = Authors(), 0, 0
for i in range(WRITTEN):
    generator = rng(0, "tutorial 21 authors", i)
    one = instructions.sample(generator, 2 + i % 5)
    (kind, number), *more = instructions.task_of(one.prompt).asked.items()
    if more or kind not in ("most", "twice", "plus"):
        continue
    text, _ = written(instructions, one, authors, generator)
    by_hand = obedient_by_hand(kind, number, text)
    assert by_hand == instructions.verify(one, text).obedient, (one.prompt, text)
    checked, obeyed = checked + 1, obeyed + by_hand
print(f"{checked} completions, the same verdict by hand; obedient: {share(obeyed, checked)}")

# %% [markdown]
# ## What obeying costs
#
# An instruction costs something only if it takes something away. `twice` does not. `most2` takes
# thinking away: what is not written must be computed in the head. How well can that be learned? We
# teach a copy of the run's RL policy to obey, on exact lines whose prompt ends in `<hint>` and the
# number of operations that the thought then has. (The policy itself takes no notice of it.)

# %%
taught = copy.deepcopy(policy)
optimizer = make_optimizer(taught, weight_decay=0.01)
for step in range(TAUGHT):
    generator, prompts, lines = rng(0, "tutorial 21 lines", step), [], []
    for one in sample_levels(chain, generator, (LEVELS[0], LEVELS[-1]), 64):
        asked = int(generator.integers(1, one.level + 1))
        shorter = dataclasses.replace(one, steps=one.steps[:asked])
        prompts.append(f"{one.prompt}<hint>{asked}")
        lines.append(chain.render(shorter, "cot"))
    rows = encode_lines(tokenizer, prompts, lines)
    supervised_step(taught, optimizer, rows, schedule(step, TAUGHT, 2e-3, 10), 8192, tokenizer.pad)
print(prompts[0], lines[0])

# %%
sets = dict(zip(LEVELS, frozen_sets("chain", "test", N, LEVELS).values(), strict=True))
right = {}                                                 # {(level, operations): (P,) 0 or 1}
for k, own in sets.items():
    for m in range(1, k + 1):
        answers = thinking.greedy_forced(taught, tokenizer, own, Forcing("cot", asked=m))
        right[k, m] = thinking.rights(own, answers)
        obeyed = [text.count(";") + 1 <= m for text, _ in answers]
        print(f"chains of {k}, at most {m} asked: right {share(right[k, m].sum(), len(own))}, "
              f"obedient {100 * np.mean(obeyed):.0f}%")

# %% [markdown]
# It obeys, and the price has a step in it. One operation fits between the last written token and
# the answer, for almost nothing. Two hardly do after so short a lesson: that is what thoughts are
# for (tutorial 10 is about moving the step).
#
# ## A policy of one number
#
# Now the choice. A policy obeys with chance p = sigmoid(z), and begins where imitation of authors
# leaves it, at 70%. On chains of 4 it is told "at most 2", or "at most 3", and gets the answers of
# the table, those of the asked length if it obeys and those of all 4 operations if not. The reward
# is
#
#     r = right + w * obedient
#
# and the gradient of the expected reward in z is p (1 - p) (w - price), where the price is what
# obeying costs in accuracy: its sign turns at w = price. By REINFORCE, 64 problems per step, the
# batch mean as baseline:

# %%
def learned(obey, full, w, seed, lr=1.0):
    """(STEPS,) p after every step, for rights (P,) with and without obeying, by REINFORCE."""
    z, curve, generator = np.log(0.7 / 0.3), [], rng(seed, "tutorial 21 policy")
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-z))
        curve.append(p)
        rows = generator.integers(len(obey), size=64)
        obeys = generator.random(64) < p
        reward = np.where(obeys, obey[rows] + w, full[rows])
        z += lr * np.mean((reward - reward.mean()) * (obeys - p))          # d log pi / dz
    return np.array(curve)


price = (right[4, 4] - right[4, 2]).mean()
cases = {"at most 2, w = 0": (2, 0.0), "at most 2, w = price / 2": (2, price / 2),
         "at most 2, w = price + 0.3": (2, price + 0.3), "at most 3, w = 0": (3, 0.0)}
curves = {name: np.array([learned(right[4, m], right[4, 4], w, seed) for seed in range(5)])
          for name, (m, w) in cases.items()}
for name, own in curves.items():
    p, obey = own[:, -1], right[4, cases[name][0]].mean()
    print(f"{name:<27} obedient {100 * p.mean():5.1f}% ({100 * p.min():.0f} to "
          f"{100 * p.max():.0f} over 5 seeds), right "
          f"{100 * (p * obey + (1 - p) * right[4, 4].mean()).mean():.1f}%")

# %%
figure, axes = panels(2)
for k, color in zip(LEVELS, (GREEN, BLUE, PURPLE), strict=True):
    axes[0].plot(range(1, k + 1), [100 * right[k, m].mean() for m in range(1, k + 1)],
                 color=color, marker="o", label=f"chains of {k}", alpha=0.8)
axes[0].set(xlabel="operations that may be written", ylabel="right (%)", ylim=(0, 103),
            xticks=range(1, LEVELS[-1] + 1), title="What it costs to write less")
axes[0].legend()
for (name, own), color in zip(curves.items(), (ORANGE, PURPLE, GREEN, BLUE), strict=True):
    axes[1].plot(100 * own.T, color=color, linewidth=1)
    axes[1].plot([], [], color=color, label=name)
axes[1].set(xlabel="step of REINFORCE", ylabel="obedient (%)", ylim=(0, 103),
            title="Chains of 4, five seeds each")
axes[1].legend(loc="lower right", bbox_to_anchor=(1, 0.14))
keep(figure, "21_obedience")

# %% [markdown]
# ## The claim
#
# On chains of 4, "at most 3" costs less than 10 points and "at most 2" more than 50 (both 95%
# intervals say so). So learning by outcome unlearns the second at once, in every seed to fewer than
# 10% that obey, where 70% did, and the first as slowly as it is cheap: over 20 points more still
# obey. A reward for obeying raises obedience, to over 90% in every seed, only if it pays more than
# the price, and then it costs that price in right answers; half of it buys nothing. (The seeds are
# those of REINFORCE; the taught policy is one.)

# %%
for m in (3, 2):
    print(f"the price of at most {m}: {mean(right[4, 4], right[4, m])} points")
assert SMALL or paired_bootstrap(right[4, 4], right[4, 3])[2] < 0.1
assert SMALL or paired_bootstrap(right[4, 4], right[4, 2])[1] > 0.5
assert SMALL or curves["at most 2, w = 0"][:, -1].max() < 0.1
assert SMALL or curves["at most 2, w = price / 2"][:, -1].max() < 0.1
assert SMALL or curves["at most 2, w = price + 0.3"][:, -1].min() > 0.9
assert SMALL or (curves["at most 3, w = 0"][:, -1].min()
                 > curves["at most 2, w = 0"][:, -1].max() + 0.2)

# %% [markdown]
# `minireason run --family instructions` walks the whole ladder on such prompts, and
# `minireason obedience` measures both verdicts after every stage, by number of instructions and
# length of thought (MathIF, Fu 2025, arXiv:2505.14810, found the same conflict in large models).
#
# In one sentence: a reward for right answers alone pays a policy for disobeying exactly those
# instructions that cost it right answers.
#
# ## Try it
#
# 1. What happens at w = price exactly?
# 2. Pay for `right and obedient` alone: nothing for a right answer found the forbidden way. Where
#    does the policy go, and how right is it there?
# 3. Leave out the baseline, with w = 0 and "at most 3". Five seeds no longer agree; why?
#
# <details><summary>Hints</summary>
#
# 1. Put price in the place of w, and compare with where p began.
# 2. `reward = np.where(obeys, obey[rows], 0.0)`.
# 3. Every reward is then 0 or 1, almost always 1: look at what (obeys - p) does to z.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. The gradient is zero and p stays where imitation left it: 68 to 70% in five seeds.
# 2. To obedience: about 90% after these 100 steps, 99% after 1,000. It is then right 19% and 11% of
#    the time, on the way to the 10% of obeying: a verifier that wants both gets both only where
#    both can be had.
# 3. 59 to 77% over five seeds, 34 to 83 over twenty, against 62 to 64 with a baseline. Where all
#    rewards are 1, REINFORCE pays for whatever was drawn, so z goes wherever chance leads; the mean
#    subtracted, nothing moves it but differences.
#
# </details>
