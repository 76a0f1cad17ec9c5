"""Problem families behind one contract (base.py): each samples, renders, reads and verifies."""

from minireason.core.errors import UserError
from minireason.problems import addition, chain, countdown
from minireason.problems.base import Family, Problem, Verdict, sample_levels, sample_split, split_of


class Families(dict[str, Family]):
    """{name: family}; a name that is none of them is a UserError."""

    def __missing__(self, name: str) -> Family:
        raise UserError(f"--family {name}: must be one of {', '.join(self)}")


FAMILIES = Families(chain=chain, addition=addition, countdown=countdown)

__all__ = ["FAMILIES", "Family", "Problem", "Verdict", "sample_levels", "sample_split", "split_of"]
