"""The pretraining mixture: what a base model reads, and what later stages replay.

    fact     54/9=6;23+4=27;...                     arithmetic as it stands in the world: the
                                                    steps of a chain, shuffled, without question
    direct   ((23+4)*3)=</think>81                  questions with bare answers
    worked   ((23+4)*3)=<think>23+4=27;...</think>81   a tail of worked lines, rarer when longer

Worked lines of up to `common_level` steps are equally frequent; longer ones are rarer with every
step, so a chain of eight is seen now and then. What pretraining never shows, post-training cannot
draw out of it; what it shows rarely, post-training can make reliable.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minireason.core.config import Share, UserError, from_dict, read_json
from minireason.problems import Family, sample_split


@dataclass(frozen=True)
class Mixture:
    """Shares and lengths of the three kinds of lines."""

    facts: Share = 0.2            # share of lines
    direct: Share = 0.15          # share of lines; the rest is worked
    facts_per_line: int = 6       # the level whose solutions they are taken from
    min_level: int = 1            # of direct and worked lines
    max_level: int = 8
    common_level: int = 4         # worked lines are equally frequent up to this level,
    worked_tail: Share = 0.35     # then each level has this times the share of the one before

    def __post_init__(self):
        if self.facts + self.direct > 1:
            raise UserError(f"mixture: {self.facts} of facts and {self.direct} of direct lines are "
                            "more than all lines")
        if self.worked_tail == 0 and self.min_level > self.common_level:
            raise UserError("mixture: a worked tail of 0 needs a common level of at least the "
                            "lowest level")

    def worked_shares(self) -> np.ndarray:
        """Share of each level min_level..max_level among the worked lines."""
        beyond = np.arange(self.min_level, self.max_level + 1) - self.common_level
        weights = self.worked_tail ** np.maximum(0, beyond)
        return weights / weights.sum()

    @classmethod
    def of(cls, folder: str) -> "Mixture":
        """The mixture that a pretrained folder was trained on; UserError if it is no such."""
        record = read_json(Path(folder) / "config.json")
        if record.get("stage") != "pretrain":
            raise UserError(f"{folder}: is a {record.get('stage')!r} folder, not a pretrained one")
        return from_dict(cls, record["config"]["mixture"])


def corpus_line(mixture: Mixture, family: Family, rng: np.random.Generator) -> str:
    """One line of the mixture, `<eos>` included, from problems of the train split only."""
    kind = rng.random()
    if kind < mixture.facts:
        facts = family.facts(sample_split(family, rng, mixture.facts_per_line, "train"))
        return ";".join(facts[i] for i in rng.permutation(len(facts))) + "<eos>"
    style = "direct" if kind < mixture.facts + mixture.direct else "cot"
    levels = np.arange(mixture.min_level, mixture.max_level + 1)
    level = int(rng.choice(levels, p=None if style == "direct" else mixture.worked_shares()))
    problem = sample_split(family, rng, level, "train")
    return problem.prompt + family.render(problem, style)


def corpus_lines(mixture: Mixture, family: Family, rng: np.random.Generator, n: int) -> list[str]:
    """n lines of the mixture."""
    return [corpus_line(mixture, family, rng) for _ in range(n)]
