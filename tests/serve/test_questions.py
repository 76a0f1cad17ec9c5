"""What happens while a question is answered, for every family, with models that know nothing."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from minireason.core.config import rng
from minireason.critics.value_head import Critic
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import FAMILIES
from minireason.serve import answers
from minireason.serve.questions import Question, events_of

NAMED = pytest.mark.parametrize("name", FAMILIES)


def example(name: str):
    family = FAMILIES[name]
    return family.sample(rng(5, name), family.LEVELS[:2][-1])


def nobody(name: str) -> answers.Answerer:
    """A policy and a critic of random weights."""
    tokenizer = Tokenizer.build(FAMILIES[name].TOKENS)
    torch.manual_seed(2)
    policy = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1,
                                     n_heads=1, n_kv_heads=1, head_dim=16, d_ff=16, max_len=160))
    with torch.no_grad():             # steps that end, and thoughts that do
        policy.embedding.weight.normal_()
        for token in (";", "</think>", "<eos>"):
            policy.embedding.weight[tokenizer.ids_of(token)] *= 4
    return answers.Answerer(Path("none"), policy, tokenizer, FAMILIES[name], Path("none"),
                            Critic.from_policy(policy))


@NAMED
def test_every_family_is_answered_and_searched(name):
    who, problem = nobody(name), example(name)
    cfg = answers.Config(device="cpu")
    asked = Question(problem.prompt, n=3, temperature=1.0, tree=8)
    found = json.loads(json.dumps([*events_of(who, cfg, asked, lambda: None)]))
    kinds = [kind for kind, _ in found]
    assert kinds[0] == "problem" and kinds[-3:] == ["answer", "tree", "end"]
    assert dict(found)["problem"]["prompt"] == problem.prompt
    picture = dict(found)["tree"]["picture"]
    svg = ElementTree.fromstring(picture[picture.index("<svg"):picture.index("</svg>") + 6])
    circles, listed = svg.findall("circle"), picture.count("<li>")
    assert len(circles) == listed > 1 and len(svg.findall("line")) == listed - 1
    for circle in circles:            # all of it is to be seen
        assert 0 < float(circle.get("cx")) < float(svg.get("width"))
        assert 0 < float(circle.get("cy")) < float(svg.get("height"))


@NAMED
def test_steps_are_marked_while_they_are_written(name):
    problem = example(name)
    text = FAMILIES[name].render(problem, "cot")
    whole = answers.marked_steps(problem, text)
    assert whole and {mark for _, mark in whole} == {"right"}
    ends = [i for i, token in enumerate(text) if token == ";"]
    for count, end in enumerate(ends, 1):
        steps, rest = answers.written_steps(problem, text[:end + 2])
        assert (steps, rest) == (whole[:count], text[end + 1])
    closed = text.partition("</think>")[0] + "</think>"
    assert answers.written_steps(problem, closed) == (whole, "")


def test_a_wrong_or_unreadable_step_is_marked_at_once():
    problem = FAMILIES["chain"].read("(23+4)*3")
    assert answers.written_steps(problem, "<think>23+4=28;28*") == ([("23+4=28", "wrong")], "28*")
    assert answers.written_steps(problem, "<think>23+") == ([], "23+")
    assert answers.written_steps(problem, "<think>+;+") == ([("+", "wrong")], "+")
    assert answers.written_steps(problem, "</think>8") == ([], "")


def test_votes_are_listed_by_value_with_their_samples():
    problem = FAMILIES["chain"].read("(23+4)*3")
    texts = ["</think>80<eos>", "</think>81<eos>", "</think>80<eos>", "</think>"]
    found = answers.outcome_of(problem, texts, [0.2, 0.9, 0.3, 1.0])
    assert [(vote["answer"], vote["samples"]) for vote in found["votes"]] == [
        ("81", [1]), ("80", [0, 2])]
    assert found["best"] == 1 and found["said"] == "81   (1 of 4 samples)"
    assert [sample["right"] for sample in found["samples"]] == [False, True, False, False]
    even = answers.outcome_of(problem, texts, None)
    assert even["best"] == 0 and even["samples"][0]["value"] is None
    assert even["votes"][0]["value"] == 2


def test_another_number_draws_other_samples():
    who, cfg = nobody("chain"), answers.Config(device="cpu")
    asked = Question(example("chain").prompt, n=4, temperature=1.0)
    found = [dict(events_of(who, cfg, replace(asked, number=number), lambda: None))["answer"]
             for number in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
