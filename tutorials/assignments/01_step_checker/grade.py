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


def all_operands(solution):
    for left in range(100):
        for right in range(100):
            for operator in "+-*/":
                expect(solution.compute(left, operator, right),
                       chain.compute(left, operator, right), f"compute {left}{operator}{right}")


def ideal_parse(solution):
    generator = rng(0, "grade 1")
    for _ in range(200):
        problem = chain.sample(generator, int(generator.integers(1, 9)))
        for style in chain.STYLES:
            text = chain.render(problem, style)
            expect(solution.parse(text), chain.parse(text), f"parse {text!r}")


def tricks(solution):
    for text in TRICKS:
        assert chain.parse(text) is None, text
        expect(solution.parse(text), None, f"parse {text!r}")


def mutations(solution):
    generator = rng(1, "grade 1")
    for _ in range(2000):
        text = mutated(generator)[1]
        expect(solution.parse(text), chain.parse(text), f"parse {text!r}")


def agree(solution, problem, steps):
    expect(solution.check_steps(problem.prompt, steps), chain.check_steps(problem, steps),
           f"check_steps {problem.prompt!r}, {steps}")


def ideal_steps(solution):
    generator = rng(2, "grade 1")
    for _ in range(200):
        problem = chain.sample(generator, int(generator.integers(1, 9)))
        agree(solution, problem, problem.steps)
        agree(solution, problem, problem.steps[:-1])
    agree(solution, PROBLEM, ())


def once(solution):
    agree(solution, PROBLEM, ("23+4=28", "28*3=84"))
    generator = rng(3, "grade 1")
    for _ in range(300):
        problem, at = chain.sample(generator, 5), int(generator.integers(5))
        state, steps = re.search(r"\d+", problem.prompt)[0], []
        for i, step in enumerate(problem.steps):           # wrong at one place, then consistent
            operator, right = re.fullmatch(r"\d+(.)(\d+)=\d+", step).groups()
            exact = chain.compute(int(state), operator, int(right))
            result = (0 if exact is None else exact) if i != at else int(generator.integers(100))
            steps.append(f"{state}{operator}{right}={result}")
            state = str(result)
        agree(solution, problem, tuple(steps))


def other_operations(solution):
    for steps in (("23+4=27", "27+3=30"), ("23+4=27", "27*4=108"), ("4+23=27", "27*3=81"),
                  ("27*3=81", "23+4=27"), ("23*3=69", "69+4=73"), ("23+4=27", "81/3=27"),
                  ("23+4=27", "27*3=81", "81/3=27"), ("23+4=27", "27*3=81", "27*3=81")):
        agree(solution, PROBLEM, steps)


def malformed(solution):
    for bad in ("", "23+4", "23+4=", "023+4=27", "23+4=27 ", "23+4=27\n", "２３+4=27", "23+4=027",
                "23+4==27", "23+4=27;27*3=81", "think"):
        agree(solution, PROBLEM, (bad, "27*3=81"))
    agree(solution, PROBLEM, ("23+4=27", "27*3"))
    agree(solution, chain.read("(8/2)"), ("8/0=4",))
    agree(solution, chain.read("((8/2)/2)"), ("8/2=0", "0/2=0"))


def verdicts(solution, problem, text):
    wanted = chain.verify(problem, text)
    expect(solution.verify(problem.prompt, text),
           (wanted.correct, wanted.steps_valid, wanted.well_formed),
           f"verify {problem.prompt!r}, {text!r}")


def known_verdicts(solution):
    for text in (IDEAL, "</think>81<eos>", "</think>80<eos>",
                 "<think>23+4=28;28*3=84</think>84<eos>",
                 "<think>23+4=28;28*3=84</think>81<eos>", "<think>27*3=81</think>81<eos>",
                 "<think>23+4=27</think>81<eos>", "<think>23+4=27</think>27<eos>",
                 "<think>23+4=27;27*3=81</think>80<eos>",
                 "<think>23+4=27;27*3=81;81/3=27</think>81<eos>", *TRICKS):
        verdicts(solution, PROBLEM, text)


def random_verdicts(solution):
    generator = rng(4, "grade 1")
    for _ in range(1000):
        verdicts(solution, *mutated(generator))


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
