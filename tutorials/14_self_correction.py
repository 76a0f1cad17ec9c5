# %% [markdown]
# # 14. Self-correction
#
# "Wait, that is wrong." Large models write such things; can ours learn to? The token `<wrong>`
# withdraws a step. We build traces in which the policy's own errors are withdrawn and mended, train
# on them beside a control, and count what is withdrawn. The result is negative, and instructive. It
# reads a finished run (`minireason run`). About 75 seconds.

# %%
import copy
import os

import numpy as np
from tutorial_tools import finished, keep, mean, panels, share

from minireason.critics.step_labels import exact_labels, inner_prefixes
from minireason.critics.value_head import Critic, step_values
from minireason.measure.estimates import auc, wilson
from minireason.measure.evaluate import frozen_sets, verdicts_of
from minireason.model import checkpoint
from minireason.problems import chain
from minireason.problems.corpus import Mixture
from minireason.report.style import BLUE, GREEN, GREY, ORANGE, RED
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages import revise
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer, schedule, supervised_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
POOL, STEPS, N, LEVELS = (30, 3, 6, (1, 2)) if SMALL else (600, 100, 150, (6, 7, 8))
RUN = finished("star", "critic")
policy, tokenizer = checkpoint.load(RUN / "star")
critic, _ = checkpoint.load(RUN / "critic", kind=Critic)

# %% [markdown]
# ## A trace that corrects itself
#
# From the policy's own samples of one problem we take a fully right one and the first wrong steps
# of others. Each wrong step goes before the right one, with `<wrong>` behind it. By hand, and by
# the library:

# %%
RIGHT = ["23+4=27", "27*3=81"]


def spliced_by_hand(right, errors):
    """The trace in which errors, as (index, wrong step), are made and withdrawn."""
    text = ""
    for i, step in enumerate(right):
        text += ";" if i else ""
        text += "".join(wrong + "<wrong>" for at, wrong in errors if at == i) + step
    return f"<think>{text}</think>{right[-1].split('=')[1]}<eos>"


trace = spliced_by_hand(RIGHT, [(0, "23+4=28")])
print(trace)
assert trace == revise.spliced_trace(RIGHT, [[0, "23+4=28"]])
verdict = chain.verify(chain.read("((23+4)*3)"), trace)
print("the verifier reads what stands:", verdict)
assert verdict.steps_valid

# %% [markdown]
# The wrong step must be read but not learned: its tokens are not counted in the loss. `<wrong>` is.

# %%
(row,) = encode_lines(tokenizer, ["((23+4)*3)="], [trace])
tokens, first, *skipped = revise.without_withdrawn(row, tokenizer)
counted = [t for t in range(first, len(tokens)) if t not in skipped]
print("not counted:", tokenizer.decode([tokens[t] for t in skipped]))
print("counted:    ", tokenizer.decode([tokens[t] for t in counted]))
assert tokenizer.decode([tokens[t] for t in skipped]) == "23+4=28"

# %% [markdown]
# ## The pool, and two arms
#
# Both arms start from the STaR policy and read the same number of rows. In `backtracking` half of
# the rows withdraw an error, in `control` none does.

# %%
base = revise.Config(init=str(RUN / "star"), base=str(RUN / "pretrain"), problems=POOL, n=8,
                     min_level=LEVELS[0], max_level=LEVELS[-1], mended=0.5, replay=0.0)
pool = revise.sample_pool(base, policy, tokenizer)["pool"]
with_errors = [entry for entry in pool if entry[2]]
print(f"problems with a right sample {len(pool)} of {POOL}; with a wrong step besides "
      f"{len(with_errors)}")
ARMS = {"backtracking": 0.5 if with_errors else 0.0, "control": 0.0}
models = {}
for arm, mended in ARMS.items():
    cfg = revise.Config(**{**vars(base), "mended": mended})
    models[arm] = copy.deepcopy(policy)
    optimizer = make_optimizer(models[arm], weight_decay=0.0)
    for step in range(STEPS if pool else 0):
        rows = revise.rows_of_step(cfg, step, pool, Mixture(), tokenizer)
        found = supervised_step(models[arm], optimizer, rows, schedule(step, STEPS, 1e-3, 5), 4096,
                                tokenizer.pad)
    print(f"{arm}: {STEPS} steps" + (f", last loss {found['train/loss']:.3f}" if pool else ""))

# %% [markdown]
# ## What is withdrawn
#
# One sample of each frozen problem. A policy that sees its errors withdraws wrong steps (detection)
# and leaves right ones alone (false alarms).

# %%
sets = frozen_sets("chain", "validation", N, LEVELS)
problems = [problem for members in sets.values() for problem in members]
how = Sampling(seed=14, max_new=92)
written = {arm: [texts[0] for texts in complete(model, tokenizer, problems, "cot", how)]
           for arm, model in {"STaR": policy, **models}.items()}
right = {arm: np.array([row[0].correct for row in verdicts_of(problems, [[t] for t in texts])])
         for arm, texts in written.items()}
for arm in written:
    print(f"{arm}: right {share(right[arm].sum(), len(problems))}")
rates = revise.withdrawal_rates(problems, written["backtracking"])
wrong_n, right_n = rates["detection"]["n"], rates["false_alarm"]["n"]
hits = round(rates["detection"]["share"] * wrong_n)
alarms = round(rates["false_alarm"]["share"] * right_n)
print(f"wrong steps withdrawn: {share(hits, wrong_n)}")
print(f"right steps withdrawn: {share(alarms, right_n)}")
mended = rates["mended"]
n_mended = round(mended["share"] * mended["n"])
print(f"of withdrawn wrong steps, mended: {share(n_mended, mended['n'])}")
example = next((text for text in written["backtracking"] if "<wrong>" in text), "(none)")
print("for example", example)

# %% [markdown]
# ## Could it know?
#
# The critic (tutorial 7) has the policy's backbone. It reads the steps of the STaR policy, from
# which both arms started; its value falls where a step is wrong. We let it raise as many false
# alarms as the trained policy did, and count how many wrong steps it catches. The drop of the value
# at a step is its alarm.

# %%
drops, truth = [], []
for problem, text, values in zip(problems, written["STaR"],
                                 step_values(critic, tokenizer, problems, written["STaR"]),
                                 strict=True):
    exact, before = exact_labels(problem, text), 1.0
    for i in range(len(inner_prefixes(text))):
        if i == 0 or exact[i - 1]:                    # up to and with the first wrong step
            drops.append(before - values[i])
            truth.append(bool(exact[i]))
        before = values[i]
drops, truth = np.array(drops), np.array(truth, dtype=bool)
alarm_rate = alarms / max(1, right_n)
limit = np.quantile(drops[truth], 1 - alarm_rate) if truth.any() else 1.0
caught = int((drops[~truth] > limit).sum())
print(f"the critic tells a first wrong step from a right one: AUC {auc(-drops, truth):.3f}")
print(f"at {100 * alarm_rate:.1f}% false alarms it catches {share(caught, (~truth).sum())}")

# %%
figure, axes = panels(2)
figures = [("wrong steps\nwithdrawn", hits, wrong_n, RED),
           ("right steps\nwithdrawn", alarms, right_n, GREEN),
           ("critic, as many\nfalse alarms", caught, (~truth).sum(), BLUE)]
for i, (_, k, n, color) in enumerate(figures):
    low, high = wilson(k, n)
    at = k / max(1, n)
    axes[0].errorbar(i, 100 * at, yerr=[[max(0, 100 * (at - low))], [max(0, 100 * (high - at))]],
                     color=color, marker="o", capsize=3)
axes[0].set(ylabel="share (%)", ylim=(-3, 103), title="Who sees a wrong step",
            xlim=(-0.5, 2.5))
axes[0].set_xticks(range(3), [name for name, *_ in figures])
for i, (arm, color) in enumerate(zip(right, (GREY, ORANGE, BLUE), strict=True)):
    low, high = wilson(right[arm].sum(), len(problems))
    at = right[arm].mean()
    axes[1].errorbar(i, 100 * at, yerr=[[100 * (at - low)], [100 * (high - at)]], color=color,
                     marker="o", capsize=3)
axes[1].set(ylabel="right (%)", ylim=(0, 100), title="One sample", xlim=(-0.5, 2.5))
axes[1].set_xticks(range(3), list(right))
keep(figure, "14_self_correction")

# %% [markdown]
# ## The claim
#
# Self-correction by a token does not come. The policy learned to write `<wrong>`, but it withdraws
# blindly: it catches fewer wrong steps than its critic does at the same rate of false alarms, and
# the two intervals do not meet. And it costs accuracy: against the control, whose right traces act
# as one more round of STaR, the whole interval lies below 0.

# %%
gain = mean(right["backtracking"], right["control"])
print(f"backtracking - control: {gain} points")
assert SMALL or wilson(hits, wrong_n)[1] < wilson(caught, (~truth).sum())[0]
high = (right["backtracking"].astype(float) - right["control"]).mean() + 1.96 * np.std(
    right["backtracking"].astype(float) - right["control"]) / len(problems) ** 0.5
assert SMALL or high < 0

# %% [markdown]
# Why? A step is wrong where its author found it unlikely. The critic sums log p of the tokens
# (`Critic.judge`), which the policy cannot read: later tokens attend to hidden states, not to
# outputs. It would have to compute the step a second time. docs/LOG.md tells what else was tried:
# more steps, a token in between, another place of `<wrong>`. Snell 2024 (arXiv:2408.03314, section
# 6) trains revisions of whole answers in large models, and there 38% of the right answers are
# revised to wrong ones.
#
# In one sentence: a model that was taught to say "wrong" says it at least as often of right steps,
# because it cannot read how unlikely it found them.
#
# ## Try it
#
# 1. How many tokens of `trace` follow the prompt, and how many of them count in the loss? What
#    would the policy be taught if all of them counted?
# 2. A policy withdraws every step with chance 7%, right or wrong, and draws it again. Steps are
#    wrong in 3% of the cases, and a problem has 8. What does it gain?
# 3. Force a second look without any training: replace the `</think>` that would end a thought by
#    `<wrong>` (`Forcing(waits=1)` of tutorial 11). What becomes of right answers?
#
# <details><summary>Hints</summary>
#
# 1. `tokenizer.encode(trace)`, and `skipped` above.
# 2. How often is a step wrong in the end?
# 3. `thinking.greedy_forced(policy, tokenizer, problems, Forcing(waits=1))`; tutorial 11 does it.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. 21, of which 16 count. The five of `23+4=28` do not: they would teach it to make the error that
#    it is then taught to withdraw.
# 2. Nothing. It is wrong in 0.93 x 0.03 + 0.07 x 0.03 = 3% of the steps as before, right in 0.97^8
#    = 78% of the problems, for 7% more steps. Only a difference between the two rates can help.
# 3. Hardly one survives, at most 1% in docs/LOG.md: the policy has never seen the token, so it is
#    noise. Larger models have read texts in which people look again.
#
# </details>
