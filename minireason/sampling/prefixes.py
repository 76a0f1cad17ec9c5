"""What a model has read it does not read again: the keys and values of prefixes, for one search.

A search draws steps after a prefix, has them valued, and returns to draw after those. Read anew
each time, a prefix of forty tokens costs several times what a step of six does. Inside
`remembered()` native.cpp keeps the keys and values of every token of every row, in a tree of
tokens, and begins where a row leaves what is known. FLOPs count each prefix once, even where
PyTorch does the work and reads it again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minireason.model.transformer import Transformer
from minireason.sampling.sampler import Chunk, Samples

MOST_BYTES = 2 ** 28              # of one model's keys and values; what is beyond is read again


class Token:
    """A token at the end of one prefix."""

    __slots__ = ("address", "after", "likelihood", "numbers")

    def __init__(self):
        self.after: dict[int, Token] = {}
        self.numbers: np.ndarray | None = None       # keys and values of the tokens kept with it
        self.address = 0                             # of its own among them; 0: not kept
        self.likelihood: float | None = None         # log p of the token, once a critic read it


class Prefixes:
    """All that one model has read."""

    def __init__(self, model: Transformer):
        c = model.config
        self.size = 2 * c.n_layers * c.n_kv_heads * c.head_dim       # numbers of a token
        self.left = MOST_BYTES // (4 * self.size)                    # tokens that may yet be kept
        self.start, self.tokens = Token(), 0                         # tokens: in the tree
        self.paths: dict[tuple[int, ...], list[Token]] = {}          # of rows that were asked for
        self.decoder: Any = None  # with the model's weights as native.cpp reads them

    def path(self, row: Sequence[int]) -> list[Token]:
        """The tokens of a row in the tree; what is new there is added."""
        key = tuple(row)
        if key not in self.paths:
            place, found = self.start, []
            for token in key:
                if token not in place.after:
                    place.after[token] = Token()
                    self.tokens += 1
                place = place.after[token]
                found.append(place)
            self.paths[key] = found
        return self.paths[key]

    def unread(self, rows: list[list[int]]) -> int:
        """How many tokens of the rows have not been read before, nor in an earlier row of them."""
        before = self.tokens
        for row in rows:
            self.path(row)
        return self.tokens - before

    def keep(self, path: list[Token], numbers: np.ndarray) -> None:
        """Keys and values (n, size) of tokens of the tree, copied where there are none yet."""
        new = [i for i, token in enumerate(path) if not token.address]
        if new and len(new) <= self.left:
            self.left -= len(new)
            kept = numbers[new]
            start = kept.ctypes.data
            for i, place in enumerate(new):
                path[place].numbers, path[place].address = kept, start + i * 4 * self.size

    def learn(self, chunk: Chunk, samples: Samples, numbers: np.ndarray | None) -> None:
        """The drawn tokens, and (B, T, size) the keys and values of all but each row's last."""
        lengths = samples.mask.sum(dim=1).tolist()
        for i, (row, length) in enumerate(zip(samples.tokens.tolist(), lengths, strict=True)):
            prompt = chunk.prompts[chunk.source[i]]
            if (*prompt, *row[:length]) in self.paths:
                continue
            path = self.path(prompt + row[:length])
            if numbers is not None:
                self.keep(path[len(prompt):-1], numbers[i])


def known_of(path: list[Token], reads: bool) -> list[int]:
    """Addresses of the first tokens' keys and values, 0 from where they are to be read.

    The last token is, for what follows it; and so is, where likelihoods are asked for, every one
    whose next has none.
    """
    known = [token.address for token in path[:-1]] + [0]
    first = known.index(0)
    if reads:
        lacking = (i for i, token in enumerate(path[1:]) if token.likelihood is None)
        first = min(first, next(lacking, len(path) - 1))
    return known[:first] + [0] * (len(path) - first)


_memories: ContextVar[dict[Transformer, Prefixes] | None] = ContextVar("memories", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, every model remembers what it has read; no weights may change meanwhile."""
    memories: dict[Transformer, Prefixes] = {}
    before = _memories.set(memories)
    try:
        yield
    finally:
        _memories.reset(before)
        for memory in memories.values():
            memory.decoder = None                    # which holds the memory: both are freed now


def memory_of(model: Transformer) -> Prefixes | None:
    """What a model has read, inside `remembered()`."""
    memories = _memories.get()
    if memories is not None and model not in memories:
        memories[model] = Prefixes(model)
    return None if memories is None else memories[model]


def unread(model: Transformer, rows: list[list[int]]) -> int:
    """How many tokens of the rows a model has to read."""
    memory = memory_of(model)
    return memory.unread(rows) if memory else sum(map(len, rows))
