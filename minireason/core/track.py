"""Trackers: what metrics.jsonl holds, shown by trackio, wandb or TensorBoard as well.

metrics.jsonl stays the truth: a tracker is told what was written there and gives nothing back. One
that is missing or fails is left alone after one warning; the run goes on and its numbers are those
that it has without one. Each folder of metrics is one run of the project "minireason".
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minireason.core.config import portable
from minireason.core.errors import check_choice

TRACKERS = ("trackio", "wandb", "tensorboard")


class TensorBoard:
    """TensorBoard with the three calls that trackio and wandb share; files in `tensorboard/`."""

    def __init__(self, folder: Path):
        self.folder, self.writer = folder, None

    def init(self, **_config: object) -> None:
        """ImportError if the package is missing."""
        self.make_writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter

    def log(self, values: dict[str, float], step: int) -> None:
        """Write one point of every curve; what an interrupted run wrote from here on is hidden."""
        if self.writer is None:
            self.writer = self.make_writer(str(self.folder / "tensorboard"), purge_step=step)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Write what is still in memory."""
        if self.writer is not None:
            self.writer.close()


class Tracker:
    """Passes metrics on to the tracker that config.track names, if any, from the first one on.

    A name that is none of TRACKERS is a UserError. say: prints one console line.
    """

    def __init__(self, config: Any, folder: Path, say: Callable[[str], None]):
        self.name = getattr(config, "track", "")
        if self.name:
            check_choice("track", self.name, TRACKERS)
        self.config, self.folder, self.say = config, folder, say
        self.backend: Any = None

    def log(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if self.name and self.backend is None:
            self._try(self._open)
        if self.name:
            self._try(lambda: self.backend.log(numbers, step=step))

    def close(self) -> None:
        """The stage is finished."""
        if self.name and self.backend is not None:
            self._try(lambda: self.backend.finish())
        self.backend = None

    def _open(self) -> None:
        found = (TensorBoard(self.folder) if self.name == "tensorboard"
                 else importlib.import_module(self.name))
        found.init(project="minireason", name=self.folder.as_posix(),
                   config=portable(self.config, self.folder))
        self.backend = found

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:    # whatever it is: the run does not depend on it
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            advice = (f"; pip install {self.name}" if isinstance(error, ImportError) else "")
            self.say(f"warning: --track {self.name} failed and is left out from here on, the run "
                     f"goes on ({why}){advice}")
            self.name = ""
