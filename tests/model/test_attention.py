"""One formula, several implementations: they agree."""

import shutil

import pytest
import torch

from minireason.model.attention import decode_attention, rope_tables, rotate, self_attention
from minireason.model.transformer import ModelConfig, Transformer
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, train_step

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
        cache = torch.zeros(2, 4, HKV, SPAN, D)
        out = self_attention(*leaves, *given[3:], impl=impl, cache=cache, **LAYOUT)
        return out, *cache.detach(), *torch.autograd.grad((out * out.detach().cos()).sum(), leaves)

    for ours, reference in zip(results(impl), results("reference"), strict=True):
        assert gap(ours, reference) < BOUND


@pytest.mark.parametrize("impl", ("auto", "reference", "sdpa", EMULATED))
def test_packed_rows_equal_rectangular_rows(given, impl):
    qkv, *rest = given
    lengths = (5, 24, 1, 17)
    whole = self_attention(*given, impl=impl, **LAYOUT)
    starts = torch.tensor([0, 5, 29, 30, 47], dtype=torch.int32)
    packed = torch.cat([row[:n] for row, n in zip(qkv, lengths, strict=True)])
    ours = self_attention(packed, *rest, cu_seqlens=starts, max_len=24, impl=impl, **LAYOUT)
    want = torch.cat([row[:n] for row, n in zip(whole, lengths, strict=True)])
    assert gap(ours, want) < BOUND


@pytest.mark.parametrize("impl", ("reference", "sdpa", EMULATED))
def test_the_future_is_not_seen(given, impl):
    qkv, *rest = given
    changed = qkv.clone()
    changed[:, 10:] += 1
    before, after = (self_attention(x, *rest, impl=impl, **LAYOUT) for x in (qkv, changed))
    assert before[:, :10].equal(after[:, :10]) and not before[:, 10:].equal(after[:, 10:])


def test_rotation_makes_scores_depend_on_distance_alone():
    cos, sin = rope_tables(64, D, 10_000.0)
    q, k = torch.randn(2, 1, 1, D, generator=torch.Generator().manual_seed(0)).double()
    turned = [rotate(x, cos[:, None], sin[:, None]).squeeze(1) for x in (q, k)]     # (64, D)
    scores = turned[0] @ turned[1].T
    for distance in (0, 1, 40):
        line = scores.diagonal(-distance)
        assert (line - line[0]).abs().max() < 1e-5             # tables are float32


def decoded(given, impl: str, prompt, lens: torch.Tensor, cache: torch.Tensor):
    """The next token of every row, and the cache's keys and values after it."""
    qkv, *rest = given
    cache = cache.clone()
    out = decode_attention(qkv[:, 0].contiguous(), *rest, cache, lens, prompt=prompt, impl=impl,
                           **LAYOUT)
    return out, *cache


@pytest.mark.parametrize("impl", ("sdpa", EMULATED))
def test_decoding_equals_the_formula(given, impl):
    rng = torch.Generator().manual_seed(12)
    cache = torch.randn(2, 4, HKV, 20, D, generator=rng)
    lens = torch.tensor([0, 19, 7, 12])
    for ours, reference in zip(decoded(given, impl, None, lens, cache),
                               decoded(given, "reference", None, lens, cache), strict=True):
        assert gap(ours, reference) < BOUND


@pytest.mark.parametrize("impl", (EMULATED,))
def test_a_shared_prompt_equals_a_prompt_in_every_cache(given, impl):
    rng = torch.Generator().manual_seed(13)
    prompts = torch.randn(2, 2, HKV, 9, D, generator=rng)                # k and v of P = 2
    prompt_lens, index = torch.tensor([9, 4]), torch.tensor([1, 0, 1, 1])
    own, lens = torch.randn(2, 4, HKV, 11, D, generator=rng), torch.tensor([0, 3, 10, 5])
    whole = torch.zeros(2, 4, HKV, 20, D)
    for b, (p, n) in enumerate(zip(index.tolist(), lens.tolist(), strict=True)):
        before = int(prompt_lens[p])
        whole[:, b, :, :before] = prompts[:, p, :, :before]
        whole[:, b, :, before:before + n] = own[:, b, :, :n]
    shared = decoded(given, impl, (*prompts, prompt_lens, index), lens, own)
    apart = decoded(given, "reference", None, lens + prompt_lens[index], whole)
    assert gap(shared[0], apart[0]) < BOUND
    assert gap(shared[1][1, :, 3], apart[1][1, :, 12]) < BOUND            # the appended key


def test_auto_on_a_cpu_is_sdpa_where_heads_share_keys(given, monkeypatch):
    monkeypatch.setenv("MINIREASON_LAYERS", "torch")
    auto, sdpa = (self_attention(*given, impl=impl, **LAYOUT) for impl in ("auto", "sdpa"))
    assert auto.equal(sdpa)


@pytest.mark.long
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
