"""Rollouts for reinforcement learning in passes, sample, reward and credit, then as batches.

Each pass fills in its part of every rollout: sample_groups the tokens and their logprobs,
reward_groups the verdict and what it earns, credit_groups an advantage for every drawn token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

import torch
from torch import Tensor

from minireason.core import flops, parallel
from minireason.model.tokenizer import STEP_ENDS, Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, Verdict
from minireason.problems.base import MALFORMED
from minireason.sampling.complete import opener_of, prompt_ids, stream
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, pack_groups, within_budget
from minireason.training.losses import gather_logprobs, group_advantages, truncate_logits
from minireason.training.optim import autocast


@dataclass(frozen=True)
class Rewards:
    """What a completion earns by the exact verifier, and what its tokens cost."""

    outcome: float = 1.0          # for the right answer
    format: float = 0.0           # for matching the grammar to the end, every instruction obeyed
    process: float = 1.0          # for each exactly right step, credited to its own tokens only
    price: float = 0.0            # taken off for every drawn token


@dataclass
class Rollout:
    """One completion of one prompt."""

    problem: Problem
    tokens: list[int]             # prompt, opener, and what was drawn
    first: int                    # index of the first drawn token
    logprobs: list[float]         # of the drawn tokens, by the sampler
    verdict: Verdict = MALFORMED
    reward: float = 0.0
    advantages: list[float] = field(default_factory=list)   # of the drawn tokens

    @property
    def length(self) -> int:
        """Drawn tokens, <eos> included."""
        return len(self.tokens) - self.first

    @property
    def silent(self) -> bool:
        """No token has an advantage: the completion teaches nothing."""
        return not any(self.advantages)


Group = list[Rollout]                 # the G rollouts of one prompt
Span = tuple[int, int, float]         # begin and end among the drawn tokens, reward


def sample_groups(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                  how: Sampling, numbers: list[int] | None = None,
                  style: str = "cot") -> list[Group]:
    """Pass 1: how.n completions of each problem; numbers as for sampling.stream.

    In style "auto" the opener is drawn, too, and learns.
    """
    prompts = prompt_ids(tokenizer, problems, style)
    groups: list[Group] = [[] for _ in problems]
    for chunk in stream(policy, tokenizer, prompts, how, numbers):
        for i, length in enumerate(chunk.mask.sum(dim=1).tolist()):
            at = (chunk.first_row + i) // how.n
            groups[at].append(Rollout(
                problems[at], prompts[at] + chunk.tokens[i, :length].tolist(), len(prompts[at]),
                chunk.logprobs[i, :length].tolist()))
    return groups


def reward_groups(groups: list[Group], tokenizer: Tokenizer, rewards: Rewards,
                  style: str = "cot") -> None:
    """Pass 2: the exact verdict on every rollout, and what it earns as a whole."""
    for rollout in chain(*groups):
        family = FAMILIES[rollout.problem.family]
        drawn = tokenizer.decode(rollout.tokens[rollout.first:])
        text = opener_of(rollout.problem, style) + drawn
        verdict = family.verify(rollout.problem, text)
        rollout.verdict = verdict
        rollout.reward = (rewards.outcome * verdict.correct + rewards.format * verdict.obedient
                          - rewards.price * rollout.length)


def credit_groups(groups: list[Group], tokenizer: Tokenizer, advantage: str,
                  process: float) -> None:
    """Pass 3: an advantage for every drawn token: its completion's reward against the group's.

    With `process`, that much of the advantage of the token's own step among the group's j-th steps
    is added: the step-wise advantage of process supervision (DeepSeekMath, arXiv:2402.03300,
    section 4.1.3) with each reward kept to its own step. A mark judges a step from the state
    before it, so a later step owes it nothing. Tokens of no step (after the thought, withdrawn,
    malformed) get nothing.
    """
    for group in groups:
        for rollout in group:
            rollout.advantages = [0.0] * rollout.length
        credit_spans(group, [(0, r.length, r.reward) for r in group], advantage, 1.0)
        steps = [step_spans(rollout, tokenizer) for rollout in group] if process else []
        for spans in zip_longest(*steps):
            credit_spans(group, spans, advantage, process)


def credit_spans(group: Group, spans: Sequence[Span | None], advantage: str,
                 weight: float) -> None:
    """Add to the tokens of each rollout's span `weight` times its advantage among the spans.

    A span's gradient size is the sum of (1 - p)^2 over its tokens, which |grad log pi|^2 grows
    with: a likely token's is small.
    """
    having, rewards, sizes = [], [], []
    for rollout, span in zip(group, spans, strict=True):
        if span is not None:
            begin, end, reward = span
            having.append((rollout.advantages, begin, end))
            rewards.append(reward)
            sizes.append(sum((1 - math.exp(lp)) ** 2 for lp in rollout.logprobs[begin:end]))
    gains = group_advantages(torch.tensor(rewards, dtype=torch.float64), len(having), advantage,
                             torch.tensor(sizes))
    for (advantages, begin, end), gain in zip(having, gains.tolist(), strict=True):
        for t in range(begin, end):
            advantages[t] += weight * gain


def step_spans(rollout: Rollout, tokenizer: Tokenizer) -> list[Span]:
    """Where each marked step stands among the drawn tokens, its end token included; 1 if right.

    A step that was withdrawn (`<wrong>`) belongs to none.
    """
    ends, wrong = set(tokenizer.ids_of(*STEP_ENDS)), tokenizer.ids_of("<wrong>")[0]
    marks, spans, begin = rollout.verdict.marks, [], 0
    for t, token in enumerate(rollout.tokens[rollout.first:], 1):
        if token in ends and len(spans) < len(marks):
            spans.append((begin, t, float(marks[len(spans)])))
        if token in ends or token == wrong:
            begin = t
    return spans


def drawn_logprobs(model: Transformer, rows: Batch, temperature: float) -> Tensor:
    """Logprobs (M,) of the counted tokens, under the distribution that the sampler drew from."""
    rows = rows.to(model.embedding.weight.device)
    chosen = rows.loss_mask.bool()
    with autocast(chosen.device):
        hidden = model.hidden(rows.inputs, rows.cu_seqlens, rows.max_len, groups=rows.groups)
        logits = truncate_logits(model.logits(hidden[chosen]), temperature)
        return gather_logprobs(logits, rows.targets[chosen])


@dataclass(frozen=True, kw_only=True)
class RolloutBatch(Batch):
    """Rows with what the loss needs of each of their M drawn tokens, in row order; all (M,)."""

    advantages: Tensor
    weights: Tensor
    old_logprobs: Tensor | None   # None: the policy has not moved since it drew them
    ref_logprobs: Tensor | None   # None: no KL term


@torch.no_grad()
def rollout_batches(rollouts: Group, weights: list[float], temperature: float, token_budget: int,
                    pad: int, old: Transformer | None = None,
                    reference: Transformer | None = None) -> list[RolloutBatch]:
    """This rank's rollouts as micro-batches, with the logprobs of the old policy and the reference.

    weights: what a token of each rollout counts. A rollout without advantage has no gradient: it is
    left out unless there is a reference, whose KL term wants it. Rollouts of one prompt share it.
    """
    of_prompt: dict[tuple[int, ...], list[tuple[Rollout, float]]] = {}
    for rollout, weight in zip(rollouts, weights, strict=True):
        if reference or not rollout.silent:
            of_prompt.setdefault((*rollout.tokens[:rollout.first],), []).append((rollout, weight))
    shared = [pairs[part] for prompt, pairs in of_prompt.items() for part in within_budget(
        [r.length for r, _ in pairs], token_budget - len(prompt), packed=True)]
    mine = parallel.share(shared)
    lengths = [pairs[0][0].first + sum(r.length for r, _ in pairs) for pairs in mine]
    rows = [pack_groups([[(r.tokens, r.first) for r, _ in pairs] for pairs in mine[part]], pad)
            for part in within_budget(lengths, token_budget, packed=True)]
    gains = torch.tensor([gain for r, _ in chain(*mine) for gain in r.advantages])
    spread = torch.tensor([w for r, w in chain(*mine) for _ in range(r.length)])
    for model in filter(None, (old, reference)):
        flops.count(flops.READ, model.n_params, sum(batch.inputs.numel() for batch in rows))
    sizes = [int(batch.loss_mask.sum()) for batch in rows]
    parts = zip(rows, gains.split(sizes), spread.split(sizes), strict=True)
    return [RolloutBatch(
        **vars(batch), advantages=gain, weights=weight,
        old_logprobs=drawn_logprobs(old, batch, temperature) if old else None,
        ref_logprobs=drawn_logprobs(reference, batch, temperature) if reference else None)
        for batch, gain, weight in parts]


def has_signal(group: Group) -> bool:
    """False where no token has an advantage: such a group teaches nothing."""
    return not all(rollout.silent for rollout in group)


def diagnostics(groups: list[Group], eos: int) -> dict[str, float]:
    """The canon of one step, over everything drawn; a mean over nothing is left out.

    entropy is the mean of -logprob of the drawn tokens: an unbiased estimate, nats per token.
    """
    rollouts = list(chain(*groups))
    n, tokens = len(rollouts), sum(r.length for r in rollouts)
    right = [r.length for r in rollouts if r.verdict.correct]
    wrong = [r.length for r in rollouts if not r.verdict.correct]
    report = {"reward": sum(r.reward for r in rollouts) / n,
              "accuracy": len(right) / n,
              "steps_valid": sum(r.verdict.steps_valid for r in rollouts) / n,
              "well_formed": sum(r.verdict.well_formed for r in rollouts) / n,
              "share_cut": sum(r.tokens[-1] != eos for r in rollouts) / n,
              "entropy": -sum(sum(r.logprobs) for r in rollouts) / tokens,
              "share_silent": 1 - sum(map(has_signal, groups)) / len(groups),
              "generated_tokens": tokens, "prompt_tokens": sum(g[0].first for g in groups)}
    obedient = [r.verdict.obedient for r in rollouts if r.verdict.obeyed]     # where asked
    for name, found in ("length_right", right), ("length_wrong", wrong), ("obedient", obedient):
        if found:
            report[name] = sum(found) / len(found)
    return report
