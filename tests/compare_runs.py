"""Proof that a change of the code changes no result: the same short run, before and after.

    git worktree add /tmp/before COMMIT
    python tests/compare_runs.py run /tmp/before OLD     with the code of that commit
    python tests/compare_runs.py run . NEW               with the code of this one
    python tests/compare_runs.py compare OLD NEW

`run` makes `minireason run --size smoke` (seed 0) and a short quickstart, one command per stage.
`compare` holds every tensor of every model.safetensors and every line of every metrics.jsonl
together, all but the keys under `time/`; the two runs must come from one machine, as processors
round differently.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

STAGES = {   # {folder: (command, parents {flag: folder}, other flags)}: the quickstart, shortened
    "pretrain": ("pretrain", {}, "--steps 500 "
                                 "--eval-n 60"),
    "sft": ("sft", {"init": "pretrain"}, "--steps 60 --eval-n 60"),
    "star": ("star", {"init": "sft", "base": "pretrain"},
             "--problems 400 --rounds 2 --steps 50 --min-level 1 --max-level 3 --eval-n 60"),
    "critic": ("critic", {"init": "star"},
               "--problems 300 --min-level 1 --max-level 3 --steps 60 --held-out 40"),
    "outcome": ("critic", {"init": "star"}, "--labels outcome --problems 300 --min-level 1 "
                                            "--max-level 3 --steps 60 --held-out 40"),
    "monte_carlo": ("critic", {"init": "star"},
                    "--labels mc_soft --problems 60 --min-level 1 --max-level 3 --steps 20 "
                    "--held-out 20"),
    "testtime": ("testtime", {"policy": "star", "critic": "critic", "outcome": "outcome"},
                 "--levels 2 3 --problems 60 --n 16 --shard 20"),
    "rl": ("rl", {"init": "star", "base": "pretrain"},
           "--steps 10 --min-level 1 --max-level 3 --eval-every 5 --validation-n 60 --eval-n 60 "
           "--redraws 1 --kl 0.01 --replay 0.1 --epochs 2 --minibatches 2"),
    "search": ("search", {"policy": "rl", "critic": "critic"},
               "--levels 3 --problems 30 --samples 2 8 --shard 10"),
    "flywheel": ("flywheel", {"init": "rl", "base": "pretrain", "critic": "critic"},
                 "--turns 2 --problems 200 --min-level 1 --max-level 3 --steps 40 "
                 "--critic-problems 100 --held-out 20 --critic-steps 30 --eval-n 60"),
    "revise": ("revise", {"init": "star", "base": "pretrain"},
               "--problems 200 --min-level 1 --max-level 3 --steps 40 --eval-n 60"),
    "quiet_star": ("quiet_star", {"init": "pretrain", "base": "pretrain"},
                   "--steps 20 --eval-n 60 --weighed 10"),
    "think_budget": ("think_budget", {"init": "rl", "critic": "critic"},
                     "--problems 100 --min-level 1 --max-level 3 --warm-steps 20 --steps 5 "
                     "--prompts-per-step 8 --eval-n 60 --measured 10 --tries 2"),
}


def run(code: str, out: str) -> None:
    """Make both runs with the library in the folder `code`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(code).resolve()), "OMP_NUM_THREADS": "1"}

    def minireason(*arguments: str) -> None:
        command = [sys.executable, "-m", "minireason", *arguments]
        print(" ".join(command[2:]), flush=True)
        subprocess.run(command, env=environment, cwd=code, check=True, stderr=subprocess.DEVNULL)

    root = Path(out).resolve()
    root.mkdir(parents=True)                  # never on top of an older run
    minireason("run", "--size", "smoke", "--out", str(root / "smoke"), "--device", "cpu")
    for name, (command, parents, flags) in STAGES.items():
        at = [word for flag, parent in parents.items()
              for word in (f"--{flag}", str(root / "short" / parent))]
        minireason(command, "--out", str(root / "short" / name), "--device", "cpu", *at,
                   *flags.split())


def lines(path: Path) -> list[dict]:
    """A metrics file without what a clock measured."""
    records = map(json.loads, path.read_text().splitlines())
    return [{key: value for key, value in record.items()
             if not key.startswith("time/") and not key.endswith("/seconds")}
            for record in records]


def differences(old: Path, new: Path) -> tuple[list[str], int]:
    """(what differs, how many files were compared)."""
    found, compared = [], 0
    for path in sorted(old.rglob("model.safetensors")):
        name, twin = path.relative_to(old), new / path.relative_to(old)
        if not twin.exists():
            found.append(f"{name}: missing")
            continue
        with safe_open(path, "pt") as a, safe_open(twin, "pt") as b:
            if sorted(a.keys()) != sorted(b.keys()):
                found.append(f"{name}: other tensors")
            else:
                found += [f"{name}: {key}" for key in a.keys()
                          if not a.get_tensor(key).equal(b.get_tensor(key))]
        compared += 1
    for path in sorted(old.rglob("metrics.jsonl")):
        name, twin = path.relative_to(old), new / path.relative_to(old)
        if not twin.exists() or lines(path) != lines(twin):
            found.append(f"{name}: {'other values' if twin.exists() else 'missing'}")
        compared += 1
    return found, compared


def main() -> int:
    """The exit code: 1 if anything differs."""
    if sys.argv[1] == "run":
        run(*sys.argv[2:])
        return 0
    found, compared = differences(Path(sys.argv[2]), Path(sys.argv[3]))
    print("\n".join(found) or f"equal: {compared} files")
    return bool(found) or not compared


if __name__ == "__main__":
    sys.exit(main())
