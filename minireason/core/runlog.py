"""RunLog: the output folder of a stage, its metrics, its console lines and its progress bar.

`metrics.jsonl` holds one flat JSON object a line (`step`, then `train/... eval/... time/...`).
On resume it is cut back to the last saved state, so that a killed run leaves the same file as one
that was never killed. Keys under `time/` are wall-clock and are the only ones allowed to differ.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from minireason.core import parallel
from minireason.core.config import UserError, disk_errors, read_json, to_dict, write_atomic


class RunLog:
    """Opens or creates `out`; refuses a folder that holds another stage or config."""

    def __init__(self, out: str, stage: str, config, parents: dict[str, str]):
        self.out, self.stage = Path(out), stage
        self.record_of_config = {"stage": stage, "config": to_dict(config), "parents": parents}
        self.bar: tqdm | None = None
        self.started = time.perf_counter()
        self.seconds_before = 0.0     # spent by earlier, interrupted processes
        if parallel.is_main():
            self._claim_folder()
        parallel.barrier()

    def _claim_folder(self) -> None:
        path = self.out / "config.json"
        if path.exists():
            held = read_json(path)
            differing = _differences(held, self.record_of_config)
            if differing:
                raise UserError(f"{self.out}: holds a run with another configuration "
                                f"({differing}); choose another --out or delete the folder")
            if self.done:                 # killed between its last write and its last removal
                (self.out / "state.safetensors").unlink(missing_ok=True)
            return
        with disk_errors(self.out):
            if self.out.exists() and not self.out.is_dir():
                raise UserError(f"{self.out}: exists and is not a folder; choose another --out")
            self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(self.record_of_config, indent=1) + "\n")

    @property
    def done(self) -> dict | None:
        """result.json of a finished run, else None."""
        path = self.out / "result.json"
        return read_json(path) if path.exists() else None

    def offset(self) -> int:
        """Bytes of metrics.jsonl written so far."""
        path = self.out / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def rewind(self, offset: int) -> None:
        """Cut metrics.jsonl back to a saved offset."""
        path = self.out / "metrics.jsonl"
        if parallel.is_main() and path.exists():
            os.truncate(path, min(offset, path.stat().st_size))

    def record(self, step: int, **values: float) -> None:
        """Append one line of metrics; a value that is not finite stops the run."""
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{self.out}: {name} is {value} at step {step}; the last saved "
                                "state is kept, lower the learning rate and start anew")
        if not parallel.is_main():
            return
        line = json.dumps({"step": step, **values}) + "\n"
        path = self.out / "metrics.jsonl"
        with disk_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()

    def steps(self, start: int, stop: int, title: str = ""):
        """Iterate start..stop-1 under a progress bar that shows rate and remaining time."""
        name = f"{self.stage} {title}".strip()
        self.bar = tqdm(range(start, stop), initial=start, total=stop, desc=f"{name:<18}",
                        file=sys.stderr, disable=not parallel.is_main(), mininterval=0.5,
                        dynamic_ncols=True)
        yield from self.bar
        self.bar.close()
        self.bar = None

    def say(self, text: str) -> None:
        """One console line that does not break the bar."""
        if parallel.is_main():
            tqdm.write(f"[{self.stage}] {text}", file=sys.stderr)

    def seconds(self) -> float:
        """Wall-clock seconds of this stage so far, interrupted processes included."""
        return self.seconds_before + time.perf_counter() - self.started

    def start(self, model, device) -> None:
        """Say what runs where: the first lines of every run."""
        parents = ", ".join(f"{k} {v[:8]}" for k, v in self.record_of_config["parents"].items())
        self.say(f"{model.n_params:,} parameters on {device}, "
                 f"{'bf16' if device.type == 'cuda' else 'fp32'}, {parallel.world_size()} "
                 f"process(es), parents: {parents or 'none'}")
        self.say(model.attention_choice(device))

    def samples(self, text: str) -> None:
        """Write samples.txt and show it."""
        if parallel.is_main():
            write_atomic(self.out / "samples.txt", text + "\n")
            self.say("samples:\n" + text)

    def once(self, name: str, make: Callable[[], dict]) -> dict:
        """What `make` returned, computed once and kept in the folder as JSON; ranks all get it.

        A resumed run reads it back, and counts the seconds that it took.
        """
        path = self.out / name
        if not path.exists():
            made = make()
            if parallel.is_main():
                write_atomic(path, json.dumps({**made, "seconds": self.seconds()}))
            parallel.barrier()
        found = read_json(path)
        self.seconds_before = max(self.seconds_before, found.pop("seconds"))
        return found

    def finish(self, rows: Sequence[dict] = (), **result: object) -> dict:
        """Write rows.jsonl and result.json, the mark of a finished stage; drop the trainer state.

        A row is flat: set, method, n (samples per problem), tokens (per problem), accuracy, low,
        high (95%), problems, and what else tells it apart: round, step. The seed is added here.
        """
        result = {"stage": self.stage, **result}
        if parallel.is_main():
            seed = self.record_of_config["config"].get("seed", 0)
            write_atomic(self.out / "rows.jsonl",
                         "".join(json.dumps({**row, "seed": seed}) + "\n" for row in rows))
            write_atomic(self.out / "result.json", json.dumps(result, indent=1) + "\n")
            (self.out / "state.safetensors").unlink(missing_ok=True)
        parallel.barrier()
        return result


def _differences(held: dict, wanted: dict) -> str:
    """The first few fields in which two config records differ, as text; '' if none."""
    found = [] if held.get("stage") == wanted["stage"] else [f"stage {held.get('stage')!r}"]
    for part in ("config", "parents"):
        old, new = held.get(part, {}), wanted[part]
        found += [f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
                  for name in sorted((set(old) | set(new)) - {"out"})
                  if old.get(name) != new.get(name)]
    return "; ".join(found[:3])
