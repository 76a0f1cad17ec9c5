"""Sequential revision: an attempt, then another that resumes before its weakest step.

    drop_i = S_(i-1) (1 - min(1, v_i / v_(i-1))),   S_i = S_(i-1) - drop_i

v_i is the value after step i, so drop_i is how likely i is the first wrong step, in the critic's
opinion. A chain resumes before a step drawn with these weights, or shows the policy that step with
`<wrong>` after it. A budget is spent on several chains side by side: one is all sequential, many
are best-of-N (Snell 2024, arXiv:2408.03314, section 6, figure 7). Revising turns right answers
wrong too (38% there), so the answer is chosen among all attempts of all chains.
"""

from dataclasses import dataclass, field
from itertools import count, pairwise

import numpy as np

from minireason.core.config import rng
from minireason.model.tokenizer import Tokenizer
from minireason.search import steps
from minireason.search.steps import OPEN, Node, Request, Stepper, Task

MAX_WITHDRAWN = 4                     # `<wrong>` tokens that a prefix may hold before it is cut


@dataclass(frozen=True)
class ReviseSearchConfig:
    """How attempts are revised."""

    chains: int = 4               # side by side; the budget is split evenly among them
    withdraw: bool = False        # keep the step in sight, `<wrong>` after it; else cut it off


@dataclass(eq=False)
class Chain:
    """The attempts of one chain; the one under way has its tip at `tip`."""

    whole: Task                   # the problem's search
    own: Task                     # the chain's share of its budget
    tip: Node
    attempts: list[Node] = field(default_factory=list)     # last nodes, dead ones too


def revise_search(stepper: Stepper, cfg: ReviseSearchConfig, tasks: list[Task]) -> None:
    """Revise until every budget is spent.

    A problem has no more chains than it can pay a first attempt for.
    """
    chains = []
    for task in tasks:
        n = max(1, min(cfg.chains, int(task.budget / task.expected + 1e-9)))
        for i in range(n):
            share = (task.budget + n - 1 - i) // n         # the first ones get what is left over
            chains.append(Chain(task, Task(task.root, share, stepper.max_step), task.root))
    for number in count():
        active = [i for i, chain in enumerate(chains) if chain.own.left > 0]
        if not active:
            break
        requests = [Request(chains[i].own, chains[i].tip, 1) for i in active]
        drawn = steps.expand(stepper, requests, "revise", number)
        for i, (node,) in zip(active, drawn, strict=True):
            chains[i].tip = node
            if node.state != OPEN:
                chains[i].attempts.append(node)
                generator = rng(stepper.seed, "revise pick", number, i)
                chains[i].tip = resume_at(stepper, cfg, chains[i], generator)
    for chain in chains:
        chain.whole.add(chain.attempts)
        chain.whole.charge(chain.own.spent, finished=False)


def resume_at(stepper: Stepper, cfg: ReviseSearchConfig, chain: Chain,
              generator: np.random.Generator) -> Node:
    """The prefix from which the chain's next attempt continues: one of its best attempt's."""
    best = max(reversed(chain.attempts), key=lambda node: node.value)
    root, *path = reversed(list(best.upwards()))           # first step to last
    values = [root_value(root)]
    for node in path:                                      # what was withdrawn changes no value
        values.append(node.value if node.draws else values[-1])
    weights = first_wrong(values)
    if weights.sum() == 0:
        return root
    i = int(generator.choice(len(path), p=weights / weights.sum()))
    return withdrawn_prefix(stepper, path[i]) if cfg.withdraw else [root, *path][i]


def first_wrong(values: list[float]) -> np.ndarray:
    """How likely each step is the first wrong one; values v_0..v_m -> weights (m,), sum <= 1."""
    weights, survival = [], 1.0
    for before, after in pairwise(values):
        kept = survival * min(1.0, after / before) if before > 0 else survival
        weights.append(survival - kept)
        survival = kept
    return np.array(weights)


def root_value(root: Node) -> float:
    """v_0: the mean value of all first steps drawn so far.

    A value is an expectation over what follows, so this mean estimates it without bias.
    """
    draws, total = 0, 0.0
    for node in root.children.values():
        draws += node.draws                                # 0 where a step was withdrawn
        total += node.draws * node.value
    return total / draws


def withdrawn_prefix(stepper: Stepper, node: Node) -> Node:
    """The prefix that ends with the node's last step withdrawn; its parent if that cannot be."""
    tokens, parent = node.tokens, node.parent
    assert parent, "a root has no step to withdraw"
    *ends, wrong = stepper.tokenizer.ids_of(*steps.STEP_STOPS, "<wrong>")
    if (tokens[-1] not in ends or len(tokens) > stepper.room
            or tokens.count(wrong) >= MAX_WITHDRAWN):
        return parent
    key = (*tokens[len(parent.tokens):], -1)               # no drawn step has this key
    return parent.children.setdefault(key, Node([*tokens[:-1], wrong], parent))


def standing(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """The row without its withdrawn steps, as a critic that saw no `<wrong>` can read it."""
    *starts, wrong = tokenizer.ids_of("<think>", *steps.STEP_STOPS, "<wrong>")
    kept: list[int] = []
    for token in tokens:
        if token != wrong:
            kept.append(token)
            continue
        while kept and kept[-1] not in starts:
            kept.pop()
    return kept
