"""The sampler's whole loop on a CPU in one call of C++: native.cpp, built with g++ when first used.

PyTorch leaves a small model's time between the matrix products: dozens of operations per token,
each walking over memory. native.cpp keeps a token's numbers near the core from the embedding to
the draw. Only the form of the weights is made here: panels of columns, RMSNorm's gains in them;
where MINIREASON_DECODE is bf16, rounded to bfloat16, as the vectors that they multiply then are.
"""

import copy
import ctypes
import functools
import os
import sys
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minireason.core.compiled import choose, load
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer, padded_rows
from minireason.model.transformer import Transformer
from minireason.sampling.panels import of_shape, paired, panels
from minireason.sampling.prefixes import Prefixes, known_of, memory_of
from minireason.sampling.sampler import Chunk, Samples, Sampling

SOURCE = Path(__file__).with_name("native.cpp")
BLOCK, LARGE_BLOCK = 16, 48       # paths a thread decodes at a time; of a large model
LARGE = 10_000_000                # bytes of its matrices: read from memory for every block
ROWS_A_THREAD = 16                # fewer than twice as many are not worth a second thread


@functools.cache
def choose_decoder(asked: str) -> str:
    """"native", "bf16" or "torch" for MINIREASON_DECODE; says which and why, once per process."""
    name, why = decoder_choice(asked)
    tqdm.write(f"[sampler] decoding on the CPU by {name}: {why}", file=sys.stderr)
    return name


def decoder_choice(asked: str) -> tuple[str, str]:
    """Who decodes on a CPU for MINIREASON_DECODE, and why; UserError if it cannot."""
    return choose("MINIREASON_DECODE", asked, "decoder", library, "bf16")


@functools.cache
def library(source: Path = SOURCE, *more_flags: str) -> ctypes.CDLL:
    """native.cpp, built for this processor."""
    return load("decode", source, ("panel_width", "decode_rows"), *more_flags)


class Job(ctypes.Structure):
    """A chunk of rows to decode, as in native.cpp."""

    POINTERS = ("layers", "embedding", "unembedding", "cos", "sin", "prompt_tokens",
                "prompt_starts", "source", "limits", "uniform", "ends", "tokens", "logprobs",
                "lengths")
    OPTIONAL = ("known", "fresh", "drawn", "likelihoods", "values", "row_values")
    INTEGERS = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size",
                "max_len", "prompts", "longest", "rows", "max_new", "n_ends", "top_k", "threads",
                "block", "value_columns", "bf16")
    NUMBERS = ("norm_eps", "temperature", "top_p")
    _fields_ = [*((name, ctypes.c_void_p) for name in POINTERS + OPTIONAL),
                *((name, ctypes.c_int64) for name in INTEGERS),
                *((name, ctypes.c_double) for name in NUMBERS)]


def native_decoder(model: Transformer, tokenizer: Tokenizer,
                   how: Sampling) -> "NativeDecoder | None":
    """A decoder for all chunks of a call, or None where PyTorch is to decode."""
    weight, asked = model.embedding.weight, os.environ.get("MINIREASON_DECODE", "auto")
    fits = model.attention_impl == "auto" and weight.is_cpu and weight.dtype == torch.float32
    if not fits or choose_decoder(asked) == "torch":
        return None
    memory = memory_of(model)
    if memory is None:
        return NativeDecoder(model, tokenizer, how)
    if memory.decoder is None or memory.decoder.bf16 != (choose_decoder(asked) == "bf16"):
        memory.decoder = NativeDecoder(model, tokenizer, how, memory)
    decoder = copy.copy(memory.decoder)       # of one call, for a generator may wait in another
    decoder.how = how
    return decoder


class NativeDecoder:
    """A model's weights prepared for native.cpp, and how to sample.

    Made anew for every call, but with a memory (prefixes.py) for all calls of a search.
    """

    NAME = "native"

    @torch.inference_mode()
    def __init__(self, model: Transformer, tokenizer: Tokenizer, how: Sampling,
                 memory: Prefixes | None = None):
        self.config, self.how, self.memory = model.config, how, memory
        self.pad, self.eos = tokenizer.pad, tokenizer.eos
        self.drawn: np.ndarray | None = None      # (B, T, size): the last chunk's keys and values
        self.bf16 = os.environ.get("MINIREASON_DECODE") == "bf16"
        c, width = model.config, library().panel_width()

        def pack(matrix: Tensor) -> Tensor:
            lines = panels(matrix, width)
            return paired(lines) if self.bf16 else lines

        wide = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim
        self.layers = []          # six tensors each, in the order of native.cpp's Layer
        for block in model.blocks:
            gate, up = of_shape(block.gate_up.weight * block.mlp_norm, 2 * c.d_ff,
                                c.d_model).chunk(2)
            self.layers.append((
                pack(of_shape(block.qkv.weight * block.attention_norm, wide, c.d_model)),
                pack(of_shape(block.out.weight, c.d_model, c.n_heads * c.head_dim)),
                torch.cat((pack(gate), pack(up))),
                pack(of_shape(block.down.weight, c.d_model, c.d_ff)),
                of_shape(block.q_gain * c.head_dim ** -0.5, c.head_dim),
                of_shape(block.k_gain, c.head_dim)))
        size = sum(tensor.nbytes for layer in self.layers for tensor in layer)
        self.block = BLOCK if size < LARGE else LARGE_BLOCK
        unembedding = (model.embedding if model.unembedding is None else model.unembedding).weight
        columns = [of_shape(unembedding * model.final_norm, c.vocab_size, c.d_model)]
        head = getattr(model, "value", None)      # a critic's, read behind the vocabulary
        if head is not None:
            columns.append(of_shape(head.weight * model.final_norm, 1, c.d_model))
        self.weights = {
            "layers": torch.tensor([[x.data_ptr() for x in layer] for layer in self.layers]),
            "embedding": of_shape(model.embedding.weight, c.vocab_size, c.d_model),
            "unembedding": pack(torch.cat(columns)),
            "cos": of_shape(model.cos, c.max_len, c.head_dim // 2),
            "sin": of_shape(model.sin, c.max_len, c.head_dim // 2)}

    def run(self, chunk: Chunk) -> Samples:
        """Decode all rows of a chunk."""
        rows, max_new = chunk.uniform.shape
        tokens, logprobs = torch.full((rows, max_new), self.pad), torch.zeros(rows, max_new)
        lengths, more = torch.zeros(rows, dtype=torch.long), {}
        if self.memory:
            more["drawn"] = torch.empty(rows, max_new, self.memory.size)
            self.drawn = more["drawn"].numpy()
        self._call(chunk, tokens=tokens, logprobs=logprobs, lengths=lengths, **more)
        steps = int(lengths.max())
        mask = torch.arange(steps) < lengths[:, None]
        return Samples(chunk.first_row, tokens[:, :steps], mask, logprobs[:, :steps])

    def read(self, rows: list[list[int]]) -> tuple[Tensor, list[list[float]]]:
        """Values (P,) behind the rows, and log p of each token given those before (0 of the first).

        For a model with a value head and a memory.
        """
        assert self.memory
        n, tokens = len(rows), sum(map(len, rows))
        chunk = Chunk(0, rows, np.zeros(n, np.int64), np.ones(n, np.int64), np.zeros((n, 1)))
        values, likelihoods = torch.empty(n), torch.zeros(tokens)
        known = self._call(chunk, tokens=torch.empty(n, 1, dtype=torch.long),
                           logprobs=torch.empty(n, 1), lengths=torch.empty(n, dtype=torch.long),
                           values=values, likelihoods=likelihoods)
        found = []
        for row, old, read in zip(rows, known, likelihoods.split([*map(len, rows)]), strict=True):
            path = self.memory.path(row)
            for token, likelihood in zip(path[old + 1:], read[old + 1:].tolist(), strict=True):
                token.likelihood = likelihood
            found.append([0.0, *(token.likelihood for token in path[1:])])
        return values, found

    def follow(self, prompts: list[list[int]], source: list[int],
               rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(B, T) values behind the tokens of given rows, and their log p given all before; 0 behind
        a row's end. Rows of a prompt, which stand together, share the beginnings that are equal.

        For a model with a value head. Prompt and row must leave room for one more token.
        """
        lengths = torch.tensor([len(row) + 1 for row in rows])
        size = int(lengths.max())
        tokens = padded_rows([[*row, self.pad] for row in rows], self.pad, torch.device("cpu"))
        logprobs, values = torch.zeros(len(rows), size), torch.zeros(len(rows), size)
        chunk = Chunk(0, prompts, np.array(source), lengths.numpy(), np.zeros((len(rows), size)))
        self._call(chunk, tokens=tokens, logprobs=logprobs, lengths=torch.empty_like(lengths),
                   row_values=values)
        logprobs[torch.arange(len(rows)), lengths - 1] = 0        # of what stands for the next one
        return values[:, 1:], logprobs[:, :-1]

    def _call(self, chunk: Chunk, **results: Tensor) -> list[int]:
        """Let native.cpp fill the results; how many first tokens of each prompt it did not read."""
        c, how, prompts, memory = self.config, self.how, chunk.prompts, self.memory
        rows, max_new = chunk.uniform.shape
        sizes = [len(prompt) for prompt in prompts]
        starts, ends = [0, *accumulate(sizes)], [self.eos, *how.stop]
        threads = max(1, min(torch.get_num_threads(), rows // ROWS_A_THREAD))
        paths = [memory.path(prompt) for prompt in prompts] if memory else []
        known = [known_of(path, "values" in results) for path in paths]
        if memory:
            results["fresh"] = torch.empty(starts[-1], memory.size)
        tensors = {
            **self.weights, **results,
            **{name: torch.from_numpy(np.ascontiguousarray(array, kind))
               for name, array, kind in (("source", chunk.source, np.int64),
                                         ("limits", chunk.limits, np.int64),
                                         ("uniform", chunk.uniform, np.float64))},
            **{name: torch.tensor(numbers, dtype=torch.long) for name, numbers in (
                ("prompt_tokens", [*chain.from_iterable(prompts)]), ("prompt_starts", starts),
                ("ends", ends), ("known", [*chain.from_iterable(known)])) if numbers}}
        job = Job(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            n_layers=len(self.layers), d_model=c.d_model, n_heads=c.n_heads,
            n_kv_heads=c.n_kv_heads, head_dim=c.head_dim, d_ff=c.d_ff, vocab_size=c.vocab_size,
            max_len=c.max_len, prompts=len(prompts), longest=max(sizes, default=0), rows=rows,
            max_new=max_new, n_ends=len(ends), top_k=how.top_k, threads=threads,
            block=min(self.block, -(-max(rows, starts[-1]) // threads)),
            bf16=self.bf16, value_columns=bool({"values", "row_values"} & results.keys()),
            norm_eps=c.norm_eps, temperature=how.temperature, top_p=how.top_p)
        whole = len(chunk.source) == len(chunk.limits) == rows
        fault = library().decode_rows(ctypes.byref(job)) if whole else 2
        if fault == 1:
            raise UserError(f"not enough memory for {rows} rows of up to {job.longest + max_new} "
                            f"tokens in {threads} threads; set OMP_NUM_THREADS=1 or ask for less "
                            "at once")
        if fault:
            raise UserError("the sampler was given a prompt that does not fit the model: empty, "
                            f"too long for max_len {c.max_len}, or with a token that is not in "
                            f"its vocabulary of {c.vocab_size}")
        if memory:
            for path, start in zip(paths, starts, strict=False):
                memory.keep(path, results["fresh"][start:start + len(path)].numpy())
        return [len(addresses) - addresses.count(0) for addresses in known]

