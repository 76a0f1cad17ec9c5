"""Problem families behind one contract (base.py): each samples, renders, reads and verifies."""

from minireason.problems import chain
from minireason.problems.base import Problem, Verdict, load_problems, sample_split, split_of

FAMILIES = {"chain": chain}

__all__ = ["FAMILIES", "Problem", "Verdict", "load_problems", "sample_split", "split_of"]
