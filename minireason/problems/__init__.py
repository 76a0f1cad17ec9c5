"""Problem families behind one contract (base.py): each samples, renders, reads and verifies."""

from minireason.problems import addition, chain, countdown
from minireason.problems.base import Family, Problem, Verdict, sample_levels, sample_split, split_of

FAMILIES: dict[str, Family] = {"chain": chain, "addition": addition, "countdown": countdown}

__all__ = ["FAMILIES", "Family", "Problem", "Verdict", "sample_levels", "sample_split", "split_of"]
