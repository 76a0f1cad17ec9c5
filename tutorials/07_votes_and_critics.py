# %% [markdown]
# # 7. Votes, critics, and best-of-N
#
# More samples help only if one can choose among them. We draw N samples a problem and choose by
# majority, by a learned critic, and by both; and we bound all of it by an oracle. It reads a
# finished run (`minireason run`). About 15 seconds.

# %%
import os
from itertools import combinations

import numpy as np
from tutorial_tools import finished, keep, mean, panels, share

from minireason.core.config import rng
from minireason.critics.value_head import Critic, aggregate, step_values
from minireason.measure.estimates import (
    answer_ids,
    auc,
    best_of_n,
    paired_bootstrap,
    pass_at_k,
    vote_at,
)
from minireason.measure.evaluate import answer_keys, frozen_sets, marked_steps, verdicts_of
from minireason.model import checkpoint
from minireason.report.style import BLUE, METHODS, whiskers
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling

RUN = os.environ.get("MINIREASON_RUN", "runs/quickstart")
SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
PROBLEMS, SAMPLES, LEVEL = (6, 4, 2) if SMALL else (120, 32, 6)
RUN = finished(RUN, "star", "critic")
policy, tokenizer = checkpoint.load(RUN / "star")
critic, _ = checkpoint.load(RUN / "critic", kind=Critic)

# %% [markdown]
# ## Many samples of one problem
#
# Temperature 1, so that samples differ. The verifier's verdicts are kept aside: they measure, they
# do not choose.

# %%
(problems,) = frozen_sets("chain", "test", PROBLEMS, (LEVEL,)).values()
completions = complete(policy, tokenizer, problems, "cot", Sampling(n=SAMPLES, seed=7))
verdicts = verdicts_of(problems, completions)
correct = np.array([[v.correct for v in row] for row in verdicts], dtype=float)      # (P, N)
answers = np.array([answer_ids(answer_keys(p, texts))
                    for p, texts in zip(problems, completions, strict=True)])
print(f"level {LEVEL}, one sample right (%): {mean(correct.mean(axis=1))} problems of {SAMPLES} "
      "samples")
print(f"problems with a right one among {SAMPLES}: {share(correct.any(axis=1).sum(), PROBLEMS)}")

# %% [markdown]
# ## The critic reads a solution
#
# A critic is the policy's backbone with a value head: P(correct | prefix), read at the end of every
# step. It was trained on the policy's own samples (arXiv:2305.20050 calls it a process reward
# model). Where does its value fall?

# %%
flat = [(p, text) for p, texts in zip(problems, completions, strict=True) for text in texts]
pairs = list(dict.fromkeys(flat))                                         # equal samples once
values_of = dict(zip(pairs, step_values(critic, tokenizer, [p for p, _ in pairs],
                                        [text for _, text in pairs]), strict=True))
judged = {pair: verdict for pair, verdict in
          zip(flat, (v for row in verdicts for v in row), strict=True)}
for wanted in (True, False):
    shown = [pair for pair in pairs if judged[pair].correct == wanted and judged[pair].marks]
    for p, text in shown[:2]:
        print(f"{p.prompt} wants {p.answer}; right: {wanted}")
        for (step, mark), value in zip(marked_steps(p, text), values_of[p, text], strict=False):
            print(f"    {step:<10} {mark:<6} value {value:.2f}")

# %% [markdown]
# As a judge of whole solutions we take its last value and ask how often a right sample scores above
# a wrong one (AUC, ties count half): by hand over all pairs, and the library's. Other ways to make
# one score of the step values are the least and the product.

# %%
right_of = [judged[pair].correct for pair in flat]
for how in ("last", "min", "product"):
    scores = [aggregate(values_of[pair], how) for pair in flat]
    print(f"AUC by {how}: {auc(scores, right_of):.3f}")
scores = np.array([aggregate(values_of[pair], "last") for pair in flat])
good, bad = scores[np.array(right_of)], scores[~np.array(right_of)]
if len(good) and len(bad):
    by_hand = np.mean([(g > bad).mean() + 0.5 * (g == bad).mean() for g in good])
    print(f"by hand {by_hand:.6f}, library {auc(scores.tolist(), right_of):.6f}, "
          f"{len(good)} right and {len(bad)} wrong samples of {PROBLEMS} problems")
    assert abs(by_hand - auc(scores.tolist(), right_of)) < 1e-6
values = scores.reshape(PROBLEMS, SAMPLES)

# %% [markdown]
# Is a value of 0.8 right in 80% of cases? That is calibration. Samples of one problem lean on each
# other, so these intervals are too narrow.

# %%
figure, axes = panels(2)
rows, places = [], []
for low in np.arange(0, 1, 0.2):
    inside = (values >= low) & (values < low + 0.2 + 1e-9 * (low > 0.7))
    if inside.any():
        places.append(values[inside].mean())
        per_problem = correct[inside]
        print(f"value {low:.1f} to {low + 0.2:.1f}: mean value {places[-1]:.2f}, right "
              f"{share(per_problem.sum(), inside.sum())}")
        rows.append([100 * x for x in paired_bootstrap(per_problem, np.zeros(inside.sum()),
                                                       draws=1000)])
whiskers(axes[0], places, rows, BLUE)
axes[0].plot([0, 1], [0, 100], color="#999999", linestyle="--")
axes[0].set(xlabel="critic's value", ylabel="right (%)", title="Calibration", ylim=(0, 100))

# %% [markdown]
# ## pass@k without bias
#
# pass@k is the chance that k samples hold a right one. From n samples, c of them right, the exact
# mean over all subsets of k is 1 - C(n - c, k) / C(n, k) (arXiv:2107.03374). We enumerate the
# subsets of a small case. The tempting 1 - (1 - c/n)^k draws with replacement and comes out too
# low.

# %%
example = np.array([1, 0, 0, 1, 0, 0, 0, 0])
for k in (1, 2, 4):
    subsets = [example[list(chosen)].any() for chosen in combinations(range(8), k)]
    library, tempting = pass_at_k(8, 2, k), 1 - (1 - 2 / 8) ** k
    print(f"k = {k}: all {len(subsets)} subsets {np.mean(subsets):.4f}, library {library:.4f}, "
          f"with replacement {tempting:.4f}")
    assert abs(np.mean(subsets) - library) < 1e-12

# %% [markdown]
# Coverage, pass@N over problems, needs the verifier to say which sample is right. It is an oracle
# bound and no method. Two checks tie it to best-of-N: an oracle as critic reaches the bound, a
# constant critic reaches one sample.

# %%
for k in (1, SAMPLES // 2, SAMPLES):
    for row in correct:
        assert np.isclose(best_of_n(row, row, k), pass_at_k(SAMPLES, int(row.sum()), k))
        assert np.isclose(best_of_n(row, np.zeros(SAMPLES), k), row.mean())
print("best-of-N with an oracle is pass@N, with a constant critic one sample: checked")

# %% [markdown]
# ## Accuracy against N
#
# Majority vote (arXiv:2203.11171), critic-weighted vote (arXiv:2206.02336), best-of-N by the
# critic (arXiv:2110.14168). Every point is the mean over subsets of N of the same samples; the
# intervals are bootstraps over problems.

# %%
counts = [2 ** i for i in range(SAMPLES.bit_length())]
table = {method: [] for method in ("single", "majority", "critic_vote", "critic_best_of_n",
                                   "coverage")}
for n in counts:
    for method, points in table.items():
        each = []
        for i in range(PROBLEMS):
            if method == "single":
                each.append(correct[i].mean())
            elif method == "coverage":
                each.append(pass_at_k(SAMPLES, int(correct[i].sum()), n))
            elif method == "critic_best_of_n":
                each.append(best_of_n(correct[i], values[i], n))
            else:
                weights = values[i] if method == "critic_vote" else np.ones(SAMPLES)
                each.append(vote_at(answers[i], weights, correct[i], n, rng(0, "tutorial 7", i, n)))
        points.append(np.array(each))
for method, points in table.items():
    print(f"{METHODS[method][0]:<26}" + "  ".join(
        f"N={n}: {mean(points[j]).partition(', n')[0]}" for j, n in enumerate(counts)
        if n in (1, 4, SAMPLES)))
    rows = [[100 * x for x in paired_bootstrap(p, np.zeros(PROBLEMS), draws=1000)]
            for p in points]
    label, color, marker = METHODS[method]
    whiskers(axes[1], counts, rows, color, marker, label)
print(f"each in percent with its 95% interval, n = {PROBLEMS} problems")
axes[1].set(xscale="log", xlabel="samples N", ylabel="right (%)",
            title=f"Level {LEVEL}, n = {PROBLEMS} problems")
axes[1].set_xticks(counts, counts)
axes[1].minorticks_off()
axes[1].legend(fontsize=7)
keep(figure, "07_votes_and_critics")

# %% [markdown]
# The same problems stand behind every curve, so differences are measured problem by problem.

# %%
last = {method: points[-1] for method, points in table.items()}
for a, b in (("majority", "single"), ("critic_vote", "majority"),
             ("critic_best_of_n", "majority"), ("coverage", "critic_best_of_n")):
    print(f"N = {SAMPLES}: {METHODS[a][0]} - {METHODS[b][0]}: {mean(last[a], last[b])} points")
assert (last["coverage"] >= last["critic_best_of_n"] - 1e-9).all()

# %% [markdown]
# ## Try it
#
# 1. Replace the values by those of the outcome critic (`RUN / "outcome"`), which never saw a step
#    label. Which methods lose most?
# 2. Draw at temperature 0.5. What happens to one sample, to the vote, and to coverage?
# 3. Best-of-N can fall as N grows, a vote weighted by the same critic less so. Why? Look for
#    samples that the critic values above 0.9 and that are wrong.
