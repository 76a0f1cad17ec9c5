# %% [markdown]
# # 13. Where to spend the tokens
#
# Sixteen samples for every question are sixteen for the easy ones, too. We sort problems by
# difficulty, give each kind its own budget, and stop when a critic is sure; and we see how easily
# such a saving is overstated. It reads a finished run (`minireason run`). About 30 seconds.

# %%
import os

import numpy as np
from tutorial_tools import finished, keep, mean, panels

from minireason.core.config import rng
from minireason.critics.value_head import Critic, final_values
from minireason.measure.estimates import answer_ids, best_of_n, vote_at
from minireason.measure.evaluate import answer_keys, frozen_sets, verdicts_of
from minireason.model import checkpoint
from minireason.report.style import BLUE, GREEN, ORANGE, PURPLE
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.search.allocate import (
    Strategy,
    allocate,
    choose,
    difficulty_bins,
    efficiency,
    halves,
    rule_to_match,
    stop_when_sure,
)

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
PER_LEVEL, SAMPLES, LEVELS = (4, 4, (1, 2)) if SMALL else (50, 16, (2, 3, 4, 5, 6, 7, 8))
RUN = finished("star", "critic")
policy, tokenizer = checkpoint.load(RUN / "star")
critic, _ = checkpoint.load(RUN / "critic", kind=Critic)

# %% [markdown]
# ## A pool of samples
#
# Problems of all levels, as a user would ask them; twice N samples of each. The first half is what
# the methods use. The second half measures how hard a problem is: a problem whose samples happen to
# be right must not look easy for that reason.

# %%
sets = frozen_sets("chain", "test", PER_LEVEL, LEVELS)
problems = [problem for members in sets.values() for problem in members]
P = len(problems)
texts = complete(policy, tokenizer, problems, "cot", Sampling(n=2 * SAMPLES, seed=13))
right = np.array([[v.correct for v in row] for row in verdicts_of(problems, texts)], dtype=float)
ease, correct = right[:, SAMPLES:].mean(axis=1), right[:, :SAMPLES]                  # (P,), (P, N)
used = [row[:SAMPLES] for row in texts]
values = np.array(final_values(critic, tokenizer, problems, used))
answers = np.array([answer_ids(answer_keys(p, row))
                    for p, row in zip(problems, used, strict=True)])
tokens = np.array([[len(ids) - 1 for ids in tokenizer.encode_batch(row)] for row in used])
print(f"one sample right (%): {mean(correct.mean(axis=1))}; always right: "
      f"{(ease == 1).mean():.0%} of the problems, never: {(ease == 0).mean():.0%}")

# %% [markdown]
# ## What each budget buys, by difficulty
#
# Five bins of equal size, the easiest first. In the easiest bin four samples nearly suffice; in the
# hardest, sixteen votes still fail half of the time.

# %%
bins = difficulty_bins(ease)
budgets = [2 ** i for i in range(SAMPLES.bit_length())]
strategies = []
for n in budgets:
    spent = tokens.mean(axis=1) * n
    voted = [vote_at(answers[i], np.ones(SAMPLES), correct[i], n, rng(0, "tutorial 13", i, n))
             for i in range(P)]
    picked = [best_of_n(correct[i], values[i], n) for i in range(P)]
    strategies += [Strategy("vote", n, np.array(voted), spent),
                   Strategy("best-of-N", n, np.array(picked), spent)]
print("right (%) by bin, easiest first:")
for s in strategies:
    print(f"    {s.method:>9} {s.n:>2}:",
          *[f"{100 * s.correct[bins == b].mean():5.0f}" for b in range(5)])

# %% [markdown]
# ## Choosing by hand
#
# With a price per token, a strategy is worth its accuracy minus price times tokens. In every bin
# the best one is taken. Ties go to the cheaper one.

# %%
PRICE = 0.05 / tokens.mean()              # a sample must gain 5 points to be worth its tokens
by_hand = []
for b in range(5):
    worth = [(round(s.correct[bins == b].mean() - PRICE * s.tokens[bins == b].mean(), 12),
              -s.tokens[bins == b].mean(), -i) for i, s in enumerate(strategies)]
    by_hand.append(-max(worth)[2])
library = choose(strategies, bins, np.ones(P, dtype=bool), PRICE)
print("chosen by bin:", *[f"{strategies[i].method} {strategies[i].n}," for i in library])
assert by_hand == library.tolist()

# %% [markdown]
# ## Choose on one half, score on the other
#
# The choice above was made on the problems that it would be scored on. With five bins and ten
# strategies it also picks up luck. So each half of the problems is answered by what the other half
# chose (Snell 2024, arXiv:2408.03314, section 3). How large is the luck? We replace every strategy
# by a coin that is right half of the time, so that there is nothing to choose, and look.

# %%
fold = halves(P, rng(0, "tutorial 13 halves"))
luck = {"same problems": [], "other half": []}
noise = rng(0, "tutorial 13 noise")
for _ in range(50):
    coins = [Strategy(s.method, s.n, (noise.random(P) < 0.5).astype(float), s.tokens)
             for s in strategies]
    everyone = choose(coins, bins, np.ones(P, dtype=bool), 0.0)
    picked = np.stack([s.correct for s in coins])[everyone[bins], np.arange(P)]
    luck["same problems"].append(picked.mean() - 0.5)
    luck["other half"].append(allocate(coins, bins, fold, [0.0]).correct.mean() - 0.5)
for name, gains in luck.items():
    print(f"gain of choosing among coins, scored on the {name} (%): {mean(gains)} repetitions")

# %% [markdown]
# ## Three ways to allocate
#
# - *known bins*: the pass rate of the other samples is known. Nobody has it for free.
# - *one for all*: a single N, the smallest that comes within a point of all samples.
# - *until sure*: samples come one by one, until the critic values one at a threshold or more. It
#   needs no knowledge of the problem: hard problems draw more samples by themselves.
#
# First the rule by hand for every problem, then all three against best-of-N with all N samples.


# %%
def sure_by_hand(values, correct, tokens, threshold):
    """(right, tokens) of the most valued sample, when one is valued so or the samples run out."""
    spent, best = 0, 0
    for at, value in enumerate(values):
        spent += tokens[at]
        best = at if value > values[best] else best
        if value >= threshold:
            break
    return correct[best], spent


def until(threshold):
    """The rule as a strategy of all problems."""
    return Strategy("until sure", round(100 * threshold),
                    *stop_when_sure(correct, values, tokens, threshold))


rule = until(0.9)
for i in range(P):
    assert sure_by_hand(values[i], correct[i], tokens[i], 0.9) == (rule.correct[i], rule.tokens[i])
print(f"until a value of 0.9: by hand equal the library's, {rule.tokens.mean():.0f} tokens of "
      f"{tokens.sum(axis=1).mean():.0f}")
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
picks = [s for s in strategies if s.method == "best-of-N"]
votes = [s for s in strategies if s.method == "vote"]
reference = Strategy("best-of-N", SAMPLES, picks[-1].correct, tokens.sum(axis=1).astype(float))
prices = np.geomspace(0.001, 1, 40) / tokens.mean()
nearly = reference.correct - 0.01                       # a point below it will do
found = {"known bins": allocate(picks, bins, fold, prices, nearly),
         "one for all": rule_to_match(picks, fold, nearly),
         "until sure": rule_to_match([until(t) for t in THRESHOLDS], fold, nearly)}
rows = {name: efficiency(reference, choice, rng(0, "tutorial 13", name))
        for name, choice in found.items()}
for name, row in rows.items():
    print(f"{name:<12} {row['factor']:.1f} [{row['factor_low']:.1f}, {row['factor_high']:.1f}] "
          f"times fewer tokens than best-of-{SAMPLES}; accuracy {100 * row['difference']:+.1f} "
          f"[{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}] points")

# %%
figure, axes = panels(2)
for b, color in zip((0, 2, 3, 4), (BLUE, GREEN, ORANGE, PURPLE), strict=True):
    axes[0].plot(budgets, [100 * s.correct[bins == b].mean() for s in votes], color=color,
                 marker="o", label=f"bin {b + 1} of 5")
axes[0].set(xscale="log", xlabel="votes N", ylabel="right (%)", ylim=(-3, 103),
            title="What votes buy, by difficulty")
axes[0].set_xticks(budgets, budgets)
axes[0].minorticks_off()
axes[0].legend()
for own, label, color, marker in ((votes, "vote", PURPLE, "o"), (picks, "best-of-N", BLUE, "D"),
                                  ([until(t) for t in THRESHOLDS], "until sure", ORANGE, "s")):
    axes[1].plot([s.tokens.mean() for s in own], [100 * s.correct.mean() for s in own],
                 color=color, marker=marker, label=label)
row = rows["known bins"]
axes[1].plot(row["tokens"], 100 * row["accuracy"], color=GREEN, marker="^", linestyle="none",
             label="best-of-N, known bins")
axes[1].set(xscale="log", xlabel="tokens per problem", ylabel="right (%)", title="What it costs")
ticks = [round(s.tokens.mean()) for s in votes]
axes[1].set_xticks(ticks, ticks)
axes[1].minorticks_off()
axes[1].legend()
keep(figure, "13_allocating_compute")

# %% [markdown]
# ## The claim
#
# Sampling until the critic is sure needs less than half of the tokens of best-of-N with all samples
# (the lower end of the factor's interval is above 2) and loses at most 5 points. And a choice
# scored on the problems it was made on shows a gain where there is none, which the other half does
# not show.

# %%
sure = rows["until sure"]
print(f"until sure: factor at least {sure['factor_low']:.2f}, difference at least "
      f"{100 * sure['difference_low']:+.1f} points")
assert SMALL or sure["factor_low"] > 2
assert SMALL or sure["difference_low"] > -0.05
spread = {name: 2 * np.std(gains) / len(gains) ** 0.5 for name, gains in luck.items()}
assert SMALL or np.mean(luck["same problems"]) - spread["same problems"] > 0.02
assert SMALL or abs(np.mean(luck["other half"])) < 2 * spread["other half"]

# %% [markdown]
# In one sentence: tokens belong where one more sample can still change the answer, and a saving
# counts only on problems that had no part in choosing it.
#
# ## Try it
#
# 1. From the table of bins: how many samples does best-of-N need in each of the first four bins to
#    be right in 95% of the cases?
# 2. A vote of two samples buys nothing over one, best-of-2 buys much. Why?
# 3. Without a critic one can stop a vote when an answer is `margin` votes ahead
#    (`stop_when_decided`). How many tokens does that save against 16 votes, at about equal
#    accuracy?
#
# <details><summary>Hints</summary>
#
# 1. Look along the columns.
# 2. What does a vote of two different answers decide?
# 3. Margins of 1, 2, 3, 4 and 6, the weights all 1, and `rule_to_match` with the 16 votes as its
#    target.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. 2, 4, 4 and 8 (97, 99, 97 and 98%). Even 16 leave the last bin at 93%.
# 2. Two votes agree, or they tie and share the credit: either way the accuracy is that of one
#    sample (86% and 86% in the first bin). The critic needs no majority: of two samples it takes
#    the better one (97%).
# 3. 1.5 times fewer [1.4, 1.6], and 0.3 points less [-0.9, 0.0]. A majority needs many samples to
#    become visible; a critic can be sure of one.
#
# </details>
