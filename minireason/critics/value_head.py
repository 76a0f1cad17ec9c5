"""A critic's values, P(correct | prefix) at the end of every step: taught, read, and judged."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minireason.core import parallel
from minireason.core.config import UserError
from minireason.model.tokenizer import OPENERS, STEP_ENDS, Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import Problem
from minireason.sampling.complete import prompt_ids
from minireason.training.batches import Batch
from minireason.training.losses import gather_logprobs, value_bce
from minireason.training.optim import autocast

AGGREGATIONS = ("last", "min", "product")


class Critic(Transformer):
    """A transformer with a value head: P(correct | prefix) beside the next-token logits."""

    KIND = "critic"

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.value = nn.Linear(config.d_model, 1, bias=False)
        self.likelihood = nn.Parameter(torch.ones(1))                     # beta of `judge`

    @classmethod
    def from_policy(cls, policy: Transformer) -> "Critic":
        """The policy's weights, a value head of zeros, beta 1; on the policy's device."""
        critic = cls(policy.config)
        critic.load_state_dict(policy.state_dict() | {
            "value.weight": torch.zeros(1, policy.config.d_model), "likelihood": torch.ones(1)})
        return critic.to(policy.embedding.weight.device)

    def values(self, tokens: Tensor) -> Tensor:
        """Logit of P(correct | prefix up to each token); (B, T) -> (B, T)."""
        return self.judge(tokens)[0]

    def judge(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(values (B, T), logprobs (B, T - 1)) of whole rows; logprobs are 0 outside the thought.

            value(prefix) = w . h + beta * sum of log p(token | before) over the thought so far

        The second term is the implicit reward of Yuan 2024 (arXiv:2412.01981, without its
        constant reference): a backbone that learnt to write steps already knows what surprises
        it, and a head that reads hidden states alone learns how hard the problem is before it
        learns to check a step (docs/LOG.md). Thoughts start behind the first opener.
        """
        hidden = self.hidden(tokens)
        opened = (tokens == OPENERS[0]) | (tokens == OPENERS[1])
        inside = opened.cumsum(dim=1)[:, :-1] > 0                         # (B, T - 1)
        logprobs = gather_logprobs(self.logits(hidden[:, :-1]), tokens[:, 1:]) * inside
        likelihood = F.pad(logprobs.cumsum(dim=1), (1, 0))                # (B, T)
        return self.value(hidden).squeeze(-1) + self.likelihood * likelihood, logprobs


def aggregate(values: list[float], how: str) -> float:
    """One score of a completion from its step values; 0 if it has none.

    last: the final verdict; min: the weakest step (Math-Shepherd); product: P(every step right) if
    steps fail independently (Lightman 2023, section 2.4).
    """
    if how not in AGGREGATIONS:
        raise UserError(f"aggregation {how!r}: must be one of {', '.join(AGGREGATIONS)}")
    if not values:
        return 0.0
    return {"last": values[-1], "min": min(values), "product": math.prod(values)}[how]


def rollout_ids(tokenizer: Tokenizer, problems: list[Problem], completions: list[str],
                style: str = "cot") -> list[tuple[list[int], int]]:
    """Whole rows (prompt, opener, completion) with the index of the first token after the opener.

    completions include their opener, as `evaluate.complete` returns them.
    """
    heads = prompt_ids(tokenizer, problems, style)
    tails = tokenizer.encode_batch(completions)
    return [(head + tail[1:], len(head)) for head, tail in zip(heads, tails, strict=True)]


@torch.inference_mode()
def step_values(critic: Critic, tokenizer: Tokenizer, problems: list[Problem],
                completions: list[str], token_budget: int = 8192) -> list[list[float]]:
    """P(correct | prefix) after each step end of each completion; [] if there is none."""
    ends = set(tokenizer.ids_of(*STEP_ENDS))
    device = critic.embedding.weight.device
    rows = rollout_ids(tokenizer, problems, completions)
    values: list[list[float]] = [[] for _ in rows]
    for group in length_groups([len(ids) for ids, _ in rows], token_budget):
        tokens = _padded([rows[i][0] for i in group], tokenizer.pad, device)
        with autocast(device):
            probabilities = critic.values(tokens).float().sigmoid().tolist()
        for i, row in zip(group, probabilities, strict=True):
            ids, first = rows[i]
            values[i] = [row[t] for t in range(first, len(ids)) if ids[t] in ends]
    return values


def final_values(critic: Critic, tokenizer: Tokenizer, problems: list[Problem],
                 completions: list[list[str]]) -> list[list[float]]:
    """The critic's last value of every completion, 0 where it has no step end."""
    last = {}                                    # equal samples are read once
    for problem, texts in zip(problems, completions, strict=True):
        for text in texts:
            last[problem, text] = 0.0
    values = step_values(critic, tokenizer, [p for p, _ in last], [text for _, text in last])
    for pair, ends in zip(last, values, strict=True):
        if ends:
            last[pair] = ends[-1]
    return [[last[problem, text] for text in texts]
            for problem, texts in zip(problems, completions, strict=True)]


@torch.inference_mode()
def prefix_values(critic: Critic, tokenizer: Tokenizer, prefixes: list[list[int]],
                  token_budget: int = 8192) -> list[float]:
    """P(correct | prefix) at the last token of each token row, prompt and opener included."""
    device = critic.embedding.weight.device
    values = [0.0] * len(prefixes)
    for group in length_groups([len(ids) for ids in prefixes], token_budget):
        tokens = _padded([prefixes[i] for i in group], tokenizer.pad, device)
        last = torch.tensor([[len(prefixes[i]) - 1] for i in group], device=device)
        with autocast(device):
            logits = critic.values(tokens).gather(1, last).squeeze(1)     # (B,)
        for i, value in zip(group, logits.float().sigmoid().tolist(), strict=True):
            values[i] = value
    return values


def length_groups(lengths: list[int], token_budget: int) -> list[list[int]]:
    """Indices by ascending length, cut where a padded batch would exceed the budget in tokens."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not groups or lengths[i] * (len(groups[-1]) + 1) > token_budget:
            groups.append([])
        groups[-1].append(i)
    return groups


def _padded(rows: list[list[int]], pad: int, device: torch.device) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)


def value_batches(rows: list[tuple[list[int], int, list[float]]], ends: torch.Tensor,
                  token_budget: int, pad: int) -> tuple[list[Batch], int]:
    """This rank's (tokens, first, labels) rows as batches, and the GLOBAL count of step ends.

    The mask picks step ends at or after `first`; there, targets hold the labels, one each.
    """
    count = sum(len(labels) for _, _, labels in rows)
    mine = sorted(parallel.share(rows), key=lambda row: len(row[0]))
    per_batch = max(1, token_budget // max((len(row[0]) for row in mine), default=1))
    batches = []
    for start in range(0, len(mine), per_batch):
        group = mine[start:start + per_batch]
        longest = max(len(tokens) for tokens, _, _ in group)
        inputs = torch.tensor([tokens + [pad] * (longest - len(tokens))
                               for tokens, _, _ in group])
        first = torch.tensor([[first] for _, first, _ in group])
        mask = torch.isin(inputs, ends) & (torch.arange(longest) >= first)   # (B, T)
        targets = torch.zeros(inputs.shape)
        targets[mask] = torch.tensor([label for _, _, labels in group for label in labels])
        batches.append(Batch(inputs, targets, mask.float()))
    return batches, max(1, count)


def critic_loss(critic: Critic, batch: Batch, count: int, imitation: float) -> torch.Tensor:
    """Cross-entropy of the values at step ends, and of the tokens that led to a good one.

    The second part keeps the backbone a model of right thoughts, which the values lean on (Cobbe
    2021, appendix E, trains the two jointly): every token up to the last end labelled good counts
    `imitation` times. Both are sums over `count`, the step's global count of step ends.
    """
    values, logprobs = critic.judge(batch.inputs)
    good_end = (batch.targets > 0.5).float()                              # (B, T), 0 off the ends
    led_there = good_end.flip(1).cummax(dim=1).values.flip(1)[:, 1:]      # (B, T - 1)
    return (value_bce(values, batch.targets, batch.loss_mask, count)
            - imitation * (led_there * logprobs).sum() / count)
