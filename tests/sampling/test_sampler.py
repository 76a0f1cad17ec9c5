"""The sampler: what it reports is what it sampled from, and nothing but (seed, row) decides."""

import os
import shutil
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import addition
from minireason.sampling.complete import sample, stream
from minireason.sampling.sampler import Sampling, draw_tokens, uniforms
from minireason.training.losses import truncate_logits

TOKENIZER = Tokenizer.build(addition.TOKENS)
# The bound that DESIGN sets for float32 logits; a wrong temperature or filter shows as 1e-2.
CLOSE = {"rtol": 0.0, "atol": 1e-5}
PROMPTS = [[1, 9, 10], [1, 11], [1, 12, 13, 14, 15, 16, 17], [1, 18, 19, 20]]


@pytest.fixture(scope="module", params=["torch", "native"])
def decoder(request):
    """Both ways to decode on a CPU keep every promise below."""
    if request.param == "native" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("NOT CHECKED: needs g++")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIREASON_DECODE", request.param)
        yield request.param


@pytest.fixture(scope="module", params=[4, 2], ids=["heads", "grouped heads"])
def model(request, decoder) -> Transformer:
    """Tiny and opinionated, so that filters bite and rows end at many places."""
    config = ModelConfig(TOKENIZER.vocab_size, 16, 2, 4, request.param, 8, 24, 48)
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise + (parameter.dim() < 2))
        model.embedding.weight[TOKENIZER.eos] *= 1.6              # so that rows end
    return model


def drawn(model, prompts, how: Sampling, tokenizer=TOKENIZER, numbers=None, limits=None):
    """All completions as [(tokens, logprobs)], in order."""
    rows = []
    for chunk in stream(model, tokenizer, prompts, how, numbers, limits):
        assert chunk.first_row == len(rows)
        assert (chunk.logprobs[~chunk.mask] == 0).all()
        for tokens, mask, logprobs in zip(chunk.tokens, chunk.mask, chunk.logprobs, strict=True):
            n = int(mask.sum())
            assert mask[:n].all() and (tokens[n:] == tokenizer.pad).all()
            rows.append((tokens[:n].tolist(), logprobs[:n]))
    return rows


def assert_same(a, b):
    """Equal tokens, and logprobs equal up to the rounding of differently shaped products."""
    assert [tokens for tokens, _ in a] == [tokens for tokens, _ in b]
    for (_, x), (_, y) in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


@pytest.mark.parametrize("how", [
    Sampling(n=3, max_new=20, seed=1),
    Sampling(n=3, max_new=20, seed=2, temperature=0.7),
    Sampling(n=3, max_new=20, seed=3, top_k=4),
    Sampling(n=3, max_new=20, seed=4, top_p=0.8),
    Sampling(n=3, max_new=20, seed=5, temperature=1.3, top_k=6, top_p=0.9),
    Sampling(n=1, max_new=20, temperature=0),
], ids=["T=1", "T=0.7", "top-k", "top-p", "all", "greedy"])
@torch.inference_mode()
def test_logprobs_are_those_of_a_fresh_forward(model, how):
    rows = drawn(model, PROMPTS, how)
    assert len(rows) == len(PROMPTS) * how.n
    if how.temperature > 0:
        assert len({len(tokens) for tokens, _ in rows}) > 1      # rows left the batch on the way
    for i, (tokens, logprobs) in enumerate(rows):
        prompt = PROMPTS[i // how.n]
        logits = model(torch.tensor([prompt + tokens]))[0, len(prompt) - 1:-1]
        expected = truncate_logits(logits, how.temperature, how.top_k, how.top_p).log_softmax(-1)
        torch.testing.assert_close(
            logprobs, expected.gather(1, torch.tensor(tokens)[:, None]).squeeze(1), **CLOSE)
        assert TOKENIZER.eos not in tokens[:-1]
        assert tokens[-1] == TOKENIZER.eos or len(tokens) == how.max_new


def test_draws_follow_the_distribution():
    """Frequencies of 200,000 draws; five standard errors of a frequency are 5 / sqrt(4 n)."""
    logits, how = torch.tensor([2.0, 0.0, -1.0, 1.0, -9.0]), Sampling(temperature=0.7, top_k=3)
    n = 200_000
    u = torch.from_numpy(uniforms(0, np.arange(n), 1)[:, 0])
    tokens, logprobs = draw_tokens(logits.expand(n, -1), u, how)
    expected = truncate_logits(logits, 0.7, 3).softmax(-1)
    assert (tokens.bincount(minlength=5) / n - expected).abs().max() < 5 / (4 * n) ** 0.5
    torch.testing.assert_close(logprobs.exp(), expected[tokens], **CLOSE)


def test_uniform_numbers_depend_on_seed_row_and_step_alone():
    rows = np.arange(1000)
    u = uniforms(7, rows, 50)
    assert u.shape == (1000, 50) and (u >= 0).all() and (u < 1).all()
    assert len(np.unique(u)) == u.size and not np.isin(uniforms(8, rows, 50), u).any()
    assert (uniforms(7, rows[500:], 20) == u[500:, :20]).all()
    starts = rows % 30
    later = np.take_along_axis(u, starts[:, None] + np.arange(20), axis=1)
    assert (uniforms(7, rows, 20, starts) == later).all()
    assert abs(u.mean() - 0.5) < 5 * (12 * u.size) ** -0.5       # five standard errors


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 100])
def test_chunk_size_changes_nothing(model, chunk):
    how = Sampling(n=3, max_new=20, seed=1)
    assert_same(drawn(model, PROMPTS, Sampling(n=3, max_new=20, seed=1, chunk=chunk)),
                drawn(model, PROMPTS, how))


def test_other_rows_change_nothing(model):
    """A prompt alone, among others, and by another rank draws the same; so does more padding."""
    how = Sampling(n=3, max_new=20, seed=1)
    whole = drawn(model, PROMPTS, how)
    for p, prompt in enumerate(PROMPTS):
        assert_same(drawn(model, [prompt], how, numbers=[p]), whole[3 * p:3 * p + 3])
    assert_same(drawn(model, PROMPTS[1::2], how, numbers=[1, 3]), whole[3:6] + whole[9:12])
    longer = drawn(model, [*PROMPTS, [1] * 20], how)
    assert_same(longer[:12], whole)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_row_depends_on_its_prompt_seed_and_number_alone(model, data):
    """Whatever the neighbours, their lengths, the order, the chunks and the other ranks."""
    pool = [*PROMPTS, [1] * 20, [1, 2] * 20, [5] * 47]     # the last ones leave 28, 8 and 1 tokens
    wanted = [20, 3, 20, 11, 40, 40, 40]
    how = Sampling(n=2, seed=data.draw(st.integers(0, 3)))
    numbers = data.draw(st.permutations(range(len(pool))))
    numbers = numbers[:data.draw(st.integers(1, len(pool)))]
    chunk = data.draw(st.integers(1, 15))
    together = drawn(model, [pool[i] for i in numbers], replace(how, chunk=chunk),
                     numbers=numbers, limits=[wanted[i] for i in numbers])
    for place, i in enumerate(numbers):
        alone = drawn(model, [pool[i]], how, numbers=[i], limits=[wanted[i]])
        assert_same(together[2 * place:2 * place + 2], alone)


def test_finished_rows_that_stay_change_nothing(model, monkeypatch):
    monkeypatch.setenv("MINIREASON_DECODE", "torch")
    how = Sampling(n=8, max_new=20, seed=1)
    leaving = drawn(model, PROMPTS, how)
    kept = []

    def every_row(alive):
        kept.append(alive)
        return torch.arange(len(alive))[:, None]

    monkeypatch.setattr(torch.Tensor, "nonzero", every_row)
    staying = drawn(model, PROMPTS, how)
    monkeypatch.undo()
    assert kept, "no row would have left the batch"
    assert_same(staying, leaving)


def test_the_formula_draws_the_same(model, monkeypatch):
    how = Sampling(n=4, max_new=20, seed=1)
    fast = drawn(model, PROMPTS, how)
    repeated = [prompt for prompt in PROMPTS for _ in range(4)]
    assert_same(drawn(model, repeated, Sampling(max_new=20, seed=1)), fast)
    monkeypatch.setattr(model, "attention_impl", "reference")
    assert_same(drawn(model, PROMPTS, how), fast)


@torch.inference_mode()
def test_cached_equals_uncached(model):
    """Greedy and sampled, against a whole forward for every token."""
    for how in (Sampling(temperature=0, max_new=12), Sampling(max_new=12, seed=1)):
        u = torch.from_numpy(uniforms(how.seed, np.arange(4), 12))
        for i, (tokens, _) in enumerate(drawn(model, PROMPTS, how)):
            row = list(PROMPTS[i])
            for t in range(len(tokens)):
                logits = model(torch.tensor([row]))[:, -1]
                row.append(draw_tokens(logits, u[i, t:t + 1], how)[0].item())
            assert row[len(PROMPTS[i]):] == tokens


def test_temperature_zero_is_greedy_whatever_the_seed(model):
    greedy = [drawn(model, PROMPTS, Sampling(temperature=0, n=2, seed=s, top_k=k, top_p=p))
              for s, k, p in ((0, 0, 1.0), (5, 3, 0.5))]
    assert_same(*greedy)
    assert all((logprobs == 0).all() for _, logprobs in greedy[0])
    tokens, _ = draw_tokens(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), torch.tensor([0.99]),
                     Sampling(temperature=0))
    assert tokens.tolist() == [1]                                # the first of equals


def test_seeds_differ_and_repeat(model):
    first, again, other = (drawn(model, PROMPTS, Sampling(n=4, seed=s)) for s in (1, 1, 2))
    assert [t for t, _ in first] == [t for t, _ in again] != [t for t, _ in other]
    assert any(len({tuple(t) for t, _ in first[i:i + 4]}) > 1 for i in range(0, 16, 4))


def test_stop_tokens_end_a_row(model):
    free = drawn(model, PROMPTS, Sampling(n=4, seed=1, max_new=20))
    stop = max((t for tokens, _ in free for t in tokens[:-1]), key=[
        t for tokens, _ in free for t in tokens[:-1]].count)
    for (cut, _), (whole, _) in zip(
            drawn(model, PROMPTS, Sampling(n=4, seed=1, max_new=20, stop=(stop,))), free,
            strict=True):
        assert cut == (whole[:whole.index(stop) + 1] if stop in whole else whole)


def test_a_prompt_that_fills_the_model_is_refused(model):
    with pytest.raises(UserError, match=r"prompt 2 of 2 has 48 tokens, .* of max_len 48"):
        sample(model, TOKENIZER, [[1], [1] * 48], Sampling())
    (tokens, _), = drawn(model, [[1] * 45], Sampling(max_new=64),
                         SimpleNamespace(pad=TOKENIZER.pad, eos=-1))
    assert len(tokens) == 3                                      # as many as fit


def test_a_million_samples_come_chunk_by_chunk(model):
    """Nothing is decoded, and no row of the whole exists, before it is asked for."""
    how = Sampling(n=1_000_000, max_new=2, chunk=10)
    endless = SimpleNamespace(pad=TOKENIZER.pad, eos=-1)
    chunks = list(islice(stream(model, endless, [PROMPTS[0]], how), 3))
    assert [c.first_row for c in chunks] == [0, 10, 20]
    assert all(c.tokens.shape == (10, 2) for c in chunks)


def test_more_completions_than_memory_holds_are_refused_before_the_first_one(model):
    with pytest.raises(UserError, match="12 problems with 9999999 samples each"):
        next(stream(model, TOKENIZER, [[1], [1]] * 6, Sampling(n=9_999_999)))
    assert next(stream(model, TOKENIZER, [[1]], Sampling(n=9_999_999, chunk=1, max_new=1)))


def test_texts_end_where_the_row_does(model):
    how = Sampling(n=4, max_new=6, seed=1)
    texts = sample(model, TOKENIZER, PROMPTS, how)
    assert texts == [TOKENIZER.decode(tokens) for tokens, _ in drawn(model, PROMPTS, how)]
    assert any(text.endswith("<eos>") for text in texts)
    assert not all(text.endswith("<eos>") for text in texts)
