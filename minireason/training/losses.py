"""Pure tensor maths: what is minimised, and nothing else.

Every loss is a SUM over counted tokens divided by a count that the caller gives, the count of the
whole step over all micro-batches and ranks; so splitting a batch leaves its gradient as it was.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ADVANTAGES = ("reinforce", "rloo", "grpo", "dr_grpo", "optimal")     # group_advantages
AGGREGATIONS = ("token", "sequence", "constant")                    # token_weights


def gather_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits) at the targets, in float32; (..., V), (...) -> (...)."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None]).squeeze(-1) - logits.logsumexp(dim=-1)


def nll(logits: Tensor, targets: Tensor, loss_mask: Tensor, count: float) -> Tensor:
    """Negative log-likelihood of the counted targets over `count`.

    logits (..., V); targets and loss_mask (...) of equal shape; returns a scalar.
    """
    assert targets.shape == loss_mask.shape == logits.shape[:-1], "shapes would broadcast"
    flat = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none")
    return (flat * loss_mask.flatten()).sum() / count


def value_bce(value_logits: Tensor, labels: Tensor, loss_mask: Tensor, count: float) -> Tensor:
    """Binary cross-entropy of P(correct | prefix) at the counted tokens over `count`.

    value_logits, labels in [0, 1] and loss_mask share one shape (Cobbe 2021, arXiv:2110.14168,
    section 4.2 trains a value at every token the same way, with a squared error).
    """
    assert value_logits.shape == labels.shape == loss_mask.shape, "shapes would broadcast"
    loss = F.binary_cross_entropy_with_logits(value_logits.float(), labels, reduction="none")
    return (loss * loss_mask).sum() / count


def truncate_logits(logits: Tensor, temperature: float, top_k: int = 0,
                    top_p: float = 1.0) -> Tensor:
    """Logits of the distribution that is sampled from: temperature, then top-k, then top-p.

    (..., V) -> (..., V), float32; excluded tokens get -inf. Temperature 0 keeps only the arg-max.
    top_p keeps the smallest set of tokens whose mass reaches it (Holtzman 2020, arXiv:1904.09751).
    """
    logits = logits.float()
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, float("-inf")).scatter(-1, best, 0.0)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        mass_before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        dropped = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, mass_before >= top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits


def group_advantages(rewards: Tensor, group_size: int, how: str,
                     scores: Tensor | None = None) -> Tensor:
    """How much better each completion is than its group; (P * G,) -> (P * G,), float32.

    reinforce, dr_grpo   r - mean(group)                             (Liu 2025, arXiv:2503.20783)
    rloo                 r - mean(the others) = G / (G-1) (r - mean)  (Ahmadian 2024, 2402.14740)
    grpo                 (r - mean) / population standard deviation  (Shao 2024, arXiv:2402.03300)
    optimal              r - sum(s r) / sum(s), s = |grad log pi|^2, the baseline of least variance
                         (Greensmith 2004, JMLR 5, theorem 8); `scores` estimate s, (P * G,)

    A likely token has a small gradient. Where most samples are right, these are the likely ones,
    and the optimal baseline is near 0: it learns mostly from what went right.
    A group whose rewards are all equal gets exactly 0, whatever rounding says.
    """
    assert how in ADVANTAGES, f"advantage {how!r}"
    groups = rewards.double().view(-1, group_size)                        # (P, G)
    weights = torch.ones_like(groups)
    if how == "optimal":
        assert scores is not None, "the optimal baseline weighs rewards by the size of gradients"
        weights = scores.double().view(-1, group_size).clamp_min(1e-12)
    advantages = groups - (weights * groups).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    if how == "rloo":
        advantages = advantages * group_size / max(1, group_size - 1)
    elif how == "grpo":
        advantages = advantages / groups.std(dim=1, keepdim=True, correction=0).clamp_min(1e-12)
    equal = groups.amax(dim=1, keepdim=True) == groups.amin(dim=1, keepdim=True)
    return advantages.masked_fill(equal, 0.0).flatten().float()


def token_weights(lengths: Tensor, how: str, constant: float) -> Tensor:
    """What one token of each completion weighs in the loss; lengths (B,) in tokens -> (B,).

    token      1 / all tokens: every token alike                (DAPO: Yu 2025, arXiv:2503.14476)
    sequence   1 / (B len): every completion alike, so a long wrong one is blamed less (GRPO)
    constant   1 / (B constant): the unbiased policy gradient up to a factor       (Dr. GRPO)
    """
    assert how in AGGREGATIONS, f"aggregation {how!r}"
    lengths = lengths.float()
    if how == "token":
        return torch.ones_like(lengths) / lengths.sum()
    if how == "sequence":
        return 1.0 / (len(lengths) * lengths)
    return torch.full_like(lengths, 1.0 / (len(lengths) * constant))


def clipped(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float,
            clip_high: float) -> Tensor:
    """Where the clip stops the gradient: the ratio has already moved far enough; (M,) bool."""
    ratio = (logprobs - old_logprobs).exp()
    return torch.where(advantages > 0, ratio > 1 + clip_high,
                       (ratio < 1 - clip_low) & (advantages < 0))


def policy_gradient_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor,
                         weights: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """- sum_t w_t min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t), rho = pi / pi_old.

    PPO's objective (Schulman 2017, arXiv:1707.06347, eq. 7) with two bounds (DAPO: a higher upper
    one lets rare tokens grow). All arguments (M,): the counted tokens. While pi is pi_old the
    gradient is REINFORCE's, - sum w A grad log pi.
    """
    assert logprobs.shape == old_logprobs.shape == advantages.shape == weights.shape, "shapes"
    ratio = (logprobs - old_logprobs).exp()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -(weights * torch.minimum(ratio * advantages, bounded * advantages)).sum()


def kl_k3(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(pi || other) from tokens drawn from pi: r - 1 - log r, r = other/pi.

    Unbiased, never negative, and 0 where both agree (Schulman 2020, "Approximating KL divergence",
    estimator k3; the penalty of GRPO, eq. 4).
    """
    log_ratio = other_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio
