"""The choice among the implementations of attention is explained, and refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cuda_ext
from cuda_ext import calls
from minireason.core.errors import UserError
from minireason.model import attention, backends
from minireason.model.backends import choose_impl
from minireason.model.transformer import ModelConfig, Transformer
from minireason.sampling import cuda_graph

CPU, GPU = torch.device("cpu"), torch.device("cuda")
REFUSAL = backends._refusal


@pytest.fixture(autouse=True)
def no_gpu_is_asked(monkeypatch):
    """A GPU that these tests speak of can run the kernels; there need not be one."""
    monkeypatch.setattr(backends, "_refusals", {})
    monkeypatch.setattr(backends, "_refusal", lambda *given: "")


def test_auto_says_what_it_takes_and_why():
    name, why = choose_impl("auto", CPU, torch.float32, 32, 24)
    assert name == "by hand" and "CPU" in why
    name, why = choose_impl("auto", torch.device("meta"), torch.float32, 32, 24)
    assert name == "sdpa" and "GPU" in why


def test_auto_follows_the_measured_table(monkeypatch):
    def choose(dtype=torch.bfloat16, max_len=128, kind="self", head_dim=64):
        return choose_impl("auto", GPU, dtype, head_dim, max_len, kind)

    monkeypatch.setattr(backends, "NVCC", True)
    monkeypatch.setattr(backends, "CROSSOVER", {"measured": None, "longest_row": {}})
    assert choose()[0] == "sdpa" and "not measured" in choose()[1]
    table = {"self": {"bfloat16": {"64": 256}}, "packed": {"bfloat16": {"64": 512}}, "decode": {}}
    monkeypatch.setattr(backends, "CROSSOVER", {"measured": "some GPU", "longest_row": table})
    assert choose()[0] == "cuda" and "some GPU" in choose()[1]
    assert choose(max_len=512, kind="packed")[0] == "cuda"
    assert choose(max_len=257)[0] == "sdpa" and "beyond 256" in choose(max_len=257)[1]
    assert {choose(kind="decode")[0], choose(head_dim=32)[0], choose(torch.float32)[0]} == {"sdpa"}
    monkeypatch.setattr(backends, "NVCC", False)
    assert choose()[0] == "sdpa" and "nvcc" in choose()[1]


@pytest.mark.parametrize(("arch", "words"), [("75", "need an sm_80, and this is an sm_75"),
                                             ("120", "nvcc failed; or choose sdpa")])
def test_auto_leaves_a_gpu_that_cannot_run_the_kernels_to_sdpa(arch, words, monkeypatch):
    """Measured on another GPU: an older one, or an nvcc that fails, does not end a run; and is
    asked once."""
    asked = []

    def fail(*given):
        asked.append(given)
        raise UserError("nvcc failed; or choose sdpa")

    monkeypatch.setattr(backends, "NVCC", True)
    monkeypatch.setattr(backends, "_refusal", REFUSAL)
    monkeypatch.setattr(calls, "device_facts", lambda index: ((arch,), 64 * 1024))
    monkeypatch.setattr(backends, "_build_kernels", fail)
    for _ in range(2):
        name, why = choose_impl("auto", GPU, torch.bfloat16, 64, 64, "packed")
        assert name == "sdpa" and words in why
    assert len(asked) == (arch == "120")
    with pytest.raises(UserError, match="nvcc failed"):
        choose_impl("cuda", GPU, torch.bfloat16, 64, 64, "packed")


def test_the_shipped_table_names_every_kind():
    table = json.loads((Path(cuda_ext.__file__).parent / "crossover.json").read_text())
    assert set(table) == {"measured", "longest_row"}
    assert set(table["longest_row"]) == {"self", "packed", "decode"}
    assert (table["measured"] is None) == (not any(table["longest_row"].values()))


def test_auto_trains_packed_rows_with_what_won_on_them(monkeypatch):
    """The shipped table, of one H100: heads of 64 win on packed rows and decoding only."""
    monkeypatch.setattr(backends, "NVCC", True)

    def choose(head_dim, max_len, kind):
        return choose_impl("auto", GPU, torch.bfloat16, head_dim, max_len, kind)[0]

    assert [choose(64, length, "packed") for length in (64, 256, 257)] == ["cuda", "cuda", "sdpa"]
    assert [choose(32, length, "self") for length in (128, 129)] == ["cuda", "sdpa"]
    assert choose(64, 64, "self") == "sdpa" and choose(64, 768, "decode") == "cuda"
    config = ModelConfig(vocab_size=16, d_model=64, n_layers=1, n_heads=1, n_kv_heads=1,
                         head_dim=64, d_ff=32, max_len=256)
    assert Transformer(config).attention_choice(GPU)[0] == "cuda"


def test_packed_rows_ask_for_the_choice_of_packed_rows(monkeypatch):
    asked = []
    monkeypatch.setattr(attention, "choose_impl",
                        lambda *given: asked.append(given[4:]) or ("reference", ""))
    given = (torch.randn(6, 3 * 32), *torch.ones(2, 32), *attention.rope_tables(6, 32, 10_000.0))
    layout = {"n_heads": 1, "n_kv_heads": 1, "eps": 1e-6}
    starts = torch.tensor([0, 2, 6], dtype=torch.int32)
    attention.self_attention(*given, cu_seqlens=starts, max_len=4, **layout)
    attention.self_attention(given[0][None], *given[1:], **layout)
    assert asked == [(4, "packed"), (6, "self")]


def test_sampling_asks_for_the_choice_of_prompt_and_completion(monkeypatch):
    """Decoding was timed by the length of both, and no row outgrows the model."""
    asked = []
    monkeypatch.setattr(cuda_graph, "choose_impl",
                        lambda *given: asked.append(given[4:]) or ("sdpa", ""))
    for max_len in (32, 12):
        model = Transformer(ModelConfig(vocab_size=16, d_model=32, n_layers=1, d_ff=32,
                                        max_len=max_len))
        limits = np.array([4, 7])
        assert cuda_graph.graph_decoder(model, None, [[1] * 9, [1] * 5], None, limits) is None
    assert asked == [(16, "decode"), (12, "decode")]


@pytest.mark.parametrize(("name", "device", "head_dim", "words"), [
    ("cuda", CPU, 64, "needs an NVIDIA GPU"), ("fast", CPU, 64, "no such implementation"),
    ("emulated", GPU, 64, "choose cuda here"), ("emulated", CPU, 16, "no kernels for"),
])
def test_what_cannot_run_is_refused_in_one_line(name, device, head_dim, words):
    with pytest.raises(UserError, match=words):
        choose_impl(name, device, torch.float32, head_dim, 64)


def test_cuda_without_nvcc_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(backends, "NVCC", False)
    with pytest.raises(UserError, match="install the CUDA toolkit"):
        choose_impl("cuda", GPU, torch.bfloat16, 64, 64)


def test_kernels_that_cannot_be_built_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIREASON_KERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    for function in (calls.load, backends._build_kernels):
        function.cache_clear()
    with pytest.raises(UserError, match=r"^attention emulated: no-such-compiler not found.* sdpa$"):
        choose_impl("emulated", CPU, torch.float32, 64, 64)


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
