# %% [markdown]
# # 12. The sampler and its cache
#
# A model gives probabilities; a sampler makes text of them. We draw a token by hand, cut the
# distribution by temperature, top-k and top-p, keep keys and values from token to token, and check
# what matters for training later: that the probabilities which the sampler reports are those it
# drew from. It needs no trained model. About 20 seconds.

# %%
import os

import numpy as np
import torch
from tutorial_tools import keep, panels, share

from minireason.core.config import rng
from minireason.measure.estimates import wilson
from minireason.model.attention import head_norm, rotate, split_heads
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import KVCache, ModelConfig, Transformer, rms_norm, swiglu
from minireason.problems import chain
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.report.style import BLUE, GREEN, ORANGE, PURPLE
from minireason.sampling.complete import sample
from minireason.sampling.sampler import Sampling, decode_chunk, prefill, split_into_chunks, uniforms
from minireason.training.batches import encode_lines
from minireason.training.losses import truncate_logits
from minireason.training.optim import make_optimizer, schedule, supervised_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS, DRAWS, LENGTH = (4, 2000, 40) if SMALL else (150, 20_000, 40)
tokenizer = Tokenizer.build(chain.TOKENS)
shape = ModelConfig(tokenizer.vocab_size, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2,
                    head_dim=16, d_ff=128, max_len=80)

# %% [markdown]
# A model to sample from: two layers, four query heads that share two heads of keys and values,
# trained for a few seconds on questions of one and two operations.

# %%
model = Transformer.random(shape, seed=0)
optimizer = make_optimizer(model, weight_decay=0.0, muon=True)
for step in range(STEPS):
    lines = corpus_lines(Mixture(max_level=2), chain, rng(0, "tutorial 12", step), 32)
    found = supervised_step(model, optimizer, encode_lines(tokenizer, [""] * 32, lines),
                            schedule(step, STEPS, 1e-2, 5), 4096, tokenizer.pad)
print(f"loss after {STEPS} steps: {found['train/loss']:.2f} nats per token")
prompt = tokenizer.encode("<bos>((23+4)*3)=<think>23+4=")

# %% [markdown]
# ## One token
#
# Lay the probabilities end to end on a line from 0 to 1. A uniform number falls into one of the
# pieces: that is the token. (The inverse of the cumulative distribution.) Temperature 0.5 sharpens
# the distribution, 2 flattens it: logits are divided by it before the softmax.


# %%
def probabilities_by_hand(logits, temperature=1.0, top_k=0, top_p=1.0):
    """(V,) what is drawn from: temperature, then the k likeliest, then the smallest set with
    mass top_p (Holtzman 2020, arXiv:1904.09751)."""
    weights = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-weights, kind="stable")
    if top_k:
        weights[order[top_k:]] = 0
    mass = (weights / weights.sum())[order].cumsum()
    weights[order[1:][mass[:-1] >= top_p]] = 0      # the likeliest token always stays
    return weights / weights.sum()


def draw_by_hand(probabilities, u):
    """The piece of the line from 0 to 1 in which u falls."""
    edge = 0.0
    for token, p in enumerate(probabilities):
        edge += p
        if u < edge:
            return token
    return int(np.flatnonzero(probabilities)[-1])   # rounding left a gap at 1


with torch.no_grad():
    logits = model(torch.tensor([prompt]))[0, -1]
HOWS = {"plain": {}, "temperature 0.5": {"temperature": 0.5}, "temperature 2": {"temperature": 2.0},
        "top-k 5": {"top_k": 5}, "top-p 0.8": {"top_p": 0.8}}
figure, axes = panels(2)
for (name, how), color in zip(HOWS.items(), (BLUE, GREEN, ORANGE, PURPLE, "#999999"), strict=True):
    ours = probabilities_by_hand(logits.double().numpy(), **how)
    theirs = truncate_logits(logits, **{"temperature": 1.0, **how}).softmax(-1).numpy()
    assert np.allclose(ours, theirs, atol=1e-5) and (ours > 0).sum() == (theirs > 0).sum()
    best = np.argsort(-ours)[:4]
    print(f"{name:<16} tokens left {(ours > 1e-12).sum():>3}; likeliest",
          ", ".join(f"{tokenizer.decode([int(i)])} {ours[i]:.2f}" for i in best))
    axes[0].plot(np.arange(1, 21), np.sort(ours)[::-1][:20], color=color, marker=".", label=name)
axes[0].set(xlabel="token, by rank", ylabel="probability", title="After `23+4=`",
            xticks=(1, 5, 10, 15, 20))
axes[0].legend()

# %% [markdown]
# ## Where the uniform numbers come from
#
# A usual generator hands out its numbers in the order in which it is asked, so what a row draws
# depends on who else is in the batch. Here a number is a hash of (seed, row, position). Any row
# can be drawn alone, again, or on another machine.

# %%
together = uniforms(7, np.arange(6), steps=4)
alone = uniforms(7, np.array([5]), steps=4)
print("row 5 together and alone:", together[5].round(4), alone[0].round(4))
assert (together[5] == alone[0]).all()
counts = np.zeros(shape.vocab_size)
plain = probabilities_by_hand(logits.double().numpy())
for u in uniforms(0, np.arange(DRAWS), steps=1)[:, 0]:
    counts[draw_by_hand(plain, u)] += 1
for token in np.argsort(-plain)[:5]:
    print(f"{tokenizer.decode([int(token)]):>3}: probability {100 * plain[token]:.1f}%, drawn "
          f"{share(counts[token], DRAWS)}")

# %% [markdown]
# ## Why a cache
#
# To write token t the model attends to all tokens before. Their keys and values do not change when
# a token is added, because of the causal mask. Computed anew for every token, n tokens cost
# 1 + 2 + ... + n forward passes of one token; kept, n. Here is a cache in a page: two lists per
# layer, to which every token appends.


# %%
@torch.inference_mode()
def step_by_hand(token, cache):
    """Logits (V,) after one more token; cache: per layer the lists of its keys and values."""
    x, position = model.embedding.weight[token], len(cache[0][0])
    for block, (keys, values) in zip(model.blocks, cache, strict=True):
        qkv = block.qkv(rms_norm(x, block.attention_norm, shape.norm_eps))
        q, k, v = split_heads(qkv, shape.n_heads, shape.n_kv_heads)       # (heads, D)
        cos, sin = model.cos[position], model.sin[position]
        q = rotate(head_norm(q, block.q_gain, shape.norm_eps), cos, sin)
        keys.append(rotate(head_norm(k, block.k_gain, shape.norm_eps), cos, sin))
        values.append(v)
        heads = []
        for h in range(shape.n_heads):
            mine = h // (shape.n_heads // shape.n_kv_heads)               # its key and value head
            scores = torch.stack([k[mine] @ q[h] for k in keys]) / shape.head_dim ** 0.5
            weights = scores.softmax(-1)
            heads.append(sum(w * v[mine] for w, v in zip(weights, values, strict=True)))
        x = x + block.out(torch.cat(heads))
        x = x + block.down(swiglu(block.gate_up(rms_norm(x, block.mlp_norm, shape.norm_eps))))
    return model.logits(rms_norm(x, model.final_norm, shape.norm_eps))


@torch.inference_mode()
def greedy_naive():
    """Logits of LENGTH greedy tokens, each from a forward pass over the whole row."""
    row, seen, work = list(prompt), [], 0
    for _ in range(LENGTH):
        seen.append(model(torch.tensor([row]))[0, -1])
        work += len(row)
        row.append(int(seen[-1].argmax()))
    return torch.stack(seen), work


def greedy_by_hand():
    """The same by the cache above."""
    cache = [([], []) for _ in range(shape.n_layers)]
    for token in prompt:
        logits = step_by_hand(token, cache)
    seen = [logits]
    while len(seen) < LENGTH:
        seen.append(step_by_hand(int(seen[-1].argmax()), cache))
    return torch.stack(seen), len(cache[0][0])


@torch.inference_mode()
def greedy_cached():
    """The same by the library: one prefill of the prompt, then one token in, one logit row out."""
    logits, cache = prefill(model, [prompt], len(prompt) + LENGTH, tokenizer.pad)
    seen = [logits[0]]
    while len(seen) < LENGTH:
        seen.append(model.decode(seen[-1].argmax()[None], cache)[0])
    return torch.stack(seen), int(cache.lens[0])


(naive, naive_work), (by_hand, hand_work), (cached, work) = (
    greedy_naive(), greedy_by_hand(), greedy_cached())
print(f"largest difference of {LENGTH} x {shape.vocab_size} logits: by hand - naive "
      f"{(by_hand - naive).abs().max():.1e}, library - naive {(cached - naive).abs().max():.1e}")
print(f"tokens sent through the model: naive {naive_work}, cached {work}")
assert hand_work == work

# %% [markdown]
# The price is memory: 2 L Hkv D numbers per token and row, a key and a value for every layer and
# key head. A full row of this model takes 40 KiB. In a model of 70 billion parameters with long
# contexts it is gigabytes per row, and reading it is what decoding waits for.

# %%
per_token = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim
held = KVCache(model, rows=1, capacity=shape.max_len).kv
print(f"numbers per token: {per_token}; a row of {shape.max_len} tokens: "
      f"{held.numel() * held.element_size() / 1024:.0f} KiB")
assert held.numel() == per_token * shape.max_len
lengths = np.arange(1, 61)
axes[1].plot(lengths, [sum(len(prompt) + i for i in range(n)) for n in lengths], color=ORANGE,
             label="every token anew")
axes[1].plot(lengths, len(prompt) + lengths - 1, color=BLUE, label="with a cache")
axes[1].set(xlabel="tokens drawn", ylabel="tokens sent through the model",
            title="What a cache saves")
axes[1].legend()
keep(figure, "12_sampler_and_cache")

# %% [markdown]
# ## A batch
#
# The library decodes many rows at once. The N samples of a prompt share one prefill; rows that end
# leave the batch; and as a row's numbers are its own, how the rows are cut into chunks changes no
# text.

# %%
prompts = [tokenizer.encode(text) for text in ("<bos>(7+8)=<think>", "<bos>((2*3)+4)=<think>")]
how = {"n": 4, "max_new": 24, "seed": 3}
texts = sample(model, tokenizer, prompts, Sampling(**how))
for text in texts[:3]:
    print("   ", text)
alike = all(sample(model, tokenizer, prompts, Sampling(**how, chunk=chunk)) == texts
            for chunk in (1, 3))
print("texts of chunks of 1, 3 and 512 rows are the same:", alike)

# %% [markdown]
# ## What the sampler reports
#
# Reinforcement learning (tutorial 6) weighs each token by log pi(token), so the sampler hands it
# out with the token. It must be the logarithm of what was drawn from. There is a check that needs
# no truth: for tokens drawn from q, the mean of p / q is 1 for any distribution p with no mass
# where q has none. We draw at temperature 0.7 and take for p the model at temperature 0.5. With the
# reported log q the mean is 1. A common bug is to report the plain model's probability, with the
# temperature forgotten: then it is not.

# %%
warm = Sampling(n=DRAWS // 4, max_new=1, temperature=0.7, seed=5, chunk=DRAWS)
(chunk,) = split_into_chunks([prompt], warm, np.array([1]))
drawn = decode_chunk(model, tokenizer, warm, chunk)
log_p = torch.log_softmax(logits / 0.5, -1)[drawn.tokens[:, 0]]
forgotten = torch.log_softmax(logits, -1)[drawn.tokens[:, 0]]
ratios = (log_p - drawn.logprobs[:, 0]).exp().numpy()
wrong = (log_p - forgotten).exp().numpy()


def mean_with_half(values):
    """The mean and half of its 95% interval."""
    return values.mean(), 1.96 * values.std(ddof=1) / len(values) ** 0.5


for name, values in (("as reported", ratios), ("temperature forgotten", wrong)):
    middle, half = mean_with_half(values)
    print(f"mean of p / q, {name}: {middle:.3f} +- {half:.3f}, n = {len(values)}")

# %% [markdown]
# ## The claim
#
# The cache changes nothing but the work: the logits are the naive ones up to rounding, from less
# than a twentieth of the tokens for 40 drawn ones. The draws follow the probabilities: each of the
# five likeliest tokens has its probability inside the 99.9% interval of its drawn share. And the
# reported probabilities are those drawn from: the mean of p / q is 1 within four standard errors.

# %%
assert torch.allclose(by_hand, naive, atol=1e-4) and torch.allclose(cached, naive, atol=1e-4)
assert work == len(prompt) + LENGTH - 1 and naive_work > 20 * work
for token in np.argsort(-plain)[:5]:
    low, high = wilson(counts[token], DRAWS, z=3.29)
    assert low < plain[token] < high, tokenizer.decode([int(token)])
assert alike
assert abs(ratios.mean() - 1) < 2 * mean_with_half(ratios)[1] + 1e-6
assert SMALL or abs(wrong.mean() - 1) > 2 * mean_with_half(wrong)[1]

# %% [markdown]
# In one sentence: a sampler draws from the distribution that it reports, one token at a time, and
# remembers keys and values so that each token is computed once.
#
# ## Try it
#
# 1. Drop the cache of the first 10 tokens (`del keys[:10], values[:10]` before the first drawn
#    token). Which positions does RoPE then give the rest, and do the logits change?
# 2. A model has 80 layers, 8 heads of keys and values with D = 128, and numbers of 2 bytes. How
#    much memory does the cache of one row of 8,192 tokens take?
# 3. Take p = the model cut to its 3 likeliest tokens and q = the plain model, then the reverse.
#    Which mean of p / q is 1, which is not, and why?
#
# <details><summary>Hints</summary>
#
# 1. The cached keys have been turned already. What is `position` for the next token?
# 2. `per_token` above, in bytes.
# 3. Where does q have no mass?
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. The next token gets position 6 in place of 16, while the cached keys keep their turns of
#    positions 10 to 15: it stands before what it follows, and the logits change. If you drop old
#    tokens, keep counting positions.
# 2. 2 x 80 x 8 x 128 x 2 bytes = 328 kB per token, 2.7 GB per row.
# 3. With q the plain model and p cut to three tokens the mean is 1: q has mass wherever p has. The
#    reverse gives the mass of the three tokens under the plain model: q never draws the rest,
#    so p's mass there is lost. That is the bias of training on truncated samples.
#
# </details>
