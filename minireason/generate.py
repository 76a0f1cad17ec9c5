"""The sampler: batched decoding over a preallocated KV cache.

Each prompt is prefilled once and its cache rows are copied to its N samples; rows that end leave
the batch. A token is the inverse CDF of a uniform number that depends on (seed, row, position)
alone, so neither chunk size nor the other rows of a batch change what a row draws. The logprobs
are those of the distribution sampled from: temperature and truncation included.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minireason.config import UserError
from minireason.fused import by_hand
from minireason.losses import truncate_logits
from minireason.model import KVCache, Transformer
from minireason.optim import autocast
from minireason.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How to draw completions."""

    n: int = 1                    # N samples a prompt
    max_new: int = 64             # tokens a completion at most, <eos> included
    temperature: float = 1.0      # 0 means greedy
    top_k: int = 0                # 0 keeps all
    top_p: float = 1.0            # 1 keeps all
    stop: tuple[int, ...] = ()    # token ids that end a completion, as <eos> always does
    seed: int = 0
    chunk: int = 512              # rows decoded together


@dataclass(frozen=True)
class Samples:
    """Completions of one chunk, in the order prompt 0 sample 0, prompt 0 sample 1, ..."""

    first_row: int                # row = prompt index * N + sample index
    tokens: Tensor                # (B, T) int64, padded on the right
    mask: Tensor                  # (B, T) bool, true where a token was drawn
    logprobs: Tensor              # (B, T) float32, 0 outside the mask

    def texts(self, tokenizer: Tokenizer) -> list[str]:
        """Decoded completions; one that was cut by max_new lacks its <eos>."""
        lengths = self.mask.sum(dim=1).tolist()
        return [tokenizer.decode(row[:length])
                for row, length in zip(self.tokens.tolist(), lengths, strict=True)]


def uniforms(seed: int, rows: np.ndarray, steps: int) -> np.ndarray:
    """(B, steps) uniform numbers in [0, 1) for row numbers (B,): splitmix64 of (seed, row, step).

    Steele 2014, "Fast splittable pseudorandom number generators", figure 15.
    """
    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    golden = np.uint64(0x9E3779B97F4A7C15)
    row = np.asarray(rows, dtype=np.uint64)[:, None]
    step = np.arange(1, steps + 1, dtype=np.uint64)
    base = mix(np.full((1, 1), seed % 2 ** 64, dtype=np.uint64) + golden)
    bits = mix(mix(base + (row + np.uint64(1)) * golden) + step * golden)
    return (bits >> np.uint64(11)) * 2.0 ** -53


def stream(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
           how: Sampling, numbers: list[int] | None = None) -> Iterator[Samples]:
    """Yield the completions of all prompts chunk by chunk; memory is that of one chunk.

    numbers (P,) name the prompts' random streams, 0, 1, 2, ... if not given: a rank that holds
    every second prompt draws for them what one process with all of them draws.
    """
    from minireason.graph_decode import decoder_for  # at call time: it builds on this module
    decoder = decoder_for(model, tokenizer, prompts, how)  # a GPU with our kernels: one graph
    of_prompt = np.arange(len(prompts)) if numbers is None else np.asarray(numbers)
    total = len(prompts) * how.n
    for start in range(0, total, how.chunk):
        stop = min(start + how.chunk, total)
        row = np.arange(start, stop)
        u = uniforms(how.seed, of_prompt[row // how.n] * how.n + row % how.n, how.max_new)
        mine = prompts[start // how.n:(stop - 1) // how.n + 1]
        yield (decoder.run(mine, start, stop, u) if decoder else
               _decode_chunk(model, tokenizer, prompts, how, start, stop, u))


def sample(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
           how: Sampling, numbers: list[int] | None = None) -> list[str]:
    """Completions as text, N consecutive ones a prompt; numbers as for `stream`."""
    return [text for chunk in stream(model, tokenizer, prompts, how, numbers)
            for text in chunk.texts(tokenizer)]


@torch.inference_mode()
def _decode_chunk(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
                  how: Sampling, start: int, stop: int, uniform: np.ndarray) -> Samples:
    """Rows start..stop-1 from prefill to the last <eos>; uniform numbers (B, max_new)."""
    device = model.embedding.weight.device
    rows = stop - start
    first_prompt = start // how.n
    mine = prompts[first_prompt:(stop - 1) // how.n + 1]
    longest = max(map(len, mine))
    max_new = min(how.max_new, model.config.max_len - longest)
    if max_new < 1:
        raise UserError(f"a prompt of {longest} tokens leaves no room in a model of max_len "
                        f"{model.config.max_len}")
    source = torch.arange(start, stop, device=device) // how.n - first_prompt
    shared = by_hand(model.embedding.weight)
    with autocast(device):
        logits, cache = _prefill(model, mine, longest + max_new * (not shared), tokenizer.pad)
        cache.share(source, 0) if shared else cache.keep(source)
        logits = logits[source]                                           # (B, V)
        u = torch.from_numpy(uniform).to(device)
        tokens = torch.full((rows, max_new), tokenizer.pad, device=device)
        logprobs = torch.zeros((rows, max_new), device=device)
        mask = torch.zeros((rows, max_new), dtype=torch.bool, device=device)
        active = torch.arange(rows, device=device)                        # cache row -> row
        alive = torch.ones(rows, dtype=torch.bool, device=device)         # of the cache rows
        ends = torch.tensor([tokenizer.eos, *how.stop], device=device)
        for t in range(max_new):
            drawn, logprob = draw(logits, u[active, t], how)
            tokens[active, t] = drawn.where(alive, tokenizer.pad)
            logprobs[active, t] = logprob.where(alive, 0)
            mask[active, t] = alive
            alive &= (drawn[:, None] != ends).all(dim=1)
            n_alive = int(alive.sum())
            if n_alive == 0 or t + 1 == max_new:
                break
            if n_alive < 0.8 * len(active):
                keep = alive.nonzero().squeeze(1)
                cache.keep(keep)
                active, alive, drawn = active[keep], alive[keep], drawn[keep]
            if shared:
                cache.grow(t + 1)
            logits = model.decode(drawn, cache, span=t + 1 + longest * (not shared))
    return Samples(start, *(x[:, :t + 1].cpu() for x in (tokens, mask, logprobs)))


def _prefill(model: Transformer, prompts: list[list[int]], capacity: int,
             pad: int) -> tuple[Tensor, KVCache]:
    """Next-token logits (P, V) and a cache that holds every prompt once."""
    device = model.embedding.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = max(map(len, prompts))
    tokens = torch.tensor([p + [pad] * (longest - len(p)) for p in prompts], device=device)
    dtype = torch.bfloat16 if device.type == "cuda" else model.embedding.weight.dtype
    cache = KVCache(model.config, len(prompts), capacity, device, dtype)
    hidden = model.hidden(tokens, cache=cache)                            # (P, T, d_model)
    cache.lens.copy_(lengths)
    last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
    return model.logits(last), cache


def draw(logits: Tensor, u: Tensor, how: Sampling) -> tuple[Tensor, Tensor]:
    """Token (B,) and its logprob (B,) under the truncated distribution of logits (B, V)."""
    logits = truncate_logits(logits, how.temperature, how.top_k, how.top_p)
    logprobs = logits.log_softmax(dim=-1)
    if how.temperature == 0:
        token = logits.argmax(dim=-1)
    else:
        cdf = logprobs.double().exp().cumsum(dim=-1)                      # (B, V)
        token = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True).squeeze(1)
        token = token.clamp_max(logits.shape[-1] - 1)
    return token, logprobs.gather(1, token[:, None]).squeeze(1)
