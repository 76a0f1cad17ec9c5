"""A critic's values, P(correct | prefix) at the end of every step: read, judged, and taught."""

import math
from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minireason.core import flops, parallel
from minireason.core.config import TrainingConfig
from minireason.core.errors import check_choice
from minireason.core.runlog import RunLog
from minireason.critics.native_values import followed_values, remembered_values
from minireason.model import checkpoint
from minireason.model.tokenizer import OPENERS, STEP_ENDS, Tokenizer, padded_rows
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import Problem
from minireason.sampling.complete import prompt_ids
from minireason.sampling.native import native_decoder
from minireason.sampling.prefixes import memory_of
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, Row
from minireason.training.losses import gather_logprobs, value_bce
from minireason.training.optim import autocast, make_optimizer, schedule, train_step

LabelledRow = tuple[list[int], int, list[float]]   # tokens, first counted index, a label per end
AGGREGATIONS = {"last": lambda values: values[-1], "min": min, "product": math.prod}


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
        constant reference): a backbone that learned to write steps already knows what surprises
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
    check_choice("aggregation", how, AGGREGATIONS)
    return AGGREGATIONS[how](values) if values else 0.0


def rollout_ids(tokenizer: Tokenizer, problems: list[Problem],
                completions: list[str]) -> list[Row]:
    """Whole rows (prompt, opener, completion) with the index of the first token after the opener.

    completions include their opener, as `complete` returns them.
    """
    heads = prompt_ids(tokenizer, problems, "auto")
    tails = tokenizer.encode_batch(completions)
    return [(head + tail, len(head) + 1) for head, tail in zip(heads, tails, strict=True)]


@torch.inference_mode()
def token_values(critic: Critic, pad: int, rows: list[list[int]],
                 token_budget: int = 8192) -> list[list[float]]:
    """P(correct | prefix) after every token of every row, read in batches of similar length."""
    device = critic.embedding.weight.device
    groups: list[list[int]] = [[]]
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if groups[-1] and len(rows[i]) * (len(groups[-1]) + 1) > token_budget:
            groups.append([])
        groups[-1].append(i)
    values: list[list[float]] = [[] for _ in rows]
    flops.count(flops.READ, critic.n_params, sum(map(len, rows)))
    for group in filter(None, groups):
        with autocast(device):
            logits = critic.values(padded_rows([rows[i] for i in group], pad, device))   # (n, T)
        for i, found in zip(group, logits.float().sigmoid().tolist(), strict=True):
            values[i] = found[:len(rows[i])]
    return values


def prefix_values(critic: Critic, tokenizer: Tokenizer, prefixes: list[list[int]],
                  token_budget: int = 8192) -> list[float]:
    """P(correct | prefix) at the last token of each token row, prompt and opener included.

    Inside `remembered()` what earlier rows began with is not read again (sampling/prefixes.py).
    """
    memory = memory_of(critic)
    if memory is None:
        return [row[-1] for row in token_values(critic, tokenizer.pad, prefixes, token_budget)]
    flops.count(flops.READ, critic.n_params, memory.unread(prefixes))
    decoder = native_decoder(critic, tokenizer, Sampling()) if prefixes else None
    if decoder is None:
        with flops.uncounted():
            return [row[-1] for row in token_values(critic, tokenizer.pad, prefixes, token_budget)]
    return remembered_values(decoder, critic.likelihood, prefixes, token_budget)


def step_values(critic: Critic, tokenizer: Tokenizer, problems: list[Problem],
                completions: list[str], token_budget: int = 8192) -> list[list[float]]:
    """P(correct | prefix) after each step end of each completion; [] if there is none."""
    ends = set(tokenizer.ids_of(*STEP_ENDS))
    rows = rollout_ids(tokenizer, problems, completions)
    samples = len(rows) / max(1, len({*problems}))           # of a problem: many begin alike
    decoder = native_decoder(critic, tokenizer, Sampling()) if samples >= 4 else None
    if decoder and max(len(tokens) for tokens, _ in rows) < critic.config.max_len:
        flops.count(flops.READ, critic.n_params, sum(len(tokens) for tokens, _ in rows))
        found = followed_values(decoder, critic.likelihood, rows)
    else:
        found = token_values(critic, tokenizer.pad, [tokens for tokens, _ in rows], token_budget)
    return [[row[t] for t in range(first - len(tokens), 0) if tokens[t] in ends]
            for (tokens, first), row in zip(rows, found, strict=True)]


def final_values(critic: Critic, tokenizer: Tokenizer, problems: list[Problem],
                 completions: list[list[str]]) -> list[list[float]]:
    """The critic's last value of every completion, 0 where it has no step end."""
    last: dict[tuple[Problem, str], float] = {}          # equal samples are read once
    for problem, texts in zip(problems, completions, strict=True):
        last |= dict.fromkeys([(problem, text) for text in texts], 0.0)
    values = step_values(critic, tokenizer, [p for p, _ in last], [text for _, text in last])
    for pair, ends in zip(last, values, strict=True):
        last[pair] = aggregate(ends, "last")
    return [[last[problem, text] for text in texts]
            for problem, texts in zip(problems, completions, strict=True)]


def labelled_rows(tokenizer: Tokenizer, problems: list[Problem], completions: list[str],
                  labels: list[list[float]]) -> list[LabelledRow]:
    """Whole rows (prompt, opener, completion) with the label of every step end."""
    ids = rollout_ids(tokenizer, problems, completions)
    return [(tokens, first, ends) for (tokens, first), ends in zip(ids, labels, strict=True)]


def value_batches(rows: list[LabelledRow], ends: Tensor, token_budget: int,
                  pad: int) -> tuple[list[Batch], int]:
    """This rank's rows as batches, and the GLOBAL count of step ends.

    The mask picks step ends at or after `first`; there, targets hold the labels, one each.
    """
    count = sum(len(labels) for _, _, labels in rows)
    mine = sorted(parallel.share(rows), key=lambda row: len(row[0]))
    per_batch = max(1, token_budget // max((len(row[0]) for row in mine), default=1))
    batches = []
    for start in range(0, len(mine), per_batch):
        group = mine[start:start + per_batch]
        tokens, first, labels = zip(*group, strict=True)
        inputs = padded_rows(tokens, pad)                                    # (B, T)
        counted = torch.arange(inputs.shape[1]) >= torch.tensor(first)[:, None]
        mask = torch.isin(inputs, ends) & counted
        targets = torch.zeros(inputs.shape)
        targets[mask] = torch.tensor(list(chain(*labels)))
        batches.append(Batch(inputs, targets, mask.float()))
    return batches, max(1, count)


def critic_loss(critic: Critic, batch: Batch, count: int, imitation: float) -> Tensor:
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


def fit_critic(log: RunLog, critic: Critic, tokenizer: Tokenizer, cfg: TrainingConfig,
               rows: list[LabelledRow], rng_at: Callable[[int], np.random.Generator],
               imitation: float) -> None:
    """Train the value head and its backbone; rng_at(step) chooses the rows of a step.

    imitation: weight of right thoughts' tokens beside the values (critic_loss).
    """
    ends = torch.tensor(tokenizer.ids_of(*STEP_ENDS))
    optimizer = make_optimizer(critic, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, critic, optimizer), cfg.steps):
        chosen = rng_at(step).integers(0, len(rows), cfg.rows_per_step)
        batches, count = value_batches([rows[i] for i in chosen], ends, cfg.token_budget,
                                       tokenizer.pad)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            critic, optimizer, batches,
            lambda batch, n=count: critic_loss(critic, batch, n, imitation), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        checkpoint.save_state_every(log, cfg, step, critic, optimizer)
