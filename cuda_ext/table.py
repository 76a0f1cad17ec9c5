"""From the GPU check's results to the tables in the READMEs and to what `auto` chooses.

    python -m cuda_ext.table            writes cuda_ext/README.md, docs/machines.md, crossover.json

The results are data/reference/attention.json. Without that file the tables say "not measured yet".
"""

import json
import sys
from pathlib import Path

from cuda_ext import build

ROOT = build.SOURCES.parent
RESULTS = ROOT / "data" / "reference" / "attention.json"
BEGIN, END = "<!-- attention:begin -->", "<!-- attention:end -->"
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


def kernel_table(results: dict) -> str:
    """Every timed row: ours, the best baseline, and how near the roofline."""
    lines = [f"{results['device']}, driver {results['driver']}, torch {results['torch']}, sources "
             f"`{results['source'][:12]}`, {results['date']}. Microseconds: median (spread, 10th "
             "to 90th percentile over the median). Ratio: best baseline over ours.", "",
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
    """Up to which length the kernels are faster, by kind, number type and head dimension.

    Both passes of the fused region must win at a length and at every shorter one; decoding must
    win at every shape. fp16 has the kernels of bf16 and is given its lengths.
    """
    table: dict[str, dict] = {"self": {}, "decode": {}}
    regions: dict[tuple, list[bool]] = {}
    for row in results["kernels"]:
        if row["what"].startswith("region"):
            key = (row["shape"][3], row["shape"][2])
            regions.setdefault(key, []).append(row.get("ratio", 0) > 1.03)
    for dim in sorted({d for d, _ in regions}):
        longest = 0
        for length in sorted(t for d, t in regions if d == dim):
            if not all(regions[dim, length]):
                break
            longest = length
        if longest:
            for number in ("bfloat16", "float16"):
                table["self"].setdefault(number, {})[str(dim)] = longest
    decodes = [row for row in results["kernels"] if row["what"] == "decode"]
    if decodes and all(row.get("ratio", 0) > 1.03 for row in decodes):
        longest = max(row["shape"][2] + row["shape"][3] for row in decodes)
        table["decode"] = {n: {"64": longest} for n in ("bfloat16", "float16")}
    if not any(table.values()):        # measured, and faster nowhere: no length at all
        table["self"] = {"bfloat16": {"64": 0}}
    return {"measured": f"{results['device']}, torch {results['torch']}", "longest_row": table}


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
        short, choice = end_to_end_table(results), crossover(results)
    else:
        full = short = NOT_MEASURED
        choice = {"measured": None, "longest_row": {"self": {}, "decode": {}}}
    replace_between(build.SOURCES / "README.md", full)
    page = ROOT / "docs" / "machines.md"
    if BEGIN in page.read_text():
        replace_between(page, short)
    (build.SOURCES / "crossover.json").write_text(json.dumps(choice) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
