# %% [markdown]
# # 2. A transformer by hand
#
# Attention from its formula, the causal mask, rotary positions, one training step, and decoding
# with a cache. Each naive version is built once here and compared with the library's. It needs no
# trained model. About 10 seconds.

# %%
import math
import os

import torch
from tutorial_tools import keep, panels

from minireason.core.config import rng
from minireason.model.attention import attention_reference, head_norm, rope_tables, rotate
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.sampler import prefill
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS = 20 if SMALL else 150
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Attention from its formula
#
# Every position asks a question (q), every position offers a key (k) and a value (v):
#
# $$o_t = \sum_{s \le t} \mathrm{softmax}_s\!\left(q_t \cdot k_s / \sqrt{D}\right) v_s$$
#
# (Vaswani 2017, section 3.2). Position t sees itself and what came before, never what comes after:
# that is the causal mask. With loops:


# %%
def attention_by_hand(q, k, v):
    """q, k, v (T, D) of one head; returns the outputs (T, D) and the weights (T, T)."""
    steps, width = q.shape
    out, weights = torch.zeros(steps, width), torch.zeros(steps, steps)
    for t in range(steps):
        scores = [float(q[t] @ k[s]) / math.sqrt(width) for s in range(t + 1)]
        total = sum(math.exp(score) for score in scores)
        for s in range(t + 1):
            weights[t, s] = math.exp(scores[s]) / total
            out[t] += weights[t, s] * v[s]
    return out, weights


B, H, STEP_COUNT, D = 2, 3, 9, 16
q, k, v = (torch.randn(B, H, STEP_COUNT, D, generator=generator) for _ in range(3))
library = attention_reference(q, k, v)                                    # (B, H, T, D)
by_hand = torch.stack([torch.stack([attention_by_hand(q[b, h], k[b, h], v[b, h])[0]
                                    for h in range(H)]) for b in range(B)])
print(f"loops against the library: largest difference {(library - by_hand).abs().max():.1e}")
assert torch.allclose(library, by_hand, atol=1e-5)

# %% [markdown]
# ## What the causal mask does
#
# We change the last key and value. With the mask no earlier output may move, not by one bit.
# Without the mask all of them do.

# %%
k2, v2 = k.clone(), v.clone()
k2[:, :, -1], v2[:, :, -1] = 5.0, 5.0
moved = (attention_reference(q, k2, v2) - library).abs().amax(dim=(0, 1, 3))


def unmasked(q, k, v):
    """The same formula over all positions."""
    return (q @ k.transpose(-1, -2) / D ** 0.5).softmax(dim=-1) @ v


moved_unmasked = (unmasked(q, k2, v2) - unmasked(q, k, v)).abs().amax(dim=(0, 1, 3))
print("masked:   outputs that moved:", [t for t in range(STEP_COUNT) if moved[t] > 0])
print("unmasked: outputs that moved:", [t for t in range(STEP_COUNT) if moved_unmasked[t] > 0])
assert moved[:-1].max() == 0 and moved_unmasked[:-1].min() > 0

# %% [markdown]
# ## Rotary positions and QK-norm
#
# Attention alone does not know the order of its inputs. RoPE (Su 2021, eq. 34) turns q and k by an
# angle proportional to their position, so that q . k depends on the distance only.

# %%
cos, sin = rope_tables(max_len=64, head_dim=D, theta=10_000.0)            # (64, D / 2)
one_q, one_k = torch.randn(D, generator=generator), torch.randn(D, generator=generator)


def turned(x, position):
    """x (D,) as it enters attention at a position."""
    return rotate(x[None], cos[position], sin[position])[0]


for distance in (0, 3, 10):
    products = [float(turned(one_q, at + distance) @ turned(one_k, at)) for at in (0, 7, 40)]
    print(f"distance {distance:>2}: q.k at three places", [round(p, 5) for p in products])
    assert max(products) - min(products) < 1e-4

# %% [markdown]
# QK-norm (Henry 2020) gives each q and k the length sqrt(D), times a learnt gain, before the
# rotation. At a gain of 1 no score can exceed sqrt(D), however large the projection's weights grow.

# %%
loud = 100 * torch.randn(1000, D, generator=generator)
quiet = head_norm(loud, torch.ones(D), 1e-6)
print(f"largest score: raw {(loud @ loud.T).max() / D ** 0.5:.0f}, with QK-norm "
      f"{(quiet @ quiet.T).max() / D ** 0.5:.3f}, bound sqrt(D) = {D ** 0.5:.3f}")

# %% [markdown]
# ## The whole model
#
# `minireason/model.py` stacks attention and a SwiGLU, each around a residual connection. We count
# its parameters by hand. A model that knows nothing predicts every token alike: its first loss is
# ln V.

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
line_rng = rng(0, "tutorial 2")
lines = corpus_lines(Mixture(max_level=3), chain, line_rng, 32)
print("a line of the data:", lines[0])
rows = encode_lines(tokenizer, [""] * len(lines), lines)
batches, count = micro_batches(rows, 10_000, tokenizer.pad, packed=False)
(batch,) = batches
print(f"one batch: inputs {tuple(batch.inputs.shape)}, {count} counted tokens")
with torch.no_grad():
    first = float(nll(model(batch.inputs), batch.targets, batch.loss_mask, count))
print(f"loss of random weights {first:.3f}, ln V = {math.log(shape.vocab_size):.3f}")
assert abs(first - math.log(shape.vocab_size)) < 0.1

# %% [markdown]
# The loss by hand: of every counted token minus the log of the probability that the model gave it,
# averaged.

# %%
with torch.no_grad():
    probabilities = model(batch.inputs).softmax(dim=-1)                   # (B, T, V)
total = 0.0
for row in range(len(lines)):
    for t in range(batch.inputs.shape[1]):
        if batch.loss_mask[row, t]:
            total -= math.log(probabilities[row, t, batch.targets[row, t]])
print(f"loss by hand {total / count:.5f}, library {first:.5f}")
assert abs(total / count - first) < 1e-4

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
# We take q and k of one line from the trained model's first layer, as attention.py makes them, and
# draw the weights that our loops give.

# %%
tokens = torch.tensor(tokenizer.encode("<bos>" + lines[0]))
block = model.blocks[0]
with torch.no_grad():
    normed = torch.nn.functional.rms_norm(model.embedding(tokens), (shape.d_model,),
                                          block.attention_norm, shape.norm_eps)
    heads = block.qkv(normed).unflatten(-1, (9, shape.head_dim))          # (T, 3 H, D)
cos, sin = model.cos[:len(tokens), None], model.sin[:len(tokens), None]
q = rotate(head_norm(heads[:, 0:3], block.q_gain.detach(), shape.norm_eps), cos, sin)
k = rotate(head_norm(heads[:, 3:6], block.k_gain.detach(), shape.norm_eps), cos, sin)
_, weights = attention_by_hand(q[:, 0], k[:, 0], heads[:, 6])
assert torch.allclose(weights.sum(dim=1), torch.ones(len(tokens)), atol=1e-5)
assert weights.triu(1).abs().max() == 0
figure, axes = panels(2)
axes[0].plot(losses, color="#0072B2")
axes[0].axhline(math.log(shape.vocab_size), color="#999999", linestyle="--")
axes[0].text(STEPS - 1, math.log(shape.vocab_size) - 0.08, "ln V", ha="right", va="top")
axes[0].set(xlabel="step", ylabel="loss (nats a token)", title="Learning one batch by heart")
axes[1].imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
names = [tokenizer.decode([i]) for i in tokens.tolist()]
axes[1].set_xticks(range(len(names)), names, rotation=90, fontsize=6)
axes[1].set_yticks(range(len(names)), names, fontsize=6)
axes[1].set(title="Weights of layer 1, head 1", xlabel="seen position", ylabel="asking position")
axes[1].grid(False)
keep(figure, "02_transformer")

# %% [markdown]
# ## Cached decoding
#
# To write a token the model needs the keys and values of all tokens before. These do not change,
# so they are kept. The naive way computes all of them anew for every token. Both must give the same
# logits.

# %%
prompt = tokenizer.encode("<bos>((23+4)*3)=<think>")
LENGTH = 40


@torch.inference_mode()
def greedy_naive():
    """Logits of LENGTH greedy tokens, each from a forward pass over the whole row."""
    row, seen = list(prompt), []
    for _ in range(LENGTH):
        seen.append(model(torch.tensor([row]))[0, -1])
        row.append(int(seen[-1].argmax()))
    return torch.stack(seen)


@torch.inference_mode()
def greedy_cached():
    """The same with a KV cache: one token in, one row of logits out."""
    logits, cache = prefill(model, [prompt], len(prompt) + LENGTH, tokenizer.pad)
    seen = [logits[0]]
    while len(seen) < LENGTH:
        seen.append(model.decode(seen[-1].argmax()[None], cache)[0])
    return torch.stack(seen)


naive, cached = greedy_naive(), greedy_cached()
print(f"largest difference of {LENGTH} x {shape.vocab_size} logits: "
      f"{(naive - cached).abs().max():.1e}")
work = sum(len(prompt) + i for i in range(LENGTH))
print(f"tokens sent through the model: naive {work}, cached {len(prompt) + LENGTH - 1}")
assert torch.allclose(naive, cached, atol=1e-4)

# %% [markdown]
# ## Try it
#
# 1. Remove the division by sqrt(D) from `attention_by_hand`. How large is the difference, and what
#    happens to the weights when D grows?
# 2. Train on two batches in turn instead of one. How many more steps does the same loss take?
# 3. `ModelConfig(n_kv_heads=1)` shares keys and values among all heads (Ainslie 2023,
#    arXiv:2305.13245). Count its parameters, and the numbers that its cache holds per token.
