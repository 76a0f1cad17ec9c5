"""Monte-Carlo tree search over steps, with the critic's values and the policy's prior.

    Q + c P sqrt(N_parent) / (1 + N)        PUCT (Silver 2017, doi:10.1038/nature24270)
    Q + c sqrt(ln N_parent / N)             UCT  (Kocsis 2006, doi:10.1007/11871842_29)

A simulation walks down by the rule, draws M steps after the prefix that it reaches, and backs up
the best of their values. P is a step's probability normalised among its siblings. Steps are drawn,
not enumerated, so a prefix is drawn from again as its visits grow (progressive widening, Coulom
2007). All problems advance together, several leaves of each per round, kept apart by virtual loss.
"""

import math
from dataclasses import dataclass
from itertools import count

from minireason.search.steps import OPEN, Node, Request, Stepper, Task, expand


@dataclass(frozen=True)
class TreeConfig:
    """Shape of a tree search."""

    uct: bool = False             # by the rule UCT; else PUCT
    c: float = 0.3                # weight of exploration
    width: int = 2                # M steps drawn per visit
    widen: float = 0.25           # draws allowed: M * (simulations through the node) ** widen
    leaves: int = 2               # L simulations of a problem per round


def tree_search(stepper: Stepper, cfg: TreeConfig, tasks: list[Task]) -> None:
    """Search every problem until its budget is spent.

    While nothing is complete, the tokens that a completion needs are kept in reserve.
    """
    finishing: dict[Task, Node | None] = {}       # the prefix that the last of a budget completes
    for task in tasks:
        task.root.visits = 1
    for number in count():
        requests = []
        for task in tasks:
            requests += _simulations(stepper, cfg, task, finishing)
        if not requests:
            return
        drawn = expand(stepper, requests, "tree", number)
        for request, nodes in zip(requests, drawn, strict=True):
            best = max((node.value for node in nodes), default=0.0)
            for node in request.node.upwards():
                node.total += best
            request.task.add(nodes)
            if finishing.get(request.task):
                finishing[request.task] = next((n for n in nodes if n.state == OPEN), None)


def _simulations(stepper: Stepper, cfg: TreeConfig, task: Task,
                 finishing: dict[Task, Node | None]) -> list[Request]:
    """This round's simulations of one problem: the leaves that they reach, the steps to draw."""
    if task.left == 0 or _closed(task.root, stepper):
        return []
    spare, visit = task.left, cfg.width * task.reach                      # tokens
    if not task.complete:
        leaf = finishing.get(task) or _best_leaf(task.root)
        spare -= task.needed(leaf)
        if finishing.get(task) or spare < visit:
            finishing[task] = leaf
            for node in leaf.upwards():
                node.visits += 1
            return [Request(task, leaf, 1)]
    requests: list[Request] = []
    for _ in range(max(1, min(cfg.leaves, int(spare / visit)))):
        leaf = _select(stepper, cfg, task.root)
        if any(request.node is leaf for request in requests):   # all else lost to its siblings
            for node in leaf.upwards():
                node.visits -= 1
            break
        answering = leaf.tokens[-1] == stepper.tokenizer.end_think      # one draw of it is enough
        requests.append(Request(task, leaf, min(task.rows, 1 if answering else cfg.width)))
    return requests


def _select(stepper: Stepper, cfg: TreeConfig, root: Node) -> Node:
    """The prefix to draw from; it and those above it get a visit worth 0 until the back-up."""
    node = root
    while True:
        simulations = node.visits - 1                      # through it, itself not counted
        node.visits += 1                                   # virtual loss
        ways = [child for child in node.children.values() if not _closed(child, stepper)]
        if not ways or node.below < cfg.width * simulations ** cfg.widen:
            return node
        visits, mass = node.visits, sum(math.exp(child.logprob) for child in ways)
        node = max(ways, key=lambda child: _score(cfg, child, visits, mass))


def _score(cfg: TreeConfig, child: Node, visits: int, mass: float) -> float:
    """How promising a child is; visits of its parent, mass: probability of all its siblings."""
    q = child.total / child.visits
    if cfg.uct:
        return q + cfg.c * math.sqrt(math.log(visits) / child.visits)
    prior = math.exp(child.logprob) / mass if mass > 0 else 1.0
    return q + cfg.c * prior * math.sqrt(visits) / (1 + child.visits)


def _closed(node: Node, stepper: Stepper) -> bool:
    """Whether nothing below the node is worth another token."""
    answered = node.tokens[-1] == stepper.tokenizer.end_think and len(node.children) > 0
    return node.state != OPEN or answered


def _best_leaf(root: Node) -> Node:
    """Where the way of highest values ends."""
    node = root
    while ways := [child for child in node.children.values() if child.state == OPEN]:
        node = max(ways, key=lambda child: child.value)
    return node
