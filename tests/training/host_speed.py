"""What the host of a GPU does per pretraining step of `--size gpu`, measured without a GPU.

    python tests/training/host_speed.py --steps 20 --workers 1 2

Drawing, encoding and packing in one process, in lines per second of its CPU time, and sixteen
times that: an extrapolation, as if processes shared nothing. Then with worker processes: what is
left to the training process per step, all its threads (to take a step's data from the workers), and
the lines per second of wall time. Launching the kernels of forward, backward and update is not in
it: that needs a GPU.
"""

import argparse
import time
from contextlib import closing
from functools import partial
from itertools import islice

import torch

from minireason.core import parallel
from minireason.model.tokenizer import Tokenizer
from minireason.presets import settings_of
from minireason.problems import chain
from minireason.stages.pretrain import Config, step_data
from minireason.training.ahead import AHEAD, made_ahead


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = Config(**settings_of("chain", "gpu", "pretrain"))
    make = partial(step_data, cfg, Tokenizer.build(chain.TOKENS), "pretrain", parallel.own())
    make(0)                                              # fills the caches
    start = time.process_time()
    for step in range(args.steps):
        make(step)
    spent = (time.process_time() - start) / args.steps
    lines = cfg.rows_per_step
    print(f"one process: {1e3 * spent:.0f} ms of CPU time per step, {lines / spent:,.0f} lines/s; "
          f"16 processes, extrapolated: {16 * lines / spent:,.0f} lines/s", flush=True)
    for workers in args.workers:
        early = AHEAD * workers + 1                      # steps made while the processes start
        with closing(made_ahead(make, range(2 * early + args.steps), workers)) as made:
            list(islice(made, early))
            start = time.process_time(), time.perf_counter()
            list(islice(made, args.steps))
            own, wall = time.process_time() - start[0], time.perf_counter() - start[1]
        print(f"{workers} worker(s): {1e3 * own / args.steps:.1f} ms of CPU time per step in the "
              f"training process, {args.steps * lines / wall:,.0f} lines/s of wall time",
              flush=True)


if __name__ == "__main__":
    main()
