"""The one exception that users see."""

from collections.abc import Iterable, Sequence


class UserError(Exception):
    """An error the user can fix: bad input, missing file, full disk; one line: what, where, how."""


def check_choice(flag: str, value: str, choices: Iterable[str]) -> None:
    """UserError that names the flag and the choices, if the value is none of them."""
    choices = list(choices)
    if value not in choices:
        raise UserError(f"--{flag} {value}: must be one of {', '.join(choices)}")


def check_once(flag: str, values: Sequence[object]) -> None:
    """UserError if a value is given twice, which would count as two."""
    if len(set(values)) < len(values):
        raise UserError(f"--{flag} {' '.join(map(str, values))}: give each once")
