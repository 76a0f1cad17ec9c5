"""Decomposition: operations at once or in pieces, one grammar, and modes that prescribe the way."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.problems import FAMILIES, decomposition, mistakes, split_of
from minireason.problems.authors import EXACT, Authors
from minireason.problems.corpus import Mixture, corpus_lines, marked_corpus

QUESTION = "((47*8)-89)="
ONCE = ("47*8=376", "376-89=287")
SPLIT = ("40*8=320", "7*8=56", "320+56=376", "376-80=296", "296-9=287")


def text_of(*steps: str, answer: str = "287") -> str:
    return f"<think>{';'.join(steps)}</think>{answer}<eos>"


def ways(prompt: str, *steps: str) -> list[tuple[str, int]]:
    taken, _ = decomposition.walk(decomposition.read(prompt), steps)
    return [(step.way, decomposition.hardness(step.operation)) for step in taken if step.way]


def test_both_ways_and_any_mixture_are_right_where_the_way_is_free():
    problem = decomposition.read(QUESTION)
    for steps in (ONCE, SPLIT, (ONCE[0], *SPLIT[3:]), (*SPLIT[:3], ONCE[1])):
        verdict = decomposition.verify(problem, text_of(*steps))
        assert verdict.correct and verdict.steps_valid and all(verdict.marks)
    assert ways(QUESTION, *SPLIT) == [("split", 4), ("split", 4)]
    assert ways(QUESTION, ONCE[0], *SPLIT[3:]) == [("once", 4), ("split", 4)]
    taken, _ = decomposition.walk(problem, SPLIT)
    assert [(step.operation, step.number) for step in taken] == [
        ((47, "*", 8), 0)] * 3 + [((376, "-", 89), 1)] * 2


@pytest.mark.parametrize(("mode", "steps"), [("once", ONCE), ("split", SPLIT)])
def test_a_mode_accepts_its_own_way_alone(mode, steps):
    problem = decomposition.read(f"{mode}:{QUESTION}")
    assert problem.steps == steps
    assert decomposition.verify(problem, text_of(*steps)).steps_valid
    for other in (ONCE if mode == "split" else SPLIT, (ONCE[0], *SPLIT[3:])):
        verdict = decomposition.verify(problem, text_of(*other))
        assert not verdict.correct and not verdict.steps_valid and all(verdict.marks)


@pytest.mark.parametrize(("steps", "marks"), [
    (("40*8=310", "7*8=56", "310+56=366", "366-89=277"), (False, True, True, True)),
    (("40*8=320", "7*8=56", "320+56=366", "366-80=286", "286-9=277"),
     (True, True, False, True, True)),
    (("47*8=376", "376-80=296"), (True, True)),                    # unfinished
    (("7*8=56", "56-89=287"), (False, False)), ((*ONCE, "287+0=287"), (True, True, False)),
    (("40*8=320", "320+56=376", "376-89=287"), (True, False, True))])
def test_a_wrong_step_is_marked_where_it_is(steps, marks):
    verdict = decomposition.verify(decomposition.read(QUESTION), text_of(*steps))
    assert verdict.marks == marks and not verdict.steps_valid and verdict.correct


@pytest.mark.parametrize(("operation", "hard", "wrong", "carries"), [
    ((376, "+", 47), 4, 313, 2), ((376, "+", 40), 2, 316, 1), ((20, "+", 31), 2, 51, 0),
    ((376, "-", 89), 4, 313, 2), ((65, "-", 23), 2, 42, 0), ((41, "-", 23), 3, 22, 1),
    ((47, "*", 8), 4, 326, 2), ((123, "*", 8), 5, 864, 2), ((21, "*", 4), 2, 84, 0),
    ((53, "+", 78), 4, 121, 2), ((995, "-", 10), 1, 985, 0)])
def test_hardness_counts_digits_and_carries(operation, hard, wrong, carries):
    assert decomposition.hardness(operation) == hard
    assert mistakes.without_carries(*operation) == (wrong, carries)


def test_examples_of_rules_are_what_authors_write_at_once_and_never_in_pieces():
    authors = Authors(0.8, 0.3, 0.0)
    for name, example in mistakes.UNCARRIED.values():
        found = decomposition.ways_of(authors, decomposition.operation_of(example))
        assert [o.text for o in found if o.mistake == name] == [example]
    by_hardness, generator = defaultdict(list), np.random.default_rng(0)
    for _ in range(400):
        problem = decomposition.sample(generator, 3)
        for operation in map(decomposition.operation_of, decomposition.facts(problem)):
            right = sum(o.probability for o in decomposition.ways_of(authors, operation)
                        if not o.mistake)
            pieces = decomposition.pieces_of(operation)
            assert pieces or right == pytest.approx(1)
            if pieces:
                assert decomposition.pieces_of(pieces[0]) == []
                by_hardness[decomposition.hardness(operation)].append(right)
    means = [np.mean(by_hardness[hard]) for hard in (2, 3, 4, 5)]
    assert all(a > b + 0.1 for a, b in pairwise(means))     # the harder, the worse at once


def test_authors_do_both_by_a_coin_and_keep_to_a_mode():
    generator, counts = np.random.default_rng(1), Counter()
    for i in range(600):
        problem = decomposition.sample(rng(i, "authors"), 2)
        mode = decomposition.given(problem)[0]
        text, marked = decomposition.written_by(Authors(), problem, generator, "cot")
        verdict = decomposition.verify(problem, text)
        assert list(verdict.marks) == [not mistake for _, mistake in marked]
        taken, end = decomposition.walk(problem, tuple(step for step, _ in marked))
        assert end.done == 2 and end.pieces == ()
        counts.update((mode, step.way) for step in taken if step.way)
        exact, _ = decomposition.written_by(EXACT, problem, generator, "cot")
        assert decomposition.verify(problem, exact).steps_valid
    assert counts["once", "split"] == counts["split", "once"] == 0
    both = counts["", "once"], counts["", "split"]
    assert abs(both[0] - both[1]) < 5 * sum(both) ** 0.5
    assert sum(both) > 1.5 * counts["once", "once"] > 0


def test_a_question_is_in_one_split_in_every_mode():
    for i in range(50):
        bare = decomposition.sample(rng(i, "splits"), 2).prompt.rpartition(":")[2]
        modes = [decomposition.read(f"{mode}:{bare}".removeprefix(":"))
                 for mode in decomposition.MODES]
        assert len({split_of(problem) for problem in modes}) == 1
        assert len({problem.key for problem in modes}) == 3
        assert len({problem.answer for problem in modes}) == 1


@pytest.mark.parametrize("text", ["(47*8)+3", "(47*12)-89", "7+12", "always:(47*8)-89", "47/2",
                                  "99*9*9", "once:split:47*8", "47*(8-3)", "47*8=376"])
def test_what_is_no_problem_is_an_error(text):
    with pytest.raises(UserError):
        decomposition.read(text)
    assert decomposition.read("Split: (47 × 8) − 89".lower()).prompt == f"split:{QUESTION}"


def test_the_corpus_holds_both_ways_and_marked_mistakes():
    family, mixture = FAMILIES["decomposition"], Mixture(0.2, 0.1, 3, max_level=3)
    lines = corpus_lines(mixture, family, rng(0, "lines"), 300)
    assert any(line.startswith("(") and "<think>" in line for line in lines)
    names = {name for line in marked_corpus(family, mixture, 300, 0) for _, name in line}
    assert {name for name, _ in mistakes.UNCARRIED.values()} <= names
