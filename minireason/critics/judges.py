"""Who values a prefix in a search: a critic, an oracle, nobody; each with noise on purpose.

    oracle   1 while every step is exactly right, else 0: the verifier, a bound and never a method
    critic   what was learnt
    random   a number drawn for each prefix

Noise is added to the log-odds and drawn for each prefix anew, but for a prefix always the same, as
a critic's own errors are: who searches for the highest value finds the largest error too (Gao 2022,
arXiv:2210.10760; Snell 2024, arXiv:2408.03314). Every judge is charged what a critic of that size
costs to read its rows, so that searches by different judges compare at equal FLOPs.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from minireason.core import flops
from minireason.core.config import rng
from minireason.critics.step_labels import exact_labels
from minireason.critics.value_head import Critic, prefix_values, rollout_ids
from minireason.model.tokenizer import Tokenizer
from minireason.problems import Family, Problem
from minireason.sampling.prefixes import unread

Values = Callable[[list[list[int]]], list[float]]      # P(correct | prefix) of token rows
JUDGES = ("critic", "oracle", "random")


def judge_of(kind: str, critic: Critic, tokenizer: Tokenizer, family: Family, noise: float = 0.0,
             seed: int = 0) -> Values:
    """The values of a kind of JUDGES, with noise of so many nats of log-odds (its deviation)."""
    def values(rows: list[list[int]]) -> list[float]:
        if kind == "critic":
            found = prefix_values(critic, tokenizer, rows)
        else:
            flops.count(flops.READ, critic.n_params, unread(critic, rows))
            read = partial(oracle_value, tokenizer, family) if kind == "oracle" else (
                lambda row: rng(seed, "random judge", row).random())
            found = [read(row) for row in rows]
        if not noise:
            return found
        odds = np.array([rng(seed, "noise", row).normal(0, noise) for row in rows])
        clipped = np.clip(found, 1e-4, 1 - 1e-4)
        return (1 / (1 + (1 / clipped - 1) * np.exp(-odds))).tolist()

    return values


def oracle_value(tokenizer: Tokenizer, family: Family, row: list[int]) -> float:
    """1 if the row, from <bos> on, is exactly right so far: every step, and the answer if any."""
    opener = family.OPENER["cot"]
    prompt, _, thought = tokenizer.decode(row).removeprefix("<bos>").partition(opener)
    labels = exact_labels(family.read(prompt), opener + thought)
    return min(labels, default=1.0)       # a right answer after a wrong step is luck


def whole_values(values: Values, tokenizer: Tokenizer, problems: list[Problem],
                 completions: list[list[str]]) -> list[list[float]]:
    """The judge's value of every completion, its end included; equal ones are read once."""
    pairs = dict.fromkeys((problem, text) for problem, texts in
                          zip(problems, completions, strict=True) for text in texts)
    rows = rollout_ids(tokenizer, [problem for problem, _ in pairs], [text for _, text in pairs])
    value = dict(zip(pairs, values([row for row, _ in rows]), strict=True))
    return [[value[problem, text] for text in texts]
            for problem, texts in zip(problems, completions, strict=True)]


def unread_tokens(tokenizer: Tokenizer, _problems: list[Problem],
                  completions: list[list[str]]) -> list[list[float]]:
    """Of every completion the tokens behind its opener that end a beginning which no earlier one of
    its problem has: what a judge that remembers has to read of it."""
    found = []
    for texts in completions:
        seen: set[tuple[int, ...]] = set()
        found.append([])
        for row in tokenizer.encode_batch(texts):
            before = len(seen)
            seen.update(tuple(row[:end]) for end in range(2, len(row) + 1))
            found[-1].append(float(len(seen) - before))
    return found
