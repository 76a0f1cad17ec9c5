"""Evaluation on frozen sets: what is counted, and that ranks draw what one process draws."""

import pytest
import torch

from minireason.measure.estimates import wilson
from minireason.measure.evaluate import (
    accuracy_of,
    answer_of,
    evaluate,
    frozen_sets,
    marked_steps,
    rows_of,
    show,
    verdicts_of,
)
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, Verdict, chain, split_of
from minireason.problems.frozen import load_frozen
from minireason.sampling import complete as completing
from minireason.sampling.complete import complete, prompt_ids
from minireason.sampling.sampler import Sampling


def test_accuracy_counts_each_part_of_a_verdict():
    verdicts = [Verdict(True, True, True), Verdict(True, False, True), Verdict(False, False, True),
                Verdict(False, False, False)]
    result = accuracy_of(verdicts)
    low, high = wilson(2, 4)
    assert result == {"accuracy": 0.5, "n": 4, "low": low, "high": high, "steps_valid": 0.25,
                      "well_formed": 0.75}


def test_rows_are_flat_and_say_what_they_are():
    found = accuracy_of([Verdict(True, True, True), Verdict(False, False, True)])
    first, second = rows_of({"a": found, "b": found}, "greedy", round=2)
    assert first == {"set": "a", "method": "greedy", "n": 1, "round": 2, "accuracy": 0.5,
                     "low": found["low"], "high": found["high"], "problems": 2}
    assert second == {**first, "set": "b"}


def test_frozen_sets_are_the_first_n_of_the_split():
    sets = frozen_sets("chain", "test", 5, (2, 3))
    assert list(sets) == ["chain-test-k2", "chain-test-k3"]
    assert all(members == load_frozen(name)[:5] for name, members in sets.items())
    assert {split_of(p) for s in sets.values() for p in s} == {"test"}
    assert len(frozen_sets("chain", "test", 1)) == len(chain.LEVELS)
    assert frozen_sets("chain", "test", 0, (2,)) == {"chain-test-k2": []}


def test_prompts_end_with_the_opener_and_hints_stand_before_it():
    tokenizer, problem = Tokenizer.build(chain.TOKENS), chain.read("(2+3)")
    rows = [prompt_ids(tokenizer, [problem], "direct"), prompt_ids(tokenizer, [problem], "cot"),
            prompt_ids(tokenizer, [problem], "cot", hinted=True)]
    assert [tokenizer.decode(row[0]) for row in rows] == [
        "<bos>(2+3)=</think>", "<bos>(2+3)=<think>", "<bos>(2+3)=<hint>5<think>"]


def test_evaluate_reads_the_models_completions(monkeypatch):
    """A sampler that is right on some problems of each set scores just that, set by set."""
    sets = frozen_sets("chain", "test", 6, (1, 2))

    def half_right(model, tokenizer, ids, how, *_):
        problems = [FAMILIES["chain"].read(tokenizer.decode(row[1:-1])) for row in ids]
        right = [i % 2 and (p.level == 1 or i > 8) for i, p in enumerate(problems)]
        return [chain.render(p, "cot").removeprefix("<think>") if good else "<eos>"
                for p, good in zip(problems, right, strict=True)]

    monkeypatch.setattr(completing, "sample", half_right)
    tokenizer = Tokenizer.build(chain.TOKENS)
    report = evaluate(None, tokenizer, sets, "cot", Sampling(temperature=0))
    assert {name: (r["accuracy"], r["n"]) for name, r in report.items()} == {
        name: (share, 6) for name, share in zip(sets, (1 / 2, 1 / 3), strict=True)}
    text = show(None, tokenizer, sets["chain-test-k1"][:2], "cot", Sampling(temperature=0))
    assert text.count("[right") == text.count("[wrong") == 1


@pytest.mark.parametrize(("thought", "marks"), [
    ("9-5=4;4*2=8;8+3=11", "rrr"), ("4*2=8", "r"), ("9-5=4;4*2=8", "rr"), ("4*2=8;8+3=11", "rr"),
    ("4*2=9", "w"), ("4*2=8;8+3=10", "rw"), ("8+3=11", "r"), ("9-5=3;3*2=6", "wr")])
def test_the_first_steps_of_a_thought_may_be_left_out(thought, marks):
    found = marked_steps(chain.read("((9-5)*2)+3"), f"<think>{thought}</think>11<eos>")
    assert [step for step, _ in found] == thought.split(";")
    assert "".join(mark[0] for _, mark in found) == marks


def test_answers_are_read_without_the_truth():
    problem = chain.read("(2+3)")
    assert answer_of(problem, "<think>2+3=6</think>6<eos>") == "6"
    assert answer_of(problem, "<think>2+3=6</think>6") is None


@pytest.mark.parametrize("n", [1, 3])
def test_two_ranks_draw_what_one_process_draws(ladder, monkeypatch, n):
    """A row's random numbers follow its problem, not its place on a rank."""
    from minireason.core import parallel
    from minireason.model import checkpoint
    torch.manual_seed(0)
    model, tokenizer = checkpoint.load(ladder / "sft")
    problems = frozen_sets("chain", "test", 5, (1,))["chain-test-k1"]
    how = Sampling(n=n, max_new=8, seed=3, chunk=4)
    whole = complete(model, tokenizer, problems, "cot", how)
    assert [len(texts) for texts in whole] == [n] * 5
    assert n == 1 or any(len(set(texts)) > 1 for texts in whole)     # samples of one prompt differ
    assert len(verdicts_of(problems, whole)) == 5
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(parallel, "world_size", lambda: 2)
        monkeypatch.setattr(parallel, "gather", lambda items: items)
        assert complete(model, tokenizer, problems, "cot", how) == whole[rank::2]
