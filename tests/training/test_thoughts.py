"""Lines and thoughts in one row: what each token sees, and what the head learns from."""

import numpy as np
import pytest
import torch

from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.sampling.sampler import Sampling
from minireason.training import thoughts
from minireason.training.batches import encode_lines
from minireason.training.thoughts import AFTER, CHOSEN, LINE, QuietModel, Thought

LINES = ["(23+4)=27<eos>", "((2*4)-3)=5<eos>"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.build(chain.TOKENS)


@pytest.fixture(params=[3, 1], ids=["every head its keys", "shared keys"])
def model(request, tokenizer) -> QuietModel:
    config = ModelConfig(tokenizer.vocab_size, 24, 2, 3, request.param, 8, 32, 64)
    policy = Transformer.random(config, 0)
    with torch.no_grad():
        for parameter in policy.parameters():              # every gain matters, too
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator()
                                           .manual_seed(1))
    return QuietModel.from_policy(policy, 0)


@pytest.fixture
def lines(tokenizer) -> list[list[int]]:
    return [row for row, _ in encode_lines(tokenizer, ["", ""], LINES)]


@pytest.fixture
def own(tokenizer) -> list[list[Thought]]:
    """Thoughts of several lengths, one of them empty, after several tokens."""
    words = tokenizer.encode_batch(["23+4=27", "", "9", "2*4=8;8-3=5"])
    return [[Thought(6, words[0], 8), Thought(6, words[2], 1), Thought(2, words[1], 0)],
            [Thought(10, words[3], 12), Thought(1, words[0], 7), Thought(11, words[1], 1)]]


def flat_row(tokenizer, line, thought, n):
    """The line up to the thought's root, the thought, and n true tokens."""
    return [*line[:thought.root + 1], tokenizer.think, *thought.tokens, tokenizer.end_think,
            *line[thought.root + 1:][:n]]


def test_shared_keys_equal_flat_rows(model, tokenizer, lines, own):
    """Every hidden state is that of the row of the line's beginning and this thought alone."""
    batch = thoughts.thought_batch(lines, own, 2, tokenizer)
    hidden = thoughts.shared_hidden(model, batch)
    for b, line in enumerate(lines):
        plain = model.hidden(torch.tensor([line[:-1]]))[0]
        torch.testing.assert_close(hidden[b, batch.owner[b] == 0], plain)
        for number, thought in enumerate(own[b], 1):
            row = flat_row(tokenizer, line, thought, 2)[:-1]
            expected = model.hidden(torch.tensor([row]))[0, thought.root + 1:]
            torch.testing.assert_close(hidden[b, batch.owner[b] == number], expected)


def test_shared_keys_have_the_gradient_of_flat_rows(model, tokenizer, lines, own):
    batch = thoughts.thought_batch(lines, own, 2, tokenizer)
    weight = torch.linspace(-1, 1, model.config.d_model)
    thoughts.shared_hidden(model, batch)[batch.owner > 0].matmul(weight).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for line, of_line in zip(lines, own, strict=True):
        for thought in of_line:
            row = torch.tensor([flat_row(tokenizer, line, thought, 2)[:-1]])
            model.hidden(row)[0, thought.root + 1:].matmul(weight).sum().backward()
    for name, gradient in found.items():           # of up to 180; CPUs sum in different orders
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, rtol=1e-4,
                                   atol=1e-6 * float(gradient.abs().max()))


def test_roles_name_what_each_position_predicts(tokenizer, lines, own):
    batch = thoughts.thought_batch(lines, own, 2, tokenizer)
    for b, line in enumerate(lines):
        assert batch.targets[b][batch.role[b] == LINE].tolist() == line[1:]
        assert batch.loss_mask[b].sum() == len(line) - 1
        for number, thought in enumerate(own[b], 1):
            mine = batch.owner[b] == number
            true = line[thought.root + 1:][:2]
            assert batch.targets[b][mine & (batch.role[b] == AFTER)].tolist() == true
            written = [*thought.tokens, tokenizer.end_think][:thought.chosen]
            assert batch.targets[b][mine & (batch.role[b] == CHOSEN)].tolist() == written
            twins = batch.twin[b][mine & (batch.role[b] == AFTER)]
            assert batch.targets[b][twins].tolist() == true
    rows, at = (batch.role == AFTER).nonzero(as_tuple=True)
    assert batch.thought()[rows, at].unique().tolist() == list(range(6))


def test_micro_batches_keep_the_order_and_the_budget(tokenizer, lines, own):
    apart = thoughts.thought_batches(lines, own, 2, tokenizer, 60)
    assert [len(batch.inputs) for batch in apart] == [1, 1]
    (whole,) = thoughts.thought_batches(lines, own, 2, tokenizer, 200)
    assert whole.inputs.shape[0] == 2 and whole.inputs.numel() <= 200
    for b, batch in enumerate(apart):
        width = batch.inputs.shape[1]
        assert torch.equal(batch.inputs[0], whole.inputs[b, :width])


def test_the_mixture_teaches_the_head_alone(model, tokenizer, lines, own):
    batch = thoughts.thought_batch(lines, own, 2, tokenizer)
    found = thoughts.predictions(model, thoughts.shared_hidden(model, batch), batch)
    mixed, w = found.mixed(), found.logit.sigmoid()[:, None]
    assert torch.allclose(w, torch.full_like(w, 0.05))
    torch.testing.assert_close(mixed.exp(), w * found.after.exp() + (1 - w) * found.before.exp())
    torch.testing.assert_close(mixed.exp().sum(1), torch.ones(len(w)))
    mixed.gather(1, found.targets[:, None]).sum().backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught and all(name.startswith("mixing.") for name in taught)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_no_text_holds_a_special_token(model, tokenizer):
    chances = thoughts.text_logprobs(model, torch.randn(3, model.config.d_model)).exp()
    specials = [tokenizer.pad, tokenizer.bos, tokenizer.think, tokenizer.end_think, tokenizer.hint]
    assert not chances[:, specials].any() and (chances[:, tokenizer.eos] > 0).all()


def test_the_policy_leaves_the_head_behind(model):
    policy = model.policy()
    assert type(policy) is Transformer and not any("mixing" in n for n in policy.state_dict())
    tokens = torch.arange(8)[None]
    assert torch.equal(policy(tokens), model(tokens))


@pytest.mark.parametrize("kind", ["own", "random", "pause"])
def test_thoughts_stand_after_their_roots_and_depend_on_their_number_alone(model, tokenizer, lines,
                                                                           kind):
    rows, roots = [(line, 7) for line in lines], [[6, 2], [4]]
    how = Sampling(n=3, max_new=5, seed=7, stop=(tokenizer.end_think,))
    found = thoughts.think(kind, model, tokenizer, rows, roots, how)
    assert [[t.root for t in of_line] for of_line in found] == [[6] * 3 + [2] * 3, [4] * 3]
    again = thoughts.think(kind, model, tokenizer, rows[1:], roots[1:], how, [2])
    assert again == found[1:]
    every = [t for of_line in found for t in of_line]
    assert all(len(t.tokens) <= 5 for t in every)
    if kind == "own":
        assert len({tuple(t.tokens) for t in every}) > 3
        ends = {tokenizer.end_think, tokenizer.eos}
        assert all(not ends & set(t.tokens) and t.chosen <= 5 for t in every)
    else:
        assert all(len(t.tokens) == 5 and t.chosen == 0 for t in every)
        assert len({tuple(t.tokens) for t in every}) == (9 if kind == "random" else 1)


def test_a_thought_stops_where_the_policy_ends_it(model, tokenizer, lines, monkeypatch):
    """Its own `</think>` is a choice; `<eos>` ends it, too, but is none; m closes it."""
    class Samples:
        tokens = torch.tensor([[9, tokenizer.end_think, 0], [9, 9, tokenizer.eos], [9, 9, 9]])
        mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool)

    monkeypatch.setattr(thoughts, "stream", lambda *_: [Samples])
    ((one, two, three),) = thoughts.think("own", model, tokenizer, [(lines[0], 7)], [[6]],
                                          Sampling(n=3, max_new=3))
    assert (one.tokens, one.chosen) == ([9], 2)
    assert (two.tokens, two.chosen) == ([9, 9], 2)
    assert (three.tokens, three.chosen) == ([9, 9, 9], 3)
    assert np.isfinite(thoughts.thought_batch([lines[0]], [[one, two, three]], 2, tokenizer)
                       .inputs.numpy()).all()
