"""Steps, values and token budgets: what every search shares.

A search walks over prefixes: prompt, opener and the steps taken so far. It is given token rows and
a function that values them, nothing else: the right answer and the verifier are out of its reach.
Every drawn token is charged to its problem, those of discarded branches too, and a problem is
granted only rows that its budget can pay for.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from minireason.core.config import stream_seed
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.sampling.complete import stream
from minireason.sampling.sampler import Sampling

OPEN, COMPLETE, DEAD = "open", "complete", "dead"   # dead: cut inside a step, or out of room
STEP_STOPS = (";", "</think>")                      # <eos> ends the answer, as always


@dataclass(frozen=True)
class Stepper:
    """How steps are drawn and valued."""

    policy: Transformer
    tokenizer: Tokenizer
    values: Callable[[list[list[int]]], list[float]]   # the critic: P(correct | prefix) of each
    temperature: float = 1.0
    max_step: int = 12            # tokens per step at most
    seed: int = 0
    chunk: int = 1024             # rows decoded together

    @property
    def room(self) -> int:
        """Tokens of the longest prefix after which any step still fits."""
        return self.policy.config.max_len - self.max_step


@dataclass(eq=False)
class Node:
    """A prefix in the tree of one problem."""

    tokens: list[int]             # prompt, opener, steps
    parent: "Node | None" = None
    state: str = OPEN
    logprob: float = 0.0          # of its last step, under the distribution it was drawn from
    value: float = 0.0            # the critic's P(correct | prefix); 0 where dead, and of a root
    draws: int = 0                # how often its last step was drawn
    visits: int = 0               # 1 when it is valued, then one per simulation through it
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

    def upwards(self) -> Iterator["Node"]:
        """The node itself, its parent, and so on to the root."""
        node: Node | None = self
        while node:
            yield node
            node = node.parent

    def subtree(self) -> Iterator["Node"]:
        """The node and all below it, depth first, parents before children."""
        yield self
        for child in self.children.values():
            yield from child.subtree()


@dataclass(eq=False)
class Task:
    """The search of one problem: its tree, what is complete, and the account of its tokens."""

    root: Node                    # prompt and opener
    budget: int                   # tokens, discarded branches included
    max_step: int
    expected: float = 0.0         # tokens of one completion
    spent: int = 0                # never more than the budget
    longest: int = 0              # tokens of the longest finished step so far
    complete: dict[Node, None] = field(default_factory=dict)   # reached <eos>; an ordered set

    @property
    def left(self) -> int:
        """Tokens that may still be drawn."""
        return self.budget - self.spent

    @property
    def reach(self) -> int:
        """Tokens that a step may need: the longest so far, the limit while none is known."""
        return self.longest or self.max_step

    @property
    def rows(self) -> int:
        """Steps that can be paid for; the last tokens still buy one, which may be cut."""
        return max(self.left // self.reach, min(self.left, 1))

    def needed(self, node: Node) -> float:
        """Tokens from the node to the end of a completion, as far as one can expect."""
        return max(self.expected - (len(node.tokens) - len(self.root.tokens)), self.reach)

    def charge(self, tokens: int, finished: bool) -> None:
        """Book the tokens of one drawn step."""
        self.spent += tokens
        assert self.spent <= self.budget, "a search overspent its budget"
        if finished:
            self.longest = max(self.longest, tokens)

    def add(self, nodes: list[Node]) -> None:
        """Keep those of the nodes that are complete."""
        self.complete |= {node: None for node in nodes if node.state == COMPLETE}

    def best(self) -> Node:
        """The complete candidate of highest value; without one, the best prefix there is."""
        candidates = self.complete or [n for n in self.root.subtree() if not n.children]
        return max(candidates, key=lambda node: node.value)

    def voted(self, keys: list[str | None]) -> Node:
        """The best candidate among those whose answer has the largest sum of values.

        keys tell which of the complete candidates answer alike; None is no answer and has no vote.
        """
        agreeing: dict[str, list[Node]] = defaultdict(list)
        for key, node in zip(keys, self.complete, strict=True):
            if key is not None:
                agreeing[key].append(node)
        if not agreeing:
            return self.best()
        winners = max(agreeing.values(), key=lambda nodes: sum(node.value for node in nodes))
        return max(winners, key=lambda node: node.value)


@dataclass(frozen=True)
class Request:
    """n steps wanted after a node."""

    task: Task
    node: Node
    n: int


def plant(stepper: Stepper, prompts: list[list[int]], budgets: list[int],
          expected: float) -> list[Task]:
    """One task per problem; UserError if a prompt leaves no room for a step.

    prompts hold prompt and opener; budgets are tokens per problem, expected those of a completion.
    """
    longest = max(map(len, prompts), default=0)
    if longest > stepper.room:
        raise UserError(f"a prompt of {longest} tokens leaves no room for a step of "
                        f"{stepper.max_step} in a model of max_len {stepper.policy.config.max_len}")
    return [Task(Node(list(prompt)), budget, stepper.max_step, expected)
            for prompt, budget in zip(prompts, budgets, strict=True)]


def expand(stepper: Stepper, requests: list[Request], *purpose: object) -> list[list[Node]]:
    """Draw the requested steps, charge them, value what is new; the different children of each.

    Requests of equal n and length limit are decoded together, each prefix prefilled once.
    """
    rows: Counter[Task] = Counter()
    for request in requests:
        rows[request.task] += request.n
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        cap = min(stepper.max_step, request.task.left // rows[request.task])
        if cap > 0:
            groups[request.n, cap].append(i)
    drawn: list[dict[Node, None]] = [{} for _ in requests]          # ordered sets
    stops = tuple(stepper.tokenizer.ids_of(*STEP_STOPS))
    for (n, cap), members in sorted(groups.items()):
        members.sort(key=lambda i: len(requests[i].node.tokens))    # little padding
        prefixes = [requests[i].node.tokens for i in members]
        how = Sampling(n=n, max_new=cap, temperature=stepper.temperature, stop=stops,
                       seed=stream_seed(stepper.seed, *purpose, n, cap), chunk=stepper.chunk)
        for row, (step, logprob) in enumerate(_drawn_steps(stepper, prefixes, how)):
            i = members[row // n]
            child = requests[i].node.child(step, logprob)
            if step[-1] == stepper.tokenizer.eos:
                child.state = COMPLETE
            elif step[-1] not in stops or len(child.tokens) > stepper.room:
                child.state = DEAD
            requests[i].task.charge(len(step), child.state != DEAD)
            drawn[i][child] = None
    _value_new(stepper, chain.from_iterable(drawn))
    return [list(nodes) for nodes in drawn]


def _drawn_steps(stepper: Stepper, prefixes: list[list[int]],
                 how: Sampling) -> Iterator[tuple[tuple[int, ...], float]]:
    """(step, logprob) of every row, n consecutive ones per prefix."""
    for chunk in stream(stepper.policy, stepper.tokenizer, prefixes, how):
        lengths = chunk.mask.sum(dim=1).tolist()
        logprobs = chunk.logprobs.sum(dim=1).tolist()
        for row, length, logprob in zip(chunk.tokens.tolist(), lengths, logprobs, strict=True):
            yield tuple(row[:length]), logprob


def _value_new(stepper: Stepper, nodes: Iterable[Node]) -> None:
    """One critic call for all nodes that have no value yet; it counts as their first visit."""
    unread = []
    for node in nodes:
        if node.visits == 0:
            node.visits = 1
            if node.state != DEAD:
                unread.append(node)
    values = stepper.values([node.tokens for node in unread])
    for node, value in zip(unread, values, strict=True):
        node.value = node.total = value


def tree_record(root: Node, tokenizer: Tokenizer) -> list[dict]:
    """The tree as plain data, parents before children: what the report draws."""
    ids, records = {}, []
    for node in root.subtree():
        ids[node] = len(records)
        start = len(node.parent.tokens) if node.parent else 0
        records.append({"id": ids[node], "parent": ids.get(node.parent), "state": node.state,
                        "text": tokenizer.decode(node.tokens[start:]),
                        "value": node.value if node.parent else None,
                        "draws": node.draws, "visits": node.visits})
    return records
