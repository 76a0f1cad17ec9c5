"""Grades assignment 1 against minireason.problems.chain."""

import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from grading import Check, expect, grade

from minireason.core.config import rng
from minireason.problems import chain

PROBLEM = chain.read("((23+4)*3)")
IDEAL = "<think>23+4=27;27*3=81</think>81<eos>"
TRICKS = (
    "", "81", "81<eos>", "</think>81", "</think><eos>", "</think>081<eos>", "</think> 81<eos>",
    "</think>81 <eos>", "</think>81<eos>\n", "</think>81<eos><eos>", "</think>８１<eos>",
    "</think>+81<eos>", "</think>81.0<eos>", "</think>181<eos>", "</think>80</think>81<eos>",
    "</think>81<eos>82<eos>", "<think></think>81<eos>", "<think>23+4=27;</think>81<eos>",
    "<think>;23+4=27</think>81<eos>", "<think>23+4=27;;27*3=81</think>81<eos>",
    "<think>23+4=27 27*3=81</think>81<eos>", "<think>23+4=27;27*3=081</think>81<eos>",
    "<think>23+4=27;27*3=81", "<think>23+4=27;27*3=81</think>", "<think>23+4=127</think>81<eos>",
    "<think><think>23+4=27;27*3=81</think>81<eos>", "<think>23+4=27;27*3=81</think>80,81<eos>",
    "x" + IDEAL, "<think>23+4=27;27*3=81<think>81<eos>", "<think>23+4=２7</think>81<eos>",
    "</think>8１<eos>", "<think>23+4=2７;27*3=81</think>81<eos>",
)
PIECES = [*"0123456789+-*/=; ", "<eos>", "</think>", "<think>"]


def mutated(generator):
    """(problem, completion): an ideal or half-right completion with up to two changes."""
    problem = chain.sample(generator, int(generator.integers(1, 5)))
    style = "cot" if generator.random() < 0.8 else "direct"
    pieces = re.findall(r"</?\w+>|.", chain.render(problem, style))
    for _ in range(int(generator.integers(0, 3))):
        at, cut = int(generator.integers(len(pieces) + 1)), int(generator.integers(0, 2))
        new = PIECES[int(generator.integers(len(PIECES)))]
        pieces[at:at + cut] = [new] if generator.random() < 0.8 else []
    return problem, "".join(pieces)


def all_operands(solution, seed):
    calls = [(left, operator, right) for left in range(100) for right in range(100)
             for operator in "+-*/"]
    for call, came in zip(calls, solution.all("compute", calls), strict=True):
        left, operator, right = call
        whole = {"+": left + right, "-": left - right, "*": left * right,
                 "/": left // right if right else None}[operator]
        mistake = ("the quotient is cut: 7/2 is not whole, so it is undefined" if operator == "/"
                   else "values below 0 and above 99 are undefined")
        expect(came, chain.compute(*call), f"compute {left}{operator}{right}", {mistake: whole})


FOREIGN = "digits of other alphabets count: \\d and isdigit take them, [0-9] does not"
PARSE_MISTAKES = (
    ("what stands after <eos> is not read", lambda t: t[:t.find("<eos>") + 5]),
    ("what stands before the completion is not read", lambda t: t[max(0, t.find("<")):]),
    ("blanks are taken away", lambda t: "".join(t.split())),
    ("a missing <eos> is forgiven", lambda t: t + "<eos>"),
    ("leading zeros are forgiven", lambda t: re.sub(r"(?<!\d)0+(?=\d)", "", t)),
    (FOREIGN, lambda t: "".join(str(int(c)) if c.isdigit() else c for c in t)),
    ("empty steps are dropped", lambda t: re.sub(";+(?=;|</think>)|(?<=<think>);", "", t)),
    ("a thought without steps is taken for none", lambda t: t.replace("<think></think>",
                                                                      "</think>")))


def parses(solution, texts):
    for text, came in zip(texts, solution.all("parse", [(t,) for t in texts]), strict=True):
        # a mistake whose reading the grammar would accept explains an accepted text
        likely = {why: chain.parse(change(text)) for why, change in PARSE_MISTAKES
                  if chain.parse(change(text)) is not None}
        if not str(came).isascii():           # read, and handed on as it was written
            likely[FOREIGN] = came
        expect(came, chain.parse(text), f"parse {text!r}", likely)


def ideal_parse(solution, seed):
    generator = rng(seed, "grade 1")
    problems = [chain.sample(generator, int(generator.integers(1, 9))) for _ in range(200)]
    parses(solution, [chain.render(p, style) for p in problems for style in chain.STYLES])


def tricks(solution, seed):
    assert not any(map(chain.parse, TRICKS))
    parses(solution, list(TRICKS))


def mutations(solution, seed):
    generator = rng(seed, "grade 1 mutations")
    parses(solution, [mutated(generator)[1] for _ in range(2000)])


def agree(solution, cases):
    """cases: (problem, steps)."""
    found = solution.all("check_steps", [(p.prompt, steps) for p, steps in cases])
    for (problem, steps), came in zip(cases, found, strict=True):
        exact = [i < len(problem.steps) and step == problem.steps[i]
                 for i, step in enumerate(steps)]
        matches = [re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step, re.ASCII) for step in steps]
        true = [bool(m) and chain.compute(int(m[1]), m[2], int(m[3])) == int(m[4]) for m in matches]
        expect(came, chain.check_steps(problem, steps), f"check_steps {problem.prompt!r}, {steps}",
               {"one error is counted again: the state is what the step before claimed": exact,
                "true arithmetic is not enough: the operation must be the prompt's next": true})


def ideal_steps(solution, seed):
    generator, cases = rng(seed, "grade 1 ideal"), [(PROBLEM, ())]
    for _ in range(200):
        problem = chain.sample(generator, int(generator.integers(1, 9)))
        cases += [(problem, problem.steps), (problem, problem.steps[:-1])]
    agree(solution, cases)


def once(solution, seed):
    generator, cases = rng(seed, "grade 1 once"), [(PROBLEM, ("23+4=28", "28*3=84"))]
    for _ in range(300):
        problem, at = chain.sample(generator, 5), int(generator.integers(5))
        state, steps = re.search(r"\d+", problem.prompt)[0], []
        for i, step in enumerate(problem.steps):           # wrong at one place, then consistent
            operator, right = re.fullmatch(r"\d+(.)(\d+)=\d+", step).groups()
            exact = chain.compute(int(state), operator, int(right))
            result = (0 if exact is None else exact) if i != at else int(generator.integers(100))
            steps.append(f"{state}{operator}{right}={result}")
            state = str(result)
        cases.append((problem, tuple(steps)))
    agree(solution, cases)


def other_operations(solution, seed):
    agree(solution, [(PROBLEM, steps) for steps in (
        ("23+4=27", "27+3=30"), ("23+4=27", "27*4=108"), ("4+23=27", "27*3=81"),
        ("27*3=81", "23+4=27"), ("23*3=69", "69+4=73"), ("23+4=27", "81/3=27"),
        ("23+4=27", "27*3=81", "81/3=27"), ("23+4=27", "27*3=81", "27*3=81"))])


def malformed(solution, seed):
    cases = [(PROBLEM, (bad, "27*3=81")) for bad in (
        "", "23+4", "23+4=", "023+4=27", "23+4=27 ", "23+4=27\n", "２３+4=27", "23+4=027",
        "23+4==27", "23+4=27;27*3=81", "think")]
    three = chain.read("(((23+4)*3)/9)")       # after what is no step the state is the exact one
    cases += [(three, ("23+4=28", bad, "81/9=9")) for bad in ("", "28*3", "84/3=2８")]
    agree(solution, [*cases, (PROBLEM, ("23+4=27", "27*3")), (chain.read("(8/2)"), ("8/0=4",)),
                     (chain.read("((8/2)/2)"), ("8/2=0", "0/2=0"))])


def verdicts(solution, cases):
    """cases: (problem, completion)."""
    found = solution.all("verify", [(p.prompt, text) for p, text in cases])
    for (problem, text), came in zip(cases, found, strict=True):
        wanted = chain.verify(problem, text)
        parsed = chain.parse(text)
        valid = bool(parsed) and all(chain.check_steps(problem, parsed[0]))
        mistake = ("an answer without steps is never steps_valid" if parsed and not parsed[0] else
                   "steps are missing, or the answer is not what the last step says")
        expect(came, (wanted.correct, wanted.steps_valid, wanted.well_formed),
               f"verify {problem.prompt!r}, {text!r}",
               {mistake: (wanted.correct, valid, wanted.well_formed)})


def known_verdicts(solution, seed):
    verdicts(solution, [(PROBLEM, text) for text in (
        IDEAL, "</think>81<eos>", "</think>80<eos>",
        "<think>23+4=28;28*3=84</think>84<eos>", "<think>23+4=28;28*3=84</think>81<eos>",
        "<think>27*3=81</think>81<eos>", "<think>23+4=27</think>81<eos>",
        "<think>23+4=27</think>27<eos>", "<think>23+4=27;27*3=81</think>80<eos>",
        "<think>23+4=27;27*3=81;81/3=27</think>81<eos>", *TRICKS)])


def random_verdicts(solution, seed):
    generator = rng(seed, "grade 1 verdicts")
    verdicts(solution, [mutated(generator) for _ in range(1000)])


CHECKS = [
    Check("compute on all operands", 3, all_operands),
    Check("parse: ideal completions", 1, ideal_parse),
    Check("parse: format tricks", 3, tricks),
    Check("parse: random mutations", 2, mutations),
    Check("check_steps: ideal steps", 1, ideal_steps),
    Check("check_steps: one error is counted once", 3, once),
    Check("check_steps: true steps that are not the next", 2, other_operations),
    Check("check_steps: malformed steps", 1, malformed),
    Check("verify: known completions", 2, known_verdicts),
    Check("verify: random mutations", 2, random_verdicts),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__))
