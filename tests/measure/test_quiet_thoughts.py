"""What quiet thoughts are worth: answers by thought length, kinds of tokens, marked steps."""

from dataclasses import replace

import pytest
import torch

from minireason.measure import quiet_thoughts
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.problems import chain
from minireason.report import runs as results
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.thoughts import QuietModel, Thought, think


@pytest.fixture
def policy(ladder):
    return checkpoint.load(ladder / "sft")


def test_answers_are_those_of_greedy_decoding(policy):
    """With w = 1 they are those of the policy's own completions, where these are well formed.

    Every other problem takes the policy's answer for its own: so many are surely right.
    """
    first, tokenizer = policy
    model = QuietModel.from_policy(first, 0)
    with torch.no_grad():
        model.mixing[2].bias.fill_(50.0)
    greedy, sets = {}, {}
    for name, problems in frozen_sets("chain", "test", 60, (1, 2)).items():
        greedy[name], sets[name] = complete(first, tokenizer, problems, "cot",
                                            Sampling(temperature=0)), []
        for i, (problem, (text,)) in enumerate(zip(problems, greedy[name], strict=True)):
            if i % 2 and (parsed := chain.parse(text)):
                problem = replace(problem, answer=parsed[1])
            sets[name].append(problem)

    def write(lines, roots, how):
        return think("own", model, tokenizer, lines, roots, how)

    rows, verdicts = quiet_thoughts.answer_rows(model, tokenizer, sets, (0, 40), write)
    compared = {"0": 0, "1": 0}
    for name, problems in sets.items():
        for problem, (text,), right in zip(problems, greedy[name], verdicts["40"][name],
                                           strict=True):
            verdict = chain.verify(problem, text)
            if verdict.well_formed:
                assert verdict.correct == (right == "1")
                compared[right] += 1
        (sound,) = results.select(rows, set=name, method="sound")
        valid = sum(chain.verify(p, t).steps_valid for p, (t,) in zip(problems, greedy[name],
                                                                      strict=True))
        assert sound["accuracy"] * len(problems) == pytest.approx(valid)
    assert min(compared.values()) > 15


def test_a_thought_of_one_token_is_sound_if_it_is_the_first_value(policy):
    tokenizer, problem = policy[1], chain.read("(3+4)*5")
    for text, length, sound in (("7", 1, True), ("35", 1, False), ("7", 12, False),
                                ("3+4=7;7*5=35", 12, True)):
        thought = Thought(0, tokenizer.encode(text))
        assert quiet_thoughts.is_sound(tokenizer, problem, thought, length) == sound


def test_kinds_of_tokens(policy):
    tokenizer = policy[1]
    (line,) = quiet_thoughts.lines_of(tokenizer, [chain.read("((23+4)*3)")])
    kinds = [quiet_thoughts.kind_of(tokenizer, line, t) for t in range(1, len(line[0]) - 1)]
    assert kinds == ["bracket", "bracket", "operand", "operator", "operand", "bracket", "operator",
                     "operand", "bracket", "=", "answer"]


def test_the_steps_of_a_thought_are_marked(policy):
    problem = chain.read("((23+4)*3)")
    thought = Thought(9, policy[1].encode("23+4=27;27*3=82"))
    text = quiet_thoughts.completion(policy[1], problem, thought)
    assert quiet_thoughts.marked_steps(problem, text) == [("23+4=27", "right"),
                                                          ("27*3=82", "wrong")]
