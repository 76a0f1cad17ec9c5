"""Floating-point operations, counted where they are spent: what every gain is compared at.

2 per weight and token read, 6 per weight and token learnt from (Kaplan 2020, arXiv:2001.08361,
section 2.1). Left out are the products of attention itself (3% of the count at 1.9M parameters, 11%
at 0.03M, rows of 43 tokens) and the optimizer's own (Muon, 2,000 tokens per step: 30% and 5%).
Samples count as if each were drawn alone, though equal beginnings are computed once; what a search
has read counts once (sampling/prefixes.py). The count is this process's; evaluation (`uncounted`)
is no part of what a stage costs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

READ, LEARN = 2, 6                # per weight and token
_spent = {"flops": 0.0}


def count(kind: int, weights: int, tokens: int) -> None:
    """Add READ or LEARN operations of a model for so many tokens."""
    _spent["flops"] += kind * float(weights) * tokens


def spent() -> float:
    """FLOPs of this process so far."""
    return _spent["flops"]


@contextmanager
def uncounted() -> Iterator[None]:
    """What is spent inside is measured, not invested: it does not count."""
    before = spent()
    try:
        yield
    finally:
        _spent["flops"] = before
