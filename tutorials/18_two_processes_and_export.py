# %% [markdown]
# # 18. Two processes, and out into the world
#
# Larger models are trained by many processes that must do what one would do, and used in programs
# that never saw this library. We split a batch in two, first by hand and then over two real
# processes, and find the same gradient; then we write a folder that `transformers` loads, and find
# the same logits. It needs no trained model, and `transformers` (the extra `dev`). About 30
# seconds.

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from tutorial_tools import keep, panels

from minireason import export
from minireason.core.config import rng
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.report.style import BLUE, GREEN, ORANGE
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, supervised_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS = 2 if SMALL else 10
FOLDER = Path(tempfile.mkdtemp())
tokenizer = Tokenizer.build(chain.TOKENS)
SHAPE = ModelConfig(tokenizer.vocab_size, d_model=48, n_layers=2, n_heads=4, n_kv_heads=2,
                    head_dim=16, d_ff=96, max_len=80)
model = Transformer.random(SHAPE, seed=0)
lines = corpus_lines(Mixture(max_level=3), chain, rng(0, "tutorial 18"), 16)
rows = encode_lines(tokenizer, [""] * len(lines), lines)

# %% [markdown]
# ## Two halves of a batch
#
# The loss of a batch is a sum over counted tokens divided by their number. A sum may be cut
# anywhere, a mean may not: the halves hold different numbers of tokens. So each process divides its
# sum by the count of the *whole* batch, and the gradients are added.


# %%
def gradient(rows, count):
    """The gradient of the rows' summed loss over `count`, as one vector."""
    model.zero_grad()
    for batch in micro_batches(rows, 4096, tokenizer.pad)[0]:
        nll(model(batch.inputs, batch.cu_seqlens, batch.max_len), batch.targets, batch.loss_mask,
            count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def counted(rows):
    """Tokens that count in the loss."""
    return micro_batches(rows, 4096, tokenizer.pad)[1]


whole = gradient(rows, counted(rows))
halves = rows[0::2], rows[1::2]
by_sum = sum(gradient(half, counted(rows)) for half in halves)
by_mean = sum(gradient(half, counted(half)) for half in halves) / 2
print("counted tokens of the halves:", *map(counted, halves))


def apart(vector, other=whole):
    """The relative distance of two vectors."""
    return float((vector - other).norm() / other.norm())


print(f"sum over the global count: off by {apart(by_sum):.1e}; mean of the means: off by "
      f"{apart(by_mean):.1e}")

# %% [markdown]
# ## The message
#
# Each process needs the sum of all gradients. In a ring of W processes, everyone passes on a part
# and adds what came: after W - 1 rounds each part is summed somewhere, after W - 1 more all have
# all of it. A process sends 2 (W - 1) / W times the gradient's size, never twice it. By hand, with
# vectors as processes:


# %%
def ring_all_reduce(vectors):
    """(sums, numbers that each process sent) of W vectors."""
    W, sent = len(vectors), 0
    parts = [list(np.array_split(np.array(v, dtype=float), W)) for v in vectors]
    for turn in range(2 * (W - 1)):
        moving = []
        for rank in range(W):
            part = (rank - turn) % W if turn < W - 1 else (rank + 1 - (turn - W + 1)) % W
            moving.append(((rank + 1) % W, part, parts[rank][part].copy()))
            sent += len(parts[rank][part])
        for to, part, numbers in moving:
            parts[to][part] = parts[to][part] + numbers if turn < W - 1 else numbers
    return [np.concatenate(p) for p in parts], sent / W


vectors = np.random.default_rng(0).standard_normal((4, 1000))
sums, sent = ring_all_reduce(vectors)
print(f"4 processes, 1,000 numbers each: every one sent {sent:.0f}, by the formula "
      f"{2 * 3 / 4 * 1000:.0f}")
assert all(np.allclose(s, vectors.sum(axis=0)) for s in sums) and sent == 1500

# %% [markdown]
# ## Two real processes
#
# `torchrun` starts the same script twice, each with a RANK of its own. The library's training code
# needs no change: `micro_batches` gives a process its share of the rows, and `train_step` adds the
# gradients before the update (`minireason/core/parallel.py`). The script trains a few steps and
# writes its weights; this process does the same alone.

# %%
SCRIPT = '''
import sys
import torch
from minireason.core import parallel
from minireason.core.config import rng
from minireason.model import checkpoint
from minireason.problems import chain
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer, supervised_step

torch.set_num_threads(1)
parallel.init(torch.device("cpu"))
start, out, steps = sys.argv[1:]
model, tokenizer = checkpoint.load(start)
optimizer = make_optimizer(model, weight_decay=0.0)
for step in range(int(steps)):
    lines = corpus_lines(Mixture(max_level=3), chain, rng(0, "rows", step), 16)
    supervised_step(model, optimizer, encode_lines(tokenizer, [""] * 16, lines), 1e-3, 4096,
                    tokenizer.pad)
print(f"rank {parallel.rank()} of {parallel.world_size()}\\n", end="")
checkpoint.save(out, model, tokenizer)          # rank 0 writes, and all wait for it
'''
(FOLDER / "train.py").write_text(SCRIPT)
for name in ("start", "two"):
    (FOLDER / name).mkdir()
checkpoint.save(FOLDER / "start", model, tokenizer)
done = subprocess.run(
    [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
     str(FOLDER / "train.py"), str(FOLDER / "start"), str(FOLDER / "two"), str(STEPS)],
    capture_output=True, text=True, timeout=600)
assert done.returncode == 0, done.stderr[-2000:]
print("\n".join(sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))))
alone, _ = checkpoint.load(FOLDER / "start")
optimizer = make_optimizer(alone, weight_decay=0.0)
for step in range(STEPS):
    own = corpus_lines(Mixture(max_level=3), chain, rng(0, "rows", step), 16)
    supervised_step(alone, optimizer, encode_lines(tokenizer, [""] * 16, own), 1e-3, 4096,
                    tokenizer.pad)
two, _ = checkpoint.load(FOLDER / "two")
flat = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (alone, two, model)]
moved = float((flat[0] - flat[2]).norm())
print(f"after {STEPS} steps: one process moved the weights by {moved:.3f}, two processes end "
      f"{float((flat[0] - flat[1]).norm()):.1e} away from it")

# %% [markdown]
# Not the same bits: two processes add the same numbers in another order, and float32 rounds. Over
# thousands of steps such differences grow, so a run says how many processes made it.
#
# ## Out into the world
#
# The model's maths is Qwen3's (arXiv:2505.09388) under other names: q, k and v lie in one matrix,
# gate and up in another. Exporting is naming and slicing. By hand for one matrix, then the whole
# folder:

# %%
out = FOLDER / "exported"
out.mkdir()
export.write_folder(out, two, tokenizer, chain)
theirs = load_file(out / "model.safetensors")
H, HKV, D = SHAPE.n_heads, SHAPE.n_kv_heads, SHAPE.head_dim
fused = two.blocks[1].qkv.weight.detach()                                 # ((H + 2 Hkv) D, d_model)
keys_by_hand = fused[H * D:(H + HKV) * D]
assert torch.equal(keys_by_hand, theirs["model.layers.1.self_attn.k_proj.weight"])
print("config.json", "model.safetensors", "tokenizer.json", sep=", ")
assert sum(t.numel() for t in theirs.values()) == two.n_params

# %%
qwen = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
their_tokenizer = AutoTokenizer.from_pretrained(out)
text = "((23+4)*3)=<think>23+4=27;27*3=81</think>81"
ids = their_tokenizer(text, return_tensors="pt").input_ids
assert ids[0].tolist() == tokenizer.encode("<bos>" + text)
with torch.no_grad():
    ours, loaded = two(ids)[0], qwen(ids).logits[0]
print(f"{type(qwen).__name__}: largest difference of the logits {(ours - loaded).abs().max():.1e}")
back = export.read_weights(out / "model.safetensors", export.our_config(out / "config.json"))
same = all(torch.equal(a, b) for a, b in zip(back.parameters(), two.parameters(), strict=True))
print("imported again, the same bits:", same)

# %%
figure, axes = panels(2)
kinds = {"sum, global count": by_sum, "mean of means": by_mean}
for (name, vector), color, marker in zip(kinds.items(), (GREEN, ORANGE), "o.", strict=True):
    axes[0].plot(whole.numpy(), (vector - whole).abs().numpy() + 1e-12, color=color,
                 marker=marker, markersize=2, linestyle="none", label=name)
axes[0].set(yscale="log", xlabel="gradient of the whole batch", ylabel="error of the two halves",
            title="Two halves of a batch")
axes[0].legend()
axes[1].plot(ours.flatten().numpy(), loaded.flatten().numpy(), color=BLUE, marker=".",
             linestyle="none", markersize=2)
axes[1].set(xlabel="our logits", ylabel="logits of transformers", title="After the export")
keep(figure, "18_two_processes_and_export")

# %% [markdown]
# ## The claim
#
# Split over processes, training is the same: the gradient of two halves is that of the whole to the
# rounding of float32 (a mean of means is a thousand times farther off), and after the same steps
# two processes stand where one does, to a thousandth of the way they came. And an exported model is
# the same model: the same logits within 1e-5 in other people's code, the same bits when read back.

# %%
assert apart(by_sum) < 1e-5 and apart(by_mean) > 1000 * apart(by_sum)
assert float((flat[0] - flat[1]).norm()) < 1e-3 * moved
assert (ours - loaded).abs().max() < 1e-5 and same

# %% [markdown]
# In one sentence: sums can be split over machines and names translated between programs, and both
# are right only if a test compares numbers.
#
# ## Try it
#
# 1. Why does the mean of means err? Build two halves for which it is exact.
# 2. How many numbers does each of 2, 4 and 8 processes send in the ring, as a share of the
#    gradient, and how many in all if every process sends its whole gradient to one, which sends
#    back the sum?
# 3. Export the model with untied embeddings (`tied=False`). Which tensor is new, and how many
#    parameters does it add?
#
# <details><summary>Hints</summary>
#
# 1. Which weight does a token get in each of the two formulas?
# 2. Call `ring_all_reduce` with random vectors.
# 3. `export.views(Transformer(...))`.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. A mean of means weighs each token by 1 / (2 n) with n the tokens of its own half, where the
#    whole gives every token 1 / (n1 + n2). With as many counted tokens in both halves the two
#    agree, for example when each row has a row of the same length in the other half.
# 2. 1, 1.5 and 1.75 times the gradient's size, which tends to 2: it hardly grows with the number of
#    processes. With one collector each of the others sends its gradient once, but the collector
#    receives W - 1 gradients and sends as many: 2 (W - 1) through one machine.
# 3. `lm_head.weight`, V x d_model = 136 x 48 = 6,528 parameters.
#
# </details>
