"""Rollouts for reinforcement learning in passes, sample, reward and credit, then as batches.

Each pass fills in its part of every rollout: sample_groups the tokens and their logprobs,
reward_groups the verdict and what it earns, credit_groups an advantage for every drawn token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minireason.core import parallel
from minireason.model.tokenizer import STEP_ENDS, Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, Verdict
from minireason.problems.base import MALFORMED
from minireason.sampling.complete import prompt_ids, stream
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, micro_batches
from minireason.training.losses import group_advantages
from minireason.training.optim import fixed_logprobs


@dataclass(frozen=True)
class Rewards:
    """What a completion earns; every part is the exact verifier's."""

    outcome: float = 1.0          # for the right answer
    format: float = 0.0           # for matching the grammar to the end
    process: float = 1.0          # for each exactly right step, credited to its own tokens only


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


def sample_groups(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                  how: Sampling, numbers: list[int] | None = None) -> list[Group]:
    """Pass 1: how.n completions of each problem; numbers as for sampling.stream."""
    prompts = prompt_ids(tokenizer, problems, "cot")
    groups: list[Group] = [[] for _ in problems]
    for chunk in stream(policy, tokenizer, prompts, how, numbers):
        for i, length in enumerate(chunk.mask.sum(dim=1).tolist()):
            at = (chunk.first_row + i) // how.n
            groups[at].append(Rollout(
                problems[at], prompts[at] + chunk.tokens[i, :length].tolist(), len(prompts[at]),
                chunk.logprobs[i, :length].tolist()))
    return groups


def reward_groups(groups: list[Group], tokenizer: Tokenizer, rewards: Rewards) -> None:
    """Pass 2: the exact verdict on every rollout, and what it earns as a whole."""
    for rollout in (rollout for group in groups for rollout in group):
        family = FAMILIES[rollout.problem.family]
        text = family.OPENER["cot"] + tokenizer.decode(rollout.tokens[rollout.first:])
        verdict = family.verify(rollout.problem, text)
        rollout.verdict = verdict
        rollout.reward = rewards.outcome * verdict.correct + rewards.format * verdict.well_formed


def credit_groups(groups: list[Group], tokenizer: Tokenizer, advantage: str,
                  process: float) -> None:
    """Pass 3: an advantage for every drawn token, from its completion's reward within the group.

    With `process`, that much of the advantage of the token's own step is added (step_credits).
    """
    if not groups:
        return
    rollouts = [rollout for group in groups for rollout in group]
    sizes = [sum(gradient_sizes(rollout)) for rollout in rollouts]
    gains = group_advantages(torch.tensor([r.reward for r in rollouts], dtype=torch.float64),
                             len(groups[0]), advantage, torch.tensor(sizes)).tolist()
    for rollout, gain in zip(rollouts, gains, strict=True):
        rollout.advantages = [gain] * rollout.length
    for group in groups if process else ():
        for rollout, credits in zip(group, step_credits(group, tokenizer, advantage), strict=True):
            rollout.advantages = [whole + process * own for whole, own in
                                  zip(rollout.advantages, credits, strict=True)]


def gradient_sizes(rollout: Rollout) -> list[float]:
    """Per drawn token (1 - p)^2, which |grad log pi|^2 grows with: a likely token's is small."""
    return [(1 - math.exp(logprob)) ** 2 for logprob in rollout.logprobs]


def step_spans(rollout: Rollout, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Where each marked step stands among the drawn tokens, its end token included.

    A step that was withdrawn (`<wrong>`) belongs to none.
    """
    ends, wrong = set(tokenizer.ids_of(*STEP_ENDS)), tokenizer.ids_of("<wrong>")[0]
    spans, begin = [], 0
    for t, token in enumerate(rollout.tokens[rollout.first:]):
        if token in ends and len(spans) < len(rollout.verdict.marks):
            spans.append((begin, t + 1))
        if token in ends or token == wrong:
            begin = t + 1
    return spans


def step_credits(group: Group, tokenizer: Tokenizer, advantage: str) -> list[list[float]]:
    """Per drawn token of a group's completions: the advantage of its step among the group's j-th.

    The step-wise advantage of process supervision (DeepSeekMath, arXiv:2402.03300, section 4.1.3)
    with each reward kept to its own step: a mark judges a step from the state before it, so a later
    step owes it nothing. Tokens of no step (after the thought, withdrawn, malformed) get 0.
    """
    spans = [step_spans(rollout, tokenizer) for rollout in group]
    sizes = [gradient_sizes(rollout) for rollout in group]
    credits = [[0.0] * rollout.length for rollout in group]
    for j in range(max(map(len, spans))):
        having = [k for k, found in enumerate(spans) if j < len(found)]
        weights = torch.tensor([sum(sizes[k][slice(*spans[k][j])]) for k in having])
        right = torch.tensor([float(group[k].verdict.marks[j]) for k in having])
        gains = group_advantages(right, len(having), advantage, weights).tolist()
        for k, gain in zip(having, gains, strict=True):
            for t in range(*spans[k][j]):
                credits[k][t] = gain
    return credits


@dataclass(frozen=True)
class RolloutBatch:
    """Rows with what the loss needs of each of their M drawn tokens, in row order; all (M,)."""

    rows: Batch
    advantages: Tensor
    weights: Tensor
    old_logprobs: Tensor | None   # None: the policy has not moved since it drew them
    ref_logprobs: Tensor | None   # None: no KL term

    def to(self, device: torch.device) -> "RolloutBatch":
        """The batch on a device."""
        return RolloutBatch(self.rows.to(device), *(
            None if x is None else x.to(device)
            for x in (self.advantages, self.weights, self.old_logprobs, self.ref_logprobs)))


def rollout_batches(rollouts: Group, weights: list[float], temperature: float, token_budget: int,
                    pad: int, models: Sequence[Transformer | None]) -> list[RolloutBatch]:
    """This rank's rollouts as micro-batches, with the logprobs of models (old, reference).

    weights: what a token of each rollout counts. A rollout without advantage has no gradient: it is
    left out unless a KL term wants it, that is, unless there is a reference.
    """
    rows = [(rollout, weight) for rollout, weight in zip(rollouts, weights, strict=True)
            if not rollout.silent or models[1] is not None]
    rows.sort(key=lambda row: len(row[0].tokens))          # the order that micro_batches keeps
    batches, _ = micro_batches([(r.tokens, r.first) for r, _ in rows], token_budget, pad)
    sizes = [int(batch.loss_mask.sum()) for batch in batches]
    gains, spread = [], []
    for rollout, weight in parallel.share(rows):
        gains += rollout.advantages
        spread += [weight] * rollout.length
    parts = zip(batches, torch.tensor(gains).split(sizes), torch.tensor(spread).split(sizes),
                strict=True)
    return [RolloutBatch(batch, advantages, weight, *(
        None if model is None else fixed_logprobs(model, batch, temperature) for model in models))
        for batch, advantages, weight in parts]


def has_signal(group: Group) -> bool:
    """False where no token has an advantage: such a group teaches nothing."""
    return not all(rollout.silent for rollout in group)


def diagnostics(groups: list[Group]) -> dict[str, float]:
    """The canon of one step, over everything drawn; a mean over nothing is left out.

    entropy is the mean of -logprob of the drawn tokens: an unbiased estimate, nats per token.
    """
    rollouts = [rollout for group in groups for rollout in group]
    n, tokens = len(rollouts), sum(r.length for r in rollouts)
    right = [r.length for r in rollouts if r.verdict.correct]
    wrong = [r.length for r in rollouts if not r.verdict.correct]
    report = {"reward": sum(r.reward for r in rollouts) / n,
              "accuracy": len(right) / n,
              "steps_valid": sum(r.verdict.steps_valid for r in rollouts) / n,
              "well_formed": sum(r.verdict.well_formed for r in rollouts) / n,
              "entropy": -sum(sum(r.logprobs) for r in rollouts) / tokens,
              "share_silent": 1 - sum(map(has_signal, groups)) / len(groups),
              "generated_tokens": tokens, "prompt_tokens": sum(g[0].first for g in groups)}
    for name, lengths in (("length_right", right), ("length_wrong", wrong)):
        if lengths:
            report[name] = sum(lengths) / len(lengths)
    return report


def compute_curve(metrics: list[dict], n_params: int, problems: int) -> list[dict]:
    """The validation curve as rows, with the RL compute spent before each point.

    2 N FLOPs per token read or drawn by the sampler, 6 N per token trained on (Kaplan 2020,
    table 1).
    """
    rows, generated, flops = [], 0, 0.0
    for record in metrics:
        for key in (key for key in record if key.startswith("eval/")):
            _, name, method = key.split("/")
            rows.append({"set": name, "method": method, "n": 1, "accuracy": record[key],
                         "problems": problems, "step": record["step"],
                         "generated_tokens": generated, "flops": flops})
        drawn = record.get("train/generated_tokens", 0)
        generated += drawn
        flops += n_params * (2 * drawn + 2 * record.get("train/prompt_tokens", 0)
                             + 6 * record.get("train/trained_tokens", 0))
    return rows
