# %% [markdown]
# # 22. Breaking a hard step into easy ones
#
# `47*8=376` is a big fact to know by heart; `40*8=320;7*8=56;320+56=376` is three small ones, at
# three times the tokens. When is it worth splitting? We compute what both ways are worth to
# fallible authors, operation by operation, and let a policy of a few numbers find out by itself,
# with and without a price per token. It needs no trained model. About 15 seconds.

# %%
import os

import numpy as np
from tutorial_tools import keep, panels

from minireason.core.config import rng
from minireason.model.tokenizer import Tokenizer
from minireason.problems import decomposition
from minireason.problems.authors import Authors
from minireason.problems.decomposition import compute, hardness, pieces_of, ways_of
from minireason.report.style import BLUE, GREEN, GREY, ORANGE

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS, PROBLEMS = (20, 200) if SMALL else (1500, 4000)
tokenizer = Tokenizer.build(decomposition.TOKENS)
authors = Authors()

# %% [markdown]
# ## The pieces
#
# An operation on numbers of two digits or more may be taken at once or in pieces: a product with
# the last digit apart and then the sum, a sum or difference with the tens first, then the ones. A
# prompt may prescribe the way, `once:` or `split:`; else the writer chooses, step by step.

# %%
for prompt in ("once:((47*8)-89)", "split:((47*8)-89)"):
    problem = decomposition.read(prompt)
    print(f"{prompt:<18}", decomposition.render(problem, "cot"))


def pieces_by_hand(left, sign, right):
    """The steps of an operation in pieces, each (left, sign, right), if all results are exact."""
    many = left if sign == "*" else right
    tens, ones = many - many % 10, many % 10
    if tens == 0 or ones == 0:
        return []                                          # nothing to split
    if sign == "*":
        return [(tens, "*", right), (ones, "*", right), (tens * right, "+", ones * right)]
    return [(left, sign, tens), (compute(left, sign, tens), sign, ones)]


operations = [(a, sign, b) for sign in "+-*" for a in range(10, 1000)
              for b in (range(2, 10) if sign == "*" else range(10, 100))
              if compute(a, sign, b) is not None]
picked = [operations[i] for i in rng(0, "tutorial 22").integers(len(operations), size=2000)]
for one in picked:
    by_hand = pieces_by_hand(*one)
    results = tuple(compute(*piece) for piece in by_hand[:-1])
    assert pieces_of(one, results) == by_hand, one         # as they are once these have results
print(f"{len(picked)} operations, the same pieces by hand")

# %% [markdown]
# ## What both ways are worth
#
# Authors who take an operation at once forget what is to be carried, more often the more there is;
# besides, every statement slips now and then. In pieces they mostly only slip (the last sum of a
# product may carry). So each operation has two exact chances of being
# right, and two costs in tokens. `hardness` counts the digits that it works on and the carries.


# %%
def right_and_tokens(operation):
    """((P(right), tokens) at once, (P(right), tokens) in pieces) of the authors."""
    found = []
    for steps in ([operation], pieces_by_hand(*operation)):
        right, length = 1.0, 0
        for step in steps:
            ways = ways_of(authors, step)
            right *= sum(way.probability for way in ways if not way.mistake)
            length += len(tokenizer.encode(f"{''.join(map(str, step))}={compute(*step)};"))
        found.append((right, length))
    return found


sampled = [one for i in range(PROBLEMS)
           for one in [decomposition.operation_of(step) for step in decomposition.facts(
               decomposition.sample(rng(0, "tutorial 22 problems", i), 2))] if pieces_of(one)]
hard = np.array([hardness(one) for one in sampled])
worth = np.array([right_and_tokens(one) for one in sampled])               # (operations, 2, 2)
BINS = sorted(set(hard.tolist()))
for h in BINS:
    (once, once_tokens), (split, split_tokens) = worth[hard == h].mean(axis=0)
    example = "".join(map(str, sampled[int(np.argmax(hard == h))]))
    print(f"hardness {h} ({(hard == h).sum():4} operations, {example:>6}): at once right "
          f"{100 * once:3.0f}%, {once_tokens:4.1f} tokens; in pieces {100 * split:3.0f}%, "
          f"{split_tokens:4.1f} tokens; gain per further token "
          f"{100 * (split - once) / (split_tokens - once_tokens):+.1f} points")

# %% [markdown]
# The easiest are better taken at once, since every further statement is one more chance to slip.
# From hardness 3 on, splitting gains, and its gain per token differs by bin: that is what a price
# will be held against.
#
# ## A policy of four numbers
#
# It splits an operation of hardness h with chance sigmoid(z_h), and begins as the authors do, with
# the toss of a coin. Right or wrong is drawn as the authors are right or wrong; the reward is
#
#     r = right - c * tokens
#
# Nobody tells it which operations are hard for what reason. REINFORCE, 64 operations per step, the
# batch mean as baseline, as in tutorial 21:


# %%
def learned(c, seed, lr=2.0):
    """(STEPS, bins) chances to split, after every step."""
    z, curve, generator = np.zeros(len(BINS)), [], rng(seed, "tutorial 22 policy")
    place = np.searchsorted(BINS, hard)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-z))
        curve.append(p)
        rows = generator.integers(len(sampled), size=64)
        splits = generator.random(64) < p[place[rows]]
        chance, tokens = worth[rows, splits.astype(int)].T
        reward = (generator.random(64) < chance) - c * tokens
        gradient = (reward - reward.mean()) * (splits - p[place[rows]])    # d log pi / dz
        z = z + lr * np.bincount(place[rows], gradient, len(BINS)) / 64
    return np.array(curve)


def value(p):
    """(accuracy, tokens per operation) of chances to split (bins,), exactly."""
    chance = p[np.searchsorted(BINS, hard)][:, None]
    return tuple(((1 - chance) * worth[:, 0] + chance * worth[:, 1]).mean(axis=0))


PRICES, SEEDS = (0.0, 0.02, 0.045), range(5)
curves = {c: np.array([learned(c, seed) for seed in SEEDS]) for c in PRICES}   # (seeds, STEPS, b)
policies = {"never": [np.zeros(len(BINS))], "always": [np.ones(len(BINS))],
            "a coin": [np.full(len(BINS), 0.5)]}
policies |= {f"learned, c = {c:g}": list(own[:, -1]) for c, own in curves.items()}
accuracy = {}
for name, own in policies.items():
    values = np.array([value(p) for p in own])
    accuracy[name], tokens = values[:, 0], values[:, 1]
    print(f"{name:<18} splits by hardness (%):",
          *(f"{100 * x:3.0f}" for x in np.mean(own, axis=0)),
          f"  right {100 * accuracy[name].mean():.1f}%, {tokens.mean():.1f} tokens per operation")

# %%
figure, axes = panels(2)
for c, color in zip(PRICES, (BLUE, GREEN, ORANGE), strict=True):
    axes[0].plot(BINS, 100 * curves[c][:, -1].T, color=color, marker="o", linewidth=1)
    axes[0].plot([], [], color=color, marker="o", label=f"c = {c:g}")
axes[0].axhline(50, color=GREY, linestyle="--", linewidth=1, label="at the start")
axes[0].set(xlabel="hardness of the operation", ylabel="split (%)", ylim=(-3, 103), xticks=BINS,
            title="What is split after learning, five seeds")
axes[0].legend()
(never, few), (always, many) = value(np.zeros(len(BINS))), value(np.ones(len(BINS)))
axes[1].plot([few, many], [100 * never, 100 * always], color=GREY, linestyle="--",
             label="from never to always, by a coin")
for c, color in zip(PRICES, (BLUE, GREEN, ORANGE), strict=True):
    values = np.array([value(p) for p in curves[c][:, -1]])
    axes[1].plot(values[:, 1], 100 * values[:, 0], color=color, marker="o", linestyle="",
                 label=f"learned, c = {c:g}")
axes[1].set(xlabel="tokens per operation", ylabel="right (%)", title="Accuracy and price")
axes[1].legend()
keep(figure, "22_splitting_a_step")

# %% [markdown]
# ## The claim
#
# Without a price the policy comes to split what gains by it and nothing else: in every seed it is
# more often right than by always splitting, with fewer tokens, and over 60 points better than never
# splitting where it is hardest. With a price, the bins whose gain per token lies above the price
# are split at least 70% of the time and those below at most 30%, again in every seed; at the tokens
# of a tossed coin it is then over 8 points more often right.

# %%
hardest = worth[hard == BINS[-1]].mean(axis=0)[:, 0]
gains = {h: (own[1, 0] - own[0, 0]) / (own[1, 1] - own[0, 1])
         for h in BINS for own in [worth[hard == h].mean(axis=0)]}
print(f"hardest bin: at once {100 * hardest[0]:.0f}%, split {100 * hardest[1]:.0f}%")
for c, own in curves.items():
    wanted = np.array([gains[h] > c for h in BINS])
    if not SMALL:
        assert ((own[:, -1] > 0.7) == wanted).all() and ((own[:, -1] < 0.3) != wanted).all(), c
assert SMALL or accuracy["learned, c = 0"].min() > accuracy["always"][0]
assert SMALL or max(value(p)[1] for p in curves[0.0][:, -1]) < value(np.ones(len(BINS)))[1]
assert SMALL or curves[0.0][:, -1, -1].min() * (hardest[1] - hardest[0]) > 0.6
assert SMALL or (accuracy["learned, c = 0.02"].min() > accuracy["a coin"][0] + 0.08
                 and max(value(p)[1] for p in curves[0.02][:, -1])
                 < 1.01 * value(np.full(len(BINS), 0.5))[1])

# %% [markdown]
# A transformer has no table of hardness: it must see in the digits whether there will be a carry.
# `minireason run --family decomposition` trains one from such authors, and `minireason splitting`
# measures which steps it splits after every stage.
#
# In one sentence: to take smaller steps is a choice with a gain and a price, and a reward for right
# answers, minus something per token, teaches where it pays.
#
# ## Try it
#
# 1. From which price on is nothing split? Which bin gives up last?
# 2. Give the policy one number for all operations. What does it do at the three prices?
# 3. Let the authors slip in a tenth and in a fifth of their statements, `Authors(slip=0.2)`. From
#    which hardness on does it still pay to split, without a price?
#
# <details><summary>Hints</summary>
#
# 1. Compare c with the gain per further token of the table; try 0.06.
# 2. `z` of one entry, `np.bincount` becomes a sum.
# 3. `right_and_tokens` reads `authors` when it is called: set it and compute `worth` anew.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. From 0.039 on, where hardness 5 gives up; hardness 4 goes before it, at 0.033.
# 2. It splits everything at 0 (right 92.5%, 21.4 tokens) and nothing at 0.02 and 0.045 (71.8%,
#    9.5), though at 0.02 splitting the hard ones would pay. Without seeing how hard an operation
#    is, it cannot spend on those alone.
# 3. From hardness 4 on, at a tenth (40 against 75%) and at a fifth (36 against 56%); at hardness 3
#    at once is as good or better (81 against 79%, 72 against 61%): every further statement is one
#    more chance to err.
#
# </details>
