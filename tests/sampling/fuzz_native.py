"""native.cpp under the address and undefined-behaviour sanitizers, fuzzed with random jobs.

    python tests/sampling/fuzz_native.py --cases 4000 --seed 0

A job of random shapes, prompts, limits, threads and ways to sample must draw with the sanitizers
what the ordinary build draws, with a memory of what it read as without one (in bfloat16, where a
last bit may move a draw, only their number is compared), and the same job with one lie in it must
be refused. Then faults are
put into the source, each of which must be found. The exit status is 0 if all of that holds, 77
where the compiler comes without the sanitizers.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

from cuda_ext import build
from minireason.core.errors import UserError
from minireason.critics.value_head import Critic
from minireason.model.transformer import ModelConfig, Transformer
from minireason.sampling import native
from minireason.sampling.prefixes import Prefixes
from minireason.sampling.sampler import Chunk, Samples, Sampling, row_limits, split_into_chunks

SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FAULTS = {      # name: (what stands in native.cpp, what is put there, what the sanitizer says)
    "out of bounds": ("std::fill_n(&x[b * width], width, 0.0f);",
                      "std::fill_n(&x[b * width], width + 1, 0.0f);", "heap-buffer-overflow"),
    "undefined": ("Int n = batch.size();", "Int n = batch.size(); n += (n << 62) + (n << 62);",
                  "runtime error"),
}
LIES = [*({name: 0} for name in native.Job.POINTERS),
        *({name: value} for name in native.Job.INTEGERS if name != "top_k"     # any is sound
          for value in (0, -1, -2 ** 63, 2 ** 31, 2 ** 62, 2 ** 63 - 1)
          if (name, value) not in (("value_columns", 0), ("bf16", 0))),
        {"bf16": 2}, {"value_columns": 1}, {"row_values": 1},
        {"n_layers": 2 ** 30, "head_dim": 2 ** 26, "n_heads": 1, "n_kv_heads": 1}]  # 2 ** 64 bytes


def lying(lies: dict[str, int]) -> Callable[..., native.Job]:
    """What stands in for native.Job and gives some fields another value."""
    real = native.Job
    return lambda **fields: real(**{**fields, **lies})


@dataclass(frozen=True)
class Case:
    """One job, and how it is shared by threads."""

    model: Transformer
    how: Sampling
    chunk: Chunk
    ending: SimpleNamespace       # a tokenizer's pad and eos
    threads: int
    block: int
    bf16: bool

    def run(self, library, job=native.Job, remembers: bool = False) -> Samples:
        """What a library draws; with a memory: the second time, when it has read rows and drawn."""
        with mock.patch.multiple(native, ROWS_A_THREAD=1, BLOCK=self.block, Job=job,
                                 library=lambda: library), \
                mock.patch.object(torch, "get_num_threads", lambda: self.threads), \
                mock.patch.dict(os.environ, MINIREASON_DECODE="bf16" if self.bf16 else "native"):
            memory = Prefixes(self.model) if remembers else None
            decoder = native.NativeDecoder(self.model, self.ending, self.how, memory)
            samples = decoder.run(self.chunk)
            if memory:
                memory.learn(self.chunk, samples, decoder.drawn)
                values, _ = decoder.read([*memory.paths])
                rows = [(source, row[:n]) for source, row, n in zip(
                    self.chunk.source.tolist(), samples.tokens.tolist(),
                    samples.mask.sum(dim=1).tolist(), strict=True)
                    if len(self.chunk.prompts[source]) + n < self.model.config.max_len]
                if rows:
                    source, given = map(list, zip(*rows, strict=True))
                    more, _ = decoder.follow(self.chunk.prompts, source, given)
                    values = torch.cat((values, more.flatten()))
                assert values.isfinite().all()
                samples = decoder.run(self.chunk)
            return samples


def random_case(rng: np.random.Generator) -> Case:
    """Any shapes, seldom a multiple of a panel; prompts and limits that fit."""
    def up_to(high: int, low: int = 1) -> int:
        return int(rng.integers(low, high + 1))

    kv_heads, max_len = up_to(3), up_to(90, 2)
    config = ModelConfig(
        vocab_size=up_to(70, 2), d_model=up_to(50, 2), n_layers=up_to(3),
        n_heads=kv_heads * up_to(4), n_kv_heads=kv_heads, head_dim=2 * up_to(24), d_ff=up_to(50),
        max_len=max_len,
        tied=bool(up_to(1, 0)))
    generator, model = torch.Generator().manual_seed(up_to(2 ** 60)), Critic(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise + (parameter.dim() < 2))
    prompts = [rng.integers(config.vocab_size, size=up_to(max_len - 1)).tolist()
               for _ in range(up_to(6))]
    how = Sampling(
        n=up_to(9), max_new=up_to(max_len), seed=up_to(2 ** 60), chunk=64,
        temperature=float(rng.choice([0, 0.02, 0.7, 1, 3])), top_k=up_to(config.vocab_size + 2, 0),
        top_p=float(rng.choice([1e-9, 0.5, 0.9, 1])),
        stop=tuple(rng.integers(config.vocab_size + 3, size=up_to(2, 0)).tolist()))
    wanted = [up_to(max_len) for _ in prompts] if up_to(1, 0) else None
    chunk, = split_into_chunks(prompts, how, row_limits(prompts, how, max_len, wanted))
    ending = SimpleNamespace(pad=0, eos=up_to(config.vocab_size, 0))
    return Case(model, how, chunk, ending, threads=up_to(4), block=up_to(16),
                bf16=up_to(4) == 1)


def fuzz(library, cases: int, seed: int) -> dict[str, int]:
    """What happened in so many random cases, counted."""
    rng, ordinary = np.random.default_rng(seed), native.library()
    counts = {"cases": cases, "tokens": 0, "cases that differ": 0, "lies believed": 0}
    for _ in range(cases):
        case = random_case(rng)
        expected, found = case.run(ordinary), case.run(library, remembers=bool(rng.integers(2)))
        # logprobs carry the rounding of the logits, divided by temperatures from 0.02 on
        same = len(expected.tokens) == len(found.tokens) if case.bf16 else \
            expected.tokens.equal(found.tokens) and expected.mask.equal(found.mask) \
            and torch.allclose(expected.logprobs, found.logprobs, rtol=0, atol=1e-3)
        counts["tokens"] += int(expected.mask.sum())
        counts["cases that differ"] += not same
        try:
            case.run(library, lying(LIES[rng.integers(len(LIES))]))
            counts["lies believed"] += 1
        except UserError:
            continue
    return counts


def sanitizer_says(fault: str) -> str:
    """What a process that runs native.cpp with a fault in it writes before it dies of it."""
    before, after, _ = FAULTS[fault]
    text = native.SOURCE.read_text()
    assert text.count(before) == 1, f"{before}: not once in {native.SOURCE}"
    with tempfile.TemporaryDirectory() as folder:
        source, said = Path(folder) / "native.cpp", Path(folder) / "said"
        source.write_text(text.replace(before, after))
        library = native.library(source, *SANITIZED)

        def run() -> None:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
            fuzz(library, 20, 0)

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join()
        return said.read_text() if process.exitcode else ""


def preload() -> list[str]:
    """The libraries that must be loaded first, or none if the compiler comes without one."""
    compiler = build.find_host_compiler()
    found = [build.run([*compiler, f"-print-file-name={name}.so"]).strip()
             for name in ("libasan", "libubsan", "libstdc++")]
    return found if all(map(os.path.isabs, found)) else []


def main() -> int:
    """Command line; starts itself again with the sanitizers loaded."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    libraries = " ".join(preload())
    if not libraries:
        print("NOT CHECKED: this compiler comes without the sanitizers")
        return 77
    if os.environ.get("LD_PRELOAD") != libraries:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv],
                  {**os.environ, "LD_PRELOAD": libraries, "ASAN_OPTIONS": "detect_leaks=0"})
    torch.set_num_threads(1)
    counts = fuzz(native.library(native.SOURCE, *SANITIZED), args.cases, args.seed)
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    missed = [name for name in FAULTS if FAULTS[name][2] not in sanitizer_says(name)]
    print(f"{len(FAULTS)} faults planted, not found: {', '.join(missed) or 'none'}")
    return int(bool(missed or counts["cases that differ"] or counts["lies believed"]))


if __name__ == "__main__":
    sys.exit(main())
