"""`minireason doctor`: what it says where something is missing, as a run would find it."""

import importlib.util
import os

import pytest
import torch

from minireason import cli
from minireason.core import locks
from minireason.sampling import native
from minireason.studies import doctor


@pytest.fixture(autouse=True)
def fresh():
    """Who decodes is chosen once per process; here it is asked again and again."""
    for function in (native.library, native.choose_decoder):
        function.cache_clear()
    yield
    for function in (native.library, native.choose_decoder):
        function.cache_clear()


def test_it_prints_three_parts_and_is_a_command(capsys):
    assert cli.main(["doctor", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if not line.startswith(" ")] == [
        "found:", "used:", "to be faster:"]
    assert torch.__version__ in said and "folder locks" in said and "fp32" in said


def test_without_a_compiler_it_says_so_and_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found, used = doctor.found(), doctor.in_use("cpu")
    assert found["compiler"].startswith("none: g++ not found: install g++ 9 or later")
    assert used["sampler"].startswith("torch: slower; the C++ was not built: g++ not found")
    assert doctor.advice("cpu")[0].startswith("let the sampler be compiled (slower")


def test_without_posix_nothing_is_compiled_and_folders_are_not_locked(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    monkeypatch.setattr(locks, "fcntl", None)
    found = doctor.found()
    assert found["folder locks"].startswith("none") and "no groups" in found["processes"]
    assert found["kernel cache"].startswith("none: nothing is compiled on this system")
    assert doctor.in_use("cpu")["sampler"].startswith("torch: slower")


def test_an_apple_gpu_is_named_and_said_not_to_have_been_run(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "never run on a real one" in doctor.found()["Apple GPU"]
    used = doctor.in_use("mps")
    assert "never run" in used["device"] and used["attention"].startswith("sdpa")
    assert used["sampler"] == "torch: the plain loop" and used["numbers"] == "fp32"
    assert any("--device mps" in line for line in doctor.advice("cpu"))


def test_idle_cores_and_a_driver_without_its_torch_are_advised_of(monkeypatch):
    monkeypatch.setattr(doctor, "machine", lambda: {"cores": 8, "threads": 2})
    monkeypatch.setattr(doctor.shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = doctor.advice("cpu")
    assert any("2 of 8 now" in line and "4 seeds" in line for line in lines)
    assert any("install a torch built for CUDA" in line for line in lines)
    assert "cannot use it" in doctor.gpu_words()


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.found()["extra web"] == "no: pip install 'minireason[web]'"


def test_a_missing_device_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert cli.main(["doctor", "--device", "mps"]) == 2
    assert "--device mps: no Apple GPU is visible to PyTorch" in capsys.readouterr().err
