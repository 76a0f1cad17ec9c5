"""Monte-Carlo tree search over steps, with the critic's values and the policy's prior.

    Q + c P sqrt(N_parent) / (1 + N)        PUCT (Silver 2017, doi:10.1038/nature24270)
    Q + c sqrt(ln N_parent / N)             UCT  (Kocsis 2006, doi:10.1007/11871842_29)

A simulation walks down by the rule, draws M steps after the prefix that it reaches, and backs up
the best of their values. P is a step's probability normalised among its siblings. Steps are drawn,
not enumerated, so a prefix is drawn from again as its visits grow (progressive widening, Coulom
2007). All problems advance together, several leaves of each a round, kept apart by virtual loss.
"""

import math
from dataclasses import dataclass, field

from minireason.core.config import UserError
from minireason.search.steps import (
    COMPLETE,
    DEAD,
    OPEN,
    Ledger,
    Node,
    Outcome,
    Request,
    Stepper,
    expand,
    plant,
)


@dataclass(frozen=True)
class TreeConfig:
    """Shape of a tree search."""

    rule: str = "puct"            # puct | uct
    c: float = 0.3                # weight of exploration
    width: int = 2                # M steps drawn a visit
    widen: float = 0.25           # draws allowed: M * (simulations through the node) ** widen
    leaves: int = 2               # L simulations of a problem a round
    commit: int = 0               # simulations before the root moves to its best child (mean
    #                               value), whose subtree is kept; 0 decides only at the end

    def __post_init__(self):
        if self.rule not in ("puct", "uct"):
            raise UserError(f"tree search: rule {self.rule!r} must be puct or uct")


@dataclass(eq=False)
class Tree:
    """The search of one problem under way."""

    problem: int
    start: Node                   # the prompt
    root: Node                    # where simulations begin: moves if steps are committed
    simulations: int = 0          # since the last commit
    finishing: Node | None = None # the prefix that the last of the budget completes
    complete: dict[Node, None] = field(default_factory=dict)


def tree_search(stepper: Stepper, cfg: TreeConfig, prompts: list[list[int]], budgets: list[int],
                expected: float) -> list[Outcome]:
    """Search every problem until its budget is spent.

    prompts hold prompt and opener; budgets are tokens a problem; expected is what one completion
    of the policy takes, in tokens: as long as nothing is complete, that much is kept in reserve.
    """
    ledger = Ledger(budgets, stepper.max_step)
    trees = [Tree(p, root, root) for p, root in enumerate(plant(stepper, prompts))]
    for tree in trees:
        tree.root.visits = 1
    number = 0
    while True:
        walks = [walk for tree in trees for walk in _plan(stepper, cfg, ledger, tree, expected)]
        if not walks:
            break
        requests = [Request(tree.problem, path[-1], n) for tree, path, n in walks]
        drawn = expand(stepper, ledger, requests, "tree", number)
        for (tree, path, _), nodes in zip(walks, drawn, strict=True):
            _back_up(tree, path, nodes)
        for tree in trees:
            _commit(cfg, tree)
        number += 1
    return [Outcome(tree.start, list(tree.complete), spent)
            for tree, spent in zip(trees, ledger.spent, strict=True)]


def _plan(stepper: Stepper, cfg: TreeConfig, ledger: Ledger, tree: Tree,
          expected: float) -> list[tuple[Tree, list[Node], int]]:
    """This round's simulations of one problem: (tree, path to the leaf, steps to draw there)."""
    p, step = tree.problem, ledger.reach(tree.problem)
    if ledger.left(p) == 0 or _closed(tree.root, stepper):
        return []
    spare = ledger.left(p)
    if not tree.complete:
        leaf = tree.finishing or _best_leaf(tree.root)
        spare -= max(expected - (len(leaf.tokens) - len(tree.start.tokens)), step)
        if tree.finishing or spare < cfg.width * step:
            tree.finishing, path = leaf, _path(leaf, tree.root)
            for node in path:
                node.visits += 1
            return [(tree, path, 1)]
    walks, rows = [], ledger.rows(p)
    for _ in range(max(1, min(cfg.leaves, int(spare / (cfg.width * step))))):
        path = _select(cfg, tree.root, stepper)
        if any(path[-1] is other[-1] for _, other, _ in walks):   # all else lost to its siblings
            for node in path:
                node.visits -= 1
            break
        walks.append((tree, path, min(rows, 1 if _thought(path[-1], stepper) else cfg.width)))
    return walks


def _select(cfg: TreeConfig, root: Node, stepper: Stepper) -> list[Node]:
    """Path to the prefix to draw from; its nodes get a visit worth 0 until the back-up."""
    path, node = [root], root
    while True:
        simulations = node.visits - 1                      # through it, itself not counted
        node.visits += 1                                   # virtual loss
        ways = [child for child in node.children.values() if not _closed(child, stepper)]
        if not ways or node.below < cfg.width * simulations ** cfg.widen:
            return path
        mass = sum(math.exp(child.logprob) for child in ways)
        parent = node
        node = max(ways, key=lambda child: _score(cfg, parent, child, mass))
        path.append(node)


def _score(cfg: TreeConfig, parent: Node, child: Node, mass: float) -> float:
    """How promising a child is; `mass` is the summed probability of its siblings and itself."""
    q = child.total / child.visits
    if cfg.rule == "uct":
        return q + cfg.c * math.sqrt(math.log(parent.visits) / child.visits)
    prior = math.exp(child.logprob) / mass if mass > 0 else 1.0
    return q + cfg.c * prior * math.sqrt(parent.visits) / (1 + child.visits)


def _back_up(tree: Tree, path: list[Node], nodes: list[Node]) -> None:
    """Book one simulation: the best of the new values along its path."""
    best = max((node.value for node in nodes), default=0.0)
    for node in path:
        node.total += best
    tree.complete.update({node: None for node in nodes if node.state == COMPLETE})
    if tree.finishing:
        tree.finishing = next((node for node in nodes if node.state == OPEN), None)
    tree.simulations += 1


def _commit(cfg: TreeConfig, tree: Tree) -> None:
    """Once enough simulations went by, keep only what lies below the best child."""
    ways = [child for child in tree.root.children.values() if child.state != DEAD]
    if not cfg.commit or tree.simulations < cfg.commit or not ways:
        return
    tree.root, tree.simulations = max(ways, key=lambda child: child.total / child.visits), 0
    kept = tree.root.tokens
    tree.complete = {n: None for n in tree.complete if n.tokens[:len(kept)] == kept}
    tree.finishing = None


def _thought(node: Node, stepper: Stepper) -> bool:
    """Whether only the answer is missing: one draw of it is enough."""
    return node.tokens[-1] == stepper.tokenizer.end_think


def _closed(node: Node, stepper: Stepper) -> bool:
    """Whether nothing below the node is worth another token."""
    return node.state != OPEN or (_thought(node, stepper) and bool(node.children))


def _best_leaf(root: Node) -> Node:
    """Where the way of highest values ends."""
    node = root
    while ways := [child for child in node.children.values() if child.state == OPEN]:
        node = max(ways, key=lambda child: child.value)
    return node


def _path(node: Node, root: Node) -> list[Node]:
    """The nodes from the root down to a node below it."""
    path = [node]
    while path[-1] is not root:
        path.append(path[-1].parent)
    return path[::-1]
