"""layers.cpp equals the formulas of cpu_layers.py, values and every gradient, and says who runs."""

import os
import subprocess
import sys

import pytest
import torch

from cuda_ext import build
from minireason.core.errors import UserError
from minireason.core.runlog import RunLog
from minireason.model import native_layers
from minireason.model.attention import rope_tables, self_attention
from minireason.model.cpu_layers import CausalAttention, RMSNorm, SwiGLU
from minireason.model.native_layers import (
    Job,
    NativeAttention,
    NativeNorm,
    NativeSwiGLU,
    attend,
    choose_layers,
    native,
)
from minireason.model.transformer import ModelConfig, Transformer, add_norm
from minireason.stages.sft import Config
from minireason.training.losses import nll

try:
    native_layers.library()
except build.BuildError:
    pytest.skip("NOT CHECKED: needs g++", allow_module_level=True)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(ours, exact, *inputs: torch.Tensor) -> None:
    """Values, and gradients of a random projection, within float32 of the formula in float64."""
    a_in = [x.clone().requires_grad_() for x in inputs]
    b_in = [x.double().requires_grad_() for x in inputs]
    a, b = ours(*a_in), exact(*b_in)
    a, b = (x if isinstance(x, tuple) else (x,) for x in (a, b))
    directions = [randn(*x.shape, seed=9 + i) for i, x in enumerate(a)]
    found = torch.autograd.grad(a, a_in, directions)
    wanted = torch.autograd.grad(b, b_in, [x.double() for x in directions])
    for x, y in zip([*a, *found], [*b, *wanted], strict=True):
        # float32 carries 6e-8; sums over up to 150 tokens of numbers around 1 round at some 1e-6
        torch.testing.assert_close(x.double(), y, rtol=2e-6,
                                   atol=2e-6 * max(1.0, y.abs().max().item()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 16), (3, 5, 12), (150, 33), (64, 96)])
def test_norm_of_a_sum_and_alone(shape):
    d = shape[-1]
    same(lambda x, update, gain: NativeNorm.apply(x, update, gain, 1e-6),
         lambda x, update, gain: (x + update, RMSNorm.apply(x + update, gain, 1e-6)),
         randn(*shape), randn(*shape, seed=1), randn(d, seed=2))
    same(lambda x, gain: NativeNorm.apply(x, None, gain, 1e-6)[1],
         lambda x, gain: RMSNorm.apply(x, gain, 1e-6), randn(*shape), randn(d, seed=2))
    same(lambda x, gain: NativeNorm.apply(x, None, gain, 1e-6),            # x is used further
         lambda x, gain: (x * 1, RMSNorm.apply(x, gain, 1e-6)), randn(*shape), randn(d, seed=2))


@pytest.mark.parametrize("shape", [(1, 2), (5, 14), (3, 5, 32), (130, 66)])
def test_swiglu(shape):
    same(NativeSwiGLU.apply, SwiGLU.apply, 5 * randn(*shape))


def test_gates_of_some_hundreds_stay_finite():
    x = torch.tensor([[-500.0, -90.0, 0.0, 90.0, 500.0, *[1.0] * 5]], requires_grad=True)
    y = NativeSwiGLU.apply(x)
    y.sum().backward()
    torch.testing.assert_close(y, SwiGLU.apply(x.detach()), rtol=1e-6, atol=1e-30)
    assert x.grad is not None and x.grad.isfinite().all()


# lengths of rows; heads, KV heads, head_dim: nothing is a multiple of a vector's or a tile's width
ROWS = [(1,), (1, 1, 1), (2, 9, 1, 5), (33, 1, 17, 40), (13, 6, 12, 7)]
HEADS = [(3, 3, 8), (1, 1, 32), (4, 2, 6), (6, 1, 24), (2, 2, 32), (3, 3, 64)]


def flat_rows(qkv, q_gain, k_gain, cos, sin, lengths, heads, kv_heads):
    """The formula row by row, keys and values repeated for the query heads that share them."""
    d, out = q_gain.numel(), []
    for row in qkv.split(lengths):
        q, k, v = row.unflatten(-1, (-1, d)).split((heads, kv_heads, kv_heads), dim=1)
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        whole = torch.cat((q, k, v), dim=1).flatten(1)[None]
        n = len(row)
        found, *_ = CausalAttention.apply(whole, q_gain, k_gain, cos[:n], sin[:n], heads, 1e-6)
        out.append(found[0])
    return torch.cat(out)


@pytest.mark.parametrize("lengths", ROWS, ids=str)
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_attention_of_packed_rows(lengths, shape):
    heads, kv_heads, d = shape
    cos, sin = rope_tables(64, d, 10_000.0)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    groups = torch.arange(len(starts)).int()
    same(lambda *x: NativeAttention.apply(*x, cos, sin, starts, groups, heads, kv_heads, 1e-6),
         lambda *x: flat_rows(*x, cos.double(), sin.double(), lengths, heads, kv_heads),
         randn(sum(lengths), (heads + 2 * kv_heads) * d), randn(d, seed=1), randn(d, seed=2))


@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_a_shared_prompt_equals_rows_that_repeat_it(shape):
    """Groups of a prompt and its completions: each completion sees the prompt and itself."""
    heads, kv_heads, d = shape
    tree = [(7, 5, 1, 9), (4,), (18, 12, 20, 3), (1, 1, 1)]               # prompt, completions
    cos, sin = rope_tables(64, d, 10_000.0)
    segments = [n for group in tree for n in group]
    starts = torch.tensor([0, *segments]).cumsum(0).int()
    groups = torch.tensor([0, *map(len, tree)]).cumsum(0).int()

    def repeated(qkv, *gains):
        parts, out, at = qkv.split(segments), [], 0
        for prompt, *rest in tree:
            own = parts[at + 1:at + 1 + len(rest)]
            rows = [parts[at], *(torch.cat((parts[at], x)) for x in own)]
            lengths = tuple(map(len, rows))
            found = flat_rows(torch.cat(rows), *gains, cos.double(), sin.double(), lengths, heads,
                              kv_heads).split(lengths)
            out += [found[0], *(row[prompt:] for row in found[1:])]
            at += 1 + len(rest)
        return torch.cat(out)

    same(lambda *x: NativeAttention.apply(*x, cos, sin, starts, groups, heads, kv_heads, 1e-6),
         repeated, randn(sum(segments), (heads + 2 * kv_heads) * d), randn(d, seed=1),
         randn(d, seed=2))


def model_of(shape=(37, 20, 2, 4, 2, 8, 30)) -> Transformer:
    model = Transformer(ModelConfig(*shape, max_len=40))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (parameter.dim() < 2))
    return model


def loss_and_gradients(model: Transformer, packed: bool = True) -> list[torch.Tensor]:
    tokens = torch.arange(60).mul(17).remainder(37)
    starts = torch.tensor([0, 1, 21, 25, 60], dtype=torch.int32)
    model.zero_grad()
    if packed:
        logits = model(tokens, starts, 35)
        loss = nll(logits, tokens.roll(-1), (tokens % 3 > 0).float(), 40)
    else:
        rows = tokens.view(3, 20)
        loss = nll(model(rows), rows.roll(-1), torch.ones(3, 20), 60)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("packed", [True, False])
def test_a_whole_model_has_the_same_loss_and_gradients(packed, monkeypatch):
    model, found = model_of(), {}
    for how in ("native", "torch"):
        monkeypatch.setenv("MINIREASON_LAYERS", how)
        found[how] = loss_and_gradients(model, packed)
    for a, b in zip(*found.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert any(not a.equal(b) for a, b in zip(*found.values(), strict=True))   # another way it was


def test_threads_change_not_one_bit(monkeypatch):
    monkeypatch.setenv("MINIREASON_LAYERS", "native")
    model, found = model_of(), []
    tokens = torch.arange(600).remainder(37)
    starts = torch.arange(31, dtype=torch.int32) * 20
    for threads in (1, 3, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        model.zero_grad()
        nll(model(tokens, starts, 20), tokens, torch.ones(600), 600).backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for other in found[1:]:
        assert all(a.equal(b) for a, b in zip(found[0], other, strict=True))


def test_what_it_cannot_compute_stays_with_pytorch(monkeypatch):
    monkeypatch.setenv("MINIREASON_LAYERS", "native")
    x = torch.ones(2, 4)
    assert native(x) and not native(x.double()) and not native(x.to("meta"))
    assert not native(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not native(x)
    compiled = torch.compile(lambda x: add_norm(x, x, torch.ones(4), 1e-6)[1], backend="eager",
                             fullgraph=True)
    torch.testing.assert_close(compiled(x), torch.ones(2, 4), rtol=0, atol=1e-6)
    cache = torch.zeros(2, 1, 1, 3, 8)
    given = (randn(1, 3, 24), torch.ones(8), torch.ones(8), *rope_tables(3, 8, 1e4))
    layout = {"n_heads": 1, "n_kv_heads": 1, "eps": 1e-6}
    torch.testing.assert_close(self_attention(*given, **layout, cache=cache),
                               self_attention(*given, **layout), rtol=0, atol=1e-6)
    assert cache[0].any() and cache[1].any()


def test_a_gradient_of_the_gradient_is_refused():
    x = torch.ones(2, 4, requires_grad=True)
    grad, = torch.autograd.grad(NativeSwiGLU.apply(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_layouts_in_memory_change_nothing():
    x, wide = randn(6, 10), randn(10, 6).T
    gain = randn(20)[::2]
    for given in (x, wide):
        torch.testing.assert_close(NativeNorm.apply(given, given, gain, 1e-6)[1],
                                   RMSNorm.apply(2 * given, gain, 1e-6), rtol=0, atol=1e-5)
        torch.testing.assert_close(NativeSwiGLU.apply(given), SwiGLU.apply(given), rtol=0,
                                   atol=1e-6)


def arguments(starts=(0, 3, 8), groups=(0, 1, 2), max_len=8) -> tuple:
    indices = [torch.tensor(x, dtype=torch.int32) for x in (starts, groups)]
    return (randn(8, 24), torch.ones(8), torch.ones(8), *rope_tables(max_len, 8, 1e4), *indices, 1,
            1, 1e-6)


@pytest.mark.parametrize("lie", [
    {"starts": (0, 3, 9)}, {"starts": (0, 9, 8)}, {"starts": (1, 3, 8)}, {"starts": (0, 3, 3)},
    {"starts": (0, -1, 8)}, {"starts": (0, 8, 8)}, {"groups": (0, 1, 3)}, {"groups": (0, 0, 2)},
    {"groups": (0, -5, 2)}, {"groups": (1, 1, 2)}, {"max_len": 4},
    {"groups": (0, 2), "max_len": 7}], ids=str)
def test_rows_that_lead_out_of_their_arrays_are_refused(lie):
    out = torch.empty(8, 8)
    attend(*arguments(), out=out)
    with pytest.raises(ValueError, match="do not fit"):
        attend(*arguments(**lie), out=out)


def test_every_lie_about_pointers_and_sizes_is_refused(monkeypatch):
    lies = [*({name: None} for name in Job.POINTERS[:8]), {"head_dim": 5}, {"n_kv_heads": 3},
            *({name: value} for name in Job.INTEGERS for value in (-1, 2 ** 40))]
    for lie in lies:
        monkeypatch.setattr(native_layers, "Job", lambda lie=lie, **given: Job(**given | lie))
        with pytest.raises(ValueError, match="do not fit"):
            attend(*arguments(), out=torch.empty(8, 8))


@pytest.fixture
def anew():
    """The choice is made anew, before and after."""
    for function in (choose_layers, native_layers.library):
        function.cache_clear()
    yield
    for function in (choose_layers, native_layers.library):
        function.cache_clear()


def test_without_a_compiler_pytorch_computes_and_a_choice_is_taken_or_refused(anew, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("MINIREASON_LAYERS", raising=False)
    assert not native(torch.ones(2))
    name, why = Transformer(ModelConfig()).layers_choice(torch.device("cpu"))
    assert name == "torch" and "no-such-compiler not found" in why
    for asked, error in (("native", "no-such-compiler not found"), ("fast", "no such layers")):
        monkeypatch.setenv("MINIREASON_LAYERS", asked)
        with pytest.raises(UserError, match=error):
            Transformer(ModelConfig())(torch.ones(1, 2, dtype=torch.long))
    monkeypatch.setenv("MINIREASON_LAYERS", "torch")
    assert not native(torch.ones(2))


def test_a_run_says_who_computed_and_who_goes_on(tmp_path, monkeypatch, capsys):
    model, cpu = model_of(), torch.device("cpu")
    log = RunLog(str(tmp_path), "sft", Config(init="x"), {})
    for how in ("torch", "native"):
        monkeypatch.setenv("MINIREASON_LAYERS", how)
        log.start(model, cpu)
        assert f"layers {how}: asked for" in capsys.readouterr().err
    RunLog(str(tmp_path), "sft", Config(init="x"), {})
    assert "begun with MINIREASON_LAYERS None, goes on with native" in capsys.readouterr().err
    assert log.finish()["made_with"]["layers"] == "native"
    assert model.layers_choice(torch.device("cuda")) == ("torch", "the C++ is for a CPU")


SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FAULT = ("std::copy_n(&dv[at * DP], +D, d_qkv(t, h + a.n_kv_heads));",
         "std::copy_n(&dv[at * DP], D + 1, d_qkv(t, h + a.n_kv_heads));")


@pytest.mark.long
def test_the_sanitizers_find_nothing_but_what_was_planted(tmp_path):
    """In a process with them loaded: this file's comparisons, then with a fault in the source."""
    compiler = build.find_host_compiler()
    libraries = [build.run([*compiler, f"-print-file-name={name}.so"]).strip()
                 for name in ("libasan", "libubsan", "libstdc++")]
    if not all(map(os.path.isabs, libraries)):
        pytest.skip("NOT CHECKED: this compiler comes without the sanitizers")
    text = native_layers.SOURCE.read_text()
    assert text.count(FAULT[0]) == 1
    faulty = tmp_path / "faulty.cpp"
    faulty.write_text(text.replace(*FAULT))
    for source, ends in ((native_layers.SOURCE, "sound"), (faulty, "heap-buffer-overflow")):
        program = f"""
from pathlib import Path
import torch, test_native_layers as tests
library = tests.native_layers.library(Path({str(source)!r}), *tests.SANITIZED)
tests.native_layers.library = lambda: library
torch.set_num_threads(2)
for lengths, shape in zip(tests.ROWS, tests.HEADS):
    tests.test_attention_of_packed_rows(lengths, shape)
    tests.test_a_shared_prompt_equals_rows_that_repeat_it(shape)
tests.test_norm_of_a_sum_and_alone((150, 33)), tests.test_swiglu((130, 66))
print("sound")
"""
        done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, env={
            **os.environ, "LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": os.pathsep.join((os.path.dirname(__file__), *sys.path))})
        assert ends in done.stdout + done.stderr, done.stdout + done.stderr[-3000:]
        assert (done.returncode == 0) == (ends == "sound")
