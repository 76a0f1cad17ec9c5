"""The sampler's step on a CPU: one token a row, in as few walks over memory as PyTorch allows.

Weights are prepared once a call: the gain of each RMSNorm goes into the matrix behind it, the
gains of QK-norm and 1 / sqrt(D) into the rotary tables, the first layer's keys and values of every
token into a table. Rotary scores depend on distances alone, so each prompt is turned back until it
ends before position 0: then all rows stand at one position, t. All samples of a prompt read its
keys in one matrix product (Juravsky 2024, arXiv:2402.05099). Activations between the projections
stand heads first, (H, B, D): there q of one head and prompt is a contiguous matrix.
The plain form of the same step is Transformer.decode, and the tests hold the two together.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minireason.attention import rotate
from minireason.fused import inverse_rms, swap_halves
from minireason.model import Block, KVCache, Transformer

# PyTorch leaves batched products of fewer than 400 multiplications to a scalar loop; with 13 keys
# of 32 numbers they reach its BLAS.
FEWEST_KEYS = 13


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
        self.first = self.heads(self.layers[0], self.embedding)   # of every token: (.., V, D)

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

    def heads(self, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, d_model) -> q above k, of rms 1 each, (H + Hkv, B, D), and v (Hkv, B, D)."""
        n_kv = self.config.n_kv_heads
        qkv = (self.unit(x) @ layer.qkv).unflatten(-1, (-1, self.config.head_dim)).transpose(0, 1)
        qk, v = qkv.split((len(qkv) - n_kv, n_kv))
        unit = torch.empty(qk.shape, dtype=x.dtype)       # contiguous, which qk is not
        return torch.mul(qk, inverse_rms(qk, self.config.norm_eps), out=unit), v


class CpuRows:
    """B rows in the middle of decoding: what they saw, and how they take one more token."""

    def __init__(self, weights: Weights, prompts: KVCache, source: Tensor):
        """Row b continues prompt source[b] of the prefilled cache; source (B,) is sorted."""
        self.weights, self.seen = weights, 0
        cos, sin = (table[prompts.lens, None] for table in weights.rope)  # (P, 1, D / 2)
        k = rotate(prompts.k.transpose(1, 2), cos, -sin)                  # (L, Hkv, P, S', D)
        self.prompt_k, self.prompt_v = k, prompts.v.transpose(1, 2).contiguous()
        self.prompt_lens = prompts.lens
        empty = k.new_empty(k.shape[1], len(source), 0, k.shape[-1])
        self.own_k, self.own_v = ([empty] * len(k) for _ in range(2))     # a layer (Hkv, B, S, D)
        self._group(source)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, (B',) sorted indices."""
        self.own_k, self.own_v = ([x[:, rows] for x in own] for own in (self.own_k, self.own_v))
        self._group(self.source[rows])

    def _group(self, source: Tensor) -> None:
        """Note which rows continue which prompt, and forget the prompts that none continues."""
        used, self.source = source.unique(return_inverse=True)
        if len(used) < len(self.prompt_lens):
            self.prompt_k, self.prompt_v = self.prompt_k[:, :, used], self.prompt_v[:, :, used]
            self.prompt_lens = self.prompt_lens[used]
        self.slots, self.places = group_rows(self.source, len(used))
        self.full = self.slots.numel() == len(source)     # then both are 0, 1, 2, ...
        beyond = torch.arange(self.prompt_k.shape[3]) >= self.prompt_lens[:, None]
        masked = self.prompt_k.new_zeros(beyond.shape).masked_fill_(beyond, float("-inf"))
        self.masked = masked.repeat(self.prompt_k.shape[1], 1)[:, None]   # (Hkv P, 1, S')

    def _grow(self) -> None:
        """Room for one more token a row, in steps of 16: a cache without gaps is read faster than
        one preallocated to the end, by more than the copies cost; layer by layer, so that one
        finds the memory that the last gave back."""
        if self.seen == self.own_k[0].shape[2]:
            for own in (self.own_k, self.own_v):
                for i, old in enumerate(own):
                    new = old.new_empty(*old.shape[:2], self.seen + 16, old.shape[3])
                    new[:, :, :self.seen], new[:, :, self.seen:] = old, 0
                    own[i] = new

    def step(self, tokens: Tensor) -> Tensor:
        """One more token a row, (B,); returns the next logits (B, V)."""
        w, t = self.weights, self.seen
        self._grow()
        x, n_heads = F.embedding(tokens, w.embedding), w.config.n_heads
        for i, layer in enumerate(w.layers):
            qk, v = w.heads(layer, x) if i else (table[:, tokens] for table in w.first)
            turned = (qk * layer.cos[t]).addcmul_(swap_halves(qk), layer.sin[t])
            self.own_k[i][:, :, t], self.own_v[i][:, :, t] = turned[n_heads:], v
            attended = self._attend(i, turned[:n_heads]).transpose(0, 1).flatten(1)
            x = torch.addmm(x, attended, layer.out)                       # (B, d_model)
            gate, up = (w.unit(x) @ layer.gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate).mul_(up), layer.down)
        self.seen += 1
        return w.unit(x) @ w.unembedding

    def _attend(self, layer: int, q: Tensor) -> Tensor:
        """Attention over a row's prompt and its own tokens; q (H, B, D) -> (H, B, D)."""
        prompt_k, prompt_v = self.prompt_k[layer].flatten(0, 1), self.prompt_v[layer].flatten(0, 1)
        seen = max(self.seen + 1, FEWEST_KEYS)
        own_k, own_v = (own[layer][:, :, :seen].flatten(0, 1)
                        for own in (self.own_k, self.own_v))
        to_prompt = torch.baddbmm(self.masked, self._by_prompt(q), prompt_k.mT)
        to_own = self._from_rows(self._by_row(q) @ own_k.mT)              # (H, B, S)
        if seen > self.seen + 1:
            to_own[..., self.seen + 1:] = float("-inf")
        weights = torch.cat((self._from_prompts(to_prompt), to_own), -1).softmax(-1)
        of_prompt, of_own = weights.split((prompt_k.shape[1], seen), -1)  # (H, B, S'), (H, B, S)
        out = self._from_prompts(self._by_prompt(of_prompt) @ prompt_v)
        return out + self._from_rows(self._by_row(of_own) @ own_v)

    def _by_prompt(self, x: Tensor) -> Tensor:
        """(H, B, E) -> (Hkv P, H / Hkv G, E): every query of a prompt's rows to one KV head."""
        x = x if self.full else x[:, self.slots.flatten()]
        x = x.view(self.prompt_k.shape[1], -1, *self.slots.shape, x.shape[-1])
        return x.transpose(1, 2).reshape(self.masked.shape[0], -1, x.shape[-1])

    def _from_prompts(self, x: Tensor) -> Tensor:
        """(Hkv P, H / Hkv G, E) -> (H, B, E)."""
        n_kv, (prompts, group) = self.prompt_k.shape[1], self.slots.shape
        x = x.view(n_kv, prompts, -1, group, x.shape[-1]).transpose(1, 2)
        x = x.reshape(self.weights.config.n_heads, prompts * group, x.shape[-1])
        return x if self.full else x[:, self.places]

    def _by_row(self, x: Tensor) -> Tensor:
        """(H, B, E) -> (Hkv B, H / Hkv, E)."""
        return x.unflatten(0, (self.prompt_k.shape[1], -1)).transpose(1, 2).flatten(0, 1)

    def _from_rows(self, x: Tensor) -> Tensor:
        """(Hkv B, H / Hkv, E) -> (H, B, E)."""
        return x.unflatten(0, (self.prompt_k.shape[1], -1)).transpose(1, 2).flatten(0, 1)


def group_rows(index: Tensor, prompts: int) -> tuple[Tensor, Tensor]:
    """Rows that continue the same prompt, side by side: (slots, places) for index (B,), sorted.

    slots (P, G): the rows of every prompt, filled up with row 0 to the largest group's size G;
    places (B,): where in slots.flatten() a row stands.
    """
    counts = index.bincount(minlength=prompts)
    row = torch.arange(len(index), device=index.device)
    places = index * counts.max() + row - (counts.cumsum(0) - counts)[index]
    slots = row.new_zeros(prompts, int(counts.max()))
    slots.view(-1)[places] = row
    return slots, places
