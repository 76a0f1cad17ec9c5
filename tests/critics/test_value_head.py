"""Values are read where they were trained: at step ends, whatever the batch around them."""

import pytest
import torch

from minireason.core.config import rng
from minireason.critics import value_head
from minireason.critics.value_head import Critic, final_values, rollout_ids, step_values
from minireason.model import checkpoint
from minireason.model.tokenizer import STEP_ENDS, Tokenizer
from minireason.problems import chain
from minireason.sampling.native import native_decoder
from minireason.sampling.sampler import Sampling

PROBLEMS = [chain.read("(2+3)"), chain.read("((7-2)*3)")]
TEXTS = [chain.render(p, "cot") for p in PROBLEMS]


@pytest.fixture(scope="module")
def model(ladder):
    model, tokenizer = checkpoint.load(ladder / "critic", kind=Critic)
    with torch.no_grad():                                # far from zero, so that places differ
        model.value.weight.normal_(0, 2, generator=torch.Generator().manual_seed(0))
        model.likelihood.fill_(0.1)                      # and far from a sigmoid's flat ends
    return model, tokenizer


def test_one_value_a_step_end(model):
    values = step_values(*model, PROBLEMS, TEXTS)
    # k steps are parted by k - 1 `;`, then `</think>` and `<eos>` follow.
    assert [len(v) for v in values] == [p.level + 1 for p in PROBLEMS]
    assert all(0 < x < 1 for v in values for x in v)


def test_each_value_is_the_sigmoid_of_the_model_at_its_token(model):
    critic, tokenizer = model
    ends = tokenizer.ids_of(*STEP_ENDS)
    for problem, text, values in zip(PROBLEMS, TEXTS, step_values(*model, PROBLEMS, TEXTS),
                                     strict=True):
        ids = tokenizer.encode("<bos>" + problem.prompt + text)
        with torch.no_grad():
            logits = critic.values(torch.tensor([ids]))[0]
        plain = [logits[t].sigmoid().item() for t, token in enumerate(ids) if token in ends]
        assert values == pytest.approx(plain, abs=1e-6)  # padding changes float32's last bits


def test_neither_budget_nor_order_changes_a_value(model):
    texts = [*TEXTS, "<think>2+3=6</think>6<eos>", "<think>2+3=", "<think>"]
    problems = [*PROBLEMS, *[PROBLEMS[0]] * 3]
    whole = step_values(*model, problems, texts)
    assert whole[3:] == [[], []]                         # no step end, no value
    for budget in (1, 40):
        for a, b in zip(step_values(*model, problems, texts, token_budget=budget), whole,
                        strict=True):
            assert a == pytest.approx(b, abs=1e-6)
    turned = step_values(*model, problems[::-1], texts[::-1])[::-1]
    assert [x for v in turned for x in v] == pytest.approx([x for v in whole for x in v], abs=1e-6)


@pytest.mark.parametrize("chunk", [3, 1024])
def test_many_samples_of_a_problem_share_what_they_begin_with(model, chunk, monkeypatch):
    """In C++: the same values, fewer tokens read; as ever where a row fills the model."""
    critic, tokenizer = model
    texts = [text for whole in TEXTS for text in (
        whole, whole.replace("<eos>", ""), whole.partition("</think>")[0], whole[:12],
        whole.replace("=", "=1"), whole.replace("<think>", "<think>1+1=2;"), "</think>1<eos>",
        "<think>")]
    problems = [problem for problem in PROBLEMS for _ in range(8)]
    monkeypatch.setenv("MINIREASON_DECODE", "torch")
    plain = step_values(critic, tokenizer, problems, texts)
    monkeypatch.setenv("MINIREASON_DECODE", "auto")
    decoder = native_decoder(critic, tokenizer, Sampling())
    if decoder is None:
        pytest.skip("NOT CHECKED: needs g++")
    rows = rollout_ids(tokenizer, problems, texts)
    followed = value_head.followed_values(decoder, critic.likelihood, rows, chunk)
    assert [len(tokens) - first + 1 for tokens, first in rows] == [*map(len, followed)]
    for ours in (step_values(critic, tokenizer, problems, texts), [
            [row[t] for t in range(first - len(tokens), 0)
             if tokens[t] in tokenizer.ids_of(*STEP_ENDS)]
            for (tokens, first), row in zip(rows, followed, strict=True)]):
        assert [x for row in ours for x in row] == pytest.approx(
            [x for row in plain for x in row], abs=1e-5)
    full = "<think>" + ";" * (critic.config.max_len - len(tokenizer.encode(PROBLEMS[0].prompt)) - 2)
    monkeypatch.setattr(value_head, "followed_values", None)           # 2 more: <bos>, <think>
    assert len(step_values(critic, tokenizer, [PROBLEMS[0]] * 4, [*TEXTS, *TEXTS[:1], full])) == 4


def test_a_value_depends_on_its_prefix_only(model):
    whole, = step_values(*model, PROBLEMS[1:], TEXTS[1:])
    changed, = step_values(*model, PROBLEMS[1:], [TEXTS[1].replace("</think>", ";1+1=2</think>")])
    assert changed[0] == pytest.approx(whole[0], abs=1e-6)


def test_rows_begin_as_the_sampler_saw_them():
    tokenizer = Tokenizer.build(chain.TOKENS)
    (ids, first), = rollout_ids(tokenizer, PROBLEMS[:1], TEXTS[:1])
    assert tokenizer.decode(ids) == "<bos>(2+3)=<think>2+3=5</think>5<eos>"
    assert tokenizer.decode(ids[first:]) == "2+3=5</think>5<eos>"
    (ids, first), = rollout_ids(tokenizer, PROBLEMS[:1], ["</think>5<eos>"])
    assert tokenizer.decode(ids) == "<bos>(2+3)=</think>5<eos>"
    assert tokenizer.decode(ids[first:]) == "5<eos>"


def test_every_completion_has_its_own_last_value(ladder):
    """Equal completions of one problem have one value; of another problem, another one."""
    model, tokenizer = checkpoint.load(ladder / "critic", kind=Critic)
    model.likelihood.data.fill_(0.01)               # so small a critic says 0 to everything
    problems = [chain.sample(rng(i, "valued"), 2) for i in range(2)]
    right, open_end = chain.render(problems[0], "cot"), "<think>1+1"
    completions = [[right, open_end, right], [right, "<think>1+1=2;", open_end]]
    found = final_values(model, tokenizer, problems, completions)
    for problem, texts, values in zip(problems, completions, found, strict=True):
        for text, value in zip(texts, values, strict=True):
            alone = step_values(model, tokenizer, [problem], [text])[0]
            assert value == (pytest.approx(alone[-1], abs=1e-6) if alone else 0.0)
    assert found[0][0] == found[0][2] != found[1][0] and found[0][1] == found[1][2] == 0.0
