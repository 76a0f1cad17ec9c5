"""The GPU's decoding loop, run step by step on a CPU, draws what the plain sampler draws."""

import copy
import gc
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.sampling import cuda_graph
from minireason.sampling.complete import stream
from minireason.sampling.cuda_graph import GraphDecoder, room_for
from minireason.sampling.sampler import Sampling, row_limits, split_into_chunks

pytestmark = pytest.mark.skipif(shutil.which("g++") is None,
                                reason="NOT CHECKED: the emulator needs g++")
TOKENIZER = Tokenizer.build(chain.TOKENS)
PROMPTS = [[1, 5, 6, 7], [1, 9], [1, 4, 4, 4, 4, 4, 4, 8, 8]]


@pytest.fixture(scope="module")
def model():
    """A random model whose distribution is far from uniform."""
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, d_model=32, n_layers=2, n_heads=2,
                         n_kv_heads=1, head_dim=32, d_ff=32, max_len=40)
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.embedding.weight *= 20
    return model


def build(model, how: Sampling) -> GraphDecoder:
    longest = int(row_limits(PROMPTS, how, model.config.max_len).max())
    return GraphDecoder(model, TOKENIZER, how, room_for(PROMPTS, how, longest, 40), "emulated")


def decode(model, how: Sampling, decoder: GraphDecoder | None = None):
    """The chunks of all prompts, from one decoder."""
    decoder = decoder or build(model, how)
    for chunk in split_into_chunks(PROMPTS, how, row_limits(PROMPTS, how, model.config.max_len)):
        yield decoder.run(chunk)


@pytest.mark.parametrize("how", [
    Sampling(n=3, max_new=20, seed=3), Sampling(n=2, max_new=60, temperature=0.7, top_p=0.9),
    Sampling(n=1, max_new=12, temperature=0, stop=(5, 6, 7)),
    Sampling(n=20, max_new=9, top_k=5, chunk=25, seed=4)],
    ids=("all", "up to max_len", "greedy with stops", "two tiles and three chunks"))
def test_it_draws_what_the_plain_sampler_draws(model, how):
    """Equal tokens; logprobs differ by fp32 sums in another order."""
    plain = list(stream(model, TOKENIZER, PROMPTS, how))
    ours = list(decode(model, how))
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        assert a.first_row == b.first_row and a.tokens.equal(b.tokens) and a.mask.equal(b.mask)
        assert (a.logprobs - b.logprobs).abs().max() < 1e-4


def test_the_sampler_takes_it_where_the_kernels_run(model, monkeypatch):
    """`stream` chooses it by the model's attention, one decoder for all chunks."""
    how, built = Sampling(n=3, max_new=8, chunk=4, seed=1), counted(monkeypatch)
    plain = drawn(model, how)
    monkeypatch.setattr(model, "attention_impl", "emulated")
    assert drawn(model, how) == plain and len(built) == 1


def drawn(model, how: Sampling, prompts=PROMPTS) -> list:
    return [out.tokens.tolist() for out in stream(model, TOKENIZER, prompts, how)]


def counted(monkeypatch) -> list:
    """Of every decoder that is built from now on, what it was built with."""
    built = []

    class Counted(GraphDecoder):
        def __init__(self, *given):
            built.append(given)
            super().__init__(*given)

    monkeypatch.setattr(cuda_graph, "GraphDecoder", Counted)
    return built


def test_a_decoder_is_kept_for_calls_like_it_and_reads_the_weights_of_each(model, monkeypatch):
    """Other seeds, prompts and weights need no new one; other rows or temperatures do."""
    model, built = copy.deepcopy(model), counted(monkeypatch)
    how, longer = Sampling(n=3, max_new=8, seed=1), [[*row, 5] for row in PROMPTS]
    calls = [(how, PROMPTS), (replace(how, seed=2, max_new=9), longer), (how, PROMPTS)]
    plain, ours = [], []
    for found, impl in ((plain, "reference"), (ours, "emulated")):
        model.attention_impl = impl
        for i, (sampling, prompts) in enumerate(calls):
            with torch.no_grad():
                model.blocks[0].out.weight.copy_(model.blocks[1].out.weight * i)
            found.append(drawn(model, sampling, prompts))
    assert plain == ours and plain[0] != plain[2] and len(built) == 1
    greedy = replace(how, temperature=0)
    for sampling, n in ((greedy, 2), (how, 2), (replace(how, n=4), 3), (how, 3), (greedy, 4),
                        (replace(how, top_k=2), 5), (how, 6), (replace(how, top_p=0.5), 7),
                        (how, 7), (replace(how, stop=(5,)), 8)):
        drawn(model, sampling)
        assert len(built) == n                               # the two last used are kept


def test_decoders_go_with_their_model(model, monkeypatch):
    model = copy.deepcopy(model)
    model.attention_impl = "emulated"
    drawn(model, Sampling(max_new=4))
    (decoder,) = map(weakref.ref, cuda_graph._kept[model].values())
    assert decoder() is not None
    del model
    gc.collect()
    assert decoder() is None


def test_it_stops_soon_after_the_last_row_ends(model, monkeypatch):
    """The flag is read CHECK_EVERY steps late, so at most two intervals are wasted."""
    monkeypatch.setattr(cuda_graph, "CHECK_EVERY", 2)
    everything = tuple(range(TOKENIZER.vocab_size))
    how = Sampling(n=2, max_new=30, stop=everything)
    decoder = build(model, how)
    (chunk,) = decode(model, how, decoder)
    assert chunk.tokens.shape == (6, 1) and chunk.mask.all()
    assert int(decoder.t) <= 4


def test_a_finished_row_is_idle_and_changes_no_other_row(model):
    """What a row draws does not depend on whether its neighbour has ended."""
    how = Sampling(n=2, max_new=10, seed=7)
    (free,) = decode(model, how)
    how = Sampling(n=2, max_new=10, seed=7, stop=(int(free.tokens[0, 0]),))   # ends row 0 at once
    decoder = build(model, how)
    (cut,) = decode(model, how, decoder)
    assert cut.mask[0].sum() == 1 and decoder.cache.lens[0] == 0 and not cut.mask.all(1).all()
    assert (decoder.cache.lens == 0).all()               # at its limit a row is idle, too
    for row in range(1, 6):
        length = int(cut.mask[row].sum())
        assert cut.tokens[row, :length].equal(free.tokens[row, :length])


class NoHostReads(TorchDispatchMode):
    """Refuses what makes a GPU's host wait, or copies a number from it: neither can be recorded."""

    FORBIDDEN = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal",
                 "lift_fresh", "unique", "bincount")

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.overloadpacket.__name__
        assert not name.startswith(self.FORBIDDEN), f"{op} in the decoding loop"
        boolean = name in ("index", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1])
        assert not boolean, "a boolean index in the decoding loop"
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", [Sampling(max_new=4), Sampling(max_new=4, temperature=0),
                                 Sampling(max_new=4, top_k=3, top_p=0.5)])
def test_no_step_reads_anything_back_to_the_host(model, how):
    decoder = build(model, how)
    with torch.inference_mode(), NoHostReads():
        decoder.step()
        with pytest.raises(AssertionError, match="in the decoding loop"):
            decoder.alive.any().item()                 # the guard itself works


def test_the_model_is_left_as_it_was(model):
    before, impl = model.embedding.weight.clone(), model.attention_impl
    list(decode(model, Sampling(n=1, max_new=3)))
    assert model.embedding.weight.equal(before) and model.attention_impl == impl
    assert all(p.requires_grad for p in model.parameters())
