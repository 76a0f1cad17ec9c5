"""The sampler's step on a CPU in PyTorch: one token a row, in few walks over memory.

Weights are prepared once a call: the gain of each RMSNorm goes into the matrix behind it, the
gains of QK-norm and 1 / sqrt(D) into the rotary tables. Rotary scores depend on distances alone, so
each prompt is turned back until it ends before position 0: then all rows stand at one position, t.
Activations between the projections stand heads first, (H, B, D). The plain form of the same step is
Transformer.decode, the fast one native.cpp, which needs a compiler; the tests hold them together.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minireason.model.attention import rotate
from minireason.model.cpu_layers import inverse_rms, swap_halves
from minireason.model.transformer import Block, KVCache, Transformer


class Layer(NamedTuple):
    """One block as decoding wants it; matrices are (in, out)."""

    qkv: Tensor             # (d_model, (H + 2 Hkv) * D), with the norm's gain
    cos: Tensor             # (max_new, H + Hkv, 1, D): gain * cos at position t; q's / sqrt(D)
    sin: Tensor             # the same for the other half: swapped gain * (-sin, sin)
    out: Tensor             # (H * D, d_model)
    gate_up: Tensor         # (d_model, 2 * d_ff), with the norm's gain
    down: Tensor            # (d_ff, d_model)


class Weights:
    """A model prepared for decoding at most max_new tokens a row; made anew for every call."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, max_new: int):
        self.config, self.rope = model.config, (model.cos, model.sin)
        self.embedding = model.embedding.weight
        self.layers = [self._layer(block, max_new) for block in model.blocks]
        unembedding = self.embedding if model.unembedding is None else model.unembedding.weight
        self.unembedding = (unembedding * model.final_norm).T.contiguous()

    def _layer(self, block: Block, max_new: int) -> Layer:
        c, (cos, sin) = self.config, (table[:max_new, None] for table in self.rope)
        gain = torch.cat((block.q_gain.expand(c.n_heads, -1) * c.head_dim ** -0.5,
                          block.k_gain.expand(c.n_kv_heads, -1)))         # (H + Hkv, D)
        return Layer(
            (block.qkv.weight * block.attention_norm).T.contiguous(),
            (gain * torch.cat((cos, cos), -1))[:, :, None],
            (swap_halves(gain) * torch.cat((-sin, sin), -1))[:, :, None],
            block.out.weight.T.contiguous(),
            (block.gate_up.weight * block.mlp_norm).T.contiguous(),
            block.down.weight.T.contiguous())

    def unit(self, x: Tensor) -> Tensor:
        """RMSNorm without its gain."""
        return x * inverse_rms(x, self.config.norm_eps)


class CpuRows:
    """B rows in the middle of decoding: what they saw, and how they take one more token."""

    def __init__(self, weights: Weights, prompts: KVCache, source: Tensor):
        """Row b continues prompt source[b] of the prefilled cache; source (B,)."""
        self.weights, self.t, self.seen = weights, 0, prompts.k.shape[3]
        cos, sin = (table[prompts.lens, None] for table in weights.rope)  # (P, 1, D / 2)
        turned = rotate(prompts.k.transpose(1, 2), cos, -sin)             # (L, Hkv, P, S', D)
        self.k, self.v = (list(x[:, :, source]) for x in (turned, prompts.v.transpose(1, 2)))
        beyond = torch.arange(self.seen) >= prompts.lens[source, None]
        self.masked = turned.new_zeros(beyond.shape).masked_fill_(beyond, float("-inf"))  # (B, S)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, (B',) indices."""
        self.k, self.v = ([x[:, rows] for x in cache] for cache in (self.k, self.v))
        self.masked = self.masked[rows]

    def _grow(self) -> None:
        """Room for one more token a row, in steps of 16: a cache without gaps is read faster than
        one preallocated to the end, by more than the copies cost; layer by layer, so that one
        finds the memory that the last gave back."""
        if self.seen == self.k[0].shape[2]:
            self.masked = F.pad(self.masked, (0, 16))
            for cache in (self.k, self.v):
                for i, old in enumerate(cache):
                    cache[i] = F.pad(old, (0, 0, 0, 16))

    def step(self, tokens: Tensor) -> Tensor:
        """One more token a row, (B,); returns the next logits (B, V)."""
        w, c = self.weights, self.weights.config
        self._grow()
        x = F.embedding(tokens, w.embedding)
        for i, layer in enumerate(w.layers):
            heads = (w.unit(x) @ layer.qkv).unflatten(-1, (-1, c.head_dim)).transpose(0, 1)
            qk, v = heads.split((c.n_heads + c.n_kv_heads, c.n_kv_heads))     # (.., B, D)
            unit = torch.empty(qk.shape, dtype=x.dtype)   # contiguous, which qk is not
            torch.mul(qk, inverse_rms(qk, c.norm_eps), out=unit)
            turned = (unit * layer.cos[self.t]).addcmul_(swap_halves(unit), layer.sin[self.t])
            self.k[i][:, :, self.seen], self.v[i][:, :, self.seen] = turned[c.n_heads:], v
            attended = self._attend(i, turned[:c.n_heads]).transpose(0, 1).flatten(1)
            x = torch.addmm(x, attended, layer.out)                       # (B, d_model)
            gate, up = (w.unit(x) @ layer.gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate).mul_(up), layer.down)
        self.t, self.seen = self.t + 1, self.seen + 1
        return w.unit(x) @ w.unembedding

    def _attend(self, layer: int, q: Tensor) -> Tensor:
        """Attention over a row's prompt and its own tokens; q (H, B, D) -> (H, B, D)."""
        n_kv, seen = self.weights.config.n_kv_heads, self.seen + 1
        k, v = (cache[layer][:, :, :seen].flatten(0, 1) for cache in (self.k, self.v))
        q = q.unflatten(0, (n_kv, -1)).transpose(1, 2).flatten(0, 1)      # (Hkv B, H / Hkv, D)
        scores = (q @ k.mT).unflatten(0, (n_kv, -1))                      # (Hkv, B, H / Hkv, S)
        weights = scores.add_(self.masked[:, None, :seen]).softmax(-1)
        out = weights.flatten(0, 1) @ v
        return out.unflatten(0, (n_kv, -1)).transpose(1, 2).flatten(0, 1)
