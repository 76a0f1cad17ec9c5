"""From the GPU check's results to the tables in the READMEs and to what `auto` chooses.

    python -m cuda_ext.table            writes cuda_ext/README.md, docs/machines.md, crossover.json

The results are data/reference/attention.json. Without that file the tables say "not measured yet".
"""

import json
import math
import sys
from pathlib import Path

from cuda_ext import build, end_to_end

ROOT = build.SOURCES.parent
RESULTS = ROOT / "data" / "reference" / "attention.json"
BEGIN, END = "<!-- attention:begin -->", "<!-- attention:end -->"
WIN = 1.03                        # a smaller lead is noise
NOT_MEASURED = "The kernels are **not measured yet**: no GPU was at hand."


def cell(timing: dict) -> str:
    """Microseconds with spread, or the word for none."""
    return f"{timing['us']:.1f} ({100 * timing['spread']:.0f}%)" if "us" in timing else "failed"


def ratio(row: dict) -> str:
    """Best baseline over ours; a gap within the two spreads is called even."""
    if "ratio" not in row:
        return "-"
    noise = row["ours"]["spread"] + row["baselines"][row["best"]]["spread"]
    return "even" if abs(row["ratio"] - 1) < max(noise, 0.03) else f"{row['ratio']:.2f}"


def where_from(results: dict) -> str:
    """Machine, date and sources: the numbers may be of an earlier version of the sources."""
    age = ("of today's sources" if results["source"] == build.source_hash() else
           f"of an earlier version of the sources (`{results['source'][:12]}`)")
    return (f"One {results['device']}, driver {results['driver']}, torch {results['torch']}, "
            f"{results['date']}, {age}.")


def correctness(results: dict) -> str:
    """Which of the checks were clean on the device."""
    found = {name: part["ok"] for name, part in results["correctness"].items() if name != "ok"}
    parts = [f"{', '.join(name for name in found if found[name] is ok)} {word}" for ok, word in
             ((True, "clean"), (False, "not clean"), (None, "not run")) if ok in found.values()]
    return f"Checks on the device: {'; '.join(parts)}."


def kernel_table(results: dict) -> str:
    """Every timed row: ours, the best baseline, and how near the roofline."""
    lines = [f"{where_from(results)} Microseconds: median (spread, 10th to 90th percentile over "
             f"the median). Ratio: best baseline over ours. {correctness(results)}", "",
             "| what | shape | ours | best of PyTorch's | which | ratio | GB/s | TFLOP/s |",
             "|---|---|---|---|---|---|---|---|"]
    for row in results["kernels"]:
        best = row["baselines"].get(row["best"], {})
        lines.append(f"| {row['what']} | {', '.join(map(str, row['shape']))} | {cell(row['ours'])} "
                     f"| {cell(best)} | {row['best'] or '-'} | {ratio(row)} | "
                     f"{row.get('gbs', 0):.0f} | {row.get('tflops', 0):.0f} |")
    return "\n".join(lines)


def end_to_end_table(results: dict) -> str:
    """Training, sampling and the loss curves with our kernels and with SDPA."""
    lines = ["| end to end | kernels | sdpa | ratio |", "|---|---|---|---|"]
    for name in ("training", "sampling"):
        ours, sdpa = (results[name][impl]["tokens_per_second"] for impl in ("kernels", "sdpa"))
        lines.append(f"| {name}, tokens/s | {ours:,.0f} | {sdpa:,.0f} | {ours / sdpa:.2f} |")
    curve = results["curves"]
    lines += ["", f"Over {curve['steps']} training steps the two loss curves differ by "
              f"{curve['rms_difference']:.2g} (rms); seeds differ by "
              f"{curve['rms_spread_of_seeds']:.2g}."]
    return "\n".join(lines)


def crossover(results: dict) -> dict:
    """Up to which row length the kernels are faster, by kind of call, number type and head size.

    self: the fused region on padded rows; forward and backward together, which is what training
    pays, must win at a length and at every shorter one that was timed. packed: the same of packed
    rows, timed without norm and rotation, up to the longest row of a training step where that won
    end to end; never shorter than `self`, since PyTorch's side also pads. decode: every timed
    shape must win. To win is more than 3%. fp16 has the kernels of bf16 and is given its lengths.
    """
    padded = _longest_win(results, "region ")
    packed = _longest_win(results, "packed ")
    step, default = results.get("training", {}), end_to_end.Scale()
    if {"kernels", "sdpa"} <= step.keys():
        ours, sdpa = (step[impl]["tokens_per_second"] for impl in ("kernels", "sdpa"))
        head_dim = str(step["kernels"].get("head_dim", default.head_dim))
        if packed.get(head_dim) and ours > WIN * sdpa:
            longest = step["kernels"].get("longest_row", default.max_len)
            packed[head_dim] = max(packed[head_dim], longest)
    for head_dim, length in padded.items():
        packed[head_dim] = max(packed.get(head_dim, 0), length)
    decodes = [row for row in results["kernels"] if row["what"] == "decode"]
    decode = {}
    if decodes and all(row.get("ratio", 0) > WIN for row in decodes):
        decode["64"] = max(row["shape"][2] + row["shape"][3] for row in decodes)
    kinds = {"self": padded, "packed": packed, "decode": decode}
    if not any(kinds.values()):        # measured, and faster nowhere: no length at all
        kinds["self"] = {"64": 0}
    return {"measured": f"{results['device']}, torch {results['torch']}",
            "longest_row": {kind: {number: found for number in ("bfloat16", "float16")}
                            if found else {} for kind, found in kinds.items()}}


def _longest_win(results: dict, kind: str) -> dict[str, int]:
    """{head size: longest length up to which forward and backward together win throughout}."""
    times: dict[tuple[int, int], dict[str, tuple[float, float]]] = {}
    for row in results["kernels"]:
        if row["what"].startswith(kind):
            ours = row["ours"].get("us", math.inf)
            key = (row["shape"][3], row["shape"][2])
            times.setdefault(key, {})[row["what"]] = (row.get("ratio", 0) * ours, ours)
    longest: dict[str, int] = {}
    lost = set()
    for (head_dim, length), passes in sorted(times.items()):
        theirs, ours = (sum(column) for column in zip(*passes.values(), strict=True))
        if len(passes) < 2 or not theirs > WIN * ours:
            lost.add(head_dim)
        if head_dim not in lost:
            longest[str(head_dim)] = length
    return longest


def replace_between(path: Path, text: str) -> None:
    """Put text between the markers of a Markdown file."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: the markers {BEGIN} and {END} are missing")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> int:
    """Write all tables."""
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text())
        full = f"{kernel_table(results)}\n\n{end_to_end_table(results)}"
        short = f"{where_from(results)}\n\n{end_to_end_table(results)}"
        choice = crossover(results)
    else:
        full = short = NOT_MEASURED
        choice = {"measured": None, "longest_row": {"self": {}, "packed": {}, "decode": {}}}
    replace_between(build.SOURCES / "README.md", full)
    page = ROOT / "docs" / "machines.md"
    if BEGIN in page.read_text():
        replace_between(page, short)
    (build.SOURCES / "crossover.json").write_text(json.dumps(choice) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
