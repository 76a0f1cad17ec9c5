"""Grades assignment 4 against minireason.losses."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import torch
from grading import Check, close, grade, require

from minireason.training import losses


def draws(seed):
    return torch.Generator().manual_seed(seed)


def advantages(solution, how):
    for seed in range(20):
        size = (2, 3, 8)[seed % 3]
        rewards = (torch.rand(4 * size, generator=draws(seed)) if seed % 2 else
                   (torch.rand(4 * size, generator=draws(seed)) < 0.5).float())
        close(solution.group_advantages(rewards, size, how),
              losses.group_advantages(rewards, size, how),
              f"{how}, G = {size}, rewards {[round(r, 2) for r in rewards.tolist()]}")


def reinforce(solution):
    advantages(solution, "reinforce")


def rloo(solution):
    advantages(solution, "rloo")


def grpo(solution):
    advantages(solution, "grpo")


def silent(solution):
    for how in ("reinforce", "rloo", "grpo"):
        for value, size in ((0.0, 4), (1.0, 4), (0.1, 3), (0.7, 7)):
            rewards = torch.tensor([value] * size + [0.0] * (size - 1) + [1.0])
            came = solution.group_advantages(rewards, size, how)[:size]
            require(bool((came == 0).all()), f"exactly 0 for {how} on {size} rewards of {value}",
                    f"{came.tolist()}")


def float32(solution):
    for how in ("reinforce", "rloo", "grpo"):
        rewards = torch.tensor([0, 1, 1, 0], dtype=torch.float64)
        came = solution.group_advantages(rewards, 2, how)
        require(came.dtype == torch.float32, "float32", f"{came.dtype}")
        close(came, losses.group_advantages(rewards, 2, how), f"{how}, two groups of two")


def weights_of(solution, how):
    for lengths in ([3, 3, 3], [1, 50], [7], [2, 9, 4, 30]):
        row = torch.tensor(lengths)
        close(solution.token_weights(row, how, 64.0), losses.token_weights(row, how, 64.0),
              f"{how}, lengths {lengths}, constant 64")


def token(solution):
    weights_of(solution, "token")


def sequence(solution):
    weights_of(solution, "sequence")


def constant(solution):
    weights_of(solution, "constant")


def case(seed, spread, size=40):
    """logprobs, old logprobs, advantages, weights of `size` tokens."""
    old = -torch.rand(size, generator=draws(seed)) * 3
    moved = old + spread * torch.randn(size, generator=draws(seed + 1))
    return (moved, old, torch.randn(size, generator=draws(seed + 2)),
            torch.rand(size, generator=draws(seed + 3)) / size)


def compare(solution, arguments, low, high, on):
    """Loss and gradient are the library's."""
    found = []
    for loss_of in (solution.policy_gradient_loss, losses.policy_gradient_loss):
        logprobs = arguments[0].clone().requires_grad_()
        loss = loss_of(logprobs, *arguments[1:], low, high)
        found.append((loss, *torch.autograd.grad(loss, logprobs)))
    close(found[0][0], found[1][0], f"{on}: the loss")
    close(found[0][1], found[1][1], f"{on}: the gradient", 1e-6)


def on_policy(solution):
    for seed in range(5):
        moved, _, gains, weights = case(seed, 0.0)
        compare(solution, (moved, moved.clone(), gains, weights), 0.2, 0.28, "rho = 1")


def moderate(solution):
    for seed in range(5):
        compare(solution, case(seed, 0.02), 0.2, 0.28, "rho inside the bounds")


def bounds(solution):
    for seed in range(10):
        compare(solution, case(seed, 0.8), 0.2, 0.2, "equal bounds")


def two_bounds(solution):
    for seed in range(10):
        compare(solution, case(seed, 0.8), 0.1, 0.6, "clip_low 0.1, clip_high 0.6")


def wrong_way(solution):
    """A token that moved the wrong way keeps its gradient, however far it went."""
    old, ones = torch.zeros(2), torch.full((2,), 0.5)
    compare(solution, (torch.tensor([-2.0, 2.0]), old, torch.tensor([1.0, -1.0]), ones), 0.2, 0.28,
            "rho 0.14 with a gain, rho 7.4 with a loss")


def micro_batches(solution):
    arguments = case(3, 0.5)
    whole = solution.policy_gradient_loss(*arguments, 0.2, 0.28)
    parts = sum(solution.policy_gradient_loss(*(x[part] for x in arguments), 0.2, 0.28)
                for part in (slice(0, 7), slice(7, 40)))
    close(parts, whole, "7 and 33 tokens apart against 40 together")
    close(whole, losses.policy_gradient_loss(*arguments, 0.2, 0.28), "40 tokens")


CHECKS = [
    Check("group_advantages: reinforce", 2, reinforce),
    Check("group_advantages: rloo", 2, rloo),
    Check("group_advantages: grpo", 2, grpo),
    Check("group_advantages: silent groups", 1, silent),
    Check("group_advantages: float32, groups of two", 1, float32),
    Check("token_weights: token", 1, token),
    Check("token_weights: sequence", 2, sequence),
    Check("token_weights: constant", 1, constant),
    Check("policy_gradient_loss: on policy", 1, on_policy),
    Check("policy_gradient_loss: inside the bounds", 1, moderate),
    Check("policy_gradient_loss: equal bounds", 2, bounds),
    Check("policy_gradient_loss: two bounds", 2, two_bounds),
    Check("policy_gradient_loss: moved the wrong way", 1, wrong_way),
    Check("policy_gradient_loss: micro-batches add up", 1, micro_batches),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__))
