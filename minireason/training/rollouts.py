"""Rollouts: groups of completions with the verifier's verdict, a reward, and an advantage.

What reinforcement learning needs of one sample stands in one record: its tokens, where the drawn
ones begin, their logprobs under the distribution they were drawn from, and how good it was.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minireason.core import parallel
from minireason.model.tokenizer import STEP_ENDS, Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, Verdict
from minireason.sampling.complete import prompt_ids
from minireason.sampling.sampler import Sampling, stream
from minireason.training.batches import Batch, micro_batches
from minireason.training.losses import gather_logprobs, group_advantages, truncate_logits
from minireason.training.optim import autocast


@dataclass(frozen=True)
class Rewards:
    """What a completion earns; every part is the exact verifier's."""

    outcome: float = 1.0          # for the right answer
    format: float = 0.0           # for matching the grammar to the end
    process: float = 1.0          # for each exactly right step, credited to its own tokens only

    def of(self, verdict: Verdict) -> float:
        """The reward of the completion as a whole."""
        return self.outcome * verdict.correct + self.format * verdict.well_formed


@dataclass(frozen=True)
class Rollout:
    """One completion of one prompt."""

    problem: Problem
    verdict: Verdict
    tokens: list[int]             # prompt, opener, and what was drawn
    first: int                    # index of the first drawn token
    logprobs: list[float]         # of the drawn tokens, by the sampler
    reward: float
    advantages: list[float]       # of the drawn tokens

    @property
    def length(self) -> int:
        """Drawn tokens, <eos> included."""
        return len(self.tokens) - self.first

    @property
    def silent(self) -> bool:
        """No token has an advantage: the completion teaches nothing."""
        return not any(self.advantages)


def draw_groups(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem], how: Sampling,
                rewards: Rewards, advantage: str) -> list[list[Rollout]]:
    """For each problem its group of how.n rollouts; ranks share the problems, all get all."""
    numbers = parallel.share(list(range(len(problems))))
    mine = [problems[i] for i in numbers]
    prompts = prompt_ids(tokenizer, mine, "cot")
    drawn = []                                             # (problem, prompt, tokens, logprobs)
    for chunk in stream(policy, tokenizer, prompts, how, numbers):
        for i, length in enumerate(chunk.mask.sum(dim=1).tolist()):
            at = (chunk.first_row + i) // how.n
            drawn.append((mine[at], prompts[at], chunk.tokens[i, :length].tolist(),
                          chunk.logprobs[i, :length].tolist()))
    verdicts = [FAMILIES[p.family].verify(p, FAMILIES[p.family].OPENER["cot"]
                                          + tokenizer.decode(tokens)) for p, _, tokens, _ in drawn]
    earned = [rewards.of(verdict) for verdict in verdicts]
    scores = [[(1 - math.exp(lp)) ** 2 for lp in row[3]] for row in drawn]
    gains = group_advantages(torch.tensor(earned, dtype=torch.float64), how.n, advantage,
                             torch.tensor([sum(score) for score in scores])).tolist()
    advantages = [[gain] * len(score) for gain, score in zip(gains, scores, strict=True)]
    marks = [verdict.marks for verdict in verdicts]
    for i in range(0, len(drawn), how.n) if rewards.process else ():
        group = slice(i, i + how.n)
        spans = [step_spans(row[2], len(marked), tokenizer)
                 for row, marked in zip(drawn[group], marks[group], strict=True)]
        for own, credit in zip(advantages[group], step_credits(spans, marks[group], scores[group],
                                                               advantage), strict=True):
            own[:] = [a + rewards.process * c for a, c in zip(own, credit, strict=True)]
    rollouts = [Rollout(problem, verdict, prompt + tokens, len(prompt), logprobs, reward, own)
                for (problem, prompt, tokens, logprobs), verdict, reward, own
                in zip(drawn, verdicts, earned, advantages, strict=True)]
    return parallel.gather([rollouts[i * how.n:(i + 1) * how.n] for i in range(len(mine))])


def step_spans(tokens: list[int], steps: int, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Where each of the steps stands among the drawn tokens, its end token included.

    A step that was withdrawn (`<wrong>`) belongs to none.
    """
    ends, wrong = set(tokenizer.ids_of(*STEP_ENDS)), tokenizer.ids_of("<wrong>")[0]
    spans, first = [], 0
    for _ in range(steps):
        end = next(t for t in range(first, len(tokens)) if tokens[t] in ends) + 1
        spans.append((max((t + 1 for t in range(first, end) if tokens[t] == wrong),
                          default=first), end))
        first = end
    return spans


def step_credits(spans: list[list[tuple[int, int]]], marks: list[tuple[bool, ...]],
                 scores: list[list[float]], advantage: str) -> list[list[float]]:
    """Per drawn token of a group's completions: the advantage of its step among the group's j-th.

    The step-wise advantage of process supervision (DeepSeekMath, arXiv:2402.03300, section 4.1.3)
    with each reward kept to its own step: a mark judges a step from the state before it, so a later
    step owes it nothing. Tokens of no step (after the thought, withdrawn, malformed) get 0.
    """
    credits = [[0.0] * len(score) for score in scores]
    for j in range(max(map(len, spans))):
        having = [k for k, found in enumerate(spans) if j < len(found)]
        weights = torch.tensor([sum(scores[k][slice(*spans[k][j])]) for k in having])
        rights = torch.tensor([float(marks[k][j]) for k in having])
        gains = group_advantages(rights, len(having), advantage, weights).tolist()
        for k, gain in zip(having, gains, strict=True):
            begin, end = spans[k][j]
            credits[k][begin:end] = [gain] * (end - begin)
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


def make_batches(rollouts: list[Rollout], weights: list[float], temperature: float,
                 token_budget: int, pad: int, old: Transformer | None,
                 reference: Transformer | None) -> list[RolloutBatch]:
    """This rank's rollouts as micro-batches, each with the logprobs of the models given.

    A rollout without advantage has no gradient: it is left out unless a KL term wants it.
    """
    rows = sorted(((r, w) for r, w in zip(rollouts, weights, strict=True)
                   if not r.silent or reference is not None),
                  key=lambda row: len(row[0].tokens))      # the order that micro_batches keeps
    batches, _ = micro_batches([(r.tokens, r.first) for r, _ in rows], token_budget, pad)
    sizes = [int(batch.loss_mask.sum()) for batch in batches]
    mine = parallel.share(rows)
    advantages = torch.tensor([gain for r, _ in mine for gain in r.advantages]).split(sizes)
    spread = torch.tensor([w for r, w in mine for _ in range(r.length)]).split(sizes)
    return [RolloutBatch(batch, advantages[i], spread[i], *(
        None if model is None else fixed_logprobs(model, batch, temperature)
        for model in (old, reference))) for i, batch in enumerate(batches)]


def drawn_logprobs(model: Transformer, rows: Batch, temperature: float) -> Tensor:
    """Logprobs (M,) of the counted tokens, under the distribution that the sampler drew from."""
    chosen = rows.loss_mask.bool()
    logits = model.logits(model.hidden(rows.inputs, rows.cu_seqlens, rows.max_len)[chosen])
    return gather_logprobs(truncate_logits(logits, temperature), rows.targets[chosen])


@torch.no_grad()
def fixed_logprobs(model: Transformer, rows: Batch, temperature: float) -> Tensor:
    """drawn_logprobs without gradient, (M,) on the CPU."""
    device = model.embedding.weight.device
    with autocast(device):
        return drawn_logprobs(model, rows.to(device), temperature).cpu()


def has_signal(group: list[Rollout]) -> bool:
    """False where no token has an advantage: such a group teaches nothing."""
    return not all(rollout.silent for rollout in group)


def diagnostics(groups: list[list[Rollout]]) -> dict[str, float]:
    """The canon of one step, over everything drawn; a mean over nothing is left out.

    entropy is the mean of -logprob of the drawn tokens: an unbiased estimate, nats a token.
    """
    rollouts = [rollout for group in groups for rollout in group]
    tokens = sum(r.length for r in rollouts)
    right = [r.length for r in rollouts if r.verdict.correct]
    wrong = [r.length for r in rollouts if not r.verdict.correct]
    n = len(rollouts)
    report = {"reward": sum(r.reward for r in rollouts) / n,
              "accuracy": len(right) / n,
              "steps_valid": sum(r.verdict.steps_valid for r in rollouts) / n,
              "well_formed": sum(r.verdict.well_formed for r in rollouts) / n,
              "entropy": -sum(sum(r.logprobs) for r in rollouts) / tokens,
              "share_silent": 1 - sum(map(has_signal, groups)) / len(groups),
              "generated_tokens": tokens, "prompt_tokens": sum(g[0].first for g in groups)}
    if right:
        report["length_right"] = sum(right) / len(right)
    if wrong:
        report["length_wrong"] = sum(wrong) / len(wrong)
    return report


def compute_curve(metrics: Path, n_params: int) -> list[dict]:
    """The validation points with the RL compute spent before each, in FLOPs and tokens.

    2 N FLOPs a token read or drawn by the sampler, 6 N a token trained on (Kaplan 2020, table 1).
    """
    points, generated, flops = [], 0, 0.0
    for line in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        found = {name: value for name, value in record.items() if name.startswith("eval/")}
        if found:
            points.append({"step": record["step"], "generated_tokens": generated, "flops": flops,
                           **found})
        generated += record.get("train/generated_tokens", 0)
        flops += n_params * (2 * record.get("train/generated_tokens", 0)
                             + 2 * record.get("train/prompt_tokens", 0)
                             + 6 * record.get("train/trained_tokens", 0))
    return points
