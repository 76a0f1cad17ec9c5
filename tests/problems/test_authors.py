"""Fallible authors: what they write is what their outcomes say, and the limits follow exactly."""

import itertools
import math
from collections import Counter, defaultdict
from functools import partial

import numpy as np
import pytest

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.problems import (
    FAMILIES,
    addition,
    chain,
    columns,
    countdown,
    countdown_authors,
    mistakes,
    split_of,
)
from minireason.problems.authors import (
    EXACT,
    Authors,
    answer_chances,
    fact_outcomes,
    limits,
    outcomes_of,
    stated_facts,
    written,
)
from minireason.problems.corpus import (
    Mixture,
    authored,
    corpus_lines,
    entropy_lines,
    line_probability,
    marked_corpus,
    per_token,
)
from tests.toys import parity

SHORT = {                             # rules fall on their steps
    "chain": ("(27+5)=", "((27+6)*2)=", "(((42-8)/2)+9)="),
    "addition": ("8+5=", "98+7=", "627+584="),
    "countdown": ("5,20,13>38=", "3,15,2,8>28=", "10,17,15,12>20=")}
ERRING = {"rule": 0.6, "rare": 0.3, "slip": 0.05}
FALLIBLE = Authors(**ERRING)
WRITTEN = {"chain": Mixture(max_level=8, common_level=8, **ERRING),
           "addition": Mixture(facts_per_line=4, max_level=7, **ERRING),
           "countdown": Mixture(facts_per_line=4, min_level=3, max_level=4, **ERRING)}
NAMES = sorted(SHORT)


def paths(family, problem, authors, state=None, number=0):
    """Every way to write a solution: [(probability, steps, last state)]."""
    found = outcomes_of(family)(problem, authors, number, state)
    if not found:
        return [(1.0, (), state)]
    return [(outcome.probability * p, (outcome.text, *steps), last) for outcome in found
            for p, steps, last in paths(family, problem, authors, outcome.state, number + 1)]


def cases():
    return [(FAMILIES[name], FAMILIES[name].read(text)) for name in NAMES for text in SHORT[name]]


@pytest.mark.parametrize(("family", "problem"), cases())
def test_outcomes_are_a_distribution_and_names_are_listed(family, problem):
    states, number = {None}, 0
    while states:
        reached = set()
        for state in states:
            found = family.outcomes(problem, FALLIBLE, number, state)
            if found:
                assert sum(outcome.probability for outcome in found) == pytest.approx(1)
                assert len({outcome.text for outcome in found}) == len(found)
                assert min(outcome.probability for outcome in found) > 0
                assert {outcome.mistake for outcome in found} <= {"", *family.MISTAKES}
                reached |= {outcome.state for outcome in found}
        states, number = reached, number + 1
    assert number == len(problem.steps) + 1


@pytest.mark.parametrize(("family", "problem"), cases())
def test_chances_of_answers_are_those_of_all_paths(family, problem):
    brute = defaultdict(float)
    for probability, _, last in paths(family, problem, FALLIBLE):
        brute[family.answer_of_state(problem, last)] += probability
    assert sum(brute.values()) == pytest.approx(1)
    assert answer_chances(family, problem, FALLIBLE) == pytest.approx(dict(brute))
    best = max(paths(family, problem, Authors(0.9, 0.9, 0.01)))      # greedy, by hand
    assert answer_chances(family, problem, Authors(0.9, 0.9, 0.01), greedy=True) == {
        family.answer_of_state(problem, best[2]): 1.0}


@pytest.mark.parametrize(("family", "problem"), cases())
def test_written_text_has_the_frequencies_of_the_outcomes(family, problem):
    generator, n = rng(0, "written"), 1500
    solutions, answers = Counter(), Counter()
    for _ in range(n):
        text, marked = written(family, problem, FALLIBLE, generator)
        steps, _ = family.parse(text)
        assert steps == tuple(step for step, _ in marked)
        solutions[steps] += 1
        answers[written(family, problem, FALLIBLE, generator, "direct")[0]] += 1
    expected = {steps: p for p, steps, _ in paths(family, problem, FALLIBLE)}
    direct = {f"</think>{answer}<eos>": p
              for answer, p in answer_chances(family, problem, FALLIBLE).items()}
    for counts, chances in ((solutions, expected), (answers, direct)):
        assert set(counts) <= set(chances)
        for text, p in chances.items():                  # five standard deviations, and one count
            assert abs(counts[text] - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1, text


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_bear_their_names_and_marks_are_the_verifiers(name):
    """A step without a mistake is exactly right from the state before it, any other is wrong."""
    family, generator = FAMILIES[name], rng(1, "marks")
    named = Counter()
    for i in range(1000):
        problem = family.sample(generator, family.LEVELS[i % 4 % len(family.LEVELS)])
        text, marked = written(family, problem, FALLIBLE, generator)
        verdict = family.verify(problem, text)
        assert verdict.well_formed
        assert list(verdict.marks) == [not mistake for _, mistake in marked]
        named.update(mistake for _, mistake in marked)
    assert set(named) == {"", *family.MISTAKES}          # every rule is met


@pytest.mark.parametrize("family", [*(FAMILIES[name] for name in NAMES), parity])
def test_the_exact_author_is_right_and_his_limits_are_1(family):
    generator = rng(2, "exact")
    problems = [family.sample(generator, family.LEVELS[i % 2]) for i in range(20)]
    assert limits(family, problems, EXACT) == dict.fromkeys(("single", "greedy", "majority"), 1.0)
    for problem in problems:
        text, marked = written(family, problem, EXACT, generator)
        assert family.verify(problem, text).steps_valid
        assert not any(mistake for _, mistake in marked)
        assert stated_facts(family, problem, EXACT, generator) == [
            (fact, "") for fact in family.facts(problem)]


def test_a_family_without_rules_is_written_exactly():
    problem = parity.read("0110")
    text, marked = written(parity, problem, FALLIBLE, rng(0, "x"))
    assert text == parity.render(problem, "cot") and marked == [(s, "") for s in problem.steps]
    exact, fallible = (corpus_lines(Mixture(0.3, 0.3, 1, max_level=2, rule=rule), parity,
                                    rng(0, "lines"), 40) for rule in (0.0, 0.6))
    assert {"</think>" in line for line in exact} == {True, False} and exact == fallible
    with pytest.raises(UserError, match="parity has no fallible authors"):
        authored(parity)


@pytest.mark.parametrize("values", [{"rule": 1.5}, {"rare": -0.1}, {"slip": 1.0}])
def test_chances_beyond_0_to_1_are_refused(values):
    with pytest.raises(UserError, match="chances of 0 to 1"):
        Mixture(**values)


def test_limits_by_hand():
    """27+5: 22 with 60%, else 32 with 95%. 27+8: 37 with 30%. 20+5: only slips."""
    problems = [chain.read(text) for text in ("27+5", "27+8", "20+5")]
    assert limits(chain, problems, FALLIBLE) == pytest.approx({
        "single": (0.4 * 0.95 + 0.7 * 0.95 + 0.95) / 3, "greedy": 2 / 3, "majority": 2 / 3})
    tied = limits(chain, problems[:1], Authors(rule=0.5, rare=0, slip=0))
    assert tied == {"single": 0.5, "greedy": 0.5, "majority": 0.5}
    # A carry forgotten leaves 22, whose half is 11 for anyone; 32 is halved to 11 too by a rule
    # (an odd ten dropped), so most answer 11.
    halved = answer_chances(chain, chain.read("(27+5)/2"), Authors(0.6, 0.3, 0))
    assert halved == pytest.approx({"11": 0.6 + 0.4 * 0.6, "16": 0.4 * 0.4})


# ---- the rules -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "right", "wrong", "unaffected"), [
    ("carry forgotten", "38+4=42", "32", "34+4"), ("carried twice", "38+7=45", "55", "32+7"),
    ("ten added instead", "38+9=47", "48", "30+9"),
    ("smaller digit from larger", "61-4=57", "63", "65-4"),
    ("borrow not paid back", "61-6=55", "65", "67-6"),
    ("ten taken instead", "61-9=52", "51", "69-9"),
    ("next row of the table", "9*6=54", "63", "9*5"),
    ("row before in the table", "9*9=81", "72", "9*4"),
    ("half of an odd ten dropped", "58/2=29", "24", "48/2"),
    ("quotient one too large", "36/4=9", "10", "35/5")])
def test_chains_rules_fall_where_they_say(name, right, wrong, unaffected):
    operation = right.partition("=")[0]
    found = {o.text: o for o in chain.outcomes(chain.read(operation), FALLIBLE, 0, None)}
    rule = next(rule for rule in mistakes.RULES if rule.name == name)
    chance = FALLIBLE.rare if rule.is_rare else FALLIBLE.rule
    assert found[f"{operation}={wrong}"][::3] == (chance, name)
    assert found[right].mistake == ""
    assert found[right].probability == pytest.approx((1 - chance) * 0.95)
    others = chain.outcomes(chain.read(unaffected), FALLIBLE, 0, None)
    assert {o.mistake for o in others} == {"", "slip"} and others[0].mistake == ""


@pytest.mark.parametrize(("name", "fact", "wrong", "unaffected"), [
    ("nought makes nought", "8+0+0", 0, "8+1+0"), ("nought makes nought", "8+0+1", 1, "0+4+0"),
    ("nine counted as ten", "9+6+0", 16, "8+6+0"), ("double one too large", "7+7+1", 16, "4+4+1"),
    ("taken as subtraction", "6+2+0", 4, "1+2+0"), ("carry forgotten", "8+4+0", 2, "5+4+0"),
    ("carry forgotten", "8+5+1", 4, "3+5+1"), ("carry not added", "4+7+1", 11, "4+7+0"),
    ("carried without need", "1+8+0", 19, "1+6+0")])
def test_additions_rules_fall_where_they_say(name, fact, wrong, unaffected):
    """In a second column whose first one makes the carry."""
    def second_column(terms: str) -> dict:
        a, b, carry = terms.split("+")
        problem = addition.read(f"1{a}{'7' if int(carry) else '1'}+1{b}6")
        state = addition.outcomes(problem, EXACT, 0, None)[0].state
        return {o.text: o for o in addition.outcomes(problem, FALLIBLE, 1, state)}

    rule = next(rule for rule in columns.RULES if rule.name == name)
    chance = FALLIBLE.rare if rule.is_rare else FALLIBLE.rule
    found = second_column(fact)[f"A->{wrong % 10} , C->{wrong // 10}"]
    assert (found.probability, found.mistake) == (chance, name)
    assert {o.mistake for o in second_column(unaffected).values()} == {"", "slip"}


def test_a_carry_is_lost_where_a_number_ends_but_only_his_own_carry():
    problem = addition.read("98+7")
    made, forgotten = (("9", "", "5", carry) for carry in (1, 0))
    assert addition.outcomes(problem, FALLIBLE, 1, made)[0] == (
        0.6, "A->9 , C->0", ("", "", "95", 0), "carry lost where a number ends")
    assert addition.outcomes(problem, FALLIBLE, 1, forgotten)[0][1::2] == ("A->9 , C->0", "")
    assert addition.answer_of_state(problem, ("", "", "05", 0)) == "5"


def test_the_examples_of_rules_are_what_authors_write():
    for rule in columns.RULES:
        a, b, carry = map(int, rule.example.partition("=")[0].split("+"))
        ways = {name: total for _, total, name in columns.totals(FALLIBLE, a, b, carry, False)}
        assert rule.example == f"{a}+{b}+{carry}={ways[rule.name]}"
    for rule in mistakes.RULES:
        problem = chain.read(rule.example.partition("=")[0])
        found = chain.outcomes(problem, FALLIBLE, 0, None)
        assert [o.text for o in found if o.mistake == rule.name] == [rule.example]


@pytest.mark.parametrize("operation", ["7+4", "96+8", "12*6", "22/2", "5*9"])
def test_a_wrong_result_that_is_right_or_leaves_the_range_is_none(operation):
    """7+4 gives 1 by the rule, 22/2 is 11 either way, 12*6 would be 84, 96+8 is impossible."""
    rule = {"7+4": "carry forgotten", "12*6": "next row of the table", "5*9": "row before in the "
            "table"}.get(operation)
    left, operator, right = next((a, op, b) for op in "+*/" for a, s, b in [operation.partition(op)]
                                 if s)
    found = mistakes.rule_of(int(left), operator, int(right))
    assert (found and found.name) == rule
    assert mistakes.rule_of(15, "*", 6) is None          # 15*7 would leave the range


@pytest.mark.parametrize(("text", "step", "name"), [
    ("5,20,13>38", "20-5=25,13", "smaller digit from larger"),      # and 25+13=38
    ("2,2,10>40", "", ""),                                          # no rule leads there
    ("3,15,2,8>28", "8+3=1,2,15", "carry forgotten")])
def test_countdowns_author_believes_his_rules(text, step, name):
    problem = countdown.read(text)
    found = {o.text: (o.probability, o.mistake)
             for o in countdown.outcomes(problem, Authors(0.6, 0.3, 0), 0, None)}
    by_rule = {text: way for text, way in found.items() if way[1]}
    assert by_rule.get(step, (0, "")) == (pytest.approx(0.6 if name else 0), name)
    assert name or all(way[1] in ("", countdown_authors.ONE_OFF) for way in found.values())


def test_countdowns_ways_hit_the_target_with_one_mistake():
    """All ways from brute force over the states: what is reached, and what is written."""
    def ends(state, mistaken, rare):
        if len(state) == 1:
            return {state[0]} if mistaken == (rare is not None) else set()
        found = set()
        for move in countdown.moves(state, partial(countdown_authors.results_by, rare)):
            wrong = move.after[0] != countdown.compute(*move[:3])
            if not (wrong and mistaken):
                found |= ends(move.after, mistaken or wrong, rare)
        return found

    generator, mistakes_met = rng(7, "ways"), Counter()
    for i in range(60):
        problem = countdown.sample(generator, 3 + (i % 6 == 0))
        numbers, target = countdown.given(problem)
        for rare in (None, False, True) if i < 30 else ():
            reached = countdown_authors.reached(tuple(sorted(numbers)), rare)
            assert {end for end in range(100) if reached >> end & 1} == ends(numbers, False, rare)
        for chance, steps, names in countdown_authors.ways(tuple(sorted(numbers)), target,
                                                           problem.steps, FALLIBLE):
            moves, named = list(map(countdown_authors.read_step, steps)), list(filter(None, names))
            assert chance >= 0 and moves[-1].after == (target,) and len(named) <= 1
            assert named or steps == problem.steps
            answer = countdown.answer_of_state(problem, steps)
            assert countdown.is_right(problem, answer) == (not named)
            mistakes_met.update(named or ["exact"])
    assert len(mistakes_met) > 6


def test_slips_are_near_misses_within_the_range():
    assert mistakes.near_misses(1) == [0, 2, 3, 11] and mistakes.near_misses(98) == [88, 96, 97, 99]
    slips = {o.text for o in chain.outcomes(chain.read("20+5"), FALLIBLE, 0, None)
             if o.mistake == "slip"}
    assert slips == {f"20+5={result}" for result in (15, 23, 24, 26, 27, 35)}


def test_an_operation_that_his_wrong_number_forbids_is_left_out():
    problem = chain.read("((27+5)/4)*9")                 # 27+5=22, and 22/4 has a remainder
    left_out = chain.outcomes(problem, FALLIBLE, 1, 22)[0]
    assert left_out[1:] == ("22/4=22", 22, "left out")
    assert chain.outcomes(problem, FALLIBLE, 2, 22)[0][1:3] == ("22*9=22", 22)


# ---- the corpus ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_every_line_has_tokens_and_asks_of_the_train_split(name):
    family, mixture = FAMILIES[name], WRITTEN[name]
    tokenizer = Tokenizer.build(family.TOKENS)
    for line in corpus_lines(mixture, family, rng(3, "lines"), 300):
        assert tokenizer.decode(tokenizer.encode(line)) == line and line.endswith("<eos>")
        prompt, opener, rest = line.partition("<think>" if "<think>" in line else "</think>")
        if opener:
            problem = family.read(prompt)
            assert split_of(problem) == "train" and family.parse(opener + rest) is not None


@pytest.mark.parametrize("name", NAMES)
def test_marked_corpus_joins_to_lines_and_marks_what_is_wrong(name):
    family = FAMILIES[name]
    lines = marked_corpus(family, WRITTEN[name], 200, seed=1)
    assert lines == marked_corpus(family, WRITTEN[name], 200, seed=1)
    for pieces in lines:
        line = "".join(text for text, _ in pieces)
        wrong = {text for text, mistake in pieces if mistake}
        if "</think>" not in line:
            continue
        prompt, opener, rest = line.partition("<think>" if "<think>" in line else "</think>")
        verdict = family.verify(family.read(prompt), opener + rest)
        assert pieces[0] == (prompt + opener, "")        # marks stand behind the question
        if opener == "</think>":
            assert verdict.correct == (not wrong)
        else:
            assert all(verdict.marks) == (not wrong)


def all_chains(level: int) -> list:
    """Every problem of the level that `sample` may give."""
    chains = [(first, first, []) for first in range(1, 100)]
    for _ in range(level):
        chains = [(first, move.result, [*moves, (operator, move.right)])
                  for first, value, moves in chains
                  for operator, choices in chain._MOVES[value].items() for move in choices]
    return [chain.build(first, moves) for first, _, moves in chains]


def probability_of(family, problems) -> float:
    return sum(math.exp(family.log_probability(problem)) for problem in problems)


def test_probabilities_of_problems_add_up_to_1():
    assert [probability_of(chain, all_chains(level)) for level in (1, 2)] == pytest.approx([1, 1])
    one_digit = [addition.build(a, b) for a in range(10) for b in range(10)]
    two_digits = [addition.build(a, b) for a in range(100) for b in range(100) if max(a, b) > 9]
    assert probability_of(addition, one_digit) == pytest.approx(1)
    assert probability_of(addition, two_digits) == pytest.approx(1)
    targets = {target: countdown.build((18, 3, 7), target)
               for target in countdown_authors.target_chances((3, 7, 18))
               if countdown_authors.allowed(target)}
    drawn, generator = Counter(), rng(8, "targets")      # as `sample` finds one
    for _ in range(4000):
        state = (18, 3, 7)
        while len(state) > 1 and (choices := countdown.moves(state)):
            operator = generator.choice(sorted({move.operator for move in choices}))
            state = generator.choice([" ".join(map(str, move.after)) for move in choices
                                      if move.operator == operator]).split()
            state = tuple(map(int, state))
        drawn[state[0]] += len(state) == 1
    for target, problem in targets.items():
        chance = (probability_of(countdown, [problem]) * countdown_authors.accepted(3) * 20 ** 3)
        assert abs(drawn[target] - 4000 * chance) < 5 * math.sqrt(4000 * chance) + 1


def test_line_probabilities_add_up_to_1_and_give_the_entropy():
    """Over all lines of one kind at level 1, with the exact share of the train split."""
    problems = [problem for problem in all_chains(1) if split_of(problem) == "train"]
    share = probability_of(chain, problems)
    chances = {}
    for kind, (facts, direct) in {"worked": (0, 0), "direct": (0, 1), "facts": (1, 0)}.items():
        mixture = Mixture(facts, direct, 1, max_level=1, **ERRING)
        lines = [{"worked": f"{p.prompt}<think>{o.text}</think>{o.state}<eos>",
                 "direct": f"{p.prompt}</think>{o.state}<eos>", "facts": f"{o.text}<eos>"}[kind]
                 for p in problems for o in chain.outcomes(p, mixture.authors, 0, None)]
        chances[kind] = [line_probability(mixture, chain, line, lambda _, level: share)
                         for line in lines]
        assert sum(chances[kind]) == pytest.approx(1)
        drawn, nats = entropy_lines(mixture, chain, n=3000)
        found, error = per_token(nats, np.full(3000, 10))
        unseen = {line: line_probability(mixture, chain, line, None) for line in lines}
        exact = -sum(p * math.log(unseen[line])
                     for p, line in zip(chances[kind], lines, strict=True)) / 10
        assert 0 < error < 0.01 and found == pytest.approx(exact, abs=5 * error + 1e-3)
        assert nats.tolist() == pytest.approx([-math.log(unseen[line]) for line in drawn])
        if kind != "facts":               # a fact may stand in a problem of another split, too
            by_split = -sum(p * math.log(p) for p in chances[kind])
            assert 10 * exact - by_split == pytest.approx(-math.log(share))


def test_who_cannot_know_the_split_gives_every_problem_its_chance():
    """By brute force over all chains of one step: lines of train and other problems sum to 1."""
    for facts in (0, 1):
        mixture = Mixture(facts, 0, 1, max_level=1, **ERRING)
        lines = {f"{o.text}<eos>" if facts else f"{p.prompt}<think>{o.text}</think>{o.state}<eos>"
                 for p in all_chains(1) for o in chain.outcomes(p, mixture.authors, 0, None)}
        chances = [line_probability(mixture, chain, line, None) for line in lines]
        assert sum(chances) == pytest.approx(1)


def test_nats_per_token_are_a_ratio_of_means_with_its_error():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(300):
        tokens = generator.integers(5, 50, 400)
        found.append(per_token(2.0 * tokens + generator.normal(0, 10, 400), tokens))
    ratios, errors = np.array(found).T
    assert ratios.mean() == pytest.approx(2, abs=0.01)
    assert errors.mean() == pytest.approx(ratios.std(), rel=0.15)       # 300 draws: 4%, 3 sigma


def test_the_probability_of_facts_sums_over_all_chains_that_have_them():
    """By brute force over all chains of two steps, a chain of equal facts and wrong ones too."""
    mixture = Mixture(1, 0, 2, **ERRING)
    problems = [problem for problem in all_chains(2) if split_of(problem) == "train"]
    for line in ("5-2=3;3+2=5", "3+2=5;5-2=5", "27+5=22;32-4=28", "0+3=3;3-3=0", "8-8=0;0*2=2"):
        total, facts = 0.0, line.split(";")
        sought = sorted(fact.partition("=")[0] for fact in facts)
        for problem in problems:
            if sorted(step.partition("=")[0] for step in problem.steps) == sought:
                ways = fact_outcomes(chain, problem, mixture.authors)
                total += sum(first.probability * second.probability / 2
                             for first, second in itertools.product(*ways)
                             for order in ((first, second), (second, first))
                             if [o.text for o in order] == facts) * math.exp(
                                 chain.log_probability(problem))
        assert total > 0
        assert line_probability(mixture, chain, f"{line}<eos>", lambda *_: 1) == pytest.approx(
            total), line


@pytest.mark.parametrize("name", NAMES)
def test_facts_in_any_order_are_traced_to_their_problem(name):
    family, generator = FAMILIES[name], rng(6, "facts")
    for i in range(30):
        problem = family.sample(generator, 3 + i % 2)
        facts = [fact for fact, _ in stated_facts(family, problem, FALLIBLE, generator)]
        shuffled = [facts[j] for j in generator.permutation(len(facts))]
        found = list(authored(family).problems_of_facts(shuffled))
        assert (problem.prompt, facts) in [(p.prompt, order) for p, order in found]
        for other, order in found:
            assert sorted(order) == sorted(facts)
            assert ([fact.partition("=")[0] for fact in order]
                    == [fact.partition("=")[0] for fact in family.facts(other)])


def test_a_line_that_the_mixture_cannot_write_has_no_probability():
    mixture = Mixture(0.2, 0.2, 2, 2, 3, **ERRING)
    assert line_probability(mixture, chain, "((20+5)+9)=<think>20+5=25;25+9=34</think>34<eos>") > 0
    for line in ("(20+5)=<think>20+5=25</think>25<eos>",             # level 1
                 "((20+5)+9)=<think>20+5=25;25+9=29</think>29<eos>",
                 "((20+5)+9)=<think>20+5=25</think>25<eos>",
                 "((20+5)+9)=<think>20+5=25;25+9=34</think>35<eos>", "20+5=25;7+4=11<eos>"):
        assert line_probability(mixture, chain, line) == 0, line


def test_facts_are_traced_to_every_chain():
    """3+2, 5-2: one chain either way round (3+2, 5-2 and 5-2, 3+2); equal facts count twice."""
    found = [(p.prompt, order) for p, order in chain.problems_of_facts(["5-2=3", "3+2=7"])]
    assert found == [("((5-2)+2)=", ["5-2=3", "3+2=7"]), ("((3+2)-2)=", ["3+2=7", "5-2=3"])]
    assert len(list(chain.problems_of_facts(["6-2=4", "9-2=7"]))) == 0
    assert len(list(chain.problems_of_facts(["0*2=0", "0*2=1"]))) == 0     # no chain starts at 0
    assert len(list(chain.problems_of_facts(["2*2=4", "4/2=2", "2*2=5"]))) == 2


@pytest.mark.parametrize(("name", "levels"), [
    ("chain", 1), pytest.param("addition", 1, marks=pytest.mark.long), ("addition", 2),
    ("countdown", 2)])
def test_frequencies_of_lines_are_their_probabilities(name, levels):
    """All kinds at once: how often the most frequent of 8,000 short lines come up, and the others.

    The two constants that are estimated may be off by 2%.
    """
    mixture, n = Mixture(0.5, 0.25, levels, 1 + (name == "countdown"), levels, **ERRING), 8000
    counts = Counter(corpus_lines(mixture, FAMILIES[name], rng(5, "lines"), n))
    expected = {line: n * line_probability(mixture, FAMILIES[name], line) for line in counts}
    assert min(expected.values()) > 0
    frequent = [line for line, number in expected.items() if number > 3] + ["rare"]
    expected["rare"] = n - sum(map(expected.get, frequent[:-1]))
    counts["rare"] = n - sum(counts[line] for line in frequent[:-1])
    for line in frequent:
        room = 5 * np.sqrt(expected[line]) + 1 + (0.02 * n if line == "rare" else 0)
        assert abs(counts[line] - expected[line]) < room, line
