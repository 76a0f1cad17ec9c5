"""What thinking costs and gains: modes of answering, forced budgets, and early exits.

Budget forcing is judged as s1 does it (Muennighoff 2025, arXiv:2501.19393, section 3.2), over runs
that ask for thoughts of different lengths: control, the share of thoughts that keep to the length;
scaling, the mean slope between any two of the runs; performance, the best accuracy of any.
Tokens are those written per problem, opener, discarded tokens and probes included.
"""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import torch

from minireason.critics.value_head import Critic, final_values
from minireason.measure.estimates import share_interval
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.forcing import Forcing, complete_forced, drafts_of, draw_on
from minireason.sampling.sampler import Sampling
from minireason.training.batches import pack
from minireason.training.rollouts import drawn_logprobs

ALL = "all levels"
GREEDY = Sampling(temperature=0)
Written = list[tuple[str, int]]   # (completion, tokens spent on it) per problem
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def greedy_forced(model: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                  forcing: Forcing) -> Written:
    """One greedy completion per problem."""
    return [row[0] for row in complete_forced(model, tokenizer, problems, GREEDY, forcing)]


def rights(problems: list[Problem], written: Written) -> np.ndarray:
    """(P,) 1 where the answer is right."""
    return np.array([int(FAMILIES[p.family].verify(p, text).correct)
                     for p, (text, _) in zip(problems, written, strict=True)])


def thought_lengths(tokenizer: Tokenizer, written: Written) -> np.ndarray:
    """(P,) tokens of the thoughts themselves."""
    thoughts = [text.partition("</think>")[0].removeprefix("<think>").removesuffix("<eos>")
                for text, _ in written]
    return np.array([len(ids) for ids in tokenizer.encode_batch(thoughts)])


def mode_row(name: str, method: str, problems: list[Problem], written: Written,
             **extra: object) -> dict:
    """Accuracy, tokens per problem and share of thinking on one set, as a row."""
    right, count = rights(problems, written), len(problems)
    thinking = sum(text.startswith("<think>") for text, _ in written) / count
    return {"set": name, "method": method, "n": 1, "tokens": sum(t for _, t in written) / count,
            "thinking": thinking, "problems": count, **share_interval(int(right.sum()), count),
            **extra}


def rows_by_level(sets: dict[str, list[Problem]], method: str, written: Written,
                  **extra: object) -> list[dict]:
    """A row per set, and one over all of them; written in the order of the sets' problems."""
    rows, done = [], 0
    for name, problems in sets.items():
        rows.append(mode_row(name, method, problems, written[done:done + len(problems)], **extra))
        done += len(problems)
    everything = [problem for problems in sets.values() for problem in problems]
    return [*rows, mode_row(ALL, method, everything, written, **extra)]


def threshold_rows(sets: dict[str, list[Problem]], direct: Written, always: Written,
                   values: Sequence[float]) -> list[dict]:
    """Think only where the critic's value (P,) of the direct answer is below a threshold.

    The thresholds are the deciles of the values; a problem that is thought about has paid for its
    direct answer as well.
    """
    rows = []
    for share in np.linspace(0, 1, 11):
        least = float(np.quantile(values, share))
        written = [short if value >= least else (long[0], short[1] + long[1])
                   for short, long, value in zip(direct, always, values, strict=True)]
        rows += rows_by_level(sets, "critic_threshold", written, threshold=round(least, 6))
    return rows


def scaling(points: Sequence[tuple[float, float]]) -> float:
    """s1's scaling: the mean slope between any two (tokens, accuracy), accuracy per token."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(sorted(points), 2)
              if b[0] > a[0]]
    return float(np.mean(slopes)) if slopes else 0.0


def forcing_rows(policies: dict[str, Transformer], tokenizer: Tokenizer, problems: list[Problem],
                 budgets: Sequence[int], waits: Sequence[int], tries: int,
                 seed: int) -> list[dict]:
    """Accuracy at every budget of tokens, forced, asked for, or rejected by; control in each row.

    policies {method: policy}: "forced..." and "asked" by their names. Rejection draws up to `tries`
    samples of the policy "forced" until a thought fits; without one the last sample counts.
    """
    rows = []
    for method, policy in policies.items():
        for budget in budgets:
            forcing = Forcing(asked=budget) if method == "asked" else Forcing(budget=budget)
            written = greedy_forced(policy, tokenizer, problems, forcing)
            rows.append(controlled_row(tokenizer, method, problems, written, budget))
        for count in waits if method != "asked" else ():
            written = greedy_forced(policy, tokenizer, problems, Forcing(waits=count))
            rows.append(mode_row(ALL, method, problems, written, waits=count))
    samples = complete_forced(policies["forced"], tokenizer, problems,
                              Sampling(n=tries, seed=seed), Forcing())
    for budget in budgets:
        written = [first_that_fits(tokenizer, own, budget) for own in samples]
        rows.append(controlled_row(tokenizer, "rejected", problems, written, budget))
    return rows


def controlled_row(tokenizer: Tokenizer, method: str, problems: list[Problem], written: Written,
                   budget: int) -> dict:
    """A row with s1's control; `thought`: mean tokens of the thoughts themselves."""
    lengths = thought_lengths(tokenizer, written)
    return mode_row(ALL, method, problems, written, budget=budget,
                    control=float((lengths <= budget).mean()), thought=float(lengths.mean()))


def first_that_fits(tokenizer: Tokenizer, samples: Written, budget: int) -> tuple[str, int]:
    """The first sample whose thought has at most `budget` tokens, else the last; all are paid."""
    fits = thought_lengths(tokenizer, samples) <= budget
    at = int(fits.argmax()) if fits.any() else len(samples) - 1
    return samples[at][0], sum(tokens for _, tokens in samples[:at + 1])


def forcing_summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """{method: control, scaling (points of accuracy per thought token), performance} as in s1.

    `rises_to`: the largest budget up to which accuracy has never fallen.
    """
    found = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and "budget" in row]
        rises = own[0]["budget"]
        for before, after in pairwise(own):
            if after["accuracy"] < before["accuracy"]:
                break
            rises = after["budget"]
        points = [(row["thought"], 100 * row["accuracy"]) for row in own]
        found[method] = {"control": float(np.mean([row["control"] for row in own])),
                         "scaling": scaling(points), "rises_to": rises,
                         "performance": max(row["accuracy"] for row in own)}
    return found


def exit_rows(policy: Transformer, critic: Critic, tokenizer: Tokenizer,
              problems: list[Problem]) -> list[dict]:
    """Stop at the first step end whose forced answer is sure enough; rows by threshold.

    Sure by the answer's own probability, or by the critic's value of the completion that ends
    there. Every probe is paid for, the one at the thought's own end, too.
    """
    thoughts = greedy_forced(policy, tokenizer, problems, Forcing())
    probed, heads = [], []                        # problem of each probe; its row up to the answer
    for i, (text, _) in enumerate(thoughts):
        steps = text.partition("</think>")[0].removeprefix("<think>").split(";")
        for count in range(len(steps) + 1):
            probed.append(i)
            heads.append((f"<think>{';'.join(steps[:count])}" if count else "") + "</think>")
    owners = [problems[i] for i in probed]
    answers = answers_after(policy, tokenizer, owners, heads)
    written = [(text, 0) for text, _ in answers]
    values = [row[0] for row in final_values(critic, tokenizer, owners,
                                             [[text] for text, _ in written])]
    right = rights(owners, written)
    lengths = np.array([len(ids) for ids in tokenizer.encode_batch(heads)])
    paid = np.array([len(ids) for ids in tokenizer.encode_batch([t for t, _ in written])]) - lengths
    rows, starts = [], np.flatnonzero(np.diff(probed, prepend=-1))
    for method, sure in (("exit_probability", np.array([p for _, p in answers])),
                         ("exit_critic", np.array(values))):
        for least in THRESHOLDS:
            ends, tokens = [], 0
            for start, stop in zip(starts, [*starts[1:], len(probed)], strict=True):
                passing = np.flatnonzero(sure[start:stop] >= least)
                end = start + int(passing[0]) if len(passing) else stop - 1
                ends.append(end)              # the thought so far, and every close and answer
                tokens += int(lengths[end] + (1 + paid[start:end + 1]).sum() - 1)
            rows.append({"set": ALL, "method": method, "n": 1, "threshold": least,
                         "tokens": tokens / len(problems), "problems": len(problems),
                         "steps": float(np.mean(np.array(ends) - starts)),
                         **share_interval(int(right[ends].sum()), len(problems))})
    return rows


@torch.inference_mode()
def answers_after(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                  heads: list[str]) -> list[tuple[str, float]]:
    """(completion, probability of its answer) after each head, a thought that is closed; greedy."""
    drafts = drafts_of(tokenizer, problems, GREEDY, Forcing("auto"))
    for draft, head in zip(drafts, tokenizer.encode_batch(heads), strict=True):
        draft.tokens = head
    draw_on(policy, tokenizer, drafts, GREEDY, [draft.limit for draft in drafts])
    rows = [(draft.prompt + draft.tokens, len(draft.prompt) + len(head))
            for draft, head in zip(drafts, tokenizer.encode_batch(heads), strict=True)]
    found = []
    for start in range(0, len(rows), 256):
        part = rows[start:start + 256]
        logprobs = drawn_logprobs(policy, pack(part, tokenizer.pad), temperature=1.0)
        counts = [len(tokens) - first for tokens, first in part]
        found += [math.exp(own.sum()) for own in logprobs.cpu().split(counts)]
    return [(tokenizer.decode(draft.tokens), p) for draft, p in zip(drafts, found, strict=True)]
