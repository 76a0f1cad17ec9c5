"""Write the frozen evaluation sets and their sha256, or check that they are what this code makes.

    python data/make_eval.py            writes <family>-<split>-<level>.jsonl and SHA256SUMS
    python data/make_eval.py --check    makes them anew in memory; exit status 1 if a file differs

500 different problems per level, fewer only where the split holds fewer; of those that hang
together (one split_key) at most a family's MOST_ALIKE. They come from the test and validation
splits, which are cut by hash of the canonical key: no stage can train on them.
A family's EXTRA_SETS are further test sets, of the validation split where their name says so: the
targets of `countdown-targets` and of its twin `countdown-targets-validation`, too, appear nowhere
in training.
"""

import argparse
import filecmp
import hashlib
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minireason.core.config import rng
from minireason.problems import FAMILIES
from minireason.problems.base import Family, Problem, sample_split

SEED, PER_LEVEL = 20261128, 500     # of a draw that no recipe was chosen on


def sample_unique(family: Family, rng: np.random.Generator, level: int, split: str, n: int,
                  sample: Callable | None = None) -> list[Problem]:
    """Up to n different problems; fewer only where the split is used up.

    That is taken to be so when 20 n draws in a row found nothing new.
    """
    found: dict[str, Problem] = {}
    alike: Counter[str] = Counter()
    fruitless = 0
    while len(found) < n and fruitless < 20 * n:
        problem = sample_split(family, rng, level, split, sample)
        fruitless += 1
        if problem.key not in found and alike[problem.split_key] < getattr(family, "MOST_ALIKE", n):
            found[problem.key], fruitless = problem, 0
            alike[problem.split_key] += 1
    return list(found.values())


def make(folder: Path) -> str:
    """Write every set into the folder, a JSON object per line; returns the text of SHA256SUMS."""
    lines = []
    for name, family in FAMILIES.items():
        extra = getattr(family, "EXTRA_SETS", {})
        for kind, level in itertools.product(("test", "validation", *extra), family.LEVELS):
            title = f"{name}-{kind}-{family.LEVEL_SYMBOL}{level}"
            split = "validation" if kind.endswith("validation") else "test"
            problems = sample_unique(family, rng(SEED, title), level, split, PER_LEVEL,
                                     extra.get(kind))
            problems.sort(key=lambda p: hashlib.sha256(p.key.encode()).digest())
            text = ""
            for p in problems:
                text += json.dumps({"family": p.family, "level": p.level, "prompt": p.prompt,
                                    "answer": p.answer}) + "\n"
            (folder / f"{title}.jsonl").write_bytes(text.encode())
            lines.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {title}.jsonl\n")
            print(f"{title:<24} {len(problems):>4} problems", file=sys.stderr)
    return "".join(sorted(lines, key=lambda line: line.split()[1]))


def check(folder: Path) -> list[str]:
    """Names of the files in the folder that are missing or not what this code makes."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "SHA256SUMS").write_text(make(Path(scratch)))
        names = sorted(path.name for path in Path(scratch).iterdir())
        _, differing, missing = filecmp.cmpfiles(scratch, folder, names, shallow=False)
        return differing + missing


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write or check the frozen sets")
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
