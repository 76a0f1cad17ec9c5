"""Problem families behind one contract (base.py): each samples, renders, reads and verifies."""

import dataclasses
import math

from minireason.core.config import check_numbers
from minireason.core.errors import UserError, check_choice
from minireason.problems import (
    addition,
    chain,
    countdown,
    decomposition,
    instructions,
    maze,
    modular,
    multiplication,
    pathstar,
    program,
    synthesis,
)
from minireason.problems.base import (
    Family,
    Problem,
    Verdict,
    check_level,
    sample_levels,
    sample_split,
    split_of,
)


class Families(dict[str, Family]):
    """{name: family}; a name that is none of them is a UserError."""

    def __missing__(self, name: str) -> Family:
        raise UserError(f"--family {name}: must be one of {', '.join(self)}")


FAMILIES = Families(chain=chain, addition=addition, countdown=countdown,
                    multiplication=multiplication, modular=modular,
                    decomposition=decomposition, instructions=instructions, maze=maze,
                    pathstar=pathstar, program=program, synthesis=synthesis)

__all__ = ["FAMILIES", "Family", "Problem", "Verdict", "check_config", "sample_levels",
           "sample_split", "split_of"]


def check_config(config, family: str = "", prefix: str = "") -> None:
    """UserError that names the first flag of a command that no run can work with.

    Numbers, names that are empty, the family, and levels: of train problems, those that the
    family makes; of frozen sets, those that there are. prefix: what stands before the flags' names.
    """
    check_numbers(config, prefix)
    family = getattr(config, "family", family)
    if family:
        check_choice("family", family, FAMILIES)
    check_choice("split", getattr(config, "split", "test"), ("test", "validation"))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values = value if isinstance(value, tuple) else (value,)
        flag = f"--{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            check_config(value, family, f"{prefix}{field.name}.")
        if "" in values and value != field.default:
            raise UserError(f"{flag}: is empty")
        for level in values:
            if family and field.name in ("min_level", "max_level", "facts_per_line"):
                check_level(FAMILIES[family], level, flag)
            if family and field.name in ("levels", "eval_levels"):
                check_choice(flag[2:], str(level), map(str, FAMILIES[family].LEVELS))
    if getattr(config, "min_level", 0) > getattr(config, "max_level", math.inf):
        raise UserError(f"--{prefix}min-level {config.min_level}: is above "
                        f"--{prefix}max-level {config.max_level}")
