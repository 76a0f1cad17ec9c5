# %% [markdown]
# # 3. Pretraining and its diminishing returns
#
# A language model learns to predict the next token of its data. We train three tiny models on the
# project's mixture, measure them on problems that no training line can hold, and fit a law to the
# curve. It needs no trained model. About 40 seconds.

# %%
import os

import numpy as np
import torch
from tutorial_tools import keep, panels

from minireason.core.config import rng
from minireason.measure.evaluate import frozen_sets
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.report.style import BLUE, GREEN, ORANGE
from minireason.studies.fits import log_linear, power_law, training_flops
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, train_step

SMALL = os.environ.get("MINIREASON_TUTORIAL_SMALL") == "1"
STEPS = 48 if SMALL else 400
WIDTHS = (16, 32) if SMALL else (16, 32, 64)
LINES = 8 if SMALL else 32                                                # a step
tokenizer = Tokenizer.build(chain.TOKENS)

# %% [markdown]
# ## The data
#
# Three kinds of lines, in random order: facts as they stand in the world, questions with bare
# answers, and questions worked step by step, all from the train split. Their authors are fallible:
# some of them forget a carry, or take the smaller digit from the larger, and go on from there. Can
# you find the wrong steps below?

# %%
mixture = Mixture(max_level=4, common_level=2)
shown = rng(0, "tutorial 3 shown")
print("\n".join(corpus_lines(mixture, chain, shown, 6)))
print("share of each level among worked lines:", np.round(mixture.worked_shares(), 2))

# %% [markdown]
# ## The yardstick
#
# The loss on frozen validation problems, worked step by step and without an error. Split by hash of
# the problem, so falling loss here is not memory of a line. It counts the completion only: the
# prompt is random and nobody can predict it. Beside the mean we keep the loss of every problem, for
# an interval.

# %%
problems = [p for members in frozen_sets("chain", "validation", 40, (1, 2, 3)).values()
            for p in members]
rows = encode_lines(tokenizer, [p.prompt for p in problems],
                    [chain.render(p, "cot") for p in problems])
(held_out,), _ = micro_batches(rows, 10 ** 6, tokenizer.pad, packed=False)


@torch.inference_mode()
def problem_losses(model):
    """(P,) nats per token of every problem's completion."""
    logprobs = model(held_out.inputs).log_softmax(dim=-1)
    nats = -logprobs.gather(-1, held_out.targets[..., None]).squeeze(-1)
    return ((nats * held_out.loss_mask).sum(1) / held_out.loss_mask.sum(1)).numpy()


def mean_and_half(each):
    """The mean over problems and half of its 95% interval."""
    return float(each.mean()), float(1.96 * each.std(ddof=1) / len(each) ** 0.5)


# %% [markdown]
# ## The loop
#
# Draw lines, make a batch, take a step: that is all of pretraining. The learning rate stays
# constant after a short warm-up, so that a point in the middle of the curve is the end of a shorter
# run. `minireason/stages/pretrain.py` is the same loop with a falling rate and saved states.


# %%
def pretrain(width, seed=0, rate=4e-3, data=mixture):
    """Points (tokens seen, validation loss, half its interval) of a model of this width."""
    shape = ModelConfig(tokenizer.vocab_size, d_model=width, n_layers=2, n_heads=2, n_kv_heads=2,
                        head_dim=16, d_ff=2 * width, max_len=64)
    model = Transformer(shape).init_weights(torch.Generator().manual_seed(seed))
    optimizer = make_optimizer(model, weight_decay=0.1)
    measured_at = set(np.unique(np.geomspace(8, STEPS, 12).astype(int)))
    points, seen = [], 0
    for step in range(1, STEPS + 1):
        lines_rng = rng(seed, "tutorial 3", step)
        lines = corpus_lines(data, chain, lines_rng, LINES)
        batches, count = micro_batches(encode_lines(tokenizer, [""] * LINES, lines), 2048,
                                       tokenizer.pad)
        train_step(model, optimizer, batches,
                   lambda b, n=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                          b.loss_mask, n), lr=rate * min(1, step / 10))
        seen += count
        if step in measured_at:
            points.append((seen, *mean_and_half(problem_losses(model))))
    return model, points


curves, ends = {}, {}                       # ends: width -> losses (P,) of the trained model
for width in WIDTHS:
    model, curves[width] = pretrain(width)
    ends[width] = problem_losses(model)
    tokens, loss, half = curves[width][-1]
    print(f"width {width}: {model.n_params:,} parameters, {tokens:,} tokens, "
          f"{training_flops(model.n_params, tokens):.1e} FLOPs, validation loss {loss:.3f} "
          f"[{loss - half:.3f}, {loss + half:.3f}], n = {len(problems)}")
assert curves[WIDTHS[-1]][-1][1] < curves[WIDTHS[-1]][0][1]

# %% [markdown]
# ## Diminishing returns
#
# What does one doubling of the data buy, early and late?

# %%
tokens, losses, _ = np.array(curves[WIDTHS[-1]]).T
doublings = tokens[-1] / 2.0 ** np.arange(5)[::-1]
at = np.interp(np.log(doublings), np.log(tokens), losses)
for before, after, low, high in zip(doublings[:-1], doublings[1:], at[:-1], at[1:], strict=True):
    print(f"from {before:>9,.0f} to {after:>9,.0f} tokens: loss {low:.3f} -> {high:.3f}, "
          f"gain {low - high:+.3f}")

# %% [markdown]
# The trend is down, but the returns need not shrink every time: a doubling in which something new
# is learnt buys more than the one before it. A law describes the trend and not each stretch.
#
# Kaplan 2020 (arXiv:2001.08361) found that loss falls as a power of the tokens D: L = E + A / D^a.
# E is what no amount of this data removes: here it holds the authors' errors, for a model that
# imitates them doubts the right step where they err. We fit it to each curve, with a bootstrap
# interval over residuals. Points of one run lean on each other, so the true uncertainty is larger;
# several seeds would show it.

# %%
figure, axes = panels(2)
for (width, points), color, marker in zip(curves.items(), (BLUE, ORANGE, GREEN), "osD",
                                          strict=False):
    tokens, losses, halves = np.array(points).T
    law = power_law(tokens, losses)
    print(f"width {width}: a = {law.text('a')}, E = {law.text('E')} nats, r2 = {law.r2:.3f}, "
          f"{law.n} points")
    axes[0].errorbar(tokens, losses, yerr=halves, color=color, marker=marker, linestyle="none",
                     elinewidth=1, label=f"width {width}")
    smooth = np.geomspace(tokens[0], tokens[-1], 100)
    values = law.values
    axes[0].plot(smooth, values["E"] + values["A"] * (smooth / values["N0"]) ** -values["a"],
                 color=color, linewidth=1)
    axes[1].plot(doublings[1:], -np.diff(np.interp(np.log(doublings), np.log(tokens), losses)),
                 color=color, marker=marker, label=f"width {width}")
axes[0].set(xscale="log", yscale="log", xlabel="tokens seen", ylabel="validation loss (nats)",
            title="Loss and fitted power law")
axes[1].axhline(0, color="#999999", linewidth=1)
axes[1].set(xscale="log", xlabel="tokens after the doubling", ylabel="loss removed (nats)",
            title="What a doubling of the data buys")
axes[0].set_yticks([1.5, 2, 3, 4, 5], ["1.5", "2", "3", "4", "5"])
axes[0].minorticks_off()
for part in axes:
    part.legend()
keep(figure, "03_pretraining")

# %% [markdown]
# A law is only as good as what it says about points it has not seen. We fit the first two thirds of
# the widest model's points and predict the last one, and do the same with a straight line in
# log D.

# %%
tokens, losses, halves = np.array(curves[WIDTHS[-1]]).T
early = len(tokens) * 2 // 3
law, line = power_law(tokens[:early], losses[:early]), log_linear(tokens[:early], losses[:early])
by_law = law.values["E"] + law.values["A"] * (tokens[-1] / law.values["N0"]) ** -law.values["a"]
by_line = line.values["p"] + line.values["q"] * np.log10(tokens[-1])
print(f"last point {losses[-1]:.3f} +- {halves[-1]:.3f}; power law {by_law:.3f}, "
      f"straight line {by_line:.3f}, from the first {early} points")

# %% [markdown]
# The project's own sweep over sizes and seeds is `minireason scale`; tutorial 16 cuts such curves
# at equal compute.
#
# ## The claim
#
# More text and more parameters both help on problems that nobody trained on: from the first
# measured point to the last the loss falls by more than both intervals, and at equal tokens the
# widest model is better than the narrowest, problem by problem (the paired 95% interval lies below
# 0).

# %%
(_, loss_first, half_first), *_, (_, loss_last, half_last) = curves[WIDTHS[-1]]
difference, half = mean_and_half(ends[WIDTHS[-1]] - ends[WIDTHS[0]])
print(f"width {WIDTHS[-1]}: {loss_first:.3f} +- {half_first:.3f} -> {loss_last:.3f} +- "
      f"{half_last:.3f}; minus width {WIDTHS[0]}: {difference:+.3f} +- {half:.3f} nats")
assert loss_last + half_last < loss_first - half_first
assert SMALL or difference + half < 0

# %% [markdown]
# In one sentence: predicting the next token of text by fallible authors teaches what the text has
# in common, with returns that diminish smoothly enough to be predicted.
#
# ## Try it
#
# 1. How many tokens could widths 32 and 64 have read for the FLOPs of width 16? Read the loss of
#    each curve there with `np.interp`. Which width is best at equal FLOPs?
# 2. At some step 80% of the authors write the right result, and all others the same wrong one. What
#    is the loss of a perfect imitator at that token, in nats, on such text and on our validation
#    problems, which are always right?
# 3. Which tokens of a worked completion never occur in lines of facts? What must become of the
#    validation loss if one pretrains on `Mixture(facts=1.0, direct=0.0)`, early and late?
#
# <details><summary>Hints</summary>
#
# 1. 6 N D is equal: D is inversely proportional to the parameters that are printed.
# 2. The entropy of a coin of 0.8; then only the right side of it is asked for.
# 3. Print some lines of that mixture. What does training do to the probability of a token that
#    never comes?
#
# </details>
#
# <details><summary>Answers</summary>
#
# 1. N is 9,488, 25,056 and 74,624. Width 16 reads 318,201 tokens, so 32 may read 120,494 and 64
#    only 40,458. The curves above show the losses there; tutorial 16 does this for five sizes.
# 2. 0.50 nats on the text, -0.8 ln 0.8 - 0.2 ln 0.2, and 0.22 on the validation problems, -ln 0.8.
#    This is a part of E that no amount of data removes: the imitator doubts the right step where
#    its authors err.
# 3. `<think>` and `</think>`, and so what follows them. Steps are facts, so the loss of their
#    tokens falls; but the model learns ever more surely that `</think>` never comes, and that part
#    of the loss rises for as long as it trains.
#
# </details>
