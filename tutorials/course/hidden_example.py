"""Hidden tests of assignment 1, to copy from: `grade.py SOLUTION --hidden hidden_example.py`."""

from grading import Check, expect

from minireason.core.config import rng
from minireason.problems import chain


def long_chains(solution, seed):
    """Twelve steps, longer than any public case."""
    generator = rng(seed, "hidden 1")
    problems = [chain.sample(generator, 12) for _ in range(50)]
    texts = [chain.render(problem, "cot") for problem in problems]
    found = solution.all("verify", [(p.prompt, t) for p, t in zip(problems, texts, strict=True)])
    for problem, came in zip(problems, found, strict=True):
        expect(came, (True, True, True), problem.prompt)


def two_errors(solution, seed):
    """Two wrong steps are two, and what lies between them is right."""
    steps = ("23+4=28", "28*3=84", "84/4=20")
    expect(solution.check_steps("(((23+4)*3)/4)=", steps), [False, True, False], f"{steps}")


CHECKS = [
    Check("hidden: long chains", 2, long_chains),
    Check("hidden: two errors", 2, two_errors),
]
