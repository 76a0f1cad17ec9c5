"""native.cpp refuses what would lead it out of its arrays, and survives a poor machine."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fuzz_native import LIES, Case, lying, random_case
from fuzz_native import __file__ as fuzz_script

from cuda_ext import build
from minireason.core import compiled
from minireason.core.errors import UserError
from minireason.sampling import native

try:
    native.library()
except build.BuildError:
    pytest.skip("NOT CHECKED: needs g++", allow_module_level=True)


@pytest.fixture(scope="module")
def case() -> Case:
    """A sound job of several prompts and many rows."""
    rng = np.random.default_rng(0)
    return next(case for case in iter(lambda: random_case(rng), None)
                if len(case.chunk.prompts) > 2 and len(case.chunk.source) > 20
                and case.chunk.uniform.shape[1] > 5 and case.how.temperature == 1)


def test_every_lie_about_pointers_and_sizes_is_refused(case):
    for lies in LIES:
        with pytest.raises(UserError, match=r"does not fit the model|not enough memory"):
            case.run(native.library(), lying(lies))
    assert native.library().decode_rows(None) == 2


def test_a_chunk_that_does_not_fit_together_is_refused(case):
    chunk, max_len = case.chunk, case.model.config.max_len
    for lie in ({"source": chunk.source[:1]}, {"limits": chunk.limits[:-1]}, {"prompts": []},
                {"prompts": [[], *chunk.prompts[1:]]},
                {"prompts": [*chunk.prompts, [1] * max_len]}):         # no row continues it
        with pytest.raises(UserError, match="does not fit the model"):
            replace(case, chunk=replace(chunk, **lie)).run(native.library())


@pytest.mark.parametrize("change", [
    {"vocab_size": 10 ** 6}, {"d_ff": 10 ** 5}, {"max_len": 10 ** 5}, {"head_dim": 1000}],
    ids=str)
def test_a_model_that_is_not_of_its_config_is_refused(case, change, monkeypatch):
    monkeypatch.setattr(case.model, "config", replace(case.model.config, **change))
    with pytest.raises(UserError, match="where its config says"):
        case.run(native.library())


def test_numbers_are_read_whatever_their_layout(case):
    expected, chunk = case.run(native.library()), case.chunk
    other = replace(chunk, source=chunk.source.astype(np.int32), limits=chunk.limits[::-1][::-1],
                    uniform=np.asfortranarray(chunk.uniform))
    assert replace(case, chunk=other).run(native.library()).tokens.equal(expected.tokens)


POOR = r"""
#include <cerrno>
#include <cstdlib>
#include <new>
#include <pthread.h>
extern "C" { size_t no_bytes = 0; }
extern "C" int pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) {
    return EAGAIN;
}
void* operator new(size_t n) {
    if (n == no_bytes) throw std::bad_alloc();
    return std::malloc(n);
}
"""
"""A machine without threads, and without memory for one size."""


@pytest.mark.long
@pytest.mark.parametrize("lacking", ["threads", "memory"])
def test_a_poor_machine_decodes_the_same_or_says_what_lacks(case, lacking, tmp_path):
    """In a process of its own, which the C++ runtime would end."""
    source, poor = tmp_path / "poor.cpp", tmp_path / "poor.so"
    source.write_text(POOR if lacking == "threads" else POOR.replace("pthread_create", "unused"))
    build.run([*build.find_host_compiler(), "-shared", "-fPIC", str(source), "-o", str(poor)])
    program = f"""
import ctypes, torch
import test_native_attacked as tests
case = tests.replace(tests.case.__wrapped__(), threads=4, block=2)
case = tests.replace(case, how=tests.replace(case.how, top_p=0.9))
poor = ctypes.CDLL({str(poor)!r})
if {lacking == "memory"}:               # what top-p needs for the order of the vocabulary
    ctypes.c_size_t.in_dll(poor, "no_bytes").value = 8 * case.model.config.vocab_size
out = case.run(tests.native.library())
alone = tests.replace(case, threads=1).run(tests.native.library())
print("equal", out.tokens.equal(alone.tokens))
"""
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, env={
        **os.environ, "LD_PRELOAD": str(poor), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))})
    said = done.stdout + done.stderr
    if lacking == "threads":
        assert said == "equal True\n"
    else:
        assert done.returncode == 1 and "UserError: not enough memory for" in said, said


@pytest.mark.long
@pytest.mark.slow
def test_the_sanitizers_find_nothing_but_what_was_planted():
    done = subprocess.run([sys.executable, fuzz_script, "--cases", "20"], text=True,
                          capture_output=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 cases that differ, 0 lies believed" in done.stdout
    assert "not found: none" in done.stdout


def test_options_of_cxx_change_no_arithmetic(monkeypatch):
    """The flags that follow them take -ffast-math back; the processor's own instructions stay."""
    monkeypatch.setenv("CXX", "g++ -ffast-math -funsafe-math-optimizations")
    compiler = build.find_host_compiler()
    macros = build.run([*compiler, *compiled.FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    assert "__FINITE_MATH_ONLY__ 0" in macros
    assert not [name for name in ("__FAST_MATH__", "__ASSOCIATIVE_MATH__", "__RECIPROCAL_MATH__")
                if name in macros]
    assert "-march=native" in compiled.FLAGS
