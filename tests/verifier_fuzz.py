"""Verifiers under attack: mutated completions, judged by verifier_judge.py as well.

    python tests/verifier_fuzz.py [N] [FAMILY ...]     N mutants per family, 1,000,000 by default

Prints what was accepted and how often verifier and judge differ; exit status 1 if they do.
"""

import random
import re
import sys
import time
from collections import Counter

import numpy as np
from verifier_judge import judge

from minireason.problems import FAMILIES, Problem, Verdict

PIECES = [*"0123456789+-*/()=;,:>. $[]ACDEN<\n\x00", "<wrong>", "<think>", "</think>", "<eos>",
          "<hint>", "１", "²", "٣", "\u2028", " , ", "->", "00", "100"]
LEVELS = {"chain": (1, 9), "addition": (1, 8), "countdown": (2, 5)}
PER_PROBLEM = 25                      # mutants per problem

def mutated(dice: random.Random, problem: Problem, text: str, texts: list[str]) -> str:
    """The text changed in one to three places; sometimes not at all."""
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
        kind, spot = dice.randrange(10), dice.randrange(len(text) + 1)
        numbers = [match.span() for match in re.finditer("[0-9]+", text)]
        head, close, tail = text.partition("</think>")
        steps = head.split(";")
        i, j = dice.randrange(len(steps)), dice.randrange(len(steps))
        if kind < 2:                                          # another digit, another number
            start, end = dice.choice(numbers or [(0, 0)])
            new = str(dice.randrange(10 ** dice.randint(1, 2)))
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
        elif kind == 7:                                       # the answer in another writing
            answer = tail.removesuffix("<eos>")
            new = dice.choice((answer[::-1], f"${answer[::-1]}$", f"0{answer}", f"({answer})",
                               problem.answer, re.sub(r"(\(.*?\)|\d+)([+*])(\(.*?\)|\d+)",
                                                      r"\3\2\1", answer, count=1)))
            text = f"{head if dice.random() < 0.7 else ''}{close}{new}<eos>"
        elif kind == 8:                                       # a wrong result that is gone on with
            start, end = dice.choice(numbers or [(0, 0)])
            text = text.replace(text[start:end], str(dice.randrange(100))) if end else text
        else:
            other = dice.choice(texts)
            text = text[:spot] + other[dice.randrange(len(other)):]
    return text


def signs(verdict: Verdict) -> tuple[bool, ...]:
    return verdict.well_formed, verdict.correct, verdict.steps_valid, *verdict.marks


def fuzz(name: str, n: int, seed: int = 0) -> tuple[Counter, list[str]]:
    """Counts over n mutants of a family's completions, and the first few that were misjudged.

    accepts: something that the verifier grants and the judge does not; rejects: the reverse.
    """
    dice, generator, family = random.Random(seed), np.random.default_rng(seed), FAMILIES[name]
    counts, examples, texts = Counter(mutants=n), [], []
    for i in range(n):
        if i % PER_PROBLEM == 0:
            problem = family.sample(generator, dice.randrange(*LEVELS[name]))
            texts = [family.render(problem, style) for style in family.STYLES] + texts[:3]
        text = mutated(dice, problem, dice.choice(texts), texts)
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
    for name in [word for word in arguments if word in LEVELS] or list(LEVELS):
        start = time.perf_counter()
        counts, examples = fuzz(name, numbers[0] if numbers else 1_000_000)
        print(f"{name}: {dict(counts)}, {time.perf_counter() - start:.0f} s", *examples, sep="\n  ",
              flush=True)
        failed += counts["differing"]
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
