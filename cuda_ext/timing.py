"""Timing on a GPU and its stand-in on a CPU, and one line of the table made of it.

GPU time is the median over replays of a CUDA graph that runs every copy of the inputs once; the
copies together exceed the L2, so each call reads from memory. On a CPU (the dry run) wall-clock
times stand in: they show that every line works and mean nothing else.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable

import torch

import cuda_ext.autograd  # noqa: F401  (registers torch.ops.minireason)

REPEATS = 20                      # replays that count; three more come before


def measure(call: Callable[[int], object], copies: int, device: torch.device) -> dict:
    """{"us": median microseconds of one call, "spread": (p90 - p10) / median}, or {"error"}."""
    try:
        call(0)                                        # builds, plans, and errors show here
        times = (_replay_times if device.type == "cuda" else _wall_times)(call, copies)
    except Exception as error:                         # a backend may refuse in any way it likes
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    p10, *_, p90 = statistics.quantiles(times, n=10)
    middle = statistics.median(times)
    return {"us": middle, "spread": (p90 - p10) / middle}


def _replay_times(call: Callable[[int], object], copies: int) -> list[float]:
    """Microseconds a call, one number a replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(min(copies, 3)):
            call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = [call(i) for i in range(copies)]        # else outputs would share one place in L2
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(REPEATS + 3):
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / copies)
    del graph, kept
    return times[3:]


def _wall_times(call: Callable[[int], object], copies: int) -> list[float]:
    times = []
    for i in range(4):
        start = time.perf_counter()
        call(i % copies)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def minus(both: dict, forward: dict) -> dict:
    """Backward alone: forward with backward, less forward; the absolute spreads add up."""
    if "error" in both or "error" in forward:
        return both if "error" in both else forward
    us = both["us"] - forward["us"]
    spread = both["us"] * both["spread"] + forward["us"] * forward["spread"]
    return {"us": us, "spread": spread / us if us > 0 else math.inf}


def row(what: str, shape: tuple, ours: dict, baselines: dict[str, dict], n_bytes: float,
        flops: float) -> dict:
    """One line of the table; ratio is the best baseline's time over ours."""
    timed = {name: b["us"] for name, b in baselines.items() if "us" in b}
    best = min(timed, key=timed.get) if timed else None
    result = {"what": what, "shape": list(shape), "ours": ours, "baselines": baselines,
              "best": best, "bytes": n_bytes, "flops": flops}
    if "us" in ours:
        result |= {"gbs": n_bytes / ours["us"] / 1e3, "tflops": flops / ours["us"] / 1e6}
        if best:
            result["ratio"] = timed[best] / ours["us"]
    return result


def host_overhead(device: torch.device, calls: int = 200) -> dict:
    """Host microseconds a call of the operators with nothing to do: no rows, so no kernel starts.

    What is left is PyTorch's dispatch, the allocation of outputs, the checks and ctypes.
    """
    empty = torch.zeros(0, 3 * 32, device=device, dtype=torch.bfloat16)
    starts = torch.zeros(1, device=device, dtype=torch.int32)
    gains = [torch.ones(32, device=device) for _ in range(2)]
    tables = [torch.ones(1, 16, device=device) for _ in range(2)]
    leaf = empty.clone().requires_grad_()
    cache = torch.zeros(1, 1, 4, 32, device=device, dtype=torch.bfloat16)[:0]
    lens = torch.zeros(0, device=device, dtype=torch.long)

    ops = torch.ops.minireason

    def fused(qkv):
        return ops.attn_rope(qkv, *gains, *tables, starts, 1, 1, 1, 1e-6, 1.0, False)

    found = {}
    for name, call in (
            ("attn_rope, no grad", lambda: fused(empty)),
            ("attn_rope, grad on", lambda: fused(leaf)),
            ("decode_attn", lambda: ops.decode_attn(empty, *gains, *tables, cache, cache, lens,
                                                    *[None] * 4, 1, 1, 1e-6, 1.0, False))):
        best = math.inf
        grads = contextlib.nullcontext() if "grad on" in name else torch.no_grad()
        with grads:
            for _ in range(6):
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                best = min(best, (time.perf_counter() - start) / calls * 1e6)
        found[name] = {"us": best}
    return found
