# %% [markdown]
# # 11. When to think
#
# Every token of a thought is paid for: in time, in money, in battery. So far the thought was forced
# on the policy or came for free. Here the policy chooses whether to think, and pays a price per
# token. The tutorial reads a finished run (`minireason run`). About a minute.

# %%
import copy
import os

import numpy as np
import torch
from tutorial_tools import finished, keep, mean, panels, share

from minireason.core.config import rng
from minireason.critics.value_head import Critic, final_values
from minireason.measure import thinking
from minireason.measure.estimates import paired_bootstrap, share_interval, wilson
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.problems import chain, sample_levels
from minireason.report.style import BLACK, GREEN, GREY, ORANGE, PURPLE, RED, SKY, spread, whiskers
from minireason.sampling.complete import complete
from minireason.sampling.forcing import Forcing
from minireason.sampling.sampler import Sampling
from minireason.stages import think_budget
from minireason.training import rollouts
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step
from minireason.training.rollouts import Rewards

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
N, OWN, WARM, STEPS, PROMPTS = (6, 20, 2, 2, 4) if SMALL else (150, 1000, 60, 40, 48)
LEVELS = (1, 2, 3, 4)                                    # operations
RUN = finished("rl", "rl_critic")
policy, tokenizer = checkpoint.load(RUN / "rl")
critic, _ = checkpoint.load(RUN / "rl_critic", kind=Critic)
sets = frozen_sets("chain", "validation", N, LEVELS)
problems = [problem for members in sets.values() for problem in members]
level_of = np.array([problem.level for problem in problems])

# %% [markdown]
# ## One token decides
#
# The first token of a completion is its opener. After `<think>` the policy writes steps; `</think>`
# closes a thought that holds nothing, and the answer follows at once. Until now we wrote the opener
# into the prompt. Left to itself, which one would the policy of tutorial 6 write?

# %%
def opener_odds(model, problem):
    """p(<think>) and p(</think>) as the first token after the question."""
    prompt = torch.tensor([tokenizer.encode(f"<bos>{problem.prompt}")])
    with torch.no_grad():
        odds = model(prompt)[0, -1].softmax(-1)
    return odds[tokenizer.think].item(), odds[tokenizer.end_think].item()


for level in LEVELS:
    problem = problems[int(np.argmax(level_of == level))]
    print(f"{problem.prompt} (answer {problem.answer})")
    print("    p(<think>) {:.3f}, p(</think>) {:.3f}".format(*opener_odds(policy, problem)))
    for style in ("cot", "direct"):
        ((text, tokens),) = thinking.greedy_forced(policy, tokenizer, [problem], Forcing(style))
        print(f"    {tokens:2} tokens: {text}")

# %% [markdown]
# It thinks, as SFT and STaR taught it. A direct answer costs 3 tokens (`</think>`, answer,
# `<eos>`), a thought of k steps 6k + 3.
#
# ## What a thought gains, and what it costs
#
# Both ways on the same problems. A thought that gains a in accuracy and costs T more tokens pays if
# a > c T, where c is the price of a token in points of accuracy: the reward is
#
#     r = correct - c * tokens
#
# So each level has a break-even price a / T, below which it is worth thinking.

# %%
def both_ways(model):
    """Greedy completions with tokens, {"think": ..., "direct": ...}, of all problems."""
    return {name: thinking.greedy_forced(model, tokenizer, problems, Forcing(style))
            for name, style in (("think", "cot"), ("direct", "direct"))}


def by_level(values):
    """The mean of values (P,) at each level."""
    return np.array([np.mean(np.asarray(values)[level_of == level]) for level in LEVELS])


def break_even(written):
    """The price per token at which thinking and answering at once earn the same, by level."""
    gains = by_level(thinking.rights(problems, written["think"])
                     - thinking.rights(problems, written["direct"]))
    spent = {name: by_level([tokens for _, tokens in own]) for name, own in written.items()}
    return gains / np.maximum(spent["think"] - spent["direct"], 1)


before = both_ways(policy)
for name, written in before.items():
    right = by_level(thinking.rights(problems, written))
    print(f"{name:>6}: right by level (%)", *(100 * right).round().astype(int))
print("break-even price by level:", *break_even(before).round(3))

# %% [markdown]
# The break-even price *falls* with the level, from level 2 on: a harder problem gains as much by a
# thought, but needs a longer one. Remember this; it will come back.
#
# ## The gradient of a choice of two
#
# Let p = sigmoid(z) be the chance to think, and r_think and r_direct what both ways earn. Then the
# expected reward is p r_think + (1 - p) r_direct, and its slope in z is
#
#     p (1 - p) (r_think - r_direct)
#
# The sign is that of the difference, as it should be; but the size holds p (1 - p), which is nearly
# zero where the policy is sure. By autograd and by hand:

# %%
r_think, r_direct = 1 - 0.01 * 9, 0.6 - 0.01 * 3
for p in (0.5, 0.9, 0.988):
    z = torch.tensor(p).logit().requires_grad_()
    (z.sigmoid() * r_think + (1 - z.sigmoid()) * r_direct).backward()
    by_hand = p * (1 - p) * (r_think - r_direct)
    print(f"p = {p}: slope {z.grad.item():.5f}, by hand {by_hand:.5f}")
    assert abs(z.grad.item() - by_hand) < 1e-6

# %% [markdown]
# A policy that always thinks hardly ever learns what the other way would have earned. So it first
# needs a warm-up.
#
# ## A warm-up that opens both ways
#
# As in STaR (tutorial 5) we sample the policy on train problems and keep what the verifier finds
# right; here once with a thought and once without. Where direct answers are mostly wrong, few are
# kept: the examples themselves say where a thought is needed.

# %%
train = sample_levels(chain, rng(0, "tutorial 11"), (LEVELS[0], LEVELS[-1]), OWN)
pool = []
for style in ("cot", "direct"):
    texts = complete(policy, tokenizer, train, style, Sampling(seed=1))
    pool += [(problem, text) for problem, (text,) in zip(train, texts, strict=True)
             if chain.verify(problem, text).correct]
for level in LEVELS:
    kept = [text.startswith("<think>") for problem, text in pool if problem.level == level]
    print(f"level {level}, examples with a thought: {share(sum(kept), len(kept))}")

warm = copy.deepcopy(policy)
optimizer = make_optimizer(warm, weight_decay=0.0, muon=True)
for step in range(WARM if pool else 0):
    own = rng(0, "tutorial 11 rows", step).integers(0, len(pool), 64)
    rows = encode_lines(tokenizer, [pool[i][0].prompt for i in own], [pool[i][1] for i in own])
    supervised_step(warm, optimizer, rows, schedule(step, WARM, 2e-3, 5), 4096, tokenizer.pad)

after = both_ways(warm)
for name, written in after.items():
    right = by_level(thinking.rights(problems, written))
    print(f"{name:>6}: right by level (%)", *(100 * right).round().astype(int))
print("break-even price by level:", *break_even(after).round(3))
print("p(<think>) by level, mean:", *by_level([opener_odds(warm, p)[0] for p in problems]).round(2))

# %% [markdown]
# ## A price per token
#
# Now reinforcement learning as in tutorial 6, with two differences: the opener is drawn and learns
# like any other token, and the reward pays for every token drawn, `<eos>` included. One group by
# hand, against the library:

# %%
PRICE = 0.01
(group,) = rollouts.sample_groups(warm, tokenizer, problems[:1], Sampling(4, 60, seed=3),
                                  style="auto")
rollouts.reward_groups([group], tokenizer, Rewards(price=PRICE), "auto")
rollouts.credit_groups([group], tokenizer, "optimal", process=0.0)
for rollout in group:
    text = tokenizer.decode(rollout.tokens[rollout.first:])
    by_hand = chain.verify(problems[0], text).correct - PRICE * rollout.length
    print(f"reward {rollout.reward:+.2f}, advantage {rollout.advantages[0]:+.2f}: {text}")
    assert abs(rollout.reward - by_hand) < 1e-9

# %% [markdown]
# The stage's own update at three prices, of which the first is none. Which levels should think at
# each? The break-even prices above tell.

# %%
def choose_at(price):
    """The warmed-up policy after STEPS updates of RL with this price per token."""
    model = copy.deepcopy(warm)
    cfg = think_budget.Config(init="", critic="", max_level=LEVELS[-1], prompts_per_step=PROMPTS,
                              warmup=2, lr=3e-4, rewards=Rewards(process=0.0, price=price))
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in range(STEPS):
        think_budget.reinforce(cfg, step, model, optimizer, tokenizer)
    return model


FREE, CHEAP, DEAR = 0.0, 0.03, 0.05
choosing, thinks = {}, {}
for price in (FREE, CHEAP, DEAR):
    choosing[price] = thinking.greedy_forced(choose_at(price), tokenizer, problems,
                                             Forcing("auto"))
    thinks[price] = [text.startswith("<think>") for text, _ in choosing[price]]
    print(f"price {price}: share that thinks, by level (%)",
          *(100 * by_level(thinks[price])).round().astype(int))

# %% [markdown]
# Without a price a thought is never worse, so the policy thinks everywhere. The cheap price teaches
# what one would hope for: where the answer can be given at once, it is, and else there is a
# thought. The dear one, above the break-even price of level 4, mostly does the reverse at the top:
# in four of five runs (seeds 0 to 4) the hardest problems were the first to be given up, because
# their thoughts are the longest; in the fifth, which is the shipped one, 40 updates changed no
# choice above level 1. A price per token pays for easy problems; it does not know that hard ones
# are worth more.
#
# ## Is it any better than a coin?
#
# Accuracy alone is no measure, nor are tokens alone: thinking always is the most accurate, never
# the cheapest. On the line between these two lies a coin that thinks with chance q, whatever the
# problem. A policy that knows when to think lies above the line. Another way: answer at once, ask
# the critic (tutorial 7), and think only if its value is low; both answers are paid for then. A
# point that no other beats in both measures is on the Pareto front.

# %%
always, never = before["think"], after["direct"]
doubts = [row[0] for row in final_values(critic, tokenizer, problems,
                                         [[text] for text, _ in never])]
asked = thinking.threshold_rows(problems, never, always, doubts)
points = {"always thinking": always, "never": never,
          **{f"choosing, price {price}": own for price, own in choosing.items()}}
for name, written in points.items():
    tokens, right = np.mean([t for _, t in written]), thinking.rights(problems, written)
    print(f"{name}: {tokens:.1f} tokens, {share(right.sum(), len(right))}")
for row in asked[::5]:
    print(f"critic below {row['threshold']:.3f}: {row['tokens']:.1f} tokens, "
          f"{100 * row['accuracy']:.1f}%")


def coin(written):
    """(P,) chance that a coin with as many tokens on average as `written` is right."""
    spent = [np.mean([t for _, t in own]) for own in (written, always, never)]
    q = (spent[0] - spent[2]) / max(spent[1] - spent[2], 1)
    return (q * thinking.rights(problems, always)
            + (1 - q) * thinking.rights(problems, never))


# %% [markdown]
# ## A thought that is closed early, or made to go on
#
# One can also leave the policy as it is and force its hand (budget forcing, s1, arXiv:2501.19393).
# A thought that reaches its budget is closed after its last whole step, and the answer drawn. Or
# the `</think>` that would end it is replaced, here by `<wrong>`, the token that withdraws a step,
# and the thought continues.

# %%
budgets = (0, 6, 12, 18, 24)
forced = {}
for budget in budgets:
    forced[budget] = thinking.greedy_forced(policy, tokenizer, problems, Forcing(budget=budget))
    right = by_level(thinking.rights(problems, forced[budget]))
    print(f"closed at {budget:2} tokens: right by level (%)", *(100 * right).round().astype(int))
prolonged = thinking.greedy_forced(policy, tokenizer, problems, Forcing(waits=1))
print("made to go on:", prolonged[0][0])
print("made to go on:", share(thinking.rights(problems, prolonged).sum(), len(problems)))

# %% [markdown]
# Closing always keeps to its budget, and each level comes right only once the budget holds all its
# steps: what was left out cannot be made up for in the answer. Making it go on spoils what was
# right: this policy has never seen `<wrong>` at work, so the token is noise to it. s1's models had
# read text in which people look again.
#
# ## Early exit: stop when it is sure
#
# After each step we can close a copy of the thought, let it answer, and look how probable its
# answer is. If sure enough, we stop. For one problem:

# %%
problem = problems[-1]
((text, _),) = thinking.greedy_forced(policy, tokenizer, [problem], Forcing())
thought, closed, _ = text.removeprefix("<think>").partition("</think>")
steps, heads = thought.split(";") if closed else [], ["</think>"]
for count in range(1, len(steps) + 1):
    heads.append(f"<think>{';'.join(steps[:count])}</think>")
print(f"{problem.prompt} (answer {problem.answer})")
for text, sure in thinking.answers_after(policy, tokenizer, [problem] * len(heads), heads):
    print(f"    probability {sure:.3f}: {text}")

exits = thinking.exit_rows(policy, critic, tokenizer, problems)
by_sureness = [row for row in exits if row["method"] == "exit_probability"]
for row in by_sureness[::3]:
    print(f"exit at {row['threshold']}: {row['tokens']:.1f} tokens, {100 * row['accuracy']:.1f}%")

# %% [markdown]
# Sure is not right. Closed after a step, the policy mostly answers with the value it has just
# written, and is about as sure of it as of the true answer: nothing ever taught it to doubt a
# thought that stops early. An exit is only as good as the calibration of what it reads (tutorial
# 7), and every look costs the tokens of an answer.
#
# ## All of it in one picture

# %%
figure, axes = panels(2, 4.4)
LOOKS = {FREE: (SKY, "o"), CHEAP: (GREEN, "D"), DEAR: (PURPLE, "v")}
for i, (price, look) in enumerate(LOOKS.items()):
    bars = [spread([share_interval(np.asarray(thinks[price])[level_of == level].sum(),
                                   int((level_of == level).sum()))]) for level in LEVELS]
    whiskers(axes[0], np.array(LEVELS) + 0.05 * (i - 1), bars, *look, f"price {price}")
axes[0].set(xlabel="level (operations)", ylabel="answers with a thought (%)", ylim=(-4, 104),
            xticks=LEVELS, title="When it thinks")
axes[0].legend()


def point(written):
    """Tokens, and accuracy in percent."""
    return np.mean([t for _, t in written]), 100 * thinking.rights(problems, written).mean()


axes[1].plot(*zip(point(never), point(always), strict=True), color=BLACK, marker="s",
             linestyle="--", label="never, a coin, always")
for price, (color, marker) in LOOKS.items():
    axes[1].plot(*point(choosing[price]), color=color, marker=marker, markersize=8, linestyle="",
                 label=f"choosing, price {price}")
for rows, color, marker, label in ((asked, ORANGE, "^", "if the critic doubts"),
                                   (by_sureness, RED, "<", "early exit")):
    axes[1].plot([row["tokens"] for row in rows], [100 * row["accuracy"] for row in rows],
                 color=color, marker=marker, label=label)
axes[1].plot(*zip(*map(point, forced.values()), strict=True), color=GREY, marker="o",
             label="closed at a budget")
axes[1].set(xlabel="tokens per answer", ylabel="right (%)", ylim=(0, 104),
            title="What it costs")
axes[1].legend(fontsize=8)
keep(figure, "11_when_to_think")

# %% [markdown]
# ## The claim
#
# At the cheap price the policy thinks where it pays: it thinks less at level 1 than at level 4, is
# more accurate than a coin that spends as many tokens, and loses at most 5 points against thinking
# always.

# %%
right = thinking.rights(problems, choosing[CHEAP])
everywhere = thinking.rights(problems, always)
easy, hard = (np.asarray(thinks[CHEAP])[level_of == level] for level in (LEVELS[0], LEVELS[-1]))
print(f"choosing - a coin with as many tokens: {mean(right, coin(choosing[CHEAP]))} points")
print(f"choosing - always thinking: {mean(right, everywhere)} points")
print(f"thinks at level {LEVELS[0]}: {share(easy.sum(), len(easy))}; "
      f"at level {LEVELS[-1]}: {share(hard.sum(), len(hard))}")
assert SMALL or wilson(easy.sum(), len(easy))[1] < wilson(hard.sum(), len(hard))[0]
assert SMALL or paired_bootstrap(right, coin(choosing[CHEAP]))[1] > 0
assert SMALL or paired_bootstrap(right, everywhere)[1] > -0.05

# %% [markdown]
# What is not claimed: that the policy knows how hard a problem is. In these problems the length of
# the question says all about it. Nor that the price is what saves tokens at scale: the stage
# `think_budget` also teaches to leave steps out of a thought, and there the same accuracy for two
# thirds of the tokens comes with a price and without one (docs/RESULTS.md).
#
# In one sentence: thinking pays where it gains more than its tokens cost, and a policy learns that
# from rewards only after it has tried both ways.
#
# ## Try it
#
# 1. Warm up by a coin: keep right thoughts only, and turn half of them into direct answers whatever
#    the policy can do (`f"</think>{problem.answer}<eos>"`). What becomes of level 1?
# 2. At which price does level 4 stop thinking? Predict it from the break-even prices of the
#    warmed-up policy, then train at prices around it.
# 3. Leave the warm-up out (`WARM = 0`). Is the choice learned in as many steps?
#
# <details><summary>Hints</summary>
#
# 1. Three levels of four gain by a thought. How large is p (1 - p) once these have had their say?
# 2. `break_even(after)`, last number. RL also improves both ways of answering while it chooses.
# 3. How often is `</think>` drawn before the warm-up, and how large is p (1 - p) then?
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. It thinks, too. A coin toss is the same at every level, so at first all levels push one shared
#    choice, and most push towards thinking. On levels 1 to 3 (seed 0) 98% of all samples thought
#    after 40 updates, and every greedy answer did. The examples that were kept for their right
#    answers spare the policy this.
# 2. Between 0.03 and 0.05, as the break-even price of 0.04 says: at 0.03 all five runs (seeds 0 to
#    4) think at level 4, at 0.05 all but seed 0, which is shipped, have given it up.
# 3. By the slope above it cannot be: `</think>` is drawn about once in a hundred, and p (1 - p) is
#    0.012 in place of 0.25, so the choice moves about 20 times more slowly.
#
# </details>
