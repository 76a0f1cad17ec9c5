# %% [markdown]
# # 2. A transformer by hand
#
# A transformer is about a hundred lines of arithmetic. We write all of them in NumPy, from the
# characters of a question to the logits of the next token, load the weights of the library's model
# and get the same logits. Then we take one part out at a time, to see what each is for, and train
# the model for a few steps. It needs no trained model. About 15 seconds.

# %%
import math
import os
import re

import numpy as np
import torch
from tutorial_tools import keep, panels

from minireason.core.config import rng
from minireason.model.attention import attention_reference, rope_tables, rotate
from minireason.model.tokenizer import SPECIALS, Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.report.style import BLUE
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS = 20 if SMALL else 150
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The library's model, counted
#
# Two layers, three heads. The weights are random, so the gains, which start at 1, are shaken too:
# a gain of 1 would hide that we forgot to multiply by it.

# %%
tokenizer = Tokenizer.build(chain.TOKENS)
shape = ModelConfig(tokenizer.vocab_size, d_model=48, n_layers=2, n_heads=3, n_kv_heads=3,
                    head_dim=16, d_ff=96, max_len=64)
model = Transformer(shape).init_weights(generator)
a_layer = (shape.d_model * 3 * 48 + 48 * shape.d_model                    # q, k, v and output
           + shape.d_model * 2 * shape.d_ff + shape.d_ff * shape.d_model  # gate, up and down
           + 2 * shape.d_model + 2 * shape.head_dim)                      # four norms
counted = shape.vocab_size * shape.d_model + shape.n_layers * a_layer + shape.d_model
print(f"parameters: counted {counted:,}, model {model.n_params:,}")
assert counted == model.n_params
shaken = Transformer(shape).init_weights(generator)
with torch.no_grad():
    for parameter in shaken.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
W = {name: weight.double().numpy() for name, weight in shaken.state_dict().items()}
print("the weights:", *[name for name in W if not name.startswith("blocks.1")], sep="\n    ")

# %% [markdown]
# ## Tokens
#
# The vocabulary is a list. Special tokens come first, then the numbers 0 to 99, then the other
# characters. A text is cut from the left: a tag, else a number without a leading zero, else one
# character.

# %%
VOCABULARY = {token: i for i, token in enumerate([*SPECIALS, *chain.TOKENS, "<unk>"])}


def tokens_of(text):
    """Token ids of a text."""
    return [VOCABULARY[piece] for piece in re.findall(r"</?\w+>|[1-9]\d|\d|.", text)]


TEXT = "<bos>((23+4)*3)=<think>23+4=27;27*3=81</think>81"
tokens = tokens_of(TEXT)
print(tokens)
assert tokens == tokenizer.encode(TEXT)

# %% [markdown]
# ## The parts
#
# RMSNorm (arXiv:1910.07467) gives a vector the root mean square 1, times a learned gain:
# x / sqrt(mean(x^2) + eps) * g.


# %%
def rms_norm(x, gain):
    return x / np.sqrt((x * x).mean() + shape.norm_eps) * gain


# %% [markdown]
# Rotary position embedding, RoPE (Su 2021, arXiv:2104.09864, eq. 34). Attention alone does not know
# the order of its inputs. So q and k are turned before they meet. The D numbers of a head are D / 2
# points in a plane, (x_i, x_(i + D/2)); at position t the i-th point is turned by the angle
# t theta^(-2i / D), each by the 2 x 2 rotation matrix that one learns at school.


# %%
def turned(x, t):
    """x (D,), a query or a key at position t."""
    half = len(x) // 2
    result = np.empty_like(x)
    for i in range(half):
        angle = t * shape.rope_theta ** (-2 * i / len(x))
        rotation = np.array([[math.cos(angle), -math.sin(angle)],
                             [math.sin(angle), math.cos(angle)]])
        result[i], result[i + half] = rotation @ (x[i], x[i + half])
    return result


cos, sin = rope_tables(max_len=64, head_dim=shape.head_dim, theta=shape.rope_theta)
one_q, one_k = np.random.default_rng(0).standard_normal((2, shape.head_dim))
by_library = rotate(torch.tensor(one_q)[None], cos[7], sin[7])[0].numpy()
print(f"rotation against the library: {abs(turned(one_q, 7) - by_library).max():.1e}")
assert np.allclose(turned(one_q, 7), by_library, atol=1e-6)

# %% [markdown]
# What this buys: two turned vectors have a product that depends on how far apart they stand, and
# on nothing else.

# %%
for distance in (0, 3, 10):
    products = [turned(one_q, at + distance) @ turned(one_k, at) for at in (0, 7, 40)]
    print(f"distance {distance:>2}: q.k at three places", [round(float(p), 5) for p in products])
    assert max(products) - min(products) < 1e-9

# %% [markdown]
# Attention (Vaswani 2017, arXiv:1706.03762, section 3.2). Every position asks a question q, offers
# a key k and a value v:
#
# $$o_t = \sum_{s \le t} \mathrm{softmax}_s\!\left(q_t \cdot k_s / \sqrt{D}\right) v_s$$
#
# s <= t is the causal mask: position t sees itself and what came before.


# %%
def attention(q, k, v, causal=True):
    """One head: q, k, v (T, D); returns the outputs (T, D) and the weights (T, T)."""
    length, width = q.shape
    out, weights = np.zeros((length, width)), np.zeros((length, length))
    for t in range(length):
        seen = range(t + 1 if causal else length)
        scores = [q[t] @ k[s] / math.sqrt(width) for s in seen]
        total = sum(math.exp(score) for score in scores)
        for s in seen:
            weights[t, s] = math.exp(scores[s]) / total
            out[t] += weights[t, s] * v[s]
    return out, weights


# %% [markdown]
# A layer's attention has H heads, each with D of the numbers. q and k are normed per head before
# they are turned (QK-norm, Henry 2020, arXiv:2010.04245), so that no score can exceed sqrt(D) times
# the gains, however large the projection grows. `without` names parts to leave out, for later.


# %%
def heads_of(layer, x, without=()):
    """q, k (T, H, D), normed and turned, and v (T, H, D) of normed inputs x (T, d_model)."""
    name = f"blocks.{layer}."
    q, k, v = (x @ W[name + "qkv.weight"].T).reshape(len(x), 3, shape.n_heads, -1).swapaxes(0, 1)
    for rows, gain in ((q, W[name + "q_gain"]), (k, W[name + "k_gain"])):
        for t in range(len(x)):
            for h in range(shape.n_heads):
                if "QK-norm" not in without:
                    rows[t, h] = rms_norm(rows[t, h], gain)
                if "RoPE" not in without:
                    rows[t, h] = turned(rows[t, h], t)
    return q, k, v


def attention_layer(layer, x, without=()):
    q, k, v = heads_of(layer, x, without)
    outs = [attention(q[:, h], k[:, h], v[:, h], "causal mask" not in without)[0]
            for h in range(shape.n_heads)]
    return np.concatenate(outs, axis=1) @ W[f"blocks.{layer}.out.weight"].T


# %% [markdown]
# SwiGLU (Shazeer 2020, arXiv:2002.05202) works on each position alone: one projection opens or
# closes the gates of another, silu(gate) * up, with silu(z) = z / (1 + e^-z).


# %%
def swiglu_layer(layer, x, without=()):
    gate, up = np.split(x @ W[f"blocks.{layer}.gate_up.weight"].T, 2, axis=1)
    opened = up if "gates" in without else gate / (1 + np.exp(-gate)) * up
    return opened @ W[f"blocks.{layer}.down.weight"].T


# %% [markdown]
# ## The whole model
#
# Each layer reads a normed copy of the stream x and adds to x (the residual connection, He 2015,
# arXiv:1512.03385). At the end the embedding, read the other way round, turns x into logits.


# %%
def logits_by_hand(tokens, without=()):
    """Next-token logits (T, V)."""
    def normed(x, gain):
        return np.stack([rms_norm(row, W[gain]) for row in x])

    x = W["embedding.weight"][tokens]                                     # (T, d_model)
    kept = 0.0 if "residuals" in without else 1.0
    for layer in range(shape.n_layers):
        name = f"blocks.{layer}."
        x = kept * x + attention_layer(layer, normed(x, name + "attention_norm"), without)
        x = kept * x + swiglu_layer(layer, normed(x, name + "mlp_norm"), without)
    return normed(x, "final_norm") @ W["embedding.weight"].T


with torch.no_grad():
    library = shaken(torch.tensor([tokens]))[0].numpy()                   # (T, V)
by_hand = logits_by_hand(tokens)
print(f"logits {by_hand.shape}, from {library.min():.1f} to {library.max():.1f}: largest "
      f"difference {abs(by_hand - library).max():.1e}")
PARTS = ("causal mask", "RoPE", "QK-norm", "gates", "residuals")
changes = {part: abs(logits_by_hand(tokens, (part,)) - library).max() for part in PARTS}
for part, change in changes.items():
    print(f"without {part:<12} largest difference {change:.2f}")

# %% [markdown]
# ## What the causal mask does
#
# We change the last key and value. With the mask no earlier output may move, not by one bit.
# Without the mask all of them do. The library's formula does the same.

# %%
q, k, v = np.random.default_rng(1).standard_normal((3, 9, 16))
k2, v2 = k.copy(), v.copy()
k2[-1], v2[-1] = 5.0, 5.0
for causal, label in ((True, "masked:  "), (False, "unmasked:")):
    moved = abs(attention(q, k2, v2, causal)[0] - attention(q, k, v, causal)[0]).max(axis=1)
    print(label, "outputs that moved:", np.flatnonzero(moved).tolist())
    assert (moved[:-1] == 0).all() if causal else (moved > 0).all()
by_library = attention_reference(*[torch.tensor(x)[None, None] for x in (q, k, v)])[0, 0].numpy()
assert np.allclose(attention(q, k, v)[0], by_library, atol=1e-6)

# %% [markdown]
# ## The loss
#
# A model that knows nothing predicts every token alike: its first loss is ln V. By hand: of every
# counted token minus the log of the probability that the model gave it, averaged.

# %%
line_rng = rng(0, "tutorial 2")
lines = corpus_lines(Mixture(max_level=3), chain, line_rng, 32)
print("a line of the data:", lines[0])
rows = encode_lines(tokenizer, [""] * len(lines), lines)
(batch,), count = micro_batches(rows, 10_000, tokenizer.pad, packed=False)
with torch.no_grad():
    first = float(nll(model(batch.inputs), batch.targets, batch.loss_mask, count))
    probabilities = model(batch.inputs).softmax(dim=-1)                   # (B, T, V)
total = 0.0
for row in range(len(lines)):
    for t in range(batch.inputs.shape[1]):
        if batch.loss_mask[row, t]:
            total -= math.log(probabilities[row, t, batch.targets[row, t]])
print(f"loss by hand {total / count:.5f}, library {first:.5f}, ln V "
      f"{math.log(shape.vocab_size):.5f}")
assert abs(total / count - first) < 1e-4
assert abs(first - math.log(shape.vocab_size)) < 0.1

# %% [markdown]
# ## One training step, then many
#
# Backpropagation gives the slope of the loss for every parameter, AdamW takes a step against it.
# A model that cannot learn one batch by heart has a bug. This one can.

# %%
optimizer = make_optimizer(model, weight_decay=0.0)
losses = []
for step in range(STEPS):
    loss, grad_norm = train_step(
        model, optimizer, [batch],
        lambda b: nll(model(b.inputs), b.targets, b.loss_mask, count),
        lr=schedule(step, STEPS, peak=1e-2, warmup=5))
    losses.append(loss)
    if step in (0, 1, STEPS // 2, STEPS - 1):
        print(f"step {step:>3}: loss {loss:.3f}, grad_norm {grad_norm:.2f}")
assert losses[-1] < losses[0]

# %% [markdown]
# The first token of a line cannot be known from nothing, and lines share their beginnings: so even
# a perfect memory keeps a loss above 0.
#
# ## Where a head looks
#
# Our loops now read the trained weights.

# %%
W = {name: weight.double().numpy() for name, weight in model.state_dict().items()}
tokens = tokens_of("<bos>" + lines[0])
x = np.stack([rms_norm(row, W["blocks.0.attention_norm"])
              for row in W["embedding.weight"][tokens]])
q, k, v = heads_of(0, x)
_, weights = attention(q[:, 0], k[:, 0], v[:, 0])
assert np.allclose(weights.sum(axis=1), 1) and not np.triu(weights, 1).any()
figure, axes = panels(2)
axes[0].plot(losses, color=BLUE)
axes[0].axhline(math.log(shape.vocab_size), color="#999999", linestyle="--")
axes[0].text(STEPS - 1, math.log(shape.vocab_size) - 0.08, "ln V", ha="right", va="top")
axes[0].set(xlabel="step", ylabel="loss (nats per token)", title="Learning one batch by heart")
axes[1].imshow(weights, cmap="Blues", vmin=0, vmax=1)
names = [tokenizer.decode([i]) for i in tokens]
axes[1].set_xticks(range(len(names)), names, rotation=90, fontsize=6)
axes[1].set_yticks(range(len(names)), names, fontsize=6)
axes[1].set(title="Weights of layer 1, head 1", xlabel="seen position", ylabel="asking position")
axes[1].grid(False)
keep(figure, "02_transformer")

# %% [markdown]
# ## The claim
#
# The lines above are the whole model: before training and after it, their logits equal the
# library's up to the rounding of float32, about 1e-6 of the largest logit. No part is for show:
# without any one of them the logits are off by more than a hundred times the tolerance.

# %%
with torch.no_grad():
    trained = model(torch.tensor([tokens]))[0].numpy()
after = logits_by_hand(tokens)
for when, ours, theirs in (("shaken weights", by_hand, library),
                           ("trained weights", after, trained)):
    print(f"{when}: largest difference {abs(ours - theirs).max() / abs(theirs).max():.1e} of the "
          "largest logit")
    assert abs(ours - theirs).max() < 1e-5 * abs(theirs).max()
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).all()
assert min(changes.values()) > 100 * 1e-5 * abs(library).max()

# %% [markdown]
# In one sentence: a transformer norms a stream of vectors, lets each position collect values from
# the positions before it and transform what it holds, and adds both to the stream.
#
# ## Try it
#
# 1. Leave out the division by sqrt(D) in `attention`. How much more certain is a head of random
#    q and k, at D = 16 and at D = 256? Compare the mean of the largest weight over 9 keys.
# 2. Many descriptions of RoPE turn neighbours, (x_0, x_1), (x_2, x_3), ..., where our `turned`
#    takes (x_i, x_(i + D/2)). Write that version. Do the logits change? Is it a worse model?
# 3. `ModelConfig(n_kv_heads=1)` shares keys and values among all heads (Ainslie 2023,
#    arXiv:2305.13245). Count its parameters, and the numbers that a cache of keys and values holds
#    per token.
#
# <details><summary>Hints</summary>
#
# 1. q . k is a sum of D products of standard normal numbers. What is its standard deviation?
# 2. Which order of the rows of `qkv.weight` (and of the gains) makes the two versions equal?
# 3. Only `qkv` gets narrower: H + 2 Hkv heads of D numbers instead of 3 H.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. With the division the largest of 9 weights is 0.34 on average at either width; without it 0.74
#    at D = 16 and 0.94 at D = 256: q . k has the standard deviation sqrt(D), so wide heads would
#    start with nearly all weight on one key, where the softmax has no slope.
# 2. The logits change, by up to 0.7 on the trained model: its weights were made for the other
#    pairs. It is no worse a model: put the rows i and i + D/2 of the q and k parts of `qkv.weight`,
#    and of the two gains, next to each other, and the logits are the same up to 2e-15.
# 3. 46,768 in place of 52,912 parameters. The cache holds 2 L Hkv D numbers per token: 64 in place
#    of 192.
#
# </details>
