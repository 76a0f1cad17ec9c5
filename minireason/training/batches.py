"""Batch: token rows with their loss mask, cut into micro-batches of similar length.

Rows are packed end to end, so that no product is spent on padding; `packed=False` is the plain
form, rectangles padded on the right. Sorting by length keeps the rows of a batch alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import numpy as np
import torch
from torch import Tensor

from minireason.core import parallel
from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer, padded_rows
from minireason.problems import Family, sample_levels
from minireason.problems.corpus import Mixture, corpus_lines

# tokens, index of the first one that counts, indexes of later ones that do not
Row = tuple[list[int], int, *tuple[int, ...]]


@dataclass(frozen=True)
class Batch:
    """Next-token prediction: inputs, targets and loss_mask are (B, T), or (N,) if packed."""

    inputs: Tensor
    targets: Tensor
    loss_mask: Tensor             # float, 1 where the target counts
    cu_seqlens: Tensor | None = None
    max_len: int = 0              # of packed rows
    groups: Tensor | None = None  # of packed rows that share prompts: see pack_groups

    def to(self, device: torch.device) -> Self:
        """The batch with all its tensors on a device."""
        moved = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                if device.type == "cuda" and value.is_cpu:
                    value = value.pin_memory()     # else the copy waits for all that is queued
                moved[name] = value.to(device, non_blocking=True)
        return replace(self, **moved)


def encode_lines(tokenizer: Tokenizer, prompts: list[str],
                 completions: list[str]) -> list[Row]:
    """Rows of `<bos>` + prompt + completion, each with the index of its first counted token.

    Without a prompt every token counts. Prompt and completion are encoded apart, so a number
    never spans their border.
    """
    heads = tokenizer.encode_batch(["<bos>" + prompt for prompt in prompts])
    tails = tokenizer.encode_batch(completions)
    return [(head + tail, len(head)) for head, tail in zip(heads, tails, strict=True)]


def check_longest(max_len: int, tokenizer: Tokenizer, family: Family, level: int = 0,
                  mixture: Mixture | None = None) -> None:
    """UserError before the first step if text of the highest level has more than max_len tokens.

    Looked at: a hundred worked problems of that level, and of each kind of the mixture's lines.
    """
    texts: dict[str, list[str]] = {}
    if level:
        problems = sample_levels(family, rng(0, "longest problems"), (level, level), 100)
        texts[f"--max-level {level}"] = [p.prompt + family.render(p, "cot") for p in problems]
    if mixture:
        lines = texts[f"the mixture of levels up to {mixture.max_level}"] = []
        hardest = replace(mixture, min_level=mixture.max_level, common_level=mixture.max_level)
        worked = 1 - mixture.facts - mixture.direct
        for share, facts, direct in ((mixture.facts, 1, 0), (mixture.direct, 0, 1), (worked, 0, 0)):
            if share > 1e-9:
                lines += corpus_lines(replace(hardest, facts=facts, direct=direct), family,
                                      rng(0, "longest lines"), 100)
    for what, lines in texts.items():
        longest = max(map(len, tokenizer.encode_batch([f"<bos>{line}" for line in lines])))
        if longest > max_len:
            raise UserError(f"{what}: has lines of {longest} tokens, longer than the model's "
                            f"max_len {max_len}; lower the level, or pretrain with a larger "
                            "--max-len")


def rows_before(mean: float, step: int) -> int:
    """Rows of all steps before one, where a step has `mean` on average, and one at least."""
    return int(max(1.0, mean) * step + 1e-9)


def micro_batches(rows: list[Row], token_budget: int, pad: int,
                  packed: bool = True, mine: slice | None = None) -> tuple[list[Batch], int]:
    """This rank's rows in batches of at most `token_budget` tokens, and the GLOBAL token count.

    The count covers all rows of all ranks, so that every rank divides its summed loss by the same
    number. mine: this rank's rows, for a process that is none (ahead.py).
    """
    count = sum(len(tokens) - max(first, 1) - len(skipped) for tokens, first, *skipped in rows)
    own = sorted(rows[mine] if mine else parallel.share(rows), key=lambda row: len(row[0]))
    make = pack if packed else pad_right
    parts = within_budget([len(row[0]) - 1 for row in own], token_budget, packed)
    return [make(own[part], pad) for part in parts], count


def within_budget(lengths: list[int], token_budget: int, packed: bool) -> Iterator[slice]:
    """Consecutive rows of at most token_budget tokens, or a single one; padded if not packed."""
    start = total = longest = 0
    for i, length in enumerate(lengths):
        total, longest = total + length, max(longest, length)
        if start < i and token_budget < (total if packed else longest * (i + 1 - start)):
            yield slice(start, i)
            start, total, longest = i, length, length
    if lengths:
        yield slice(start, len(lengths))


def pad_right(rows: list[Row], pad: int) -> Batch:
    """Rectangular batch; padding neither counts nor is seen by any counted token."""
    data = padded_rows([row[0] for row in rows], pad)
    mask = torch.zeros(data.shape)                                        # of each token
    for i, (tokens, first, *skipped) in enumerate(rows):
        mask[i, first:len(tokens)] = 1
        mask[i, skipped] = 0
    return Batch(data[:, :-1].contiguous(), data[:, 1:].contiguous(), mask[:, 1:].contiguous())


def pack(rows: list[Row], pad: int) -> Batch:
    """The same rows end to end, without padding; `pad` is unused."""
    lengths = np.array([len(row[0]) for row in rows])
    ends = lengths.cumsum()
    starts = ends - lengths
    tokens = np.fromiter(chain.from_iterable(row[0] for row in rows), np.int64, ends[-1])
    counts = np.arange(len(tokens)) >= np.repeat(starts + [row[1] for row in rows], lengths)
    counts[[start + i for start, row in zip(starts, rows, strict=True) for i in row[2:]]] = False
    inputs, targets = np.delete(tokens, ends - 1), np.delete(tokens, starts)
    cu_seqlens = np.append(0, np.cumsum(lengths - 1)).astype(np.int32)
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets),
                 torch.from_numpy(np.delete(counts, starts).astype(np.float32)),
                 torch.from_numpy(cu_seqlens), int(lengths.max()) - 1)


def pack_groups(groups: list[list[Row]], pad: int) -> Batch:
    """Rows of equal prompts, with each prompt read once: what stands before its last token.

    tokens[:first] is the same in all rows of a group. A row begins with the prompt's last token,
    which predicts its first own one; its prompt is a row of its own, of which nothing counts.
    """
    parts, starts = [], [0]
    for rows in groups:
        prompt, first, *_ = rows[0]
        assert first > 1, "a prompt of one token has nothing to share"
        parts.append((prompt[:first], len(prompt)))               # no index is as high: none counts
        parts += [(tokens[first - 1:], 1) for tokens, *_ in rows]
        starts.append(len(parts))
    longest = max(len(row[0]) for rows in groups for row in rows) - 1
    return replace(pack(parts, pad), max_len=longest, groups=torch.tensor(starts,
                                                                          dtype=torch.int32))
