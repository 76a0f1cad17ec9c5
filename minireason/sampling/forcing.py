"""Thoughts that are forced: opened or not, closed at a budget of tokens, or made to go on.

Budget forcing (s1, Muennighoff 2025, arXiv:2501.19393, section 3.1): a thought that reaches its
budget is closed and the answer drawn; one that would close goes on after another token instead.
A completion is drawn in pieces between the tokens forced on it. Its t-th token is drawn by the
number of (seed, row, t) whatever the pieces, so it depends on weights, prompt, seed and row alone,
and where nothing is forced it is the completion that `complete` gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from minireason.core import parallel
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Problem
from minireason.sampling.complete import limits_of, opener_of, stream
from minireason.sampling.sampler import Sampling

NO_LIMIT = 10 ** 6                # tokens of a thought that is never closed by force


@dataclass(frozen=True)
class Forcing:
    """What is forced on a completion."""

    style: str = "cot"            # whose opener: cot | direct | auto (none: the policy chooses)
    budget: int = NO_LIMIT        # tokens of the thought at most; 0 answers directly
    waits: int = 0                # times that a thought which would close goes on instead
    wait: str = "<wrong>"         # the token in place of `</think>`
    asked: int | None = None      # length that the prompt asks for: `<hint>` and the number


@dataclass
class Draft:
    """A completion under way."""

    problem: Problem
    prompt: list[int]             # without opener
    opener: list[int]             # forced; [] where the policy draws it
    number: int                   # of its random stream
    limit: int                    # tokens after the forced opener at most
    tokens: list[int] = field(default_factory=list)   # after the forced opener
    discarded: int = 0            # tokens drawn and cut away

    @property
    def completion(self) -> list[int]:
        """Tokens from the opener on."""
        return self.opener + self.tokens

    @property
    def spent(self) -> int:
        """Tokens written, opener and discarded ones included."""
        return len(self.completion) + self.discarded

    def thinks(self, tokenizer: Tokenizer) -> bool:
        """A thought is open."""
        return self.completion[:1] == [tokenizer.think] and (
            tokenizer.end_think not in self.completion and self.tokens[-1:] != [tokenizer.eos])


def drafts_of(tokenizer: Tokenizer, problems: list[Problem], how: Sampling, forcing: Forcing,
              numbers: list[int] | None = None) -> list[Draft]:
    """how.n drafts per problem, nothing drawn; numbers (P,) name the problems, by place if None."""
    asked = "" if forcing.asked is None else f"<hint>{forcing.asked}"
    prompts = tokenizer.encode_batch([f"<bos>{p.prompt}{asked}" for p in problems])
    style = forcing.style if forcing.budget else "direct"
    drafts = []
    for problem, prompt, number, limit in zip(
            problems, prompts, range(len(problems)) if numbers is None else numbers,
            limits_of(how, problems), strict=True):
        opener = tokenizer.encode(opener_of(problem, style))
        drafts += [Draft(problem, prompt, opener, number * how.n + i, limit) for i in range(how.n)]
    return drafts


def draw_on(model: Transformer, tokenizer: Tokenizer, drafts: list[Draft], how: Sampling,
            rooms: list[int], stops: tuple[int, ...] = ()) -> None:
    """Draw at most rooms[i] tokens after drafts[i], up to `<eos>` or one of `stops`."""
    drawn = [(draft, min(room, draft.limit - len(draft.tokens)))
             for draft, room in zip(drafts, rooms, strict=True)]
    drawn = [(draft, room) for draft, room in drawn if room > 0]
    rows = [draft.prompt + draft.completion for draft, _ in drawn]
    for chunk in stream(model, tokenizer, rows, replace(how, n=1, stop=stops),
                        [draft.number for draft, _ in drawn], [room for _, room in drawn],
                        [len(draft.tokens) for draft, _ in drawn]):
        for i, length in enumerate(chunk.mask.sum(dim=1).tolist()):
            drawn[chunk.first_row + i][0].tokens += chunk.tokens[i, :length].tolist()


def close(tokenizer: Tokenizer, draft: Draft) -> None:
    """End an open thought after its last whole step; without one, the answer is a direct one."""
    (step_end,) = tokenizer.ids_of(";")
    whole = max((t for t, token in enumerate(draft.tokens) if token == step_end), default=None)
    draft.discarded += len(draft.tokens) - (whole or 0)
    if whole is None:
        draft.discarded += len(draft.opener)
        draft.opener, draft.tokens = ([tokenizer.end_think], []) if draft.opener else (
            [], [tokenizer.end_think])
    else:
        draft.tokens[whole:] = [tokenizer.end_think]


def think_on(model: Transformer, tokenizer: Tokenizer, drafts: list[Draft], how: Sampling,
             forcing: Forcing, *pauses: str) -> Iterator[list[Draft]]:
    """Write all drafts to their ends; yields them after every piece, whatever a piece is.

    pauses: tokens (such as ";") at which a piece ends too, for one who watches.
    """
    stops = tuple(tokenizer.ids_of("</think>", *pauses))
    (wait,) = tokenizer.ids_of(forcing.wait)
    waits = dict.fromkeys(map(id, drafts), forcing.waits)      # left of each draft
    for draft in drafts:                       # one without any room is refused by the sampler
        room = model.config.max_len - len(draft.prompt + draft.opener)
        draft.limit = min(draft.limit, max(room, 1))
    unopened = [draft for draft in drafts if not draft.opener]
    draw_on(model, tokenizer, unopened, how, [1] * len(unopened))
    thinking = [draft for draft in drafts if draft.thinks(tokenizer)]
    while thinking:
        # one token more than the budget, so that a thought of just that length may close itself
        rooms = [forcing.budget + 2 - len(draft.completion) for draft in thinking]
        draw_on(model, tokenizer, thinking, how, rooms, stops)
        for draft in thinking:
            if draft.tokens[-1:] == [tokenizer.end_think] and waits[id(draft)]:
                waits[id(draft)] -= 1
                draft.tokens[-1] = wait
            if draft.thinks(tokenizer) and len(draft.completion) > forcing.budget + 1:
                close(tokenizer, draft)
        yield drafts
        thinking = [draft for draft in thinking if draft.thinks(tokenizer)
                    and len(draft.tokens) < draft.limit]
    answering = [draft for draft in drafts if draft.tokens[-1:] != [tokenizer.eos]]
    draw_on(model, tokenizer, answering, how, [draft.limit for draft in answering])
    yield drafts


def complete_forced(model: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                    how: Sampling, forcing: Forcing) -> list[list[tuple[str, int]]]:
    """how.n (completion, tokens spent on it) per problem; ranks share the problems, all get all.

    Opener included. Spent tokens count the opener, forced ones, and those cut away at the budget.
    """
    mine = parallel.share(list(range(len(problems))))
    drafts = drafts_of(tokenizer, [problems[i] for i in mine], how, forcing, mine)
    for _ in think_on(model, tokenizer, drafts, how, forcing):
        pass
    written = [(tokenizer.decode(draft.completion), draft.spent) for draft in drafts]
    return parallel.gather([written[i:i + how.n] for i in range(0, len(written), how.n)])
