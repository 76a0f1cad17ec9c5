"""Problem families behind one contract (base.py): each samples, renders, reads and verifies."""

from minireason.problems import addition, base, chain, countdown
from minireason.problems.base import Problem, Verdict, load_problems, sample_split, split_of

FAMILIES = {"chain": chain, "addition": addition, "countdown": countdown}


def load_frozen(name: str) -> list[Problem]:
    """A frozen evaluation set such as "chain-test-k3", its sha256 verified (base.load_frozen)."""
    return base.load_frozen(name, FAMILIES)


__all__ = ["FAMILIES", "Problem", "Verdict", "load_frozen", "load_problems", "sample_split",
           "split_of"]
