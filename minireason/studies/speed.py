"""Two sides that take turns in one process: their seconds, and the table of `minireason bench`."""

import time
from collections.abc import Callable

import numpy as np
import torch

from minireason.report import tables

NAMES = {"sampling": "sampling, transformers", "training": "training, transformers",
         "layers": "training, our layers in PyTorch", "bf16": "sampling, ours in bfloat16"}


def now() -> np.ndarray:
    """(2,) seconds of wall time, and of the CPU time of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def compare(rounds: int, tokens: int, ours: Callable[[], object],
            theirs: Callable[[], object]) -> dict:
    """The `summary` of both, taking turns, after two turns that are not timed."""
    seconds: dict[str, list[np.ndarray]] = {"ours": [], "theirs": []}
    for turn in range(-2, rounds):
        for name, work in (("ours", ours), ("theirs", theirs)):
            started = now()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                seconds[name].append(now() - started)
    return summary(tokens, seconds)


def summary(tokens: int, seconds: dict[str, list[np.ndarray]]) -> dict:
    """Medians of {"ours", "theirs"}: (2,) seconds of every turn, as of `now`, and of their ratios.

    ratio and its quartiles over the turns are of wall time, processor_ratio is of CPU time.
    """
    mine, other = (np.median(seconds[side], axis=0)[0].item() for side in ("ours", "theirs"))
    ratios, spent = np.sort(np.divide(seconds["theirs"], seconds["ours"]), axis=0).T.tolist()
    return {"tokens": tokens, "seconds": {"ours": mine, "theirs": other},
            "tokens_per_sec": {"ours": tokens / mine, "theirs": tokens / other},
            "ratio": float(np.median(ratios)),
            "ratio_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
            "processor_ratio": float(np.median(spent))}


def speed_table(result: dict) -> str:
    """The comparison as text, its table in markdown."""
    table = [["median", "tokens", "ours", "the other", "ratio", "quartiles", "of CPU time"]]
    rows = {NAMES[name]: result[name] for name in NAMES if name in result}
    for name, row in (rows | result.get("peers", {})).items():
        line = [name, f"{row['tokens']:,}"]
        for side, seconds in row["seconds"].items():
            line.append(f"{1e3 * seconds:.1f} ms, {row['tokens_per_sec'][side]:,.0f} tokens/s")
        low, high = row["ratio_quartiles"]
        spent = f"{row['processor_ratio']:.2f}x" if "processor_ratio" in row else "not taken"
        table.append([*line, f"{row['ratio']:.2f}x", f"{low:.2f} to {high:.2f}", spent])
    versions = "".join(f", {name} {number}" for name, number in result["versions"].items())
    return ("{parameters:,} parameters, {threads} thread(s) on {device}, {rounds} rounds; samples "
            "are {prompts} x {n} of {max_new} tokens; torch {torch}, transformers {transformers}"
            .format(**result, **result["sampling"]) + f"{versions}\n\n{tables.markdown(table)}\n"
            + (f"\n{rounding_text(**result['bf16']['change'])}\n" if "bf16" in result else "")
            + "".join(f"\nleft out: {name}, {why}" for name, why in
                      result.get("left_out", {}).items())).rstrip("\n")


def rounding_text(parted: float, logprob: float | None) -> str:
    """What bfloat16 changes of the samples."""
    text = f"in bfloat16 a token is another in {parted:.1%} of the samples"
    return text if logprob is None else f"{text}; up to there log p changes by {logprob:.1e} each"
