"""Beam search over steps, guided by the critic (Snell 2024, arXiv:2408.03314, section 5.2).

At each step the best N / M prefixes are kept and M next steps are drawn after each: N steps in
all. N is what the rest of the budget pays for, divided by what one completion still needs, so a
budget of N samples' tokens searches with N. Equal prefixes are merged: they keep one place in the
beam. With lookahead, a prefix is judged by the value after one more greedy step.
"""

from dataclasses import dataclass, replace

from minireason.search.steps import DEAD, OPEN, Node, Request, Stepper, Task, expand


@dataclass(frozen=True)
class BeamConfig:
    """How wide a beam."""

    width: int = 4                # M steps per beam; 0 means sqrt(N)
    lookahead: bool = False       # one more greedy step before a prefix is judged


def beam_search(stepper: Stepper, cfg: BeamConfig, tasks: list[Task]) -> None:
    """Search all problems in lockstep, one step per round."""
    beams = {task: [task.root] for task in tasks}                  # open prefixes, the best first
    for number in range(stepper.policy.config.max_len):
        requests = []
        for task in tasks:
            requests += _next_steps(cfg, task, beams[task])
        if not requests:
            break
        candidates: dict[Task, list[Node]] = {task: [] for task in tasks}
        drawn = expand(stepper, requests, "beam", number)
        for request, nodes in zip(requests, drawn, strict=True):
            candidates[request.task] += nodes
        scores = _look_ahead(stepper, candidates, number) if cfg.lookahead else {}
        for task, nodes in candidates.items():
            task.add(nodes)
            beams[task] = [node for node in nodes if node.state == OPEN]
            beams[task].sort(key=lambda node: -scores.get(node, node.value))


def _next_steps(cfg: BeamConfig, task: Task, nodes: list[Node]) -> list[Request]:
    """How many steps to draw after the kept ones of `nodes`, which are best first."""
    if not nodes or task.left == 0:
        return []
    needed = task.needed(nodes[0]) * (1 + cfg.lookahead)
    rows = max(1, min(int(task.left / needed + 1e-9), task.rows))
    width = cfg.width or max(1, round(rows ** 0.5))
    kept = nodes[:-(-rows // width)]
    return [Request(task, node, rows // len(kept)) for node in kept]


def _look_ahead(stepper: Stepper, candidates: dict[Task, list[Node]],
                number: int) -> dict[Node, float]:
    """Values after one greedy step, of as many open candidates as the budget pays for.

    A greedy completion is no candidate: it only lends its value to the step that it follows.
    """
    requests = []
    for task, nodes in candidates.items():
        still_open = [node for node in nodes if node.state == OPEN]
        requests += [Request(task, node, 1) for node in still_open[:task.rows]]
    scores: dict[Node, float] = {}
    drawn = expand(replace(stepper, temperature=0), requests, "lookahead", number)
    for request, nodes in zip(requests, drawn, strict=True):
        for node in nodes:
            if node.state != DEAD:
                scores[request.node] = node.value
    return scores
