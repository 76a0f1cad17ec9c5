"""Pure tensor maths: what is minimised, and nothing else.

Every loss is a SUM over counted tokens divided by a count that the caller gives, the count of the
whole step over all micro-batches and ranks; so splitting a batch leaves its gradient as it was.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
