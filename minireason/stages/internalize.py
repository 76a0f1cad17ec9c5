"""Stepwise internalization: a thought removed piece by piece while training goes on.

Training begins with whole thoughts. Every few hundred steps one more token is cut from their left,
and the model must hold in its forward pass what it may no longer write:

    <think>1746;06782(13243);007512</think>(139052)
    <think>(13243);007512</think>(139052)    ...    </think>(139052)

(Deng 2024, arXiv:2405.14838). Here a piece goes when its last token would (`--unit token`: the
paper); pieces are the products before the first running sum, then all up to the next sum. A policy
computes after `<think>` and reads its thought after `</think>`; when nothing is left to read, the
two swap their embeddings (`--no-swap`: the paper). Some rows are o pieces ahead, P(o) ~ exp(-lambda
o). Controls read as many tokens: `direct` no thought, `explicit` whole ones, `auxiliary` none, but
has a head for running sums (Bai 2025, arXiv:2510.00184).
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from minireason.core.config import Share, TrainingConfig, rng, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.measure.evaluate import finish_policy
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import FAMILIES, Problem, sample_levels
from minireason.training.batches import Batch, Row, encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import Optimizer, make_optimizer, train_step

ARMS, UNITS = ("internalize", "direct", "explicit", "auxiliary"), ("piece", "token")
Sums = dict[tuple[int, ...], list[tuple[int, float]]]   # {row without its end: [(index, sum)]}


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """A thought that disappears, or one of its controls; the defaults are for 3x3 digits."""

    out: str = "runs/internalize"
    arm: str = "internalize"      # internalize | direct | explicit | auxiliary
    min_level: int = 3
    max_level: int = 3
    steps: int = 12_000
    steps_per_token: int = 250    # of thought, before it goes
    unit: str = "piece"           # what goes at once: piece | token
    swap: bool = True             # of the embeddings of the two openers at the last removal
    smoothing: float = 4.0        # lambda
    reset: bool = False           # the optimizer starts anew at each removal, as in the paper
    head_weight: float = 1.0      # of the auxiliary loss; the sums are counted in tens
    d_model: int = 128
    n_layers: int = 4             # L
    n_heads: int = 4              # H
    head_dim: int = 32            # D
    d_ff: int = 256
    max_len: int = 128            # tokens per row at most
    rows_per_step: int = 64       # B whole lines; shorter lines are more, of equally many tokens
    optimizer: str = "muon"       # of the blocks' matrices: muon | adamw
    lr: float = 2e-3              # constant but for a rise and a fall between two removals
    warmup: int = 100             # steps in which it rises from nothing
    decay: Share = 0.25           # the last share, in which it falls to nothing
    weight_decay: float = 0.01
    save_every: int = 200

    def __post_init__(self):
        for field, words in (("arm", ARMS), ("unit", UNITS), ("optimizer", ("muon", "adamw"))):
            check_choice(field, getattr(self, field), words)
        if self.smoothing == 0:
            raise UserError("--smoothing 0: must be above 0; 99 is as good as none")
        if self.arm == "auxiliary" and not hasattr(FAMILIES.get(self.family), "running_sums"):
            raise UserError(f"--family {self.family}: has no running sums; choose another --arm")


class SumReader(Transformer):
    """A transformer with a linear head that reads a number off its final states."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.running_sum = nn.Linear(config.d_model, 1, bias=False)


def run(cfg: Config) -> dict:
    """Train one arm from random weights; returns result.json's content."""
    tokenizer = Tokenizer.build(FAMILIES[cfg.family].TOKENS)
    removals = removal_steps(cfg, tokenizer)
    log, device = checkpoint.open_stage("internalize", cfg, cfg.out)
    if log.done:
        return log.done
    shape = ModelConfig(tokenizer.vocab_size, cfg.d_model, cfg.n_layers, cfg.n_heads, cfg.n_heads,
                        cfg.head_dim, cfg.d_ff, cfg.max_len)
    kind = SumReader if cfg.arm == "auxiliary" else Transformer
    model = kind.random(shape, stream_seed(cfg.seed, "weights")).to(device)
    log.start(model, device)
    optimizer = make_optimizer(model, cfg.weight_decay, muon=cfg.optimizer == "muon")
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        if cfg.reset and step in removals:
            optimizer.state.clear()
        if cfg.swap and step in removals[-1:]:
            ends = [tokenizer.think, tokenizer.end_think]
            model.embedding.weight.data[ends] = model.embedding.weight.data[ends[::-1]]
        falls = removals if cfg.unit == "piece" or cfg.reset else []
        start, end = next((a, b) for a, b in pairwise([0, *falls, cfg.steps]) if step < b)
        lr = cfg.lr * min(1.0, (step - start + 1) / max(1, cfg.warmup),
                          (end - step) / max(1.0, cfg.decay * (end - start)))
        removed = step // cfg.steps_per_token if step < max([0, *removals]) else cfg.max_len
        rows, sums = rows_of_step(cfg, step, 0 if cfg.arm == "explicit" else removed, tokenizer)
        left = sum(len(cuts(tokens, "token", tokenizer)) - 1 for tokens, *_ in rows) / len(rows)
        log.record(step, **learn(model, optimizer, rows, sums, lr, cfg, tokenizer.pad),
                   **{"train/rows": len(rows), "train/thought_tokens": left})
        checkpoint.save_state_every(log, cfg, step, model, optimizer)
    policy = Transformer(shape).to(device)
    policy.load_state_dict(model.state_dict(), strict=False)              # without the head
    return finish_policy(log, cfg, policy, tokenizer, parameters=policy.n_params,
                         style="cot" if cfg.arm == "explicit" else "direct")


def removal_steps(cfg: Config, tokenizer: Tokenizer) -> list[int]:
    """Steps at which the longest thought loses a unit; UserError if --steps ends before they go."""
    if cfg.arm != "internalize":
        return []
    family, levels = FAMILIES[cfg.family], (cfg.max_level, cfg.max_level)
    problems = sample_levels(family, rng(cfg.seed, "longest"), levels, 64)
    places = max((cuts(tokenizer.encode(family.render(p, "cot")), cfg.unit, tokenizer)
                  for p in problems), key=lambda places: places[-1] - places[0])
    removals = [(place - places[0]) * cfg.steps_per_token for place in places[1:]]
    if removals[-1] >= cfg.steps:
        raise UserError(f"--steps {cfg.steps}: the thought is gone only after {removals[-1]}; "
                        "raise it, or lower --steps-per-token")
    return removals


def cuts(tokens: list[int], unit: str, tokenizer: Tokenizer) -> list[int]:
    """Indices where what is left of a row's thought begins after 0, 1, ... of its units.

    A piece ends with the thought, before each running sum, `(`, and behind each `;` before the
    first sum. A row without a thought: [its end].
    """
    end = tokens.index(tokenizer.end_think)
    start = tokens.index(tokenizer.think) + 1 if tokenizer.think in tokens else end
    semicolon, bracket = tokenizer.ids_of(";", "(")
    inner = list(range(start + 1, end))
    if unit == "piece":
        inner = [i for i in inner if tokens[i] == bracket
                 or (tokens[i - 1] == semicolon and bracket not in tokens[start:i])]
    return sorted({start, *inner, end})


def without(tokens: list[int], removed: int, ahead: int, unit: str,
            tokenizer: Tokenizer) -> list[int]:
    """A row without the units among its thought's first `removed` tokens and the next `ahead`."""
    places = cuts(tokens, unit, tokenizer)
    gone = sum(place - places[0] <= removed for place in places) - 1 + ahead
    left = places[min(gone, len(places) - 1)]             # the opener goes with the last of them
    return tokens[:places[0] - (left == places[-1])] + tokens[left:]


def rows_of_step(cfg: Config, step: int, removed: int,
                 tokenizer: Tokenizer) -> tuple[list[Row], Sums]:
    """One step's rows, of as many tokens as B whole lines have, and what the head reads of them."""
    family, generator = FAMILIES[cfg.family], rng(cfg.seed, "internalize", step)
    rows, sums, room = [], {}, math.inf                                  # room: tokens
    while room > 0:
        problems = sample_levels(family, generator, (cfg.min_level, cfg.max_level),
                                 cfg.rows_per_step)
        whole = encode_lines(tokenizer, [p.prompt for p in problems],
                             [family.render(p, "cot") for p in problems])
        if not rows:
            room = sum(len(tokens) for tokens, *_ in whole)
        ahead = generator.geometric(-math.expm1(-cfg.smoothing), len(whole)) - 1   # o
        for problem, (tokens, first, *_), more in zip(problems, whole, ahead, strict=True):
            if room <= 0:
                break
            if removed or cfg.arm == "internalize":
                tokens = without(tokens, removed, int(more), cfg.unit, tokenizer)
            if cfg.arm == "auxiliary":
                sums[tuple(tokens[:-1])] = sums_of(problem, tokens, first, tokenizer)
            rows.append((tokens, first))
            room -= len(tokens)
    return rows, sums


def sums_of(problem: Problem, tokens: list[int], first: int,
            tokenizer: Tokenizer) -> list[tuple[int, float]]:
    """[(index before a digit of the answer, its running sum in tens)] of a direct row."""
    digits = tokenizer.ids_of(*"0123456789")
    places = [i - 1 for i in range(first, len(tokens)) if tokens[i] in digits]
    totals = getattr(FAMILIES[problem.family], "running_sums")(problem)         # noqa: B009
    return [(place, total / 10) for place, total in zip(places, totals, strict=True)]


def learn(model: Transformer, optimizer: Optimizer, rows: list[Row], sums: Sums,
          lr: float, cfg: Config, pad: int) -> dict[str, float]:
    """One update on the rows; the step's metrics."""
    batches, count = micro_batches(rows, cfg.token_budget, pad)
    n_sums = sum(len(sums[tuple(tokens[:-1])]) for tokens, *_ in rows) if sums else 0

    def loss_of(batch: Batch) -> Tensor:
        hidden = model.hidden(batch.inputs, batch.cu_seqlens, batch.max_len)   # (N, d_model)
        loss = nll(model.logits(hidden), batch.targets, batch.loss_mask, count)
        if isinstance(model, SumReader):
            loss = loss + cfg.head_weight * sums_error(model, hidden, batch, sums) / n_sums
        return loss

    loss, grad_norm = train_step(model, optimizer, batches, loss_of, lr)
    return {"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr, "train/tokens": count}


def sums_error(model: SumReader, hidden: Tensor, batch: Batch, sums: Sums) -> Tensor:
    """Sum of the head's squared errors over a packed batch's digits; hidden (N, d_model)."""
    assert batch.cu_seqlens is not None, "rows are packed"
    places, wanted = [], []
    for start, end in pairwise(batch.cu_seqlens.tolist()):
        for place, total in sums[tuple(batch.inputs[start:end].tolist())]:
            places.append(start + place)
            wanted.append(total)
    read = model.running_sum(hidden[places]).squeeze(-1)                  # (digits,)
    return (read - read.new_tensor(wanted)).square().sum()
