# %% [markdown]
# # 4. Chain of thought, and fine-tuning on it
#
# The same weights answer directly or step by step. We measure both, explain the difference by the
# accuracy of single steps, and fine-tune for a few steps on worked traces. It reads a finished run
# (`minireason run`). About 20 seconds.

# %%
import os

import numpy as np
from tutorial_tools import finished, keep, mean, panels, share

from minireason.core.config import rng
from minireason.measure.estimates import paired_bootstrap, wilson
from minireason.measure.evaluate import frozen_sets, show, verdicts_of
from minireason.model import checkpoint
from minireason.problems import chain
from minireason.report.style import BLACK, ORANGE, SKY, whiskers
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages.sft import Config as SFTConfig
from minireason.stages.sft import traces
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
N, STEPS = (4, 3) if SMALL else (150, 30)
RUN = finished("pretrain", "sft")
GREEDY = Sampling(temperature=0)

# %% [markdown]
# ## Direct against step by step
#
# The opener decides: after `</think>` the model must answer at once, after `<think>` it may write
# steps first. Nothing else differs. We take the pretrained model and frozen test problems.

# %%
policy, tokenizer = checkpoint.load(RUN / "pretrain")
sets = frozen_sets("chain", "test", N)
problems = [problem for members in sets.values() for problem in members]
levels = np.array([problem.level for problem in problems])


def answered(model, style):
    """The verdict on one greedy completion of every problem."""
    completions = complete(model, tokenizer, problems, style, GREEDY)
    return [row[0] for row in verdicts_of(problems, completions)]


verdicts = {"direct": answered(policy, "direct"), "step by step": answered(policy, "cot")}
right = {name: np.array([v.correct for v in row]) for name, row in verdicts.items()}
for level in chain.LEVELS:
    mine = levels == level
    print(f"level {level}: direct {share(right['direct'][mine].sum(), mine.sum())}; step by step "
          f"{share(right['step by step'][mine].sum(), mine.sum())}")
print(f"difference over all levels, paired: {mean(right['step by step'], right['direct'])} points")
print(show(policy, tokenizer, problems[2 * N:2 * N + 1] + problems[-1:], "cot", GREEDY))

# %% [markdown]
# ## Why: one step is easy
#
# The verifier marks every step from the state before it. Let p be the share of single steps that
# are exact. If steps failed independently, a chain of k steps were exact with probability p^k.
# We compare that with the measured share of exact chains.


# %%
def step_accuracy(row, mine):
    """(exact steps, steps) of the chosen verdicts; a step that is missing counts as wrong."""
    marks = [sum(v.marks[:problems[i].level]) for i, v in enumerate(row) if mine[i]]
    return sum(marks), sum(problems[i].level for i in np.flatnonzero(mine))


for level in chain.LEVELS:
    mine = levels == level
    good, steps = step_accuracy(verdicts["step by step"], mine)
    exact = sum(v.steps_valid for v, chosen in zip(verdicts["step by step"], mine, strict=True)
                if chosen)
    print(f"level {level}: a step {share(good, steps)}; p^k {100 * (good / steps) ** level:5.1f}%; "
          f"measured {share(exact, mine.sum())}")

# %% [markdown]
# Where the measured share lies above p^k, errors come together: some problems hold several steps
# that a wrong rule of the authors covers (a borrow, a carry), others hold none. For the same reason
# the interval of a step, which counts steps as independent, is too narrow.
#
# ## What fine-tuning trains on
#
# Supervised fine-tuning (SFT) shows a few dozen worked traces without an error. The loss counts
# completions only: the prompt is given, so the model need not learn to write it. Here is the mask,
# token by token.

# %%
cfg = SFTConfig(init=str(RUN / "pretrain"), seed=0, max_level=4 if SMALL else 8)
pool = traces(cfg)
prompt, hint, completion = pool[1]
((tokens, first),) = encode_lines(tokenizer, [prompt], [completion])
print(f"{len(pool)} traces; of this one, {len(tokens) - first} of {len(tokens)} tokens count")
print("not counted:", tokenizer.decode(tokens[:first]), "  counted:",
      tokenizer.decode(tokens[first:]))
(batch,), count = micro_batches([(tokens, first)], 1000, tokenizer.pad, packed=False)
assert count == int(batch.loss_mask.sum()) == len(tokenizer.encode(completion))

# %% [markdown]
# ## A short fine-tuning
#
# The stage takes 30 steps, and so do we, with the same loss and traces; we watch the levels
# apart.

# %%
model, _ = checkpoint.load(RUN / "pretrain")
optimizer = make_optimizer(model, cfg.weight_decay)
for step in range(STEPS):
    chosen = [pool[i] for i in rng(0, "tutorial 4", step).integers(0, len(pool), 32)]
    rows = encode_lines(tokenizer, [p for p, _, _ in chosen], [c for _, _, c in chosen])
    batches, count = micro_batches(rows, cfg.token_budget, tokenizer.pad)
    loss, _ = train_step(
        model, optimizer, batches,
        lambda b, n=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                               b.loss_mask, n), schedule(step, STEPS, cfg.lr, 5))
    if step in (0, STEPS - 1):
        print(f"step {step}: loss {loss:.3f} nats per token")

# %%
stage, _ = checkpoint.load(RUN / "sft")
right["SFT, here"] = np.array([v.correct for v in answered(model, "cot")])
right["SFT, the run's"] = np.array([v.correct for v in answered(stage, "cot")])
for part, mine in (("levels 1 to 4", levels <= 4), ("level 8", levels == 8)):
    for name in ("SFT, here", "SFT, the run's"):
        print(f"{part}, {name}: {share(right[name][mine].sum(), mine.sum())}; minus pretrained "
              f"{mean(right[name][mine], right['step by step'][mine])} points")

# %% [markdown]
# Sixty exact traces lead beyond the authors of a hundred thousand lines, but not far: they cannot
# show every step that a wrong rule covers. Replaying the pretraining text, the usual remedy against
# forgetting, would teach its errors back. STaR, the next stage, needs no more experts.

# %%
figure, axes = panels(1)
for name, label, color, marker in (
        ("direct", "direct answer", BLACK, "o"),
        ("step by step", "pretrained, step by step", ORANGE, "s"),
        ("SFT, here", f"SFT, {STEPS} steps", SKY, "^")):
    rows = [[100 * x for x in (right[name][levels == k].mean(),
                               *wilson(right[name][levels == k].sum(), (levels == k).sum()))]
            for k in chain.LEVELS]
    whiskers(axes, list(chain.LEVELS), rows, color, marker, label)
axes.set(xlabel="level", ylabel="right (%)", ylim=(0, 100),
         title=f"One greedy completion, n = {N} a level, 95% intervals")
axes.legend()
keep(figure, "04_chain_of_thought")

# %% [markdown]
# ## The claim
#
# With the same weights, thinking step by step is right far more often than answering at once: over
# all levels by more than 10 points (the lower end of the paired 95% interval). And the direct
# answers collapse with the level while single steps do not: at level 8 the model takes a single
# step right more often than it answers a level 2 problem directly.

# %%
gain = paired_bootstrap(right["step by step"].astype(float), right["direct"].astype(float))
print(f"step by step - direct, all levels: {mean(right['step by step'], right['direct'])} points")
assert SMALL or gain[1] > 0.1
step_right, step_count = step_accuracy(verdicts["step by step"], levels == 8)
assert SMALL or wilson(step_right, step_count)[0] > wilson(
    right["direct"][levels == 2].sum(), (levels == 2).sum())[1]

# %% [markdown]
# In one sentence: a chain of thought turns one step that is too hard into many that are easy, and
# its accuracy is that of its steps, multiplied.
#
# ## Try it
#
# 1. Compare direct accuracy with "always the most frequent answer" of tutorial 1. At which levels
#    is the direct model better than that, given both intervals?
# 2. Fine-tune with half of the rows from the pretraining mixture (`minireason sft --init
#    runs/quickstart/pretrain --replay 0.5 --out runs/replayed`). What happens to levels 1 to 4, and
#    to level 8?
# 3. How many tokens does a completion have, directly and step by step? How many direct answers
#    could be drawn for the tokens of one thought at level 8?
#
# <details><summary>Hints</summary>
#
# 1. Tutorial 1 prints both ends for every level; `share` prints them here.
# 2. Who wrote the mixture? Compare with "SFT, here".
# 3. `len(tokenizer.encode(chain.render(problem, style)))`.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. With the intervals apart at levels 1, 2 and 4 alone: 69% against 3% [2, 7] at level 1, 15% [10,
#    22] against 3% [2, 5] at level 2, 12% [8, 18] against 4% [2, 6] at level 4. From level 5 on the
#    intervals overlap: nothing shows that the direct model does more than name a frequent answer.
# 2. Both lose: 64% in place of 79% at levels 1 to 4 (15 points less, [11, 18]), 36% in place of 49%
#    at level 8 (13 points less, [5, 21]). The mixture's authors err, and half of every batch
#    teaches their errors back.
# 3. Directly 3, step by step 6 k + 3: 9 at level 1, 51 at level 8. So one thought at level 8 costs
#    as much as 17 direct answers.
#
# </details>
