"""The pretraining mixture: what a base model reads, and what later stages replay.

    fact     54/9=6;23+4=27;...                     arithmetic as it stands in the world: the
                                                    steps of a chain, shuffled, without question
    direct   ((23+4)*3)=</think>81                  questions with bare answers
    worked   ((23+4)*3)=<think>23+4=27;...</think>81   a tail of worked lines, rarer when longer

The worked lines are thin on purpose: their number of steps is geometric, so a chain of six is
seen now and then. What pretraining never shows, post-training cannot draw out of it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minireason.config import UserError, from_dict, read_json
from minireason.problems import FAMILIES, sample_split


@dataclass(frozen=True)
class Mixture:
    """Shares and lengths of the three kinds of lines."""

    facts: float = 0.25           # share of lines
    direct: float = 0.2           # share of lines; the rest is worked
    facts_per_line: int = 6
    max_level: int = 8            # longest chain in direct and worked lines
    worked_tail: float = 0.5      # a worked line has level k with weight worked_tail ** k

    @classmethod
    def of(cls, folder: str) -> "Mixture":
        """The mixture that a pretrained folder was trained on; UserError if it is no such."""
        record = read_json(Path(folder) / "config.json")
        if record.get("stage") != "pretrain":
            raise UserError(f"{folder}: is a {record.get('stage')!r} folder, not a pretrained one")
        return from_dict(cls, record["config"]["mixture"])


def draw_line(mixture: Mixture, family_name: str, generator: np.random.Generator) -> str:
    """One line of the mixture, `<eos>` included, from problems of the train split only."""
    family = FAMILIES[family_name]
    kind = generator.random()
    if kind < mixture.facts:
        steps = sample_split(family, generator, mixture.facts_per_line, "train").steps
        return ";".join(steps[i] for i in generator.permutation(len(steps))) + "<eos>"
    if kind < mixture.facts + mixture.direct:
        level = int(generator.integers(1, mixture.max_level + 1))
        problem = sample_split(family, generator, level, "train")
        return problem.prompt + family.render(problem, "direct")
    weights = mixture.worked_tail ** np.arange(1, mixture.max_level + 1)
    level = 1 + int(generator.choice(mixture.max_level, p=weights / weights.sum()))
    problem = sample_split(family, generator, level, "train")
    return problem.prompt + family.render(problem, "cot")
