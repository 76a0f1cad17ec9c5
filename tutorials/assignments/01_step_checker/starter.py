"""Assignment 1: the exact verifier of chains. See README.md for the grammar."""


def compute(left: int, operator: str, right: int) -> int | None:
    """The exact value of one operation.

    None where it is undefined, not whole, or outside 0..99.
    """
    raise NotImplementedError


def parse(completion: str) -> tuple[tuple[str, ...], str] | None:
    """(steps, answer) of a completion, None if it does not match the grammar to its end.

    "</think>81<eos>" gives ((), "81").
    """
    raise NotImplementedError


def check_steps(prompt: str, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it the prompt's next operation on the state before it, computed exactly?

    The state before the first step is the prompt's first number; after that it is what the step
    before claimed, so that one wrong step is counted once. Operators and operands come from the
    prompt, the i-th step taking the i-th. A step beyond the prompt's last operation is wrong. A
    text that is no step is wrong and claims nothing: after it the state is the exact one again.
    """
    raise NotImplementedError


def verify(prompt: str, completion: str) -> tuple[bool, bool, bool]:
    """(correct, steps_valid, well_formed).

    well_formed: parse accepts it. correct: well formed, and the answer is the prompt's exact value.
    steps_valid: every operation of the prompt has its exact step, there is no other step, and the
    answer is what the last step says. A direct answer has no steps and is never steps_valid.
    """
    raise NotImplementedError
