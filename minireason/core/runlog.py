"""RunLog: the output folder of a stage, its metrics, its console lines and its progress bar.

`metrics.jsonl` holds one flat JSON object a line (`step`, then `train/... eval/... time/...`).
On resume it is cut back to the last saved state, so that a killed run leaves the same file as one
that was never killed. Keys under `time/` are wall-clock and are the only ones allowed to differ.
"""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minireason.core import files, flops, locks, parallel, workers
from minireason.core.config import PATHS, made_with, portable, used
from minireason.core.errors import UserError
from minireason.core.track import Tracker


class RunLog:
    """Opens or creates `out`; refuses a folder that holds another stage or config."""

    def __init__(self, out: str, stage: str, config, parents: dict[str, str]):
        self.out, self.stage = Path(out), stage
        self.metrics = self.out / "metrics.jsonl"     # what record() appends to
        self.record_of_config = {"stage": stage, "config": portable(config, self.out),
                                 "parents": parents}
        self.tracker = Tracker(config, self.out, self.say)
        self.started = time.perf_counter()
        self.flops_at_start = flops.spent()
        self.seconds_before = self.flops_before = 0.0     # spent by earlier, interrupted processes
        if parallel.is_main():
            files.make_folder(self.out)
            locks.lock_folder(self.out)
            try:
                self._claim_folder()
            except UserError:
                locks.unlock_folder(self.out)
                raise
        parallel.barrier()

    def _claim_folder(self) -> None:
        path = self.out / "config.json"
        if not path.exists():
            record = {**self.record_of_config, "made_with": made_with()}
            files.write_atomic(path, json.dumps(record, indent=1) + "\n")
            return
        held = files.read_json(path)
        differing = _differences(held, self.record_of_config, (self.out / "result.json").exists())
        if differing:
            raise UserError(f"{self.out}: holds a run with another configuration "
                            f"({differing}); choose another --out or delete the folder")
        if self.done:                 # killed between its last write and its last removal
            self._leave_folder()
            return
        was, now = held.get("made_with"), made_with()
        was = was if isinstance(was, dict) else {}
        for name in sorted(set(was) | set(now)):
            if was.get(name) != now.get(name):
                self.say(f"warning: begun with {name} {was.get(name)}, goes on with "
                         f"{now.get(name)}: numbers may round otherwise")

    def _leave_folder(self) -> None:
        """Drop the trainer state of a finished stage, and let other processes in."""
        with files.disk_errors(self.out):
            (self.out / files.STATE).unlink(missing_ok=True)
        locks.unlock_folder(self.out)
        files.sync(self.out)

    def owner(self, name: str) -> str:
        """What a file of this run is a part of: its name, the stage, its config, its parents."""
        record = {**self.record_of_config, "config": {
            key: value for key, value in self.record_of_config["config"].items()
            if key not in PATHS}}
        whole = json.dumps([name, record], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    @property
    def done(self) -> dict | None:
        """result.json of a finished run, else None; UserError if its folder was altered."""
        if not (self.out / "result.json").exists():
            return None
        files.check_manifest(self.out)
        return files.read_json(self.out / "result.json")

    def mark(self) -> dict[str, object]:
        """Length and sha256 of the metrics so far, made safe on the disk: part of a saved state."""
        with files.disk_errors(self.metrics):
            written = self.metrics.read_bytes() if self.metrics.exists() else b""
        if written:
            files.sync(self.metrics)
            files.sync(self.out)
        return {"offset": len(written), "log": hashlib.sha256(written).hexdigest()}

    def rewind(self, offset: int = 0, log: str = "") -> None:
        """Cut the metrics back to a mark; UserError if what stands before it has changed."""
        if not parallel.is_main() or (not self.metrics.exists() and not offset):
            return
        with files.disk_errors(self.metrics):
            written = self.metrics.read_bytes()[:offset] if self.metrics.exists() else b""
            if offset and hashlib.sha256(written).hexdigest() != log:
                raise UserError(f"{self.metrics}: was cut or altered since its run was "
                                f"interrupted; restore it, or delete {self.out} and run the same "
                                "command again")
            os.truncate(self.metrics, offset)

    def record(self, step: int, **values: float) -> None:
        """Append one line of metrics; a value that is not finite stops the run."""
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{self.out}: {name} is {value} at step {step}; the last saved "
                                "state is kept, lower the learning rate and start anew")
        if not parallel.is_main():
            return
        with files.disk_errors(self.metrics), open(self.metrics, "ab") as file:
            file.write((json.dumps({"step": step, **values}) + "\n").encode())
        self.tracker.log(step, values)

    def steps(self, start: int, stop: int, title: str = ""):
        """Iterate start..stop-1 under a progress bar that shows rate and remaining time."""
        name = f"{self.stage} {title}".strip()
        yield from tqdm(range(start, stop), initial=start, total=stop, desc=f"{name:<18}",
                        file=sys.stderr, disable=workers.is_worker() or not parallel.is_main(),
                        mininterval=0.5, dynamic_ncols=True)

    def say(self, text: str) -> None:
        """One console line that does not break the bar, in one write, of whichever process."""
        if parallel.is_main():
            tqdm.write(f"{workers.line_start(self.stage)} {text}\n", file=sys.stderr, end="")

    def seconds(self) -> float:
        """Wall-clock seconds of this stage so far, interrupted processes included."""
        return self.seconds_before + time.perf_counter() - self.started

    def flops(self) -> float:
        """Floating-point operations of this stage so far, evaluation left out.

        Of several ranks, which share the work, this one's times their number.
        """
        here = flops.spent() - self.flops_at_start
        return self.flops_before + here * parallel.world_size()

    def spent(self) -> dict[str, object]:
        """What this stage has cost so far and who sampled: part of all that is saved midway."""
        return {"seconds": self.seconds(), "flops": self.flops(), "decoder": used.get("decoder")}

    def resume_at(self, spent: dict[str, Any]) -> None:
        """Count what an interrupted process had spent when it saved what is now read back."""
        if not {"seconds", "flops", "decoder"} <= spent.keys():
            raise UserError(f"{self.out}: was begun by another version of minireason; finish it "
                            "with that one, or choose another --out")
        self.seconds_before = max(self.seconds_before, spent["seconds"])
        self.flops_before, self.flops_at_start = spent["flops"], flops.spent()
        if spent["decoder"]:
            used.setdefault("decoder", spent["decoder"])

    def start(self, model, device) -> None:
        """Say what runs where: the first lines of every run."""
        parents = ", ".join(f"{k} {v[:8]}" for k, v in self.record_of_config["parents"].items())
        number = "bf16" if device.type == "cuda" else "fp32"
        self.say(f"{model.n_params:,} parameters on {device}, {number}, {parallel.world_size()} "
                 f"process(es), parents: {parents or 'none'}")
        for part, choose in ("attention", model.attention_choice), ("layers", model.layers_choice):
            used[part], why = choose(device)
            self.say(f"{part} {used[part]}: {why}")

    def samples(self, text: str) -> None:
        """Write samples.txt and show it."""
        if parallel.is_main():
            files.write_atomic(self.out / "samples.txt", text + "\n")
            self.say("samples:\n" + text)

    def once(self, name: str, make: Callable[[], dict]) -> dict:
        """What `make` returned, computed once and kept in the folder as JSON; ranks all get it.

        A resumed run reads it back, and counts the seconds that it took.
        """
        path, made = self.out / name, None
        if not path.exists():
            made = make()
            if parallel.is_main():
                files.write_checked(path, {**made, "spent": self.spent()}, self.owner(name))
            parallel.barrier()
        found = files.read_checked(path, self.owner(name))
        spent = found.pop("spent", {})
        if made is None:
            self.resume_at(spent)
        return found

    def finish(self, rows: Sequence[dict] = (), **result: object) -> dict:
        """Write rows.jsonl and result.json, the mark of a finished stage; drop the trainer state.

        A row is flat: set, method, n (samples per problem), tokens (per problem), accuracy, low,
        high (95%), problems, and what else tells it apart: round, step. The seed is added here.
        """
        result = {"stage": self.stage, "seconds": self.seconds(), "flops": self.flops(), **result,
                  "made_with": made_with() | used}
        if parallel.is_main():
            seed = self.record_of_config["config"].get("seed", 0)
            lines = [json.dumps({**row, "seed": seed}) + "\n" for row in rows]
            files.write_atomic(self.out / "rows.jsonl", "".join(lines))
            self.mark()
            text = json.dumps(result, indent=1) + "\n"
            files.write_manifest(self.out, "result.json", text)
            files.write_atomic(self.out / "result.json", text)
            self._leave_folder()
            self.tracker.close()
        parallel.barrier()
        return result


def _differences(held: dict, wanted: dict, finished: bool) -> str:
    """The first few fields in which two config records differ, as text; '' if none.

    Folders may differ: a parent is known by its hash, wherever it lies. What an older version wrote
    and finished may lack fields that are off now.
    """
    found = [] if held.get("stage") == wanted["stage"] else [f"stage {held.get('stage')!r}"]
    for part in ("config", "parents"):
        old, new = held.get(part), wanted[part]
        if not isinstance(old, dict):
            return f"no {part} there"
        found += [f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
                  for name in sorted((set(old) | set(new)) - set(PATHS if part == "config" else ()))
                  if not _same(old, new, name, finished)]
    return "; ".join(found[:3])


def _same(old: dict, new: dict, name: str, finished: bool) -> bool:
    """Whether a field is equal in both, parts of it included."""
    a, b = old.get(name), new.get(name)
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_same(a, b, part, finished) for part in a.keys() | b.keys())
    return a == b or (finished and name not in old and not b)
