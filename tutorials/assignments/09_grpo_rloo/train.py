"""Reinforcement learning with your advantages: GRPO and RLOO on the same prompts, seed by seed.

    python train.py my_solution.py [--run DIR] [--seeds 3]
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from experiment import Setting, right, run, train_problems, validation_problems

from minireason.core.config import stream_seed
from minireason.model import checkpoint
from minireason.sampling.sampler import Sampling
from minireason.training import losses, rollouts
from minireason.training.optim import make_optimizer, schedule, train_step

G = 8
ARMS = ("rloo", "grpo")


def trained(given: Setting, how: str, seed: int, steps: int, prompts: int):
    """(policy, tokenizer, share of silent groups): on-policy updates, one for each batch."""
    policy, tokenizer = checkpoint.load(given.start)
    optimizer, silent, n_groups = make_optimizer(policy, 0.0), 0, 0
    for step in range(steps):
        problems = train_problems(given.levels, prompts, seed, "rl", step)       # both arms alike
        draws = Sampling(n=G, seed=stream_seed(seed, "assignment rl", step))
        groups = rollouts.sample_groups(policy, tokenizer, problems, draws)
        rollouts.reward_groups(groups, tokenizer, rollouts.Rewards(process=0.0))
        flat = [rollout for group in groups for rollout in group]
        rewards = np.array([rollout.reward for rollout in flat])
        gains = given.functions.advantages(rewards, G, how)
        for rollout, gain in zip(flat, gains, strict=True):
            rollout.advantages = [float(gain)] * rollout.length
        silent += sum(not rollouts.has_signal(group) for group in groups)
        n_groups += len(groups)
        lengths = torch.tensor([rollout.length for rollout in flat])
        weights = losses.token_weights(lengths, "token", 64).tolist()
        batches = rollouts.rollout_batches(flat, weights, 1.0, 4096, tokenizer.pad)

        def loss_of(batch):
            logprobs = rollouts.drawn_logprobs(policy, batch, 1.0)
            return losses.policy_gradient_loss(logprobs, logprobs.detach(), batch.advantages,
                                               batch.weights, 0.2, 0.28)

        if batches:
            train_step(policy, optimizer, batches, loss_of, schedule(step, steps, 5e-4, 5, 1.0))
    return policy, tokenizer, silent / max(1, n_groups)


def experiment(given: Setting) -> list[dict]:
    """A row for each arm and one for their difference; before them the theory."""
    steps, prompts, n_check = (2, 4, 10) if given.small else (40, 24, 200)
    for p in (0.05, 0.2, 0.5, 0.8, 0.95):
        print(f"p = {p}: push " + ", ".join(f"{how} {given.functions.push(p, G, how):.3f}"
                                            for how in ARMS))
    check = validation_problems(given.levels, n_check)
    before = right(*checkpoint.load(given.start), check)
    found, rows = {how: [] for how in ARMS}, []
    for how in ARMS:
        shares = []
        for seed in given.seeds:
            policy, tokenizer, silent = trained(given, how, seed, steps, prompts)
            found[how].append(right(policy, tokenizer, check))
            shares.append(silent)
            print(f"seed {seed}, {how}: right {found[how][-1].mean():.3f} (before "
                  f"{before.mean():.3f}), groups silent {silent:.2f}", flush=True)
        reached = np.stack(found[how])
        more, low, high = given.functions.over_seeds(reached, np.broadcast_to(before,
                                                                              reached.shape))
        rows.append({"arm": how, "accuracy": float(reached.mean()),
                     "silent": float(np.mean(shares)),
                     "gain": more, "gain_low": low, "gain_high": high})
    more, low, high = given.functions.over_seeds(np.stack(found["grpo"]), np.stack(found["rloo"]))
    return [*rows, {"arm": "grpo - rloo", "gain": more, "gain_low": low, "gain_high": high}]


if __name__ == "__main__":
    run(__doc__, experiment)
