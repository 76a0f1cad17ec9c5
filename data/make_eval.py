"""Write the frozen evaluation sets and their sha256, or check that they are what this code makes.

    python data/make_eval.py            writes <family>-<split>-<level>.jsonl and SHA256SUMS
    python data/make_eval.py --check    makes them anew in memory; exit status 1 if a file differs

500 different problems per level, fewer only where the split holds fewer. They come from the test
and validation splits, which are cut by hash of the canonical key: no stage can train on them.
A family's EXTRA_SETS are further test sets: the targets of `countdown-targets`, too, appear
nowhere in training.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minireason.core.config import rng
from minireason.problems import FAMILIES
from minireason.problems.base import Family, Problem, sample_split

SEED, PER_LEVEL = 20260101, 500


def sample_unique(family: Family, rng: np.random.Generator, level: int, split: str, n: int,
                  sample: Callable | None = None) -> list[Problem]:
    """Up to n different problems; fewer only where the split is used up.

    That is taken to be so when 20 n draws in a row found nothing new.
    """
    found: dict[str, Problem] = {}
    fruitless = 0
    while len(found) < n and fruitless < 20 * n:
        problem = sample_split(family, rng, level, split, sample)
        fruitless = fruitless + 1 if problem.key in found else 0
        found.setdefault(problem.key, problem)
    return list(found.values())


def save_problems(path: Path, problems: list[Problem]) -> str:
    """Write one JSON object per line; returns the sha256 of the file."""
    lines = [json.dumps({"family": p.family, "level": p.level, "prompt": p.prompt,
                         "answer": p.answer}) for p in problems]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def make(folder: Path) -> str:
    """Write every set into the folder; returns the text of SHA256SUMS."""
    lines = []
    for name, family in FAMILIES.items():
        extra = getattr(family, "EXTRA_SETS", {})
        for kind in ("test", "validation", *extra):
            for level in family.LEVELS:
                title = f"{name}-{kind}-{family.LEVEL_SYMBOL}{level}"
                problems = sample_unique(family, rng(SEED, title), level,
                                         "test" if kind in extra else kind, PER_LEVEL,
                                         extra.get(kind))
                problems.sort(key=lambda p: hashlib.sha256(p.key.encode()).digest())
                sha256 = save_problems(folder / f"{title}.jsonl", problems)
                lines.append(f"{sha256}  {title}.jsonl\n")
                print(f"{title:<24} {len(problems):>4} problems", file=sys.stderr)
    return "".join(sorted(lines, key=lambda line: line.split()[1]))


def check(folder: Path) -> list[str]:
    """Names of the files in the folder that are missing or not what this code makes."""
    with tempfile.TemporaryDirectory() as scratch:
        sums = make(Path(scratch))
        (Path(scratch) / "SHA256SUMS").write_text(sums)
        return [fresh.name for fresh in sorted(Path(scratch).iterdir())
                if not (folder / fresh.name).is_file()
                or (folder / fresh.name).read_bytes() != fresh.read_bytes()]


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    folder = Path(__file__).resolve().parent
    if not parser.parse_args().check:
        (folder / "SHA256SUMS").write_text(make(folder))
        return 0
    differing = check(folder)
    print(f"differ: {', '.join(differing)}" if differing else "all frozen sets are as made")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
