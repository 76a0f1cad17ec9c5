"""Grades assignment 4 against minireason.training.losses."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import torch
from grading import Check, close, grade, require

from minireason.core.config import stream_seed
from minireason.training import losses


def draws(seed, what):
    return torch.Generator().manual_seed(stream_seed(seed, "grade 4", what))


def advantage_mistakes(rewards, size, how):
    """What typical mistakes give."""
    groups = rewards.double().view(-1, size)
    gains = groups - groups.mean(1, keepdim=True)
    kinds = {"reinforce": gains, "rloo": gains * size / (size - 1),
             "grpo": gains / groups.std(1, keepdim=True, correction=0).clamp_min(1e-12)}
    found = {f"this is {name}": value.flatten() for name, value in kinds.items() if name != how}
    sample = gains / groups.std(1, keepdim=True).clamp_min(1e-12)
    return found | {
        "divided by the sample's standard deviation (G - 1), not the population's (G)":
            sample.flatten(),
        "the mean of the whole batch, not of each group": rewards - rewards.mean(),
        "the groups lie across: samples of a prompt stand together":
            (rewards.view(size, -1) - rewards.view(size, -1).mean(0)).flatten(),
        "this is the reward itself": rewards}


def compare_advantages(solution, rewards, size, how, on):
    close(solution.group_advantages(rewards, size, how),
          losses.group_advantages(rewards, size, how), on,
          likely=advantage_mistakes(rewards, size, how))


def advantages(solution, how, seed):
    for i in range(20):
        size = (2, 3, 8)[i % 3]
        rewards = torch.rand(4 * size, generator=draws(seed, f"rewards {i}"))
        rewards = rewards if i % 2 else (rewards < 0.5).float()
        compare_advantages(solution, rewards, size, how, f"{how}, G = {size}, rewards "
                           f"{[round(r, 2) for r in rewards.tolist()]}")


def reinforce(solution, seed):
    advantages(solution, "reinforce", seed)


def rloo(solution, seed):
    advantages(solution, "rloo", seed)


def grpo(solution, seed):
    advantages(solution, "grpo", seed)


def silent(solution, seed):
    for how in ("reinforce", "rloo", "grpo"):
        for value, size in ((0.0, 4), (1.0, 4), (0.1, 3), (0.7, 7)):
            rewards = torch.tensor([value] * size + [0.0] * (size - 1) + [1.0],
                                   dtype=torch.float64)           # three times 0.1 is not 0.3
            came = solution.group_advantages(rewards, size, how)[:size]
            require(bool((torch.as_tensor(came) == 0).all()),
                    f"exactly 0 for {how} on {size} rewards of {value}",
                    f"{came.tolist()}: rounding speaks; look whether all rewards are equal")


def float32(solution, seed):
    for how in ("reinforce", "rloo", "grpo"):
        rewards = torch.tensor([0, 1, 1, 0], dtype=torch.float64)
        came = solution.group_advantages(rewards, 2, how)
        require(came.dtype == torch.float32, "float32", f"{came.dtype}")
        compare_advantages(solution, rewards, 2, how, f"{how}, two groups of two")


def weights_of(solution, how, seed):
    drawn = torch.randint(1, 60, (6,), generator=draws(seed, "lengths")).tolist()
    for lengths in ([3, 3, 3], [1, 50], [7], [2, 9, 4, 30], drawn):
        row = torch.tensor(lengths)
        likely = {f"this is {other}": losses.token_weights(row, other, 64.0)
                  for other in losses.AGGREGATIONS if other != how}
        likely |= {"the number of completions B is missing": losses.token_weights(row, how, 64.0)
                   * len(row),
                   "one weight too many: these are weights of whole completions":
                   losses.token_weights(row, how, 64.0) * row}
        close(solution.token_weights(row, how, 64.0), losses.token_weights(row, how, 64.0),
              f"{how}, lengths {lengths}, constant 64", likely=likely)


def token(solution, seed):
    weights_of(solution, "token", seed)


def sequence(solution, seed):
    weights_of(solution, "sequence", seed)


def constant(solution, seed):
    weights_of(solution, "constant", seed)


def case(seed, what, spread, size=40):
    """logprobs, old logprobs, advantages, weights of `size` tokens."""
    generator = draws(seed, what)
    old = -torch.rand(size, generator=generator) * 3
    moved = old + spread * torch.randn(size, generator=generator)
    return (moved, old, torch.randn(size, generator=generator),
            torch.rand(size, generator=generator) / size)


def loss_mistakes(logprobs, old, gains, weights, low, high):
    """Losses of typical mistakes, as functions of the log-probabilities."""
    def ratio(logprobs):
        return (logprobs - old).exp()

    def bounded(logprobs, low=low, high=high):
        return ratio(logprobs).clamp(1 - low, 1 + high)

    right = losses.policy_gradient_loss
    return {
        "the sign: a loss is minimised": lambda x: -right(x, old, gains, weights, low, high),
        "clipped without the minimum: what moved the wrong way must keep its gradient":
            lambda x: -(weights * bounded(x) * gains).sum(),
        "nothing is clipped": lambda x: -(weights * ratio(x) * gains).sum(),
        "one bound for both sides": lambda x: right(x, old, gains, weights, low, low),
        "the two bounds are swapped": lambda x: right(x, old, gains, weights, high, low),
        "the maximum, not the minimum": lambda x: -(weights * torch.maximum(
            ratio(x) * gains, bounded(x) * gains)).sum(),
        "a mean over tokens: the weights are all that divides":
            lambda x: right(x, old, gains, weights, low, high) / len(x),
        "the weights are missing": lambda x: right(x, old, gains, torch.ones_like(weights), low,
                                                   high),
        "the difference of log-probabilities in place of the ratio": lambda x: -(
            weights * torch.minimum((x - old) * gains, (x - old).clamp(-low, high) * gains)).sum()}


def compare(solution, arguments, low, high, on):
    """Loss and gradient are the library's."""
    def with_gradient(loss_of):
        logprobs = arguments[0].clone().requires_grad_()
        loss = loss_of(logprobs)
        return loss, torch.autograd.grad(loss, logprobs)[0]

    came, (slope,) = solution.gradient("policy_gradient_loss", (*arguments, low, high), [0])
    wanted = with_gradient(lambda x: losses.policy_gradient_loss(x, *arguments[1:], low, high))
    found = {why: with_gradient(wrong)
             for why, wrong in loss_mistakes(*arguments, low, high).items()}
    close(came, wanted[0], f"{on}: the loss", likely={why: f[0] for why, f in found.items()})
    close(slope, wanted[1], f"{on}: the gradient", 1e-6,
          likely={why: f[1] for why, f in found.items()})


def on_policy(solution, seed):
    for i in range(5):
        moved, _, gains, weights = case(seed, f"on policy {i}", 0.0)
        compare(solution, (moved, moved.clone(), gains, weights), 0.2, 0.28, "rho = 1")


def moderate(solution, seed):
    for i in range(5):
        compare(solution, case(seed, f"moderate {i}", 0.02), 0.2, 0.28, "rho inside the bounds")


def bounds(solution, seed):
    for i in range(10):
        compare(solution, case(seed, f"bounds {i}", 0.8), 0.2, 0.2, "equal bounds")


def two_bounds(solution, seed):
    for i in range(10):
        compare(solution, case(seed, f"two bounds {i}", 0.8), 0.1, 0.6,
                "clip_low 0.1, clip_high 0.6")


def wrong_way(solution, seed):
    """A token that moved the wrong way keeps its gradient, however far it went."""
    old, halves = torch.zeros(2), torch.full((2,), 0.5)
    far = 2 + torch.rand(2, generator=draws(seed, "far"))
    compare(solution, (torch.stack([-far[0], far[1]]), old, torch.tensor([1.0, -1.0]), halves),
            0.2, 0.28, "rho below 0.14 with a gain, rho above 7.3 with a loss")


def micro_batches(solution, seed):
    arguments = case(seed, "micro", 0.5)
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
    raise SystemExit(grade(CHECKS, __file__, allowed=("torch",)))
