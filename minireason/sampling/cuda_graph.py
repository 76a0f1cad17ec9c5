"""The sampler on a GPU: one CUDA graph for every step, and each prompt stored once.

A decoding step of a small model is dozens of kernels that each run for microseconds; launched one
by one they would wait for the host. So everything that changes from step to step lives on the
device (lengths, position, who is still alive), one step is recorded once, and replaying it is a
single call. N samples of a prompt read its keys from one place (Juravsky 2024, arXiv:2402.05099).
The host never waits for the step just queued: it looks at a flag that is CHECK_EVERY steps old.
On a CPU the same step runs directly, through the kernels' emulator: that is how it is tested.
"""

import contextlib
import copy

import numpy as np
import torch
from torch import Tensor, nn

from minireason.core.config import UserError
from minireason.model.attention import Prompt, choose_impl
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import KVCache, Transformer
from minireason.sampling.draws import Samples, Sampling, draw, prefill

CHECK_EVERY = 8                   # steps between two looks at whether any row is still alive


def decoder_for(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
                how: Sampling) -> "GraphDecoder | None":
    """A decoder for all chunks of these prompts, or None where the kernels are not the choice."""
    weight, total = model.embedding.weight, len(prompts) * how.n
    dtype = torch.bfloat16 if weight.device.type == "cuda" else weight.dtype
    impl, _ = choose_impl(model.attention_impl, weight.device, dtype, model.config.head_dim,
                          how.max_new, "decode")
    if impl not in ("cuda", "emulated") or not total:
        return None
    rows = min(how.chunk, total)
    most = min(len(prompts), (rows - 1) // how.n + 2)                     # prompts in one chunk
    return GraphDecoder(model, tokenizer, how, rows, most, max(map(len, prompts)), impl)


class GraphDecoder:
    """Buffers for `rows` rows of at most `prompts` prompts of at most `longest` tokens."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, tokenizer: Tokenizer, how: Sampling, rows: int,
                 prompts: int, longest: int, impl: str):
        self.model, self.how, self.pad = decoding_copy(model, impl), how, tokenizer.pad
        config, device = model.config, model.embedding.weight.device
        dtype = torch.bfloat16 if device.type == "cuda" else model.embedding.weight.dtype
        self.cache = KVCache(config, rows, how.max_new, device, dtype)    # own tokens only
        shape = (config.n_layers, prompts, config.n_kv_heads, longest, config.head_dim)
        self.prompt_k, self.prompt_v = (torch.zeros(shape, device=device, dtype=dtype)
                                        for _ in range(2))
        self.prompt_lens = torch.zeros(prompts, device=device, dtype=torch.long)
        self.source = torch.zeros(rows, device=device, dtype=torch.long)  # (B,) prompt of a row
        self.cache.prompts = [Prompt(k, v, self.prompt_lens, self.source)
                              for k, v in zip(self.prompt_k, self.prompt_v, strict=True)]
        self.logits = torch.zeros(rows, config.vocab_size, device=device, dtype=dtype)
        self.uniform = torch.zeros(rows, how.max_new, device=device, dtype=torch.float64)
        self.tokens = torch.zeros(rows, how.max_new, device=device, dtype=torch.long)
        self.logprobs = torch.zeros(rows, how.max_new, device=device)
        self.mask = torch.zeros(rows, how.max_new, device=device, dtype=torch.bool)
        self.alive = torch.zeros(rows, device=device, dtype=torch.bool)
        self.any_alive = torch.zeros((), device=device, dtype=torch.bool)
        self.t = torch.zeros(1, device=device, dtype=torch.long)          # the next token's index
        self.ends = torch.tensor([tokenizer.eos, *how.stop], device=device)
        self.graph = self._record() if device.type == "cuda" else None

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
        drawn, logprob = draw(self.logits, u, self.how)
        column = self.t.expand(len(drawn), 1)
        for to, value in ((self.tokens, drawn.masked_fill(~self.alive, self.pad)),
                          (self.logprobs, logprob.masked_fill(~self.alive, 0)),
                          (self.mask, self.alive)):
            to.scatter_(1, column, value[:, None])
        self.alive &= (drawn[:, None] != self.ends).all(dim=1)
        self.any_alive.copy_(self.alive.any())
        self.cache.lens.masked_fill_(~self.alive, -1)                     # idle: no work, no append
        with mixed(self.logits):
            self.logits.copy_(self.model.decode(drawn, self.cache))
        self.t += 1

    def _load(self, prompts: list[list[int]], source: np.ndarray, uniform: np.ndarray) -> None:
        """Prefill the prompts and set every buffer to the start of a chunk."""
        rows, steps = uniform.shape
        longest = max(map(len, prompts))
        with mixed(self.logits):
            logits, cache = prefill(self.model, prompts, longest, self.pad)
        self.prompt_k[:, :len(prompts), :, :longest] = cache.k
        self.prompt_v[:, :len(prompts), :, :longest] = cache.v
        self.prompt_lens[:len(prompts)] = cache.lens
        self.source.zero_()
        self.source[:rows] = torch.from_numpy(source).to(self.source.device)
        self.logits[:rows] = logits[self.source[:rows]]
        self.uniform[:rows, :steps] = torch.from_numpy(uniform).to(self.uniform.device)
        self.tokens.fill_(self.pad)
        self.logprobs.zero_(), self.mask.zero_(), self.t.zero_(), self.cache.lens.zero_()
        self.alive.copy_(torch.arange(len(self.alive), device=self.alive.device) < rows)

    @torch.inference_mode()
    def run(self, prompts: list[list[int]], start: int, stop: int, uniform: np.ndarray) -> Samples:
        """Rows start..stop-1, row r continuing prompt r // N of all; prompts: those of these rows.

        uniform (B, max_new): the numbers that generate.stream draws from.
        """
        longest = max(map(len, prompts))
        steps = min(self.how.max_new, self.model.config.max_len - longest)
        if steps < 1:
            raise UserError(f"a prompt of {longest} tokens leaves no room in a model of max_len "
                            f"{self.model.config.max_len}")
        source = np.arange(start, stop) // self.how.n - start // self.how.n
        self._load(prompts, source, uniform[:, :steps])
        flags: list[Flag] = []
        for t in range(steps):
            self.step() if self.graph is None else self.graph.replay()
            if (t + 1) % CHECK_EVERY == 0:
                flags.append(Flag(self.any_alive))
                if len(flags) > 1 and not flags[-2].read():
                    break
        rows = stop - start
        drawn = int(self.mask[:rows].any(dim=0).sum())                    # steps that drew anything
        return Samples(start, *(x[:rows, :drawn].to("cpu", copy=True)     # the next chunk reuses x
                                for x in (self.tokens, self.mask, self.logprobs)))


class Flag:
    """A device boolean on its way to the host; `read` waits for this copy and nothing after it."""

    def __init__(self, value: Tensor):
        self.arrived = None
        if value.device.type == "cuda":
            self.host = torch.empty((), dtype=torch.bool, pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.host = value.clone()

    def read(self) -> bool:
        """The value at the time of the constructor."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return bool(self.host)


def mixed(like: Tensor):
    """bf16 autocast on a GPU, without its cache of cast weights: a graph would keep pointers into
    it after it is freed."""
    if like.device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False)
    return contextlib.nullcontext()


def decoding_copy(model: Transformer, impl: str) -> Transformer:
    """The model with its attention fixed; on a GPU the matrices are cast once, not every step."""
    model = copy.deepcopy(model).requires_grad_(False)
    model.attention_impl = impl
    if model.embedding.weight.device.type == "cuda":
        for module in model.blocks.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(module.weight.bfloat16(), requires_grad=False)
    return model
