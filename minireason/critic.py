"""Reading values off a critic: P(correct | prefix) at the end of every step of a completion."""

import math

import torch

from minireason.config import UserError
from minireason.evaluate import prompt_ids
from minireason.model import Transformer
from minireason.optim import autocast
from minireason.problems import Problem
from minireason.tokenizer import Tokenizer

STEP_ENDS = (";", "</think>", "<eos>")   # tokens after which a value is trained and read
AGGREGATIONS = ("last", "min", "product")


def aggregate(values: list[float], how: str) -> float:
    """One score of a completion from its step values; 0 if it has none.

    last: the final verdict; min: the weakest step (Math-Shepherd); product: P(every step right) if
    steps fail independently (Lightman 2023, section 2.4).
    """
    if how not in AGGREGATIONS:
        raise UserError(f"aggregation {how!r}: must be one of {', '.join(AGGREGATIONS)}")
    if not values:
        return 0.0
    return {"last": values[-1], "min": min(values), "product": math.prod(values)}[how]


def rollout_ids(tokenizer: Tokenizer, problems: list[Problem], completions: list[str],
                style: str = "cot") -> list[tuple[list[int], int]]:
    """Whole rows (prompt, opener, completion) with the index of the first token after the opener.

    completions include their opener, as `evaluate.complete` returns them.
    """
    heads = prompt_ids(tokenizer, problems, style)
    tails = tokenizer.encode_batch(completions)
    return [(head + tail[1:], len(head)) for head, tail in zip(heads, tails, strict=True)]


@torch.inference_mode()
def step_values(critic: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                completions: list[str], token_budget: int = 8192) -> list[list[float]]:
    """P(correct | prefix) after each step end of each completion; [] if there is none."""
    ends = set(tokenizer.ids_of(*STEP_ENDS))
    device = critic.embedding.weight.device
    rows = rollout_ids(tokenizer, problems, completions)
    values: list[list[float]] = [[] for _ in rows]
    for group in length_groups([len(ids) for ids, _ in rows], token_budget):
        tokens = _padded([rows[i][0] for i in group], tokenizer.pad, device)
        with autocast(device):
            probabilities = critic.values(tokens).float().sigmoid().tolist()
        for i, row in zip(group, probabilities, strict=True):
            ids, first = rows[i]
            values[i] = [row[t] for t in range(first, len(ids)) if ids[t] in ends]
    return values


@torch.inference_mode()
def prefix_values(critic: Transformer, tokenizer: Tokenizer, prefixes: list[list[int]],
                  token_budget: int = 8192) -> list[float]:
    """P(correct | prefix) at the last token of each token row, prompt and opener included."""
    device = critic.embedding.weight.device
    values = [0.0] * len(prefixes)
    for group in length_groups([len(ids) for ids in prefixes], token_budget):
        tokens = _padded([prefixes[i] for i in group], tokenizer.pad, device)
        last = torch.tensor([[len(prefixes[i]) - 1] for i in group], device=device)
        with autocast(device):
            logits = critic.values(tokens).gather(1, last).squeeze(1)     # (B,)
        for i, value in zip(group, logits.float().sigmoid().tolist(), strict=True):
            values[i] = value
    return values


def length_groups(lengths: list[int], token_budget: int) -> list[list[int]]:
    """Indices by ascending length, cut where a padded batch would exceed the budget in tokens."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not groups or lengths[i] * (len(groups[-1]) + 1) > token_budget:
            groups.append([])
        groups[-1].append(i)
    return groups


def _padded(rows: list[list[int]], pad: int, device: torch.device) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
