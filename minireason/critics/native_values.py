"""A critic's values as native.cpp reads them: what rows begin with alike is read once.

Where that does not pay, or there is no compiler, value_head.py reads whole rows by PyTorch. beta is
the weight of a thought's likelihood (Critic.judge).
"""

import torch
from torch import Tensor

from minireason.model.tokenizer import OPENERS
from minireason.sampling.native import NativeDecoder
from minireason.training.batches import Row


@torch.inference_mode()
def remembered_values(decoder: NativeDecoder, beta: Tensor, prefixes: list[list[int]],
                      token_budget: int) -> list[float]:
    """P(correct | prefix) at the last token of each row, by a decoder with a memory."""
    most, found = max(1, token_budget // max(map(len, prefixes))), []
    for part in (prefixes[i:i + most] for i in range(0, len(prefixes), most)):
        values, likelihoods = decoder.read(part)
        thoughts = [sum(read[opener_at(row) + 1:])
                    for row, read in zip(part, likelihoods, strict=True)]
        found += (values + beta * torch.tensor(thoughts)).sigmoid().tolist()
    return found


@torch.inference_mode()
def followed_values(decoder: NativeDecoder, beta: Tensor, rows: list[Row],
                    chunk: int = 1024) -> list[list[float]]:
    """P(correct | prefix) behind the opener and each token after it, as token_values has it."""
    found = []
    for part in (rows[i:i + chunk] for i in range(0, len(rows), chunk)):
        heads = [tuple(tokens[:first - 1]) for tokens, first in part]
        number = {head: i for i, head in enumerate(dict.fromkeys(heads))}
        values, logprobs = decoder.follow([[*head] for head in number],
                                          [number[head] for head in heads],
                                          [tokens[first - 1:] for tokens, first in part])
        for i, (tokens, first) in enumerate(part):
            logprobs[i, :max(0, opener_at(tokens) - first + 2)] = 0    # outside the thought
        logits = values + beta * logprobs.cumsum(dim=1)
        found += [row[:len(tokens) - first + 1] for (tokens, first), row in zip(
            part, logits.sigmoid().tolist(), strict=True)]
    return found


def opener_at(row: list[int]) -> int:
    """Where the first opener of a token row stands; its length if there is none."""
    return next((i for i, token in enumerate(row) if token in OPENERS), len(row))
