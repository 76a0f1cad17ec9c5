# %% [markdown]
# # 9. Quiet thoughts
#
# So far a policy thought because a trace or a reward asked for it. Quiet-STaR (Zelikman 2024,
# arXiv:2403.09629) asks for less: text. After a token of a line the model writes thoughts, and a
# thought is good if it makes the tokens that follow likelier. Nobody says what to think, and no
# verifier judges; but our text holds exact answers, so it knows what a verifier of answers would
# know. The tutorial reads a finished run (`minireason run`). A bit more than a minute.

# %%
import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from tutorial_tools import finished, keep, mean, nats, panels, share

from minireason.core.config import rng, stream_seed
from minireason.core.files import read_json, read_lines
from minireason.measure.estimates import paired_bootstrap, share_interval
from minireason.measure.evaluate import frozen_sets, grade
from minireason.measure.quiet_thoughts import completion, lines_of
from minireason.model import checkpoint
from minireason.problems import chain, sample_levels
from minireason.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, spread, whiskers
from minireason.sampling.sampler import Sampling
from minireason.stages import quiet_star
from minireason.training.losses import group_advantages
from minireason.training.thoughts import (
    UNSAID,
    QuietModel,
    Thought,
    predictions,
    shared_hidden,
    text_logprobs,
    think,
    thought_batch,
)

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
N, STEPS, EVAL_N = (6, 2, 4) if SMALL else (100, 70, 120)
LEVELS, M, LENGTH = (2, 3), 4, 18       # operations; thoughts after a token; tokens each at most
RUN = finished("pretrain")
policy, tokenizer = checkpoint.load(RUN / "pretrain")
model = QuietModel.from_policy(policy, stream_seed(0, "mixing"))

# %% [markdown]
# ## The text, and a thought in it
#
# The text is a question with its bare answer: no line shows a step. The base model has read worked
# lines before, so it can write a thought if it is given the token `<think>`. We let it write four
# of them after the `=` of each question. The token that a thought stands after is called its root.

# %%
problems = sample_levels(chain, rng(0, "tutorial 9"), LEVELS, N)
lines = lines_of(tokenizer, problems)                      # (tokens, index of the answer) each
roots = [[first - 1] for _, first in lines]                # the question's "="
how = Sampling(n=M, max_new=LENGTH, stop=(tokenizer.end_think,), seed=1)
thoughts = think("own", policy, tokenizer, lines, roots, how)
print(tokenizer.decode(lines[1][0]))
for thought in thoughts[1]:
    print("   ", tokenizer.decode(thought.tokens))

# %% [markdown]
# ## One row for a line and its thoughts
#
# Laid flat, a line with M thoughts is M rows, and its keys and values are computed M times. So the
# library lays the thoughts behind their line and lets an attention mask say who sees whom: a
# thought sees the line up to its root, and itself, never another thought. Here is the mask of a
# line of one step with two thoughts, a right and a wrong one. Each row is a token, `#` marks what
# it sees.

# %%
((tokens, first),) = lines_of(tokenizer, [chain.read("(23+4)")])
pair = [Thought(first - 1, tokenizer.encode(text)) for text in ("23+4=27", "23+4=26")]
tiny = thought_batch([tokens], [pair], 1, tokenizer)
names = [tokenizer.decode([token]) for token in tiny.inputs[0].tolist()]
print(" " * 9, *names)
for name, row in zip(names, tiny.visible()[0].tolist(), strict=True):
    marks = [("#" if seen else ".").center(len(column))
             for seen, column in zip(row, names, strict=True)]
    print(f"{name:>9}", *marks)

# %% [markdown]
# A check that nothing else has changed: the log-probabilities of the token after each thought, by
# flat rows and by the shared ones, over all tokens that a text can hold.

# %%
batch = thought_batch([tokens for tokens, _ in lines], thoughts, 1, tokenizer)
possible = [token for token in range(tokenizer.vocab_size) if token not in UNSAID]
with torch.no_grad():
    found = predictions(model, shared_hidden(model, batch), batch)
    flat = []
    for (tokens, first), own in zip(lines[:8], thoughts[:8], strict=True):
        for thought in own:
            row = [*tokens[:first], tokenizer.think, *thought.tokens, tokenizer.end_think]
            hidden = policy.hidden(torch.tensor([row]))[0, -1]       # after </think>
            flat.append(text_logprobs(policy, hidden))
apart = (torch.stack(flat) - found.after[:len(flat)])[:, possible].abs().max().item()
print(f"largest difference of a log-probability, flat against shared: {apart:.1e}")
assert apart < 1e-3                             # float32 sums in another order: about 1e-5

# %% [markdown]
# ## What a thought is worth
#
# Its reward is the log-probability of the true answer after it, here of the answer's one token (the
# stage counts the `<eos>` behind it, too). Natural logarithms count in nats: one nat more is 2.7
# times as likely. The advantage A of a thought is its reward minus the mean over the M thoughts
# after the same root, and REINFORCE raises log p(thought) in proportion to A. By hand, and by the
# library:

# %%
true = found.targets[:, None]
reward = found.after.gather(1, true).view(-1, M)                          # (N, M)
by_hand = reward - reward.mean(1, keepdim=True)
advantage = group_advantages(reward.flatten(), M, "reinforce").view(-1, M)
assert torch.allclose(by_hand, advantage, atol=1e-5)
before = found.before.gather(1, true).view(-1, M)
sound = np.zeros((N, M), dtype=bool)                                      # all steps right
for i, (problem, own) in enumerate(zip(problems, thoughts, strict=True)):
    for j, thought in enumerate(own):
        sound[i, j] = chain.verify(problem, completion(tokenizer, problem, thought)).steps_valid
silent = sum(all(thought.tokens == own[0].tokens for thought in own) for own in thoughts)

print(f"log p(answer | line), nats:                   {nats(before[:, :1].numpy())}")
for kind, chosen in (("all steps right", sound), ("a wrong step", ~sound)):
    print(f"gain by a thought with {kind}, nats: {nats((reward - before).numpy(), chosen)}")
    print(f"    its advantage A, nats:            {nats(advantage.numpy(), chosen)}")
print(f"silent groups, whose thoughts are all the same: {share(silent, N)}")

# %% [markdown]
# The advantage knows nothing of steps; yet on average it raises right thoughts and lowers wrong
# ones, because the true answer tells them apart. That is the whole signal. A silent group gives
# none, and where all four thoughts are wrong, the luckiest is raised.
#
# ## Training, and its controls
#
# The stage adds four losses: of the line, of the true tokens after a thought, of the mixture
#
#     p(x) = w p(x | line, thought) + (1 - w) p(x | line)
#
# and REINFORCE. w comes from a small head that reads both predictions; it starts at 0.05.
#
# Three arms learn from the same text. `own thoughts` is the stage as it is. `REINFORCE 0` reads its
# thoughts, too, but nothing makes them better. `no thoughts` is ordinary training. A thought costs
# many tokens, so arms are compared by their FLOPs, floating-point operations: `no thoughts` reads
# the text 1.3 times, a thinking arm about half of it once, and still has twice the FLOPs. That
# keeps the tutorial short; exercise 3 gives both as many.

# %%
SHARED = {"base": str(RUN / "pretrain"), "init": str(RUN / "pretrain"), "min_level": LEVELS[0],
          "max_level": LEVELS[-1], "lines": 2000, "lengths": (LENGTH,), "lr": 1e-3,
          "eval_n": EVAL_N, "weighed": 1, "device": "cpu", "split": "validation"}
ARMS = {"own thoughts": {"steps": STEPS, "weighed": 2 if SMALL else 20},
        "REINFORCE 0": {"steps": STEPS, "reinforce": 0.0},
        "no thoughts": {"thoughts": "none", "steps": 7 * STEPS // 6, "rows_per_step": 64}}
results, rows, aloud = {}, {}, {}
with tempfile.TemporaryDirectory() as folder:
    for arm, settings in ARMS.items():
        out = Path(folder) / arm.replace(" ", "-")
        with contextlib.redirect_stderr(io.StringIO()):               # the stage's own log
            results[arm] = quiet_star.run(quiet_star.Config(**SHARED | settings, out=str(out)))
        rows[arm], aloud[arm] = read_lines(out / "rows.jsonl"), read_json(out / "verdicts.json")
        print(f"{arm}: {results[arm]['flops']:.1e} FLOPs")

# %% [markdown]
# An answer counts as right if each of its tokens is the most probable one, given those before it:
# what greedy decoding writes. The thinking arms write a greedy thought after the question and
# answer by the mixture. Arms without thoughts can answer in two ways: at once, or thinking aloud,
# as in tutorial 4: the policy writes `<think>`, steps and answer itself. That second way needs no
# training at all, so the base thinking aloud is the control that matters most.

# %%
sets = frozen_sets("chain", "validation", EVAL_N, LEVELS)
verdicts, _ = grade(policy, tokenizer, sets, "cot", Sampling(temperature=0))


def correct_of(digits):
    """A digit per problem as numbers: 1 where the answer is right."""
    return np.array([digit != "0" for digit in digits], dtype=float)


right = {}                                            # {who: {set: (EVAL_N,)}}
right["base, thinking aloud"] = {
    name: np.array([v.correct for v in verdicts[name]], dtype=float) for name in sets}
at_once = results["no thoughts"]["quiet_verdicts"]["0"]             # by thought length
right["no thoughts, at once"] = {name: correct_of(at_once[name]) for name in sets}
right["no thoughts, thinking aloud"] = {
    name: correct_of(aloud["no thoughts"]["greedy"][name]) for name in sets}
for arm in ("REINFORCE 0", "own thoughts"):
    with_thought = results[arm]["quiet_verdicts"][str(LENGTH)]
    right[arm] = {name: correct_of(with_thought[name]) for name in sets}

for name in sets:
    for who, found_right in right.items():
        print(f"{name}, {who}: {share(found_right[name].sum(), EVAL_N)}")
weights = {row["token"]: row for row in rows["own thoughts"] if row["method"] == "weight"}
for kind, row in weights.items():
    print(f"mean w after {kind!r}: {row['accuracy']:.2f}")

# %%
figure, axes = panels(2, 4.2)
LOOKS = zip((BLACK, ORANGE, SKY, PURPLE, GREEN), "osD^v", strict=True)
for i, ((who, found_right), look) in enumerate(zip(right.items(), LOOKS, strict=True)):
    bars = [spread([share_interval(values.sum(), EVAL_N)]) for values in found_right.values()]
    whiskers(axes[0], np.array(LEVELS) + 0.03 * (i - 2), bars, *look, who)
axes[0].set(xlabel="level (operations)", ylabel="right (%)", ylim=(0, 100), xticks=LEVELS,
            title="Greedy answers")
axes[0].legend(fontsize=8)
tops = np.array([[row[key] for key in ("accuracy", "low", "high")] for row in weights.values()]).T
axes[1].bar(list(weights), tops[0], color=BLUE, yerr=abs(tops[0] - tops[1:]), capsize=3)
axes[1].set(xlabel="kind of token", ylabel="mean w after this token", ylim=(0, 1),
            title="Where it reads its thought")
keep(figure, "09_quiet_thoughts")

# %% [markdown]
# A thought after a token of the kind `answer` stands after the answer and predicts `<eos>`. w
# compares with what the same model predicts without a thought, which it has hardly trained: it
# shows where a thought is read, not that the thought is good. With pause tokens in place of
# thoughts w is as high after `=`, and nothing is gained (docs/RESULTS.md).
#
# ## The claim
#
# From the same text, thoughts answer better than answering at once; REINFORCE makes them better
# than they are without; and w is high after the question, nowhere else.

# %%
pooled = {who: np.concatenate(list(found_right.values())) for who, found_right in right.items()}
for who in right:
    if who != "own thoughts":
        print(f"own thoughts - {who}: {mean(pooled['own thoughts'], pooled[who])} points")


def lowest(who):
    """The lower end of the 95% interval of own thoughts - who, as a share."""
    return paired_bootstrap(pooled["own thoughts"], pooled[who])[1]


elsewhere = max(row["accuracy"] for kind, row in weights.items() if kind != "=")
assert SMALL or lowest("no thoughts, at once") > 0.1
assert SMALL or lowest("REINFORCE 0") > 0
assert SMALL or weights["="]["accuracy"] > 2 * elsewhere

# %% [markdown]
# What is not claimed: that these thoughts are better than the base's own. The runs of seeds 0 to 3
# ended between 11 points below and 14 above the base thinking aloud: so few steps of REINFORCE do
# little more than make up for what the other losses spoil. The stage's 250 steps end 12 points
# [1, 23] above it (docs/RESULTS.md, three seeds, levels 2 to 4). Where answers can be checked, STaR
# (tutorial 5) is far better and cheaper.
#
# In one sentence: a model can learn to think from text alone, since a thought that makes the truth
# likelier is a good one, but where answers can be checked, checking them teaches faster.
#
# ## Try it
#
# 1. Give `own thoughts` the stage's own 250 steps, 4,000 lines and learning rate (`lr` 6e-4), about
#    two minutes more. Does it beat the base thinking aloud now?
# 2. How many tokens does a thought of two and of three steps need? What becomes of both levels with
#    `LENGTH = 6`?
# 3. Let `no thoughts` have as many FLOPs as the others. Does it catch up?
#
# <details><summary>Hints</summary>
#
# 1. Its entry in `ARMS` may hold any field of the stage's Config.
# 2. Count the tokens of a step, `23+4=27;`.
# 3. Double its steps, and compare the FLOPs that are printed.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. On levels 2 to 4, in the mean of three seeds, by 12 points; the interval [1, 23] nearly holds
#    0: one seed may not show it.
# 2. A step has six tokens with what ends it, so a thought of two steps has 12 and one of three has
#    18. Six tokens hold one step, and a cut thought is closed before its last step: neither level
#    has a whole thought.
# 3. No: for seeds 0 to 3 it came to 18% from about 12, still 27 to 53 points behind own thoughts.
#    Answering at once asks for all steps in one pass, which bare answers teach slowly.
#
# </details>
