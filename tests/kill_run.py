"""Kill `minireason run` at random moments and compare it with a run that was left in peace.

    python tests/kill_run.py --kills 20 --size smoke
    python tests/kill_run.py --kills 20 --how KILL TERM HUP INT STOP TWICE

SIGKILL leaves the program no chance to tidy up; after SIGTERM, SIGHUP and SIGINT it must say so in
one line and exit with 128 + number; STOP halts it for a second before it is killed; TWICE kills it
again while it resumes. The kills are spread over the stages in equal shares, each at a random
moment of its stage, and the same command goes on every time. At the end weights, metrics, results
and every other file but the pictures must be those of the uninterrupted run, wall-clock times
apart. Ends non-zero at any difference.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minireason.core.config import PATHS
from minireason.core.files import MANIFEST
from minireason.model import checkpoint
from minireason.stages import STAGES

PICTURES = (".png", ".html")      # drawn from the rest, wall-clock times included
STAGE = re.compile(r"\[run\] stage (\d+) of \d+: (\w+)(?:, in a second process)?$", re.MULTILINE)


def timeless(value):
    """JSON without wall-clock entries (keys under time/ and those that count seconds), without
    the sha256 that cover them, and without the places of folders."""
    if isinstance(value, dict):
        apart = {"sha256", *(PATHS if "seed" in value else ())}
        return {key: timeless(v) for key, v in value.items()
                if not key.startswith("time/") and "seconds" not in key and key not in apart}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def snapshot(root: Path) -> dict[str, object]:
    """{file: content} of a run folder, wall-clock times and the folder's own place taken out.

    Weights stand as their verified sha256 (the header of a safetensors file has no fixed order).
    """
    content: dict[str, object] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = str(path.relative_to(root))
        if path.name == MANIFEST:
            continue
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


HOW = ("KILL", "TERM", "HUP", "INT", "STOP", "TWICE")


def kill_once(command: list[str], cwd: Path, stage: str, wait: float,
              how: str = "KILL") -> str | None:
    """Start, wait until the stage is entered, then `wait` seconds, then kill: one of HOW.

    Returns the stage that was hit, or None if the run had ended before. AssertionError if the
    program does not end as it should after a signal that it hears.
    """
    log = cwd / "log.txt"
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=file)
    while process.poll() is None and stage not in dict.fromkeys(entered(log)):
        time.sleep(0.01)
    until = time.monotonic() + wait
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    name = how if how in ("TERM", "HUP", "INT") else "KILL"
    number = getattr(signal, f"SIG{name}")
    if how == "STOP":
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    process.send_signal(number)
    code, text = process.wait(), log.read_text()
    if code == 0:
        return None
    if name != "KILL":
        assert code == 128 + number and "Traceback" not in text, f"exit code {code} after {how}"
        assert text.count("interrupted; run the same command again") == 1, text[-300:]
    hit = entered(log)[-1]
    if how == "TWICE":
        kill_once(command, cwd, hit, wait % 0.3)
    return hit


def entered(log: Path) -> list[str]:
    """Names of the stages that a run's console output says it entered."""
    return [name for _, name in STAGE.findall(log.read_text())]


def peaceful(command: list[str], cwd: Path) -> None:
    """Run to the end; raises CalledProcessError if it fails."""
    with open(cwd / "log.txt", "w") as log:
        subprocess.run(command, cwd=cwd, check=True, stdout=log, stderr=log)


def trial(command: list[str], whole: Path, base: Path, kills: int, seed: int,
          ways: Sequence[str] = ("KILL",)) -> list[str]:
    """What differs between the uninterrupted run `whole` and a run of `command`, which writes to
    `run` in its working folder, here `base`."""
    stages = [stage.name for stage in STAGES if stage.in_run]
    generator, hits = np.random.default_rng(seed), Counter()
    for i in range(kills):
        stage = stages[(2 * i + 1) * len(stages) // (2 * kills)]     # amid its share
        seconds = json.loads((whole / stage / "result.json").read_text())["seconds"]
        wait = generator.uniform(0, 1) * seconds / max(1, kills / len(stages))
        how = ways[i % len(ways)]
        hit = kill_once(command, base, stage, wait, how)
        hits[hit or "none, the run had ended"] += 1
        print(f"{how} {i + 1}: {wait:.2f} s after entering {stage}, hit {hit}", flush=True)
    peaceful(command, base)
    print(f"kills per stage: {dict(hits)}; {len(snapshot(whole))} files compared")
    return differences(whole, base / "run")


def main() -> int:
    """Both runs; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="smoke")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--how", nargs="+", default=["KILL"], choices=HOW, help="in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", default="", help="folder for both runs; default: a temporary one")
    args = parser.parse_args()
    base = Path(args.out or tempfile.mkdtemp(prefix="kill-run-")).resolve()
    command = [sys.executable, "-m", "minireason", "run", "--size", args.size, "--out", "run"]
    for name in ("whole", "killed"):
        (base / name).mkdir(parents=True)
    peaceful(command, base / "whole")
    unequal = trial(command, base / "whole" / "run", base / "killed", args.kills, args.seed,
                    args.how)
    print(f"DIFFERENT: {unequal}" if unequal else "bit-identical")
    if not args.out and not unequal:
        shutil.rmtree(base)
    return bool(unequal)


if __name__ == "__main__":
    sys.exit(main())
