"""Assignment 4: one update of the policy."""

from torch import Tensor


def group_advantages(rewards: Tensor, group_size: int, how: str) -> Tensor:
    """How much better each sample is than its group; (P * G,) -> (P * G,), float32.

    Samples of a prompt stand together.
        reinforce   r - mean(group)
        rloo        r - mean of the other samples of the group    (arXiv:2402.14740)
        grpo        (r - mean) / population standard deviation    (arXiv:2402.03300)
    A group whose rewards are all equal gets exactly 0, whatever rounding says.
    """
    raise NotImplementedError


def token_weights(lengths: Tensor, how: str, constant: float) -> Tensor:
    """What one token of each of B completions weighs; lengths (B,) in tokens -> (B,), float32.

        token      1 / all tokens of the batch                    (DAPO, arXiv:2503.14476)
        sequence   1 / (B * its own length)                       (GRPO)
        constant   1 / (B * constant)                             (Dr. GRPO, arXiv:2503.20783)
    """
    raise NotImplementedError


def policy_gradient_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor,
                         weights: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """- sum of w min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), a scalar.

    rho = pi / pi_old of each token. All arguments (M,), the counted tokens only; a sum, so that the
    losses of micro-batches add up to that of the batch (arXiv:1707.06347, eq. 7, with two bounds).
    """
    raise NotImplementedError
