# %% [markdown]
# # 9. Quiet thoughts
#
# So far a policy thought because a trace or a reward asked for it. Quiet-STaR (Zelikman 2024,
# arXiv:2403.09629) asks for less: ordinary text. After a token of a line the model writes thoughts,
# and a thought is good if it makes the tokens that follow likelier. Nobody says what to think, and
# no verifier judges during training. It reads a finished run (`minireason run`). About a minute.

# %%
import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from tutorial_tools import finished, keep, mean, panels

from minireason.core.config import rng, stream_seed
from minireason.core.files import read_lines
from minireason.measure.estimates import paired_bootstrap
from minireason.measure.quiet_thoughts import completion, lines_of
from minireason.model import checkpoint
from minireason.problems import chain, sample_levels
from minireason.report.style import BLACK, BLUE, GREEN, whiskers
from minireason.sampling.sampler import Sampling
from minireason.stages import quiet_star
from minireason.training.losses import group_advantages
from minireason.training.thoughts import (
    QuietModel,
    predictions,
    shared_hidden,
    text_logprobs,
    think,
    thought_batch,
)

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
N, STEPS, SHOWN = (6, 2, 4) if SMALL else (150, 70, 150)
RUN = finished(os.environ.get("MINIREASON_RUN", "runs/quickstart"), "pretrain")
policy, tokenizer = checkpoint.load(RUN / "pretrain")
model = QuietModel.from_policy(policy, stream_seed(0, "mixing"))

# %% [markdown]
# ## The text, and a thought in it
#
# The text is a question with its bare answer: no line shows a step. The base model has read worked
# lines before, so it can write a thought if it is given the token `<think>`. We let it write four
# of them after `=`, each at most 18 tokens long.

# %%
problems = sample_levels(chain, rng(0, "tutorial 9"), (2, 3), N)
lines = lines_of(tokenizer, problems)                      # (tokens, index of the answer) each
roots = [[first - 1] for _, first in lines]                # a thought after the question's "="
M = 4
how = Sampling(n=M, max_new=18, stop=(tokenizer.end_think,), seed=1)
thoughts = think("own", policy, tokenizer, lines, roots, how)
print(tokenizer.decode(lines[1][0]))
for thought in thoughts[1]:
    print("   ", tokenizer.decode(thought.tokens))

# %% [markdown]
# ## One row for a line and its thoughts
#
# Laid flat, a line with M thoughts is M rows, and its keys and values are computed M times. So the
# library lays the thoughts behind their line and lets an attention mask say who sees whom: a
# thought sees the line up to its root, and itself, never another thought. Here is that mask for a
# line with two thoughts, and a check that nothing else has changed: the log-probabilities of the
# true token after each thought, by flat rows and by the shared one.

# %%
tiny = thought_batch([lines[0][0]], [thoughts[0][:2]], 1, tokenizer)
for row in tiny.visible()[0].int().tolist():
    print("  ", "".join(".#"[seen] for seen in row))

batch = thought_batch([tokens for tokens, _ in lines], thoughts, 1, tokenizer)
with torch.no_grad():
    found = predictions(model, shared_hidden(model, batch), batch)
    flat = []
    for (tokens, first), own in zip(lines[:8], thoughts[:8], strict=True):
        for thought in own:
            row = [*tokens[:first], tokenizer.think, *thought.tokens, tokenizer.end_think]
            hidden = policy.hidden(torch.tensor([row]))[0, -1]       # after </think>
            flat.append(text_logprobs(policy, hidden))
difference = (torch.stack(flat) - found.after[:len(flat)]).abs().max().item()
print(f"largest difference of a log-probability, flat against shared: {difference:.1e}")
assert difference < 1e-4

# %% [markdown]
# ## What a thought is worth
#
# Its reward is the log-probability of the true answer after it; its advantage A is that minus the
# mean over the M thoughts at the same place. REINFORCE raises log p(thought) in proportion to A. By
# hand, and by the library:

# %%
true = found.targets[:, None]
reward = found.after.gather(1, true)[:, 0]                                # (N * M,)
by_hand = (reward.view(-1, M) - reward.view(-1, M).mean(1, keepdim=True)).flatten()
assert torch.allclose(by_hand, group_advantages(reward, M, "reinforce"), atol=1e-5)
before = found.before.gather(1, true)[:, 0]
sound = []
for problem, own in zip(problems, thoughts, strict=True):
    sound += [chain.verify(problem, completion(tokenizer, problem, t)).steps_valid for t in own]
sound = np.array(sound, dtype=bool)
gain = (reward - before).numpy()


def nats(values):
    """The mean in nats, with its 95% bootstrap interval."""
    return f"{mean(values / 100)}" if len(values) else "–, n = 0"         # mean() shows percent


print(f"log p(answer | line), nats:                   {nats(before.numpy())}")
print(f"gain by a thought with all steps right, nats: {nats(gain[sound])}")
print(f"gain by a thought with a wrong step, nats:    {nats(gain[~sound])}")

# %% [markdown]
# The advantage knows nothing of steps, yet right thoughts are those that it raises: the true answer
# tells them apart. That is the whole signal.
#
# ## Training, and what it is worth
#
# The stage adds four losses: of the line, of the true tokens after a thought, of the mixture
#
#     p(x) = w p(x | line, thought) + (1 - w) p(x | line)
#
# and REINFORCE. w comes from a small head that reads both predictions; it starts at 0.05 everywhere
# and learns where a thought pays. The control reads the same lines without thoughts, with as many
# FLOPs, which buys it almost five times the steps.

# %%
SHARED = {"base": str(RUN / "pretrain"), "init": str(RUN / "pretrain"), "min_level": 2,
          "max_level": 3, "lines": 2000, "lengths": (18,), "lr": 1e-3, "eval_n": SHOWN,
          "weighed": 2 if SMALL else 20, "device": "cpu", "split": "validation"}
ARMS = {"own thoughts": {"steps": STEPS},
        "no thoughts": {"thoughts": "none", "steps": 14 * STEPS // 3}}
rows, verdicts = {}, {}
with tempfile.TemporaryDirectory() as folder:
    for arm, settings in ARMS.items():
        out = Path(folder) / arm.replace(" ", "-")
        with contextlib.redirect_stdout(io.StringIO()):           # the stage's own samples
            result = quiet_star.run(quiet_star.Config(**SHARED | settings, out=str(out)))
        rows[arm], verdicts[arm] = read_lines(out / "rows.jsonl"), result["quiet_verdicts"]
        print(f"{arm}: {result['flops']:.1e} FLOPs")


def answers(arm, level):
    """1 where the arm's greedy answer is right, per problem; with thoughts where it has them."""
    digits = list(verdicts[arm].values())[-1][f"chain-validation-k{level}"]
    return np.array([digit == "1" for digit in digits], dtype=float)


for level in (2, 3):
    for arm in ARMS:
        print(f"level {level}, {arm}: {mean(answers(arm, level))} % right")
weights = {row["token"]: row["accuracy"] for row in rows["own thoughts"]
           if row["method"] == "weight"}
for kind, weight in weights.items():
    print(f"mean w after {kind!r}: {weight:.2f}")

# %%
figure, axes = panels(2)
for arm, color, marker in zip(ARMS, (GREEN, BLACK), "os", strict=True):
    shown = [row for row in rows[arm] if row["method"] == "quiet"][-2:]
    whiskers(axes[0], (2, 3), [[100 * row[key] for key in ("accuracy", "low", "high")]
                               for row in shown], color, marker, arm)
axes[0].set(xlabel="level (operations)", ylabel="right (%)", ylim=(0, 100), xticks=(2, 3),
            title="Greedy answers, equal lines and FLOPs")
axes[0].legend()
axes[1].bar(list(weights), list(weights.values()), color=BLUE)
axes[1].set(ylabel="mean w after this token", ylim=(0, 1), title="Where it thinks")
keep(figure, "09_quiet_thoughts")

# %% [markdown]
# ## The claim
#
# Thoughts that only had to predict text answer better than training on that text without them, and
# the head has found where they pay: after the question, nowhere else.

# %%
both = [np.concatenate([answers(arm, level) for level in (2, 3)]) for arm in ARMS]
print(f"own thoughts - no thoughts: {mean(*both)} points")
lowest = paired_bootstrap(*both)[1]                       # of the 95% interval
elsewhere = max(weight for kind, weight in weights.items() if kind != "=")
assert SMALL or (lowest > 0.1 and weights["="] > 2 * elsewhere)

# %% [markdown]
# A thought that nobody asked for, judged by nothing but the text that follows it, has taught the
# model to reason where a direct answer is out of its reach.
#
# ## Try it
#
# 1. Set `reinforce=0.0`: thoughts are still read, but never made better. What is left of the gain?
# 2. Replace the model's thoughts by pause tokens (`thoughts="pause"`, `samples=1`). Is it the extra
#    computation that helps?
# 3. Shorten the thoughts to 6 tokens (`lengths=(6,)`). Which levels survive?
#
# <details><summary>Hints</summary>
#
# 1. Add an arm to `ARMS`. The reader of thoughts learns in both arms, the writer in one.
# 2. A pause token is the same whatever the line says. What can a thought carry that it cannot?
# 3. Count the tokens of a step, `23+4=27;`, and of two.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. About half: the base's own thoughts, written as its fallible authors write, are right often
#    enough to be worth reading. REINFORCE makes right ones more frequent.
# 2. No: pauses answer no better than ordinary training. The tokens of a thought store what was
#    computed; pauses only add positions.
# 3. None: six tokens hold one step, and a thought that is cut ends nowhere. Level 2 needs 12
#    tokens, level 3 needs 18.
#
# </details>
