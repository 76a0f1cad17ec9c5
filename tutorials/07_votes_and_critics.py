# %% [markdown]
# # 7. Votes, critics, and best-of-N
#
# More samples help only if one can choose among them. We train critics on three kinds of labels and
# ask how far their values can be trusted; then we draw N samples per problem and choose by
# majority, by a critic, and by both, and bound all of it by an oracle. It reads a finished run
# (`minireason run`). About 75 seconds.

# %%
import os
from itertools import combinations

import numpy as np
import torch
from tutorial_tools import finished, keep, mean, panels, share

from minireason.core.config import rng
from minireason.critics.step_labels import (
    exact_labels,
    inner_prefixes,
    monte_carlo_labels,
    outcome_labels,
    step_prefixes,
)
from minireason.critics.value_head import (
    Critic,
    aggregate,
    critic_loss,
    labelled_rows,
    step_values,
    value_batches,
)
from minireason.measure.estimates import (
    answer_ids,
    auc,
    best_of_n,
    paired_bootstrap,
    pass_at_k,
    vote_at,
    wilson,
)
from minireason.measure.evaluate import answer_keys, frozen_sets, marked_steps, verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import STEP_ENDS
from minireason.problems import chain, sample_levels
from minireason.report.style import BLUE, GREEN, METHODS, ORANGE, RED, whiskers
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.optim import make_optimizer, schedule, train_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
PROBLEMS, SAMPLES, LEVEL = (6, 4, 2) if SMALL else (120, 32, 6)
RUN = finished("star", "critic")
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
# ## What the labels teach
#
# The same backbone can be taught with three kinds of labels at the end of every step:
#
# - *outcome* (arXiv:2110.14168): was the whole solution right in the end? Cheap; it blames the
#   right steps before a wrong one, and praises wrong steps that luck repaired.
# - *exact* (arXiv:2305.20050 paid people for it): are all steps so far right? Our verifier knows.
# - *Monte Carlo* (Math-Shepherd, arXiv:2312.08935): let the policy continue n times from here; the
#   share that ends right. It needs no judge of steps, but many tokens.
#
# We train each for a few steps, on the policy's samples of train problems, from equal weights.

# %%
TAUGHT, STEPS, MC = (8, 3, 2) if SMALL else (150, 60, 4)
lessons = sample_levels(chain, rng(0, "tutorial 7 lessons"), (2 if SMALL else 5, 2 if SMALL else 7),
                        TAUGHT)
drawn = [text for row in complete(policy, tokenizer, lessons, "cot", Sampling(n=4, seed=8))
         for text in row]
asked = [p for p in lessons for _ in range(4)]
LABELS = {
    "outcome": [outcome_labels(text, chain.verify(p, text).correct)
                for p, text in zip(asked, drawn, strict=True)],
    "exact": [exact_labels(p, text) for p, text in zip(asked, drawn, strict=True)],
    "Monte Carlo": monte_carlo_labels(policy, tokenizer, asked, drawn, Sampling(n=MC, seed=9))}
mixed = next((i for i, row in enumerate(LABELS["exact"]) if 0 in row[1:-1] and row[0] == 1), 0)
print(asked[mixed].prompt, "wants", asked[mixed].answer)
for prefix, *row in zip(step_prefixes(drawn[mixed]), *(LABELS[name][mixed] for name in LABELS),
                        strict=True):
    print(f"    {prefix[-14:]:>14}  ", "  ".join(
        f"{name} {label:.2f}" for name, label in zip(LABELS, row, strict=True)))

# %% [markdown]
# The loss is the binary cross-entropy of the value at each step's end. By hand for one row, then
# the library's.

# %%
ends = torch.tensor(tokenizer.ids_of(*STEP_ENDS))
one = labelled_rows(tokenizer, asked[mixed:mixed + 1], drawn[mixed:mixed + 1],
                    LABELS["exact"][mixed:mixed + 1])
(batch,), count = value_batches(one, ends, 10 ** 6, tokenizer.pad)
read = step_values(critic, tokenizer, asked[mixed:mixed + 1], drawn[mixed:mixed + 1])[0]
by_hand = -np.mean([np.log(v if label else 1 - v)
                    for v, label in zip(read, LABELS["exact"][mixed], strict=True)])
with torch.no_grad():
    library = float(critic_loss(critic, batch, count, imitation=0.0))
print(f"cross-entropy by hand {by_hand:.5f}, library {library:.5f}")
assert abs(by_hand - library) < 1e-3 * max(1, library)

critics, taught = {}, {}
for name, labels in LABELS.items():
    critics[name] = Critic.from_policy(policy)
    optimizer = make_optimizer(critics[name], weight_decay=0.0)
    rows = labelled_rows(tokenizer, asked, drawn, labels)
    for step in range(STEPS):
        own = rng(0, "tutorial 7 rows", step).integers(0, len(rows), 32)
        batches, count = value_batches([rows[i] for i in own], ends, 4096, tokenizer.pad)
        train_step(critics[name], optimizer, batches,
                   lambda b, n=count, c=critics[name]: critic_loss(c, b, n, imitation=0.15),
                   schedule(step, STEPS, 1e-3, 5))
critics["exact, the run's"] = critic

# %% [markdown]
# Whom does one ask? Two questions: is this *step* right so far (AUC over all steps before the end),
# and is this *solution* right (AUC over whole samples). The intervals draw problems anew, as
# samples of one problem lean on each other.


# %%
def auc_interval(scores, truth, owner, draws=300):
    """AUC with its 95% bootstrap interval over problems; all (M,), owner: whose problem it is."""
    generator, members = np.random.default_rng(0), [np.flatnonzero(owner == i)
                                                    for i in range(PROBLEMS)]
    found = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in generator.integers(0, PROBLEMS, PROBLEMS)])
        found.append(auc(scores[rows], truth[rows]))
    return auc(scores, truth), *np.quantile(found, (0.025, 0.975))


judged_steps, aucs = {}, {}
some = [(i, text) for i in range(PROBLEMS) for text in completions[i][:8]]
for name, model in critics.items():
    read = step_values(model, tokenizer, [problems[i] for i, _ in some], [t for _, t in some])
    values_at, truth, owner = [], [], []
    for (i, text), row in zip(some, read, strict=True):
        inner = len(inner_prefixes(text))
        values_at += row[:inner]
        truth += [bool(x) for x in exact_labels(problems[i], text)[:inner]]
        owner += [i] * inner
    arrays = [np.array(x) for x in (values_at, truth, owner)]
    judged_steps[name] = arrays[:2]
    whole = [np.array([row[-1] if row else 0.0 for row in read]),
             np.array([chain.verify(problems[i], text).correct for i, text in some]),
             np.array([i for i, _ in some])]
    aucs[name] = auc_interval(*arrays), auc_interval(*whole)
    print(f"{name:<17} steps: AUC {aucs[name][0][0]:.3f} [{aucs[name][0][1]:.3f}, "
          f"{aucs[name][0][2]:.3f}]; solutions: {aucs[name][1][0]:.3f} [{aucs[name][1][1]:.3f}, "
          f"{aucs[name][1][2]:.3f}]")

# %% [markdown]
# ## Calibration
#
# AUC asks for the order alone. A value is *calibrated* if of all steps valued 0.8, 80% are right:
# then it can be used as a probability, to stop a search or to weigh a vote. The expected
# calibration error puts values into bins and averages the gap between mean value and share right,
# weighted by the bins' sizes. The loss above drives a value to the mean of its *labels*, so a
# critic is calibrated for the question that its labels answer: the outcome critic for "will this
# end right?", and asked "are the steps right so far?" it is too low on steps before the error. The
# last panel asks each the second question.

# %%
figure, axes = panels(3)


def calibration(values, truth, bins=5):
    """(mean value, share right, n) of each bin that holds anything."""
    at = np.minimum((np.asarray(values) * bins).astype(int), bins - 1)
    return [(values[at == b].mean(), truth[at == b].mean(), (at == b).sum())
            for b in range(bins) if (at == b).any()]


rows, places = [], []
for value, good_share, n in calibration(scores, np.array(right_of, dtype=float)):
    print(f"samples: mean value {value:.2f}, right {share(round(good_share * n), n)}")
    places.append(value)
    rows.append([100 * x for x in (good_share, *wilson(good_share * n, n))])
whiskers(axes[0], places, rows, BLUE)
axes[0].plot([0, 1], [0, 100], color="#999999", linestyle="--")
axes[0].set(xlabel="critic's value", ylabel="right (%)", title="Whole samples", ylim=(0, 100))
for (name, (own, truth)), color, marker in zip(judged_steps.items(), (RED, BLUE, ORANGE, GREEN),
                                               "osD^", strict=True):
    table = calibration(own, truth.astype(float))
    gap = sum(abs(value - good_share) * n for value, good_share, n in table) / len(own)
    print(f"{name:<17} steps: expected calibration error {gap:.3f}")
    axes[2].plot([value for value, _, _ in table], [100 * x for _, x, _ in table], color=color,
                 marker=marker, label=name)
axes[2].plot([0, 1], [0, 100], color="#999999", linestyle="--")
axes[2].set(xlabel="value at a step's end", ylabel="all steps right so far (%)", ylim=(0, 103),
            title="Steps, by label")
axes[2].legend(fontsize=7)

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
# ## The claim
#
# A value answers the question of its labels. Of steps that are right so far, the critic that was
# taught outcomes thinks worse than the one taught exact labels, from the same samples and as many
# steps of training: it foresees errors to come (problem by problem, the 95% interval of the
# difference lies above 0). And choosing pays: at all N samples the critic-weighted vote beats a
# single sample by more than 5 points (the lower end of the paired interval); the oracle shows what
# is left.

# %%
owner = np.array([i for i, text in some for _ in inner_prefixes(text)])
good_steps = judged_steps["exact"][1]
seen = [i for i in range(PROBLEMS) if (good_steps & (owner == i)).any()]
trust = {name: np.array([judged_steps[name][0][good_steps & (owner == i)].mean() for i in seen])
         for name in ("exact", "outcome")}
if seen:                          # an untrained policy may be right nowhere
    print(f"mean value of right steps: exact {mean(trust['exact'])}; outcome "
          f"{mean(trust['outcome'])}; difference {mean(trust['exact'], trust['outcome'])}")
assert SMALL or paired_bootstrap(trust["exact"], trust["outcome"])[1] > 0
assert SMALL or paired_bootstrap(last["critic_vote"], last["single"])[1] > 0.05

# %% [markdown]
# In one sentence: samples hold more right answers than one can pick, a critic picks some of the
# rest, and its value is a probability of exactly what its labels said.
#
# ## Try it
#
# 1. A policy takes each step right with chance 0.95, and three steps are left after a prefix that
#    is right so far. Which value does a perfect outcome critic give it, and which a perfect critic
#    of exact labels?
# 2. Of 8 samples 2 are right. What is pass@3? What does drawing with replacement say?
# 3. A policy is right with chance 0.3. Its critic values every right sample 0.9, and one wrong
#    sample in a hundred of them 0.99, the others 0. How often is best-of-N right for N = 1, 16 and
#    256?
#
# <details><summary>Hints</summary>
#
# 1. The first is asked how it will end, the second how it is.
# 2. 1 - C(n - c, k) / C(n, k), with `pass_at_k`; then 1 - (1 - c / n)^k.
# 3. Best-of-N is right if there is a right sample and none of those that fool the critic. First the
#    chance that none fools it, then take off those with no right sample either.
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. 0.95^3 = 0.857, and 1. Both are calibrated, each for its own question.
# 2. 1 - 20 / 56 = 0.643; with replacement 0.578, too low.
# 3. 0.993^N - 0.693^N: 0.30, then 0.89, then 0.17. More samples find more right ones at first; in
#    the end they find what fools the critic. A weighted vote falls later, since one such sample is
#    one vote.
#
# </details>
