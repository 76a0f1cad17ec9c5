"""Everything that only a GPU can show, in one command of less than eight minutes.

    python -m cuda_ext.gpu_check --out results.json              on a machine with a GPU
    python -m cuda_ext.gpu_check --out results.json --dry-run    anywhere: emulator, tiny shapes

In order: build; the kernel tests on the device, with compute-sanitizer's four tools beside them;
capture and replay; the emulator's numbers against the device's; the timing tables; training,
sampling and loss curves; host overhead. The file is written after every part, so a cut run keeps
what it had. The exit status is that of the correctness parts; a slow kernel is not an error.
`python -m cuda_ext.table` makes the READMEs' tables of the file once it is
data/reference/attention.json.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import torch

from cuda_ext import bench, build, calls, end_to_end, reference, timing

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TESTS = ("test_cuda_ext.py", "test_cuda_ops.py")
BUDGET = 450.0                    # seconds: parts that have not begun by then are left out
TOOL_SECONDS = 150                # for one tool of compute-sanitizer


def facts(device: torch.device) -> dict:
    """What was measured where."""
    gpu, driver = platform.processor() or platform.machine(), "none"
    if device.type == "cuda":
        gpu = torch.cuda.get_device_name()
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    return {"device": gpu, "driver": driver, "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
            "python": platform.python_version(), "source": build.source_hash(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"), "dry_run": device.type != "cuda"}


def build_all(device: torch.device) -> dict:
    """Every instance for this device, at once."""
    target = "cuda" if device.type == "cuda" else "emulated"
    archs = calls.device_facts(0)[0] if target == "cuda" else build.ARCHS
    wanted = build.instances() if target == "cuda" else [("bf16", 32), ("fp32", 32)]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 4)) as pool:
        built = list(pool.map(lambda i: build.library(target, *i, archs).name, wanted))
    return {"ok": True, "libraries": len(built)}


def small(device: torch.device) -> dict:
    """Every operator once on small odd shapes: what the sanitizers watch. The formula runs on the
    CPU, so that they have our kernels to watch and little else."""
    worst = {}
    for dtype in reference.FORWARD:
        for fused in (False, True):
            case, here = (reference.random_case(5, dtype, 32, (1, 0, 65, 70), device=d)
                          for d in (str(device), "cpu"))
            got = {name: value.cpu() for name, value in reference.ours(case, fused).items()}
            for name, error in reference.errors(got, reference.exact(here, fused)).items():
                worst[name] = max(worst.get(name, 0.0),
                                  error / reference.bound(name, dtype, fused))
    out = bench.DecodeInputs((2, 9, 21, 5), device, heads=2, dim=32, copies=1).ours(0)
    worst["decode"] = 0.0 if out.isfinite().all() else math.inf
    return {"ok": max(worst.values()) <= 1, "worst_share_of_bound": max(worst.values())}


def run_tests(device: torch.device) -> dict:
    """The kernel tests with their tensors on the device."""
    folder = build.SOURCES.parent / "tests" / "cuda_ext"
    select = [] if device.type == "cuda" else ["-n", "0", "-k", "equal_logits or refused"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider",
         *(str(folder / name) for name in TESTS), *select], capture_output=True, text=True,
        env={**os.environ, "KERNEL_DEVICE": device.type})
    return {"ok": done.returncode == 0, "output": done.stdout[-3000:] + done.stderr[-1000:]}


def sanitize(tool: str, device: torch.device) -> dict:
    """`small` under one tool of compute-sanitizer, with an allocator whose bounds it can see."""
    command, found = [], shutil.which("compute-sanitizer", path=os.pathsep.join(
        (os.environ.get("PATH", ""), "/usr/local/cuda/bin")))
    if device.type == "cuda":
        if found is None:
            return {"ok": None, "output": "compute-sanitizer not found"}
        command = [found, "--tool", tool, "--error-exitcode", "9"]
    command += [sys.executable, "-m", "cuda_ext.gpu_check", "--small"]
    if device.type != "cuda":
        command.append("--dry-run")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS,
                              env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    except subprocess.TimeoutExpired:
        return {"ok": None, "output": f"not finished in {TOOL_SECONDS} s"}
    return {"ok": done.returncode == 0, "output": (done.stdout + done.stderr)[-2000:]}


def correctness(device: torch.device) -> dict:
    """The tests and the four tools beside one another."""
    tools = TOOLS if device.type == "cuda" else TOOLS[:1]
    with ThreadPoolExecutor(5) as pool:
        tests = pool.submit(run_tests, device)
        found = dict(zip(tools, pool.map(lambda t: sanitize(t, device), tools), strict=True))
        found["tests"] = tests.result()
    return {"ok": all(part["ok"] is not False for part in found.values()), **found}


def graphs(device: torch.device) -> dict:
    """A captured call replays to the same bits as a direct one, on new inputs."""
    case, other = (reference.random_case(seed, torch.bfloat16, 64, (65, 127), device=str(device))
                   for seed in (1, 2))
    want = reference.ours(other, True)
    if device.type == "cuda":
        reference.ours(case, True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = reference.ours(case, True)
        for name in ("qkv", "grad", "q_gain", "k_gain"):
            getattr(case, name).copy_(getattr(other, name))
        graph.replay()
        torch.cuda.synchronize()
    else:
        got = reference.ours(other, True)
    return {"ok": all(got[name].equal(value) for name, value in want.items())}


def emulator_agrees(device: torch.device) -> dict:
    """Relative norm between the emulator's numbers and the device's, on one case."""
    case, here = (reference.random_case(3, torch.bfloat16, 64, (1, 65, 127), device=d)
                  for d in (str(device), "cpu"))
    got = {name: value.cpu() for name, value in reference.ours(case, True).items()}
    want = {name: value.double() for name, value in reference.ours(here, True).items()}
    errors = reference.errors(got, want)
    lse = errors.pop("lse")
    return {"ok": max(errors.values()) < 2e-3 and lse < 1e-2, "worst": max(errors.values())}


def kernels(device: torch.device) -> list[dict]:
    """All rows of the timing table."""
    cuda, rows = device.type == "cuda", []
    for shape in bench.SHAPES if cuda else bench.DRY_SHAPES:
        bare = bench.attention_rows(shape, device)
        best = {(row["best"] or "sdpa flash").removeprefix("sdpa ") for row in bare}
        rows += bare
        if shape[2] <= 512:
            backends = sorted(best & set(bench.BACKENDS)) or ["flash"]
            rows += bench.region_rows(shape, device, backends)
        if shape in (bench.SHAPES[1], bench.DRY_SHAPES[0]):
            rows += bench.attention_rows(shape, device, fill=0.55)
        if cuda:
            torch.cuda.empty_cache()
    for shape in bench.DECODE_SHAPES if cuda else bench.DRY_DECODE_SHAPES:
        rows.append(bench.decode_row(shape, device, *(() if cuda else (2, 32))))
    return rows


def parts(device: torch.device) -> dict:
    """{name: function of nothing}, in the order they run."""
    scale = end_to_end.Scale() if device.type == "cuda" else end_to_end.DRY
    ours = end_to_end.kernels_impl(device)

    def both(run):
        return lambda: {"kernels": run(scale, device, ours), "sdpa": run(scale, device, "sdpa")}
    return {"build": lambda: build_all(device), "correctness": lambda: correctness(device),
            "graphs": lambda: graphs(device), "emulator": lambda: emulator_agrees(device),
            "kernels": lambda: kernels(device), "training": both(end_to_end.training),
            "sampling": both(end_to_end.sampling),
            "curves": lambda: end_to_end.curves(scale, device),
            "host_overhead": lambda: timing.host_overhead(device, 200 if ours == "cuda" else 20)}


def check(device: torch.device, out: Path) -> int:
    """Run all parts; returns the exit status."""
    results, begun, good = facts(device), time.perf_counter(), True
    for name, part in parts(device).items():
        start = time.perf_counter()
        if start - begun > BUDGET:
            results[name] = {"skipped": f"{BUDGET:.0f} s were over"}
            continue
        try:
            results[name] = part()
            ok = not isinstance(results[name], dict) or results[name].get("ok") is not False
        except Exception as error:
            results[name], ok = {"error": f"{type(error).__name__}: {error}"[:2000]}, False
        good = good and ok
        seconds = time.perf_counter() - start
        results.setdefault("seconds", {})[name] = round(seconds, 1)
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {'done' if ok else 'FAILED'} in {seconds:.1f} s", flush=True)
        if not ok:
            print(json.dumps(results[name], indent=1), flush=True)
    return 0 if good else 1


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m cuda_ext.gpu_check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("attention.json"))
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny")
    parser.add_argument("--small", action="store_true", help="only what the sanitizers watch")
    args = parser.parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        print("no GPU is visible to PyTorch; --dry-run tries the script on the CPU",
              file=sys.stderr)
        return 2
    device = torch.device("cpu" if args.dry_run else "cuda:0")
    if args.small:
        result = small(device)
        print(result)
        return 0 if result["ok"] else 1
    return check(device, args.out)


if __name__ == "__main__":
    sys.exit(main())
