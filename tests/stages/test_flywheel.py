"""The flywheel: what search chooses, what filters keep, and turns that survive a kill."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kill_run import differences

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.core.files import read_checked
from minireason.core.runlog import RunLog
from minireason.critics.value_head import Critic, fit_critic, labelled_rows, step_values
from minireason.model import checkpoint
from minireason.problems import base, chain
from minireason.search.vote import SEARCHES, agreement, choose
from minireason.stages import flywheel
from minireason.stages.flywheel import Solution, passes, searched, truth
from minireason.training import imitate

RIGHT, WRONG = base.Verdict(True, True, True), base.Verdict(False, False, True)
PROBLEM = chain.read("(2+3)")


@pytest.fixture
def config(ladder, tmp_path) -> flywheel.Config:
    return flywheel.Config(
        init=str(ladder / "star"), base=str(ladder / "pretrain"), critic=str(ladder / "critic"),
        out=str(tmp_path / "one" / "flywheel"), device="cpu", turns=2, problems=12, min_level=1,
        max_level=2, n=3, critic_problems=8, held_out=2, critic_steps=4, steps=4, rows_per_step=8,
        token_budget=256, warmup=1, save_every=2, eval_n=2)


@pytest.fixture
def scripted(monkeypatch):
    """A policy this small is never right: one of its three samples is put right, one wrong."""
    real = imitate.complete

    def complete(model, tokenizer, problems, style, how):
        texts = real(model, tokenizer, problems, style, how)
        return [[*own[:-2], f"<think>1+1=2</think>{(int(p.answer) + 1) % 100}<eos>",
                 chain.render(p, "cot")] for p, own in zip(problems, texts, strict=True)]
    monkeypatch.setattr(imitate, "complete", complete)


# ---- choosing and keeping -----------------------------------------------------------------------

@pytest.mark.parametrize(("how", "answers", "values", "chosen"), [
    ("critic", ["1", "2", "3"], [0.1, 0.9, 0.5], 1),
    ("critic", ["1", None, "3"], [0.1, 0.9, 0.5], 2),          # malformed is never chosen
    ("majority", ["1", "2", "2", None], [0.9, 0.1, 0.3, 1.0], 2),
    ("majority", ["2", "1", "1", "2"], [0.1, 0.9, 0.9, 0.2], 3),   # a tie: the earliest answer
    ("single", [None, "2", "3"], [0.1, 0.1, 0.9], 1),
    *((how, [None, None], [0.5, 0.5], None) for how in SEARCHES)])
def test_choice(how, answers, values, chosen):
    assert choose(how, answers, values) == chosen


def test_agreement_is_with_the_most_frequent_answer():
    assert agreement(["1", "2", "2", None]) == [False, True, True, False]
    assert agreement(["2", "1", "1", "2"]) == [True, False, False, True]
    assert agreement([None, None]) == [False, False]


def test_filters_know_only_what_they_may():
    sure_wrong = Solution(PROBLEM, "", 0.9, WRONG)
    unsure_right = Solution(PROBLEM, "", 0.1, RIGHT)
    kept = {how: [passes(how, s, 0.5) for s in (sure_wrong, unsure_right)]
            for how in ("verifier", "critic", "none")}
    assert kept == {"verifier": [False, True], "critic": [True, False], "none": [True, True]}
    assert passes("critic", replace(sure_wrong, value=0.5), 0.5)


@given(st.lists(st.tuples(st.sampled_from(["5", "6", None]), st.floats(0, 1), st.booleans()),
                min_size=1, max_size=6), st.sampled_from(SEARCHES))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_search_never_asks_the_verifier(samples, how):
    """Other verdicts, the same choice: and the same kept ones unless the verifier filters."""
    texts = [[f"</think>{answer}<eos>" if answer else "</think>" for answer, _, _ in samples]]
    values = [[value for _, value, _ in samples]]
    one = searched(how, [PROBLEM], texts, values, [[RIGHT if r else WRONG for *_, r in samples]])
    other = searched(how, [PROBLEM], texts, values, [[WRONG if r else RIGHT for *_, r in samples]])
    assert [(s.text, s.value) for s in one] == [(s.text, s.value) for s in other]
    for keep in ("critic", "none"):
        assert [passes(keep, s, 0.5) for s in one] == [passes(keep, s, 0.5) for s in other]


def test_truth_of_what_was_kept():
    kept = [Solution(PROBLEM, "", 0.9, RIGHT), Solution(PROBLEM, "", 0.5, WRONG),
            Solution(PROBLEM, "", 0.7, base.Verdict(True, False, True)),
            Solution(PROBLEM, "", 0.5, WRONG)]
    report = truth(kept)
    assert (report["kept"], report["precision"], report["steps_valid"]) == (4, 0.5, 0.25)
    assert report["mean_value"] == pytest.approx(0.65)
    # Wilson's interval for 2 of 4, by hand: (0.5 +- 1.96 sqrt(0.0625 + 0.06) ...) = 0.15 to 0.85
    assert report["precision_low"] == pytest.approx(0.150, abs=1e-3)
    assert report["precision_high"] == pytest.approx(0.850, abs=1e-3)
    assert truth([]) == {"kept": 0}                # a share of nothing is no number


# ---- the stage ----------------------------------------------------------------------------------

def test_turns_keep_what_the_filter_lets_through(config, scripted):
    result = flywheel.run(replace(config, search="single", filter="none", turns=1))
    (turn,) = result["turns"]
    assert 1 / 3 <= turn["single"] < 0.5 and turn["coverage"] == 1.0
    found = read_checked(Path(config.out) / "turn-1" / "solutions.json")["solutions"]
    verdicts = [chain.verify(chain.read(prompt), text) for prompt, text in found]
    assert all(v.well_formed for v in verdicts) and len(found) == turn["kept"]
    assert turn["precision"] == sum(v.correct for v in verdicts) / len(found)
    strict = replace(config, search="critic", filter="verifier", turns=1,
                     out=config.out + "-strict")
    (turn,) = flywheel.run(strict)["turns"]
    assert turn["precision"] == 1.0 and turn["kept"] == round(turn["searched"] * config.problems)


@pytest.mark.parametrize(("refresh", "accuracy"), [
    ("exact", 1.0), ("outcome", 1.0), ("majority", None)])
def test_critic_is_refreshed_on_the_new_policy(config, scripted, refresh, accuracy):
    cfg = replace(config, filter="none", refresh=refresh)
    result = flywheel.run(cfg)
    for number in (1, 2):
        folder = Path(cfg.out) / f"turn-{number}"
        held = json.loads((folder / "critic" / "config.json").read_text())
        assert held["parents"]["policy"] == checkpoint.weights_hash(folder)
        assert checkpoint.load(folder / "critic", kind=Critic)
    parents = json.loads((Path(cfg.out) / "turn-2" / "config.json").read_text())["parents"]
    assert parents == {"policy": checkpoint.weights_hash(Path(cfg.out) / "turn-1"),
                       "critic": checkpoint.weights_hash(Path(cfg.out) / "turn-1" / "critic")}
    label_accuracy = result["turns"][0]["critic_label_accuracy"]
    assert label_accuracy == accuracy or (accuracy is None and label_accuracy < 1)


def test_labels_know_only_what_they_may():
    texts = ["<think>2+3=5</think>5<eos>", "<think>2+3=4</think>4<eos>",
             "<think>2+3=4</think>4<eos>", "<think>2+3=4</think>5<eos>", "<think>2+3"]
    expected = {"exact": [[1, 1], [0, 0], [0, 0], [0, 1], []],
                "outcome": [[1, 1], [0, 0], [0, 0], [1, 1], []],
                "majority": [[1, 1], [0, 0], [0, 0], [1, 1], []]}
    right = [chain.verify(PROBLEM, text).correct for text in texts]
    assert {how: flywheel.labels_of(how, PROBLEM, texts, right) for how in expected} == expected
    fooled = flywheel.labels_of("majority", PROBLEM, texts[:3], right[:3])
    assert fooled == [[0, 0], [1, 1], [1, 1]]


def test_without_refresh_the_first_critic_stays(config, scripted):
    cfg = replace(config, filter="none", refresh="no")
    assert "critic_auc" not in flywheel.run(cfg)["turns"][1]
    parents = json.loads((Path(cfg.out) / "turn-2" / "config.json").read_text())["parents"]
    assert parents["critic"] == checkpoint.weights_hash(cfg.critic)
    assert not (Path(cfg.out) / "turn-1" / "critic").exists()


@pytest.mark.long
def test_killed_anywhere_and_resumed_is_bit_identical(config, scripted, tmp_path, run_with_deaths):
    """Killed at every few files that it writes: in policies and critics alike."""
    cfg = replace(config, filter="critic", threshold=0.0)
    flywheel.run(cfg)
    other = replace(cfg, out=str(tmp_path / "other" / "flywheel"))
    assert run_with_deaths(lambda: flywheel.run(other), 3) >= 3
    assert differences(tmp_path / "one", tmp_path / "other") == []
    assert flywheel.run(other) == json.loads((Path(other.out) / "result.json").read_text())


def test_problems_of_a_turn_are_new_ones_of_the_train_split(config, ladder):
    policy, tokenizer = checkpoint.load(ladder / "sft")
    cfg = replace(config, problems=20)
    drawn = [imitate.sample_own(cfg, policy, tokenizer, purpose, number)[0]
             for purpose in ("flywheel", "refresh") for number in (1, 2)]
    assert all(base.split_of(p) == "train" for problems in drawn for p in problems)
    keys = [tuple(p.key for p in problems) for problems in drawn]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("restart", [False, True])
def test_nothing_kept_is_said_and_the_policy_passed_on(config, capfd, restart):
    """The critic is refreshed all the same: on samples of the policy as it was."""
    result = flywheel.run(replace(config, filter="critic", threshold=1.01, restart=restart))
    said = capfd.readouterr().err
    assert said.count("nothing was kept, so this round trains nothing") == config.turns
    assert [turn["kept"] for turn in result["turns"]] == [0, 0]
    assert result["weights"] == checkpoint.weights_hash(config.init)
    assert checkpoint.load(Path(config.out) / "turn-2" / "critic", kind=Critic)


def test_unknown_choices_are_refused(config):
    for name in flywheel.CHOICES:
        with pytest.raises(UserError, match=f"--{name} oracle"):
            replace(config, **{name: "oracle"})
    with pytest.raises(UserError, match="--held-out"):
        replace(config, held_out=8)


def test_teaching_moves_the_value_towards_the_labels(config, ladder, tmp_path):
    """One right and one wrong completion, overfitted."""
    policy, tokenizer = checkpoint.load(ladder / "star")
    model = Critic.from_policy(policy)
    problems = [chain.sample(rng(i, "taught"), 2) for i in range(4)]
    texts = [chain.render(p, "cot") for p in problems]
    rows = labelled_rows(tokenizer, problems, texts, [[float(i % 2)] * 3 for i in range(4)])
    cfg = replace(config, steps=60, lr=1e-2, save_every=99)
    fit_critic(RunLog(str(tmp_path / "taught"), "x", cfg, {}), model, tokenizer, cfg, rows,
               lambda step: rng(0, "taught rows", step), imitation=0.15)
    last = [values[-1] for values in step_values(model, tokenizer, problems, texts)]
    assert max(last[::2]) < 0.2 and min(last[1::2]) > 0.8
