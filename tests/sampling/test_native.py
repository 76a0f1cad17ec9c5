"""native.cpp equals the model and the sampler in PyTorch, and says which of the two runs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cuda_ext import build
from minireason.core.errors import UserError
from minireason.model.transformer import ModelConfig, Transformer
from minireason.sampling import native
from minireason.sampling.complete import stream
from minireason.sampling.native import NativeDecoder, choose_decoder, native_decoder
from minireason.sampling.panels import paired, panels
from minireason.sampling.prefixes import remembered
from minireason.sampling.sampler import (
    Chunk,
    Sampling,
    draw_tokens,
    row_limits,
    split_into_chunks,
    uniforms,
)
from minireason.training.losses import truncate_logits

try:
    native.library()
except build.BuildError:
    pytest.skip("NOT CHECKED: needs g++", allow_module_level=True)

# The bound that DESIGN sets for float32 logits; a planted error shows as 1e-2 and more.
CLOSE = {"rtol": 0.0, "atol": 1e-5}
ENDING = SimpleNamespace(pad=0, eos=3)
LENGTHS = [4, 21, 1, 7, 21, 40]   # shorter and longer than a thread's block and a panel, two equal
# vocab, d_model, layers, heads, KV heads, head_dim, d_ff: nothing is a multiple of a panel's width
SHAPES = [(37, 20, 2, 4, 2, 8, 30), (37, 24, 1, 3, 3, 24, 17), (65, 33, 3, 4, 1, 40, 40),
          (16, 32, 2, 2, 2, 32, 64), (20, 16, 1, 16, 1, 64, 8)]


def build_model(shape, tied=True) -> Transformer:
    """Tiny, with every tensor, the gains too, away from its initial value."""
    model = Transformer(ModelConfig(*shape, max_len=80, tied=tied))
    generator = torch.Generator().manual_seed(sum(shape))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (parameter.dim() < 2))
    return model


def prompts_of(vocab: int, lengths=LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(vocab, (n,), generator=generator).tolist() for n in lengths]


def run(model, prompts, how, tokenizer=ENDING):
    limits = row_limits(prompts, how, model.config.max_len)
    chunk, = split_into_chunks(prompts, how, limits)
    return NativeDecoder(model, tokenizer, how).run(chunk)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_logprobs_and_draws_equal_whole_rows(shape, tied):
    """Against a fresh forward: prompts of unequal length, rows that end and make room."""
    model, how = build_model(shape, tied), Sampling(n=7, max_new=37, seed=1)
    prompts = prompts_of(shape[0])
    out = run(model, prompts, how)
    u = torch.from_numpy(uniforms(1, np.arange(42), 37))
    lengths = out.mask.sum(1)
    assert len(set(lengths.tolist())) > 3 and lengths.max() == out.tokens.shape[1]
    for b in range(42):
        prompt, n = prompts[b // 7], int(lengths[b])
        tokens = out.tokens[b, :n]
        assert ENDING.eos not in tokens[:-1]
        assert tokens[-1] == ENDING.eos or n == how.max_new
        assert (out.tokens[b, n:] == ENDING.pad).all() and (out.logprobs[b, n:] == 0).all()
        logits = model(torch.cat((torch.tensor(prompt), tokens))[None])[0, len(prompt) - 1:-1]
        drawn, logprobs = draw_tokens(logits, u[b, :n], how)
        assert drawn.equal(tokens)
        torch.testing.assert_close(out.logprobs[b, :n], logprobs, **CLOSE)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_in_bf16_every_product_is_of_rounded_numbers(shape, monkeypatch):
    """Where the norms' gains, which are rounded with the weights, are 1; all else is float32."""
    monkeypatch.setenv("MINIREASON_DECODE", "bf16")
    model, how, linear = build_model(shape), Sampling(n=7, max_new=37, seed=1), F.linear
    for name, gain in model.named_parameters():
        if name.endswith("_norm"):
            gain.fill_(1)
    out = run(model, prompts_of(shape[0]), how)
    model.attention_impl = "reference"
    monkeypatch.setattr(F, "linear", lambda x, weight, _=None: linear(
        x.bfloat16().float(), weight.bfloat16().float()))
    gaps = []
    for b, (tokens, mask) in enumerate(zip(out.tokens, out.mask, strict=True)):
        prompt, tokens = prompts_of(shape[0])[b // 7], tokens[mask]
        logits = model(torch.cat((torch.tensor(prompt), tokens))[None])[0, len(prompt) - 1:-1]
        expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        gaps += (out.logprobs[b, mask] - expected).abs().tolist()
    assert np.median(gaps) < 1e-5 and max(gaps) < 0.03       # a number at a tie goes either way


def test_bf16_is_what_is_computed_where_it_is_asked_for(monkeypatch):
    model, how = build_model(SHAPES[2]), Sampling(n=9, max_new=30, seed=1)
    whole = run(model, prompts_of(65), how)
    monkeypatch.setenv("MINIREASON_DECODE", "bf16")
    out = run(model, prompts_of(65), how)
    same = out.tokens[:, 0] == whole.tokens[:, 0]
    gaps = (out.logprobs[:, 0] - whole.logprobs[:, 0]).abs()[same]
    assert len(gaps) > 40 and 1e-4 < gaps.max() < 0.1
    numbers = torch.randn(3, 7, 4)
    pairs = paired(numbers).contiguous().view(torch.bfloat16).view(3, 4, 4, 2)
    assert pairs[:, 1, :, 1].float().equal(numbers[:, 3].bfloat16().float())
    assert (pairs[:, 3, :, 1] == 0).all()                    # behind an odd number of lines


def test_bf16_keeps_what_is_no_number(monkeypatch):
    monkeypatch.setenv("MINIREASON_DECODE", "bf16")
    model = build_model(SHAPES[0], tied=False)
    model.embedding.weight.data.view(torch.int32).fill_(0x7fffffff)     # a NaN, as a GPU writes it
    assert run(model, prompts_of(37), Sampling(max_new=2)).logprobs.isnan().all()


def test_a_memory_does_not_keep_a_decoder_of_another_kind(monkeypatch):
    model = build_model(SHAPES[0])
    with remembered():
        for asked in ("native", "bf16", "native"):
            monkeypatch.setenv("MINIREASON_DECODE", asked)
            assert native_decoder(model, ENDING, Sampling()).bf16 == (asked == "bf16")


@pytest.mark.parametrize("how", [
    Sampling(n=5, max_new=9, seed=2, temperature=0.7), Sampling(n=5, max_new=9, seed=3, top_k=4),
    Sampling(n=5, max_new=9, seed=4, top_p=0.8), Sampling(n=2, max_new=9, temperature=0),
    Sampling(n=5, max_new=9, seed=5, temperature=1.3, top_k=6, top_p=0.6),
    Sampling(n=5, max_new=9, seed=6, stop=(5, 8)),
    Sampling(n=5, max_new=9, seed=7, temperature=0.02)], ids=str)
def test_every_way_to_sample_is_that_of_pytorch(how, monkeypatch):
    model, prompts = build_model(SHAPES[0]), prompts_of(37)
    out = run(model, prompts, how)
    monkeypatch.setenv("MINIREASON_DECODE", "torch")
    plain, = stream(model, ENDING, prompts, how)
    assert out.tokens.equal(plain.tokens) and out.mask.equal(plain.mask)
    # a low temperature multiplies the rounding of the logits
    torch.testing.assert_close(out.logprobs, plain.logprobs, rtol=0.0,
                               atol=1e-5 / (min(1, how.temperature) or 1))


@pytest.mark.parametrize("u", [0.0, 1 - 2.0 ** -53])
@torch.inference_mode()
def test_the_ends_of_the_unit_interval_draw_a_token_that_was_kept(u):
    model, how = build_model(SHAPES[0]), Sampling(max_new=1, top_k=5)
    for prompt in prompts_of(37):
        chunk = Chunk(0, [prompt], np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64),
                      np.full((1, 1), u))
        out = NativeDecoder(model, ENDING, how).run(chunk)
        logits = truncate_logits(model(torch.tensor([prompt]))[0, -1], 1.0, 5)
        kept = (logits > -torch.inf).nonzero().flatten().tolist()
        assert out.tokens[0, 0] == kept[0 if u == 0 else -1]


@torch.inference_mode()
def test_a_large_spread_of_logits_stays_finite():
    """Where the softmax underflows, logprobs are still right; of equal logits the first is best."""
    model = build_model(SHAPES[0])
    model.embedding.weight.mul_(60)
    model.blocks[0].gate_up.weight.mul_(300)                 # gates of some hundreds
    out = run(model, prompts_of(37), Sampling(n=3, max_new=12, seed=1))
    for b, (tokens, mask) in enumerate(zip(out.tokens, out.mask, strict=True)):
        prompt, tokens = prompts_of(37)[b // 3], tokens[mask]
        logits = model(torch.cat((torch.tensor(prompt), tokens))[None])[0, len(prompt) - 1:-1]
        expected = truncate_logits(logits, 1.0).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        # float32 carries 1e-7 of logits of some hundreds
        torch.testing.assert_close(out.logprobs[b, mask], expected, rtol=0.0, atol=1e-3)
    model.embedding.weight.zero_()
    assert (run(model, [[1]], Sampling(max_new=3, temperature=0)).tokens == 0).all()


@pytest.mark.parametrize(("threads", "block"), [(1, 1), (1, 13), (2, 5), (3, 16), (7, 16)])
def test_threads_and_blocks_change_not_one_bit(threads, block, monkeypatch):
    model, prompts, how = build_model(SHAPES[2]), prompts_of(65), Sampling(n=9, max_new=30, seed=1)
    whole = run(model, prompts, how)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(native, "ROWS_A_THREAD", 1)
    monkeypatch.setattr(native, "BLOCK", block)
    out = run(model, prompts, how)
    assert out.tokens.equal(whole.tokens) and out.logprobs.equal(whole.logprobs)
    monkeypatch.setattr(native, "LARGE", 1)                  # blocks of a large model
    assert native_decoder(model, ENDING, how).block == 48
    out = run(model, prompts, how)
    assert out.tokens.equal(whole.tokens) and out.logprobs.equal(whole.logprobs)
    alone = run(model, prompts[:1], how)
    width = alone.tokens.shape[1]
    assert alone.tokens.equal(whole.tokens[:9, :width])
    assert alone.logprobs.equal(whole.logprobs[:9, :width])


def test_paths_that_part_late_find_all_that_they_share(monkeypatch):
    model, how = build_model(SHAPES[2]), Sampling(n=16, max_new=60, temperature=0.05, seed=1)
    whole = run(model, prompts_of(65, [3, 5]), how, SimpleNamespace(pad=0, eos=-1))
    rows = whole.tokens.view(2, 16, 60)
    shared = (rows[:, 1:] == rows[:, :-1]).cumprod(2).sum(2)
    assert ((shared > 32) & (shared < 60)).any()
    monkeypatch.setattr(native, "BLOCK", 1)                  # no other place, so no copies
    out = run(model, prompts_of(65, [3, 5]), how, SimpleNamespace(pad=0, eos=-1))
    assert out.tokens.equal(whole.tokens) and out.logprobs.equal(whole.logprobs)


def test_a_panel_holds_columns_side_by_side():
    packed = panels(torch.arange(15.0).view(5, 3), 4)                     # (out 5, in 3)
    assert packed.shape == (2, 3, 4) and packed.is_contiguous()
    assert packed[0, 1].tolist() == [1, 4, 7, 10] and packed[1, 2].tolist() == [14, 0, 0, 0]


@pytest.mark.parametrize("prompt", [[1, 37], [-1, 1], [1, 2 ** 40]], ids=str)
def test_tokens_that_the_model_lacks_are_refused_by_the_native_code(prompt):
    with pytest.raises(UserError, match="not in its vocabulary of 37"):
        run(build_model(SHAPES[0]), [[1, 2], prompt], Sampling())


def test_an_unsound_job_is_refused_before_any_memory_is_read():
    model, how = build_model(SHAPES[0]), Sampling(n=2)
    sound, = split_into_chunks([[1, 2], [3]], how, np.array([5, 9]))
    for fault in ({"source": np.array([0, 0, 1, 2])}, {"source": np.array([0, -1, 1, 1])},
                  {"limits": np.array([5, 5, 9, 10])}, {"limits": np.array([5, 0, 9, 9])},
                  {"prompts": [[1, 2], [3] * 79]}):
        with pytest.raises(UserError, match="does not fit the model"):
            NativeDecoder(model, ENDING, how).run(replace(sound, **fault))


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine without g++; the choice is made anew."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    for function in (choose_decoder, native.library):
        function.cache_clear()
    yield
    for function in (choose_decoder, native.library):
        function.cache_clear()


def test_without_a_compiler_pytorch_decodes_and_says_so_once(no_compiler, monkeypatch, capsys):
    monkeypatch.delenv("MINIREASON_DECODE", raising=False)
    model, how = build_model(SHAPES[0]), Sampling(n=2, max_new=3)
    assert native_decoder(model, ENDING, how) is None
    assert sum(int(c.mask.sum()) for c in stream(model, ENDING, [[1, 2]], how)) > 0
    said = capsys.readouterr().err
    assert said.count("decoding on the CPU by torch") == 1 and "no-such-compiler not found" in said


def test_a_decoder_asked_for_is_taken_or_refused(no_compiler, monkeypatch):
    model, how = build_model(SHAPES[0]), Sampling(n=2, max_new=3)
    for asked, error in (("native", "no-such-compiler not found"), ("fast", "no such decoder"),
                         ("bf16", "DECODE=bf16: no-such-compiler not found")):
        monkeypatch.setenv("MINIREASON_DECODE", asked)
        with pytest.raises(UserError, match=error):
            native_decoder(model, ENDING, how)
    monkeypatch.delenv("CXX")
    for function in (choose_decoder, native.library):
        function.cache_clear()
    for asked, found in (("native", True), ("auto", True), ("bf16", True), ("torch", False)):
        monkeypatch.setenv("MINIREASON_DECODE", asked)
        assert (native_decoder(model, ENDING, how) is not None) == found
    monkeypatch.setenv("MINIREASON_DECODE", "native")
    model.attention_impl = "reference"                      # the formula, asked for by name
    assert native_decoder(model, ENDING, how) is None
