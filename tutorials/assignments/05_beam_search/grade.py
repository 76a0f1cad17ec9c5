"""Grades assignment 5 on toy worlds that keep their own account of every drawn token."""

import sys
from pathlib import Path
from types import SimpleNamespace as Step

sys.path.append(str(Path(__file__).resolve().parents[1]))
from grading import Check, Mismatch, expect, grade, require

from minireason.core.config import rng

LONGEST = 6


class World:
    """A toy policy and critic: `choices` texts after every prefix, complete at `depth`.

    What follows a prefix is a function of (seed, prefix); what is drawn, of the draw's number too.
    """

    def __init__(self, seed, depth=4, choices=4, budget=10 ** 6, dead=0.0):
        self.seed, self.depth, self.choices, self.dead = seed, depth, choices, dead
        self.budget, self.spent, self.draws, self.width = budget, 0, 0, 1
        self.drawn_from: list[tuple] = []                # prefixes in order, one a call of draw
        self.seen: dict[tuple, str] = {}                 # every drawn prefix and its state
        self.values: dict[tuple, float] = {}
        self.tokens: dict[tuple, int] = {}               # and what its last step cost

    def step(self, prefix, text):
        """The step of that text after the prefix: its length and state never change."""
        generator = rng(*self.seed, "step", *prefix, text)
        tokens = int(generator.integers(1, LONGEST + 1))
        if generator.random() < self.dead:
            return Step(text=text, tokens=tokens, state="dead")
        return Step(text=text, tokens=tokens,
                    state="complete" if len(prefix) + 1 == self.depth else "open")

    def draw(self, prefix, n):
        """n random steps; an unpayable or impossible request is a mismatch."""
        if n * LONGEST > self.budget - self.spent:
            raise Mismatch(f"expected no draw that could overspend, came a draw of {n} steps with "
                           f"{self.budget - self.spent} tokens left (a step has up to {LONGEST})")
        require(isinstance(prefix, tuple), "tuples as prefixes", f"{prefix!r}")
        require(n >= 1, "draws of at least one step", f"a draw of {n}")
        most = min(self.width, (self.budget - self.spent) // LONGEST)
        require(n == most, f"draws of min(width, tokens left // longest) = {most} steps",
                f"a draw of {n}")
        require(prefix == () or self.seen.get(prefix) == "open", "draws after open prefixes",
                f"a draw after {prefix}, which is {self.seen.get(prefix, 'unknown')}")
        self.drawn_from.append(prefix)
        generator = rng(*self.seed, "draw", self.draws)
        self.draws += 1
        steps = [self.step(prefix, "abcdefgh"[int(i)])
                 for i in generator.integers(0, self.choices, n)]
        self.spent += sum(step.tokens for step in steps)
        self.seen |= {(*prefix, step.text): step.state for step in steps}
        self.tokens |= {(*prefix, step.text): step.tokens for step in steps}
        return steps

    def value(self, prefix):
        """A value that has nothing to do with length; different prefixes differ."""
        if prefix not in self.values:
            self.values[prefix] = float(rng(*self.seed, "value", *prefix).random())
        return self.values[prefix]

    def search(self, solution, beams, width, budget=None):
        """Run the student's search and check its account."""
        self.budget, self.width = self.budget if budget is None else budget, width
        came = solution.beam_search(self.draw, self.value, beams, width, LONGEST, self.budget)
        require(isinstance(came, tuple) and len(came) == 2, "a pair (best, spent)", f"{came!r}")
        path = came[0] if came[0] in self.finished() else ()
        expect(came[1], self.spent, "tokens spent", {
            "this is the budget, not what was spent": self.budget,
            "discarded branches cost tokens too":
                sum(self.tokens[path[:i + 1]] for i in range(len(path))),
            "dead steps cost tokens too": sum(n for p, n in self.tokens.items()
                                              if self.seen[p] != "dead")})
        return came[0]

    def left_open(self):
        """Open prefixes of the last round: a search without a tight budget leaves none."""
        length = max(map(len, self.seen), default=0)
        return [p for p, state in self.seen.items() if len(p) == length and state == "open"]

    def expect_best(self, best, on):
        """The result is the finished prefix of highest value."""
        finished = self.finished()
        expect(best, finished[0] if finished else None, on, {
            "this is the first one finished, not the best": next(
                (p for p, state in self.seen.items() if state == "complete"), None),
            "this is the one finished last": next(
                (p for p, state in reversed(self.seen.items()) if state == "complete"), None),
            "this one is not finished": max((p for p, state in self.seen.items()
                                             if state == "open"), key=self.value, default=None),
            "this is the finished prefix of LOWEST value": finished[-1] if finished else None})

    def finished(self):
        """Finished prefixes, the best first."""
        return sorted((p for p, state in self.seen.items() if state == "complete"),
                      key=lambda p: -self.value(p))


def account(solution, seed):
    for i in range(40):
        world = World((seed, i), depth=5)
        world.expect_best(world.search(solution, beams=3, width=4, budget=7 * i),
                          f"a budget of {7 * i} tokens")


def tight(solution, seed):
    for budget in range(0, 3 * LONGEST):
        world = World((seed, "tight"), depth=6)
        best = world.search(solution, beams=2, width=3, budget=budget)
        require(world.draws > 0 or budget < LONGEST, f"a draw where {budget} tokens pay for a step",
                "none")
        if budget < LONGEST:
            expect(best, None, f"the result of a budget of {budget}")


def spends_what_helps(solution, seed):
    for i in range(10):
        world = World((seed, i), depth=30)
        world.search(solution, beams=2, width=3, budget=200)
        require(world.budget - world.spent < LONGEST, "at the end too few tokens for one more step",
                f"{world.budget - world.spent} left while open prefixes were")


def best_finished(solution, seed):
    for i in range(20):
        world = World((seed, i), depth=3)
        world.expect_best(world.search(solution, beams=3, width=6),
                          "the finished prefix of highest value")


def best_when_cut_short(solution, seed):
    for i in range(20):
        world = World((seed, i), depth=2)
        world.expect_best(world.search(solution, beams=4, width=4, budget=70),
                          "what was finished before the end")


class Uneven(World):
    """Some chains are complete after two steps, others after five."""

    def step(self, prefix, text):
        """Complete at a depth that the first step decides."""
        step = super().step(prefix, text)
        depth = 2 if (prefix or (text,))[0] in "ab" else 5
        step.state = "complete" if len(prefix) + 1 == depth else "open"
        return step


def goes_on(solution, seed):
    """A finished prefix ends no search: what is still open may end better."""
    for i in range(20):
        world = Uneven((seed, i), depth=5)
        best = world.search(solution, beams=3, width=8)
        left = world.left_open()
        require(not left, "rounds until nothing is open",
                f"an end with {len(left)} open prefixes, {world.budget - world.spent} tokens left "
                "and a finished one: does the search stop at the first finished round?")
        world.expect_best(best, "chains of two and of five steps")


def keeps_the_best(solution, seed):
    for i in range(20):
        world = World((seed, i), depth=5, choices=6)
        world.search(solution, beams=3, width=6)
        for length in range(1, 5):
            candidates = sorted((p for p in world.seen if len(p) == length),
                                key=lambda p: -world.value(p))
            came = [p for p in world.drawn_from if len(p) == length]
            expect(came, candidates[:3], f"prefixes of {length} steps that were drawn after", {
                "the best is drawn after first, so that it gets the tokens": candidates[:3][::-1],
                "this is greedy search: `beams` prefixes are kept": candidates[:1],
                "these are the worst": candidates[::-1][:3],
                "nothing is thrown away": candidates,
                "these are the first drawn, not the best": [p for p in world.seen
                                                            if len(p) == length][:3]})


def merges(solution, seed):
    for i in range(10):
        world = World((seed, i), depth=4, choices=2)
        world.search(solution, beams=4, width=8)
        came = world.drawn_from
        require(len(set(came)) == len(came), "one draw after each prefix",
                f"{len(came) - len(set(came))} prefixes that were drawn after again")


def dead_ends(solution, seed):
    for i in range(20):
        world = World((seed, i), depth=4, dead=0.5)
        world.expect_best(world.search(solution, beams=3, width=4),
                          "a world in which half the steps are dead")
    expect(World((seed, 0), depth=4, dead=1.0).search(solution, beams=2, width=3), None,
           "a world of dead ends")


class Trap(World):
    """The best first step leads nowhere; the second best leads to the answer."""

    def value(self, prefix):
        """High for `a`, low for everything below it."""
        if len(prefix) == 1:
            return {"a": 0.9, "b": 0.7, "c": 0.2, "d": 0.1}[prefix[0]]
        good = {"a": 0.1, "b": 0.8, "c": 0.3, "d": 0.2}[prefix[0]]
        return good + super().value(prefix) / 100


def trap(solution, seed):
    best = Trap((seed, 1), depth=4).search(solution, beams=2, width=8)
    require(best is not None and best[0] == "b", "an answer that begins with b", f"{best}")


CHECKS = [
    Check("the account: never a token too much", 4, account),
    Check("budgets of a few tokens", 2, tight),
    Check("goes on while a step can be paid", 2, spends_what_helps),
    Check("returns the best finished prefix", 1, best_finished),
    Check("returns it when the budget cut it short", 1, best_when_cut_short),
    Check("goes on after the first finished round", 2, goes_on),
    Check("keeps the best prefixes, best first", 3, keeps_the_best),
    Check("equal prefixes are one", 2, merges),
    Check("dead ends", 1, dead_ends),
    Check("a trap for greedy search", 2, trap),
]

if __name__ == "__main__":
    raise SystemExit(grade(CHECKS, __file__))
