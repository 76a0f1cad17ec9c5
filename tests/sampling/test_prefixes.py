"""What was read is not read again, and changes nothing but FLOPs and time."""

import gc
import weakref
from contextvars import Context
from types import SimpleNamespace

import pytest
import torch
from test_native import ENDING, SHAPES, build_model, prompts_of

from cuda_ext import build
from minireason.core import flops
from minireason.critics.value_head import Critic, prefix_values, token_values
from minireason.model.tokenizer import OPENERS
from minireason.model.transformer import ModelConfig
from minireason.sampling import native, prefixes
from minireason.sampling.complete import stream
from minireason.sampling.prefixes import memory_of, remembered
from minireason.sampling.sampler import Sampling

HOW = Sampling(n=3, max_new=5, seed=1, stop=(5, 8))


def small_critic(shape=SHAPES[0]) -> Critic:
    critic = Critic(ModelConfig(*shape, max_len=80))
    critic.load_state_dict(build_model(shape).state_dict() | {
        "value.weight": torch.linspace(-1, 1, shape[1])[None], "likelihood": torch.tensor([0.3])})
    return critic


def drawn_after(model, prompts, how=HOW):
    """Rows that go on, and what was drawn."""
    out, = stream(model, ENDING, prompts, how)
    lengths = out.mask.sum(dim=1).tolist()
    return [prompts[i // how.n] + row[:n] for i, (row, n) in enumerate(
        zip(out.tokens.tolist(), lengths, strict=True))], out


@pytest.fixture(params=["native", "torch"])
def decoder(request, monkeypatch):
    """Who decodes; only the first keeps keys and values, both count FLOPs alike."""
    if request.param == "native":
        try:
            native.library()
        except build.BuildError:
            pytest.skip("NOT CHECKED: needs g++")
    monkeypatch.setenv("MINIREASON_DECODE", request.param)
    return request.param


@pytest.mark.parametrize("most", [2 ** 28, 40 * 4 * 64, 0], ids=["all", "some", "none"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_draws_and_values_are_those_of_rows_read_anew(decoder, shape, most, monkeypatch):
    monkeypatch.setattr(prefixes, "MOST_BYTES", most)
    policy, critic = build_model(shape), small_critic(shape)
    rows, spent = prompts_of(shape[0]), []
    with remembered():
        for _ in range(4):
            asked = rows[:9]
            rows, out = drawn_after(policy, asked)
            values = prefix_values(critic, ENDING, rows)
            _, plain = Context().run(drawn_after, policy, asked)
            assert out.tokens.equal(plain.tokens)
            torch.testing.assert_close(out.logprobs, plain.logprobs, rtol=0, atol=2e-5)
            fresh = Context().run(prefix_values, critic, ENDING, rows)
            assert values == pytest.approx(fresh, abs=1e-5)
            rows = [row for row in rows if row[-1] != ENDING.eos]
            spent.append(memory_of(policy))
        kept = spent[0].size * 4 * sum(
            bool(token.address) for path in spent[0].paths.values() for token in {*path})
        assert len({*map(id, spent)}) == 1 and bool(kept) == (decoder == "native" and most > 0)
    assert memory_of(policy) is None


def test_one_call_may_wait_while_another_draws(decoder):
    """Each keeps its own way to sample: the first of them in chunks, the second greedily."""
    model, prompts = build_model(SHAPES[0]), prompts_of(SHAPES[0][0])
    how = Sampling(n=4, max_new=7, seed=2, chunk=6)
    expected = [chunk.tokens.tolist() for chunk in stream(model, ENDING, prompts, how)]
    with remembered():
        found = []
        for chunk in stream(model, ENDING, prompts, how):
            found.append(chunk.tokens.tolist())
            drawn_after(model, prompts, Sampling(temperature=0, max_new=3))
    assert found == expected and len(found) == 4


def test_each_prefix_costs_once(decoder):
    policy, critic = build_model(SHAPES[0]), small_critic()
    prompts = prompts_of(SHAPES[0][0])
    before = flops.spent()
    with remembered():
        rows, out = drawn_after(policy, prompts)
        places = {tuple(prompt[:n + 1]) for prompt in prompts for n in range(len(prompt))}
        assert flops.spent() - before == 2 * policy.n_params * (
            len(places) + int(out.mask.sum()))
        before = flops.spent()
        drawn_after(policy, prompts)
        assert flops.spent() - before == 2 * policy.n_params * int(out.mask.sum())
        before = flops.spent()
        prefix_values(critic, ENDING, rows)
        first = flops.spent() - before
        assert first < 2 * critic.n_params * sum(map(len, rows))
        assert prefix_values(critic, ENDING, rows) and flops.spent() - before == first
        assert prefix_values(critic, ENDING, []) == []
    before = flops.spent()
    prefix_values(critic, ENDING, rows)
    assert flops.spent() - before == 2 * critic.n_params * sum(map(len, rows))


@torch.inference_mode()
def test_likelihood_counts_behind_the_first_opener(decoder):
    critic, (opener, _) = small_critic(), OPENERS
    tokenizer = SimpleNamespace(pad=0, eos=36)
    rows = [[1, 9, opener, 6, 7, opener, 2], [1, 9, opener, 6, 7], [1, 9], [opener, 6]]
    with remembered():
        for part in (rows[2:], rows):
            assert prefix_values(critic, tokenizer, part) == pytest.approx(
                [row[-1] for row in token_values(critic, 0, part)], abs=1e-5)


def test_a_model_may_draw_and_value_what_it_drew(decoder):
    critic, (opener, _) = small_critic(), OPENERS
    prompts = [[opener, *prompt] for prompt in prompts_of(SHAPES[0][0])]
    with remembered():
        rows, _ = drawn_after(critic, prompts)
        values = prefix_values(critic, ENDING, rows)
    assert values == pytest.approx(prefix_values(critic, ENDING, rows), abs=1e-5)


def test_a_critic_reads_no_more_at_once_than_its_budget(monkeypatch):
    critic, prompts, read = small_critic(), prompts_of(SHAPES[0][0]), []
    own = native.NativeDecoder.read
    monkeypatch.setattr(native.NativeDecoder, "read",
                        lambda self, rows: read.append(sum(map(len, rows))) or own(self, rows))
    with remembered():
        values = prefix_values(critic, ENDING, prompts, token_budget=60)
        assert prefix_values(critic, ENDING, [], token_budget=60) == []
    assert values == pytest.approx(prefix_values(critic, ENDING, prompts), abs=1e-5)
    if native.choose_decoder("auto") == "native":
        assert len(read) > 1 and max(read) <= 60 and sum(read) == sum(map(len, prompts))


def test_what_a_search_remembered_is_freed_with_it(decoder):
    model = build_model(SHAPES[0])
    gc.disable()
    try:
        with remembered():
            drawn_after(model, prompts_of(SHAPES[0][0]))
            memory = weakref.ref(memory_of(model))
        assert memory() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("how", [Sampling(n=64, max_new=30, seed=2, temperature=0.3),
                                 Sampling(n=40, max_new=6, seed=3), Sampling(n=9, temperature=0)])
def test_rows_that_share_a_beginning_draw_what_each_draws_alone(how, monkeypatch):
    """On any number of places and threads: of 320 rows at T = 0.3 many are equal."""
    try:
        native.library()
    except build.BuildError:
        pytest.skip("NOT CHECKED: needs g++")
    model, prompts = build_model(SHAPES[1]), prompts_of(37, [4, 21, 1, 7, 40])
    monkeypatch.setenv("MINIREASON_DECODE", "torch")
    expected, = stream(model, ENDING, prompts, how)
    monkeypatch.setenv("MINIREASON_DECODE", "native")
    monkeypatch.setattr(native, "ROWS_A_THREAD", 1)
    for block, threads in ((1, 1), (16, 1), (3, 4)):
        monkeypatch.setattr(native, "BLOCK", block)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found, = stream(model, ENDING, prompts, how)
        assert found.tokens.equal(expected.tokens) and found.mask.equal(expected.mask)
        torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)
    lengths = [row[:n] for row, n in zip(
        expected.tokens.tolist(), expected.mask.sum(dim=1).tolist(), strict=True)]
    assert len({*map(tuple, lengths)}) < len(lengths)
