"""What thinking costs and gains: modes of answering, forced budgets, and early exits.

Budgets are judged as in s1 (Muennighoff 2025, arXiv:2501.19393, section 3.2): control, the share of
thoughts that keep to theirs; scaling, the mean slope between any two; performance, the best
accuracy at any. Tokens are those written per problem, opener, discarded tokens and probes included.
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


def rights(problems: list[Problem], written: Sequence[tuple[str, float]]) -> np.ndarray:
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
    texts, tokens = zip(*written, strict=True)
    thinking = np.mean([text.startswith("<think>") for text in texts])
    return {"set": name, "method": method, "n": 1, "tokens": float(np.mean(tokens)),
            "thinking": float(thinking), "problems": len(problems),
            **share_interval(int(rights(problems, written).sum()), len(problems)), **extra}


def rows_by_level(sets: dict[str, list[Problem]], method: str, written: Written) -> list[dict]:
    """A row per set, and one over all of them; written in the order of the sets' problems."""
    rows, everything = [], []
    for name, problems in sets.items():
        own = written[len(everything):len(everything) + len(problems)]
        rows.append(mode_row(name, method, problems, own))
        everything += problems
    return [*rows, mode_row(ALL, method, everything, written)]


def threshold_rows(problems: list[Problem], direct: Written, always: Written,
                   values: Sequence[float]) -> list[dict]:
    """Think only where the critic's value (P,) of the direct answer is below a threshold.

    The thresholds are the deciles of the values; a doubted direct answer is paid for, too.
    """
    rows = []
    for decile in range(11):
        least = float(np.quantile(values, decile / 10))
        written = [short if value >= least else (long[0], short[1] + long[1])
                   for short, long, value in zip(direct, always, values, strict=True)]
        rows.append(mode_row(ALL, "critic_threshold", problems, written, decile=decile,
                             threshold=round(least, 6)))
    return rows


def scaling(points: Sequence[tuple[float, float]]) -> float | None:
    """s1's scaling: the mean slope between any two (tokens, accuracy), accuracy per token.

    Of two less than one token apart the slope is noise, so they are left out; None if all are.
    """
    pairs = combinations(sorted(points), 2)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] - a[0] >= 1]
    return float(np.mean(slopes)) if slopes else None


def forcing_rows(policies: dict[str, Transformer], tokenizer: Tokenizer, problems: list[Problem],
                 budgets: Sequence[int], waits: Sequence[int], rejected: Sampling) -> list[dict]:
    """Accuracy at every budget of tokens, forced, asked for, or rejected by; control in each row.

    policies {method: policy}, of which "forced" draws the samples of rejection.
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
    samples = complete_forced(policies["forced"], tokenizer, problems, rejected, Forcing())
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
    at = [*(thought_lengths(tokenizer, samples) <= budget)[:-1], True].index(True)
    return samples[at][0], sum(tokens for _, tokens in samples[:at + 1])


def forcing_summary(rows: list[dict]) -> dict[str, dict[str, float | None]]:
    """{method: control, scaling (points of accuracy per thought token), performance} as in s1.

    rises_to: the largest budget up to which accuracy has never fallen.
    """
    found, groups = {}, {}
    for row in rows:
        if "budget" in row:
            groups.setdefault(row["method"], []).append(row)
    for method, own in groups.items():
        own.sort(key=lambda row: row["budget"])
        falls = [before["budget"] for before, after in pairwise(own)
                 if after["accuracy"] < before["accuracy"]]
        points = [(row["thought"], 100 * row["accuracy"]) for row in own]
        found[method] = {"control": float(np.mean([row["control"] for row in own])),
                         "scaling": scaling(points), "rises_to": min([*falls, own[-1]["budget"]]),
                         "performance": max(row["accuracy"] for row in own)}
    return found


def exit_rows(policy: Transformer, critic: Critic, tokenizer: Tokenizer,
              problems: list[Problem]) -> list[dict]:
    """Stop at the first step end whose forced answer is sure enough; rows by threshold.

    Sure by the answer's own probability, or by the critic's value. Every probe is paid for. A
    thought that leaves the model's row no room for an answer is probed as far as there is.
    """
    thoughts = greedy_forced(policy, tokenizer, problems, Forcing())
    probed, heads = [], []                        # problem of each probe; its row up to the answer
    for i, (text, _) in enumerate(thoughts):
        steps = text.partition("</think>")[0].removeprefix("<think>").split(";")
        for count in range(len(steps) + 1):
            head = (f"<think>{';'.join(steps[:count])}" if count else "") + "</think>"
            row = tokenizer.encode(f"<bos>{problems[i].prompt}{head}")
            if count == 0 or len(row) < policy.config.max_len:
                probed.append(i)
                heads.append(head)
    owners = [problems[i] for i in probed]
    answers = answers_after(policy, tokenizer, owners, heads)
    texts, sureness = zip(*answers, strict=True)
    right = rights(owners, answers)
    values = final_values(critic, tokenizer, owners, [[text] for text in texts])
    lengths = np.array([len(ids) for ids in tokenizer.encode_batch(heads)])
    paid = np.array([len(ids) for ids in tokenizer.encode_batch([*texts])]) - lengths
    rows, starts = [], np.flatnonzero(np.diff(probed, prepend=-1))
    for method, sure in (("exit_probability", np.array(sureness)),
                         ("exit_critic", np.array(values)[:, 0])):
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
    drafts, found = drafts_of(tokenizer, problems, GREEDY, Forcing("auto")), []
    for draft, head in zip(drafts, tokenizer.encode_batch(heads), strict=True):
        draft.tokens = head
    firsts = [len(draft.prompt + draft.tokens) for draft in drafts]
    draw_on(policy, tokenizer, drafts, GREEDY, [draft.limit for draft in drafts])
    rows = [(d.prompt + d.tokens, first) for d, first in zip(drafts, firsts, strict=True)]
    for part in (rows[i:i + 256] for i in range(0, len(rows), 256)):
        logprobs = drawn_logprobs(policy, pack(part, tokenizer.pad), temperature=1.0).cpu()
        counts = [len(tokens) - first for tokens, first in part]
        found += [math.exp(own.sum()) for own in logprobs.split(counts)]
    return [(tokenizer.decode(draft.tokens), p) for draft, p in zip(drafts, found, strict=True)]
