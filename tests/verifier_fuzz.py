"""Verifiers under attack: mutated completions, judged by verifier_judge.py as well.

    python tests/verifier_fuzz.py [N] [FAMILY ...]     N mutants per family, 1,000,000 by default

Prints what was accepted and how often verifier and judge differ; exit status 1 if they do.
"""

import operator
import random
import re
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import numpy as np
from verifier_judge import judge

from minireason.core.errors import UserError
from minireason.problems import FAMILIES, Problem, Verdict

PIECES = [*"0123456789+-*/()=;,:>. $[]ACDEN<\n\x00", "<wrong>", "<think>", "</think>", "<eos>",
          "<hint>", "a0", "b1", ":", "even", "odd", "x", "y", "?", "１", "²", "٣", "\u2028", " , ",
          "->", "00", "100"]
STRANGE = str.maketrans("0123456789", "０１２３４৫６٧８９")     # digits to others, not to us
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
LEVELS = {"chain": (1, 9), "addition": (1, 8), "countdown": (2, 5),
          "multiplication": (1, 6), "modular": (1, 6), "maze": (3, 7), "pathstar": (3, 7),
          "decomposition": (1, 5), "instructions": (1, 6), "program": (1, 8),
          "synthesis": (1, 4)}
PER_PROBLEM = 25                      # mutants per problem


def writings(answer: str) -> list[str]:
    """The right answer written in ways of all kinds."""
    return [answer, answer[::-1], f"${answer[::-1]}$", f"0{answer}", f"({answer})",
            f"({answer[::-1]})", f"({answer[::-1]}0)", f"({answer[::-1]}00)",
            f"{answer},{answer}", f"{answer}odd", f"{answer}even,{answer}even",
            answer.translate(STRANGE), answer[:-1] + answer[-1].translate(STRANGE)]


def cheated(dice: random.Random, problem: Problem) -> tuple[Problem, str]:
    """(countdown problem of the same numbers, wrong expression that has its target for a value):
    through a fraction, negative or large values, or with one number in place of another."""
    numbers = problem.prompt.partition(">")[0]
    for _ in range(50):
        parts = [(number, Fraction(number)) for number in numbers.split(",")]
        if dice.random() < 0.3:
            parts[dice.randrange(len(parts))] = dice.choice(parts)
        while len(parts) > 1:
            dice.shuffle(parts)
            (a, x), (b, y) = parts.pop(), parts.pop()
            sign = dice.choice("+-**/" if y else "+-*")
            parts.append((f"({a}{sign}{b})", OPERATIONS[sign](x, y)))
        text, target = parts[0][0][1:-1], parts[0][1]
        asked = replace(problem, prompt=f"{numbers}>{target}=")
        if target in range(100) and not judge(asked, f"</think>{text}<eos>").correct:
            with suppress(UserError):               # there is no right way
                return FAMILIES["countdown"].read(asked.prompt), text
    return problem, problem.answer


def strolls(dice: random.Random, prompt: str, answer: str) -> list[str]:
    """Ways through a maze of as many moves as the right plan: two that go straight towards the goal
    whatever is there, and the right one with two moves more."""
    def name(cell: complex) -> str:
        return f"{'abcdefghij'[int(cell.real)]}{int(cell.imag)}"

    start, goal = (complex("abcdefghij".index(end[-2]), int(end[-1]))
                   for end in prompt.replace("#", "=").split("=")[0].split(">"))
    ways = []
    for _ in range(2):
        here, way = start, ""
        while here != goal:
            left = goal - here
            moves = [part / abs(part) for part in (left.real, left.imag * 1j) if part]
            here += dice.choice(moves)
            way += name(here)
        ways.append(way)
    back = answer[-4:-2] or name(start)
    return [*ways, answer + back + answer[-2:]]


def otherwise(problem: Problem) -> list[str]:
    """Prompts of the same question that ask for something else, so that their solutions disobey."""
    edges, _, bare = problem.prompt.rpartition(":")
    if problem.family == "pathstar":
        return [f"{edges}:{bare[0]}{end}" for end in {*edges[1::3]} - {*edges[::3], bare[1]}]
    if problem.family == "decomposition":
        return [f"once:{bare}", f"split:{bare}"]
    if problem.family != "instructions":
        return []
    asked = ["only", "plus", "begin,twice", "reversed,parity"]
    return [f"{words}:{bare}" for words in asked + ["most1", "stop1"] * (problem.level > 1)]


def rounded(match: re.Match) -> str:
    """A division as one who forgets the remainder writes it."""
    return f"{match[1]}/{match[2]}={int(match[1]) // int(match[2])}"


def mutated(dice: random.Random, text: str, texts: list[str], answers: list[str]) -> str:
    """The text changed in one to three places; sometimes not at all."""
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
        kind, spot = dice.randrange(11), dice.randrange(len(text) + 1)
        numbers = [match.span() for match in re.finditer("[0-9]+", text)]
        letters = [match.span() for match in re.finditer("[a-t](?![a-z]*>)", text)]
        head, close, tail = text.partition("</think>")
        steps = head.split(";")
        i, j = dice.randrange(len(steps)), dice.randrange(len(steps))
        if kind < 2:                                          # another digit, number, letter
            start, end = dice.choice(numbers or letters or [(0, 0)])
            new = str(dice.randrange(10 ** dice.randint(1, 2)))
            new = new if numbers else dice.choice("abcdefghijklmnopqrstuv")
            new = new if dice.random() < 0.95 else new.translate(STRANGE)
            text = text[:start] + new + text[end if dice.random() < 0.7 else start + 1:]
        elif kind < 4:                                        # a few characters
            text = text[:spot] + dice.choice(PIECES) * dice.randint(0, 1) + text[
                spot + dice.randint(0, 2):]
        elif kind == 4:                                       # steps moved, doubled, left out
            new = dice.choice(([], [steps[j]], [steps[j], steps[i]]))
            order = [*steps[:i], *new, *steps[i + 1:]]
            text = ";".join(order) + close + tail
        elif kind == 5:                                       # steps taken back
            first = dice.choice(steps).removeprefix("<think>")
            taken = dice.choice((f"{first}<wrong>", "<wrong>")) * dice.choice((1, 1, 2, 8, 9))
            at = head.find(steps[i]) + 7 * (i == 0)
            text = head[:at] + taken + head[at:] + close + tail
        elif kind == 6:                                       # another completion's end
            text = head + close + dice.choice(texts).partition("</think>")[2]
        elif kind < 9:                                        # the answer in another writing
            new = f"</think>{dice.choice(answers)}<eos>"
            if dice.random() < 0.3:
                return new
            text = head + new
        elif kind == 9 and numbers:                           # a wrong result, gone on with
            divided = [match.span() for match in re.finditer("[0-9]+(?=/)", text)]
            start, end = dice.choice(divided or numbers)
            text = text.replace(text[start:end], str(dice.randrange(100)))
            text = re.sub("([0-9]+)/([1-9])=[0-9]+", rounded, text)
        else:
            other = dice.choice(texts)
            text = text[:spot] + other[dice.randrange(len(other)):]
    return text


def signs(verdict: Verdict) -> tuple[bool, ...]:
    return (verdict.well_formed, verdict.correct, verdict.steps_valid, *verdict.obeyed,
            *verdict.marks)


def fuzz(name: str, n: int, seed: int = 0) -> tuple[Counter, list[str]]:
    """Counts over n mutants of a family's completions, and the first few that were misjudged.

    accepts: something that the verifier grants and the judge does not; rejects: the reverse.
    """
    dice, generator, family = random.Random(seed), np.random.default_rng(seed), FAMILIES[name]
    zeros = dict.fromkeys(("differing", "false accepts", "false rejects"), 0)
    counts, examples, texts = Counter(zeros, mutants=n), [], []
    for i in range(n):
        if i % PER_PROBLEM == 0:
            problem = family.sample(generator, dice.randrange(*LEVELS[name]))
            answers = writings(problem.answer)
            if name == "countdown" and dice.random() < 0.8:
                problem, cheat = cheated(dice, problem)
                answers = [*writings(problem.answer), *[cheat] * 5]
            if name == "maze":
                answers += strolls(dice, problem.prompt, problem.answer)
            texts = [family.render(problem, style) for style in family.STYLES] + texts[:3]
            texts += [family.render(family.read(other), "cot") for other in otherwise(problem)]
        text = mutated(dice, dice.choice(texts), texts, answers)
        found, wanted = family.verify(problem, text), judge(problem, text)
        counts.update(well_formed=wanted.well_formed, right=wanted.correct,
                      steps_valid=wanted.steps_valid)
        if found != wanted:
            mine, other = signs(found), signs(wanted)
            counts["false accepts"] += any(a > b for a, b in zip(mine, other, strict=False))
            counts["false rejects"] += any(a < b for a, b in zip(mine, other, strict=False))
            counts["differing"] += 1
            examples = [*examples, f"{problem.prompt}{text!r}: {found}, not {wanted}"][:5]
    return counts, examples


def main(arguments: list[str]) -> int:
    numbers = [int(word) for word in arguments if word.isdigit()]
    failed = 0
    if any(not word.isdigit() and word not in LEVELS for word in arguments):
        print(f"{__doc__}\nFamilies: {', '.join(LEVELS)}")
        return 2
    for name in [word for word in arguments if word in LEVELS] or list(LEVELS):
        start = time.perf_counter()
        counts, examples = fuzz(name, numbers[0] if numbers else 1_000_000)
        print(f"{name}: {dict(counts)}, {time.perf_counter() - start:.0f} s", *examples, sep="\n  ",
              flush=True)
        failed += counts["differing"]
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
