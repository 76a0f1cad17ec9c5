"""pathstar: `gl,pf,...:po=`, the path from the centre of a star of paths to one of its ends.

Two paths of n nodes, level n, start at the centre; the prompt lists their edges shuffled, `gl` for
the one from g to l, then centre and end. The first node after the centre is hard, as only the end
tells which path it is on; every other node is one look at an edge. Trained to predict the next
token, a model learns those looks, which leave nothing that would teach it the first node, and stays
at one half; trained on the reversed path, which is unique from the end on, it solves the task
(Bachmann and Nagarajan 2024, arXiv:2403.06963). A thought can walk that way first:

    direct   </think>pfslo<eos>
    reverse  </think>(olsfp)<eos>
    cot      <think>ol;ls;sf;fp</think>pfslo<eos>

A step of the thought is one edge, walked backwards. Everywhere a node stands right before the one
that is looked up by it: with a mark between them, `o;l;s` or `16,5,18`, small models mostly never
learned to look up (docs/LOG.md).

Solutions are written exactly: this family has no fallible authors (authors.py).
"""

import re
from itertools import pairwise

import numpy as np

from minireason.core.errors import UserError, check_choice
from minireason.problems import base
from minireason.problems.base import Parsed, Problem, Verdict, plain_text

NAME: str = "pathstar"
LEVELS: tuple[int, ...] = (5,)        # levels with a frozen set: nodes of a path
SAMPLED: tuple[int, int] = (3, 10)
LEVEL_SYMBOL: str = "l"
LEVEL_NAME: str = "nodes of a path"
STYLES: tuple[str, ...] = ("direct", "reverse", "cot")
OPENER = {"cot": "<think>", "direct": "</think>", "reverse": "</think>"}
NODES = "abcdefghijklmnopqrst"
TOKENS: tuple[str, ...] = (*NODES, *",;:=()")
answer_key, is_right, facts = base.answer_key, base.is_right, base.facts

_NODE = f"[{NODES}]"
_EDGE = _NODE * 2
_COMPLETION = re.compile(rf"(?:<think>({_EDGE}(?:;{_EDGE})*))?</think>(?:({_NODE}+)|\(({_NODE}+)\))"
                         "<eos>")
_PROMPT = re.compile(f"({_EDGE}(?:,{_EDGE})*):({_NODE})({_NODE})=?")


def sample(rng: np.random.Generator, level: int) -> Problem:
    """Random names for the nodes, of 2 * level + 2, edges in random order, one of the two ends.

    With more names than that to tell apart, looking up is learned late or not at all.
    """
    centre, *rest = rng.permutation([*NODES[:2 * level + 2]])[:2 * level - 1].tolist()
    paths = [centre, *rest[:level - 1]], [centre, *rest[level - 1:]]
    edges = [a + b for path in paths for a, b in pairwise(path)]
    return read(f"{','.join(rng.permutation(edges).tolist())}:{centre}{paths[0][-1]}")


def max_new(level: int) -> int:
    """Tokens of a completion at most: thought, path, and a little room."""
    return 16 + 4 * level


def read(text: str) -> Problem:
    """A problem from typed text such as `gl,pf,fg,pa,ab,bc:pl`."""
    match = _PROMPT.fullmatch(plain_text(text))
    edges, centre, end = match.groups() if match else ("", "", "")
    parts = edges.split(",") if match else []
    before = {head: tail for tail, head in parts}
    paths = {last: path_to(last, before) for last in {*before} - {tail for tail, _ in parts}}
    lengths = {len(path) for path in paths.values()}
    nodes = {*"".join(paths.values())}         # of the ends' paths, which must share but one node
    star = len(nodes) - 1 == len(before) == len(parts) == sum(lengths) * 2 - 2 and end in paths
    if not star or len(paths) != 2 or {path[0] for path in paths.values()} != {centre} or (
            not SAMPLED[0] <= max(lengths) <= SAMPLED[1]):
        raise UserError(f"cannot read {text[:80]!r}: write the edges of two paths of 3 to 10 nodes "
                        "from one centre, then the centre and one of the ends, such as "
                        "gl,pf,fg,pa,ab,bc:pl")
    path = paths[end]
    key = f"{NAME} {','.join(sorted(parts))}:{end}"
    steps = tuple(map("".join, pairwise(path[::-1])))
    return Problem(f"{edges}:{centre}{end}=", path, steps, NAME, len(path), key)


def path_to(node: str, before: dict[str, str]) -> str:
    """The nodes that lead to a node, each the one before; of a cycle each once."""
    path = node
    while path[0] in before and before[path[0]] not in path:
        path = before[path[0]] + path
    return path


def render(problem: Problem, style: str) -> str:
    """The ideal completion in the style, from its opener to <eos>."""
    check_choice("style", style, OPENER)
    answer = problem.answer
    if style == "reverse":
        answer = f"({answer[::-1]})"
    thought = f"<think>{';'.join(problem.steps)}" if style == "cot" else ""
    return f"{thought}</think>{answer}<eos>"


def parse(completion: str) -> Parsed:
    """(steps, path from the centre) of a completion that matches the grammar, else None."""
    match = _COMPLETION.fullmatch(completion)
    if match is None:
        return None
    return tuple(match[1].split(";")) if match[1] else (), match[2] or match[3][::-1]


def check_steps(problem: Problem, steps: tuple[str, ...]) -> list[bool]:
    """For each step: is it an edge backwards, from the end asked for or where the last one went?"""
    edges, _, asked = problem.prompt[:-1].partition(":")
    starts = [asked[1:], *(step[1:] for step in steps)]
    return [step[:1] == here and step[::-1] in edges.split(",")
            for step, here in zip(steps, starts, strict=False)]


def verify(problem: Problem, completion: str) -> Verdict:
    """Exact verdict on everything that follows the prompt, opener and <eos> included."""
    return base.stepwise_verdict(problem, parse(completion), check_steps)
