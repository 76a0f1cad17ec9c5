"""Every operation on the disk of every tiny stage fails once, or the process dies there.

    python tests/fault_run.py                      every n and kind of Disk, for each stage
    python tests/fault_run.py --faults 10000       as many random single faults over everything

After each fault the same stage is started again: it must end bit-identical to the undisturbed run
or be refused by one line that names a file. Prints the counts; ends non-zero otherwise.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from faults import KINDS
from random_faults import WEIGHTS, Faults
from small_run import made_ladder, small_stages, trial

from minireason.measure import evaluate


def every_operation(whole: Path, base: Path, stages: list[str]) -> Counter:
    """All n and kinds of the stages; prints what went wrong and the counts."""
    counts: Counter = Counter()
    for stage in stages:
        for kind in KINDS:
            n = 0
            while True:
                n += 1
                hit, how = trial(stage, whole, base, n, kind)
                if not hit:
                    break
                counts[stage, kind, how.split()[0]] += 1
                if how != "identical":
                    print(f"{stage}, operation {n} ({hit}), {kind}: {how}", flush=True)
        print({f"{kind} {how}": count for (name, kind, how), count in counts.items()
               if name == stage}, stage, flush=True)
    return counts


def random_faults(whole: Path, base: Path, n: int, seed: int) -> Counter:
    """n random single faults; prints what went wrong and, at times, the counts."""
    faults, counts = Faults(whole, base, seed), Counter()
    for i in range(n):
        (name,) = faults.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        what, how = getattr(faults, name)()
        counts[name, "", how.split()[0]] += 1
        if how not in ("refused", "identical"):
            print(f"{name}, fault {i}: {what}: {how}", flush=True)
        if (i + 1) % 1000 == 0 or i + 1 == n:
            print(i + 1, {f"{kind} {end}": count for (kind, _, end), count in sorted(
                counts.items())}, flush=True)
    return counts


def main() -> int:
    """Both forms; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="*", default=list(small_stages("x")))
    parser.add_argument("--faults", type=int, default=0, help="as many at random, of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)   # which the background ignores
    evaluate.load_frozen = cache(evaluate.load_frozen)   # read a thousand times, never changed
    base = Path(tempfile.mkdtemp(prefix="fault-run-")).resolve()
    whole, started = made_ladder(base / "whole"), time.monotonic()
    if args.faults:
        counts = random_faults(whole, base / "disk", args.faults, args.seed)
    else:
        counts = every_operation(whole, base / "disk", args.stages)
    shutil.rmtree(base)
    bad = sum(count for (_, _, how), count in counts.items() if how[0].isupper())
    print(f"{sum(counts.values())} faults in {time.monotonic() - started:.0f} s, {bad} of them "
          "neither identical nor refused by name")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
