"""Beam search over steps, guided by the critic (Snell 2024, arXiv:2408.03314, section 5.2).

At each step the best N / M prefixes are kept and M next steps are drawn after each: N steps in
all. N is what the rest of the budget pays for, divided by what one completion still needs, so a
budget of N samples' tokens searches with N. Equal prefixes are merged: they keep one place in the
beam. With lookahead k, a prefix is judged by the value after k more greedy steps.
"""

from dataclasses import dataclass, replace

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
class BeamConfig:
    """How wide a beam."""

    width: int = 4                # M steps a beam; 0 means sqrt(N)
    lookahead: int = 0            # k greedy steps before a prefix is judged


def beam_search(stepper: Stepper, cfg: BeamConfig, prompts: list[list[int]], budgets: list[int],
                expected: float) -> list[Outcome]:
    """Search all problems in lockstep, one step a round.

    prompts hold prompt and opener; budgets are tokens a problem; expected is what one completion
    of the policy takes, in tokens.
    """
    ledger = Ledger(budgets, stepper.max_step)
    roots = plant(stepper, prompts)
    beams: list[list[Node]] = [[root] for root in roots]
    complete: list[dict[Node, None]] = [{} for _ in roots]     # ordered sets
    for number in range(stepper.policy.config.max_len):
        requests = [Request(p, node, n) for p, nodes in enumerate(beams)
                    for node, n in _share(cfg, ledger, p, nodes, len(prompts[p]), expected)]
        if not requests:
            break
        drawn = expand(stepper, ledger, requests, "beam", number)
        candidates: list[dict[Node, None]] = [{} for _ in roots]
        for request, nodes in zip(requests, drawn, strict=True):
            candidates[request.problem].update(dict.fromkeys(nodes))
        scores = _look_ahead(stepper, cfg, ledger, candidates, number)
        for p, nodes in enumerate(candidates):
            complete[p].update((node, None) for node in nodes if node.state == COMPLETE)
            beams[p] = sorted((node for node in nodes if node.state == OPEN),
                              key=lambda node: -scores.get(node, node.value))
    return [Outcome(root, list(found), spent)
            for root, found, spent in zip(roots, complete, ledger.spent, strict=True)]


def _share(cfg: BeamConfig, ledger: Ledger, problem: int, nodes: list[Node], prompt_tokens: int,
           expected: float) -> list[tuple[Node, int]]:
    """(beam, steps to draw after it) for the kept ones of `nodes`, which are best first."""
    if not nodes or ledger.left(problem) == 0:
        return []
    still = expected - (len(nodes[0].tokens) - prompt_tokens)  # tokens to the end of a completion
    needed = max(still, ledger.reach(problem)) * (1 + cfg.lookahead)
    rows = max(1, min(int(ledger.left(problem) / needed + 1e-9), ledger.rows(problem)))
    width = cfg.width or max(1, round(rows ** 0.5))
    kept = nodes[:-(-rows // width)]
    return [(node, rows // len(kept)) for node in kept]


def _look_ahead(stepper: Stepper, cfg: BeamConfig, ledger: Ledger,
                candidates: list[dict[Node, None]], number: int) -> dict[Node, float]:
    """Values after `lookahead` greedy steps, as far as the budget pays; {} without lookahead.

    A greedy completion is no candidate: it only lends its value to the step that it follows.
    """
    greedy = replace(stepper, temperature=0)
    ahead = [(p, node, node) for p, nodes in enumerate(candidates) for node in nodes
             if node.state == OPEN and cfg.lookahead]
    scores: dict[Node, float] = {}
    for k in range(cfg.lookahead):
        affordable = {p: ledger.rows(p) for p, _, _ in ahead}
        requests, origins = [], []
        for p, origin, node in ahead:
            if affordable[p] > 0:
                affordable[p] -= 1
                requests.append(Request(p, node, 1))
                origins.append(origin)
        drawn = expand(greedy, ledger, requests, "lookahead", number, k)
        ahead = []
        for request, origin, nodes in zip(requests, origins, drawn, strict=True):
            for node in nodes:
                if node.state != DEAD:
                    scores[origin] = node.value
                if node.state == OPEN:
                    ahead.append((request.problem, origin, node))
    return scores
