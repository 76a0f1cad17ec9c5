# %% [markdown]
# # 6. Reinforcement learning against the verifier
#
# The policy answers a prompt several times, the verifier pays for what is right, and samples better
# than their group become more likely. We derive the gradient on a two-armed bandit, find the
# baseline with the least variance, and carry both over to rollouts: advantages, the clip of PPO, a
# penalty on the KL divergence, credit for single steps. Then a handful of updates. It reads a
# finished run (`minireason run`). About 45 seconds.

# %%
import os

import numpy as np
import torch
from tutorial_tools import finished, keep, mean, panels, share

from minireason.core.config import rng
from minireason.core.files import read_lines
from minireason.measure.estimates import wilson
from minireason.measure.evaluate import frozen_sets, verdicts_of
from minireason.model import checkpoint
from minireason.problems import chain, sample_split
from minireason.report.style import BLUE, GREEN, ORANGE, PURPLE
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages.rl import Config as RLConfig
from minireason.stages.rl import batches_of_updates, groups_of_step, learn
from minireason.training.losses import (
    group_advantages,
    kl_k3,
    policy_gradient_loss,
    token_weights,
)
from minireason.training.optim import make_optimizer, schedule
from minireason.training.rollouts import (
    Rewards,
    credit_groups,
    drawn_logprobs,
    has_signal,
    reward_groups,
    rollout_batches,
    sample_groups,
    step_spans,
)

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS, N, LEVEL = (2, 6, 2) if SMALL else (16, 300, 8)
RUN = finished("star", "rl")
policy, tokenizer = checkpoint.load(RUN / "star")

# %% [markdown]
# ## The gradient, on a two-armed bandit
#
# A bandit has two arms. The policy pulls arm 1 with chance p = sigmoid(z), else arm 0, and gets the
# reward r1 or r0. It wants more of J = p r1 + (1 - p) r0. If it could see both rewards it would
# differentiate J: dJ/dz = p (1 - p) (r1 - r0). But it sees the reward of the arm it pulled, only.
# The trick (Williams 1992): for any distribution pi, grad pi = pi grad log pi. So
#
#     grad J = sum over arms of r grad pi = sum over arms of pi r grad log pi = E[ r grad log pi ]
#
# which is an expectation over what was drawn: draw, and use r grad log pi. For the sigmoid,
# d log p / dz = 1 - p if arm 1 was pulled, -p if arm 0 was. We take the expectation by summing over
# both arms, and compare three ways.

# %%
r1, r0, z = 0.9, 0.5, torch.tensor(1.2, requires_grad=True)
p = float(z.detach().sigmoid())
arms = ((p, r1, 1 - p), (1 - p, r0, -p))                # chance, reward, d log pi / dz of each arm
expected = sum(chance * r * slope for chance, r, slope in arms)
(z.sigmoid() * r1 + (1 - z.sigmoid()) * r0).backward()
print(f"dJ/dz: by autograd {z.grad:.6f}, p (1 - p) (r1 - r0) {p * (1 - p) * (r1 - r0):.6f}, "
      f"E[r grad log pi] {expected:.6f}")
assert abs(float(z.grad) - expected) < 1e-6

# %% [markdown]
# ## A baseline, and the best one
#
# Both rewards are positive, so either arm, once pulled, is made more likely; only on average does
# the better one win. That is noise. Subtract a baseline b from the reward: the mean does not
# change, because E[grad log pi] = 0, but the variance does. With s = (grad log pi)^2, the variance
# is E[s (r - b)^2] minus a constant; its derivative is zero at
#
#     b = E[s r] / E[s]                        (Greensmith 2004, theorem 8)
#
# A mean weighted by the squared slope: not the mean reward, but mostly that of the *unlikely* arm,
# which has the steep slope. For two arms it takes all variance away.


# %%
def variance_at(b):
    """Variance of (r - b) grad log pi over the draw of an arm."""
    draws = [(chance, (r - b) * slope) for chance, r, slope in arms]
    middle = sum(chance * x for chance, x in draws)
    return sum(chance * (x - middle) ** 2 for chance, x in draws)


mean_reward = sum(chance * r for chance, r, _ in arms)
best = (sum(chance * slope ** 2 * r for chance, r, slope in arms)
        / sum(chance * slope ** 2 for chance, _, slope in arms))
grid = np.linspace(0, 1, 10_001)
by_search = grid[np.argmin([variance_at(b) for b in grid])]
print(f"baseline of least variance: by search {by_search:.4f}, E[s r] / E[s] {best:.4f}")
for name, b in (("none", 0.0), ("the mean", mean_reward), ("the best", best)):
    shifted = sum(chance * (r - b) * slope for chance, r, slope in arms)
    print(f"baseline {name:<9} b = {b:.3f}: mean gradient {shifted:.6f}, standard deviation "
          f"{variance_at(b) ** 0.5:.4f}")
    assert abs(shifted - expected) < 1e-12
assert abs(by_search - best) < 1e-3

# %% [markdown]
# From here on an arm is a whole completion, grad log pi a sum over its tokens, and the reward comes
# from the verifier.
#
# ## A group of rollouts
#
# Eight samples of one prompt, at temperature 1: the policy's own distribution. The reward is 1 if
# the verifier says correct, else 0. We look at groups of several levels.

# %%
generator = rng(0, "tutorial 6")
levels = (1, 2) if SMALL else (2, 5, 7, 8)
problems = [sample_split(chain, generator, level, "train") for level in levels for _ in range(8)]
OUTCOME = Rewards(outcome=1.0, process=0.0)
G = 8
groups = sample_groups(policy, tokenizer, problems, Sampling(n=G, seed=3))
reward_groups(groups, tokenizer, OUTCOME)
credit_groups(groups, tokenizer, "reinforce", OUTCOME.process)
speaking = next((group for group in groups if has_signal(group)), groups[-1])
print(speaking[0].problem.prompt, speaking[0].problem.answer)
for rollout in speaking:
    print(f"  reward {rollout.reward:.0f}  advantage {rollout.advantages[0]:+.3f}  "
          f"{tokenizer.decode(rollout.tokens[rollout.first:])}")

# %% [markdown]
# ## Advantages by hand
#
# An advantage says how much better a sample is than its group. Three formulas:
#
# - REINFORCE with the group mean: r - mean
# - RLOO (arXiv:2402.14740): r - mean of the others
# - GRPO (arXiv:2402.03300): (r - mean) / standard deviation of the group
#
# and the baseline of least variance, r - sum(s r) / sum(s), with s estimated from the sampler's own
# probabilities as the sum of (1 - p)^2 over the tokens: as on the bandit, an unlikely sample has
# the steep slope.

# %%
rewards = torch.tensor([[rollout.reward for rollout in group] for group in groups])   # (P, G)
hand = {"reinforce": torch.zeros_like(rewards), "rloo": torch.zeros_like(rewards),
        "grpo": torch.zeros_like(rewards)}
for p, row in enumerate(rewards.tolist()):
    middle = sum(row) / G
    deviation = (sum((r - middle) ** 2 for r in row) / G) ** 0.5
    for g, r in enumerate(row):
        hand["reinforce"][p, g] = r - middle
        hand["rloo"][p, g] = r - (sum(row) - r) / (G - 1)
        hand["grpo"][p, g] = (r - middle) / deviation if deviation else 0.0
for name, values in hand.items():
    library = group_advantages(rewards.flatten(), G, name)
    print(f"{name:<10} by hand against the library: "
          f"{(values.flatten() - library).abs().max():.1e}")
    assert torch.allclose(values.flatten(), library, atol=1e-5)
sizes = torch.tensor([[sum((1 - np.exp(lp)) ** 2 for lp in r.logprobs) for r in group]
                      for group in groups], dtype=torch.float64)                      # s, (P, G)
for p, row in enumerate(rewards.tolist()):
    b = sum(s * r for s, r in zip(sizes[p].tolist(), row, strict=True)) / float(sizes[p].sum())
    library = group_advantages(rewards[p], G, "optimal", sizes[p])
    assert len(set(row)) == 1 or np.allclose([r - b for r in row], library, atol=1e-5)
print("least variance: by hand as the library's")
for right in (1, 4, 7):
    example = torch.tensor([1.0] * right + [0.0] * (G - right))
    shown = {name: group_advantages(example, G, name)[[0, -1]].tolist() for name in hand}
    print(f"{right} of {G} right: advantage of a right and of a wrong sample",
          {name: [round(x, 2) for x in values] for name, values in shown.items()})

# %% [markdown]
# GRPO's division makes the one right sample of a hard group loud. That is its point, and its bias
# (arXiv:2503.20783).
#
# ## A silent group teaches nothing
#
# If all samples of a group are right, or all wrong, every advantage is 0 and so is the gradient.
# Easy prompts fall silent on one side, hopeless ones on the other.

# %%
for level in levels:
    mine = [group for group in groups if group[0].problem.level == level]
    rate = [r.reward for group in mine for r in group]
    print(f"level {level}: samples right {share(sum(rate), len(rate))}; groups silent "
          f"{share(sum(not has_signal(g) for g in mine), len(mine))}")
silent = torch.tensor([1.0] * G)
logprobs = torch.randn(G, requires_grad=True)
advantages = group_advantages(silent, G, "grpo")
policy_gradient_loss(logprobs, logprobs.detach(), advantages, torch.full((G,), 1 / G), 0.2,
                     0.28).backward()
print("gradient of a silent group:", logprobs.grad.tolist())
assert not logprobs.grad.any()

# %% [markdown]
# The chance that a group of G speaks, if a sample is right with probability p, is
# 1 - p^G - (1 - p)^G. DAPO (arXiv:2503.14476) draws silent groups anew; a larger G helps too.
#
# ## The loss
#
# $$-\sum_t w_t \min(\rho_t A_t,\ \mathrm{clip}(\rho_t, 1 - low, 1 + high)\, A_t), \quad
# \rho = \pi / \pi_{old}$$
#
# This is the clipped objective of PPO (proximal policy optimization, Schulman 2017,
# arXiv:1707.06347, eq. 7). On the first update rho is 1 and the gradient is REINFORCE's, minus the
# sum of w A grad log pi. We check it on real rollouts.

# %%
flat = [rollout for group in groups for rollout in group]
weights = token_weights(torch.tensor([r.length for r in flat]), "token", 64).tolist()
batches = rollout_batches(flat, weights, 1.0, 4096, tokenizer.pad)
if batches:
    gradients = []
    for kind in ("library", "by hand"):
        policy.zero_grad()
        for batch in batches:
            logprobs = drawn_logprobs(policy, batch, 1.0)
            loss = (policy_gradient_loss(logprobs, logprobs.detach(), batch.advantages,
                                         batch.weights, 0.2, 0.28) if kind == "library" else
                    -(batch.weights * batch.advantages * logprobs).sum())
            loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    policy.zero_grad()
    print(f"gradient of {gradients[0].numel():,} parameters: library against REINFORCE by hand, "
          f"largest difference {(gradients[0] - gradients[1]).abs().max():.1e}, "
          f"norm {gradients[0].norm():.3f}")
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)
else:
    print("every group was silent: no batch, no gradient")

# %% [markdown]
# Later updates on the same samples move rho away from 1. The clip then takes the gradient off a
# token that has moved far enough in its wanted direction, and never off one that moved the wrong
# way.

# %%
ratio = torch.linspace(0.4, 1.8, 281)
figure, axes = panels(3)
for gain, color in ((1.0, GREEN), (-1.0, ORANGE)):
    old = torch.zeros_like(ratio)
    moved = ratio.log().requires_grad_()
    terms = torch.stack([-policy_gradient_loss(moved[i:i + 1], old[i:i + 1],
                                               torch.tensor([gain]), torch.ones(1), 0.2, 0.28)
                         for i in range(len(ratio))])
    (slope,) = torch.autograd.grad(terms.sum(), moved)
    flat_at = ratio[slope == 0]
    print(f"advantage {gain:+.0f}: no gradient for rho from {flat_at.min():.2f} to "
          f"{flat_at.max():.2f}")
    axes[0].plot(ratio, terms.detach(), color=color, label=f"advantage {gain:+.0f}")
axes[0].axvline(1, color="#999999", linewidth=1)
axes[0].set(xlabel="rho = pi / pi_old", ylabel="objective", title="The clipped objective")
axes[0].legend()
chance = np.linspace(0, 1, 101)
for size, color in ((4, BLUE), (8, GREEN), (16, ORANGE)):
    axes[1].plot(chance, 1 - chance ** size - (1 - chance) ** size, color=color,
                 label=f"G = {size}")
axes[1].set(xlabel="P(a sample is right)", ylabel="P(the group speaks)",
            title="When a group teaches")
axes[1].legend(loc="lower center")

# %% [markdown]
# ## KL: how far the policy may go
#
# The clip bounds one update; nothing bounds a thousand of them. Where the reward has holes, one
# adds a penalty on the KL divergence from a reference policy, KL = E[log pi - log ref]. From
# samples it can be estimated in several ways; with r = ref / pi for the drawn token,
#
#     k1 = -log r           unbiased, but negative for every second sample
#     k3 = r - 1 - log r    unbiased too, since E[r] = 1, and never negative  (Schulman 2020)
#
# GRPO uses k3. Our reward is exact, so the stages run without a penalty; here is the estimate.

# %%
draw = np.random.default_rng(0)
pi, ref = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
truth = float((pi * np.log(pi / ref)).sum())
tokens = draw.choice(3, 4000, p=pi)
k1 = np.log(pi / ref)[tokens]
k3 = kl_k3(torch.tensor(np.log(pi))[tokens], torch.tensor(np.log(ref))[tokens]).numpy()
for name, values in (("k1", k1), ("k3", k3)):
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    print(f"KL {truth:.4f}; {name} {values.mean():.4f} +- {half:.4f}, smallest {values.min():+.3f}")
    assert abs(values.mean() - truth) < 2 * half
assert (k3 >= 0).all()

# %% [markdown]
# ## Credit for single steps
#
# One reward for sixty tokens: a completion with seven right steps and a wrong one is blamed as a
# whole. The verifier marks every step, and a mark judges the step from the state before it. So the
# j-th steps of a group can be compared with each other, and the tokens of each step get its own
# advantage besides (process supervision, arXiv:2402.03300, section 4.1.3). By hand, with the group
# mean as the baseline:

# %%
PROCESS = Rewards(outcome=1.0, process=1.0)
reward_groups(groups, tokenizer, PROCESS)
credit_groups(groups, tokenizer, "reinforce", PROCESS.process)
shown = max(groups, key=lambda group: len({r.verdict.marks for r in group}))
spans = [step_spans(rollout, tokenizer) for rollout in shown]
for rollout, own in zip(shown, spans, strict=True):
    outcome = rollout.reward - sum(r.reward for r in shown) / G
    by_hand = [outcome] * rollout.length
    for j, (begin, end, mark) in enumerate(own):
        others = [steps[j][2] for steps in spans if len(steps) > j]
        for t in range(begin, end):
            by_hand[t] += mark - sum(others) / len(others)
    assert np.allclose(by_hand, rollout.advantages, atol=1e-5)
for rollout, own in zip(shown[:4], spans, strict=False):
    parts = [f"{tokenizer.decode(rollout.tokens[rollout.first:][begin:end])} "
             f"({rollout.advantages[begin]:+.2f})" for begin, end, _ in own]
    print(f"reward {rollout.reward:.0f}:", " ".join(parts))
reward_groups(groups, tokenizer, OUTCOME)
credit_groups(groups, tokenizer, "reinforce", OUTCOME.process)

# %% [markdown]
# ## A handful of updates
#
# The same functions as the stage, for a few steps: groups, batches, learn. The stage takes 300
# steps of 64 problems, 4 samples each, and pays for the answer alone; we take fewer steps. With few
# problems per step the noise of the gradient wins (docs/LOG.md). Validation: one sample per problem
# at temperature 1, before and after, on the same frozen problems.

# %%
cfg = RLConfig(init=str(RUN / "star"), steps=STEPS, prompts_per_step=8 if SMALL else 64,
               group_size=4, max_level=LEVEL, lr_floor=1.0)
(validation,) = frozen_sets("chain", "validation", N, (LEVEL,)).values()


def sampled_right(model):
    """(N,) whether one sample a problem is right."""
    texts = complete(model, tokenizer, validation, "cot", Sampling(seed=5))
    return np.array([row[0].correct for row in verdicts_of(validation, texts)])


before = sampled_right(policy)
reference, _ = checkpoint.load(RUN / "star")
optimizer = make_optimizer(policy, cfg.weight_decay)
for step in range(STEPS):
    groups, _ = groups_of_step(cfg, step, policy, tokenizer)
    updates = batches_of_updates(cfg, step, groups, policy, reference, tokenizer.pad)
    found = learn(cfg, step, policy, optimizer, updates,
                  schedule(step, STEPS, cfg.lr, cfg.warmup, cfg.lr_floor), None, tokenizer)
    if step % 5 == 0 or step == STEPS - 1:
        rewards = [r.reward for group in groups for r in group]
        print(f"step {step:>2}: samples right {share(sum(rewards), len(rewards))}, silent groups "
              f"{sum(not has_signal(g) for g in groups)} of {len(groups)}, "
              f"grad_norm {found['grad_norm']:.3f}")
after = sampled_right(policy)
print(f"level {LEVEL}, one sample: before {share(before.sum(), N)}; after {STEPS} updates "
      f"{share(after.sum(), N)}; difference {mean(after, before)} points")

# %% [markdown]
# Read the interval before the numbers: if it holds 0, nothing has been shown. And do not expect a
# gain from so few updates. Each step rests on a few hundred rewards, and at this learning rate the
# first updates can cost accuracy. The run's own curve shows what hundreds of them do.

# %%
points = [row for row in read_lines(RUN / "rl" / "rows.jsonl") if "step" in row]
for method, color in (("greedy", PURPLE), ("sampled", BLUE)):
    curve = [row for row in points if row["method"] == method]
    right = np.array([[row["accuracy"], *wilson(row["accuracy"] * row["problems"],
                                                row["problems"])] for row in curve]).T * 100
    axes[2].errorbar([row["step"] for row in curve], right[0], color=color, marker="o",
                     yerr=np.maximum(0, [right[0] - right[1], right[2] - right[0]]),
                     elinewidth=1, label=method)
    for row in (curve[0], curve[-1]):
        print(f"the run, {method}, step {row['step']}: "
              f"{share(row['accuracy'] * row['problems'], row['problems'])}")
axes[2].set(xlabel="step", ylabel="right (%)", ylim=(0, 100), title="The run's validation curve")
axes[2].legend(loc="lower right")
keep(figure, "06_reinforcement_learning")

# %% [markdown]
# ## The claim
#
# The samples give the gradient: on the bandit exactly, on rollouts to the rounding of float32, and
# a silent group gives none. And hundreds of such updates teach: in the run's own curve the share of
# right samples is higher at the end than at the start, with 95% intervals apart.

# %%
curve = [row for row in points if row["method"] == "sampled"]
(low_start, high_start), (low_end, high_end) = [
    wilson(row["accuracy"] * row["problems"], row["problems"]) for row in (curve[0], curve[-1])]
print(f"the run, samples right: from [{100 * low_start:.1f}, {100 * high_start:.1f}] to "
      f"[{100 * low_end:.1f}, {100 * high_end:.1f}]%")
assert SMALL or low_end > high_start

# %% [markdown]
# In one sentence: make what was drawn more likely in proportion to how much better than its group
# it was, and keep the noise down by the right baseline and the right credit.
#
# ## Try it
#
# 1. Put the bandit's policy at p = 0.99. How large are the mean gradient and its standard deviation
#    with no baseline and with the mean? How many pulls does it take until the mean is twice its
#    standard error?
# 2. Half of the problems are always solved, the other half in half of the samples. Which share of
#    groups of 4 speaks? What does 1 - p^G - (1 - p)^G say with p the mean accuracy, and why is it
#    too high?
# 3. `token_weights` has three rules. Which of them blames a long wrong completion less than a short
#    one, and what could a policy learn from that?
#
# <details><summary>Hints</summary>
#
# 1. Change z. Pulls are independent: the standard error is the standard deviation / sqrt(n).
# 2. Take the formula for each half, then the mean.
# 3. Call it with lengths 10 and 40, and look at the weight of one token and of a whole completion.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. The mean is 0.00396 with any baseline. The standard deviation is 0.050 without and 0.039 with
#    the mean, so 641 and 388 pulls. The mean reward, 0.896, is nearly that of the frequent arm; the
#    best baseline is 0.504, near that of the rare one, and takes the variance away.
# 2. 44%: 0 of the first half, 1 - 2 / 16 of the second. The formula says 68% for p = 0.75. It takes
#    all problems for equally hard; in truth the easy ones and the hopeless ones are silent.
# 3. `sequence`: every completion weighs 1 / B, so a token of the long one weighs a quarter of a
#    token of the short one. A policy that is wrong anyway is blamed less per token if it rambles,
#    and may learn to. `token` and `constant` give every token the same weight.
#
# </details>
