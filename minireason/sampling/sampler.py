"""The sampler: batched decoding over KV caches, prompts prefilled once for all their samples.

Rows that end leave the batch. A token is the inverse CDF of a uniform number that depends on
(seed, row, position) alone, so neither chunk size nor the other rows of a batch change what a row
draws. The logprobs are those of the distribution sampled from: temperature and truncation included.
One loop, two ways to take a step: Transformer.decode, the plain one, and on a CPU cpu_decode.py,
where each thread decodes its own share of the rows. Two decoders replace the loop: on a CPU with a
compiler native_decode.py, on a GPU with our kernels graph_decode.py.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from minireason.core.config import UserError
from minireason.model.attention import choose_impl
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import KVCache, Transformer
from minireason.sampling.cpu_decode import CpuRows, Weights
from minireason.sampling.cuda_graph import decoder_for
from minireason.sampling.draws import Samples, Sampling, draw, prefill, uniforms
from minireason.sampling.native import native_decoder
from minireason.training.optim import autocast

__all__ = ["Samples", "Sampling", "draw", "sample", "stream", "uniforms"]

ROWS_A_THREAD = 64                # fewer than twice as many are not worth a second thread


def stream(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
           how: Sampling, numbers: list[int] | None = None) -> Iterator[Samples]:
    """Yield the completions of all prompts chunk by chunk; memory is that of one chunk.

    numbers (P,) name the prompts' random streams, 0, 1, 2, ... if not given: a rank that holds
    every second prompt draws for them what one process with all of them draws.
    """
    of_prompt = np.arange(len(prompts)) if numbers is None else np.asarray(numbers)
    total = len(prompts) * how.n

    def work(start: int, stop: int) -> tuple[list[list[int]], int, int, np.ndarray]:
        row = np.arange(start, stop)
        u = uniforms(how.seed, of_prompt[row // how.n] * how.n + row % how.n, how.max_new)
        return prompts[start // how.n:(stop - 1) // how.n + 1], start, stop, u

    chunks = ((start, min(start + how.chunk, total)) for start in range(0, total, how.chunk))
    decoder = (decoder_for(model, tokenizer, prompts, how)   # on a GPU with our kernels
               or native_decoder(model, tokenizer, how))     # on a CPU with a compiler
    if decoder:
        yield from (decoder.run(*work(*chunk)) for chunk in chunks)
        return
    weights = _prepare(model, how)
    for start, stop in chunks:
        parts = _shares(start, stop, how.n, torch.get_num_threads() if weights else 1)
        yield from _in_threads(
            lambda part: _decode_chunk(model, weights, tokenizer, how, *work(*part)), parts)


def sample(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
           how: Sampling, numbers: list[int] | None = None) -> list[str]:
    """Completions as text, N consecutive ones a prompt; numbers as for `stream`."""
    return [text for chunk in stream(model, tokenizer, prompts, how, numbers)
            for text in chunk.texts(tokenizer)]


def _prepare(model: Transformer, how: Sampling) -> Weights | None:
    """The weights as cpu_decode.py wants them, where it is the way to decode."""
    weight, c = model.embedding.weight, model.config
    impl, _ = choose_impl(model.attention_impl, weight.device, weight.dtype, c.head_dim, c.max_len,
                          "decode")
    return Weights(model, min(how.max_new, c.max_len)) if impl == "by hand" else None


def _shares(start: int, stop: int, n: int, threads: int) -> list[tuple[int, int]]:
    """Rows start..stop-1 as one piece a thread, cut between two prompts where one is near."""
    pieces = max(1, min(threads, (stop - start) // ROWS_A_THREAD))
    cuts = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
    if 8 * n <= (stop - start) // pieces:
        cuts[1:-1] = [cut // n * n for cut in cuts[1:-1]]
    return list(pairwise(cuts))


def _in_threads(decode, parts: list[tuple[int, int]]) -> list[Samples]:
    """decode(part) of every part at once, each on one thread of PyTorch's: the operations of a
    small model are too short to be split, the rows are not."""
    if len(parts) == 1:
        return [decode(parts[0])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(decode, parts))
    finally:
        torch.set_num_threads(threads)


class PlainRows:
    """Rows in the middle of decoding, each with its prompt in its own cache."""

    def __init__(self, model: Transformer, cache: KVCache, longest: int):
        self.model, self.cache, self.span = model, cache, longest

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, (B',) indices."""
        self.cache.keep(rows)

    def step(self, tokens: Tensor) -> Tensor:
        """One more token a row, (B,); returns the next logits (B, V)."""
        self.span += 1
        return self.model.decode(tokens, self.cache, span=self.span)


@torch.inference_mode()
def _decode_chunk(model: Transformer, weights: Weights | None, tokenizer: Tokenizer, how: Sampling,
                  prompts: list[list[int]], start: int, stop: int, uniform: np.ndarray) -> Samples:
    """Rows start..stop-1 from the prefill of their prompts to the last <eos>.

    uniform (B, max_new): the numbers they draw from. weights: take the CPU's step.
    """
    device = model.embedding.weight.device
    rows, longest = stop - start, max(map(len, prompts))
    max_new = min(how.max_new, model.config.max_len - longest)
    if max_new < 1:
        raise UserError(f"a prompt of {longest} tokens leaves no room in a model of max_len "
                        f"{model.config.max_len}")
    source = torch.arange(start, stop, device=device) // how.n - start // how.n
    with autocast(device):
        logits, cache = prefill(model, prompts, longest + max_new * (not weights), tokenizer.pad)
        if weights:
            state = CpuRows(weights, cache, source)
        else:
            cache.keep(source)
            state = PlainRows(model, cache, longest)
        logits = logits[source]                                           # (B, V)
        u = torch.from_numpy(uniform).to(device)
        tokens = torch.full((rows, max_new), tokenizer.pad, device=device)
        logprobs = torch.zeros((rows, max_new), device=device)
        mask = torch.zeros((rows, max_new), dtype=torch.bool, device=device)
        active = torch.arange(rows, device=device)                        # row of the state -> row
        alive = torch.ones(rows, dtype=torch.bool, device=device)         # of the state's rows
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
                state.keep(keep)
                active, alive, drawn = active[keep], alive[keep], drawn[keep]
            logits = state.step(drawn)
    return Samples(start, *(x[:, :t + 1].cpu() for x in (tokens, mask, logprobs)))
