"""Eval: accuracies of known completions, levels kept apart, files named by line."""

import json

import pytest

from minireason import evalset
from minireason.core.config import UserError, read_json
from minireason.evalset import Config as EvalConfig
from minireason.evalset import accuracy_table, measure, read, run
from minireason.measure.estimates import wilson
from minireason.problems import chain, countdown

PROBLEMS = [chain.read("(23+4)*3"), chain.read("(9-5)*2")]
RIGHT = ["<think>23+4=27;27*3=81</think>81<eos>", "<think>9-5=4;4*2=8</think>8<eos>"]
LUCKY = "<think>23+4=27;27*3=80</think>81<eos>"                 # right answer, wrong step
WRONG = "<think>9-5=5;5*2=10</think>10<eos>"


def test_one_sample_gives_wilson_interval_and_step_validity():
    result = measure(EvalConfig("c", "p"), PROBLEMS, [[LUCKY], [WRONG]])
    assert (result["accuracy"], result["n"]) == (0.5, 2)
    assert (result["low"], result["high"]) == wilson(1, 2)
    assert (result["steps_valid"], result["well_formed"]) == (0.0, 1.0)


def test_several_samples_give_pass_and_maj():
    """Problem 0: 3 of 4 right, the vote is right. Problem 1: 1 of 4 right, the vote is wrong."""
    completions = [[RIGHT[0], RIGHT[0], LUCKY, "<think>"], [WRONG, WRONG, WRONG, RIGHT[1]]]
    result = measure(EvalConfig("c", "p", n=4, temperature=1.0), PROBLEMS, completions)
    assert result["accuracy"] == 0.5
    assert result["steps_valid"] == pytest.approx(3 / 8)
    assert result["well_formed"] == pytest.approx(7 / 8)
    passed = {k: point["accuracy"] for k, point in result["pass_at"].items()}
    # by hand: P(no right one among 2 of 4) is 0 and C(3,2)/C(4,2) = 1/2
    assert passed == pytest.approx({"1": 0.5, "2": 0.75, "4": 1.0})
    assert result["maj_at"]["4"]["accuracy"] == 0.5
    alone = measure(EvalConfig("c", "p", n=4, temperature=1.0), PROBLEMS[1:], completions[1:])
    assert (alone["maj_at"]["4"]["accuracy"], alone["pass_at"]["4"]["accuracy"]) == (0.0, 1.0)
    assert 0.0 <= result["pass_at"]["2"]["low"] <= 0.75 <= result["pass_at"]["2"]["high"] <= 1.0


def test_votes_go_by_the_answer_and_not_by_its_text():
    """Four right expressions, each written otherwise than the reference: pass@1 and maj@4 are 1."""
    problem = countdown.read("3,7,18,2>46")
    written = ["(7+3)+(18*2)", "(18*2)+(3+7)", "(2*18)+(7+3)", "(3+7)+(2*18)"]
    assert problem.answer not in written
    result = measure(EvalConfig("c", "p", n=4, temperature=1.0), [problem],
                     [[f"</think>{answer}<eos>" for answer in written]])
    assert result["pass_at"]["1"]["accuracy"] == result["maj_at"]["4"]["accuracy"] == 1.0
    lost = ["</think><wrong><eos>", "<think>7-3=4,18,2</think><wrong><eos>"] * 2 + [
        f"</think>{written[0]}<eos>"] * 4                       # giving up is no answer to vote for
    result = measure(EvalConfig("c", "p", n=8, temperature=1.0), [problem], [lost])
    assert result["maj_at"]["8"]["accuracy"] == 1.0


def test_levels_of_a_file_are_kept_apart(ladder, tmp_path, capsys):
    path = tmp_path / "mine.jsonl"
    prompts = ["((2+3)*2)=", "(7-4)=", "((9-5)*2)="]
    path.write_text("\n".join(json.dumps({"prompt": p}) for p in prompts))
    result = run(EvalConfig(str(ladder / "star"), str(path), out=str(tmp_path / "out/r.json"),
                            device="cpu"))
    sizes = {name: group["n"] for name, group in result["groups"].items()}
    assert sizes == {"chain level 1": 1, "chain level 2": 2, "all": 3}
    assert read_json(tmp_path / "out/r.json") == result
    assert capsys.readouterr().out.strip() == accuracy_table(result)
    assert "n = 2" in accuracy_table(result) and "greedy" in accuracy_table(result)


def test_frozen_set_is_named_limited_and_seeded(ladder):
    cfg = EvalConfig(str(ladder / "star"), "chain-test-k1", n=2, temperature=1.0, limit=5,
                     device="cpu")
    result = run(cfg)
    assert [g["n"] for g in result["groups"].values()] == [5]
    assert result == run(cfg)
    assert "pass@2" in accuracy_table(result) and "maj@1" in accuracy_table(result)


def test_direct_style_forces_no_thought(ladder, monkeypatch):
    seen = []
    real = evalset.complete
    monkeypatch.setattr(evalset, "complete", lambda *a: seen.append(real(*a)) or seen[-1])
    run(EvalConfig(str(ladder / "pretrain"), "chain-test-k1", style="direct", limit=3,
                   device="cpu"))
    assert all(text.startswith("</think>") for (text,) in seen[0])


def test_mistakes_are_named(ladder, tmp_path):
    with pytest.raises(UserError, match="--style deep"):
        run(EvalConfig(str(ladder / "star"), "chain-test-k1", style="deep"))
    with pytest.raises(UserError, match="temperature"):
        EvalConfig("c", "p", n=2)
    with pytest.raises(UserError, match="chain-test-k99"):
        read("chain-test-k99")
    with pytest.raises(UserError, match="nowhere"):
        read(str(tmp_path / "nowhere.jsonl"))
