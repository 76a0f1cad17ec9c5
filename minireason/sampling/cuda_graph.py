"""The sampler on a GPU: one CUDA graph for every step, and each prompt stored once.

A decoding step of a small model is dozens of kernels that each run for microseconds; launched one
by one they would wait for the host. So everything that changes from step to step lives on the
device (lengths, position, who is still alive), one step is recorded once, and replaying it is a
single call, and kept for later calls of the same model and room. N samples of a prompt read its
keys from one place (Juravsky 2024, arXiv:2402.05099). The host never waits for the step just
queued: it looks at a flag that is CHECK_EVERY steps old.
On a CPU the same step runs directly, through the kernels' emulator: that is how it is tested.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from minireason.model.backends import KERNELS, choose_impl
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import KVCache, Transformer
from minireason.sampling.sampler import Chunk, Samples, Sampling, draw_tokens, prefill

CHECK_EVERY = 8                   # steps between two looks at whether any row is still alive
KEPT = 2                          # decoders per model: of the last calls, for those like them
_kept: WeakKeyDictionary[Transformer, dict[tuple, "GraphDecoder"]] = WeakKeyDictionary()


def graph_decoder(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
                  how: Sampling, limits: np.ndarray) -> "GraphDecoder | None":
    """A decoder for all chunks of these prompts, or None where the kernels are not the choice."""
    if not prompts:
        return None
    weight, most = model.embedding.weight, int(limits.max())
    dtype = torch.bfloat16 if weight.is_cuda else weight.dtype
    longest = min(model.config.max_len, most + max(map(len, prompts)))    # as it was measured
    impl, _ = choose_impl(model.attention_impl, weight.device, dtype, model.config.head_dim,
                          longest, "decode")
    if impl not in KERNELS:
        return None
    room, kept = room_for(prompts, how, most, model.config.max_len), _kept.setdefault(model, {})
    recorded = replace(how, n=1, max_new=None, seed=0, chunk=1)           # what a step draws by
    key = (impl, weight.device, weight.dtype, tokenizer.pad, tokenizer.eos, room, recorded)
    decoder = kept.pop(key, None)
    if decoder:
        decoder.read_weights(model)
    else:
        while len(kept) >= KEPT:                                          # the longest unused
            del kept[next(iter(kept))]
        decoder = GraphDecoder(model, tokenizer, how, room, impl)
    kept[key] = decoder
    return decoder


class Room(NamedTuple):
    """What the buffers of a decoder hold."""

    rows: int
    prompts: int                  # of one chunk
    longest: int                  # prompt
    max_new: int


def room_for(prompts: list[list[int]], how: Sampling, max_new: int, max_len: int) -> Room:
    """Room for any chunk of these prompts; tokens in steps of 32, for calls that are alike."""
    rows = min(how.chunk, len(prompts) * how.n)
    longest, own = (min(max_len, -(-n // 32) * 32) for n in (max(map(len, prompts)), max_new))
    return Room(rows, min(len(prompts), (rows - 1) // how.n + 2), longest, own)


class GraphDecoder:
    """Buffers for chunks, and one step over them as a graph."""

    NAME = "CUDA graph"

    @torch.inference_mode()
    def __init__(self, model: Transformer, tokenizer: Tokenizer, how: Sampling, room: Room,
                 impl: str):
        self.model, self.how, self.pad = decoding_copy(model, impl), how, tokenizer.pad
        rows, max_new = room.rows, room.max_new
        self.cache = KVCache(model, rows, max_new)                        # own tokens only
        self.prompts = KVCache(model, room.prompts, room.longest)         # each stored once
        zeros = functools.partial(torch.zeros, device=self.cache.lens.device)
        self.source = zeros(rows, dtype=torch.long)                       # (B,) prompt of a row
        self.limits = zeros(rows, dtype=torch.long)                       # (B,) tokens at most
        self.cache.prompts = [(k, v, self.prompts.lens, self.source) for k, v in self.prompts.kv]
        self.logits = zeros(rows, model.config.vocab_size, dtype=self.cache.kv.dtype)
        self.uniform = zeros(rows, max_new, dtype=torch.float64)
        self.tokens = zeros(rows, max_new, dtype=torch.long)
        self.logprobs = zeros(rows, max_new)
        self.mask = zeros(rows, max_new, dtype=torch.bool)
        self.alive = zeros(rows, dtype=torch.bool)
        self.any_alive = zeros((), dtype=torch.bool)
        self.t = zeros(1, dtype=torch.long)                               # the next token's index
        self.ends = torch.tensor([tokenizer.eos, *how.stop], device=self.t.device)
        # without autocast's cache of cast weights: a graph would keep pointers into freed memory
        self.autocast = functools.partial(torch.autocast, self.t.device.type, torch.bfloat16,
                                          self.t.is_cuda, cache_enabled=False)
        self.graph = self._record() if self.t.is_cuda else None

    @torch.inference_mode()
    def read_weights(self, model: Transformer) -> None:
        """Copy the model's weights to where the graph reads them."""
        for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
            own.copy_(new)

    def _record(self) -> torch.cuda.CUDAGraph:
        """One step as a graph. Warmed up on another stream first, as capturing demands; no row is
        alive yet, so nothing but `t` moves."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.t.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.t.zero_()
        with torch.cuda.graph(graph):
            self.step()
        return graph

    def step(self) -> None:
        """Draw a token for every living row, then decode it; no number reaches the host."""
        u = self.uniform.index_select(1, self.t).squeeze(1)               # (B,)
        drawn, logprob = draw_tokens(self.logits, u, self.how)
        at = self.t.expand(len(drawn), 1)
        self.tokens.scatter_(1, at, drawn.masked_fill(~self.alive, self.pad)[:, None])
        self.logprobs.scatter_(1, at, logprob.masked_fill(~self.alive, 0)[:, None])
        self.mask.scatter_(1, at, self.alive[:, None])
        self.alive &= (drawn[:, None] != self.ends).all(dim=1) & (self.t + 1 < self.limits)
        self.any_alive.copy_(self.alive.any())
        self.cache.lens.masked_fill_(~self.alive, -1)                     # idle: no work, no append
        with self.autocast():
            self.logits.copy_(self.model.decode(drawn, self.cache))
        self.t += 1

    def _load(self, chunk: Chunk) -> None:
        """Prefill the prompts and set every buffer to the start of a chunk."""
        rows, steps = chunk.uniform.shape
        n, longest = len(chunk.prompts), max(map(len, chunk.prompts))
        with self.autocast():
            logits, cache = prefill(self.model, chunk.prompts, longest, self.pad)
        self.prompts.kv[:, :, :n, :, :longest] = cache.kv
        self.prompts.lens[:n] = cache.lens
        self.source.zero_()
        self.source[:rows] = torch.from_numpy(chunk.source)
        self.limits[:rows] = torch.from_numpy(chunk.limits)
        self.logits[:rows] = logits[self.source[:rows]]
        self.uniform[:rows, :steps] = torch.from_numpy(chunk.uniform)
        self.tokens.fill_(self.pad)
        for buffer in (self.logprobs, self.mask, self.t, self.cache.lens):
            buffer.zero_()
        self.alive.copy_(torch.arange(len(self.alive), device=self.alive.device) < rows)

    @torch.inference_mode()
    def run(self, chunk: Chunk) -> Samples:
        """Decode all rows of a chunk."""
        self._load(chunk)
        rows, steps = chunk.uniform.shape
        flags = []
        for t in range(steps):
            self.step() if self.graph is None else self.graph.replay()
            if (t + 1) % CHECK_EVERY == 0:
                flags.append(flag_to_host(self.any_alive))
                if len(flags) > 1 and not flags[-2]():
                    break
        drawn = int(self.mask[:rows].any(dim=0).sum())                    # steps that drew anything
        return Samples(chunk.first_row, *(x[:rows, :drawn].to("cpu", copy=True)
                                          for x in (self.tokens, self.mask, self.logprobs)))


def flag_to_host(value: Tensor) -> Callable[[], bool]:
    """A device boolean on its way to the host; the result waits for this copy and nothing later."""
    if value.is_cpu:
        return value.clone().__bool__
    host = torch.empty((), dtype=torch.bool, pin_memory=True)
    host.copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> bool:
        arrived.synchronize()
        return bool(host)
    return read


def decoding_copy(model: Transformer, impl: str) -> Transformer:
    """The model with its attention fixed; on a GPU the matrices are cast once, not every step."""
    model = copy.deepcopy(model).requires_grad_(False)
    model.attention_impl = impl
    if model.embedding.weight.device.type == "cuda":
        for module in model.blocks.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(module.weight.bfloat16(), requires_grad=False)
    return model
