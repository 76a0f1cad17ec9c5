"""The contract of a problem family, the split, and the frozen evaluation sets.

A family is a module with these functions (see chain.py for the shortest complete example):

    sample(rng, level) -> Problem             one random problem
    read(text) -> Problem                     from what a user typed; UserError if unreadable
    render(problem, style) -> str             the ideal completion, opener and <eos> included
    parse(completion) -> (steps, answer)      None if it does not match the grammar to the end
    check_steps(problem, steps) -> [bool]     each step verified from the state before it
    verify(problem, completion) -> Verdict    the exact ground truth of this project

Text is one line. The prompt is `<bos>` + problem.prompt; a completion begins with the style's
opener, which the sampler forces: `<think>` opens a thought, `</think>` goes straight to the answer.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minireason.core.config import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Problem:
    """One question with its exact answer and the exact steps that lead there."""

    prompt: str               # e.g. "((23+4)*3)="
    answer: str               # e.g. "81"
    steps: tuple[str, ...]    # e.g. ("23+4=27", "27*3=81")
    family: str
    level: int                # difficulty: number of operations or digits
    key: str                  # canonical form: equal problems have equal keys


@dataclass(frozen=True)
class Verdict:
    """What the exact verifier says of one completion; correct implies well_formed."""

    correct: bool             # the grammar matches to the end and the answer is right
    steps_valid: bool         # every step is present and exactly right
    well_formed: bool         # the grammar matches to the end, <eos> included
    marks: tuple[bool, ...] = ()   # per step: exactly right, given the state before it


MALFORMED = Verdict(False, False, False)


def split_of(key: str) -> str:
    """80 / 10 / 10 by hash of the canonical key: a test problem can never be trained on.

    What follows a `>` is not hashed: countdown's target, so that numbers held out are held out
    with every target.
    """
    digest = hashlib.sha256(key.partition(">")[0].encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") % 10
    return "train" if tenth < 8 else SPLITS[tenth - 7]


def sample_split(family, rng: np.random.Generator, level: int, split: str) -> Problem:
    """A random problem of one split, by rejection; UserError if the level has none."""
    for _ in range(10_000):
        problem = family.sample(rng, level)
        if split_of(problem.key) == split:
            return problem
    raise UserError(f"{family.__name__} level {level}: no problem in split {split!r}")


def sample_unique(family, rng: np.random.Generator, level: int, split: str,
                  n: int) -> list[Problem]:
    """Up to n different problems; fewer only where the split is used up.

    That is taken to be so when 20 n draws in a row found nothing new.
    """
    found: dict[str, Problem] = {}
    fruitless = 0
    while len(found) < n and fruitless < 20 * n:
        problem = sample_split(family, rng, level, split)
        fruitless = fruitless + 1 if problem.key in found else 0
        found.setdefault(problem.key, problem)
    return list(found.values())


def save_problems(path: Path, problems: list[Problem]) -> str:
    """Write one JSON object a line; returns the sha256 of the file."""
    lines = [json.dumps({"family": p.family, "level": p.level, "prompt": p.prompt,
                         "answer": p.answer}) for p in problems]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def load_problems(path: Path | str, families: dict) -> list[Problem]:
    """Read a JSONL file of problems: {"prompt": ..., "family"?: ..., "answer"?: ...} a line.

    The answer is recomputed; UserError names the line that is broken, unreadable or wrong.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a text file ({error})") from None
    problems = [_read_line(path, number, line, families)
                for number, line in enumerate(lines, 1) if line.strip()]
    if not problems:
        raise UserError(f"{path}: holds no problems")
    return problems


def frozen_folder() -> Path:
    """Where the frozen sets lie: `data/` of a checkout, `minireason/data/` of a built wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "data"
    return checkout if (package.parent / "pyproject.toml").is_file() else package / "data"


def load_frozen(name: str, families: dict) -> list[Problem]:
    """The problems of a frozen evaluation set, in their fixed order.

    UserError names the file if it is missing or its sha256 is not the one in SHA256SUMS.
    """
    folder = frozen_folder()
    path, sums = folder / f"{name}.jsonl", folder / "SHA256SUMS"
    try:
        data, listing = path.read_bytes(), sums.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read this frozen set ({error.strerror}); "
                        "python data/make_eval.py writes them anew") from None
    listed = dict(line.split("  ")[::-1] for line in listing.splitlines())
    if hashlib.sha256(data).hexdigest() != listed.get(path.name):
        raise UserError(f"{path}: its sha256 is not the one in SHA256SUMS; restore the file, or "
                        "write it anew with python data/make_eval.py")
    return load_problems(path, families)


def _read_line(path: Path | str, number: int, line: str, families: dict) -> Problem:
    where = f"{path}, line {number}"
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg})") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UserError(f'{where}: needs an object with a string "prompt"')
    name = record.get("family", "chain")
    family = families.get(name) if isinstance(name, str) else None
    if family is None:
        raise UserError(f"{where}: unknown family {name!r}, have {sorted(families)}")
    try:
        problem = family.read(record["prompt"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if "answer" in record and str(record["answer"]) != problem.answer:
        raise UserError(f"{where}: answer {record['answer']!r}, but {problem.prompt}"
                        f"{problem.answer}")
    return problem
