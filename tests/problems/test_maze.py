"""Mazes and path-star graphs: plans are shortest, searches exact, authors err as they say."""

import ast
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from verifier_judge import cells, fewest_moves, layers, maze_of

from minireason import chat
from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, maze, pathstar
from minireason.problems.authors import (
    EXACT,
    Authors,
    answer_chances,
    limits,
    stated_facts,
    written,
)
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.serve.answers import outcome_of
from minireason.stages import pretrain

ROOT = Path(__file__).resolve().parents[2]
FALLIBLE = Authors(0.6, 0.3, 0.05)
EXAMPLE = maze.read("5:a0>e4#b1c2d0")


def mazes(n: int = 40, levels: tuple[int, ...] = (3, 4, 5, 6, 8)) -> list:
    return [maze.sample(rng(i, "mazes"), levels[i % len(levels)]) for i in range(n)]


# ---- mazes --------------------------------------------------------------------------------------

def test_the_example_of_the_docstring():
    assert EXAMPLE.prompt == "5:a0>e4#d0b1c2="
    for line in re.findall(r"(?m)^    (\w+) +(<.*)$", maze.__doc__):
        head, _, tail = line[1].partition("...")
        text = maze.render(EXAMPLE, line[0])
        assert text.startswith(head) and text.endswith(tail), line
    assert maze.drawing(EXAMPLE, EXAMPLE.answer) == (
        "  a b c d e\n0 S . . # .\n1 * # . . .\n2 * . # . .\n3 * . . . .\n4 * * * * G")


@pytest.mark.parametrize("name", ["maze-test-n4", "maze-test-n6", "maze-validation-n10"])
def test_plans_of_the_frozen_sets_are_shortest(name):
    """By a search that grows what can be reached, which shares no code with the family."""
    _, split, level = name.split("-")
    for problem in frozen_sets("maze", split, 60, (int(level[1:]),))[name]:
        free, start, goal = maze_of(problem.prompt)
        moves = fewest_moves(free, start, goal)
        assert len(cells(problem.answer)) == moves >= problem.level
        assert maze.is_right(problem, problem.answer)
        assert list(problem.steps) == layers(free, start, goal)


def test_exactly_the_shortest_ways_are_right():
    """Every way of up to the least number of moves and one more, on small mazes."""
    def ways(here: complex, left: int, text: str = ""):
        yield here, text
        for by in (1, -1, 1j, -1j) if left else ():
            there = here + by
            if 0 <= there.real < 4 and 0 <= there.imag < 4:
                name = f"{'abcd'[int(there.real)]}{int(there.imag)}"
                yield from ways(there, left - 1, text + name)

    several = 0
    for problem in mazes(6, (4,)):
        free, start, goal = maze_of(problem.prompt)
        least, right = fewest_moves(free, start, goal), 0
        for end, text in ways(start, min(least + 1, 6)):
            good = end == goal and len(text) == 2 * least and free >= {*cells(text)}
            assert maze.is_right(problem, text) == good, text
            right += good
        several += right > 1
    assert several


def test_dropping_only_leaves_out():
    """Each level of Dualformer's leaves out more, in order, and every step that stays is right."""
    shorter = Counter()
    for problem in mazes():
        before = tuple(step.lstrip("0123456789") for step in problem.steps)
        for style in ("drop1", "drop2", "drop3"):
            text = maze.render(problem, style)
            steps, _ = maze.parse(text)
            left = iter(before)
            assert all(step in left for step in steps) and maze.verify(problem, text).steps_valid
            shorter[style] += len(steps) < len(before)
            assert style == "drop1" or not any(step.endswith(":") for step in steps)
            before = steps
    assert shorter["drop1"] == 0 and shorter["drop2"] > 20 and shorter["drop3"] > 20


def test_a_gap_or_another_order_in_a_whole_search_is_not_valid():
    for problem in mazes(10):
        for i in range(len(problem.steps)):
            gap = (*problem.steps[:i], *problem.steps[i + 1:])
            text = f"<think>{';'.join(gap)}</think>{problem.answer}<eos>"
            assert not gap or all(maze.verify(problem, text).marks)
            assert not maze.verify(problem, text).steps_valid
        swapped = (problem.steps[1], problem.steps[0], *problem.steps[2:])
        assert maze.check_steps(problem, swapped) == [True, False, *[True] * (len(swapped) - 2)]


@pytest.mark.parametrize(("text", "complaint"), [
    ("2:a0>b1", "side of 3 to 10"), ("11:a0>b1", "side of 3 to 10"), ("5:a0>f1", "different cells"),
    ("5:a0>a0", "different cells"), ("5:a0>c3#a0", "different cells"), ("5:a0>c3#b1b1", "cannot"),
    ("5:a0>c3#", "cannot read"), ("5:a0c3", "cannot read"), ("", "cannot read"),
    ("3:a0>c2#b0b1b2", "walls part a0 from c2"), ("3:a0>c2#a1b0", "walls part")])
def test_what_is_no_maze_is_refused(text, complaint):
    with pytest.raises(UserError, match=complaint):
        maze.read(text)


def test_walls_are_read_in_any_order():
    assert maze.read(" 5 : a0 > e4 # d0 c2 b1 = ") == EXAMPLE
    assert maze.read("3:a0>b2").answer in ("a1a2b2", "a1b1b2", "b0b1b2")


def test_completions_fit_their_room():
    tokenizer = Tokenizer.build(maze.TOKENS)
    for problem in mazes(30, (4, 6, 10)):
        for style in maze.STYLES:
            text = maze.render(problem, style)
            assert len(tokenizer.encode(text)) <= maze.max_new(problem.level)
    with pytest.raises(UserError, match="--style drop9"):
        maze.render(EXAMPLE, "drop9")


def test_a_model_may_write_the_unknown_token():
    """Beside cells, of whose single letters there are no tokens; other letters are still named."""
    tokenizer = Tokenizer.build(maze.TOKENS)
    text = "<think>0d2:<unk>c3;</think>a0<eos>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    for wrong, named in (("d2x", "x"), ("<unk>d2k9", "k"), ("d2d", "d")):
        with pytest.raises(UserError, match=f"cannot encode '{named}' in"):
            tokenizer.encode(wrong)


# ---- their authors ------------------------------------------------------------------------------

def test_authors_write_by_their_chances_and_their_marks_are_the_verifiers():
    named, generator = Counter(), rng(0, "authors")
    for problem in mazes(150, (4, 5, 6)):
        for _ in range(4):
            text, marked = written(maze, problem, FALLIBLE, generator)
            verdict = maze.verify(problem, text)
            assert verdict.well_formed
            assert list(verdict.marks) == [not mistake for _, mistake in marked]
            named.update({mistake for _, mistake in marked})
    assert set(named) == {"", *maze.MISTAKES}
    counts, n = Counter(), 3000
    for _ in range(n):
        steps, _ = maze.parse(written(maze, EXAMPLE, FALLIBLE, generator)[0])
        counts[steps] += 1
    expected = {steps: chance for chance, steps, _ in maze.ways(EXAMPLE, FALLIBLE)}
    assert set(counts) <= set(expected) and sum(expected.values()) == pytest.approx(1)
    for steps, chance in expected.items():               # five standard deviations, and one count
        assert abs(counts[steps] - n * chance) <= 5 * (n * chance * (1 - chance)) ** 0.5 + 1


def test_outcomes_are_distributions_and_the_limits_follow():
    for problem in mazes(12, (4, 5)):
        brute = defaultdict(float)
        for chance, steps, _ in maze.ways(problem, FALLIBLE):
            brute[maze.plan_of(steps, maze.given(problem)[1])] += chance
            for number in range(len(steps)):
                found = maze.outcomes(problem, FALLIBLE, number, steps[:number] or None)
                assert sum(outcome.probability for outcome in found) == pytest.approx(1)
                assert len({outcome.text for outcome in found}) == len(found)
        assert answer_chances(maze, problem, FALLIBLE) == pytest.approx(brute)
        right = sum(chance for plan, chance in brute.items() if maze.is_right(problem, plan))
        assert limits(maze, [problem], FALLIBLE)["single"] == pytest.approx(right)
    assert limits(maze, mazes(10), EXACT) == dict.fromkeys(("single", "greedy", "majority"), 1.0)


def test_rules_fall_where_they_say():
    """A way round that depth first finds, and a wall beside the goal that is walked through."""
    deep = {name for authors in (Authors(1, 0, 0),) for _, _, names in maze.ways(
        EXAMPLE, authors) for name in names}
    assert deep == {"", maze.DEEP}
    problem = maze.read("4:a0>d0#b0c0b1")
    ((chance, steps, names), (rest, *_)) = maze.ways(problem, Authors(0, 0.3, 0))
    assert (chance, rest) == (0.3, 0.7) and steps[0] == "0d0:d1c0" and names[0] == maze.OVERLOOKED
    slips = maze.ways(EXAMPLE, Authors(0, 0, 0.1))
    assert "3b4:b3" in slips[0][1] and "3b4:b3" in maze.MISTAKES[maze.SLIP]
    assert "1e3:d3e2" in maze.ways(EXAMPLE, Authors(1, 0, 0))[0][1]
    assert slips[0][0] == 0.1 and len(maze.plan_of(slips[0][1], "a0")) >= len(EXAMPLE.answer)
    assert maze.ways(maze.read("3:a0>a1"), FALLIBLE)[-1][1] == ("0a1:b1a2a0",)


def test_the_mixture_writes_mazes_and_facts_are_moves():
    mixture = Mixture(0.3, 0.2, 4, 4, 5, 5)
    tokenizer = Tokenizer.build(maze.TOKENS)
    for line in corpus_lines(mixture, maze, rng(0, "lines"), 60):
        assert tokenizer.decode(tokenizer.encode(line)) == line
    assert stated_facts(maze, EXAMPLE, FALLIBLE, rng(0, "facts"))[:2] == [("a0>a1", ""),
                                                                          ("a1>a2", "")]


def test_pretraining_on_mazes_dies_resumes_and_ends_the_same(tmp_path, run_with_deaths):
    cfg = pretrain.Config(out=str(tmp_path / "a"), family="maze", device="cpu", d_model=16,
                          n_layers=1, n_heads=1, head_dim=16, d_ff=16, steps=4, rows_per_step=4,
                          max_len=96, warmup=1, save_every=2, eval_n=1,
                          mixture=Mixture(0.1, 0.2, 4, 4, 4, 4))
    assert run_with_deaths(lambda: pretrain.run(cfg), 3) > 1
    result = pretrain.run(replace(cfg, out=str(tmp_path / "b")))
    hashes = [checkpoint.weights_hash(tmp_path / name) for name in "ab"]
    assert hashes[0] == hashes[1] and "entropy_per_token" not in result


def test_chat_draws_the_maze():
    cfg = chat.Config(run="none", show_thoughts=True)
    found = outcome_of(EXAMPLE, [maze.render(EXAMPLE, "drop2")], None)
    said = chat.reply(cfg, found).split("\n")
    assert said[0] == "  e4:d4e3   [right]" and said[-7] == f"{EXAMPLE.answer}   [right]"
    assert "\n".join(said[-6:]) == maze.drawing(EXAMPLE, EXAMPLE.answer)
    star = pathstar.sample(rng(0, "star"), 5)
    assert outcome_of(star, [pathstar.render(star, "cot")], None)["drawing"] == ""


# ---- path-star graphs ---------------------------------------------------------------------------

def test_a_star_says_nothing_of_its_first_node_but_by_its_end():
    """Two paths of n nodes that meet in the centre; the end that is asked for is either's."""
    firsts = Counter()
    for i in range(400):
        problem = pathstar.sample(rng(i, "stars"), 5)
        edges, ends = problem.prompt[:-1].split(":")
        pairs = [*map(tuple, edges.split(","))]
        heads = [head for _, head in pairs]
        path = problem.answer
        assert len(pairs) == 8 and len({*heads}) == 8 and len(path) == 5 == len({*path})
        assert ends == path[0] + path[-1]
        assert Counter(tail for tail, _ in pairs)[path[0]] == 2
        own, _ = [at for at, (tail, head) in enumerate(pairs) if tail == path[0]]
        firsts[pairs[own][1] == path[1]] += 1
        assert pathstar.parse(pathstar.render(problem, "reverse")) == ((), problem.answer)
    assert abs(firsts[True] - 200) < 50                  # five standard deviations


def test_one_wrong_node_is_counted_once():
    problem = pathstar.read("gl,pf,fg,pa,ab,bc:pl")
    assert problem.steps == ("lg", "gf", "fp") and problem.answer == "pfgl"
    assert pathstar.check_steps(problem, ("lb", "ba", "ap")) == [False, True, True]
    assert pathstar.check_steps(problem, ("gf", "fp", "pg")) == [False, True, False]
    assert pathstar.check_steps(problem, ("lg", "fp", "gf")) == [True, False, False]
    assert not pathstar.verify(problem, "<think>lg;gf</think>pfgl<eos>").steps_valid


@pytest.mark.parametrize("text", [
    "ab,bc,ad,de:af", "ab,ba,ad,de:ab", "ab:ab", "ab,bc,ad:ac", "ab,bc,ad,dc:ac",
    "ab,bc,ad,de,gh,hg:ae", "ab,bc,bd,de:ae", "ab,ab,bc,ad,de:ae", "ab,bc,ad,de:de", "ab,ad:ad",
    "aa,ab:ab", ":ab", "ab,bc,ad,de,af,fg:ag", "ab,bz,ad,de:az",
    "cd,dc,da,db:ca", "cd,da,db,ee:ca"])
def test_what_is_no_star_is_refused(text):
    with pytest.raises(UserError, match="cannot read"):
        pathstar.read(text)


# ---- both ---------------------------------------------------------------------------------------

def test_nothing_else_in_the_library_names_them():
    """But the registry, the sizes, the families themselves and one study."""
    own = {"problems/__init__.py", "problems/maze.py", "problems/pathstar.py", "presets.py",
           "studies/planning.py", "studies/planning_recipes.py", "studies/planning_tables.py"}
    found = set()
    for path in (ROOT / "minireason").rglob("*.py"):
        if re.search(r"(?i)\bmazes?\b|path-?_?star", path.read_text()):
            found.add(str(path.relative_to(ROOT / "minireason")))
    assert found <= own and {"problems/__init__.py", "presets.py"} <= found
    for name in ("maze", "pathstar"):
        source = (ROOT / f"minireason/problems/{name}.py").read_text()
        assert len(source.splitlines()) <= 250 and ast.get_docstring(ast.parse(source))
        assert FAMILIES[name].NAME == name
