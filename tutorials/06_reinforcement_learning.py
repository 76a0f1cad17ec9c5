# %% [markdown]
# # 6. Reinforcement learning against the verifier
#
# The policy answers a prompt several times, the verifier pays for what is right, and samples better
# than their group become more likely. We compute the advantages and the loss by hand, see why a
# group of equal rewards teaches nothing, and make a handful of updates. It reads a finished run
# (`minireason run`). About 40 seconds.

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
from minireason.training.losses import group_advantages, policy_gradient_loss, token_weights
from minireason.training.optim import make_optimizer, schedule
from minireason.training.rollouts import (
    Rewards,
    credit_groups,
    drawn_logprobs,
    has_signal,
    reward_groups,
    rollout_batches,
    sample_groups,
)

RUN = os.environ.get("MINIREASON_RUN", "runs/quickstart")
SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS, N, LEVEL = (2, 6, 2) if SMALL else (16, 300, 8)
RUN = finished(RUN, "star", "rl")
policy, tokenizer = checkpoint.load(RUN / "star")

# %% [markdown]
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
# (arXiv:1707.06347). On the first update rho is 1 and the gradient is REINFORCE's, minus the sum of
# w A grad log pi. We check it on real rollouts.

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
# ## Try it
#
# 1. Set `lr=2e-4` in `cfg`. Is the policy better after 16 updates, worse, or can you not tell? How
#    many problems would tell a difference of 3 points from 0?
# 2. Draw 200 groups of level 8 at G = 4, 8 and 16 and compare the share that speaks with
#    1 - p^G - (1 - p)^G, p the mean accuracy. Why is the formula too high?
# 3. `token_weights` has three rules. Which of them blames a long wrong completion less than a short
#    one, and what could a policy learn from that?
