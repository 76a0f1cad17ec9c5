"""The host emulator: sound kernels run, every planted fault is found, numbers round right."""

import ctypes
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cuda_ext import build

pytestmark = pytest.mark.skipif(shutil.which("g++") is None,
                                reason="NOT CHECKED: the emulator needs g++")
KERNELS = Path(__file__).parent / "faulty_kernels.cu"
THREADS = 64


@pytest.fixture(scope="module")
def lib(tmp_path_factory):
    """The faulty kernels, compiled against the emulator."""
    out = tmp_path_factory.mktemp("faulty") / "faulty.so"
    build.run([*build.find_host_compiler(), "-O1", *build.HOST_FLAGS, f"-I{build.SOURCES}",
               "-shared", str(KERNELS), "-o", str(out)])
    library = ctypes.CDLL(str(out))
    library.error_text.restype = ctypes.c_char_p
    return library


@pytest.fixture(params=[(c, o) for c in ("late", "eager") for o in ("up", "down")],
                ids=lambda mode: "-".join(mode))
def mode(request, monkeypatch):
    """Every copy mode with every order of warps."""
    monkeypatch.setenv("EMULATE_COPY", request.param[0])
    monkeypatch.setenv("EMULATE_ORDER", request.param[1])
    return request.param


def launch(lib, name: str, shared_bytes: int = 8 * 4 * THREADS):
    """(output, error text) of one kernel; the input is 1, 2, 3, ... and the output starts NaN."""
    given = torch.arange(1, 4 * THREADS + 1, dtype=torch.float32)
    out = torch.full((4 * THREADS,), math.nan)
    status = getattr(lib, name)(ctypes.c_void_p(given.data_ptr()), ctypes.c_void_p(out.data_ptr()),
                                shared_bytes)
    return out, lib.error_text(status).decode() if status else ""


def test_sound_kernels_give_their_result_in_every_mode(lib, mode):
    out, error = launch(lib, "mirror_sound")
    assert not error and out[:THREADS].equal(torch.arange(THREADS).flip(0).float())
    for name in ("copy_sound", "refill_sound"):
        out, error = launch(lib, name)
        assert not error and out.equal(torch.arange(1, 4 * THREADS + 1).float()), name
    for name in ("overwrite_sound", "neighbour_sound"):
        out, error = launch(lib, name)
        assert not error and out[:THREADS].equal(torch.full((THREADS,), 9.0)), name


def test_a_missing_barrier_shows_as_nan(lib, mode):
    out, error = launch(lib, "mirror_faulty")
    assert not error and out[:THREADS].isnan().any()


def test_a_copy_that_is_not_awaited_shows_in_late_mode(lib, monkeypatch):
    monkeypatch.setenv("EMULATE_COPY", "late")
    assert launch(lib, "copy_faulty")[0].isnan().all()


def test_a_copy_onto_data_in_use_shows_in_eager_mode(lib, monkeypatch):
    monkeypatch.setenv("EMULATE_COPY", "eager")
    assert launch(lib, "refill_faulty")[0].equal(torch.zeros(4 * THREADS))


@pytest.mark.parametrize(("name", "words"), [
    ("deadlock", "DEADLOCK: 32 threads at a barrier, 32 returned"),
    ("half_a_warp", "inside a warp operation"),
    ("diverged", "DIVERGED: lanes of one warp met in"),
    ("misalignment", "MISALIGNED ldmatrix"),
    ("overwrite_faulty", "RACE: a row that ldmatrix read was written again with no __syncwarp"),
    ("neighbour_faulty", "RACE: ldmatrix reads another lane's copy with no __syncwarp between"),
    ("unawaited", "UNAWAITED: the kernel ended with copies under way"),
])
def test_the_emulator_names_the_fault(lib, mode, name, words):
    assert words in launch(lib, name)[1]


def test_a_write_past_shared_memory_and_too_much_of_it_are_refused(lib):
    assert "OVERRUN" in launch(lib, "overrun", 4 * THREADS)[1]
    assert "more shared memory" in launch(lib, "mirror_sound", 228 * 1024)[1]


@pytest.mark.parametrize(("name", "dtype"), [("round_bf16", torch.bfloat16),
                                             ("round_fp16", torch.float16)])
def test_rounding_equals_pytorchs_on_every_pattern(lib, name, dtype):
    halves = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    rng = torch.Generator().manual_seed(torch.randint(2**31, ()).item())
    bits = torch.randint(-2**31, 2**31, (200_000,), generator=rng).to(torch.int32)
    exact = halves.float()
    between = (exact.view(torch.int32) + 1).view(torch.float32)          # just off every value
    given = torch.cat([exact, between, bits.view(torch.float32)])
    got = torch.empty(given.numel(), dtype=torch.int16)
    back = torch.empty_like(given)
    getattr(lib, name)(*(ctypes.c_void_p(t.data_ptr()) for t in (given, got, back)), given.numel())
    want = given.to(dtype)
    number = ~want.isnan()
    assert got.view(dtype)[~number].isnan().all()
    assert got[number].equal(want.view(torch.int16)[number]), rng.initial_seed()
    assert back[number].equal(want.float()[number]), rng.initial_seed()


def test_address_sanitizer_finds_a_read_out_of_bounds(tmp_path):
    """In a process of its own: the sanitizer's library must be loaded first."""
    compiler = build.find_host_compiler()
    if not os.path.isabs(build.run([*compiler, "-print-file-name=libasan.so"]).strip()):
        pytest.skip("NOT CHECKED: this compiler comes without AddressSanitizer")
    main = tmp_path / "main.cpp"
    main.write_text(f'#include "{KERNELS}"\n#include <vector>\n'
                    "int main() { std::vector<float> in(63), out(256);"
                    " return out_of_bounds(in.data(), out.data(), 1024); }\n")
    program = tmp_path / "program"
    flags = [f for f in build.HOST_FLAGS if f not in ("-fPIC", "-fvisibility=hidden")]
    build.run([*compiler, *build.HOST_MODES["asan"], *flags, f"-I{build.SOURCES}", str(main),
               "-o", str(program)])
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
