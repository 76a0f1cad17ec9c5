"""The sampler: batched decoding over KV caches, each prompt prefilled once for all its samples.

Rows that end leave the batch. A token is the inverse CDF of a uniform number that depends on
(seed, row, position) alone, so neither chunk size nor the other rows of a batch change what a row
draws. The logprobs are those of the distribution sampled from: temperature and truncation included.
`decode_chunk` is the plain loop; complete.py starts it, or native.py on a CPU with a compiler, or
cuda_graph.py on a GPU with our kernels, which draw the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minireason.core.config import check_numbers
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer, padded_rows
from minireason.model.transformer import KVCache, Transformer
from minireason.training.losses import truncate_logits
from minireason.training.optim import autocast

MOST_ROWS = 10 ** 8               # completions of one call


@dataclass(frozen=True)
class Sampling:
    """How to draw completions."""

    n: int = 1                    # N samples per prompt
    max_new: int | None = None    # tokens per completion at most, <eos> included; None: the
    #                               family's max_new (complete); never more than a row can hold
    temperature: float = 1.0      # 0 means greedy
    top_k: int = 0                # 0 keeps all
    top_p: float = 1.0            # 1 keeps all
    stop: tuple[int, ...] = ()    # token ids that end a completion, as <eos> always does
    seed: int = 0
    chunk: int = 512              # rows decoded together

    def __post_init__(self):
        check_numbers(self)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: must be above 0 and at most 1")


@dataclass(frozen=True)
class Chunk:
    """B rows to decode together; row = prompt index * N + sample index."""

    first_row: int
    prompts: list[list[int]]      # the P prompts that these rows continue
    source: np.ndarray            # (B,) int64: which of them each row continues
    limits: np.ndarray            # (B,) int64: tokens that each row may draw, at most T
    uniform: np.ndarray           # (B, T) in [0, 1): the numbers to draw from


@dataclass(frozen=True)
class Samples:
    """Completions of one chunk, in the order prompt 0 sample 0, prompt 0 sample 1, ..."""

    first_row: int
    tokens: Tensor                # (B, T) int64, padded on the right
    mask: Tensor                  # (B, T) bool, true where a token was drawn
    logprobs: Tensor              # (B, T) float32, 0 outside the mask

    def texts(self, tokenizer: Tokenizer) -> list[str]:
        """Decoded completions; one that was cut by max_new lacks its <eos>."""
        lengths = self.mask.sum(dim=1).tolist()
        return [tokenizer.decode(row[:length])
                for row, length in zip(self.tokens.tolist(), lengths, strict=True)]


def uniforms(seed: int, rows: np.ndarray, steps: int, starts: np.ndarray | int = 0) -> np.ndarray:
    """(B, steps) uniform numbers in [0, 1) for row numbers (B,): splitmix64 of (seed, row, step).

    starts (B,): the first step of each row. Steele 2014, "Fast splittable pseudorandom number
    generators", figure 15.
    """
    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    golden = np.uint64(0x9E3779B97F4A7C15)
    row = np.asarray(rows, dtype=np.uint64)[:, None]
    first = np.broadcast_to(np.asarray(starts, dtype=np.uint64), len(rows))[:, None]
    step = first + np.arange(1, steps + 1, dtype=np.uint64)
    base = mix(np.full((1, 1), seed % 2 ** 64, dtype=np.uint64) + golden)
    bits = mix(mix(base + (row + np.uint64(1)) * golden) + step * golden)
    return (bits >> np.uint64(11)) * 2.0 ** -53


def row_limits(prompts: list[list[int]], how: Sampling, max_len: int,
               wanted: list[int] | None = None) -> np.ndarray:
    """(P,) tokens that each prompt's completions may have: wanted, or how.max_new, or what fits.

    A limit depends on its own prompt alone, so that no prompt cuts another's completions.
    """
    limits = np.array(wanted or [how.max_new or max_len] * len(prompts), dtype=np.int64)
    limits = np.minimum(limits, [max_len - len(prompt) for prompt in prompts])
    if prompts and limits.min() < 1:
        first = int(limits.argmin())
        raise UserError(f"prompt {first + 1} of {len(prompts)} has {len(prompts[first])} tokens, "
                        f"which leaves no room for an answer in a model of max_len {max_len}")
    return limits


def split_into_chunks(prompts: list[list[int]], how: Sampling, limits: np.ndarray,
                      numbers: list[int] | None = None,
                      starts: list[int] | None = None) -> Iterator[Chunk]:
    """N rows per prompt, how.chunk at a time; limits (P,) as row_limits gives them.

    numbers (P,) name the prompts' random streams, 0, 1, 2, ... if not given, and starts (P,) the
    place in them of the first token drawn, 0 if not given.
    """
    of_prompt = np.arange(len(prompts)) if numbers is None else np.asarray(numbers)
    places = np.zeros(len(prompts), np.int64) if starts is None else np.asarray(starts)
    total = len(prompts) * how.n
    if total > MOST_ROWS:
        raise UserError(f"{len(prompts)} problems with {how.n} samples each are more completions "
                        f"than the {MOST_ROWS} that memory may hold; lower --n")
    for start in range(0, total, how.chunk):
        rows = np.arange(start, min(start + how.chunk, total))
        prompt, sample = np.divmod(rows, how.n)
        mine = prompts[prompt[0]:prompt[-1] + 1]
        u = uniforms(how.seed, of_prompt[prompt] * how.n + sample, limits[prompt].max(),
                     places[prompt])
        yield Chunk(start, mine, prompt - prompt[0], limits[prompt], u)


def prefill(model: Transformer, prompts: list[list[int]], capacity: int,
            pad: int) -> tuple[Tensor, KVCache]:
    """Next-token logits (P, V) and a cache of that capacity that holds every prompt once."""
    device = model.embedding.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens = padded_rows(prompts, pad, device)                            # (P, T)
    cache = KVCache(model, len(prompts), capacity)
    hidden = model.hidden(tokens, cache=cache)                            # (P, T, d_model)
    cache.lens.copy_(lengths)
    last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
    return model.logits(last), cache


def draw_tokens(logits: Tensor, u: Tensor, how: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens (B,) and their logprobs (B,) under the truncated distributions of logits (B, V)."""
    logits = truncate_logits(logits, how.temperature, how.top_k, how.top_p)
    logprobs = logits.log_softmax(dim=-1)
    if how.temperature == 0:
        token = logits.argmax(dim=-1)
    else:
        exact = torch.float32 if u.device.type == "mps" else torch.float64
        cdf = logprobs.exp().cumsum(dim=-1, dtype=exact)                  # (B, V)
        token = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True).squeeze(1)
        token = token.clamp_max(logits.shape[-1] - 1)
    return token, logprobs.gather(1, token[:, None]).squeeze(1)


def to_draw_from(uniform: np.ndarray, device: torch.device) -> Tensor:
    """The uniform numbers on a device, in float64, or in float32 on an Apple GPU, which lacks that.

    There they stay far enough below 1 that no product with a sum in float32 rounds up to the sum.
    """
    u = torch.from_numpy(uniform)
    return u.to(device) if device.type != "mps" else u.clamp_max(1 - 2.0 ** -22).float().to(device)


@torch.inference_mode()
def decode_chunk(model: Transformer, tokenizer: Tokenizer, how: Sampling, chunk: Chunk) -> Samples:
    """All rows of a chunk, from the prefill of their prompts to the last <eos>."""
    device = model.embedding.weight.device
    rows, max_new = chunk.uniform.shape
    longest = max(map(len, chunk.prompts))
    source, limits = (torch.from_numpy(x).to(device) for x in (chunk.source, chunk.limits))
    u = to_draw_from(chunk.uniform, device)
    tokens = torch.full((rows, max_new), tokenizer.pad, device=device)
    logprobs = torch.zeros((rows, max_new), device=device)
    mask = torch.zeros((rows, max_new), dtype=torch.bool, device=device)
    ends = torch.tensor([tokenizer.eos, *how.stop], device=device)
    with autocast(device):
        logits, cache = prefill(model, chunk.prompts, longest + max_new, tokenizer.pad)
        logits = logits[source]                                           # (B, V)
        cache.keep(source)
        active = torch.arange(rows, device=device)           # the row at each place of the cache
        alive = torch.ones_like(active, dtype=torch.bool)    # those that have not ended
        for t in range(max_new):
            drawn, logprob = draw_tokens(logits, u[active, t], how)
            tokens[active, t] = drawn.where(alive, tokenizer.pad)
            logprobs[active, t] = logprob.where(alive, 0)
            mask[active, t] = alive
            alive &= (drawn[:, None] != ends).all(dim=1) & (t + 1 < limits[active])
            n_alive = int(alive.sum())
            if n_alive == 0:
                break
            if n_alive < 0.8 * len(active):                  # copying the cache pays for itself
                keep = alive.nonzero().squeeze(1)
                cache.keep(keep)
                active, alive, drawn = active[keep], alive[keep], drawn[keep]
            cache.lens.masked_fill_(~alive, 0)               # a row that ended writes over itself
            logits = model.decode(drawn, cache, span=longest + t + 1)
    return Samples(chunk.first_row, *(x[:, :t + 1].cpu() for x in (tokens, mask, logprobs)))
