"""Sequential revision: an attempt, then another that goes on from before its weakest step.

    drop_i = S_(i-1) (1 - min(1, v_i / v_(i-1))),   S_i = S_(i-1) - drop_i

v_i is the value after step i, so drop_i is how likely i is the first wrong step, in the critic's
opinion. A chain resumes before a step drawn with these weights, or shows the policy that step with
`<wrong>` after it. A budget is spent on several chains side by side: one is all sequential, many
are best-of-N (Snell 2024, arXiv:2408.03314, section 6, figure 7). Revising turns right answers
wrong too (38% there), so the answer is chosen among all attempts of all chains.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from minireason.core.config import UserError, rng
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.search.steps import (
    COMPLETE,
    OPEN,
    Ledger,
    Node,
    Outcome,
    Request,
    Stepper,
    Values,
    expand,
    plant,
)
from minireason.training.optim import autocast

PICKS = ("sample", "worst", "random", "start")
CHECKED = (";", "</think>")           # what `<wrong>` can stand in place of


@dataclass(frozen=True)
class ReviseSearchConfig:
    """How attempts are revised."""

    chains: int = 4               # side by side; the budget is split evenly among them
    pick: str = "sample"          # step to go back to: sample (by drop) | worst | random | start
    of: str = "best"              # attempt to revise: best (of its chain so far) | last
    withdraw: bool = False        # keep the step in sight, `<wrong>` after it; else cut it off
    max_withdrawn: int = 4        # `<wrong>` tokens a prefix may hold before it is cut instead
    prior: float = 0.0            # v_0, the value of the bare prompt; 0: mean of its first steps'

    def __post_init__(self):
        if self.pick not in PICKS or self.of not in ("best", "last"):
            raise UserError(f"revision: pick {self.pick!r} must be one of {', '.join(PICKS)}, "
                            f"of {self.of!r} best or last")


@dataclass(eq=False)
class Chain:
    """The attempts of one chain; the one under way has its tip at `tip`."""

    problem: int
    root: Node
    tip: Node
    attempts: list[Node] = field(default_factory=list)     # last nodes, dead ones too


def revise_search(stepper: Stepper, cfg: ReviseSearchConfig, prompts: list[list[int]],
                  budgets: list[int], expected: float) -> list[Outcome]:
    """Revise until every budget is spent; all chains of all problems advance step by step.

    prompts hold prompt and opener; budgets are tokens a problem; expected is what one completion
    takes, in tokens: a problem has no more chains than it can pay a first attempt for.
    """
    roots = plant(stepper, prompts)
    chains, shares = [], []
    for problem, (root, budget) in enumerate(zip(roots, budgets, strict=True)):
        n = max(1, min(cfg.chains, int(budget / expected + 1e-9)))
        chains += [Chain(problem, root, root) for _ in range(n)]
        shares += [budget // n + (i < budget % n) for i in range(n)]
    ledger = Ledger(shares, stepper.max_step)              # an account a chain
    number = 0
    while active := [i for i in range(len(chains)) if ledger.left(i) > 0]:
        requests = [Request(i, chains[i].tip, 1) for i in active]
        for i, nodes in zip(active, expand(stepper, ledger, requests, "revise", number),
                            strict=True):
            chains[i].tip = nodes[0]
            if nodes[0].state != OPEN:
                chains[i].attempts.append(nodes[0])
                generator = rng(stepper.seed, "revise pick", number, i)
                chains[i].tip = resume_at(stepper, cfg, chains[i], generator)
        number += 1
    complete: list[dict[Node, None]] = [{} for _ in roots]
    spent = [0] * len(roots)
    for i, chain in enumerate(chains):
        complete[chain.problem].update((a, None) for a in chain.attempts if a.state == COMPLETE)
        spent[chain.problem] += ledger.spent[i]
    return [Outcome(root, list(found), cost)
            for root, found, cost in zip(roots, complete, spent, strict=True)]


def resume_at(stepper: Stepper, cfg: ReviseSearchConfig, chain: Chain,
              generator: np.random.Generator) -> Node:
    """The prefix from which the chain's next attempt goes on."""
    attempt = chain.attempts[-1]
    if cfg.of == "best":
        attempt = max(reversed(chain.attempts), key=lambda node: node.value)
    path = [attempt]                                       # first step to last
    while path[0].parent is not chain.root:
        path.insert(0, path[0].parent)
    values = [root_value(chain.root, cfg.prior)]
    for node in path:                                      # what was withdrawn changes no value
        values.append(node.value if node.draws else values[-1])
    weights = np.ones(len(path)) if cfg.pick == "random" else first_wrong(values)
    if cfg.pick == "start" or weights.sum() == 0:
        return chain.root
    i = int(weights.argmax())
    if cfg.pick != "worst":
        i = int(generator.choice(len(path), p=weights / weights.sum()))
    return withdrawn_prefix(stepper, path[i], cfg.max_withdrawn) if cfg.withdraw else path[i].parent


def first_wrong(values: list[float]) -> np.ndarray:
    """How likely each step is the first wrong one; values v_0..v_m -> weights (m,), sum <= 1."""
    weights, survival = [], 1.0
    for before, after in pairwise(values):
        kept = survival * min(1.0, after / before) if before > 0 else survival
        weights.append(survival - kept)
        survival = kept
    return np.array(weights)


def root_value(root: Node, prior: float) -> float:
    """v_0: the prior, or without one the mean value of all first steps drawn so far.

    A value is an expectation over what follows, so this mean estimates it without bias.
    """
    children = [node for node in root.children.values() if node.draws]
    draws = sum(node.draws for node in children)
    return prior or sum(node.draws * node.value for node in children) / draws


def withdrawn_prefix(stepper: Stepper, node: Node, most: int) -> Node:
    """The prefix that ends with the node's last step withdrawn; its parent if that cannot be."""
    tokens, (wrong,) = node.tokens, stepper.tokenizer.ids_of("<wrong>")
    room = stepper.policy.config.max_len - stepper.max_step
    if (tokens[-1] not in stepper.tokenizer.ids_of(*CHECKED) or len(tokens) > room
            or tokens.count(wrong) >= most):
        return node.parent
    key = (*tokens[len(node.parent.tokens):], -1)          # no drawn step has this key
    return node.parent.children.setdefault(key, Node([*tokens[:-1], wrong], node.parent))


def standing(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """The row without its withdrawn steps, as a critic that saw no `<wrong>` can read it."""
    (wrong,), kept = tokenizer.ids_of("<wrong>"), []
    starts = tokenizer.ids_of("<think>", *CHECKED)
    for token in tokens:
        if token != wrong:
            kept.append(token)
        while token == wrong and kept and kept[-1] not in starts:
            kept.pop()
    return kept


def own_values(policy: Transformer, tokenizer: Tokenizer, token_budget: int = 8192) -> Values:
    """Values without a critic: what a self-correcting policy itself thinks of a prefix.

    prod over its steps of 1 - P(`<wrong>`), the chance that no step would be withdrawn.
    """
    (wrong,), checked = tokenizer.ids_of("<wrong>"), torch.tensor(tokenizer.ids_of(*CHECKED))

    @torch.inference_mode()
    def values(prefixes: list[list[int]]) -> list[float]:
        device, found = policy.embedding.weight.device, []
        rows = max(1, token_budget // max(map(len, prefixes), default=1))
        for start in range(0, len(prefixes), rows):
            group = prefixes[start:start + rows]
            longest = max(map(len, group))
            tokens = torch.tensor([p + [tokenizer.pad] * (longest - len(p)) for p in group])
            with autocast(device):
                logits = policy(tokens.to(device)).float()[:, :-1]        # (B, T - 1, V)
            chance = (logits[..., wrong] - logits.logsumexp(dim=-1)).exp().cpu()   # (B, T - 1)
            stays = torch.log1p(-chance.clamp_max(1 - 1e-6))
            found += (stays * torch.isin(tokens[:, 1:], checked)).sum(dim=1).exp().tolist()
        return found

    return values
