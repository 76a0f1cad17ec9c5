"""The sampler: batched decoding over a preallocated KV cache.

Each prompt is prefilled once and its cache rows are copied to its N samples; rows that end leave
the batch. A token is the inverse CDF of a uniform number that depends on (seed, row, position)
alone, so neither chunk size nor the other rows of a batch change what a row draws. The logprobs
are those of the distribution sampled from: temperature and truncation included.
"""

from collections.abc import Iterator

import numpy as np
import torch

from minireason.config import UserError
from minireason.fused import by_hand
from minireason.graph_decode import decoder_for
from minireason.model import Transformer
from minireason.optim import autocast
from minireason.sampling import Samples, Sampling, draw, prefill, uniforms
from minireason.tokenizer import Tokenizer

__all__ = ["Samples", "Sampling", "draw", "sample", "stream", "uniforms"]


def stream(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
           how: Sampling, numbers: list[int] | None = None) -> Iterator[Samples]:
    """Yield the completions of all prompts chunk by chunk; memory is that of one chunk.

    numbers (P,) name the prompts' random streams, 0, 1, 2, ... if not given: a rank that holds
    every second prompt draws for them what one process with all of them draws.
    """
    decoder = decoder_for(model, tokenizer, prompts, how)    # on a GPU with our kernels
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
        logits, cache = prefill(model, mine, longest + max_new * (not shared), tokenizer.pad)
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
