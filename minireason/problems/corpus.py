"""The pretraining mixture: what a base model reads, and what later stages replay.

    fact     54/9=6;23+4=27;...                     arithmetic as it stands in the world: the
                                                    steps of a chain, shuffled, without question
    direct   ((23+4)*3)=</think>81                  questions with bare answers
    worked   ((23+4)*3)=<think>23+4=27;...</think>81   questions with worked answers

The lines are written by fallible authors (authors.py) whose chances the mixture names: a model that
imitates them errs as they do, however long it trains. With all chances 0 they are exact. Worked
lines of up to `common_level` steps are equally frequent, longer ones rarer with every step.
"""

import math
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import cast

import numpy as np

from minireason.core.config import Share, from_dict, rng
from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.problems import Family, sample_split, split_of
from minireason.problems.authors import (
    AuthoredFamily,
    Authors,
    Marked,
    answer_chances,
    fact_outcomes,
    outcomes_of,
    stated_facts,
    written,
)


@dataclass(frozen=True)
class Mixture:
    """Shares and lengths of the three kinds of lines, and how their authors err."""

    facts: Share = 0.2            # share of lines
    direct: Share = 0.1           # share of lines; the rest is worked
    facts_per_line: int = 6       # the level whose solutions they are taken from
    min_level: int = 1            # of direct and worked lines
    max_level: int = 8
    common_level: int = 8         # worked lines are equally frequent up to this level,
    worked_tail: Share = 0.35     # then each level has this times the share of the one before
    rule: Share = Authors.rule    # P(an author follows a frequent wrong rule where it falls)
    rare: Share = Authors.rare    # the same for a rare rule
    slip: Share = Authors.slip    # P(any other step slips at random)

    def __post_init__(self) -> None:
        _ = self.authors              # UserError if a chance is none
        if self.facts + self.direct > 1:
            raise UserError(f"mixture: {self.facts} of facts and {self.direct} of direct lines are "
                            "more than all lines")
        if self.worked_tail == 0 and self.min_level > self.common_level:
            raise UserError("mixture: a worked tail of 0 needs a common level of at least the "
                            "lowest level")

    @cached_property
    def authors(self) -> Authors:
        """Who writes the lines."""
        return Authors(self.rule, self.rare, self.slip)

    def worked_shares(self) -> np.ndarray:
        """Share of each level min_level..max_level among the worked lines."""
        beyond = np.arange(self.min_level, self.max_level + 1) - self.common_level
        weights = self.worked_tail ** np.maximum(0, beyond)
        return weights / weights.sum()

    @cached_property
    def worked_bounds(self) -> list[float]:
        """(levels,) shares summed up to each level, as Generator.choice sums them."""
        sums = self.worked_shares().cumsum()
        return (sums / sums[-1]).tolist()

    @classmethod
    def of(cls, folder: str) -> "Mixture":
        """The mixture that a pretrained folder was trained on; UserError if it is no such."""
        record = read_json(Path(folder) / "config.json")
        if record.get("stage") != "pretrain":
            raise UserError(f"{folder}: is a {record.get('stage')!r} folder, not a pretrained one")
        config = record.get("config")
        mixture = config.get("mixture") if isinstance(config, dict) else None
        if not isinstance(mixture, dict):
            raise UserError(f"{folder}/config.json: holds no mixture")
        return from_dict(cls, mixture)


def _written_line(mixture: Mixture, family: Family,
                  generator: np.random.Generator) -> tuple[str, Marked]:
    """(line, its marked facts or steps), from problems of the train split only."""
    kind, authors = generator.random(), mixture.authors
    if kind < mixture.facts:
        problem = sample_split(family, generator, mixture.facts_per_line, "train")
        facts = stated_facts(family, problem, authors, generator)
        facts = [facts[i] for i in generator.permutation(len(facts))]
        return ";".join(fact for fact, _ in facts) + "<eos>", facts
    style = "direct" if kind < mixture.facts + mixture.direct else "cot"
    if style == "direct":             # both as Generator.choice draws, without its checks
        above = int(generator.integers(mixture.max_level - mixture.min_level + 1))
    else:
        above = bisect(mixture.worked_bounds, generator.random())
    level = mixture.min_level + above
    problem = sample_split(family, generator, level, "train")
    if authors.exact:
        return problem.prompt + family.render(problem, style), []
    text, marked = written(family, problem, authors, generator, style)
    if style == "direct":             # what went wrong in his head is told at the answer
        answer = text.removeprefix("</think>").removesuffix("<eos>")
        names = ", ".join(dict.fromkeys(mistake for _, mistake in marked if mistake))
        marked = [(answer, "" if family.verify(problem, text).correct else names)]
    return problem.prompt + text, marked


def corpus_lines(mixture: Mixture, family: Family, generator: np.random.Generator,
                 n: int) -> list[str]:
    """n lines of the mixture, `<eos>` included."""
    return [_written_line(mixture, family, generator)[0] for _ in range(n)]


def marked_corpus(family: Family, mixture: Mixture, n: int, seed: int) -> list[Marked]:
    """n lines to show, each cut into (piece, its mistake or ""); joined, the pieces are the line.

    The wrong answer of a direct line bears the names of all its author's mistakes.
    """
    generator, lines = rng(seed, "marked corpus"), []
    for _ in range(n):
        line, marked = _written_line(mixture, family, generator)
        done, start, pieces = 0, max(0, line.find("think>")), []     # not in the prompt
        for text, mistake in marked:
            start = line.index(text, start)
            pieces += [(line[done:start], ""), (text, mistake)]
            done = start = start + len(text)
        lines.append([piece for piece in (*pieces, (line[done:], "")) if piece[0]])
    return lines


# ---- the entropy of the corpus: the loss that nobody can beat ------------------------------------

@cache
def train_share(family: Family, level: int, n: int = 5000) -> float:
    """Estimated share of the train split among a level's problems: 0.8, give or take 0.006."""
    generator = rng(0, "train share", level)
    return sum(split_of(family.sample(generator, level)) == "train" for _ in range(n)) / n


def authored(family: Family) -> AuthoredFamily:
    """The family; UserError if its text is written without authors."""
    if not hasattr(family, "outcomes"):
        raise UserError(f"{family.NAME} has no fallible authors: its text is exact")
    return cast(AuthoredFamily, family)


def _chance(found: list, text: str) -> float:
    """Probability of the outcome that is written so."""
    return next((outcome.probability for outcome in found if outcome.text == text), 0.0)


def line_probability(mixture: Mixture, family: Family, line: str,
                     share: Callable[[Family, int], float] | None = train_share) -> float:
    """P(the mixture's authors write this line), exact but for the share of the train split.

    share None: by one who cannot know the split, as no model can (it is a hash). A line of facts
    may come from several problems: `problems_of_facts` of the family names them.
    """
    authors, outcomes, family = mixture.authors, outcomes_of(family), authored(family)

    def asked(problem) -> float:      # P(problem), given its level and the split
        chance = math.exp(family.log_probability(problem))
        train = share is None or split_of(problem) == "train"
        return train * chance / (share(family, problem.level) if share else 1.0)

    if "</think>" not in line:
        facts, total = line.removesuffix("<eos>").split(";"), 0.0
        for problem, ordered in family.problems_of_facts(facts):
            ways = fact_outcomes(family, problem, authors)
            total += asked(problem) * math.prod(map(_chance, ways, ordered))
        return mixture.facts * total / math.factorial(len(facts))
    prompt, opener, rest = line.partition("<think>" if "<think>" in line else "</think>")
    problem, (steps, answer) = family.read(prompt), family.parse(opener + rest) or ((), "")
    levels = mixture.max_level - mixture.min_level + 1
    if not mixture.min_level <= problem.level <= mixture.max_level:
        return 0.0
    if not steps:
        chances = answer_chances(family, problem, authors)
        return mixture.direct / levels * asked(problem) * chances.get(answer, 0.0)
    worked = mixture.worked_shares()[problem.level - mixture.min_level]
    total = (1 - mixture.facts - mixture.direct) * worked * asked(problem)
    state = None
    for number, step in enumerate(steps):
        found = outcomes(problem, authors, number, state)
        total *= _chance(found, step)
        state = next((outcome.state for outcome in found if outcome.text == step), None)
    ended = total > 0 and not outcomes(problem, authors, len(steps), state)
    return total if ended and family.answer_of_state(problem, state) == answer else 0.0


@cache
def entropy_lines(mixture: Mixture, family: Family, n: int = 2000,
                  seed: int = 0) -> tuple[list[str], np.ndarray]:
    """n fresh lines, and the nats of each (n,): -log p by one who knows all but the split."""
    lines = corpus_lines(mixture, family, rng(seed, "entropy"), n)
    return lines, -np.log([line_probability(mixture, family, line, None) for line in lines])


def per_token(nats: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """(nats per token, its standard error) of lines of so many nats and tokens, both (n,).

    Of the nats of `entropy_lines` it is the mean loss per token that no model can beat.
    """
    ratio = float(nats.sum() / tokens.sum())
    error = (nats - ratio * tokens).std(ddof=1) / tokens.mean() / math.sqrt(len(nats))
    return ratio, float(error)
