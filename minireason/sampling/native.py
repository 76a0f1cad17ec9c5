"""The sampler's whole loop on a CPU in one call of C++: native.cpp, built with g++ when first used.

PyTorch leaves a small model's time between the matrix products: dozens of operations a token, each
of which walks over memory. native.cpp keeps a token's numbers near the core from the embedding to
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
from minireason.model.attention import choose_impl
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.sampling.draws import Samples, Sampling

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fPIC",
         "-shared", "-pthread", "-fvisibility=hidden")
BLOCK = 16                        # rows a thread decodes at a time
ROWS_A_THREAD = 16                # fewer than twice as many are not worth a second thread


@functools.cache
def choose_decoder(asked: str) -> str:
    """"native" or "torch" for MINIREASON_DECODE, and why, said once a process; UserError where
    native is asked for and cannot be built."""
    if asked not in ("auto", "native", "torch"):
        raise UserError(f"MINIREASON_DECODE={asked}: no such decoder; have auto, native, torch")
    name, why = asked, "asked for"
    if asked != "torch":
        try:
            library()
        except (build.BuildError, OSError) as error:
            if asked == "native":
                raise UserError(f"MINIREASON_DECODE=native: {error}") from None
            name, why = "torch", f"slower; native.cpp was not built: {error}"
        else:
            name, why = "native", "fastest on a CPU: native.cpp" if asked == "auto" else why
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


class Layer(ctypes.Structure):
    """One block's weights, as in native.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in (
        "qkv", "out", "gate_up", "down", "q_gain", "k_gain")]


class Job(ctypes.Structure):
    """A chunk of rows to decode, as in native.cpp."""

    _fields_ = [(name, kind) for kind, names in (
        (ctypes.c_void_p, "layers embedding unembedding cos sin prompt_tokens prompt_starts source "
                          "uniform ends tokens logprobs lengths"),
        (ctypes.c_int64, "n_layers d_model n_heads n_kv_heads head_dim d_ff vocab "
                         "prompts longest rows max_new n_ends top_k threads block"),
        (ctypes.c_double, "eps temperature top_p")) for name in names.split()]


def panels(matrix: Tensor, width: int) -> Tensor:
    """(out, in) -> (out / width, in, width), filled up with zeros: how native.cpp reads it."""
    padded = F.pad(matrix, (0, 0, 0, -len(matrix) % width))
    return padded.unflatten(0, (-1, width)).transpose(1, 2).contiguous()


def native_decoder(model: Transformer, tokenizer: Tokenizer,
                   how: Sampling) -> "NativeDecoder | None":
    """A decoder for all chunks of a call, or None where PyTorch is to decode."""
    weight, c = model.embedding.weight, model.config
    impl, _ = choose_impl(model.attention_impl, weight.device, weight.dtype, c.head_dim, c.max_len,
                          "decode")
    if impl != "by hand" or weight.dtype != torch.float32:
        return None
    name = choose_decoder(os.environ.get("MINIREASON_DECODE", "auto"))
    return NativeDecoder(model, tokenizer, how) if name == "native" else None


class NativeDecoder:
    """A model's weights prepared for native.cpp, and how to sample; made anew for every call."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, tokenizer: Tokenizer, how: Sampling):
        self.model, self.how, self.pad, c = model, how, tokenizer.pad, model.config
        self.ends = np.array([tokenizer.eos, *how.stop], dtype=np.int64)
        pack = functools.partial(panels, width=library().panel_width())
        self.layers = []
        for block in model.blocks:
            gate, up = (block.gate_up.weight * block.mlp_norm).chunk(2)
            self.layers.append((
                pack(block.qkv.weight * block.attention_norm), pack(block.out.weight),
                torch.cat((pack(gate), pack(up))), pack(block.down.weight),
                block.q_gain * c.head_dim ** -0.5, block.k_gain.clone()))
        unembedding = (model.embedding if model.unembedding is None else model.unembedding).weight
        self.unembedding = pack(unembedding * model.final_norm)
        self.embedding = model.embedding.weight.contiguous()

    def run(self, prompts: list[list[int]], start: int, stop: int, uniform: np.ndarray) -> Samples:
        """Rows start..stop-1, which continue these prompts; uniform (B, max_new)."""
        c, how, rows, longest = self.model.config, self.how, stop - start, max(map(len, prompts))
        max_new = min(how.max_new, c.max_len - longest)
        if max_new < 1:
            raise UserError(f"a prompt of {longest} tokens leaves no room in a model of max_len "
                            f"{c.max_len}")
        starts = np.cumsum([0, *map(len, prompts)], dtype=np.int64)
        joined = np.array([token for prompt in prompts for token in prompt], dtype=np.int64)
        assert min(map(len, prompts)) and 0 <= joined.min() <= joined.max() < c.vocab_size
        source = np.arange(start, stop) // how.n - start // how.n
        uniform = np.ascontiguousarray(uniform[:, :max_new])
        tokens = torch.full((rows, max_new), self.pad)
        logprobs, lengths = torch.zeros(rows, max_new), torch.zeros(rows, dtype=torch.long)
        layers = (Layer * c.n_layers)(*(
            Layer(*(x.data_ptr() for x in layer)) for layer in self.layers))
        threads = max(1, min(torch.get_num_threads(), rows // ROWS_A_THREAD))
        job = Job(
            ctypes.addressof(layers), *(x.data_ptr() for x in (
                self.embedding, self.unembedding, self.model.cos, self.model.sin)),
            *(x.ctypes.data for x in (joined, starts, source, uniform, self.ends)),
            *(x.data_ptr() for x in (tokens, logprobs, lengths)),
            c.n_layers, c.d_model, c.n_heads, c.n_kv_heads, c.head_dim, c.d_ff, c.vocab_size,
            len(prompts), longest, rows, max_new, len(self.ends), how.top_k, threads,
            min(BLOCK, -(-rows // threads)), c.norm_eps, how.temperature, how.top_p)
        if library().decode_rows(ctypes.byref(job)):
            raise MemoryError(f"no room for {threads} x {job.block} rows of {max_new} tokens")
        steps = int(lengths.max())
        mask = torch.arange(steps) < lengths[:, None]
        return Samples(start, tokens[:, :steps], mask, logprobs[:, :steps])
