"""The problem families: round trips, verifiers that cannot be tricked, splits, frozen sets."""

import hashlib
import json
import re
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verifier_judge import judge

from minireason import problems
from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.problems import (
    FAMILIES,
    addition,
    base,
    chain,
    countdown,
    frozen,
    modular,
    multiplication,
    split_of,
)
from minireason.problems.base import sample_split
from minireason.problems.frozen import load_frozen
from minireason.studies import lee2023

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(FAMILIES)
SCRATCHPADS = [("chain", "cot"), ("countdown", "optimal"), ("multiplication", "cot"),
               ("modular", "cot"), ("maze", "cot"), ("pathstar", "cot"), ("decomposition", "cot"),
               ("program", "cot"), ("synthesis", "cot"),
               *(("addition", s) for s in ("simplified", "detailed", "star"))]
ALL_STYLES = [(name, style) for name in NAMES for style in FAMILIES[name].STYLES]
fast = settings(max_examples=60, deadline=None, derandomize=True)


def is_right(problem, answer: str) -> bool:
    """Is this a right answer? By the judge, which shares no code with the families."""
    return judge(problem, f"</think>{answer}<eos>").correct


def level_of(name: str, level: int) -> int:
    """The nearest level that the family has and solves quickly."""
    low, high = {"countdown": (2, 4), "maze": (4, 6), "pathstar": (3, 7),
                 "synthesis": (1, 3)}.get(name, (1, 99))
    return min(max(level, low), high)


@st.composite
def sampled(draw, name=None, levels=(1, 5)):
    """A random problem of one family."""
    name = name or draw(st.sampled_from(NAMES))
    seed, level = draw(st.integers(0, 2 ** 32)), draw(st.integers(*levels))
    return FAMILIES[name].sample(np.random.default_rng(seed), level_of(name, level))


@st.composite
def rendered(draw, pairs=tuple(ALL_STYLES)):
    """(family, problem, style, ideal completion)."""
    name, style = draw(st.sampled_from(pairs))
    problem = draw(sampled(name))
    return FAMILIES[name], problem, style, FAMILIES[name].render(problem, style)


def accepted(family, problem, text: str) -> bool:
    """Any sign of acceptance at all."""
    verdict = family.verify(problem, text)
    return verdict.correct or verdict.steps_valid or verdict.well_formed


# ---- the ideal completions ----------------------------------------------------------------------

@given(sampled())
@fast
def test_answer_is_the_exact_value(problem):
    assert is_right(problem, problem.answer)


@given(rendered())
@fast
def test_rendered_completion_verifies(case):
    family, problem, style, text = case
    verdict = family.verify(problem, text)
    empty = "only" in problem.prompt                             # an empty thought is asked for
    steps, answer = family.parse(text)
    found = answer != countdown.GAVE_UP                          # a search may end with nothing
    assert found or style in ("sos", "guided")
    assert verdict.correct == found and verdict.well_formed and all(verdict.marks)
    assert bool(verdict.marks) == (family.OPENER[style] == "<think>" and not empty)
    assert verdict.steps_valid == (found and (empty or bool(verdict.marks)))
    assert text.startswith(family.OPENER[style]) and text.endswith("<eos>")
    assert answer == problem.answer or style in ("sos", "guided")
    assert len(steps) == len(verdict.marks)


@given(rendered())
@fast
def test_tokenizer_round_trips_every_style(case):
    family, problem, _, text = case
    tokenizer = Tokenizer.build(family.TOKENS)
    line = problem.prompt + text
    assert tokenizer.decode(tokenizer.encode(line)) == line


def test_formats_are_those_of_the_papers():
    """Lee 2023 and STaR as published, `;` for a line break and our openers (addition.py)."""
    problem = addition.read("128+367")
    assert addition.render(problem, "plain") == "</think>495<eos>"
    assert addition.render(problem, "reverse") == "</think>$594$<eos>"
    assert addition.render(problem, "simplified") == (
        "<think>A->5 , C->1;A->9 , C->0;A->4 , C->0.</think>495<eos>")
    assert addition.render(addition.read("8465+3541"), "detailed") == (
        "<think>[8,4,6,5] has 4 digits.;[3,5,4,1] has 4 digits.;"
        "[8,4,6,5] + [3,5,4,1] , A=[] , C=0 , 5+1+0=6 , A->6 , C->0;"
        "[8,4,6] + [3,5,4] , A=[6] , C=0 , 6+4+0=10 , A->0 , C->1;"
        "[8,4] + [3,5] , A=[0,6] , C=1 , 4+5+1=10 , A->0 , C->1;"
        "[8] + [3] , A=[0,0,6] , C=1 , 8+3+1=12 , A->2 , C->1;"
        "[] + [] , A=[2,0,0,6] C=1 , END</think>12006<eos>")
    assert addition.render(addition.read("29+57"), "star") == (
        "<think>2 9 + 5 7 , C: 0;2 + 5 , 6 C: 1;, 8 6 C: 0;0 8 6</think>86<eos>")
    with pytest.raises(UserError, match="no style 'fancy'"):
        addition.render(problem, "fancy")


def test_multiplication_is_written_as_in_the_paper():
    """The example of Deng 2024's repository; of its spaces and signs `;` and brackets are left."""
    line = ("9 1 7 3 * 9 4 3 3||1 7 4 3 3 + 0 6 7 8 4 1 ( 1 3 2 2 8 1 ) + 0 0 7 5 1 1 1 "
            "( 1 3 9 7 9 2 1 ) + 0 0 0 7 5 1 1 1 #### 1 3 9 4 5 4 2 1").replace(" ", "")
    thought, answer = line.partition("||")[2].replace("+", ";").split("####")
    problem = multiplication.read("3719*3349")
    assert multiplication.render(problem, "cot") == f"<think>{thought}</think>({answer})<eos>"
    assert multiplication.parse(f"</think>({answer})<eos>") == ((), "12454931")
    assert multiplication.render(multiplication.read("12*34"), "direct") == "</think>(8040)<eos>"
    assert multiplication.facts(multiplication.read("12*34")) == (
        "2*4=8", "1*4=4", "2*3=6", "1*3=3")


def test_modular_is_chain_modulo_ten():
    """Grammar and text are chain's; a result above 9 is well formed and wrong."""
    problem = modular.read("(3+4)*5")
    assert modular.render(problem, "cot") == "<think>3+4=7;7*5=5</think>5<eos>"
    assert problem.answer == "5" and modular.read("3-9").answer == "4"
    exact = "<think>3+4=7;7*5=35</think>35<eos>"
    assert modular.verify(problem, exact) == base.Verdict(False, False, True, (True, False))
    for text in ("12+4", "0+4", "3+1", "8/4"):
        with pytest.raises(UserError):
            modular.read(text)


@given(sampled("multiplication"))
@fast
def test_the_last_digits_of_the_running_sums_are_the_answer(problem):
    """Bai 2025: c_k is what digit k is taken from; its value here by long division."""
    sums = multiplication.running_sums(problem)
    digits = "".join(str(total % 10) for total in sums)
    assert f"</think>({digits})<eos>" == multiplication.render(problem, "direct")
    a, b = (int(text) for text in problem.prompt[:-1].split("*"))
    for k, total in enumerate(sums):
        low = sum((b // 10 ** j % 10) * 10 ** j * (a % 10 ** (k + 1 - j)) for j in range(k + 1))
        assert total == low // 10 ** k


# ---- nothing else is accepted -------------------------------------------------------------------

UNICODE = {"1": "１", "2": "²", "3": "٣", "4": "४"}       # digits to str.isdigit, not to us


@given(rendered(), st.data())
@fast
def test_malformed_text_is_refused(case, data):
    family, problem, _, text = case
    cut = data.draw(st.integers(0, len(text) - 1))
    spot = data.draw(st.integers(0, len(text)))
    space = data.draw(st.sampled_from("\n\t\r\x00 \u2028"))
    bad = [text[:cut], text + text, text + "<eos>", text + " ", " " + text, text + "\n",
           text[:spot] + space + text[spot:] if space != " " else " " + text,
           text.replace("</think>", "</think></think>"), "<think>" + text,
           text.replace("<eos>", ""), text.replace("<eos>", "0<eos>x"), text + problem.answer,
           text.replace("<eos>", f"</think>{problem.answer}<eos>"),
           f"</think>0{problem.answer}<eos>", f"</think>+{problem.answer}<eos>",
           f"</think>{problem.answer}.0<eos>",
           f"</think>{problem.answer}</think><eos>", f"<think></think>{problem.answer}<eos>",
           f"<think>;</think>{problem.answer}<eos>", f"<think>{problem.answer}<eos>",
           f"</think>-{problem.answer}<eos>", f"</think>${problem.answer[::-1]}<eos>",
           f"</think>{problem.answer[::-1]}$<eos>", f"</think>${problem.answer[::-1]}0$<eos>",
           f"<hint>{problem.answer}{text}", text.upper() if text.upper() != text else ""]
    bad += [text.replace(digit, strange) for digit, strange in UNICODE.items() if digit in text]
    for wrong in bad:
        empty = problem.family == "instructions" and wrong.startswith("<think></think>")
        assert empty or not accepted(family, problem, wrong), wrong


@given(sampled(), st.text(max_size=60))
@example(addition.read("45+50"), "$95$")
@example(addition.read("45+50"), "A;A->5 , C->0;A->9 , C->0")
@example(addition.read("45+50"), "[;[4] + [5] , A=[5] , C=0 , 4+5+0=9 , A->9 , C->0")
@example(chain.read("4+5-2"), "4+5;9-2=7")
@fast
def test_arbitrary_text_is_judged_without_error(problem, text):
    family = FAMILIES[problem.family]
    for whole in (text, f"</think>{text}<eos>", f"<think>{text}</think>{problem.answer}<eos>"):
        assert family.verify(problem, whole) == judge(problem, whole)
        assert len(family.check_steps(problem, tuple(text.split(";")))) == len(text.split(";"))


@given(st.sampled_from(SCRATCHPADS), st.data())
@fast
def test_doubled_missing_and_extra_steps_are_not_valid(pair, data):
    name, style = pair
    problem, family = data.draw(sampled(name, (2, 5))), FAMILIES[name]
    head, tail = family.render(problem, style).split("</think>")
    steps = head.removeprefix("<think>").removesuffix(".").split(";")
    dot = "." if style == "simplified" else ""
    i = data.draw(st.integers(0, len(steps) - 1))
    j = data.draw(st.integers(0, len(steps)))
    variants = [[*steps[:i], steps[i], *steps[i:]], [*steps[:i], *steps[i + 1:]], steps + steps,
                [*steps[:j], steps[i], *steps[j:]], steps[::-1], []]
    for wrong in variants:
        text = f"<think>{';'.join(wrong)}{dot}</think>{tail}"
        assert not family.verify(problem, text).steps_valid or wrong == steps


@given(sampled("addition"))
@fast
def test_reversed_answer_is_not_a_plain_one(problem):
    backwards = problem.answer[::-1]
    assert addition.verify(problem, f"</think>{backwards}<eos>").correct == (
        backwards == problem.answer)
    assert addition.verify(problem, f"</think>${problem.answer}$<eos>").correct == (
        backwards == problem.answer)
    assert addition.parse(f"</think>${backwards}$<eos>") == ((), problem.answer)


@given(sampled(), sampled())
@fast
def test_another_problems_completion_is_wrong(one, other):
    family = FAMILIES[one.family]
    for style in family.STYLES:
        if other.family == one.family and other.prompt != one.prompt:
            text = family.render(other, style)
            verdict = family.verify(one, text)
            assert verdict == judge(one, text)
            assert not verdict.steps_valid or style in ("simplified", "cot", "star") or (
                one.key == other.key or one.family == "maze"     # some mazes share a plan
                or "only" in one.prompt)


# ---- withdrawn steps ----------------------------------------------------------------------------

A_STEP = st.builds("{}{}{}={}".format, st.integers(0, 99), st.sampled_from("+-*/"),
                   st.integers(0, 99), st.integers(0, 99))


@st.composite
def mended(draw, most=chain.MAX_WITHDRAWN):
    """(problem, its ideal text with withdrawn steps put before some steps, what was put where)."""
    problem = draw(sampled("chain", (1, 6)))
    planted = draw(st.lists(st.tuples(st.integers(0, len(problem.steps) - 1), A_STEP),
                            min_size=1, max_size=most))
    planted.sort(key=lambda pair: pair[0])
    parts = ["".join(f"{step}<wrong>" for at, step in planted if at == i) + own
             for i, own in enumerate(problem.steps)]
    return problem, f"<think>{';'.join(parts)}</think>{problem.answer}<eos>", planted


@given(mended())
@fast
def test_withdrawn_steps_do_not_count(case):
    problem, text, planted = case
    assert chain.verify(problem, text) == chain.verify(problem, chain.render(problem, "cot"))
    assert chain.parse(text) == (problem.steps, problem.answer)
    assert chain.withdrawn(text) == planted
    tokenizer = Tokenizer.build(chain.TOKENS)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(mended(3), st.data())
@fast
def test_withdrawing_hides_no_wrong_step_and_no_wrong_answer(case, data):
    """A kept step that is false stays false, whatever was withdrawn around it."""
    problem, text, planted = case
    i = data.draw(st.integers(0, len(problem.steps) - 1))
    head, _, value = problem.steps[i].partition("=")
    false = f"{head}={(int(value) + 1) % 100}"
    steps = [*problem.steps[:i], false, *problem.steps[i + 1:]]
    parts = ["".join(f"{step}<wrong>" for at, step in planted if at == k) + own
             for k, own in enumerate(steps)]
    verdict = chain.verify(problem, f"<think>{';'.join(parts)}</think>{problem.answer}<eos>")
    assert verdict.marks == tuple(chain.check_steps(problem, tuple(steps)))
    assert not verdict.marks[i] and not verdict.steps_valid
    wrong = str((int(problem.answer) + 1) % 100)
    assert not chain.verify(problem, text.replace(f"</think>{problem.answer}",
                                                  f"</think>{wrong}")).correct


@given(mended(), st.data())
@fast
def test_malformed_withdrawals_are_refused(case, data):
    problem, text, _ = case
    answer, spot = problem.answer, data.draw(st.integers(0, text.rindex("<wrong>") + 6))
    first, last = problem.steps[0], problem.steps[-1]
    bad = [text[:spot], text + text, text.replace("<wrong>", "<wrong><wrong>", 1),
           text.replace("<wrong>", ";<wrong>", 1), text.replace("<wrong>", "<wrong>;", 1),
           text.replace("<wrong>", "<WRONG>"), text.replace("<wrong>", "<wrong> "),
           text.replace("<wrong>", "</wrong>"), text.replace("<wrong>", "wrong"),
           text.replace("<think>", "<think><wrong>"), text.replace("</think>", "<wrong></think>"),
           text.replace("</think>", "</think><wrong>"), text.replace("<eos>", "<wrong><eos>"),
           text + "<wrong>", text + f"<wrong>{text}", "<wrong>" + text,
           text.replace("</think>", f"</think>{answer}<wrong>"),
           text.replace("</think>", f"</think>{answer}<eos><wrong></think>"),
           f"<think>{first}<wrong></think>{answer}<eos>", f"<think><wrong></think>{answer}<eos>",
           f"<think><wrong>{last}</think>{answer}<eos>", f"</think><wrong>{answer}<eos>",
           f"</think>{answer}<wrong>{answer}<eos>", f"<think>{answer}<wrong>{last}</think>"
           f"{answer}<eos>", f"<think>{first}x<wrong>{last}</think>{answer}<eos>",
           f"<think>{first.partition('=')[0]}<wrong>{first}</think>{answer}<eos>",
           f"<think>{first.partition('=')[0]}=<wrong>{first}</think>{answer}<eos>"]
    for wrong in bad:
        assert not accepted(chain, problem, wrong), wrong


@given(mended(1))
@fast
def test_withdrawals_are_bounded(case):
    """Without a bound, an endless text of guesses and withdrawals would pass."""
    problem, _, ((_, step),) = case
    text = chain.render(problem, "cot")
    for n in (chain.MAX_WITHDRAWN, chain.MAX_WITHDRAWN + 1):
        guesses = text.replace("<think>", "<think>" + f"{step}<wrong>" * n)
        assert accepted(chain, problem, guesses) == (n <= chain.MAX_WITHDRAWN)


@given(sampled("chain", (1, 3)), st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_token_soup_is_judged_as_with_the_withdrawn_steps_cut_out(problem, data):
    """Random texts of whole tokens; the oracle deletes `step<wrong>` and shares no code."""
    pieces = st.one_of(st.sampled_from(problem.steps), A_STEP, st.sampled_from(
        ["<wrong>", "<wrong>", ";", ";", "<think>", "</think>", "<eos>", problem.answer]))
    body = "".join(data.draw(st.lists(pieces, max_size=9)))
    for text in (body, f"<think>{body}</think>{problem.answer}<eos>"):
        step = r"(?:0|[1-9]\d?)[-+*/](?:0|[1-9]\d?)=(?:0|[1-9]\d?)"
        cut = re.sub(rf"(?<=[;>]){step}<wrong>(?={step}(?:;|<wrong>|</think>))", "", text)
        while cut != (again := re.sub(
                rf"(?<=[;>]){step}<wrong>(?={step}(?:;|<wrong>|</think>))", "", cut)):
            cut = again
        if "<wrong>" in cut:
            assert not accepted(chain, problem, text)
        else:
            assert chain.verify(problem, text) == chain.verify(problem, cut)
            assert chain.parse(text) == chain.parse(cut)
        assert (chain.withdrawn(text) == []) == (
            "<wrong>" not in text or not accepted(chain, problem, text))


@given(sampled("addition"), A_STEP)
@fast
def test_addition_knows_no_withdrawal(problem, step):
    for style in addition.STYLES:
        text = addition.render(problem, style)
        for bad in (text.replace(";", "<wrong>", 1), text.replace("</think>", "<wrong></think>"),
                    text.replace("<think>", f"<think>{step}<wrong>")):
            assert bad == text or not addition.verify(problem, bad).steps_valid


# ---- one wrong step is found where it is --------------------------------------------------------

@given(sampled("chain", (1, 6)), st.data())
@fast
def test_chain_flags_exactly_the_planted_step(problem, data):
    """A false result, from which the chain then goes on correctly: one step is wrong."""
    i = data.draw(st.integers(0, len(problem.steps) - 1))
    wrong = data.draw(st.integers(0, 99).filter(
        lambda v: v != int(problem.steps[i].partition("=")[2])))
    steps, value = list(problem.steps), wrong
    steps[i] = f"{steps[i].partition('=')[0]}={wrong}"
    for k in range(i + 1, len(steps)):
        operator, right = re.fullmatch(r"\d+([-+*/])(\d)=\d+", steps[k]).groups()
        result = chain.compute(value, operator, int(right))
        if result is None:
            steps = steps[:k]                                   # the claimed state allows no more
            break
        steps[k], value = f"{value}{operator}{right}={result}", result
    assert chain.check_steps(problem, tuple(steps)) == [k != i for k in range(len(steps))]


@given(sampled("multiplication", (2, 5)), st.data())
@fast
def test_multiplication_flags_exactly_the_planted_step(problem, data):
    """A false running sum, from which the thought then goes on correctly: one step is wrong."""
    steps, n = list(problem.steps), problem.level
    i, spot = data.draw(st.integers(0, n - 2)), data.draw(st.integers(1, n))
    end = len(steps[i]) - (i > 0)                                # behind the sum's last digit
    false = str((int(steps[i][end - spot]) + 1) % 10)
    steps[i] = steps[i][:end - spot] + false + steps[i][end - spot + 1:]
    claimed = int(steps[i].partition("(")[2][-2::-1] or steps[i][::-1])
    for k in range(i + 1, n - 1):
        partial = steps[k].partition("(")[0]
        claimed += int(partial[::-1])
        steps[k] = f"{partial}({str(claimed).zfill(n + 1 + k)[::-1]})"
    assert multiplication.check_steps(problem, tuple(steps)) == [k != i for k in range(n)]
    text = f"<think>{';'.join(steps)}</think>{problem.answer}<eos>"
    assert multiplication.verify(problem, text).well_formed
    assert not multiplication.verify(problem, text).steps_valid


@given(sampled("addition", (1, 6)), st.sampled_from(["simplified", "detailed", "star"]), st.data())
@fast
def test_addition_flags_exactly_the_planted_step(problem, style, data):
    """A false digit or carry, from which the scratchpad goes on correctly: one step is wrong."""
    steps = list(addition.parse(addition.render(problem, style))[0])
    first, last = {"simplified": (0, len(steps)), "detailed": (2, len(steps) - 1),
                   "star": (1, len(steps) - 1)}[style]
    i = data.draw(st.integers(first, last - 1))
    carry = int(steps[i][-1])
    other = addition.read(problem.prompt)
    steps[i] = f"{steps[i][:-1]}{1 - carry}"                     # the claimed carry is false
    operands = tuple(other.prompt[:-1].split("+"))
    for k in range(i + 1, len(steps)):                           # by hand: each step from the last
        steps[k] = continued(operands, style, steps[k - 1], k, len(steps))
    assert addition.check_steps(problem, tuple(steps)) == [k != i for k in range(len(steps))]
    text = f"<think>{';'.join(steps)}{'.' * (style == 'simplified')}</think>{problem.answer}<eos>"
    assert addition.verify(problem, text).well_formed
    assert not addition.verify(problem, text).steps_valid


def continued(operands, style: str, before: str, k: int, total: int) -> str:
    """The step after `before`, by string surgery that shares no code with addition.py."""
    if style == "simplified":
        x, y = (int(n[::-1][k:k + 1] or 0) for n in operands)
        value = x + y + int(before[-1])
        return f"A->{value % 10} , C->{value // 10}"
    if style == "detailed":
        x, y, so_far, _, _, digit, carry = re.fullmatch(
            r"\[(.*)\] \+ \[(.*)\] , A=\[(.*)\] , C=(.) , (.*) , A->(.) , C->(.)", before).groups()
        x, y = x[:-1].rstrip(","), y[:-1].rstrip(",")
        so_far = f"{digit},{so_far}".rstrip(",")
        if k == total - 1:
            return f"[] + [] , A=[{so_far}] C={carry} , END"
        value = int(x[-1:] or 0) + int(y[-1:] or 0) + int(carry)
        return (f"[{x}] + [{y}] , A=[{so_far}] , C={carry} , {x[-1:] or 0}+{y[-1:] or 0}+{carry}="
                f"{value} , A->{value % 10} , C->{value // 10}")
    numbers, _, rest = before.partition(", ")
    so_far, carry = rest.split("C: ")
    if not numbers:
        return f"{carry} {so_far}".strip()
    x, y = (part.split() for part in numbers.split(" + "))
    value = int(x[-1]) + int(y[-1]) + int(carry)
    left = f"{' '.join(x[:-1])} + {' '.join(y[:-1])} " if x[1:] else ""
    return f"{left}, {value % 10} {so_far}C: {value // 10}"


# ---- keys, splits, sampling ---------------------------------------------------------------------

@given(st.integers(0, 10 ** 7 - 1), st.integers(0, 10 ** 7 - 1))
@fast
def test_addition_key_ignores_the_order_of_operands(a, b):
    assert addition.build(a, b).key == addition.build(b, a).key
    assert addition.build(a, b).key != addition.build(a, b + 1).key


@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from("+*"), st.integers(2, 9))
@fast
def test_chain_key_ignores_the_order_of_a_commuting_first_operation(a, b, operator, c):
    head = chain.compute(a, operator, b)
    if head is None or head + c > 99:
        return
    one, turned = (chain.build(x, [(operator, y), ("+", c)]) for x, y in ((a, b), (b, a)))
    assert one.key == turned.key
    assert one.key != chain.build(a, [(operator, b)]).key
    if a != b:
        assert chain.build(40 + a, [("-", b)]).key != chain.build(40 + b, [("-", a)]).key


@pytest.mark.parametrize("name", NAMES)
def test_equal_keys_mean_equal_problems(name):
    by_key = {}
    for i in range(1500):
        problem = FAMILIES[name].sample(rng(i, "keys"), level_of(name, 1))
        operands = tuple(sorted(re.findall(r"\d+", problem.prompt)))
        kept = by_key.setdefault(problem.key, (problem.answer, operands))
        assert kept == (problem.answer, operands)


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_80_10_10(name):
    drawn = (FAMILIES[name].sample(rng(i, "split"), level_of(name, 4)) for i in range(1000))
    problems = {p.split_key or p.key: p for p in drawn}
    keys, counts = list(problems), Counter(map(split_of, problems.values()))
    assert set(counts) == set(base.SPLITS)
    for split, share in zip(base.SPLITS, (0.8, 0.1, 0.1), strict=True):
        spread = 5 * (share * (1 - share) / len(keys)) ** 0.5    # five standard deviations
        assert abs(counts[split] / len(keys) - share) < spread


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", base.SPLITS)
def test_sample_split_never_crosses(name, split):
    generator = rng(0, "cross", name, split)
    levels = [level_of(name, level) for level in (1, 2, 4, 6)]
    assert all(split_of(sample_split(FAMILIES[name], generator, level, split)) == split
               for level in levels)


def test_a_split_without_a_problem_is_named():
    with pytest.raises(UserError, match="addition level 1: no problem in split 'other'"):
        sample_split(addition, rng(0, "cross"), 1, "other")


def test_sample_unique_uses_a_level_up(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "data"))
    from make_eval import sample_unique
    problems = [addition.build(a, b) for a in range(10) for b in range(10)]
    test = {problem.key for problem in problems if split_of(problem) == "test"}
    found = sample_unique(addition, rng(0, "unique"), 1, "test", 50)
    assert {p.key for p in found} == test and len(found) == len(test)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_their_level_and_range(name):
    for i in range(300):
        level = level_of(name, 1 + i % 7)
        problem = FAMILIES[name].sample(rng(i, "level"), level)
        assert problem.level == level and problem.family == name
        if name == "chain":
            assert all(0 <= int(v) <= 99 for v in re.findall(r"\d+", ";".join(problem.steps)))
            assert len(problem.steps) == problem.level


def test_balanced_samples_have_all_digits_and_carries():
    """Lee 2023: of 3-digit data 1% have one digit and 9% two; carry counts are equally frequent."""
    drawn = [lee2023.sample_balanced(rng(i, "balanced"), 3) for i in range(1500)]
    digits = Counter(p.level for p in drawn)
    assert abs(digits[3] / 1500 - 0.90) < 0.03 and abs(digits[2] / 1500 - 0.09) < 0.03
    assert set(digits) == {1, 2, 3}
    carries = Counter(map(by_hand_carries, (p for p in drawn if p.level == 3)))
    assert set(carries) == {0, 1, 2, 3}
    assert all(abs(count / digits[3] - 0.25) < 0.05 for count in carries.values())


def by_hand_carries(problem) -> int:
    a, b = map(int, problem.prompt[:-1].split("+"))
    return sum((a % 10 ** k + b % 10 ** k) >= 10 ** k for k in range(1, 9))


# ---- reading what users type --------------------------------------------------------------------

@given(sampled(), st.booleans(), st.data())
@fast
def test_read_round_trips(problem, spaced, data):
    text = problem.prompt
    if spaced:
        text = re.sub(r"([-+*/()=])", r" \1 ", text)
    if data.draw(st.booleans()):
        text = text.rstrip().removesuffix("=")
    assert FAMILIES[problem.family].read(text) == problem


@pytest.mark.parametrize(("name", "text"), [
    ("chain", "1 7+8"), ("chain", "(23+4)*3 7="), ("chain", "1\u20287+8"),
    ("multiplication", "1 7*28"), ("multiplication", "17*2 8="),
    ("addition", "1 7+8"), ("addition", "128 + 36\t7="), ("addition", "17+8 8"),
    ("countdown", "3,7,1 8,2>46"), ("countdown", "3,7,18,2 > 4 6"), ("countdown", "3 7,18,2>46")])
def test_white_space_inside_a_number_is_an_error(name, text):
    with pytest.raises(UserError, match="white space inside a number") as caught:
        FAMILIES[name].read(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("name", "typed", "prompt"), [
    ("chain", " ( 23 + 4 )\t* 3 =\n", "((23+4)*3)="), ("chain", "\ufeff23+4", "(23+4)="),
    ("chain", "20×4÷8−2", "(((20*4)/8)-2)="), ("chain", "2*3+4", "((2*3)+4)="),
    ("multiplication", "\ufeff 12 × 34 =\n", "12*34="),
    ("chain", "23\u2028+\u00854\r\n", "(23+4)="), ("addition", "\ufeff 128 + 367 = ", "128+367="),
    ("countdown", "3, 7,\u202818, 2 > 46\r\n", "3,7,18,2>46=")])
def test_what_can_be_read_exactly_is_read(name, typed, prompt):
    assert FAMILIES[name].read(typed).prompt == prompt


def test_a_long_chain_is_read():
    """Longer than any model here: eval counts it apart (evalset.py)."""
    assert chain.read("(" * 120 + "2" + "+2)-2)" * 60).level == 120


@pytest.mark.parametrize("text", ["12*345", "12*04", "0*0", "12*", "1234567890*1234567890"])
def test_a_multiplication_has_two_numbers_of_equally_many_digits(text):
    with pytest.raises(UserError, match="equally many digits, 1 to 9, such as"):
        multiplication.read(text)


@pytest.mark.parametrize(("text", "why"), [
    ("2+3*4", "3*4 stands to the right"), ("2+(3+4)", "3+4 stands to the right"),
    ("(2+3)*(4-1)", "4-1 stands to the right"), ("2+30", "30 stands to the right")])
def test_a_chain_says_why_an_expression_is_none(text, why):
    """By precedence 2+3*4 is 14: no chain from the left, and never read as (2+3)*4."""
    with pytest.raises(UserError, match=re.escape(why)):
        chain.read(text)


@given(st.one_of(st.text(max_size=40), st.text("0123456789+-*/()= _.e%²１", max_size=40),
                 st.from_regex(r"\(*\d{1,25}([-+*/]{1,2}\d{1,25}\)*){0,6}=?", fullmatch=True)))
@example("(" * 250)
@example("9" * 5000 + "+1")
@example("(" * 99 + "5" + ")" * 99)
@example("1+" * 90 + "2")
@example("1+" * 490 + "2")
@example("(" * 490 + "5" + ")" * 490)
@example("2+(" * 240 + "2" + ")" * 240)
@example("2+(" * 190 + "2" + ")" * 190)
@example("5/0")
@example("2**9")
@example("(2)(3)")
@example("7,2>14")
@example("3,,5>8")
@example("0,5>5")
@example("5>5")
@example("2,2>99")
@example("1,1,1,1,1,1,1>7")
@example("")
@settings(max_examples=120, deadline=None, derandomize=True)
def test_read_raises_user_error_and_nothing_else(text):
    for family in FAMILIES.values():
        try:
            problem = family.read(text)
        except UserError as error:
            assert len(str(error)) < 400 and "\n" not in str(error)
            continue
        assert is_right(problem, problem.answer)
        assert family.read(problem.prompt) == problem


@pytest.mark.parametrize(("line", "complaint"), [
    ("{", "not valid JSON"), ("[1]", "needs an object"), ('{"answer": "3"}', "needs an object"),
    ('{"prompt": 5}', "needs an object"), ('{"prompt": "1+2=", "family": "poetry"}', "'poetry'"),
    ('{"prompt": "1+2=", "family": ["chain"]}', "unknown family"),
    ('{"prompt": "1+2=", "answer": "4"}', "answer '4'"), ('{"prompt": "one"}', "cannot read"),
    ('{"prompt": "1+2=", "family": null}', "unknown family"),
    ('{"text": "1+2="}', "it has 'text'"), ("{}", "it has nothing"),
    ('{"prompt": "1+2", "question": "1+3"}', "it has 'prompt', 'question'"),
    ('{"nums": "37", "target": 21}', "it has 'nums'"), ('{"nums": [3, 7]}', "it has 'nums'"),
    ('{"nums": [3, 7.5], "target": 21}', "it has 'nums'"),
    ('{"nums": [3, 7, true], "target": 21}', "it has 'nums'"),
    ('{"nums": [44, 19], "target": 98}', "98 cannot be reached"),
    ('{"nums": [44, 190], "target": 98}', "write 2 to 6 numbers"),
    ('{"nums": [3, 7], "target": 21, "family": "chain"}', "cannot read '3,7>21'"),
    ('{"nums": [3, 7, 18, 2], "target": 46, "answer": "18*2+7"}', "answer '18*2+7'"),
    ('{"prompt": "1 7+2="}', "white space inside"), ('{"prompt": "4+5", "answer": "1 9"}', "'1 9'"),
    ('{"question": "2+3*4"}', "3*4 stands"), ('\ufeff{"prompt": "1+2="}', "not valid JSON")])
def test_a_file_of_problems_names_the_broken_line(tmp_path, line, complaint):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "4+5="}\n\n' + line + "\n")
    with pytest.raises(UserError, match=re.escape(f"{path}, line 3: ")) as caught:
        frozen.numbered_problems(path)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(("line", "prompt"), [
    ('{"question": "20×4="}', "(20*4)="), ('{"problem": "4+5", "family": "addition"}', "4+5="),
    ('{"nums": [3, 7, 18, 2], "target": 46}', "3,7,18,2>46="),
    ('{"nums": [3, 7, 18, 2], "target": 46, "answer": "3 + 7 + 18×2"}', "3,7,18,2>46="),
    ('{"prompt": "3,7,18,2>46", "family": "countdown", "answer": "(7+3)+(2*18)"}', "3,7,18,2>46="),
    ('{"prompt": "3,7,18,2>46", "family": "countdown", "answer": "((18*2)+7)+3"}', "3,7,18,2>46="),
    ('{"question": "4+5", "answer": "4+5 is 9\\n#### 9"}', "(4+5)="),
    ('{"prompt": "4+5", "answer": 9}', "(4+5)="), ('{"prompt": "4\u2028+\u00855"}', "(4+5)=")])
def test_lines_as_others_write_them_are_read(tmp_path, line, prompt):
    path = tmp_path / "mine.jsonl"
    for text in (line + "\n", "\ufeff" + line, f"\r\n{line}\r\n"):
        path.write_bytes(text.encode())
        assert [p.prompt for p in frozen.numbered_problems(path).values()] == [prompt]


def test_a_problem_keeps_the_number_of_its_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes('\ufeff{"prompt": "4+5"}\r\n\r\n{"prompt": "4\u2028+6"}\n'.encode())
    assert {line: p.prompt for line, p in frozen.numbered_problems(path).items()} == {
        1: "(4+5)=", 3: "(4+6)="}


def test_a_file_of_problems_reads_and_refuses_whole_files(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "(4+5)*2"}\n{"prompt": "4+5=", "family": "addition"}\n')
    assert [p.answer for p in frozen.numbered_problems(path).values()] == ["18", "9"]
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    for name in ("empty.jsonl", "bytes.jsonl", "none.jsonl", "."):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            frozen.numbered_problems(tmp_path / name)


# ---- the frozen sets ----------------------------------------------------------------------------

def frozen_names() -> list[str]:
    return [f"{name}-{split}-{family.LEVEL_SYMBOL}{level}" for name, family in FAMILIES.items()
            for split in ("test", "validation", *getattr(family, "EXTRA_SETS", ()))
            for level in family.LEVELS]


@pytest.mark.long
def test_frozen_sets_hold_their_split_and_level():
    for name in frozen_names():
        family, *kinds, level = name.split("-")
        split = "validation" if kinds[-1] == "validation" else "test"
        found = load_frozen(name)
        assert len({p.key for p in found}) == len(found)
        assert {(p.family, split_of(p), p.level) for p in found} == {
            (family, split, int(level[1:]))}
        small = level in ("k1", "d1", "p1") or ("targets" in kinds and level == "n3") or (
            (family, level) in (("multiplication", "d2"), ("modular", "k2")))
        assert len(found) == 500 or (small and len(found) < 500)
    listed = {line.split("  ")[1] for line in (ROOT / "data/SHA256SUMS").read_text().splitlines()}
    assert listed == {f"{name}.jsonl" for name in frozen_names()}


def test_altered_frozen_set_is_refused(tmp_path, monkeypatch):
    shutil.copytree(frozen.frozen_folder(), tmp_path / "data")
    monkeypatch.setattr(frozen, "frozen_folder", lambda: tmp_path / "data")
    assert len(load_frozen("chain-test-k3")) == 500
    path = tmp_path / "data" / "chain-test-k3.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"level": 3', b'"level": 4', 1))
    with pytest.raises(UserError, match=re.escape(f"{path}: its sha256")):
        load_frozen("chain-test-k3")
    shutil.copy(path, path.with_name("extra.jsonl"))
    with pytest.raises(UserError, match=r"extra\.jsonl: its sha256"):       # not listed at all
        load_frozen("extra")
    with pytest.raises(UserError, match=r"chain-test-k99\.jsonl: cannot read"):
        load_frozen("chain-test-k99")


def test_a_stray_file_hides_no_frozen_set(tmp_path, monkeypatch):
    """In a checkout the sets lie beside the package, in a wheel inside it, whatever lies about."""
    for folder in ("checkout/data", "wheel/minireason/data"):
        shutil.copytree(ROOT / "data", tmp_path / folder)
    for root, folder in (("checkout", "data"), ("wheel", "minireason/data")):
        module = tmp_path / root / "minireason" / "problems" / "frozen.py"
        monkeypatch.setattr(frozen, "__file__", str(module))
        for stray in ("pyproject.toml", "minireason/pyproject.toml", "data/other.jsonl"):
            (tmp_path / root / stray).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / stray).write_text("")
            assert frozen.frozen_folder() == tmp_path / root / folder
        assert len(load_frozen("chain-test-k3")) == 500


def test_frozen_sets_are_what_make_eval_makes(monkeypatch, tmp_path):
    """One cheap level of the script; `python data/make_eval.py --check` does them all."""
    monkeypatch.syspath_prepend(str(ROOT / "data"))
    import make_eval
    monkeypatch.setattr(make_eval, "FAMILIES", {"chain": chain})
    monkeypatch.setattr(chain, "LEVELS", (2,))
    for line in make_eval.make(tmp_path).splitlines():
        sha256, name = line.split("  ")
        assert hashlib.sha256((ROOT / "data" / name).read_bytes()).hexdigest() == sha256
    (tmp_path / "chain-test-k2.jsonl").write_text(json.dumps({"prompt": "1+2="}))
    assert "chain-test-k2.jsonl" in make_eval.check(tmp_path)


def test_packages_in_pyproject_are_all_there_is():
    """The list is by hand (data/ is installed as minireason.data): a new package must join it."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    here = {".".join(path.parent.relative_to(ROOT).parts)
            for path in (ROOT / "minireason").rglob("*.py")}
    assert here | {"minireason.data"} == {name for name in listed if name.startswith("minireason")}
    assert problems.FAMILIES is FAMILIES
