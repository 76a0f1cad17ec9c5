"""Instructions: right and obedient are judged apart, held-out pairs stay out, authors overlook."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, chain, instructions, split_of
from minireason.problems.authors import EXACT, Authors
from minireason.problems.base import check_prefix
from minireason.problems.corpus import Mixture, corpus_lines, marked_corpus
from minireason.problems.frozen import load_frozen

QUESTION = "(((23+4)*3)-5)="                      # 27, 81, 76
PLAIN = "23+4=27;27*3=81;81-5=76"
OBEYED = {                                        # {asked: (thought, answer)}
    "only": ("", "76"), "most2": ("23+4=27;27*3=81", "76"), "stop2": ("23+4=27;27*3=81", "81"),
    "reversed": ("81-5=76;27*3=81;23+4=27", "76"), "begin": (f"5;{PLAIN}", "76"),
    "twice": (PLAIN, "76,76"), "plus": (PLAIN, "77"), "parity": (PLAIN, "76even"),
    "stop2,plus": ("23+4=27;27*3=81", "82"), "twice,parity": (PLAIN, "76even,76even"),
    "stop2,reversed": ("27*3=81;23+4=27", "81"), "most1,begin": ("5;23+4=27", "76")}


def verdict_of(asked: str, thought: str, answer: str):
    problem = instructions.read(f"{asked}:{QUESTION}")
    return instructions.verify(problem, f"<think>{thought}</think>{answer}<eos>")


@pytest.mark.parametrize("asked", OBEYED)
def test_what_is_asked_for_is_the_ideal(asked):
    problem = instructions.read(f"{asked}:{QUESTION}")
    thought, answer = OBEYED[asked]
    assert instructions.render(problem, "cot") == f"<think>{thought}</think>{answer}<eos>"
    verdict = verdict_of(asked, thought, answer)
    assert verdict.correct and verdict.steps_valid and verdict.obedient
    assert len(verdict.obeyed) == len(problem.prompt.split(":")[0].split(","))


@pytest.mark.parametrize("asked", [asked for asked in OBEYED if "," not in asked])
def test_a_plain_solution_is_right_and_disobeys(asked):
    verdict = verdict_of(asked, PLAIN, "76")
    assert verdict.correct and verdict.steps_valid
    assert verdict.obeyed == (False,) and not verdict.obedient


@pytest.mark.parametrize(("asked", "thought", "answer", "obeyed"), [
    ("only", "", "75", True), ("most2", "23+4=28", "1", True), ("most2", PLAIN, "75", False),
    ("stop2", "23+4=28;28*3=84", "84", True), ("stop2", "23+4=28;28*3=84", "83", False),
    ("plus", "23+4=28;28*3=84;84-5=79", "80", True), ("plus", PLAIN, "78", False),
    ("reversed", "84-5=79;28*3=84;23+4=28", "79", True), ("parity", PLAIN, "75odd", True),
    ("parity", PLAIN, "75even", False), ("begin", "5", "75", True), ("begin", "4", "75", False),
    ("twice", "", "75,75", True)])
def test_obedience_is_about_his_own_numbers(asked, thought, answer, obeyed):
    verdict = verdict_of(asked, thought, answer)
    assert verdict.well_formed and not verdict.correct and verdict.obeyed == (obeyed,)


@pytest.mark.parametrize(("thought", "answer"), [
    (f"5;{PLAIN}", "77"), (PLAIN, "77,77"), (PLAIN, "77odd")])
def test_tricks_that_are_not_asked_for_are_disobedience(thought, answer):
    """Else a policy that does everything always would obey."""
    assert verdict_of("plus", PLAIN, "77").obeyed == (True,)
    assert verdict_of("plus", thought, answer).obeyed == (False,)
    assert verdict_of("plus", thought, answer).correct


def test_two_answers_are_one_or_none():
    assert not verdict_of("twice", PLAIN, "76,77").well_formed
    assert verdict_of("twice", PLAIN, "76,77").obeyed == (False,)
    assert instructions.answer_key("76even,76even") == instructions.answer_key("76") == "76"


def test_backwards_one_wrong_step_is_one_wrong_mark():
    assert verdict_of("reversed", "84-5=79;28*3=84;23+4=28", "79").marks == (True, True, False)
    assert verdict_of("reversed", "81-5=76;28*3=84;24+4=28", "76").marks == (True, False, False)
    assert verdict_of("twice", "81-5=76;27*3=81;23+4=27", "76,76").marks == (False, False, False)


@pytest.mark.parametrize("asked", OBEYED)
def test_every_prefix_of_the_ideal_is_right(asked):
    problem = instructions.read(f"{asked}:{QUESTION}")
    whole = instructions.render(problem, "cot")
    ends = [i + 1 for i, letter in enumerate(whole) if letter == ";"]
    for end in [*ends, whole.index("</think>") + 8, len(whole)]:
        assert check_prefix(FAMILIES["instructions"], problem, whole[:end], whole), whole[:end]


@pytest.mark.parametrize("text", [
    "(23+4)*3", "twice,twice:(23+4)*3", "most2:(23+4)*3", "most:(23+4)*3", "twice1:(23+4)*3",
    "only,begin:(23+4)*3", "twice,:(23+4)*3", "a:(23+4)*3", "plus,twice,parity:(23+4)*3"])
def test_what_cannot_be_asked_is_an_error(text):
    with pytest.raises(UserError, match=r"cannot read .* one or two of only, most"):
        instructions.read(text)
    assert instructions.read(" parity, twice : (23 + 4)*3").prompt == "twice,parity:((23+4)*3)="


def pair_of(problem) -> tuple[str, ...]:
    return tuple(instructions.task_of(problem.prompt).asked)


def test_held_out_pairs_are_sampled_nowhere_else():
    drawn = Counter(pair_of(instructions.sample(rng(i, "pairs"), 4)) for i in range(1500))
    assert set(drawn) == {(kind,) for kind in instructions.KINDS} | set(instructions.PAIRS)
    assert not set(drawn) & set(instructions.HELD_OUT)
    assert {kind for pair in instructions.HELD_OUT for kind in pair} == set(instructions.KINDS)
    for split in ("test", "validation"):
        kind = "held" if split == "test" else "held-validation"
        for level in (2, 4):
            found = load_frozen(f"instructions-{kind}-k{level}")
            assert {split_of(problem) for problem in found} == {split}
            assert {pair_of(problem) for problem in found} <= set(instructions.HELD_OUT)
            tested = load_frozen(f"instructions-{split}-k{level}")
            assert not {pair_of(problem) for problem in tested} & set(instructions.HELD_OUT)


def test_the_same_question_is_in_one_split_whatever_is_asked():
    for i in range(50):
        problem = instructions.sample(rng(i, "splits"), 3)
        bare = problem.prompt.partition(":")[2]
        assert split_of(problem) == split_of(chain.read(bare)) == split_of(
            instructions.read(f"plus:{bare}"))


def test_authors_obey_unless_they_overlook():
    """Each instruction is overlooked with the chance of a rare rule; the exact author never is."""
    generator, n = np.random.default_rng(3), 3000
    problem, careful = instructions.read(f"twice,plus:{QUESTION}"), Authors(0.5, 0.0, 0.1)
    careless, counts = replace(careful, rare=0.25), Counter()
    for _ in range(n):
        text, marked = instructions.written_by(careful, problem, generator, "cot")
        verdict = instructions.verify(problem, text)
        assert verdict.obedient and list(verdict.marks) == [not mistake for _, mistake in marked]
        text, _ = instructions.written_by(careless, problem, generator, "cot")
        counts[instructions.verify(problem, text).obeyed] += 1
    assert abs(counts[True, True] / n - 0.75 ** 2) < 5 * (0.56 * 0.44 / n) ** 0.5
    for asked in OBEYED:
        problem = instructions.read(f"{asked}:{QUESTION}")
        text, _ = instructions.written_by(EXACT, problem, generator, "cot")
        assert text == instructions.render(problem, "cot")


def test_the_corpus_is_of_known_tokens_and_bears_marks():
    mixture = Mixture(0.2, 0.2, 3, max_level=5)
    tokenizer = Tokenizer.build(instructions.TOKENS)
    for line in corpus_lines(mixture, FAMILIES["instructions"], rng(0, "lines"), 200):
        assert tokenizer.decode(tokenizer.encode(line)) == line
    lines = marked_corpus(FAMILIES["instructions"], mixture, 100, 0)
    assert any(mistake for line in lines for _, mistake in line)
