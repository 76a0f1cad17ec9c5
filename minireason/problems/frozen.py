"""Files of problems: the frozen evaluation sets, sha256-checked, and JSONL files of a user."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np

from minireason.core.errors import UserError
from minireason.core.files import parsed, read_text
from minireason.problems import FAMILIES
from minireason.problems.base import Problem, plain_text

PROMPTS = ("prompt", "question", "problem")     # names under which a record may hold its prompt


def numbered_problems(path: Path | str, n: int | None = None) -> dict[int, Problem]:
    """{line number: problem} of a JSONL file, {"prompt": ..., "family"?: ..., "answer"?: ...} each.

    Only the first n are read, if n is given. An answer must be a right one. UserError names the
    line that is broken, unreadable or wrong.
    """
    problems = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip() and (n is None or len(problems) < n):
            record = parsed(line, where := f"{path}, line {number}")
            try:
                problems[number] = problem_of(record)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    if not problems and n != 0:
        raise UserError(f"{path}: holds no problems")
    return problems


def frozen_folder() -> Path:
    """Where the frozen sets lie: `minireason/data/` of a built wheel, `data/` of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = (package / "data" / "SHA256SUMS").is_file()
    return package / "data" if installed else package.parent / "data"


def frozen_path(name: str) -> Path:
    """The file of a frozen evaluation set such as "chain-test-k3", its content checked.

    UserError names the file if it is missing or its sha256 is not the one in SHA256SUMS.
    """
    folder = frozen_folder()
    path, sums = folder / f"{name}.jsonl", folder / "SHA256SUMS"
    try:
        data, listing = path.read_bytes(), sums.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read this frozen set ({error.strerror}); "
                        "python data/make_eval.py writes them anew") from None
    if f"{hashlib.sha256(data).hexdigest()}  {path.name}" not in listing.splitlines():
        raise UserError(f"{path}: its sha256 is not the one in SHA256SUMS; restore the file, or "
                        "write it anew with python data/make_eval.py")
    return path


def load_frozen(name: str, n: int | None = None) -> list[Problem]:
    """The first n problems, or all, of a frozen evaluation set, in their fixed order."""
    return list(numbered_problems(frozen_path(name), n).values())


@cache
def alike(name: str, n: int) -> np.ndarray | None:
    """(n,) numbers of the first n problems of a frozen set: equal for what is held out as one.

    None if there is no such set of so many, as in the rows of another version.
    """
    numbers: dict[str, int] = {}
    try:
        keys = [problem.split_key or problem.key for problem in load_frozen(name, n)]
    except UserError:
        return None
    found = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    return found if len(found) == n else None


def problem_of(record: object) -> Problem:
    """The problem of a record; of several families that could read it, the one it names."""
    if not isinstance(record, dict):
        raise UserError('needs an object with a string "prompt"')
    prompts = [(record.get("family", next(iter(FAMILIES))), record[key])
               for key in PROMPTS if key in record]
    for name, family in FAMILIES.items():
        prompt = getattr(family, "prompt_of", lambda record: None)(record)
        if prompt is not None:
            prompts.append((record.get("family", name), prompt))
    if len(prompts) != 1 or not isinstance(prompts[0][1], str):
        raise UserError('needs an object with one string "prompt" (or "question", "problem"); it '
                        f"has {', '.join(map(repr, record))[:100] or 'nothing'}")
    name, prompt = prompts[0]
    if name not in list(FAMILIES):
        raise UserError(f"unknown family {name!r}, have {sorted(FAMILIES)}")
    family = FAMILIES[name]
    problem = family.read(prompt)
    answer = str(record.get("answer", problem.answer)).rpartition("####")[2]     # GSM8K's mark
    if not family.is_right(problem, family.answer_key(plain_text(answer))):
        raise UserError(f"answer {record['answer']!r}, but {problem.prompt}{problem.answer}")
    return problem
