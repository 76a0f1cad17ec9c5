"""One draw: how to sample, what comes back, and the numbers and distributions behind a token.

A token is the inverse CDF of a uniform number that depends on (seed, row, position) alone. The
logprobs are those of the distribution sampled from: temperature and truncation included. Both
decoding loops, generate.py's and graph_decode.py's, are made of these parts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import KVCache, Transformer
from minireason.training.losses import truncate_logits


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


def prefill(model: Transformer, prompts: list[list[int]], capacity: int,
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
        cdf = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)          # (B, V)
        token = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True).squeeze(1)
        token = token.clamp_max(logits.shape[-1] - 1)
    return token, logprobs.gather(1, token[:, None]).squeeze(1)
