"""Eval: accuracies of known completions, levels kept apart, files named by line."""

import json

import pytest

from minireason import evalset
from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.evalset import Config as EvalConfig
from minireason.evalset import accuracy_table, measure, read, run
from minireason.measure.estimates import wilson
from minireason.measure.gym import gym_scores, make_gym, written_in_our_grammar
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


def long_chain(steps: int) -> str:
    return "(" * steps + "2" + "+2)-2)" * (steps // 2) + "="


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_longer_than_the_model_is_named_and_changes_no_other(ladder, tmp_path, capsys, n,
                                                                    place):
    """One whose prompt leaves no room, and one whose solution does not fit behind its prompt."""
    path, prompts = tmp_path / "mine.jsonl", ["((2+3)*2)=", "(7-4)=", "((9-5)*2)="]
    results = []
    for long in ([], [long_chain(120), long_chain(14)]):
        lines = [*prompts[:place], *long, *prompts[place:]]
        path.write_text("\n".join(json.dumps({"prompt": p}) for p in lines))
        results.append(run(EvalConfig(str(ladder / "star"), str(path), n=n, temperature=n - 1.0,
                                      device="cpu")))
    assert results[1]["groups"] == results[0]["groups"]
    assert (results[0]["too_long"], results[1]["too_long"]) == ([], [place + 1, place + 2])
    assert f"counted apart: 2 of 5, line {place + 1}, {place + 2}\n" in capsys.readouterr().out


def test_a_file_or_a_frozen_set_of_long_lines_alone_is_no_error(ladder, tmp_path, monkeypatch):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": long_chain(30)}))
    result = run(EvalConfig(str(ladder / "star"), str(path), device="cpu"))
    assert (result["groups"], result["too_long"]) == ({}, [1])
    monkeypatch.setattr(evalset, "frozen_path", lambda name: path)
    assert run(EvalConfig(str(ladder / "star"), "chain-test-k30", device="cpu")) == {
        **result, "problems": "chain-test-k30"}


def test_duplicates_are_counted_and_named_and_kept(ladder, tmp_path, capsys):
    """Equal problems, however they are written; a blank line has a number too."""
    path = tmp_path / "mine.jsonl"
    prompts = ["(7-4)", "(2+3)*2", None, "((3+2)*2)=", "7 - 4", "(7-4)*2", "7−4="]
    path.write_text("\n".join(json.dumps({"prompt": p}) if p else "" for p in prompts))
    result = run(EvalConfig(str(ladder / "star"), str(path), device="cpu"))
    assert result["repeated"] == [[4, 2], [5, 1], [7, 1]] and result["groups"]["all"]["n"] == 6
    assert "counted again: 3 of 6, line 4 (as 2), 5 (as 1), 7 (as 1)" in capsys.readouterr().out


def test_samples_do_not_depend_on_where_the_file_lies(ladder, tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "(2+3)*2"}\n' * 20)
    monkeypatch.chdir(tmp_path)
    here, there = (run(EvalConfig(str(ladder / "pretrain"), name, n=8, temperature=1.0,
                                  device="cpu"))["groups"]
                   for name in ("mine.jsonl", str(tmp_path / "mine.jsonl")))
    assert here == there


def test_the_result_is_written_even_if_nobody_reads_the_table(ladder, tmp_path, monkeypatch):
    monkeypatch.setattr(evalset, "accuracy_table", lambda result: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(EvalConfig(str(ladder / "star"), "chain-test-k1", limit=2, device="cpu",
                       out=str(tmp_path / "r.json")))
    assert read_json(tmp_path / "r.json")["groups"]["chain level 1"]["n"] == 2


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
    for other in ("addition-test-d3", "maze-test-n5", "instructions-held-validation-k2"):
        with pytest.raises(UserError, match="trained on chain, in whose tokens"):
            run(EvalConfig(str(ladder / "star"), other, device="cpu"))


def test_problems_of_another_family_in_the_same_tokens_are_told(ladder, capsys):
    run(EvalConfig(str(ladder / "star"), "countdown-targets-validation-n3", limit=2, device="cpu"))
    assert "star, trained on chain, on countdown-targets-validation-n3" in capsys.readouterr().out


class Gym(list):
    """Three problems as reasoning-gym gives them; its scorer gives 0.9 to 81 and 1 to 8."""

    def __init__(self):
        super().__init__({"metadata": {"expression": text}, "answer": ""}
                         for text in ("( 23 + 4 ) * 3", "4 - 1 - 700", "( 9 - 5 ) * 2"))

    def score_answer(self, answer, entry):
        return {"81": 0.9, "8": 1.0, None: 0.0}[answer]


def test_a_gym_problem_counts_where_its_own_scorer_says_exactly_one():
    problems = written_in_our_grammar("chain_sum", Gym())
    assert {number: p.prompt for number, p in problems.items()} == {
        1: "((23+4)*3)=", 3: "((9-5)*2)="}                      # 700 is no number of ours
    found = gym_scores(Gym(), {1: [RIGHT[0]], 3: [RIGHT[1]]}, list(problems.values()))
    assert (found["accuracy"], found["asked"], found["of"]) == (0.5, 2, 3)
    rambling = gym_scores(Gym(), {3: [RIGHT[1], "<think>"]}, [problems[3]])
    assert rambling["accuracy"] == 0.5


def test_reasoning_gym_itself(ladder, capsys):
    pytest.importorskip("reasoning_gym")
    for task, settings in (("chain_sum", ("max_digits=1", "max_terms=3")),
                           ("basic_arithmetic", ("max_digits=1",))):
        found = run(EvalConfig(str(ladder / "sft"), gym=task, gym_settings=settings, limit=40))
        assert 0 < found["gym"]["asked"] < found["gym"]["of"] == 40
        assert f"the {found['gym']['asked']} of its 40 problems" in capsys.readouterr().out
    gym = make_gym("chain_sum", (), 9, 0)
    assert all(gym.score_answer(entry["answer"], entry) == 1.0 for entry in gym)
    gym = make_gym("countdown", ("min_target=10", "max_target=99", "max_numbers=4", "max_value=50"),
                   20, 0)
    problems = written_in_our_grammar("countdown", gym)
    own = {number: [f"</think>{p.answer}<eos>"] for number, p in problems.items()}
    assert gym_scores(gym, own, list(problems.values()))["accuracy"] == 1.0
    for settings, said in ((("digits=1",), "unexpected"), (("max_digits=x",), "FIELD=NUMBER"),
                           (("max_digits=0",), "reasoning-gym says")):
        with pytest.raises(UserError, match=said):
            make_gym("chain_sum", settings, 9, 0)


@pytest.mark.parametrize("given", [{}, {"problems": "p", "gym": "chain_sum"}, {"gym": "sudoku"}])
def test_problems_come_from_one_place(given):
    with pytest.raises(UserError, match="gym"):
        EvalConfig("c", **given)
