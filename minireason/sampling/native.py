"""The sampler's whole loop on a CPU in one call of C++: native.cpp, built with g++ when first used.

PyTorch leaves a small model's time between the matrix products: dozens of operations per token,
each walking over memory. native.cpp keeps a token's numbers near the core from the embedding to
the draw. Only the form of the weights is made here: panels of columns, RMSNorm's gains in them.
"""

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cuda_ext import build
from minireason.core.config import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.sampling.sampler import Chunk, Samples, Sampling

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fPIC",
         "-shared", "-pthread", "-fvisibility=hidden")
BLOCK = 16                        # rows a thread decodes at a time
ROWS_A_THREAD = 16                # fewer than twice as many are not worth a second thread


@functools.cache
def choose_decoder(asked: str) -> str:
    """"native" or "torch" for MINIREASON_DECODE; says which and why, once per process."""
    if asked not in ("auto", "native", "torch"):
        raise UserError(f"MINIREASON_DECODE={asked}: no such decoder; have auto, native, torch")
    name, why = asked, "asked for"
    if asked != "torch":
        try:
            library()
            name, why = "native", "fastest on a CPU: native.cpp"
        except (build.BuildError, OSError) as error:
            if asked == "native":
                raise UserError(f"MINIREASON_DECODE=native: {error}") from None
            name, why = "torch", f"slower; native.cpp was not built: {error}"
    tqdm.write(f"[sampler] decoding on the CPU by {name}: {why}", file=sys.stderr)
    return name


@functools.cache
def library() -> ctypes.CDLL:
    """native.cpp, built for this processor if the cache has no such build."""
    compiler = build.find_host_compiler()
    target = build.run([compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    # target: every macro that this compiler defines for this processor, so a home folder that two
    # machines share holds a build for each
    key = hashlib.sha256("\0".join([SOURCE.read_text(), compiler, *FLAGS, target]).encode())
    final = build.cache_folder() / f"decode-{key.hexdigest()[:24]}.so"
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent) as folder:
            build.run([compiler, *FLAGS, str(SOURCE), "-o", f"{folder}/library.so"])
            os.replace(f"{folder}/library.so", final)
    return ctypes.CDLL(str(final))


class Job(ctypes.Structure):
    """A chunk of rows to decode, as in native.cpp."""

    POINTERS = ("layers", "embedding", "unembedding", "cos", "sin", "prompt_tokens",
                "prompt_starts", "source", "limits", "uniform", "ends", "tokens", "logprobs",
                "lengths")
    INTEGERS = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size",
                "max_len", "prompts", "longest", "rows", "max_new", "n_ends", "top_k", "threads",
                "block")
    NUMBERS = ("norm_eps", "temperature", "top_p")
    _fields_ = [*((name, ctypes.c_void_p) for name in POINTERS),
                *((name, ctypes.c_int64) for name in INTEGERS),
                *((name, ctypes.c_double) for name in NUMBERS)]


def panels(matrix: Tensor, width: int) -> Tensor:
    """(out, in) -> (out / width, in, width), filled up with zeros: how native.cpp reads it."""
    padded = F.pad(matrix, (0, 0, 0, -len(matrix) % width))
    return padded.unflatten(0, (-1, width)).transpose(1, 2).contiguous()


def native_decoder(model: Transformer, tokenizer: Tokenizer,
                   how: Sampling) -> "NativeDecoder | None":
    """A decoder for all chunks of a call, or None where PyTorch is to decode."""
    weight, asked = model.embedding.weight, os.environ.get("MINIREASON_DECODE", "auto")
    fits = model.attention_impl == "auto" and weight.is_cpu and weight.dtype == torch.float32
    if not fits or choose_decoder(asked) == "torch":
        return None
    return NativeDecoder(model, tokenizer, how)


class NativeDecoder:
    """A model's weights prepared for native.cpp, and how to sample; made anew for every call."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, tokenizer: Tokenizer, how: Sampling):
        self.config, self.how, self.pad = model.config, how, tokenizer.pad
        pack = functools.partial(panels, width=library().panel_width())
        self.layers = []          # six tensors each, in the order of native.cpp's Layer
        for block in model.blocks:
            gate, up = (block.gate_up.weight * block.mlp_norm).chunk(2)
            self.layers.append((
                pack(block.qkv.weight * block.attention_norm), pack(block.out.weight),
                torch.cat((pack(gate), pack(up))), pack(block.down.weight),
                block.q_gain * model.config.head_dim ** -0.5, block.k_gain.clone()))
        unembedding = (model.embedding if model.unembedding is None else model.unembedding).weight
        self.weights = {
            "layers": torch.tensor([[x.data_ptr() for x in layer] for layer in self.layers]),
            "embedding": model.embedding.weight.contiguous(), "cos": model.cos, "sin": model.sin,
            "unembedding": pack(unembedding * model.final_norm),
            "ends": torch.tensor([tokenizer.eos, *how.stop])}

    def run(self, chunk: Chunk) -> Samples:
        """Decode all rows of a chunk."""
        c, how, prompts = self.config, self.how, chunk.prompts
        rows, max_new = chunk.uniform.shape
        threads = max(1, min(torch.get_num_threads(), rows // ROWS_A_THREAD))
        tokens, logprobs = torch.full((rows, max_new), self.pad), torch.zeros(rows, max_new)
        lengths = torch.zeros(rows, dtype=torch.long)
        joined = torch.from_numpy(np.concatenate(prompts, dtype=np.int64))
        sizes = [len(prompt) for prompt in prompts]
        tensors = {
            **self.weights, "tokens": tokens, "logprobs": logprobs, "lengths": lengths,
            "source": torch.from_numpy(chunk.source), "limits": torch.from_numpy(chunk.limits),
            "uniform": torch.from_numpy(chunk.uniform),
            "prompt_tokens": joined, "prompt_starts": torch.tensor([0, *sizes]).cumsum(0)}
        job = Job(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            n_layers=c.n_layers, d_model=c.d_model, n_heads=c.n_heads, n_kv_heads=c.n_kv_heads,
            head_dim=c.head_dim, d_ff=c.d_ff, vocab_size=c.vocab_size, max_len=c.max_len,
            prompts=len(prompts), longest=max(sizes), rows=rows, max_new=max_new,
            n_ends=1 + len(how.stop), top_k=how.top_k, threads=threads,
            block=min(BLOCK, -(-rows // threads)), norm_eps=c.norm_eps, temperature=how.temperature,
            top_p=how.top_p)
        fault = library().decode_rows(ctypes.byref(job))
        if fault == 1:
            raise MemoryError(f"no room for {threads} x {job.block} rows of {max_new} tokens")
        if fault:
            raise UserError("the sampler was given a prompt that does not fit the model: empty, "
                            f"too long for max_len {c.max_len}, or with a token that is not in "
                            f"its vocabulary of {c.vocab_size}")
        steps = int(lengths.max())
        mask = torch.arange(steps) < lengths[:, None]
        return Samples(chunk.first_row, tokens[:, :steps], mask, logprobs[:, :steps])
