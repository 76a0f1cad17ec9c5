"""Files of problems: the frozen evaluation sets, sha256-checked, and JSONL files of a user."""

import hashlib
import json
from pathlib import Path

from minireason.core.errors import UserError
from minireason.core.files import read_text
from minireason.problems import FAMILIES
from minireason.problems.base import Problem


def load_problems(path: Path | str) -> list[Problem]:
    """Read a JSONL file of problems, one {"prompt": ..., "family"?: ..., "answer"?: ...} per line.

    The answer is recomputed; UserError names the line that is broken, unreadable or wrong.
    """
    problems = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                problems.append(_read_line(line))
            except UserError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
    if not problems:
        raise UserError(f"{path}: holds no problems")
    return problems


def frozen_folder() -> Path:
    """Where the frozen sets lie: `data/` of a checkout, `minireason/data/` of a built wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "data"
    return checkout if (package.parent / "pyproject.toml").is_file() else package / "data"


def load_frozen(name: str) -> list[Problem]:
    """The problems of a frozen evaluation set such as "chain-test-k3", in their fixed order.

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
    return load_problems(path)


def _read_line(line: str) -> Problem:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UserError('needs an object with a string "prompt"')
    name = record.get("family", next(iter(FAMILIES)))
    if name not in list(FAMILIES):
        raise UserError(f"unknown family {name!r}, have {sorted(FAMILIES)}")
    problem = FAMILIES[name].read(record["prompt"])
    if str(record.get("answer", problem.answer)) != problem.answer:
        raise UserError(f"answer {record['answer']!r}, but {problem.prompt}{problem.answer}")
    return problem
