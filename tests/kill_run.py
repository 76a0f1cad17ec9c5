"""Kill `minireason run` at random moments and compare it with a run that was left in peace.

    python tests/kill_run.py --kills 20 --size smoke

SIGKILL leaves the program no chance to tidy up. The kills are spread over the stages in equal
shares, each at a random moment after its stage has begun, and the same command goes on every time.
At the end weights, metrics, results and every other file but the report must be those of the
uninterrupted run, wall-clock times apart. Ends non-zero at any difference.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from minireason import checkpoint

STAGES = ("pretrain", "sft", "star", "critic", "testtime")
PICTURES = (".png", ".html")      # drawn from the rest, wall-clock times included


def timeless(value):
    """JSON without wall-clock entries: keys under time/ and those that count seconds."""
    if isinstance(value, dict):
        return {key: timeless(v) for key, v in value.items()
                if not key.startswith("time/") and "seconds" not in key}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def snapshot(root: Path) -> dict[str, object]:
    """{file: content} of a run folder, wall-clock times and the folder's own place taken out.

    Weights stand as their verified sha256 (the header of a safetensors file has no fixed order).
    """
    content: dict[str, object] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = str(path.relative_to(root))
        if path.suffix == ".safetensors":
            content[name] = checkpoint.read_tensors(path)[2]
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text().replace(str(root), "")
            lines = text.splitlines() if path.suffix == ".jsonl" else [text]
            content[name] = [timeless(json.loads(line)) for line in lines]
        elif path.suffix not in PICTURES:
            content[name] = path.read_bytes()
    return content


def differences(one: Path, other: Path) -> list[str]:
    """Files that exist in one of two run folders only or differ."""
    a, b = snapshot(one), snapshot(other)
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def stage_now(root: Path) -> str:
    """The stage under way: the first without a result."""
    return next((s for s in STAGES if not (root / s / "result.json").exists()), "report")


def kill_once(command: list[str], cwd: Path, root: Path, stage: str, wait: float) -> str | None:
    """Start, wait for the stage to begin, then `wait` seconds, then SIGKILL.

    Returns the stage that was hit, or None if the run had ended before.
    """
    with open(cwd / "log.txt", "a") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log)
    begun = root / stage / "config.json"
    while process.poll() is None and not begun.exists():
        time.sleep(0.02)
    until = time.monotonic() + wait
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    hit = stage_now(root)
    process.kill()
    return None if process.wait() == 0 else hit


def main() -> int:
    """Both runs; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="smoke")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", default="", help="folder for both runs; default: a temporary one")
    args = parser.parse_args()
    base = Path(args.out or tempfile.mkdtemp(prefix="kill-run-")).resolve()
    command = [sys.executable, "-m", "minireason", "run", "--size", args.size, "--out", "run"]
    for name in ("whole", "killed"):
        (base / name).mkdir(parents=True)
    started = time.monotonic()
    with open(base / "whole" / "log.txt", "w") as log:
        subprocess.run(command, cwd=base / "whole", check=True, stdout=log, stderr=log)
    print(f"uninterrupted run: {time.monotonic() - started:.0f} s", flush=True)
    whole, killed = base / "whole" / "run", base / "killed" / "run"
    seconds = {s: json.loads((whole / s / "result.json").read_text())["seconds"] for s in STAGES}
    startup = max(0.0, time.monotonic() - started - sum(seconds.values()))
    generator, hits = np.random.default_rng(args.seed), Counter()
    for i in range(args.kills):
        stage = STAGES[i * len(STAGES) // args.kills]
        share = seconds[stage] / max(1, args.kills // len(STAGES))
        # A process needs its start-up time again before it goes on with a stage that has begun.
        again = startup if (killed / stage / "config.json").exists() else 0.0
        hit = kill_once(command, base / "killed", killed, stage,
                        again + generator.uniform(0, 1.3) * share)
        hits[hit or "ended before"] += 1
        print(f"kill {i + 1}: aimed at {stage}, hit {hit or 'nothing, the run had ended'}",
              flush=True)
    with open(base / "killed" / "log.txt", "a") as log:
        subprocess.run(command, cwd=base / "killed", check=True, stdout=log, stderr=log)
    unequal = differences(whole, killed)
    print(f"kills a stage: {dict(hits)}; files compared: {len(snapshot(whole))}")
    print(f"DIFFERENT: {unequal}" if unequal else "bit-identical")
    if not args.out and not unequal:
        shutil.rmtree(base)
    return bool(unequal)


if __name__ == "__main__":
    sys.exit(main())
