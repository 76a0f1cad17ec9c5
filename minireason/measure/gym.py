"""reasoning-gym's problems and scorer (Stojanovski 2025, arXiv:2505.24760): an external exam.

`minireason eval --gym` asks those that can be written in the grammar of a family.
"""

import importlib
from collections.abc import Sequence
from contextlib import suppress

from minireason.core.errors import UserError
from minireason.measure.estimates import share_interval
from minireason.problems import FAMILIES, Problem, split_of
from minireason.problems.frozen import problem_of

GYM = {"chain_sum": "chain", "basic_arithmetic": "chain", "countdown": "countdown"}   # our family


def make_gym(name: str, settings: Sequence[str], size: int, seed: int):
    """reasoning-gym's data set; UserError if it, or a setting of it, is not there."""
    try:
        reasoning_gym = importlib.import_module("reasoning_gym")
    except ImportError:
        raise UserError("--gym: needs reasoning-gym; pip install 'minireason[gym]'") from None
    numbers = {}
    for text in settings:
        field, _, value = text.partition("=")
        if not value.lstrip("-").isdigit():
            raise UserError(f"--gym-settings {text}: must be FIELD=NUMBER")
        numbers[field] = int(value)
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **numbers)
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(f"--gym-settings: reasoning-gym says {error}") from None


def written_in_our_grammar(name: str, gym) -> dict[int, Problem]:
    """{number from 1: problem} of those of reasoning-gym's problems that our families can read."""
    problems = {}
    for number, entry in enumerate(gym, 1):
        about, record = entry["metadata"], {"family": GYM[name]}
        if name == "countdown":
            record |= {"nums": about["numbers"], "target": about["target"]}
        else:
            record["prompt"] = about["expression"]
        with suppress(UserError):
            problems[number] = problem_of(record)
    if not problems:
        raise UserError(f"--gym {name}: none of {len(gym)} problems can be written in our "
                        "grammar; try --gym-settings, such as max_digits=1")
    return problems


def gym_scores(gym, completions: dict[int, list[str]], problems: list[Problem]) -> dict:
    """Share of answers that reasoning-gym scores with exactly 1, and of its problems we can ask."""
    right = 0.0
    for (number, texts), problem in zip(completions.items(), problems, strict=True):
        for text in texts:
            parsed = FAMILIES[problem.family].parse(text)
            score = gym.score_answer(parsed and parsed[1], gym[number - 1])
            right += (score == 1.0) / len(texts)
    known = sum(split_of(problem) == "train" for problem in problems)
    return {"asked": len(problems), "of": len(gym), "train_split": known,
            **share_interval(right, len(problems))}
