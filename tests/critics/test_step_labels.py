"""Step labels, their accuracy, aggregation, and the stage with every kind of label."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from minireason.core.errors import UserError
from minireason.core.files import read_checked, read_lines
from minireason.critics import step_labels as labels
from minireason.critics import value_head
from minireason.critics.step_labels import (
    exact_labels,
    label_accuracy,
    monte_carlo_labels,
    step_prefixes,
    verdicts_from_prefixes,
)
from minireason.critics.value_head import Critic, aggregate, rollout_ids, step_values, value_batches
from minireason.measure.evaluate import verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import STEP_ENDS
from minireason.problems import addition, chain, sample_split
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.stages import critic
from minireason.stages.critic import Config as CriticConfig

PROBLEM = chain.build(23, [("+", 4), ("*", 3)])


@pytest.fixture
def tiny(ladder, tmp_path):
    return CriticConfig(init=str(ladder / "star"), out=str(tmp_path / "critic"), device="cpu",
                        problems=12, min_level=1, max_level=2, n=4, steps=4, rows_per_step=8,
                        token_budget=256, warmup=2, save_every=2, held_out=4, mc_n=2, mc_check=2,
                        shard=5)


@pytest.fixture(scope="module")
def policy(ladder):
    return checkpoint.load(ladder / "star", "cpu")


@pytest.mark.parametrize(("completion", "expected"), [
    ("<think>23+4=27;27*3=81</think>81<eos>", [1, 1, 1]),
    ("<think>23+4=26;26*3=78</think>78<eos>", [0, 0, 0]),
    ("<think>23+4=27;27*3=71</think>71<eos>", [1, 0, 0]),
    ("<think>23+4=26;27*3=81</think>81<eos>", [0, 0, 1]),      # wrong steps, right answer
    ("<think>23+4=27;27*3=81</think>18<eos>", [1, 1, 0]),      # right steps, wrong answer
    ("<think>23+4=27</think>27<eos>", [0, 0]),                 # closed too early
    ("<think>23+4=27;27*3=81;81+2=83</think>81<eos>", [1, 1, 0, 1]),
    ("<think>23+4=27;27*", [1]),                               # cut
    ("<think>23+4;27*3=81;", [0, 0]),
    ("<think>23+4=27</think>5;6", [0, 0]),
    ("<think>;</think><eos>", [0, 0, 0]),
    ("<think>23+4=26<wrong>23+4=27;27*3=81</think>81<eos>", [1, 1, 1]),   # withdrawn
    ("<think>23", [])])
def test_exact_labels_by_hand(completion, expected):
    assert exact_labels(PROBLEM, completion) == [bool(x) for x in expected]


def test_exact_labels_know_other_families():
    problem = addition.read("128+367=")
    for style in ("cot", "detailed", "star"):
        ideal = addition.render(problem, style)
        assert all(exact_labels(problem, ideal)), style
        assert len(exact_labels(problem, ideal)) == ideal.count(";") + 2


def test_labels_stand_at_the_tokens_that_values_are_read_from(policy):
    """One label a step end, whatever the text: prefixes by text and ends by token agree."""
    _, tokenizer = policy
    texts = ["<think>23+4=27;27*3=81</think>81<eos>", "<think>;;</think></think>4<eos>", "<think>1"]
    ends = torch.tensor(tokenizer.ids_of(*STEP_ENDS))
    ids = rollout_ids(tokenizer, [PROBLEM] * 3, texts)
    rows = [(*row, [0.25 + i for i in range(len(step_prefixes(text)))])
            for row, text in zip(ids, texts, strict=True)]
    batches, count = value_batches(rows, ends, 10_000, tokenizer.pad)
    assert count == sum(len(step_prefixes(text)) for text in texts) == 3 + 5
    batch, = batches
    found = {}
    for tokens, targets, mask in zip(batch.inputs, batch.targets, batch.loss_mask, strict=True):
        found[tokenizer.decode(tokens.tolist()).partition("=")[2].replace("<pad>", "")] = (
            targets[mask.bool()].tolist())
    assert found == dict(zip(texts, [labels for _, _, labels in rows], strict=True))
    single, _ = value_batches(rows, ends, 1, tokenizer.pad)
    assert len(single) == 3 and sum(batch.loss_mask.sum() for batch in single) == 8


def fake_sampler(right: dict[str, list[bool]], seen: list):
    """Stands for the sampler: ends each prefix as `right` says, and notes what it was asked."""
    def sample(model, tokenizer, prompts, how, numbers, limits):
        seen.append([tokenizer.decode(prompt) for prompt in prompts])
        answers = []
        for text in seen[-1]:
            prefix = "<think>" + text.partition("<think>")[2]
            closing = "" if prefix.endswith("</think>") else "1+2=3</think>"
            answers += [f"{closing}{'81' if good else '80'}<eos>" for good in right[prefix][:how.n]]
        return answers
    return sample


def test_monte_carlo_labels_by_hand(policy, monkeypatch):
    """Shares come from the rollouts of each different prefix; at <eos> stands the verdict."""
    texts = ["<think>23+4=27;27*3=81</think>81<eos>", "<think>23+4=27;27*3=80</think>80<eos>",
             "<think>23+4=27;27*3=81</think>80<eos>"]
    right = {"<think>23+4=27;": [1, 0, 0, 1], "<think>23+4=27;27*3=81</think>": [1, 1, 1, 0],
             "<think>23+4=27;27*3=80</think>": [0, 0, 0, 0]}
    seen: list = []
    monkeypatch.setattr(labels, "sample", fake_sampler(right, seen))
    drawn = monte_carlo_labels(*policy, [PROBLEM] * 3, texts, Sampling(n=4))
    assert drawn == [[.5, .75, 1.0], [.5, 0.0, 0.0], [.5, .75, 0.0]]
    asked, = seen
    assert asked == ["<bos>((23+4)*3)=" + prefix for prefix in sorted(right, key=len)]


def test_label_accuracy_by_hand(policy, monkeypatch):
    """Truth 1, 1, 0 at three step ends; every disjoint set of n rollouts is one hard label."""
    texts = ["<think>23+4=27;27*3=80</think>80<eos>", "<think>23+4=27;27*3=81</think>"]
    right = {"<think>23+4=27;": [1, 0, 0, 0], "<think>23+4=27;27*3=81</think>": [1, 1, 1, 0],
             "<think>23+4=27;27*3=80</think>": [1, 0, 0, 0]}
    monkeypatch.setattr(labels, "sample", fake_sampler(right, []))
    rows = label_accuracy(*policy, [PROBLEM] * 2, texts, Sampling(n=4))
    assert all(row["count"] == 4 and row["share_true"] == 0.75 for row in rows)
    report = {(row["method"], row["n"]): row for row in rows}
    assert report["mc_hard", 1] | {"method": ""} == report["mc_soft", 1] | {"method": ""}
    # the first prefix occurs twice: right 1/4, 1/4 and 3/4; the wrong one is called wrong 3/4
    assert report["mc_hard", 1]["accuracy"] == pytest.approx((1 + 1 + 3 + 3) / 16)
    whole = report["mc_hard", 4]
    assert (whole["accuracy"], whole["false_positive"], whole["false_negative"]) == (0.75, 1, 0)
    assert report["mc_soft", 4]["accuracy"] == pytest.approx((0 + 0 + 1 + 1) / 4)
    assert report["mc_hard", 2]["accuracy"] == pytest.approx((1 + 1 + 2 + 1) / 8)


def test_go_on_goes_on_from_the_prefix(policy):
    """Greedy continuations of a greedy completion's prefixes are that completion's verdict."""
    model, tokenizer = policy
    problems = [sample_split(chain, np.random.default_rng(i), 1, "train") for i in range(4)]
    texts = [row[0] for row in complete(model, tokenizer, problems, "cot",
                                        Sampling(temperature=0, max_new=24))]
    verdicts = [row[0].correct for row in verdicts_of(problems, [[text] for text in texts])]
    pairs = [(problem, prefix) for problem, text in zip(problems, texts, strict=True)
             for prefix in step_prefixes(text) if not prefix.endswith("<eos>")]
    how = Sampling(n=1, temperature=0, max_new=24)
    wins = dict(zip(pairs, verdicts_from_prefixes(model, tokenizer, pairs, how), strict=True))
    for problem, text, right in zip(problems, texts, verdicts, strict=True):
        for prefix in step_prefixes(text)[:-1]:
            assert wins[problem, prefix] == [right]
    full = (PROBLEM, "<think>" + "2;" * 32)               # a prefix that leaves no room
    assert verdicts_from_prefixes(model, tokenizer, [full] * 3, Sampling(n=2)) == [[False] * 2] * 3


def test_aggregations():
    values = [0.5, 0.8, 0.25]
    assert [aggregate(values, how) for how in ("last", "min", "product")] == [0.25, 0.25, 0.1]
    assert aggregate([0.1, 0.9], "min") == 0.1 and aggregate([0.1, 0.9], "last") == 0.9
    assert {aggregate([], how) for how in ("last", "min", "product")} == {0.0}
    with pytest.raises(UserError, match="mean"):
        aggregate(values, "mean")


def test_killed_among_its_labels_it_resumes_there(tiny, tmp_path, monkeypatch, run_with_deaths):
    cfg = replace(tiny, labels="mc_soft")
    whole = critic.run(replace(cfg, out=str(tmp_path / "whole")))
    drawn, original = [], labels.monte_carlo_labels
    monkeypatch.setattr(labels, "monte_carlo_labels",
                        lambda *arguments: drawn.append(1) or original(*arguments))
    assert run_with_deaths(lambda: critic.run(cfg), 3) >= 2     # config, rollouts, two shards: dead
    assert len(drawn) == 3 + 1                                 # 12 problems in shards of 5
    again = critic.run(cfg)
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "critic")]
    assert lines[0] == lines[1]
    table = [row for row in read_lines(tmp_path / "critic" / "rows.jsonl")
             if row["method"].startswith("mc_")]
    assert {row["n"] for row in table} == {1, 2, 4, 8, 16} and len(table) == 10


@pytest.mark.parametrize("kind", ["outcome", "exact", "mc_hard"])
def test_every_kind_of_label_trains_a_critic(tiny, kind, tmp_path, monkeypatch):
    taught = []
    original = value_head.value_batches
    monkeypatch.setattr(value_head, "value_batches", lambda rows, *rest: (
        taught.extend(rows), original(rows, *rest))[1])
    result = critic.run(replace(tiny, labels=kind))
    assert {label for _, _, row in taught for label in row} <= {0.0, 1.0}
    assert all(0 <= result[name] <= 1 for name in ("auc", "auc_min", "auc_product", "auc_steps",
                                                   "label_accuracy", "share_steps_true"))
    rows = read_lines(tmp_path / "critic" / "rows.jsonl")
    checked = [row["count"] for row in rows if row["method"].startswith("mc_")]
    assert bool(checked) == (kind != "outcome")
    if kind == "exact":
        assert result["label_accuracy"] == 1.0
        drawn = read_checked(tmp_path / "critic/rollouts.json")["rollouts"]
        texts = [text for _, text, _ in drawn[-16::4]][:2]     # one sample per held-out problem
        ends = [prefix for text in texts for prefix in step_prefixes(text)
                if not prefix.endswith("<eos>")]
        assert set(checked) == {len(ends)}
    if kind == "outcome":
        assert all(len(set(row)) <= 1 for _, _, row in taught)
    assert {row["problems"] for row in rows if row["method"] == "auc"} == {16}


def test_refreshed_critic_starts_from_the_old_one(tiny, ladder, policy, tmp_path):
    """Steps of no length: the old critic's values stay; its samples are the new policy's."""
    cfg = replace(tiny, start=str(ladder / "critic"), init=str(ladder / "sft"), steps=1, lr=0.0)
    critic.run(cfg)
    assert checkpoint.weights_hash(cfg.out) == checkpoint.weights_hash(ladder / "critic")
    parents = json.loads((tmp_path / "critic/config.json").read_text())["parents"]
    assert parents == {"init": checkpoint.weights_hash(ladder / "sft"),
                       "start": checkpoint.weights_hash(ladder / "critic")}
    text = "<think>23+4=27;27*3=81</think>81<eos>"
    old, new = (step_values(checkpoint.load(folder, kind=Critic)[0], policy[1], [PROBLEM], [text])
                for folder in (ladder / "critic", cfg.out))
    assert old == new and len(old[0]) == 3


@pytest.mark.parametrize("change", [{"labels": "human"}, {"held_out": 0},
                                    {"held_out": 9, "problems": 9}])
def test_impossible_choices_are_refused(change):
    with pytest.raises(UserError):
        CriticConfig(**{"init": "x", **change})
