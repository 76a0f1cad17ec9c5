# %% [markdown]
# # 1. The problem, the verifier, and the split
#
# A reasoning model is trained on problems whose answers can be checked. This tutorial shows the
# problem family `chain`, the program that checks every step and every answer, and how test
# problems are kept apart from training. It needs no trained model. About 5 seconds.

# %%
import os
import re
from collections import Counter
from itertools import product

import numpy as np
from tutorial_tools import keep, panels, share

from minireason.core.config import rng
from minireason.measure.estimates import wilson
from minireason.problems import chain, sample_split, split_of
from minireason.problems.base import split_by_hash
from minireason.problems.frozen import load_frozen
from minireason.report.style import BLUE, RED, whiskers

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
DRAWS = 300 if SMALL else 5000

# %% [markdown]
# ## A problem
#
# A chain of k operations on whole numbers from 0 to 99; k is its level. The prompt is the
# expression, a *completion* is all that follows: a *rationale* between `<think>` and `</think>`,
# then the answer. The rationale is optional.

# %%
problem = chain.read("((23+4)*3)")
print("prompt ", problem.prompt)
print("steps  ", problem.steps)
print("cot    ", chain.render(problem, "cot"))
print("direct ", chain.render(problem, "direct"))

# %% [markdown]
# ## The verifier
#
# `chain.verify` judges a completion as a whole. It returns three verdicts and one mark a step:
# `well_formed` (the grammar matches from the first to the last character), `correct` (well formed,
# and the answer is right), `steps_valid` (every step is there and exact).

# %%
COMPLETIONS = {
    "ideal": "<think>23+4=27;27*3=81</think>81<eos>",
    "direct": "</think>81<eos>",
    "one wrong step": "<think>23+4=28;28*3=84</think>84<eos>",
    "wrong steps, right answer": "<think>23+4=28;28*3=84</think>81<eos>",
    "a step left out": "<think>27*3=81</think>81<eos>",
}
for name, completion in COMPLETIONS.items():
    print(f"{name:<26}{chain.verify(problem, completion)}")

# %% [markdown]
# A step is judged from the state that the step before it claimed. So in "one wrong step" the first
# mark is false and the second is true: 28*3=84 is exact arithmetic. One error is counted once. We
# build that rule by hand and compare it with the library's.


# %%
def marks_by_hand(problem, steps):
    """For each step: the next operator and operand of the problem, on the claimed state, exact."""
    wanted = re.findall(r"([-+*/])(\d+)\)", problem.prompt)
    state, marks = int(re.search(r"\d+", problem.prompt)[0]), []
    for step, (operator, right) in zip(steps, wanted, strict=False):
        left, op, operand, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step).groups()
        marks.append(int(left) == state and (op, operand) == (operator, right)
                     and chain.compute(int(left), op, int(operand)) == int(result))
        state = int(result)
    return marks


generator = rng(0, "tutorial 1")
compared = 0
for _ in range(DRAWS // 5):
    drawn = chain.sample(generator, int(generator.integers(1, 9)))
    steps = list(drawn.steps)
    spoiled = int(generator.integers(len(steps)))
    steps[spoiled] = steps[spoiled].partition("=")[0] + f"={generator.integers(100)}"
    assert marks_by_hand(drawn, steps) == chain.check_steps(drawn, tuple(steps))
    compared += 1
print(f"marks by hand equal the library's on {compared} chains with one result replaced")

# %% [markdown]
# ## Why format tricks do not win
#
# A policy that is rewarded for right answers finds whatever the grader lets through. Here is a
# grader that looks reasonable, and one completion that fools it on every problem.


# %%
def naive_grader(problem, completion):
    """Right if the answer is among the numbers behind the last </think>."""
    return problem.answer in re.findall(r"\d+", completion.rpartition("</think>")[2])


TRICKS = {
    "every number as answer": "</think>" + " ".join(map(str, range(100))) + "<eos>",
    "two answers": "</think>80</think>81<eos>",
    "never ends": "<think>23+4=27;27*3=81</think>81",
    "goes on after the end": "</think>81<eos>82<eos>",
    "a leading zero": "</think>081<eos>",
    "a blank": "</think> 81<eos>",
    "other digits": "</think>８１<eos>",
    "an empty thought": "<think></think>81<eos>",
    "100 withdrawn steps": "<think>" + "23+4=27<wrong>" * 100 + "23+4=27;27*3=81</think>81<eos>",
    "an opener too many": "<think><think>23+4=27;27*3=81</think>81<eos>",
}
fooled = 0
for name, completion in TRICKS.items():
    by_naive, verdict = naive_grader(problem, completion), chain.verify(problem, completion)
    fooled += by_naive
    assert not verdict.correct and not verdict.well_formed
    print(f"{name:<26}naive grader: {by_naive!s:<6} verifier: {verdict.correct}")
print(f"tricks that win: naive grader {fooled} of {len(TRICKS)}, verifier 0 of {len(TRICKS)}")

# %% [markdown]
# Ten tricks prove little. So we fuzz: take ideal completions, change characters at random, and ask
# whether the verifier ever calls a completion right that does not end with exactly one right
# answer. The test is independent of the verifier's grammar: it only looks at the text behind the
# thought.

# %%
ALPHABET = [*"0123456789+-*/=;() ", "<eos>", "</think>", "<think>", "<wrong>"]
accepted = false_accepted = 0
for _ in range(DRAWS):
    drawn = chain.sample(generator, int(generator.integers(1, 5)))
    style = "cot" if generator.random() < 0.5 else "direct"
    pieces = re.findall(r"</?\w+>|.", chain.render(drawn, style))
    for _ in range(int(generator.integers(1, 4))):
        at = int(generator.integers(len(pieces) + 1))
        new = [ALPHABET[int(generator.integers(len(ALPHABET)))]]
        cut = int(generator.integers(0, 2))
        pieces[at:at + cut] = new if generator.random() < 0.7 else []
    text = "".join(pieces)
    correct = chain.verify(drawn, text).correct
    accepted += correct
    false_accepted += correct and text.rpartition("</think>")[2] != f"{drawn.answer}<eos>"
print(f"accepted after mutation: {share(accepted, DRAWS)}; falsely: "
      f"{share(false_accepted, DRAWS)}")
assert false_accepted == 0

# %% [markdown]
# What is accepted was changed inside its thought, or not at all: `correct` looks at the answer,
# `steps_valid` at the thought. "Wrong steps, right answer" above is therefore no trick but a real
# weakness of rewarding answers. Tutorial 5 measures how often it happens.

# %% [markdown]
# ## The split
#
# Every problem has a canonical key, and a hash of the key decides its split: 80% train, 10%
# validation, 10% test. A stage that trains draws from the train split only, however many problems
# it draws and whatever its seed.

# %%
splits = Counter(split_of(chain.sample(generator, 3)) for _ in range(DRAWS))
for name in ("train", "validation", "test"):
    print(f"{name:<12}{share(splits[name], DRAWS)}")
train_keys = {sample_split(chain, generator, 2, "train").key for _ in range(DRAWS)}
test_keys = {p.key for p in load_frozen("chain-test-k2")}
print(f"{len(train_keys)} train problems and {len(test_keys)} frozen test problems of level 2 "
      f"share {len(train_keys & test_keys)} keys")
assert not train_keys & test_keys

# %% [markdown]
# Canonical means: `23+4` and `4+23` are one problem. What if we hashed the prompt instead? Of all
# level 2 problems whose first two numbers may be swapped, count the test problems whose twin would
# lie in train.

# %%
pairs = []
for first, then, a, b, c in product("+*", "+-*/", *[range(2, 10)] * 3):
    value = chain.compute(a, first, b)
    if a != b and value is not None and chain.compute(value, then, c) is not None:
        pairs.append([chain.build(x, [(first, y), (then, c)]) for x, y in ((a, b), (b, a))])
leaked = [split_by_hash(twin.prompt) == "train"
          for p, twin in pairs if split_by_hash(p.prompt) == "test"]
by_key = [split_of(twin) == "train" for p, twin in pairs if split_of(p) == "test"]
print(f"split by prompt: {share(sum(leaked), len(leaked))} of test problems have their twin in "
      f"train\nsplit by key:    {share(sum(by_key), len(by_key))}")
assert not any(by_key)

# %% [markdown]
# ## What a guess is worth
#
# Answers are not uniform: small numbers are frequent. A model that has learnt only which answer is
# frequent is right this often. Tutorial 4 sets the direct answers of a trained model beside
# it: at the higher levels they are hardly better.

# %%
figure, axes = panels(2)
floors = []
for level in chain.LEVELS:
    answers = Counter(p.answer for p in load_frozen(f"chain-test-k{level}"))
    n, (best, hits) = sum(answers.values()), answers.most_common(1)[0]
    floors.append([100 * x for x in (hits / n, *wilson(hits, n))])
    print(f"level {level}: the most frequent answer is {best:>2}, always saying it is right "
          f"{share(hits, n)}")
answers = Counter(int(p.answer) for p in load_frozen("chain-test-k8"))
axes[0].bar(np.arange(100), [answers[a] for a in range(100)], width=1.0, color=BLUE)
axes[0].set(xlabel="answer", ylabel="test problems", title="Answers at level 8 (n = 500)")
whiskers(axes[1], list(chain.LEVELS), floors, RED)
axes[1].set(xlabel="level", ylabel="right (%)", ylim=(0, 20),
            title="Always saying the most frequent answer")
keep(figure, "01_answers")

# %% [markdown]
# ## The claim
#
# The verifier does not let a wrong completion through: of all mutated completions it falsely
# accepted none, so the true share is below 0.1% (the upper end of the 95% interval); the naive
# grader falls for most tricks. And a split by the prompt leaks: more than half of its test problems
# have their twin in train, a split by the key leaks none.

# %%
assert SMALL or wilson(false_accepted, DRAWS)[1] < 0.001
assert fooled > len(TRICKS) / 2
assert wilson(sum(leaked), len(leaked))[0] > 0.5 and not any(by_key)

# %% [markdown]
# In one sentence: a policy learns whatever its grader pays for, so the grader must be exact from
# the first character to the last, and the test must share no problem with the training.
#
# ## Try it
#
# 1. Write a completion of your own that you think should not count, and see what `chain.verify`
#    says. Read `_COMPLETION` in `minireason/problems/chain.py` to explain it.
# 2. `chain.verify` accepts a direct answer as correct. Should a reward ask for `steps_valid`
#    instead? Name one thing that would get better and one that would get worse.
# 3. Level 1 has 189 test problems, the other levels 500. How many problems of level 1 exist in
#    all? Count the different keys with `chain.build`.
#
# <details><summary>Hints</summary>
#
# 1. Try a step that ends in `;`, a second thought, a step that goes on after the answer is reached.
# 2. What does a policy do that knows the answer without the steps? And one that has the steps right
#    and copies the last result wrongly?
# 3. `chain.build(a, [(op, b)]).key` for a from 1 to 99, b from 2 to 9 and all operators, wherever
#    `chain.compute(a, op, b)` gives a result.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. A step that ends in `;`, a second thought and a step whose result is 162 are malformed: they
#    match the grammar nowhere to its end. `23+4=27;27*3=81;81*1=81` matches, and its answer is
#    right, so it is correct, but its third step is none of the problem's: steps_valid is false. So
#    is it for `4+23=27`, which is exact but not the step that was asked for.
# 2. Better: right answers by wrong steps would earn nothing, so luck would not be learned. Worse: a
#    policy that can answer directly would be paid only for writing steps, and nobody has an exact
#    step checker for most tasks. Tutorial 5 measures the first, tutorial 11 the second.
# 3. 1,860 prompts, and 1,804 different keys, because 56 sums and products can be written both ways
#    within the family. 189 of the keys fall into test, 177 into validation, 1,438 into train.
#
# </details>
