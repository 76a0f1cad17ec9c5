"""instructions: `twice,most1:((23+4)*3)=81,81`, chains with one or two checkable instructions.

The question is chain's (chain.py); the instructions say how to think and how to answer:

    only      the thought is empty               begin    the last operand opens the thought
    most2     two operations in it at most       twice    the answer stands twice
    stop2     two of them, and their result      plus     the answer is one more (after 99: 0)
    reversed  its last operation first           parity   a word behind the answer: even, odd

    reversed,parity:((23+4)*3)=<think>27*3=81;23+4=27</think>81odd<eos>
    begin:((23+4)*3)=<think>3;23+4=27;27*3=81</think>81<eos>

Right and obedient are judged apart, as in MathIF (Fu 2025, arXiv:2505.14810). Right is the value of
the chain, and the value that is asked for, whichever is stated. An instruction is obeyed if the
completion does what it says, with numbers of its own, and nothing of this list that is not asked.
The pairs HELD_OUT are in the frozen sets `held` alone. Authors err as chain's do, and overlook each
instruction with the chance of a rare rule.
"""

import re
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from minireason.core.errors import UserError
from minireason.problems import authors as writing
from minireason.problems import base, chain
from minireason.problems.arithmetic import HIGHEST, NUMBER, compute
from minireason.problems.authors import Authors, Marked, Outcome
from minireason.problems.base import SYMBOLS, Problem, Verdict, number_tokens, plain_text

NAME: str = "instructions"
LEVELS: tuple[int, ...] = (2, 3, 4, 5, 6)   # one operation leaves little to ask
SAMPLED: tuple[int, int] = (1, 20)
LEVEL_SYMBOL, LEVEL_NAME, render = chain.LEVEL_SYMBOL, chain.LEVEL_NAME, chain.render
STYLES, OPENER = chain.STYLES, chain.OPENER
COUNTED = ("most", "stop")                # with a number of operations, fewer than there are
KINDS = ("only", *COUNTED, "reversed", "begin", "twice", "plus", "parity")
WORDS = ("even", "odd")
TOKENS = (*number_tokens(2), *SYMBOLS, *KINDS, *WORDS)
CLASHING = {("only", "most"), ("only", "stop"), ("only", "reversed"), ("only", "begin"),
            ("most", "stop")}
HELD_OUT = (("only", "parity"), ("most", "twice"), ("stop", "begin"), ("reversed", "plus"))
PAIRS = tuple((a, b) for i, a in enumerate(KINDS) for b in KINDS[i + 1:]
              if (a, b) not in {*CLASHING, *HELD_OUT})

_STEP = re.compile(rf"({NUMBER})([-+*/])({NUMBER})=({NUMBER})")
_ONE = rf"{NUMBER}[-+*/]{NUMBER}={NUMBER}"
_ANSWER = rf"(?P<once>(?P<number>{NUMBER})(?P<word>{'|'.join(WORDS)})?)(?:,(?P=once))?"
_COMPLETION = re.compile(rf"(?:<think>((?:(?:{NUMBER}|{_ONE})(?:;{_ONE})*)?))?"
                         rf"</think>({_ANSWER})<eos>")
parse = partial(base.parse_by, _COMPLETION)    # (pieces of the thought, answer)


class Task(NamedTuple):
    """What a prompt says."""

    bare: Problem                         # chain's
    asked: dict[str, int]                 # {instruction: its number of operations, or 0}
    moves: tuple[tuple[str, str], ...]    # (operator, operand) of every operation
    end: int                              # operations up to the value that is asked for
    count: int                            # operations in the thought that is asked for

    def values(self) -> set[int]:
        """What a right answer may state before `plus`."""
        return {int(self.bare.steps[length - 1].partition("=")[2])
                for length in (self.end, self.bare.level)}


@lru_cache(4096)
def task_of(prompt: str) -> Task:
    """The task; UserError if the prompt is none."""
    head, _, expression = plain_text(prompt).removesuffix("=").rpartition(":")
    found = re.findall("([a-z]+)([1-9][0-9]?)?(?:,|$)", head)
    asked = {kind: int(number or 0) for kind in KINDS for name, number in found if name == kind}
    written = ",".join(kind + number for kind, number in found)
    bare = chain.read(expression)
    fits = all(0 < number < bare.level if kind in COUNTED else number == 0
               for kind, number in asked.items())
    if written != head or len(found) != len(asked) or not 1 <= len(asked) <= 2 or not fits or (
            tuple(asked) in CLASHING):
        raise UserError(f"cannot read {prompt[:80]!r}: write one or two of {', '.join(KINDS)} that "
                        "do not exclude each other before a chain, such as twice,most1:((23+4)*3); "
                        "most and stop with fewer operations than it has")
    moves = tuple((sign, right) for _, sign, right, _ in _STEP.findall(";".join(bare.steps)))
    end = asked.get("stop", bare.level)
    return Task(bare, asked, moves, end, 0 if "only" in asked else asked.get("most", end))


def carried_out(steps: tuple[str, ...], asked: dict[str, int]) -> tuple[tuple[str, ...], str]:
    """(thought, answer) of one who computed these steps of a chain and does what is asked."""
    end = asked.get("stop", len(steps))
    value = (int(steps[end - 1].partition("=")[2]) + ("plus" in asked)) % (HIGHEST + 1)
    thought = () if "only" in asked else steps[:asked.get("most", end)]
    thought = thought[::-1] if "reversed" in asked else thought
    if "begin" in asked:
        operation = steps[-1].partition("=")[0]
        thought = (re.split("[-+*/]", operation)[1], *thought)
    answer = f"{value}{WORDS[value % 2] if 'parity' in asked else ''}"
    return thought, f"{answer},{answer}" if "twice" in asked else answer


def read(text: str) -> Problem:
    """A problem from typed text such as `twice, most 1: (23 + 4) * 3`."""
    task = task_of(text)
    names = ",".join(f"{kind}{number or ''}" for kind, number in task.asked.items())
    steps, answer = carried_out(task.bare.steps, task.asked)
    return Problem(f"{names}:{task.bare.prompt}", answer, steps, NAME, task.bare.level,
                   f"{names} {task.bare.key}", task.bare.key)


def sample(rng: np.random.Generator, level: int, pairs: tuple = PAIRS,
           single: float = 0.5) -> Problem:
    """A chain with one instruction, of them a `single` share, or with one of the pairs."""
    while True:
        bare, kinds = chain.sample(rng, level), pairs[int(rng.integers(len(pairs)))]
        if rng.random() < single:
            kinds = (KINDS[int(rng.integers(len(KINDS)))],)
        number = int(rng.integers(1, max(2, level)))
        if level == 1 and not {*COUNTED, "reversed"}.isdisjoint(kinds):
            continue
        names = ",".join(f"{kind}{number if kind in COUNTED else ''}" for kind in kinds)
        problem = read(f"{names}:{bare.prompt}")
        moves = task_of(problem.prompt).moves[:task_of(problem.prompt).count]
        if "reversed" not in kinds or moves != moves[::-1]:      # else it cannot be told
            return problem


EXTRA_SETS = dict.fromkeys(("held", "held-validation"),
                           partial(sample, pairs=HELD_OUT, single=0.0))


def max_new(level: int) -> int:
    """Tokens of a completion at most: chain's, and room for what instructions add."""
    return chain.max_new(level + 1)


def answer_key(answer: str) -> str:
    """The number that it states, however often and with whatever word."""
    match = re.fullmatch(_ANSWER, answer)
    return match["number"] if match else answer


def is_right(problem: Problem, answer: str) -> bool:
    """Does it state the chain's value, or the one that is asked for?"""
    task, key = task_of(problem.prompt), answer_key(answer)
    return key in {str((value + more) % (HIGHEST + 1)) for value in task.values()
                   for more in (0, "plus" in task.asked)}


def first_place(task: Task, steps: tuple[str, ...]) -> int:
    """Which operation of the chain a thought begins with: 0, or its last one if it goes backwards.

    `reversed` must be asked for; a first operation that begins the chain as well, from its first
    number, goes forwards unless it is exactly the step that is expected.
    """
    match = _STEP.fullmatch(steps[0]) if steps else None
    if match and "reversed" in task.asked:
        forwards = steps[0].partition("=")[0] == task.bare.steps[0].partition("=")[0]
        for top in (task.count - 1, task.bare.level - 1):
            if task.moves[top] == match.group(2, 3) and (
                    not forwards or steps[0] == task.bare.steps[top]):
                return top
    return 0


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each piece: is it exactly right, given the one before it?

    Backwards, a step must give what the step before it starts from. The last operand before the
    thought is right where it is asked for.
    """
    task = task_of(problem.prompt)
    lead = [steps[0] == task.moves[-1][1] and "begin" in task.asked] if steps and re.fullmatch(
        NUMBER, steps[0]) else []
    steps = steps[len(lead):]
    place, wanted, marks = first_place(task, steps), None, lead
    if place == 0:
        return lead + chain.check_steps(task.bare, steps)
    for at, step in zip(range(place, place - len(steps), -1), steps, strict=True):
        match = _STEP.fullmatch(step)
        marks.append(match is not None and at >= 0 and match.group(2, 3) == task.moves[at]
                     and str(compute(int(match[1]), match[2], int(match[3]))) == match[4]
                     and wanted in (None, match[4])
                     and (at > 0 or step.partition("=")[0] == task.bare.steps[0].partition("=")[0]))
        wanted = match and match[1]
    return marks


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    task, match = task_of(problem.prompt), _COMPLETION.fullmatch(completion)
    if match is None or (parsed := parse(completion)) is None:
        return Verdict(False, False, False, (), (False,) * len(task.asked))
    pieces, answer = parsed
    steps = pieces[re.fullmatch(NUMBER, pieces[0]) is not None:] if pieces else ()
    n, level, value = len(steps), task.bare.level, int(match["number"])
    written = tuple((sign, right) for _, sign, right, _ in _STEP.findall(";".join(steps)))
    bases = task.values()
    if n and n in (task.end, level):      # its own value, where the thought has one
        last = steps[0 if first_place(task, steps) else -1]
        bases = {int(last.partition("=")[2])}
    more = {(base + 1) % (HIGHEST + 1) for base in bases} if "plus" in task.asked else set()
    does = {
        "only": not pieces, "most": n <= task.asked.get("most", n),
        "stop": n == task.end and value in bases | more,
        "reversed": 0 < n in (task.count, level) and written[::-1] == task.moves[:n],
        "begin": n < len(pieces) and pieces[0] == task.moves[-1][1], "twice": "," in answer,
        "plus": value in more, "parity": match["word"] == WORDS[value % 2]}
    extra = {"begin": n < len(pieces), "twice": "," in answer, "parity": bool(match["word"])}
    tidy = not any(done and kind not in task.asked for kind, done in extra.items())
    marks, correct = tuple(check_steps(problem, pieces)), is_right(problem, answer)
    valid = correct and all(marks) and n in (task.count, level)
    return Verdict(correct, valid, True, marks, tuple(does[kind] and tidy for kind in task.asked))


def facts(problem: Problem) -> tuple[str, ...]:
    """The chain's steps, each a fact of arithmetic."""
    return task_of(problem.prompt).bare.steps


def fact_outcomes(problem: Problem, authors: Authors) -> list[list[Outcome]]:
    """The ways in which an author may state each of them."""
    return writing.fact_outcomes(chain, task_of(problem.prompt).bare, authors)


def written_by(authors: Authors, problem: Problem, generator: np.random.Generator,
               style: str) -> tuple[str, Marked]:
    """(completion, marked pieces) of an author, who may overlook instructions."""
    task = task_of(problem.prompt)
    _, steps = writing.written(chain, task.bare, authors, generator)
    heard = {kind: number for kind, number in task.asked.items()
             if generator.random() >= authors.rare}
    thought, answer = carried_out(tuple(step for step, _ in steps), heard)
    text = render(replace(problem, steps=thought, answer=answer), style)
    return text, steps if style == "direct" else [(p, dict(steps).get(p, "")) for p in thought]
