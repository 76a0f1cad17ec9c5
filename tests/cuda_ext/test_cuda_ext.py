"""The kernels against float64: every number type, head dimension and odd length, both ways.

They run on the CPU through the host emulator; KERNEL_DEVICE=cuda runs the same tests on a GPU. The
bounds and where they come from stand in cuda_ext/reference.py.
"""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from cuda_ext import build, calls, ops, reference
from cuda_ext.reference import EPS, exact, ours, random_case

DEVICE = os.environ.get("KERNEL_DEVICE", "cpu")
pytestmark = pytest.mark.skipif(DEVICE == "cpu" and shutil.which("g++") is None,
                                reason="NOT CHECKED: the emulator needs g++")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BARE_OR_FUSED = pytest.mark.parametrize("fused", (False, True), ids=("bare", "fused"))


def fresh_seed() -> int:
    """A new seed every time; a failure prints it."""
    return int.from_bytes(os.urandom(4), "little")


def check(case, fused: bool) -> None:
    """All outputs and gradients within their bounds."""
    errors = reference.errors(ours(case, fused), exact(case, fused))
    bounds = {name: reference.bound(name, case.qkv.dtype, fused) for name in errors}
    wrong = {name: (error, bounds[name]) for name, error in errors.items()
             if not error <= bounds[name]}
    assert not wrong, wrong


@pytest.fixture(params=("late-down", "eager-up", "eager-down"))
def mode(request, monkeypatch):
    """The emulator's copy modes and orders of warps beside late-up, which all others run in."""
    if DEVICE != "cpu":
        pytest.skip("emulator only")
    copy, order = request.param.split("-")
    monkeypatch.setenv("EMULATE_COPY", copy)
    monkeypatch.setenv("EMULATE_ORDER", order)


@pytest.mark.parametrize(("dtype", "head_dim", "fused"), [
    pytest.param(dtype, dim, fused, marks=pytest.mark.long if dim > 32 and not fused else ())
    for dtype in DTYPES for dim in build.HEAD_DIMS for fused in (False, True)])
def test_kernels_equal_float64_at_every_length(dtype, head_dim, fused):
    seed = fresh_seed()
    print("seed", seed)
    check(random_case(seed, DTYPES[dtype], head_dim, device=DEVICE), fused)


@BARE_OR_FUSED
@pytest.mark.parametrize(("dtype", "head_dim"), [("bf16", 32), ("bf16", 64), ("fp32", 32)])
def test_kernels_do_not_depend_on_the_order_of_warps_or_copies(mode, dtype, head_dim, fused):
    seed = fresh_seed()
    print("seed", seed)
    check(random_case(seed, DTYPES[dtype], head_dim, (130, 0, 65, 1)), fused)


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(3, 3), (3, 1), (4, 2)])
def test_kernels_share_kv_heads(n_heads, n_kv_heads):
    for dtype in DTYPES.values():
        check(random_case(fresh_seed(), dtype, 32, (33, 70), n_heads, n_kv_heads, device=DEVICE),
              True)


def test_backward_works_in_shared_and_in_global_memory():
    """Both homes of its work space are among the shapes tested above."""
    seen = set()
    for dim in build.HEAD_DIMS:
        case = random_case(0, torch.bfloat16, dim, device=DEVICE)
        sizes = ops.shape_of(case.qkv, 2, 1, case.cu_seqlens, 255)
        scratch = calls.gradient_scratch(calls.library_of(case.qkv, dim), case.qkv, sizes)
        seen.add(scratch is None)
    assert seen == {True, False}


def test_three_blocks_of_the_backward_pass_fit_a_multiprocessor():
    """At D = 64 and T = 128: an H100's has 228 KB of shared memory, of which each block costs 1 KB
    more than it asks for. The registers are bounded for three (BLOCKS in 6_backward.cu)."""
    lib = calls.library_of(torch.zeros(1, dtype=torch.bfloat16, device=DEVICE), 64)
    one = lib.backward_tile_bytes() + lib.backward_work_bytes(1, 128) + 1024
    assert 3 * one <= 228 * 1024


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits_cost_no_more_than_in_plain_pytorch(dtype):
    """Logits 30 times those of unit normals: the softmax is nearly one-hot, and a gradient is a
    small difference of large numbers. Errors: at most twice plain PyTorch's in the same type."""
    case = random_case(fresh_seed(), DTYPES[dtype], 64, (1, 65, 129), spread=30**0.5,
                       device=DEVICE)
    want = exact(case, False)
    plain = reference.errors(exact(case, False, case.qkv.dtype), want)
    for name, error in reference.errors(ours(case, False), want).items():
        assert error <= 2 * plain[name] + reference.FORWARD[torch.float32], (name, error, plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_logits_give_the_running_mean(dtype):
    case = random_case(fresh_seed(), DTYPES[dtype], 64, (97,), device=DEVICE)
    case.qkv[:, :2 * 64] = 0                                             # queries
    got = ours(case, False)
    count = torch.arange(1, 98, device=DEVICE)
    mean = case.qkv[:, -64:].double().cumsum(0) / count[:, None]
    gap = got["out"].double() - mean.repeat(1, 2)
    assert gap.norm() <= reference.FORWARD[case.qkv.dtype] * mean.repeat(1, 2).norm()
    assert (got["lse"] - count.log()).abs().max() <= reference.LSE
    assert not got["dk"].any()                                           # since every q is zero


@pytest.mark.parametrize(("spread", "order"), [(1.0, "up"), (10.0, "up"), (10.0, "down")])
@pytest.mark.parametrize("kernel", ("naive_forward", "tiled_forward"))
@pytest.mark.parametrize("head_dim", (32, 64))
def test_the_teaching_kernels_are_right_too(kernel, head_dim, spread, order, monkeypatch):
    """Spread 10 makes logits of +-100, where a wrong maximum overflows; errors there are at most
    twice plain PyTorch's."""
    monkeypatch.setenv("EMULATE_ORDER", order)
    case = random_case(fresh_seed(), torch.float32, head_dim, (1, 0, 63, 64, 65, 130),
                       spread=spread, device=DEVICE)
    out, lse = torch.full_like(case.grad, torch.nan), case.grad.new_full((2, 323), torch.nan)
    call = calls.attention_call(ops.shape_of(case.qkv, 2, 1, case.cu_seqlens, 130),
                                head_dim**-0.5, 0.0, qkv=case.qkv, cu_seqlens=case.cu_seqlens,
                                out=out, lse=lse)
    calls.invoke(calls.library_of(case.qkv, head_dim), kernel, call, case.qkv)
    want = {name: exact(case, False)[name] for name in ("out", "lse")}
    plain = reference.errors(exact(case, False, torch.float32), want)
    for name, error in reference.errors({"out": out, "lse": lse}, want).items():
        assert error <= reference.FORWARD[torch.float32] + 2 * plain[name], (name, error, plain)


@BARE_OR_FUSED
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_equals_the_row_in_a_pack(dtype, fused):
    """Batch invariance, to the last bit."""
    pack = random_case(fresh_seed(), DTYPES[dtype], 64, (65, 1, 0, 129), device=DEVICE)
    whole, start = ours(pack, fused), 0
    for length in (65, 1, 129):
        alone = random_case(0, DTYPES[dtype], 64, (length,), device=DEVICE)
        alone.qkv, alone.grad = (x[start:start + length] for x in (pack.qkv, pack.grad))
        alone.q_gain, alone.k_gain = pack.q_gain, pack.k_gain
        got = ours(alone, fused)
        for name in ("out", "dq", "dk", "dv"):
            assert got[name].equal(whole[name][start:start + length]), (name, length)
        start += length


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_runs_are_bit_equal(dtype, monkeypatch):
    case = random_case(fresh_seed(), DTYPES[dtype], 64, (65, 130), device=DEVICE)
    first = ours(case, True)
    monkeypatch.setenv("EMULATE_THREADS", "1")
    monkeypatch.setenv("EMULATE_ORDER", "down")
    second = ours(case, True)
    for name, value in first.items():
        assert value.equal(second[name]), name


class Guarded:
    """Tensors full of NaN between guard rows of NaN, which no kernel may touch."""

    def __init__(self):
        self.buffers = {}

    def new(self, name: str, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """A poisoned tensor."""
        size = torch.Size(shape).numel()
        self.buffers[name] = torch.full((size + 256,), torch.nan, dtype=dtype, device=DEVICE)
        return self.buffers[name][128:128 + size].view(shape)

    def check(self) -> None:
        """Everything inside was written, nothing outside."""
        for name, buffer in self.buffers.items():
            assert buffer[:128].isnan().all() and buffer[-128:].isnan().all(), name
            assert buffer[128:-128].isfinite().all(), name


@BARE_OR_FUSED
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_are_written_whole_and_nothing_else(dtype, fused):
    case = random_case(fresh_seed(), DTYPES[dtype], 32, (1, 0, 65, 97, 128), device=DEVICE)
    guarded, tokens = Guarded(), case.qkv.shape[0]
    fused = fused and dtype != "fp32"
    lib, sizes = calls.library_of(case.qkv, 32), ops.shape_of(case.qkv, 2, 1, case.cu_seqlens, 128)
    names = dict(zip(("q_gain", "k_gain", "cos", "sin"), case.norm, strict=True))
    kind, given = case.qkv.dtype, {"qkv": case.qkv, "cu_seqlens": case.cu_seqlens}
    outputs = {"out": guarded.new("out", tokens, 64, dtype=kind),
               "lse": guarded.new("lse", 2, tokens, dtype=torch.float32)}
    grads = {"grad_qkv": guarded.new("grad_qkv", tokens, 128, dtype=kind)}
    if fused:
        given |= names
        outputs["k_out"] = guarded.new("k_out", tokens, 32, dtype=kind)
        grads["grad_gain"] = guarded.new("grad_gain", 5, 2, 32, dtype=torch.float32)
    forward, backward = (("online_forward", "exact_backward") if dtype == "fp32"
                         else ("tensor_forward", "tensor_backward"))
    for name, tensors in ((forward, outputs), (backward, {**outputs, **grads})):
        call = calls.attention_call(sizes, 32**-0.5, EPS, grad_out=case.grad, **given, **tensors)
        calls.invoke(lib, name, call, case.qkv)
    norm = {"out": guarded.new("normed", tokens, 128, dtype=kind)}
    unnorm = {"grad_qkv": guarded.new("norm_grad", tokens, 128, dtype=kind),
              "grad_gain": guarded.new("norm_gain", 5 * 4, 2, 32, dtype=torch.float32)}
    for name, tensors in (("norm_rope_forward", norm), ("norm_rope_grad", unnorm)):
        call = calls.attention_call(sizes, 0.0, EPS, **{**given, **names}, grad_out=case.qkv,
                                    **tensors)
        calls.invoke(lib, name, call, case.qkv)
    guarded.check()


@pytest.mark.long
@pytest.mark.skipif(DEVICE != "cpu", reason="emulator only")
def test_address_sanitizer_finds_nothing():
    """Every operator on small odd shapes, in a process that loads the sanitizer first."""
    compiler = build.find_host_compiler()
    libraries = [build.run([*compiler, f"-print-file-name={name}"]).strip()
                 for name in ("libasan.so", "libstdc++.so")]
    if not os.path.isabs(libraries[0]):
        pytest.skip("NOT CHECKED: this compiler comes without AddressSanitizer")
    done = subprocess.run(
        [sys.executable, "-m", "cuda_ext.gpu_check", "--small", "--dry-run"], text=True,
        capture_output=True, env={**os.environ, "EMULATE_BUILD": "asan",
                                  "LD_PRELOAD": " ".join(libraries),
                                  "ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0 and "AddressSanitizer" not in done.stderr, done.stderr[-3000:]


def test_structs_have_one_size_in_both_languages():
    lib = calls.library_of(torch.zeros(1, device=DEVICE), 32)
    assert lib.attention_call_bytes() == calls.ctypes.sizeof(calls.AttentionCall)
    assert lib.decode_call_bytes() == calls.ctypes.sizeof(calls.DecodeCall)


@pytest.mark.skipif(not build.has_nvcc(), reason="NOT CHECKED: nvcc is missing")
def test_every_kernel_compiles_for_both_architectures_without_spills():
    """About 80 seconds of compiling, shared by the cores; kept until a source changes."""
    reports = build.check()
    seen = {(r["dtype"], r["head_dim"], r["arch"]) for r in reports}
    assert seen == {(*instance, f"sm_{arch}") for instance in build.instances()
                    for arch in build.ARCHS}
    assert not [r for r in reports if r["spill_bytes"]]
