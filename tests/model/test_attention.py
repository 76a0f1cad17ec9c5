"""One formula, several implementations: they agree, and the choice among them is explained."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import cuda_ext
from minireason.core.config import UserError
from minireason.model import attention
from minireason.model.attention import (
    Prompt,
    choose_impl,
    decode_attention,
    rope_tables,
    rotate,
    self_attention,
)
from minireason.model.transformer import ModelConfig, Transformer
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, train_step

CPU, GPU = torch.device("cpu"), torch.device("cuda")
H, HKV, D, SPAN = 4, 2, 32, 24
LAYOUT = {"n_heads": H, "n_kv_heads": HKV, "eps": 1e-6}
# fp32 sums of up to 24 products in another order: a few units of 6e-8.
BOUND = 1e-6
EMULATED = pytest.param("emulated", marks=pytest.mark.skipif(
    shutil.which("g++") is None, reason="NOT CHECKED: the emulator needs g++"))


@pytest.fixture
def given():
    """qkv of four rows, gains and rotary tables."""
    rng = torch.Generator().manual_seed(11)
    gains = [1 + 0.2 * torch.randn(D, generator=rng) for _ in range(2)]
    return (torch.randn(4, SPAN, (H + 2 * HKV) * D, generator=rng), *gains,
            *rope_tables(64, D, 10_000.0))


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative norm of a - b; infinite where a is not finite."""
    return ((a - b).norm() / b.norm()).item() if a.isfinite().all() else float("inf")


@pytest.mark.parametrize("impl", ("sdpa", EMULATED))
def test_outputs_and_gradients_equal_the_formula(given, impl):
    def results(impl):
        leaves = [t.clone().requires_grad_() for t in given[:3]]
        out, k, v = self_attention(*leaves, *given[3:], impl=impl, **LAYOUT)
        return out, k, v, *torch.autograd.grad((out * out.detach().cos()).sum(), leaves)

    for ours, reference in zip(results(impl), results("reference"), strict=True):
        assert gap(ours, reference) < BOUND


@pytest.mark.parametrize("impl", ("auto", "reference", "sdpa", EMULATED))
def test_packed_rows_equal_rectangular_rows(given, impl):
    qkv, *rest = given
    lengths = (5, 24, 1, 17)
    whole = self_attention(*given, impl=impl, **LAYOUT)
    starts = torch.tensor([0, 5, 29, 30, 47], dtype=torch.int32)
    packed = torch.cat([row[:n] for row, n in zip(qkv, lengths, strict=True)])
    parts = self_attention(packed, *rest, cu_seqlens=starts, max_len=24, impl=impl, **LAYOUT)
    for ours, rectangular in zip(parts, whole, strict=True):
        want = torch.cat([row[:n] for row, n in zip(rectangular, lengths, strict=True)])
        assert gap(ours, want) < BOUND


@pytest.mark.parametrize("impl", ("reference", "sdpa", EMULATED))
def test_the_future_is_not_seen(given, impl):
    qkv, *rest = given
    changed = qkv.clone()
    changed[:, 10:] += 1
    before, after = (self_attention(x, *rest, impl=impl, **LAYOUT)[0] for x in (qkv, changed))
    assert before[:, :10].equal(after[:, :10]) and not before[:, 10:].equal(after[:, 10:])


def test_rotation_makes_scores_depend_on_distance_alone():
    cos, sin = rope_tables(64, D, 10_000.0)
    q, k = torch.randn(2, 1, 1, D, generator=torch.Generator().manual_seed(0)).double()
    turned = [rotate(x, cos[:, None], sin[:, None]).squeeze(1) for x in (q, k)]     # (64, D)
    scores = turned[0] @ turned[1].T
    for distance in (0, 1, 40):
        line = scores.diagonal(-distance)
        assert (line - line[0]).abs().max() < 1e-5             # tables are float32


def decoded(given, impl: str, prompt: Prompt | None, lens: torch.Tensor, caches):
    """The next token of every row, and the caches after it."""
    qkv, *rest = given
    caches = [cache.clone() for cache in caches]
    out = decode_attention(qkv[:, 0].contiguous(), *rest, *caches, lens, prompt=prompt, impl=impl,
                           **LAYOUT)
    return out, *caches


@pytest.mark.parametrize("impl", ("sdpa", EMULATED))
def test_decoding_equals_the_formula(given, impl):
    rng = torch.Generator().manual_seed(12)
    caches = torch.randn(2, 4, HKV, 20, D, generator=rng)
    lens = torch.tensor([0, 19, 7, 12])
    for ours, reference in zip(decoded(given, impl, None, lens, caches),
                               decoded(given, "reference", None, lens, caches), strict=True):
        assert gap(ours, reference) < BOUND


@pytest.mark.parametrize("impl", ("reference", EMULATED))
def test_a_shared_prompt_equals_a_prompt_in_every_cache(given, impl):
    rng = torch.Generator().manual_seed(13)
    prompts = torch.randn(2, 2, HKV, 9, D, generator=rng)                # k and v of P = 2
    prompt = Prompt(*prompts, torch.tensor([9, 4]), torch.tensor([1, 0, 1, 1]))
    own, lens = torch.randn(2, 4, HKV, 11, D, generator=rng), torch.tensor([0, 3, 10, 5])
    whole = torch.zeros(2, 4, HKV, 20, D)
    for b, (p, n) in enumerate(zip(prompt.index.tolist(), lens.tolist(), strict=True)):
        before = int(prompt.lens[p])
        whole[:, b, :, :before] = prompts[:, p, :, :before]
        whole[:, b, :, before:before + n] = own[:, b, :, :n]
    shared = decoded(given, impl, prompt, lens, own)
    apart = decoded(given, "reference", None, lens + prompt.lens[prompt.index], whole)
    assert gap(shared[0], apart[0]) < BOUND
    assert gap(shared[1][1, :, 3], apart[1][1, :, 12]) < BOUND            # the appended key


def test_auto_says_what_it_takes_and_why(given):
    name, why = choose_impl("auto", CPU, torch.float32, D, SPAN)
    assert name == "by hand" and "CPU" in why
    for auto, sdpa in zip(self_attention(*given, **LAYOUT),       # these heads share keys
                          self_attention(*given, impl="sdpa", **LAYOUT), strict=True):
        assert auto.equal(sdpa)
    name, why = choose_impl("auto", torch.device("meta"), torch.float32, D, SPAN)
    assert name == "sdpa" and "GPU" in why


def test_auto_follows_the_measured_table(monkeypatch):
    def choose(dtype=torch.bfloat16, max_len=128, kind="self", head_dim=64):
        return choose_impl("auto", GPU, dtype, head_dim, max_len, kind)

    monkeypatch.setattr(attention, "NVCC", True)
    monkeypatch.setattr(attention, "CROSSOVER", {"measured": None, "longest_row": {}})
    assert choose()[0] == "sdpa" and "not measured" in choose()[1]
    table = {"self": {"bfloat16": {"64": 256}}, "decode": {}}
    monkeypatch.setattr(attention, "CROSSOVER", {"measured": "some GPU", "longest_row": table})
    assert choose()[0] == "cuda" and "some GPU" in choose()[1]
    assert choose(max_len=257)[0] == "sdpa" and "beyond 256" in choose(max_len=257)[1]
    assert {choose(kind="decode")[0], choose(head_dim=32)[0], choose(torch.float32)[0]} == {"sdpa"}
    monkeypatch.setattr(attention, "NVCC", False)
    assert choose()[0] == "sdpa" and "nvcc" in choose()[1]


def test_the_shipped_table_names_every_kind():
    table = json.loads((Path(cuda_ext.__file__).parent / "crossover.json").read_text())
    assert set(table) == {"measured", "longest_row"}
    assert set(table["longest_row"]) == {"self", "decode"}
    assert (table["measured"] is None) == (not any(table["longest_row"].values()))


@pytest.mark.parametrize(("name", "device", "head_dim", "words"), [
    ("cuda", CPU, 64, "needs an NVIDIA GPU"), ("fast", CPU, 64, "no such implementation"),
    ("emulated", GPU, 64, "choose cuda here"), ("emulated", CPU, 16, "no kernels for"),
])
def test_what_cannot_run_is_refused_in_one_line(name, device, head_dim, words):
    with pytest.raises(UserError, match=words):
        choose_impl(name, device, torch.float32, head_dim, 64)


def test_cuda_without_nvcc_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(attention, "NVCC", False)
    with pytest.raises(UserError, match="install the CUDA toolkit"):
        choose_impl("cuda", GPU, torch.bfloat16, 64, 64)


def test_the_environment_chooses_for_every_model(monkeypatch):
    config = ModelConfig(vocab_size=16, d_model=32, n_layers=1, n_heads=2, n_kv_heads=1,
                         head_dim=32, d_ff=32, max_len=32)
    tokens = torch.arange(6)[None]
    monkeypatch.delenv("MINIREASON_ATTENTION", raising=False)
    assert Transformer(config).attention_impl == "auto"
    for name, words in (("cuda", "needs an NVIDIA GPU"), ("flash", "no such implementation")):
        monkeypatch.setenv("MINIREASON_ATTENTION", name)
        with pytest.raises(UserError, match=words):
            Transformer(config)(tokens)
    monkeypatch.setenv("MINIREASON_ATTENTION", "reference")
    assert Transformer(config).attention_impl == "reference"


@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT CHECKED: the emulator needs g++")
def test_a_model_on_the_kernels_compiles_whole(given):
    """No graph break, packed rows of any number and length, gradients included."""
    config = ModelConfig(vocab_size=16, d_model=32, n_layers=1, n_heads=2, n_kv_heads=1,
                         head_dim=32, d_ff=32, max_len=32)
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    model.attention_impl = "emulated"
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for lengths in ((5, 20, 7), (30, 2)):
        starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
        tokens = torch.arange(sum(lengths)) % 16
        outs = [f(tokens, starts, max(lengths)) for f in (model, compiled)]
        grads = [torch.autograd.grad(out.square().sum(), model.blocks[0].qkv.weight)[0]
                 for out in outs]
        assert gap(outs[1], outs[0]) < BOUND and gap(grads[1], grads[0]) < BOUND


STEPS = 40


def loss_curve(impl: str, seed: int) -> torch.Tensor:
    """Losses of a tiny model under bf16 autocast, as on a GPU, that learns to count in steps
    of its own: token t of a row is a + b t, so b has to be read off the past."""
    config = ModelConfig(vocab_size=16, d_model=32, n_layers=1, n_heads=2, n_kv_heads=1,
                         head_dim=32, d_ff=32, max_len=32)
    model = Transformer(config).init_weights(torch.Generator().manual_seed(seed))
    model.attention_impl = impl
    optimizer = make_optimizer(model, 0.1)
    rng, losses = torch.Generator().manual_seed(100), []
    for _ in range(STEPS):
        start, stride = torch.randint(16, (2, 8, 1), generator=rng)
        rows = (start + stride * torch.arange(18)) % 16
        batch = Rows(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

        def loss_of(b):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return nll(model(b.inputs), b.targets, torch.ones(b.targets.shape), 8 * 17)

        losses.append(train_step(model, optimizer, [batch], loss_of, lr=2e-2)[0])
    return torch.tensor(losses)


class Rows:
    """A batch of whole rows."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def to(self, device):
        """Already there."""
        return self


@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT CHECKED: the emulator needs g++")
def test_training_with_the_kernels_learns_what_sdpa_learns():
    """The two curves differ by rounding: far less than the same curve from another seed."""
    sdpa = [loss_curve("sdpa", seed) for seed in range(3)]
    ours = loss_curve("emulated", 0)
    spread = torch.stack(sdpa).std(dim=0)                                # (STEPS,)
    assert ours[-1] < ours[0] - 0.1                                      # it learned
    assert (ours - sdpa[0]).square().mean().sqrt() < spread.square().mean().sqrt()
