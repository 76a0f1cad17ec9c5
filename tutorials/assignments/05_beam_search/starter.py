"""Assignment 5: beam search under a token budget. The rules stand in README.md."""

from collections.abc import Callable
from typing import Protocol

Prefix = tuple[str, ...]


class Step(Protocol):
    """What draw returns."""

    text: str
    tokens: int
    state: str                    # "open" | "complete" | "dead"


def beam_search(draw: Callable[[Prefix, int], list[Step]], value: Callable[[Prefix], float],
                beams: int, width: int, longest: int,
                budget: int) -> tuple[Prefix | None, int]:
    """(the finished prefix of highest value or None, tokens spent)."""
    raise NotImplementedError
