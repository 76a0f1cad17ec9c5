# %% [markdown]
# # 8. Search over steps, and the flywheel
#
# Whole samples waste tokens on thoughts that went wrong early. A search judges every step and goes
# on where the critic sees hope. We compare beam and tree search with best-of-N at the same number
# of tokens, then let search write training data. It reads a finished run (`minireason run`). About
# 50 seconds.

# %%
import os
from functools import partial

import numpy as np
from tutorial_tools import finished, keep, mean, panels, share

from minireason.core.config import rng
from minireason.core.files import read_json
from minireason.critics.value_head import Critic, final_values, prefix_values
from minireason.measure.estimates import answer_ids, best_of_n, paired_bootstrap, vote_at
from minireason.measure.evaluate import answer_keys, evaluate, frozen_sets, verdicts_of
from minireason.model import checkpoint
from minireason.problems import chain, sample_split
from minireason.report.style import BLUE, GREEN, ORANGE, PURPLE, RED, whiskers
from minireason.sampling.complete import complete, prompt_ids
from minireason.sampling.sampler import Sampling
from minireason.search.beam import BeamConfig, beam_search
from minireason.search.steps import COMPLETE, Request, Stepper, expand, plant, tree_record
from minireason.search.tree import TreeConfig, tree_search
from minireason.stages.flywheel import passes, searched, truth

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
PROBLEMS, LEVEL, NS, TRAIN = (4, 2, (2, 4), 8) if SMALL else (100, 7, (4, 16), 200)
RUN = finished("star", "critic")
policy, tokenizer = checkpoint.load(RUN / "star")
critic, _ = checkpoint.load(RUN / "critic", kind=Critic)
(problems,) = frozen_sets("chain", "test", PROBLEMS, (LEVEL,)).values()
prompts = prompt_ids(tokenizer, problems, "cot")

# %% [markdown]
# ## The unit: what one sample costs
#
# A budget of N means the tokens of N average samples. Every drawn token is charged, those of
# branches that are given up too. We measure the unit on validation problems.

# %%
(others,) = frozen_sets("chain", "validation", PROBLEMS, (LEVEL,)).values()
texts = [t for row in complete(policy, tokenizer, others, "cot", Sampling(n=4)) for t in row]
UNIT = int(np.ceil(np.mean([len(ids) - 1 for ids in tokenizer.encode_batch(texts)])))
print(f"a sample of level {LEVEL} takes {UNIT} tokens (mean of {len(texts)}, rounded up)")

# %% [markdown]
# ## One step of a search by hand
#
# A `Stepper` draws steps and values them; a `Task` holds the tree of one problem and the account of
# its tokens. From one prompt we draw four first steps and look at them: a greedy search would
# continue after the best.

# %%
stepper = Stepper(policy, tokenizer, partial(prefix_values, critic, tokenizer), seed=1)
(task,) = plant(stepper, prompts[:1], [4 * UNIT], UNIT)
(children,) = expand(stepper, [Request(task, task.root, 4)], "by hand")
print("prompt", problems[0].prompt, "first step of the solution:", problems[0].steps[0])
for node in sorted(children, key=lambda node: -node.value):
    step = tokenizer.decode(node.tokens[len(prompts[0]):])
    print(f"  {step:<12} drawn {node.draws} times, value {node.value:.2f}")
print(f"charged {task.spent} tokens of {4 * UNIT}")
assert sum(node.draws for node in children) == 4

# %% [markdown]
# ## Equal tokens
#
# Best-of-N and the critic-weighted vote get as many whole samples as the budget pays for. Beam
# search (arXiv:2408.03314) keeps the best N / 4 prefixes and draws 4 steps after each. Tree search
# walks down by value plus exploration, draws two steps, and backs up the best. The policy and the
# critic are the same for all.

# %%
N = max(NS)
completions = complete(policy, tokenizer, problems, "cot", Sampling(n=2 * N, seed=11))
verdicts = verdicts_of(problems, completions)
correct = np.array([[v.correct for v in row] for row in verdicts], dtype=float)      # (P, 2 N)
values = np.array(final_values(critic, tokenizer, problems, completions))
lengths = np.array([[len(ids) - 1 for ids in tokenizer.encode_batch(row)] for row in completions])
answers = np.array([answer_ids(answer_keys(p, texts))
                    for p, texts in zip(problems, completions, strict=True)])
results, spent = {}, {}


def answered(task, i):
    """Is the candidate that the search settles on right?"""
    text = tokenizer.decode(task.best().tokens[len(prompts[i]) - 1:])
    return chain.verify(problems[i], text).correct


for n in NS:
    budget = n * UNIT
    paid = (lengths.cumsum(axis=1) <= budget).sum(axis=1)                 # samples that fit
    results["best-of-N", n] = [best_of_n(correct[i, :paid[i]], values[i, :paid[i]], paid[i])
                               if paid[i] else 0.0 for i in range(PROBLEMS)]
    results["critic vote", n] = [
        vote_at(answers[i, :paid[i]], values[i, :paid[i]], correct[i, :paid[i]], paid[i],
                rng(0, "tutorial 8")) if paid[i] else 0.0 for i in range(PROBLEMS)]
    for method in ("best-of-N", "critic vote"):
        spent[method, n] = [lengths[i, :paid[i]].sum() for i in range(PROBLEMS)]
    for method, search, shape in (("beam", beam_search, BeamConfig(width=4)),
                                  ("tree", tree_search, TreeConfig())):
        tasks = plant(stepper, prompts, [budget] * PROBLEMS, UNIT)
        search(stepper, shape, tasks)
        results[method, n] = [answered(task, i) for i, task in enumerate(tasks)]
        spent[method, n] = [task.spent for task in tasks]
        if (method, n) == ("tree", min(NS)):
            trees = tasks
for (method, n), found in results.items():
    assert max(spent[method, n]) <= n * UNIT, "overspent"
    print(f"N = {n:>2}  {method:<12} right (%) {mean(found)}; tokens "
          f"{np.mean(spent[method, n]):.0f} of {n * UNIT}")
for n in NS:                              # an interval that holds 0 has decided nothing
    for method in ("beam", "tree"):
        print(f"N = {n:>2}  {method} - best-of-N: "
              f"{mean(results[method, n], results['best-of-N', n])} points")

# %%
figure, axes = panels(2)
for method, color, marker, shift in (           # shifted a little, so that bars do not overlap
        ("best-of-N", BLUE, "D", 0.97), ("critic vote", ORANGE, "s", 0.99),
        ("beam", GREEN, "o", 1.01), ("tree", PURPLE, "^", 1.03)):
    rows = [[100 * x for x in paired_bootstrap(np.array(results[method, n], dtype=float),
                                               np.zeros(PROBLEMS), draws=1000)] for n in NS]
    whiskers(axes[0], [n * shift for n in NS], rows, color, marker, method)
axes[0].set(xscale="log", xlabel="budget in samples' tokens", ylabel="right (%)", xticks=NS,
            xticklabels=NS, title=f"Level {LEVEL}, n = {PROBLEMS} problems")
axes[0].minorticks_off()
axes[0].legend()

# %% [markdown]
# ## A tree in text
#
# The smallest budget, one problem: what was drawn after what, with the critic's value. The mark
# comes from the verifier afterwards; the search never saw it.


# %%
def print_tree(problem, task, most=16):
    """The first nodes of a search tree, indented by depth."""
    nodes = tree_record(task.root, tokenizer)
    paths = {0: ()}
    for node in nodes[1:]:
        paths[node["id"]] = path = (*paths[node["parent"]], node["text"])
        steps = tuple(t.removesuffix("</think>").removesuffix(";") for t in path)
        if node["state"] == COMPLETE:
            good = chain.verify(problem, "<think>" + "".join(path)).correct
        else:
            good = chain.check_steps(problem, steps)[-1]
        if node["id"] <= most:
            print("  " * len(path) + f"{node['text']}  value {node['value']:.2f}, visits "
                  f"{node['visits']}, {'right' if good else 'wrong'}")


print(problems[0].prompt, "wants", problems[0].answer)
print_tree(problems[0], trees[0])

# %% [markdown]
# ## The flywheel
#
# Search answers better than the policy alone, so its solutions are training data (expert iteration,
# arXiv:1705.08439). What is kept decides what is learnt. We draw 8 samples of new train problems,
# let the critic choose one of each, and compare three filters: the verifier, the critic, none. The
# truth is measured for all three; only the first filter knew it.

# %%
generator = rng(0, "tutorial 8 flywheel")
new = [sample_split(chain, generator, 1 + i % LEVEL, "train") for i in range(TRAIN)]
drawn = complete(policy, tokenizer, new, "cot", Sampling(n=8, seed=13))
marks = verdicts_of(new, drawn)
chosen = searched("critic", new, drawn, final_values(critic, tokenizer, new, drawn), marks)
single = np.array([[v.correct for v in row] for row in marks]).mean(axis=1)
print(f"one sample right (%) {mean(single)}; chosen by the critic "
      f"{share(sum(s.verdict.correct for s in chosen), TRAIN)}")
bars = []
for how in ("verifier", "critic", "none"):
    report = truth([s for s in chosen if passes(how, s, threshold=0.5)])
    if not report["kept"]:
        print(f"filter {how:<9} kept nothing")
        bars.append([np.nan] * 3)
        continue
    bars.append([100 * report[key] for key in ("precision", "precision_low", "precision_high")])
    print(f"filter {how:<9} kept {report['kept']:>3} of {TRAIN}, right {report['precision']:.1%} "
          f"[{report['precision_low']:.1%}, {report['precision_high']:.1%}], every step right "
          f"{report['steps_valid']:.1%}")
    assert how != "verifier" or report["precision"] == 1
whiskers(axes[1], range(3), bars, RED, line="none")
axes[1].set(xticks=range(3), xticklabels=("verifier", "critic", "none"), xlabel="filter",
            ylabel="right among what is kept (%)", ylim=(0, 105), xlim=(-0.5, 2.5),
            title="What the policy would learn from")
keep(figure, "08_search_and_flywheel")

# %% [markdown]
# If the run has turned the flywheel (from the policy after RL), its records say what came of it.

# %%
if (RUN / "flywheel" / "result.json").is_file():
    for number, turn in enumerate(read_json(RUN / "flywheel" / "result.json")["turns"], 1):
        right = (f", right {turn['precision']:.1%} [{turn['precision_low']:.1%}, "
                 f"{turn['precision_high']:.1%}]" if turn["kept"] else "")
        print(f"turn {number}: kept {turn['kept']}{right}; one sample of the policy that drew: "
              f"{turn['single']:.1%}")
    after, _ = checkpoint.load(RUN / "flywheel")
    greedy = Sampling(temperature=0)
    for name, model in (("STaR", policy), ("flywheel", after)):
        (found,) = evaluate(model, tokenizer, {"level": problems}, "cot", greedy).values()
        print(f"{name}, greedy, level {LEVEL}: "
              f"{share(round(found['accuracy'] * PROBLEMS), PROBLEMS)}")

# %% [markdown]
# ## The claim
#
# A critic makes better data than the policy alone: of 8 samples the one that it chooses is right
# more often than a single sample (the paired 95% interval lies above 3 points). The verifier's
# filter lets nothing wrong through, and no search overspent its budget. What is not claimed: that
# one search is better than another; with so few problems the differences above mostly have
# intervals that hold 0 (docs/RESULTS.md has them with 500 problems and five seeds).

# %%
right_ones = {s.problem for s in chosen if s.verdict.correct}       # some problems got no solution
by_critic = np.array([problem in right_ones for problem in new], dtype=float)
print(f"chosen by the critic - one sample: {mean(by_critic, single)} points")
assert SMALL or paired_bootstrap(by_critic, single)[1] > 0.03
assert np.isnan(bars[0][0]) or bars[0][0] == 100

# %% [markdown]
# In one sentence: a critic turns tokens into accuracy at test time, and accuracy into training
# data, as long as somebody checks how often it is wrong.
#
# ## Try it
#
# 1. How many tokens does beam search draw at level 7 with N = 16, if every step has six tokens?
#    Does the budget of 16 samples hold it?
# 2. Without a filter 86% of what is kept is right. A critic passes every right solution and a third
#    of the wrong ones. How many of those that pass are right? And if it also drops a tenth of the
#    right ones?
# 3. Tree search and best-of-N disagree on 12% of the problems, and one is 3 points better. How many
#    problems does it take until the 95% interval of the paired difference no longer holds 0?
#
# <details><summary>Hints</summary>
#
# 1. It keeps N / 4 prefixes and draws 4 steps after each, seven times. A sample has 6 x 7 + 3
#    tokens.
# 2. Of 100 solutions, count the right and the wrong ones that pass.
# 3. Each problem's difference is -1, 0 or 1: its variance is about the share of disagreements.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. 16 steps of 6 tokens at each of 7 depths: 672. The budget is 16 x 45 = 720, so there is hardly
#    room for anything that fails.
# 2. 86 / (86 + 14 / 3) = 94.9%; then 77.4 / (77.4 + 4.7) = 94.3%. What a filter drops of the right
#    ones costs little precision; what it lets through of the wrong ones costs much.
# 3. About 510: 1.96 x sqrt(0.12 - 0.03^2) / sqrt(n) < 0.03. With 100 problems only differences
#    above 7 points can be shown.
#
# </details>
