"""A solution of assignment 4, from its README alone."""

import torch


def group_advantages(rewards, group_size, how):
    groups = rewards.double().reshape(-1, group_size)
    mean = groups.mean(dim=1, keepdim=True)
    gain = groups - mean
    if how == "rloo":
        others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
        gain = groups - others
    if how == "grpo":
        gain = gain / gain.pow(2).mean(dim=1, keepdim=True).sqrt().clamp_min(1e-9)
    silent = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    return torch.where(silent, torch.zeros_like(gain), gain).reshape(-1).float()


def token_weights(lengths, how, constant):
    lengths = lengths.float()
    n = len(lengths)
    if how == "token":
        return torch.ones(n) / lengths.sum()
    if how == "sequence":
        return 1 / (n * lengths)
    return torch.full((n,), 1 / (n * constant))


def policy_gradient_loss(logprobs, old_logprobs, advantages, weights, clip_low, clip_high):
    rho = torch.exp(logprobs - old_logprobs)
    kept = rho.clamp(1 - clip_low, 1 + clip_high)
    objective = torch.minimum(rho * advantages, kept * advantages)
    return -(weights * objective).sum()
