"""Reading values off a critic: P(correct | prefix) at the end of every step of a completion."""

import torch

from minireason.evaluate import prompt_ids
from minireason.model import Transformer
from minireason.optim import autocast
from minireason.problems import Problem
from minireason.tokenizer import Tokenizer

STEP_ENDS = (";", "</think>", "<eos>")   # tokens after which a value is trained and read


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
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    values: list[list[float]] = [[] for _ in rows]
    start = 0
    while start < len(order):
        stop = start + 1
        while (stop < len(order)
               and len(rows[order[stop]][0]) * (stop + 1 - start) <= token_budget):
            stop += 1
        group = order[start:stop]
        longest = len(rows[group[-1]][0])
        tokens = torch.tensor([rows[i][0] + [tokenizer.pad] * (longest - len(rows[i][0]))
                               for i in group], device=device)
        with autocast(device):
            probabilities = critic.values(tokens).float().sigmoid().tolist()
        for i, row in zip(group, probabilities, strict=True):
            ids, first = rows[i]
            values[i] = [row[t] for t in range(first, len(ids)) if ids[t] in ends]
        start = stop
    return values
