"""Chat: the thought is hidden until asked for, marks are the verifier's, mistakes do not end it."""

import io
import re
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from minireason import chat
from minireason.chat import Config as ChatConfig
from minireason.core.errors import UserError
from minireason.model import checkpoint
from minireason.problems import chain, countdown
from minireason.sampling.forcing import Forcing
from minireason.serve import answers
from minireason.serve.answers import choose, find_policy, outcome_of

PROBLEM = chain.read("(23+4)*3")
RIGHT = "<think>23+4=27;27*3=81</think>81<eos>"
SLIP = "<think>23+4=28;28*3=84</think>84<eos>"


def reply(cfg: ChatConfig, problem, texts: list[str], values: list[float]) -> str:
    return chat.reply(cfg, outcome_of(problem, texts, values))


def talk(monkeypatch, capsys, typed: str, cfg: ChatConfig) -> tuple[str, str, int]:
    """(stdout, stderr, exit code) of a chat whose standard input is a file."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    capsys.readouterr()
    code = 0
    try:
        chat.run(cfg)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return captured.out, captured.err, code


def test_thought_is_hidden_and_shown_with_marks():
    assert reply(ChatConfig(), PROBLEM, [RIGHT], [1.0]) == "81"
    assert reply(ChatConfig(show_thoughts=True), PROBLEM, [SLIP], [1.0]).split("\n") == [
        "  23+4=28   [wrong]", "  28*3=84   [right]", "84   [wrong, it is 81]"]
    assert reply(ChatConfig(show_thoughts=True), PROBLEM, [RIGHT], [1.0]).endswith("81   [right]")


def test_another_right_answer_is_right_and_equal_ones_vote_together():
    problem = countdown.read("3,7,18,2>46")
    texts = ["<think>7+3=10,18,2;18*2=36,10;10+36=46</think>(7+3)+(18*2)<eos>",
             "</think>(18*2)+(3+7)<eos>", "</think>18+(7+3)<eos>"]
    said = reply(ChatConfig(show_thoughts=True), problem, texts, [0.5, 0.4, 0.8]).split("\n")
    assert [line.rpartition("[")[2] for line in said[:3]] == ["right]"] * 3
    assert said[3] == "(7+3)+(18*2)   (2 of 3 samples)   [right]"
    lost = "<think>7-3=4,18,2</think><wrong><eos>"
    assert "no answer" in reply(ChatConfig(), problem, [lost], [1.0])


def test_withdrawn_steps_are_shown_as_withdrawn():
    text = "<think>23+4=28<wrong>23+4=27;27*3=81</think>81<eos>"
    assert reply(ChatConfig(show_thoughts=True), PROBLEM, [text], [1.0]).split("\n") == [
        "  23+4=28   [withdrawn]", "  23+4=27   [right]", "  27*3=81   [right]", "81   [right]"]


def test_a_completion_without_an_answer_says_so():
    assert "no answer" in reply(ChatConfig(), PROBLEM, ["<think>23+4=2"], [1.0])
    assert "[malformed]" in reply(ChatConfig(show_thoughts=True), PROBLEM, ["<think>23+"], [1.0])


@pytest.mark.parametrize(("answers", "values", "expected"), [
    (["8", "9", "9"], [1.0, 1.0, 1.0], 1),                     # majority
    (["8", "9", "9"], [0.9, 0.1, 0.2], 0),                     # the critic outweighs it
    (["9", "9", None], [0.1, 0.2, 0.9], 1),                    # what has no answer has no vote
    ([None, None], [0.1, 0.2], 1),
])
def test_choice_is_a_weighted_vote(answers, values, expected):
    assert choose(answers, values) == expected


def test_answers_line_by_line_and_names_who_answers(monkeypatch, capsys, ladder):
    out, err, code = talk(monkeypatch, capsys, "(2+3)*2\n7-4\n\n9-9\n", ChatConfig(str(ladder)))
    assert len(out.splitlines()) == 2 and code == 0             # the empty line ended it
    assert f"{ladder}/star answers" in err and "judges" not in err


def test_a_hidden_thought_leaves_one_line_and_a_pipe_has_no_bar(monkeypatch, capsys, ladder):
    cfg = ChatConfig(str(ladder))
    out, err, _ = talk(monkeypatch, capsys, "(2+3)*2\n", cfg)
    assert re.search(r"^(\d+ steps?, (\d+ withdrawn, )?)?\d+ tokens?$", err, re.MULTILINE)
    assert "\r" not in out + err and "thinking:" not in err and "<think>" not in out + err
    shown = talk(monkeypatch, capsys, "(2+3)*2\n", replace(cfg, show_thoughts=True))
    assert "tokens" not in shown[1]


def test_the_summary_counts_steps_withdrawn_ones_and_tokens(ladder):
    tokenizer = checkpoint.load(ladder / "star")[1]
    told = {text: answers.summary(tokenizer, PROBLEM, text) for text in (
        RIGHT, "<think>23+4=28<wrong>23+4=27;27*3=81</think>81<eos>", "</think>81<eos>",
        "<think>23+4=27</think>27<eos>", "<think>23+4=2")}
    assert list(told.values()) == ["2 steps, 11 tokens", "2 steps, 1 withdrawn, 17 tokens",
                                   "no thought", "1 step, 5 tokens", "5 tokens"]


def test_think_says_whether_and_how_long(monkeypatch, capsys, ladder):
    said = {}
    for think in ("always", "never", "auto", "0", "6"):
        cfg = ChatConfig(str(ladder), think=think)
        said[think] = talk(monkeypatch, capsys, "(2+3)*2\n(8-3)*7\n", cfg)
        assert len(said[think][0].splitlines()) == 2 and said[think][2] == 0
    assert said["never"][1].count("no thought") == 2 and said["never"] == said["0"]
    assert "no thought" not in said["always"][1]
    for count in re.findall(r"(\d+) tokens?$", said["6"][1], re.MULTILINE):
        assert int(count) <= 6
    for think in ("sometimes", "-1", "9" * 5000):             # int() refuses the last
        with pytest.raises(UserError, match=f"--think {think[:9]}.*: must be one of always, never"):
            ChatConfig(think=think)


@pytest.mark.parametrize(("stage", "mode"), [
    ("star", "always"), ("internalize", "never"), ("think_budget", "auto")])
def test_a_policy_answers_as_it_was_taught_to(ladder, stage, mode):
    assert answers.forcing_of("", ladder / stage) == answers.MODES[mode]
    assert answers.forcing_of("always", ladder / stage) == Forcing()
    assert answers.forcing_of("6", ladder / stage) == Forcing(budget=6)


def test_a_checkpoint_without_a_result_thinks(tmp_path):
    assert answers.forcing_of("", tmp_path) == Forcing()


def test_a_bar_moves_while_it_thinks_on_a_terminal(monkeypatch, ladder):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    cfg = ChatConfig(str(ladder), device="cpu")
    who = answers.load_answerer(cfg, judged=False)
    tokenizer = who.tokenizer
    with torch.no_grad():             # it would rather end one step after another than its thought
        weight = who.policy.embedding.weight
        weight[tokenizer.ids_of(";")] = weight[tokenizer.eos].clone()
        weight[[tokenizer.eos, tokenizer.end_think]] *= -1
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    chat.think_visibly(who, cfg, PROBLEM.prompt, 0)
    bars = re.findall(r"thinking: +(\d+)%", screen.getvalue())
    assert bars[0] == "0" and len(set(bars)) > 3     # at steps, not at the ends of thoughts alone


def test_unreadable_line_is_one_error_line_and_the_rest_is_answered(monkeypatch, capsys, ladder):
    out, err, code = talk(monkeypatch, capsys, "2+x\n(2+3)\n", ChatConfig(str(ladder)))
    assert code == 2 and len(out.splitlines()) == 1
    assert sum("error" in line and "2+x" in line for line in err.splitlines()) == 1


def test_on_a_terminal_a_mistake_does_not_end_with_an_error(monkeypatch, capsys, ladder):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("2+x\n(2+3)\n"))
    assert chat.run(ChatConfig(str(ladder))) == 1
    assert "> " in capsys.readouterr().out


def test_several_samples_vote_with_the_critic(monkeypatch, capsys, ladder, tmp_path):
    cfg = ChatConfig(str(ladder), n=4, temperature=1.0)
    out, err, _ = talk(monkeypatch, capsys, "(2+3)*2\n", cfg)
    assert f"{ladder}/critic judges" in err and "of 4 samples" in out
    assert talk(monkeypatch, capsys, "(2+3)*2\n", cfg)[0] == out     # the seed decides
    for name, source in (("rl", "star"), ("rl_critic", "critic")):
        shutil.copytree(ladder / source, tmp_path / "run" / name)
    cfg = ChatConfig(str(tmp_path / "run"), n=4, temperature=1.0)
    assert "run/rl_critic judges" in talk(monkeypatch, capsys, "2+3\n", cfg)[1]
    with pytest.raises(UserError, match="temperature"):
        ChatConfig(n=4)


def test_the_last_finished_policy_answers(tmp_path, ladder):
    run = tmp_path / "run"
    shutil.copytree(ladder, run)
    assert find_policy(ChatConfig(str(run))) == run / "star"
    (run / "star" / "result.json").unlink()                     # not finished
    assert find_policy(ChatConfig(str(run))) == run / "sft"
    assert find_policy(ChatConfig(str(run / "pretrain"))) == run / "pretrain"
    assert find_policy(ChatConfig(str(run), checkpoint="x")).name == "x"
    with pytest.raises(UserError, match="neither a run folder"):
        find_policy(ChatConfig(str(tmp_path / "nothing")))
