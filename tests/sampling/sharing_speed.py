"""What it saves that equal beginnings are computed once: sampling, and search with its memory.

    python tests/sampling/sharing_speed.py --run data/quickstart

Sampling is timed with N rows for each of P prompts, and with every row for itself, its prompt
too; search with and without the memory of prefixes.py. Seconds of processor time and of wall time,
the median of rounds in which the ways take turns; the drawn tokens must be equal.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from minireason.core.config import rng
from minireason.model import checkpoint
from minireason.problems import chain
from minireason.sampling.complete import prompt_ids, sample
from minireason.sampling.sampler import Sampling
from minireason.stages import guided_search


def compare(name: str, rounds: int, **ways: Callable[[], object]) -> None:
    """Print the medians of two ways to the same result, and their ratio in processor time."""
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        found = []
        for way, make in ways.items():
            start = time.process_time(), time.perf_counter()
            found.append(make())
            spent[way].append((time.process_time() - start[0], time.perf_counter() - start[1]))
        assert found[0] == found[1], f"{name}: the ways differ"
    told = {way: [statistics.median(column) for column in zip(*times, strict=True)]
            for way, times in spent.items()}
    print(f"{name:<28}" + ", ".join(f"{way} {cpu:.2f} s ({wall:.2f} s wall)"
                                    for way, (cpu, wall) in told.items())
          + f": {told['apart'][0] / told['shared'][0]:.1f} times", flush=True)


def searched(run: Path, remembered: Callable) -> list[list[int]]:
    """What beam, lookahead and tree search chose for 20 problems, and spent."""
    spent = []
    whole = guided_search.searched

    def noted(*arguments) -> list:
        tasks = whole(*arguments)
        spent.append([task.spent for task in tasks])
        return tasks

    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(
            guided_search, searched=noted, remembered=remembered):
        guided_search.run(guided_search.Config(
            policy=str(run / "star"), critic=str(run / "critic"), out=f"{folder}/search",
            problems=20, device="cpu"))
    return spent


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("data/quickstart"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for stage in ("pretrain", "star", "rl"):
        policy, tokenizer = checkpoint.load(args.run / stage)
        rows = prompt_ids(tokenizer, [chain.sample(rng(5, i), 8) for i in range(256)], "cot")
        for prompts, n in ((256, 1), (128, 4), (16, 64), (4, 256)):
            how, alone = (Sampling(n=count, max_new=70, seed=3) for count in (n, 1))
            each = [row for row in rows[:prompts] for _ in range(n)]
            compare(f"{stage}: {prompts} prompts x {n}", args.rounds,
                    shared=partial(sample, policy, tokenizer, rows[:prompts], how),
                    apart=partial(sample, policy, tokenizer, each, alone))
    compare("search, 20 problems", max(1, args.rounds // 2),
            shared=partial(searched, args.run, guided_search.remembered),
            apart=partial(searched, args.run, contextlib.nullcontext))


if __name__ == "__main__":
    main()
