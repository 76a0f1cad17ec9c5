# %% [markdown]
# # 5. STaR, and what it keeps
#
# A policy writes its own training data: it samples rationales, keeps those that end in the right
# answer, and learns from them (Zelikman 2022, arXiv:2203.14465). The verifier shows what that rule
# lets through: right answers by wrong steps. It reads a finished run (`minireason run`). About 10
# seconds.

# %%
import os
import re
from collections import Counter

import numpy as np
from tutorial_tools import finished, keep, panels, share

from minireason.core.config import rng
from minireason.core.files import read_json
from minireason.measure.estimates import wilson
from minireason.measure.evaluate import marked_steps, verdicts_of
from minireason.model import checkpoint
from minireason.problems import chain, sample_split
from minireason.report.style import BLUE, GREEN, ORANGE, RED, whiskers
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages.star import Config as STaRConfig
from minireason.stages.star import keep_right

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
PROBLEMS, LEVELS = (12, (1, 2)) if SMALL else (500, (4, 5, 6, 7, 8))
RUN = finished("pretrain", "sft", "star")
policy, tokenizer = checkpoint.load(RUN / "sft")

# %% [markdown]
# ## One round: sample, verify, keep
#
# New problems of the train split, four samples of each at temperature 0.8, as the stage does it.

# %%
generator = rng(0, "tutorial 5")
problems = [sample_split(chain, generator, LEVELS[i % len(LEVELS)], "train")
            for i in range(PROBLEMS)]
how = Sampling(n=4, temperature=0.8, seed=1)
completions = complete(policy, tokenizer, problems, "cot", how)
verdicts = verdicts_of(problems, completions)
solved = [any(v.correct for v in row) for row in verdicts]
print(f"samples right: {share(sum(v.correct for row in verdicts for v in row), 4 * PROBLEMS)}")
print(f"problems with at least one right sample: {share(sum(solved), PROBLEMS)}")

# %% [markdown]
# The rule of the paper: of each problem keep a completion whose answer is right. We write it down
# and compare it with the stage's own filter.

# %%
by_answer = STaRConfig(init="", base="", keep="answer")
by_steps = STaRConfig(init="", base="", keep="steps")
by_hand = []
for texts, row in zip(completions, verdicts, strict=True):
    good = [text for text, verdict in zip(texts, row, strict=True) if verdict.correct]
    by_hand.append(good[:1])
kept = keep_right(by_answer, problems, completions)
assert kept == by_hand
print(f"kept {sum(map(len, kept))} rationales of {PROBLEMS} problems; by hand the same")

# %% [markdown]
# ## What is among them
#
# The answer was right. Were the steps? Only an exact step checker can say; the paper had none.

# %%
pairs = [(p, texts[0]) for p, texts in zip(problems, kept, strict=True) if texts]
sound = np.array([chain.verify(p, text).steps_valid for p, text in pairs], dtype=bool)
unsound = [pair for pair, good in zip(pairs, sound, strict=True) if not good]
print(f"kept with a wrong step: {share(len(unsound), len(pairs))}")
for p, text in unsound[:3]:
    marked = " ".join(step if mark == "right" else f"[{step}]"
                      for step, mark in marked_steps(p, text))
    print(f"  {p.prompt} wants {p.answer}, got {text.rpartition('</think>')[2]}: {marked}")
print("(a step in brackets is wrong)")

# %% [markdown]
# What goes wrong first in them? Either a step is false arithmetic, or it is true but not the
# problem's next operation on the state before it.


# %%
def first_error(problem, text):
    """What kind of step the first wrong one is."""
    steps, _ = chain.parse(text)
    marks = chain.check_steps(problem, steps)
    if all(marks):
        return "steps missing, or an answer that is not the last result"
    wrong = steps[marks.index(False)]
    left, operator, right, result = re.fullmatch(r"(\d+)(.)(\d+)=(\d+)", wrong).groups()
    exact = chain.compute(int(left), operator, int(right)) == int(result)
    return "exact, but not the next operation" if exact else "false arithmetic"


for name, n in Counter(first_error(p, text) for p, text in unsound).most_common():
    print(f"first error: {name}: {share(n, len(unsound))}")

# %% [markdown]
# ## A filter that looks at the steps
#
# `keep="steps"` asks the verifier for every step. It keeps fewer problems, all of them sound.

# %%
strict = keep_right(by_steps, problems, completions)
strict_sound = [chain.verify(p, t[0]).steps_valid for p, t in zip(problems, strict, strict=True)
                if t]
assert all(strict_sound)
print(f"kept by answer {len(pairs)}, by steps {len(strict_sound)} of {PROBLEMS}")
for level in LEVELS:
    mine = [good for (p, _), good in zip(pairs, sound, strict=True) if p.level == level]
    if mine:
        print(f"level {level}: kept by answer with a wrong step "
              f"{share(len(mine) - sum(mine), len(mine))}")

# %% [markdown]
# ## Rationalization
#
# Problems that no sample solved teach nothing. So the policy gets the answer as a hint and explains
# it (section 3.2 of the paper). What leads there is kept as if there had been no hint. An
# explanation written towards a known answer is right by design; is it also sound?

# %%
failed = [p for p, done in zip(problems, solved, strict=True) if not done]
hinted = complete(policy, tokenizer, failed, "cot", Sampling(n=4, temperature=0.8, seed=2),
                  hinted=True)
explained = [(p, texts[0]) for p, texts in
             zip(failed, keep_right(by_answer, failed, hinted), strict=True) if texts]
print(f"failed problems explained with a hint: {share(len(explained), len(failed))}")
wrong = sum(not chain.verify(p, text).steps_valid for p, text in explained)
print(f"of these explanations with a wrong step: {share(wrong, len(explained))}")
print(f"of what was kept without a hint:         {share(len(unsound), len(pairs))}")

# %% [markdown]
# ## Round after round
#
# The run does this in rounds, each from the last policy. (The paper begins anew from the
# base: `--restart`.) Its records say how many rationales each round kept, how many were unsound,
# and what the trained policy reached.

# %%
rounds = read_json(RUN / "star" / "result.json")["rounds"]
before = read_json(RUN / "sft" / "result.json")["accuracy"]["cot"]
shares, reached = [], []
for number, result in enumerate(rounds, 1):
    share_unsound = result.get("share_wrong_steps", np.nan)       # nan: nothing was kept
    unsound_n = round(share_unsound * result["kept"]) if result["kept"] else 0
    shares.append([100 * x for x in (share_unsound, *wilson(unsound_n, result["kept"]))])
    print(f"round {number}: kept {result['kept']}, with a wrong step "
          f"{share(unsound_n, result['kept'])}; solved {result['share_solved']:.1%}, "
          f"explained {result['share_rationalized']:.1%} of the problems")
for label, name in (("level 6", "chain-test-k6"), ("level 8", "chain-test-k8")):
    points = [before[name]] + [r["accuracy"]["cot"][name] for r in rounds]
    reached.append((label, [[100 * p[key] for key in ("accuracy", "low", "high")]
                            for p in points]))
    print(label, "right before and after each round:",
          [f"{100 * p['accuracy']:.1f}% [{100 * p['low']:.1f}, {100 * p['high']:.1f}]"
           for p in points], f"n = {points[0]['n']}")
figure, axes = panels(2)
for (label, rows), color, marker in zip(reached, (GREEN, ORANGE), "os", strict=True):
    whiskers(axes[0], range(len(rows)), rows, color, marker, label)
axes[0].set(xlabel="round (0: SFT)", ylabel="right (%)", ylim=(0, 100),
            xticks=range(len(rounds) + 1), title="What the trained policy reaches")
axes[0].legend()
whiskers(axes[1], range(1, len(rounds) + 1), shares, RED, "o", "rationales kept by answer")
axes[1].axhline(0, color=BLUE, label="kept by steps: 0 by construction")
axes[1].set(xlabel="round", ylabel="with a wrong step (%)", ylim=(-2, 60),
            xticks=range(1, len(rounds) + 1), title="What the rule lets through")
axes[1].legend()
keep(figure, "05_star")

# %% [markdown]
# A better policy makes fewer unsound rationales, so the share falls by itself. The ablation
# `minireason ablate --stage star` measures what the stricter filter is worth (docs/RESULTS.md).
#
# ## The claim
#
# A filter that looks at the answer alone keeps wrong reasoning: the 95% interval of the unsound
# share lies above 1%. The rounds help all the same: at level 8 the last policy is right more often
# than the first, with intervals apart. What is not claimed: that explanations towards a known
# answer are worse than what was kept without a hint; there are few of them, and the two intervals
# overlap.

# %%
low, high = wilson(len(unsound), len(pairs))
print(f"unsound share of what was kept: {low:.1%} to {high:.1%}")
assert SMALL or low > 0.01
first, last = reached[1][1][0], reached[1][1][-1]           # level 8: [%, low, high]
assert SMALL or last[1] > first[2]
assert all(strict_sound) and len(strict_sound) <= len(pairs)

# %% [markdown]
# In one sentence: a policy can teach itself from its own right answers, and what it teaches itself
# is whatever led to them.
#
# ## Try it
#
# 1. At which level is the share of unsound rationales highest in the table above? Is it shown to be
#    higher than at level 4?
# 2. A guess is right with the frequency of its answer, 3 to 5% (tutorial 1). Of the 2,000 samples
#    here about 63% are wrong. How many right answers by luck alone does that let one expect?
#    Compare with the unsound rationales that were kept.
# 3. Explanations with a hint were unsound in 11% of the cases, the others in 9%. How many of each
#    would it take to tell such a difference from 0?
#
# <details><summary>Hints</summary>
#
# 1. Compare the intervals, not the shares.
# 2. Wrong steps lead somewhere; take 4.5% as the chance that it is the right place.
# 3. The standard error of a difference of two shares near 10% is sqrt(2 x 0.1 x 0.9 / n).
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. At level 6: 13.6% [7.0, 24.5], against 6.0% [2.6, 13.3] at level 4. The intervals overlap, so
#    nothing has been shown; there are about 60 to 80 rationales per level.
# 2. About 58 samples of some 1,280 with wrong steps. 31 unsound rationales were kept, one per
#    problem at most. So luck of that kind is enough to explain all of them; a second error that
#    repairs the first needs no skill.
# 3. About 2,400 of each: 1.96 standard errors are then 1.7 points. There are 54 explanations.
#
# </details>
