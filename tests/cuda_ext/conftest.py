"""A cache of its own for a test, compilers that misbehave, and sources that compile in no time."""

import ctypes
import shutil
from pathlib import Path

import pytest

from cuda_ext import build
from minireason.sampling import native

TINY = """
extern "C" __attribute__((visibility("default"))) int panel_width() { return 7; }
extern "C" __attribute__((visibility("default"))) int decode_rows(void*) { return 0; }
extern "C" __attribute__((visibility("default"))) const char* error_text(int) { return ""; }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A cache of its own, which does not exist yet."""
    monkeypatch.setenv("MINIREASON_KERNEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """compiler(shell script): CXX is that script; the real one is $REAL."""
    def use(script: str) -> None:
        path = tmp_path / "cxx"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        native.library.cache_clear()

    monkeypatch.setenv("REAL", shutil.which("g++") or "g++")
    yield use
    native.library.cache_clear()


@pytest.fixture
def libraries(tmp_path) -> dict:
    """Both callers of the cache, each with a source that is quick to compile: {name: function}."""
    sources, source = tmp_path / "cuda_ext", tmp_path / "native.cpp"
    shutil.copytree(build.SOURCES, sources, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (sources / "kernels").iterdir():
        path.write_text(TINY if path.stem == "7_norm_rope" else "\n")
    source.write_text(TINY)

    def kernels() -> ctypes.CDLL:
        return ctypes.CDLL(str(build.library("emulated", "fp32", 32, sources=sources)))

    return {"kernels": kernels, "native": lambda: native.library.__wrapped__(source)}
