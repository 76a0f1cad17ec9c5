"""program and synthesis: a second interpreter agrees, the simplest program is meant."""

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from verifier_judge import judge, what_it_gives

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.measure.samples import passed_tests
from minireason.problems import interpreter, program, synthesis
from minireason.problems.authors import EXACT, Authors, answer_chances, outcomes_of, written
from minireason.problems.frozen import load_frozen
from minireason.problems.interpreter import INPUTS, output, programs
from minireason.stages.testtime import false_pass_rows

FALLIBLE = Authors(0.6, 0.3, 0.05)
LIBRARY = Path(interpreter.__file__).parents[1]


def test_the_interpreters_agree_and_are_total():
    dice = rng(0, "programs")
    texts = ["9:9:x=x+y", "9:9:x=x-x,2:x=x+y", "?x>5:9:x=x+1", "9:?x<50:x=x+y", "x=x-y,2:x=x+3",
             "9:9:y=y*0,3:9:y=y*0", *(program.sample(dice, 6).prompt.partition(">")[2][:-1]
                                      for _ in range(60))]
    nothing = 0
    for text in texts:
        for value in (0, 1, 5, 12, 50, 99):
            wanted = what_it_gives(text, value)
            assert output(text, value) == (wanted and wanted[0]), text
            nothing += wanted is None
    assert nothing > 20
    assert output("9:9:y=y*0,3:9:y=y*0", 1) is None              # 108 instructions
    for text in ("", "x", "x=x", "x=3+x", "x=x/2", "1:x=x+2", "2:3:2:x=x+2", "z=x+1", "x=x+100",
                 "x=x+02", "?x=5:x=x+1", "?x>5x=x+1", "x=x+1,", ",".join(["x=x+1"] * 17)):
        assert output(text, 3) is None, text


def test_a_trace_is_written_as_it_runs():
    problem = program.read("5 > x=x*3, ?x>9: x=x-4, ?y>5: x=x+2, 2: x=x+y")
    assert program.render(problem, "cot") == (
        "<think>x=5*3=15;15>9=1;x=15-4=11;5>5=0;x=11+5=16;x=16+5=21</think>21<eos>")
    assert (problem.level, problem.answer) == (7, "21")
    for text, why in (("5>x=x*30", "5*30 leaves 0 to 99"), ("5>x=x", "cannot read"),
                      ("5>9:9:y=y*0,3:9:y=y*0", "more than 100 instructions")):
        with pytest.raises(UserError, match=re.escape(why)):
            program.read(text)


def test_the_table_of_short_programs_is_what_they_give():
    known = programs()
    for i in rng(0, "table").integers(0, len(known.texts), 300):
        ends = [what_it_gives(known.texts[i], value) for value in INPUTS]
        assert known.outputs[i].tolist() == [interpreter.NO_OUTPUT if end is None else end[0]
                                             for end in ends]
        assert sum(end is not None for end in ends) >= interpreter.LEAST_DEFINED
    assert (np.diff(known.levels) >= 0).all()
    assert Counter(known.levels.tolist()).keys() == {1, 2, 3}


def test_the_answer_is_the_first_program_that_fits():
    known = programs()
    for i in range(12):
        problem = synthesis.sample(rng(i, "first"), 1 + i % 2)
        examples = [tuple(map(int, one.split(">"))) for one in problem.prompt[:-1].split(",")]
        for text in known.texts:
            if all((what_it_gives(text, x) or [None])[0] == wanted for x, wanted in examples):
                assert text == problem.answer
                break
    assert synthesis.read("8>20, 1>4, 4>7").answer == "?x>4:x=x+9,x=x+3"
    assert synthesis.read("1>4,4>7,8>20").split_key == synthesis.read("2>5,4>7,8>20").split_key
    for text in ("1>4,4>7", "1>4,1>4,8>20", "0>4,4>7,8>20", "1>4,4>7,8>20,9>21", "1>4,4>7,x>20"):
        with pytest.raises(UserError, match="3 examples INPUT>OUTPUT"):
            synthesis.read(text)
    with pytest.raises(UserError, match="no program of up to 3 parts"):
        synthesis.read("1>97,2>3,3>91")


def test_a_table_of_the_examples_is_wrong():
    """It passes all that is shown; three comparisons write any three examples."""
    problem = synthesis.read("1>4,4>7,8>20")
    tabled = "x=x+3,?y>7:x=x*0,?y>7:x=x+20"
    assert synthesis.self_check(problem, tabled) == (True, True, True)
    assert not synthesis.is_right(problem, tabled)
    assert not judge(problem, f"</think>{tabled}<eos>").correct
    assert synthesis.is_right(problem, "y=x+9,x=x+3,?y>13:x=y+3")         # another way to write it
    assert synthesis.self_check(problem, "x=x+3") == (True, True, False)
    hidden = synthesis.hidden_examples(problem)
    assert len({given for given, _ in hidden} - {1, 4, 8}) == 5


def test_programs_that_do_the_same_are_the_same_answer():
    key = synthesis.answer_key
    assert key("x=x+9,x=x+2") == key("x=x+2,x=x+9") == key("y=x+9,x=y+2") != key("x=x+9,x=x+3")
    beyond = "x=x+2,x=x*3,?x>20:x=x-9,?x<10:x=x+5"
    assert key(beyond) == beyond
    for level in (1, 2, 3):
        problem = synthesis.sample(rng(level, "key"), level)
        assert key(problem.answer) == problem.answer


@pytest.mark.parametrize("family", [program, synthesis])
def test_authors_write_what_their_outcomes_say(family):
    """Distributions, names, the verifier's marks, and the chances of answers by their frequency."""
    generator, named = rng(3, "authors"), Counter()
    for i in range(240):
        problem = family.sample(generator, 1 + i % 3)
        text, marked = written(family, problem, FALLIBLE, generator)
        verdict = family.verify(problem, text)
        assert verdict.well_formed and verdict == judge(problem, text)
        assert list(verdict.marks) == [not mistake for _, mistake in marked], text
        named.update(mistake for _, mistake in marked)
        text, marked = written(family, problem, EXACT, generator)
        assert family.verify(problem, text).steps_valid and len(marked) == len(problem.steps)
        state, number = None, 0
        while found := outcomes_of(family)(problem, FALLIBLE, number, state):
            assert sum(one.probability for one in found) == pytest.approx(1)
            assert len({one.text for one in found}) == len(found)
            state, number = found[-1].state, number + 1              # the unlikeliest way
    frequent = {"equal is beyond", "< read as >", "y still the input", "round from the old value",
                "two examples fitted", "one example fitted", "slip", "carry forgotten"}
    assert {"", *family.MISTAKES} >= {*named} >= {""} | (frequent & {*family.MISTAKES})
    text = "4>y=x*2,?x<9:x=x+y" if family is program else "1>5,6>25,9>37"
    problem, n = family.read(text), 1500
    chances = answer_chances(family, problem, FALLIBLE)
    counts = Counter(family.parse(written(family, problem, FALLIBLE, generator)[0])[1]
                     for _ in range(n))
    assert len(chances) > 1 and sum(chances.values()) == pytest.approx(1)
    for answer, chance in chances.items():
        assert abs(counts[answer] - n * chance) <= 5 * (n * chance * (1 - chance)) ** 0.5 + 1


@pytest.mark.parametrize(("text", "steps", "mistake"), [
    ("7>?x>7:x=x+2", ["7>7=1"], program.EQUAL), ("4>?x<9:x=x+2", ["4<9=0"], program.SIGN),
    ("5>y=y+3,x=x+y", ["y=5+3=8", "x=5+5=10"], program.OLD_Y),
    ("5>2:x=x+2", ["x=5+2=7", "x=5+2=7"], program.OLD_ROUND)])
def test_rules_of_programs_fall_where_they_say(text, steps, mistake):
    problem, state = program.read(text), None
    for number, step in enumerate(steps):
        found = {one.text: one for one in program.outcomes(problem, FALLIBLE, number, state)}
        state = found[step].state
    chance = FALLIBLE.rare if mistake in (program.SIGN, program.OLD_ROUND) else FALLIBLE.rule
    assert (found[step].mistake, found[step].probability) == (mistake, chance)


def test_passing_the_shown_examples_and_failing_the_hidden_ones_is_counted():
    problem = synthesis.read("1>4,4>7,8>20")
    answers = [problem.answer, "x=x+3", "x=x+3,?x>8:x=x+9", "x=x*4", "x=x+2", "x=x+"]
    texts = [f"</think>{answer}<eos>" for answer in answers]
    passed = passed_tests(problem, texts)
    assert passed == [[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    correct = [int(synthesis.verify(problem, text).correct) for text in texts]
    rows = false_pass_rows([{"passed": passed, "correct": correct}])
    chosen = [[0, 1, 2, 3, 0, 1, 2, 0, 2], [0, 1, 2, 0, 2, 0, 2], [0, 2]]   # of each choice of k
    wrong = [1 - sum(correct[i] for i in of) / len(of) for of in chosen]
    assert [row["accuracy"] for row in rows] == pytest.approx(wrong)
    assert [row["count"] for row in rows] == [9, 7, 2]
    assert correct[:2] == [1, 0]


def test_nothing_else_in_the_library_names_these_families():
    own = {"program.py", "synthesis.py", "interpreter.py"}
    naming = re.compile(r"""["'](?:program|synthesis)["']|problems(?:\.| import .*)"""
                        r"""(?:program|synthesis|interpreter)\b""")
    found = {path.name for path in LIBRARY.rglob("*.py")
             if path.name not in own and naming.search(path.read_text())}
    assert found == {"presets.py", "planning_recipes.py"}     # and the registry, as modules
    assert "program=program" in (LIBRARY / "problems" / "__init__.py").read_text()


def test_held_out_splits_have_several_short_programs_and_none_with_one_output():
    for split in ("test", "validation"):
        answers = {problem.answer for problem in load_frozen(f"synthesis-{split}-p1")}
        assert len(answers) >= 3
        for answer in answers:
            assert len({output(answer, value) for value in INPUTS}) > 2        # None may be one


def test_no_program_is_meant_by_more_than_a_few_frozen_problems():
    for kind, level in itertools.product(("test", "validation"), synthesis.LEVELS):
        problems = load_frozen(f"synthesis-{kind}-p{level}", 500)
        counts = Counter(problem.split_key for problem in problems)
        assert max(counts.values()) == synthesis.MOST_ALIKE and len(counts) > 2
