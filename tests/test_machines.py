"""Apple GPUs and Windows, simulated (elsewhere.py): neither was at hand, so neither was run."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from elsewhere import Elsewhere
from tiny_run import tiny_stages

from minireason.core.config import resolve_device
from minireason.core.errors import UserError
from minireason.model import checkpoint
from minireason.sampling.sampler import to_draw_from

TESTS = Path(__file__).parent
WINDOWS = """
import sys
sys.path.insert(0, {tests!r})
from elsewhere import without_posix
without_posix()
from tiny_run import tiny_stages
from minireason.cli import main
from minireason.core import locks
from minireason.core.runlog import RunLog
assert locks.fcntl is None
import dataclasses
run, config = tiny_stages({root!r})["pretrain"]
config = dataclasses.replace(config, steps=6, save_every=2)
real, left = RunLog.record, [5]
def record(self, *args, **values):
    left[0] -= 1
    if not left[0]:
        raise KeyboardInterrupt
    real(self, *args, **values)
RunLog.record = record
try:
    run(config)
except KeyboardInterrupt:
    print("interrupted")
RunLog.record = real
print(run(config)["stage"], "finished")
assert main(["doctor"]) == 0
"""


@pytest.mark.long
def test_a_stage_is_interrupted_and_resumed_without_posix_or_a_compiler(tmp_path):
    """No fork, flock, process groups, SIGHUP or owners of files; no folder can be opened, and no
    file replaced or deleted while it is mapped into memory. The weights are those of Linux."""
    script = WINDOWS.format(tests=str(TESTS), root=str(tmp_path / "windows"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert "interrupted\npretrain finished" in done.stdout
    assert "nothing is compiled on this system" in done.stdout and "resuming from" in done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIREASON_DECODE", "torch")
        patch.setenv("MINIREASON_LAYERS", "torch")
        run, config = tiny_stages(tmp_path)["pretrain"]
        run(dataclasses.replace(config, steps=6, save_every=2))
    assert checkpoint.weights_hash(tmp_path / "windows" / "pretrain") == checkpoint.weights_hash(
        tmp_path / "pretrain")


def test_the_simulated_device_refuses_what_an_apple_gpu_refuses():
    with Elsewhere():
        there = torch.ones(3, device="mps")
        with pytest.raises(TypeError, match="no float64"):
            there.double()
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        assert (there + 1).device.type == "mps" and (there + 1).cpu().tolist() == [2, 2, 2]


def test_numbers_to_draw_from_stay_below_1_in_float32():
    with Elsewhere():
        u = to_draw_from(np.array([[0.25, 1 - 2.0 ** -53]]), torch.device("mps"))
        assert u.dtype == torch.float32 and u.device.type == "mps"
        whole = torch.nextafter(torch.ones(1000), torch.zeros(1000)).cumsum(0)
        assert bool((u.cpu()[0, 1] * whole < whole).all()) and u.tolist()[0][0] == 0.25


def test_an_apple_gpu_that_is_not_there_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device mps: no Apple GPU is visible"):
        resolve_device("mps")
