# %% [markdown]
# # 13. Where to spend the tokens
#
# Sixteen samples for every question are sixteen for the easy ones, too. We sort problems by
# difficulty, give each kind its own budget, and stop voting when the vote is decided; and we see
# how easily such a saving is overstated. It reads a finished run (`minireason run`). About 20
# seconds.

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
    stop_when_decided,
)

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
PER_LEVEL, SAMPLES, LEVELS = (4, 4, (1, 2)) if SMALL else (50, 16, (2, 3, 4, 5, 6, 7, 8))
RUN = finished(os.environ.get("MINIREASON_RUN", "runs/quickstart"), "star", "critic")
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
# Five bins of equal size, the easiest first. In the easiest bin the second sample is already
# wasted; in the hardest a vote of wrong answers stays wrong however many vote.

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
              -s.tokens[bins == b].mean(), i) for i, s in enumerate(strategies)]
    by_hand.append(max(worth)[2])
library = choose(strategies, bins, np.ones(P, dtype=bool), PRICE)
print("chosen by bin:", *[f"{strategies[i].method} {strategies[i].n}," for i in library])
assert by_hand == library.tolist()

# %% [markdown]
# ## Choose on one half, score on the other
#
# The choice above was made on the problems that it would be scored on. With five bins and ten
# strategies it also picks up luck. So each half of the problems is answered by what the other half
# chose (Snell 2024, arXiv:2408.03314, section 3). How large is the luck? We shuffle the
# correctness of each strategy's problems, so that nothing is left to be chosen, and look.

# %%
fold = halves(P, rng(0, "tutorial 13 halves"))
luck = {"same problems": [], "other half": []}
noise = rng(0, "tutorial 13 noise")
for _ in range(50):
    coin = noise.random(P) < 0.5                            # every strategy is right half the time
    mixed = [Strategy(s.method, s.n, noise.permutation(coin).astype(float), s.tokens)
             for s in strategies]
    everyone = choose(mixed, bins, np.ones(P, dtype=bool), 0.0)
    picked = np.stack([s.correct for s in mixed])[everyone[bins], np.arange(P)]
    luck["same problems"].append(picked.mean() - coin.mean())
    luck["other half"].append(allocate(mixed, bins, fold, [0.0]).correct.mean() - coin.mean())
for name, gains in luck.items():
    print(f"gain of choosing among coins, scored on the {name} (%): {mean(gains)} shuffles")

# %% [markdown]
# ## Three ways to allocate
#
# - *known bins*: the pass rate of the other samples is known. A bound; nobody has it for free.
# - *one for all*: a single strategy, the cheapest that matches the target.
# - *vote until decided*: samples come one by one, until an answer is `margin` votes ahead (Aggarwal
#   2023, arXiv:2305.11860, asks the same question). It needs no knowledge of the problem.
#
# First the rule by hand for one problem, then all of them against the vote of all N samples.


# %%
def decided_by_hand(answers, tokens, margin):
    """(leading answer, tokens) when a leader is `margin` ahead, or when the samples run out."""
    votes, spent = {}, 0
    for answer, cost in zip(answers.tolist(), tokens.tolist(), strict=True):
        spent += cost
        if answer >= 0:
            votes[answer] = votes.get(answer, 0) + 1
        ahead = sorted([0, 0, *votes.values()])
        if ahead[-1] - ahead[-2] >= margin:
            break
    return max(votes, key=votes.get, default=-1), spent


def until(margin):
    """The rule as a strategy of all problems."""
    return Strategy("decided", margin, *stop_when_decided(
        answers, correct, np.ones(correct.shape), tokens, margin))


rule = until(3)
for i in range(P):
    _, spent = decided_by_hand(answers[i], tokens[i], 3)
    assert spent == rule.tokens[i]
print("vote until 3 ahead: the tokens by hand equal the library's on all problems")
reference = Strategy("vote", SAMPLES, np.array([
    vote_at(answers[i], np.ones(SAMPLES), correct[i], SAMPLES, rng(0)) for i in range(P)]),
    tokens.sum(axis=1).astype(float))
votes = [s for s in strategies if s.method == "vote"]
prices = np.geomspace(0.001, 1, 40) / tokens.mean()
found = {"known bins": allocate(votes, bins, fold, prices, reference.correct),
         "one for all": rule_to_match(votes, fold, reference.correct),
         "vote until decided": rule_to_match([until(margin) for margin in (1, 2, 3, 4, 6)], fold,
                                             reference.correct)}
rows = {name: efficiency(reference, choice, rng(0, "tutorial 13", name))
        for name, choice in found.items()}
for name, row in rows.items():
    print(f"{name:<18} {row['factor']:.1f} [{row['factor_low']:.1f}, {row['factor_high']:.1f}] "
          f"times fewer tokens than {SAMPLES} votes; accuracy {100 * row['difference']:+.1f} "
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
axes[1].plot([s.tokens.mean() for s in votes], [100 * s.correct.mean() for s in votes], color=BLUE,
             marker="o", label="the same N for all")
margins = [until(margin) for margin in (1, 2, 3, 4, 6)]
axes[1].plot([s.tokens.mean() for s in margins], [100 * s.correct.mean() for s in margins],
             color=ORANGE, marker="s", label="vote until decided")
row = rows["known bins"]
axes[1].plot(row["tokens"], 100 * row["accuracy"], color=GREEN, marker="D", linestyle="none",
             label="known bins")
axes[1].set(xscale="log", xlabel="tokens per problem", ylabel="right (%)", title="What it costs")
axes[1].legend()
keep(figure, "13_allocating_compute")

# %% [markdown]
# ## The claim
#
# A vote that stops when it is decided needs less than half of the tokens of the full vote (the
# lower end of the factor's interval is above 2) and loses at most 3 points. And a choice scored on
# the problems it was made on shows a gain where there is none, which the other half does not show.

# %%
decided = rows["vote until decided"]
print(f"vote until decided: factor at least {decided['factor_low']:.2f}, difference at least "
      f"{100 * decided['difference_low']:+.1f} points")
assert SMALL or decided["factor_low"] > 2
assert SMALL or decided["difference_low"] > -0.03
spread = {name: 2 * np.std(gains) / len(gains) ** 0.5 for name, gains in luck.items()}
assert SMALL or np.mean(luck["same problems"]) - spread["same problems"] > 0.02
assert SMALL or abs(np.mean(luck["other half"])) < 2 * spread["other half"] + 0.005

# %% [markdown]
# In one sentence: tokens belong where one more sample can still change the answer, and a saving
# counts only on problems that had no part in choosing it.
#
# ## Try it
#
# 1. Use the first N samples for `ease` as well (`ease = correct.mean(axis=1)`). By how much does
#    the vote of all N in the easiest and in the hardest bin change?
# 2. Which margin reaches the accuracy of 16 votes with the fewest tokens, if you may look at all
#    problems? Is it the one that the halves chose?
# 3. Weigh the votes by the critic's values in `stop_when_decided` (the fourth argument becomes
#    `values`). What is a margin now, and does it save more?
#
# <details><summary>Hints</summary>
#
# 1. Print the row of `vote 16` again.
# 2. Print tokens and accuracy of every margin.
# 3. A sample adds its value, at most 1.
#
# </details>
#
# <details><summary>Answers</summary>
#
# ANSWERS
#
# </details>
