"""Does the suite notice a missing barrier? Delete each one in turn and run the tests.

    python -m cuda_ext.mutate [--only 6_backward]      prints a Markdown table; minutes

Every `__syncthreads`, `__syncwarp` and `cp_async_wait` of the kernels is deleted alone, in a copy
of the package, and the tests of that kernel run on the copy. A deletion that no test notices is
either a barrier that is not needed, or a hole in the emulator. After DeMillo 1978 ("Hints on test
data selection"), mutation testing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cuda_ext import build

SITE = re.compile(r"__syncthreads\(\);|__syncwarp\(\);|cp_async_wait<\d>\(\);")
TESTS = build.SOURCES.parent / "tests" / "cuda_ext"
# Which tests run a kernel: a file, and what pytest -k selects in it.
DEPEND = "do_not_depend or float64_at_every_length or written_whole"
SUITE = {
    "2_tiled": ("test_cuda_ext.py", "teaching"),
    "3_online": ("test_cuda_ext.py", f"fp32 and ({DEPEND})"),
    "4_forward": ("test_cuda_ext.py", f"bf16 and ({DEPEND})"),
    "6_backward": ("test_cuda_ext.py", f"bf16 and ({DEPEND})"),
    "7_norm_rope": ("test_cuda_ext.py", f"fp32 and ({DEPEND})"),
    "8_decode": ("test_cuda_ops.py", "decoding and (bf16-64 or depend)"),
    "9_prompt": ("test_cuda_ops.py", "decoding and (bf16-64 or depend)"),
}


def sites(name: str) -> list[tuple[int, int, str]]:
    """(start, end, line number and text) of each deletable word in a kernel file."""
    text = (build.SOURCES / "kernels" / f"{name}.cu").read_text()
    found = []
    for match in SITE.finditer(text):
        number = text.count("\n", 0, match.start()) + 1
        line = text.splitlines()[number - 1]
        comment = line.partition("//")[2].strip()
        found.append((match.start(), match.end(),
                      f"{number} | `{match.group()[:-1]}` {comment}".rstrip()))
    return found


def without(name: str, start: int, end: int, folder: Path) -> None:
    """A copy of the package in `folder` whose kernel lacks text[start:end]."""
    shutil.copytree(build.SOURCES, folder / "cuda_ext", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "cuda_ext" / "kernels" / f"{name}.cu"
    text = path.read_text()
    path.write_text(text[:start] + ";" + text[end:])


def verdict(name: str, folder: Path) -> str:
    """"caught by TEST", or "NOT CAUGHT"."""
    file, expression = SUITE[name]
    environment = {**os.environ, "PYTHONPATH": str(folder),
                   "MINIREASON_KERNEL_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "--noconftest",
         "-p", "no:cacheprovider", str(TESTS / file), "-k", expression],
        cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the tests of {name} did not run:\n{done.stdout}{done.stderr}")
    failed = re.search(r"^_+ (test_\S+) _+$", done.stdout, re.M)
    return f"caught by {failed[1]}" if failed else "NOT CAUGHT"


def main(argv: list[str] | None = None) -> int:
    """Command line; the exit status is the number of deletions that no test noticed."""
    parser = argparse.ArgumentParser(prog="python -m cuda_ext.mutate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SUITE, help="one kernel file")
    args = parser.parse_args(argv)
    missed = 0
    print("| kernel | line | deleted | verdict |\n|---|---|---|---|", flush=True)
    for name in [args.only] if args.only else SUITE:
        for start, end, where in sites(name):
            with tempfile.TemporaryDirectory() as folder:
                without(name, start, end, Path(folder))
                result = verdict(name, Path(folder))
            missed += result == "NOT CAUGHT"
            print(f"| {name} | {where} | {result} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
