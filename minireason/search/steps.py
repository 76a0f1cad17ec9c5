"""Steps, values and token budgets: what every search shares.

A search walks over prefixes: prompt, opener and the steps taken so far. It is given token rows and
a function that values them, nothing else: the right answer and the verifier are out of its reach.
Every drawn token is charged to its problem, those of discarded branches too, and a problem is
granted only rows that its budget can pay for.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from minireason.core.config import UserError, stream_seed
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.sampling.complete import stream
from minireason.sampling.sampler import Sampling

OPEN, COMPLETE, DEAD = "open", "complete", "dead"   # dead: cut inside a step, or out of room
STEP_STOPS = (";", "</think>")                      # <eos> ends the answer, as always
Values = Callable[[list[list[int]]], list[float]]   # prefixes -> P(correct | prefix) of each


@dataclass(frozen=True)
class Stepper:
    """How steps are drawn and valued."""

    policy: Transformer
    tokenizer: Tokenizer
    values: Values                # the critic
    temperature: float = 1.0
    max_step: int = 12            # tokens a step at most
    seed: int = 0
    chunk: int = 1024             # rows decoded together


@dataclass(eq=False)
class Node:
    """A prefix in the tree of one problem."""

    tokens: list[int]             # prompt, opener, steps
    parent: "Node | None" = None
    state: str = OPEN
    logprob: float = 0.0          # of its last step, under the distribution it was drawn from
    value: float | None = None    # the critic's P(correct | prefix); 0 where dead
    draws: int = 0                # how often its last step was drawn
    visits: int = 0               # how often it was valued, or passed through by a simulation
    total: float = 0.0            # sum of the values of those visits
    below: int = 0                # steps drawn after it
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict)

    def child(self, step: tuple[int, ...], logprob: float) -> "Node":
        """The child reached by a step; equal steps share one child."""
        if step not in self.children:
            self.children[step] = Node([*self.tokens, *step], self, logprob=logprob)
        self.below += 1
        self.children[step].draws += 1
        return self.children[step]


@dataclass(frozen=True)
class Request:
    """n steps wanted after a node of a problem."""

    problem: int
    node: Node
    n: int


class Ledger:
    """Tokens drawn for each problem, never more than its budget."""

    def __init__(self, budgets: list[int], max_step: int):
        self.budgets, self.max_step = list(budgets), max_step
        self.spent = [0] * len(budgets)
        self.longest = [0] * len(budgets)     # longest finished step of each problem so far

    def left(self, problem: int) -> int:
        """Tokens that the problem may still draw."""
        return self.budgets[problem] - self.spent[problem]

    def reach(self, problem: int) -> int:
        """Tokens that a step may need: the longest so far, the limit while none is known."""
        return self.longest[problem] or self.max_step

    def rows(self, problem: int) -> int:
        """Steps that can be paid for; the last tokens still buy one, which may be cut."""
        left = self.left(problem)
        return max(left // self.reach(problem), int(left > 0))

    def cap(self, problem: int, rows: int) -> int:
        """Longest step that `rows` rows may have without overspending."""
        return min(self.max_step, self.left(problem) // rows)

    def charge(self, problem: int, tokens: int, finished: bool) -> None:
        """Book the tokens of one drawn step."""
        self.spent[problem] += tokens
        assert self.spent[problem] <= self.budgets[problem], "a search overspent its budget"
        if finished:
            self.longest[problem] = max(self.longest[problem], tokens)


@dataclass(frozen=True)
class Outcome:
    """What a search of one problem found, and what it cost."""

    root: Node
    complete: list[Node]          # different completions that reached <eos>
    spent: int                    # tokens drawn, discarded branches included

    def best(self) -> Node:
        """The complete candidate of highest value; without one, the best prefix there is."""
        return max(self.complete or _leaves(self.root), key=lambda node: node.value or 0.0)

    def voted(self, end_think: int) -> Node:
        """The best candidate among those whose answer has the largest sum of values."""
        if not self.complete:
            return self.best()
        mass: dict[tuple[int, ...], float] = defaultdict(float)
        for node in self.complete:
            mass[answer_tokens(node.tokens, end_think)] += node.value
        winner = max(mass, key=mass.get)
        return max((n for n in self.complete if answer_tokens(n.tokens, end_think) == winner),
                   key=lambda node: node.value)


def answer_tokens(tokens: list[int], end_think: int) -> tuple[int, ...]:
    """What follows the last `</think>`; the whole row if there is none."""
    behind = len(tokens) - tokens[::-1].index(end_think) if end_think in tokens else 0
    return tuple(tokens[behind:])


def plant(stepper: Stepper, prompts: list[list[int]]) -> list[Node]:
    """A root a problem; UserError if a prompt leaves no room for a step."""
    room = stepper.policy.config.max_len - stepper.max_step
    longest = max(map(len, prompts), default=0)
    if longest > room:
        raise UserError(f"a prompt of {longest} tokens leaves no room for a step of "
                        f"{stepper.max_step} in a model of max_len {stepper.policy.config.max_len}")
    return [Node(list(prompt)) for prompt in prompts]


def expand(stepper: Stepper, ledger: Ledger, requests: list[Request],
           *purpose: object) -> list[list[Node]]:
    """Draw the requested steps, charge them, value what is new; the different children of each.

    Requests of equal n and length limit are decoded together, each prefix prefilled once.
    """
    rows: Counter[int] = Counter()
    for request in requests:
        rows[request.problem] += request.n
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        cap = ledger.cap(request.problem, rows[request.problem])
        if cap > 0:
            groups[request.n, cap].append(i)
    drawn: list[list[Node]] = [[] for _ in requests]
    stops = tuple(stepper.tokenizer.ids_of(*STEP_STOPS))
    for (n, cap), members in sorted(groups.items()):
        members.sort(key=lambda i: len(requests[i].node.tokens))   # little padding
        how = Sampling(n=n, max_new=cap, temperature=stepper.temperature, stop=stops,
                       seed=stream_seed(stepper.seed, *purpose, n, cap), chunk=stepper.chunk)
        prefixes = [requests[i].node.tokens for i in members]
        for row, (step, logprob) in enumerate(_draw(stepper, prefixes, how)):
            i = members[row // n]
            child = requests[i].node.child(step, logprob)
            child.state = _state(stepper, child, stops)
            ledger.charge(requests[i].problem, len(step), child.state != DEAD)
            drawn[i].append(child)
    _value(stepper, [node for nodes in drawn for node in nodes])
    return [list(dict.fromkeys(nodes)) for nodes in drawn]


def _draw(stepper: Stepper, prefixes: list[list[int]], how: Sampling):
    """(step, logprob) of every row, in the sampler's order."""
    for chunk in stream(stepper.policy, stepper.tokenizer, prefixes, how):
        lengths = chunk.mask.sum(dim=1).tolist()
        logprobs = chunk.logprobs.sum(dim=1).tolist()
        for row, length, logprob in zip(chunk.tokens.tolist(), lengths, logprobs, strict=True):
            yield tuple(row[:length]), logprob


def _state(stepper: Stepper, node: Node, stops: tuple[int, ...]) -> str:
    if node.tokens[-1] == stepper.tokenizer.eos:
        return COMPLETE
    room = stepper.policy.config.max_len - stepper.max_step
    return OPEN if node.tokens[-1] in stops and len(node.tokens) <= room else DEAD


def _value(stepper: Stepper, nodes: list[Node]) -> None:
    """One critic call for all nodes that have no value yet; it counts as their first visit."""
    fresh = [node for node in dict.fromkeys(nodes) if node.value is None]
    alive = [node for node in fresh if node.state != DEAD]
    valued = stepper.values([node.tokens for node in alive]) if alive else []
    for node, value in [*zip(alive, valued, strict=True),
                        *((node, 0.0) for node in fresh if node.state == DEAD)]:
        node.value, node.visits, node.total = value, 1, value


def _leaves(root: Node) -> list[Node]:
    """Nodes without children, in depth-first order."""
    found, stack = [], [root]
    while stack:
        node = stack.pop()
        stack.extend(reversed(node.children.values()))
        if not node.children:
            found.append(node)
    return found


def tree_record(root: Node, tokenizer: Tokenizer) -> list[dict]:
    """The tree as plain data, parents before children: what the report draws."""
    ids, records, stack = {}, [], [root]
    while stack:
        node = stack.pop()
        ids[node] = len(records)
        start = len(node.parent.tokens) if node.parent else 0
        records.append({"id": ids[node], "parent": ids.get(node.parent), "state": node.state,
                        "text": tokenizer.decode(node.tokens[start:]), "value": node.value,
                        "draws": node.draws, "visits": node.visits})
        stack.extend(reversed(node.children.values()))
    return records
