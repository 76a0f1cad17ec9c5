"""The transformer, by hand: decoder-only, pre-norm, and nothing hidden.

    x = x + attention(norm(x));  x = x + mlp(norm(x))       for every layer, then norm and unembed

RMSNorm (Zhang 2019, arXiv:1910.07467), QK-norm and RoPE (see attention.py), SwiGLU (Shazeer 2020,
arXiv:2002.05202), grouped KV heads (Ainslie 2023, arXiv:2305.13245), no biases. The maths is that
of Qwen3, so export.py can write a folder that transformers loads; q, k, v and gate, up are fused
into one matrix each because one wide product is faster than three narrow ones.
"""

import os
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minireason.core.config import check_numbers
from minireason.core.errors import UserError
from minireason.model.attention import decode_attention, rope_tables, self_attention
from minireason.model.backends import choose_impl
from minireason.model.cpu_layers import RMSNorm, SwiGLU, by_hand
from minireason.model.native_layers import (
    NativeNorm,
    NativeSwiGLU,
    choose_layers,
    native,
)

LARGEST = {"vocab_size": 2 ** 20, "d_model": 2 ** 16, "n_layers": 1024, "n_heads": 1024,
           "head_dim": 1024, "d_ff": 2 ** 18, "max_len": 2 ** 17}   # no memory for a typing error


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the model; d_model need not equal n_heads * head_dim."""

    vocab_size: int = 128         # V
    d_model: int = 96             # width of the residual stream
    n_layers: int = 4             # L
    n_heads: int = 3              # H query heads
    n_kv_heads: int = 3           # Hkv key and value heads; H must be a multiple
    head_dim: int = 32            # D, even
    d_ff: int = 256               # width of the SwiGLU
    max_len: int = 128            # longest row in tokens
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tied: bool = True             # embedding and unembedding share their matrix

    def __post_init__(self):
        check_numbers(self)
        if self.n_heads % self.n_kv_heads or self.head_dim % 2:
            raise UserError("model: n_heads must be a multiple of n_kv_heads and head_dim even, "
                            f"not {self.n_heads}, {self.n_kv_heads}, {self.head_dim}")
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                raise UserError(f"model: {name} {getattr(self, name)} is above {most}")
        if self.rope_theta < 1:
            raise UserError(f"model: rope_theta {self.rope_theta} is below 1")


class Block(nn.Module):
    """One layer: attention and SwiGLU, each around a residual connection."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        heads = config.n_heads + 2 * config.n_kv_heads
        self.attention_norm = nn.Parameter(torch.ones(config.d_model))
        self.qkv = nn.Linear(config.d_model, heads * config.head_dim, bias=False)
        self.q_gain = nn.Parameter(torch.ones(config.head_dim))
        self.k_gain = nn.Parameter(torch.ones(config.head_dim))
        self.out = nn.Linear(config.n_heads * config.head_dim, config.d_model, bias=False)
        self.mlp_norm = nn.Parameter(torch.ones(config.d_model))
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor, attend) -> Tensor:
        """x (..., d_model); `attend(qkv, q_gain, k_gain)` returns (..., H * D)."""
        eps = self.config.norm_eps
        x, normed = add_norm(x, None, self.attention_norm, eps)
        update = self.out(attend(self.qkv(normed), self.q_gain, self.k_gain))
        x, normed = add_norm(x, update, self.mlp_norm, eps)
        return x + self.down(swiglu(self.gate_up(normed)))


def add_norm(x: Tensor, update: Tensor | None, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x + update, its rms_norm): one walk over memory where layers.cpp does it."""
    if native(x):
        return NativeNorm.apply(x, update, gain, eps)
    x = x if update is None else x + update
    if by_hand(x):
        return x, RMSNorm.apply(x, gain, eps)
    return x, F.rms_norm(x, gain.shape, gain.to(x.dtype), eps)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / rms(x) * gain over the last dimension."""
    return add_norm(x, None, gain, eps)[1]


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; (..., 2 * d_ff) -> (..., d_ff)."""
    if native(gate_up):
        return NativeSwiGLU.apply(gate_up)
    if by_hand(gate_up):
        return SwiGLU.apply(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class Transformer(nn.Module):
    """Tokens in, next-token logits out."""

    KIND = "policy"               # what a checkpoint of this class holds
    blocks: Any                   # nn.ModuleList, whose elements have no type
    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.attention_impl = os.environ.get("MINIREASON_ATTENTION", "auto")    # see backends.py
        self.embedding = nn.Embedding.from_pretrained(         # its own N(0, 1): see rope_tables
            torch.empty(config.vocab_size, config.d_model).uniform_(-1, 1), freeze=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.Parameter(torch.ones(config.d_model))
        self.unembedding = None if config.tied else nn.Linear(
            config.d_model, config.vocab_size, bias=False)
        cos, sin = rope_tables(config.max_len, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @classmethod
    def random(cls, config: ModelConfig, seed: int) -> "Transformer":
        """A model with random weights of its own generator, on the CPU."""
        return cls(config).init_weights(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> "Transformer":
        """N(0, 0.02), with residual outputs scaled by 1 / sqrt(2 L) (GPT-2, section 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("out.weight", "down.weight"))
                scale = 0.02 / (2 * self.config.n_layers) ** 0.5 if residual else 0.02
                parameter.normal_(0.0, scale, generator=generator)
        return self

    @cached_property
    def n_params(self) -> int:
        """Number of trained numbers, embedding included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def attention_choice(self, device: torch.device) -> tuple[str, str]:
        """Which attention trains on the device, where rows are packed, and why."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        return choose_impl(self.attention_impl, device, dtype, self.config.head_dim,
                           self.config.max_len, "packed")

    def layers_choice(self, device: torch.device) -> tuple[str, str]:
        """Whether C++ or PyTorch computes between the matrix products on the device, and why."""
        if device.type != "cpu":
            return "torch", "the C++ is for a CPU"
        return choose_layers(os.environ.get("MINIREASON_LAYERS", "auto"))

    def _attention(self) -> dict:
        c = self.config
        return {"cos": self.cos, "sin": self.sin, "n_heads": c.n_heads,
                "n_kv_heads": c.n_kv_heads, "eps": c.norm_eps, "impl": self.attention_impl}

    def hidden(self, tokens: Tensor, cu_seqlens: Tensor | None = None,
               max_len: int = 0, cache: "KVCache | None" = None,
               groups: Tensor | None = None) -> Tensor:
        """Final hidden states of whole rows; (B, T) or packed (N,) -> (..., d_model).

        Rows are padded on the right. With `cache` (rectangular only) their keys and values are
        stored from position 0 on; the caller sets cache.lens to the true lengths. groups: of packed
        rows that share prompts, as for self_attention.
        """
        longest = tokens.shape[1] if cu_seqlens is None else max_len
        if longest > self.config.max_len:
            raise UserError(f"a row of {longest} tokens is longer than the model's max_len "
                            f"{self.config.max_len}; lower --max-level, or pretrain with a larger "
                            "--max-len")
        x = self.embedding(tokens)
        attend = partial(self_attention, cu_seqlens=cu_seqlens, max_len=max_len,
                         groups=groups, **self._attention())
        for layer, block in enumerate(self.blocks):
            x = block(x, partial(attend, cache=None if cache is None else cache.kv[layer]))
        return rms_norm(x, self.final_norm, self.config.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (..., V)."""
        weight = self.embedding.weight if self.unembedding is None else self.unembedding.weight
        return F.linear(hidden, weight)

    def forward(self, tokens: Tensor, cu_seqlens: Tensor | None = None,
                max_len: int = 0) -> Tensor:
        """Next-token logits; (B, T) -> (B, T, V), or packed (N,) -> (N, V)."""
        return self.logits(self.hidden(tokens, cu_seqlens, max_len))

    def decode(self, tokens: Tensor, cache: "KVCache", span: int | None = None) -> Tensor:
        """One more token per row, (B,), appended to the cache; returns the next logits (B, V)."""
        x = self.embedding(tokens)
        attend = partial(decode_attention, lens=cache.lens, span=span, **self._attention())
        for block, kv, prompt in zip(self.blocks, cache.kv, cache.prompts, strict=True):
            x = block(x, partial(attend, cache=kv, prompt=prompt))
        cache.lens += 1
        return self.logits(rms_norm(x, self.final_norm, self.config.norm_eps))


class KVCache:
    """Keys and values of all layers for B rows of at most `capacity` tokens, preallocated."""

    def __init__(self, model: Transformer, rows: int, capacity: int):
        c, weight = model.config, model.embedding.weight
        dtype = torch.bfloat16 if weight.device.type == "cuda" else weight.dtype
        shape = (c.n_layers, 2, rows, c.n_kv_heads, capacity, c.head_dim)
        self.kv = torch.zeros(shape, device=weight.device, dtype=dtype)   # (L, 2, B, Hkv, S, D)
        self.lens = torch.zeros(rows, device=weight.device, dtype=torch.long)   # tokens of a row
        self.prompts: list = [None] * c.n_layers    # what decode_attention takes, per layer

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, (B',) indices; repeated indices copy a row."""
        self.kv, self.lens = self.kv[:, :, rows], self.lens[rows]
