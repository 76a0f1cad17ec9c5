"""Quiet-STaR: thoughts after tokens of ordinary text, judged by the tokens that follow them.

After a token of the text the policy writes M thoughts in parallel, between `<think>` and
`</think>`, whose embeddings are learned like all others. A thought ends where the policy writes
`</think>`, or is closed after m tokens. A head then weighs what is predicted with the thought
against what the line alone predicts (Zelikman 2024, arXiv:2403.09629, section 4):

    p(x) = w p(x | line, thought) + (1 - w) p(x | line)

    loss = NLL(line) + NLL(x | line, thought) + NLL(mixture) - reinforce * E[A log p(thought)]

with A the log-probability of the next true tokens after the thought, minus its mean over the M.
Unlike the paper's, the loss is decoupled: NLL(mixture) trains the head alone. Trained through the
mixture, the reader of thoughts starves before it can read. Thoughts that do worse than the mean
count, too; the paper drops them. The paper thinks after every token; here the places are given:
after the question, and after one other token of each line. And the text is no web page but a fixed
corpus of questions with exact bare answers, so its likelihood tells a thought what a reward for the
outcome would. The mixture of the pretraining text is replayed.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minireason.core import flops, parallel
from minireason.core.config import Share, TrainingConfig, rng, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import finish_policy, frozen_sets
from minireason.measure.quiet_thoughts import lines_of, measured_thoughts, root_of
from minireason.model import checkpoint
from minireason.model.tokenizer import OPENERS, Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, sample_levels
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, Row, check_longest, encode_lines, micro_batches
from minireason.training.losses import gather_logprobs, group_advantages
from minireason.training.optim import batch_nll, make_optimizer, schedule, train_step
from minireason.training.thoughts import (
    CHOSEN,
    QuietModel,
    ThoughtBatch,
    predictions,
    shared_hidden,
    text_logprobs,
    think,
    thought_batches,
)

RECORDED = ("loss", "grad_norm", "lr", "nll_line", "nll_after", "nll_mixture", "reward")
HEAD = "mixing.safetensors"       # what computes w, beside the policy


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Quiet thoughts on a fixed text of bare answers, and the controls."""

    init: str                     # folder of the policy to start from; its head, too, if it has one
    base: str                     # pretrained folder whose mixture is replayed
    out: str = "runs/quiet_star"
    thoughts: str = "own"         # own | frozen (by the first policy) | random | pause | none
    after: str = "="              # thoughts stand after the first such token of a line
    elsewhere: bool = True        # and after one more, drawn at random
    marks: tuple[str, ...] = ()   # tokens whose embeddings `<think>` and `</think>` start as
    lines: int = 4000             # of the text, read in turn, again when all are read
    min_level: int = 2
    max_level: int = 4
    samples: int = 4              # M thoughts after a token
    lengths: tuple[int, ...] = (6, 12, 18, 24)   # m, one per step: tokens per thought at most
    true_tokens: int = 2          # tokens of the text that judge a thought
    reinforce: float = 0.2        # weight of the loss of the thoughts themselves
    replay: Share = 0.5           # share of rows from the pretraining mixture
    steps: int = 250
    rows_per_step: int = 32
    token_budget: int = 4096      # tokens per micro-batch; never changes the gradient
    lr: float = 6e-4              # peak learning rate
    weight_decay: float = 0.0
    save_every: int = 50          # steps between saved states
    weighed: int = 50             # problems per level that are thought about at every token

    def __post_init__(self):
        check_choice("thoughts", self.thoughts, ("own", "frozen", "random", "pause", "none"))
        if len(self.marks) not in (0, 2):
            raise UserError(f"--marks {' '.join(self.marks)}: give two tokens, which <think> and "
                            "</think> start as")
        for flag, level in (("min-level", self.min_level), ("max-level", self.max_level)):
            check_choice(flag, str(level), map(str, FAMILIES[self.family].LEVELS))
        if self.samples < 2 and self.thoughts == "own" and self.reinforce:
            raise UserError(f"--samples {self.samples}: REINFORCE compares the thoughts after a "
                            "token, so it needs at least 2; or give --reinforce 0")
        if 0 < self.replay <= 1 and round(self.replay * self.rows_per_step) >= self.rows_per_step:
            raise UserError(f"--replay {self.replay:g} --rows-per-step {self.rows_per_step}: "
                            "leaves no row for the text; lower --replay")


def run(cfg: Config) -> dict:
    """Train on the text with thoughts, then measure where and how much they help."""
    log, device = checkpoint.open_stage("quiet_star", cfg, cfg.out, init=cfg.init, base=cfg.base)
    if log.done:
        return log.done
    mixture, family = Mixture.of(cfg.base), FAMILIES[cfg.family]
    first, tokenizer = checkpoint.load(cfg.init, device)
    with torch.no_grad():
        for mark, like in zip(OPENERS, tokenizer.ids_of(*cfg.marks), strict=False):
            first.embedding.weight[mark] = first.embedding.weight[like]
    model = QuietModel.from_policy(first, stream_seed(cfg.seed, "mixing"))
    if (head := Path(cfg.init) / HEAD).exists():
        model.mixing.load_state_dict(checkpoint.read_tensors(head)[0])
    check_longest(model.config.max_len, tokenizer, family, mixture=mixture)
    text = lines_of(tokenizer, sample_levels(family, rng(cfg.seed, "quiet text"),
                                             (cfg.min_level, cfg.max_level), cfg.lines))
    room = model.config.max_len - max(len(tokens) for tokens, _ in text) - 2
    if max(cfg.lengths) > room:
        raise UserError(f"--lengths {max(cfg.lengths)}: beside a line the model's max_len leaves "
                        f"{room} tokens for a thought")
    levels = tuple(range(cfg.min_level, cfg.max_level + 1))
    sets = frozen_sets(cfg.family, cfg.split, cfg.eval_n, levels)
    log.start(model, device)
    n_replay = round(cfg.replay * cfg.rows_per_step)
    n_lines = cfg.rows_per_step - n_replay
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        generator = rng(cfg.seed, "quiet star", step)
        replayed = corpus_lines(mixture, family, generator, n_replay)
        read = [text[(step * n_lines + i) % len(text)] for i in range(n_lines)]
        thinker = first if cfg.thoughts == "frozen" else model
        batches, counts = batches_of_step(cfg, step, generator, read, thinker, tokenizer)
        plain, n_plain = micro_batches(encode_lines(tokenizer, [""] * n_replay, replayed),
                                       cfg.token_budget, tokenizer.pad)
        sums = torch.zeros(4, device=device)

        def loss_of(batch: Batch, counts=counts, n_plain=n_plain, sums=sums) -> Tensor:
            if isinstance(batch, ThoughtBatch):
                return thought_loss(model, batch, cfg, counts, sums)
            return batch_nll(model, batch, n_plain)

        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(model, optimizer, [*batches, *plain], loss_of, lr)
        parallel.all_sum([sums])
        record = dict(zip(RECORDED, (loss, grad_norm, lr, *sums.tolist()), strict=True))
        log.record(step, **{f"train/{name}": value for name, value in record.items()})
        checkpoint.save_state_every(log, cfg, step, model, optimizer)
    return finish(log, cfg, model, first if cfg.thoughts == "frozen" else model, tokenizer, sets)


def batches_of_step(cfg: Config, step: int, generator: np.random.Generator, lines: list[Row],
                    thinker: Transformer, tokenizer: Tokenizer,
                    ) -> tuple[list[ThoughtBatch], tuple[int, int, int]]:
    """This rank's lines with thoughts after their roots, and what the losses are divided by.

    Over all ranks: the tokens of the lines, the true tokens after thoughts, the thoughts.
    """
    length, roots = int(generator.choice(cfg.lengths)), []
    for tokens, _ in lines:
        roots.append([root_of(tokens, cfg.after, tokenizer)])
        others = [t for t in range(1, len(tokens) - 1) if t != roots[-1][0]]
        roots[-1] += [int(generator.choice(others))] if cfg.elsewhere else []
    if cfg.thoughts == "none":
        roots = [[] for _ in lines]
    ahead = [min(cfg.true_tokens, len(tokens) - 1 - root)
             for (tokens, _), own in zip(lines, roots, strict=True) for root in own]
    counts = (sum(len(tokens) - 1 for tokens, _ in lines), max(1, cfg.samples * sum(ahead)),
              max(1, cfg.samples * len(ahead)))
    mine = parallel.share(list(range(len(lines))))
    own_lines, own_roots = [lines[i] for i in mine], [roots[i] for i in mine]
    how = Sampling(n=cfg.samples, max_new=length, stop=(tokenizer.end_think,),
                   seed=stream_seed(cfg.seed, "quiet thoughts", step))
    numbers = [2 * i + j for i in mine for j in range(len(roots[i]))]
    thoughts = think(cfg.thoughts, thinker, tokenizer, own_lines, own_roots, how, numbers)
    batches = thought_batches([tokens for tokens, _ in own_lines], thoughts, cfg.true_tokens,
                              tokenizer, cfg.token_budget)
    return batches, counts


def thought_loss(model: QuietModel, batch: ThoughtBatch, cfg: Config,
                 counts: tuple[int, int, int], sums: Tensor) -> Tensor:
    """The four losses of a micro-batch, a scalar; adds three of them and the reward to `sums`."""
    hidden, line = shared_hidden(model, batch), batch.loss_mask.bool()
    lines = text_logprobs(model, hidden[line]).gather(1, batch.targets[line][:, None])
    losses = [-lines.sum() / counts[0]]
    if cfg.thoughts != "none":
        found = predictions(model, hidden, batch)
        true = found.targets[:, None]
        after = found.after.gather(1, true).squeeze(1)
        losses += [-after.sum() / counts[1], -found.mixed().gather(1, true).sum() / counts[1]]
        n_thoughts = len(batch.inputs) * int(batch.owner.max())
        rewards = after.new_zeros(n_thoughts).index_add(0, found.thought, after.detach())
        sums[3] += rewards.sum() / counts[2]
        if cfg.thoughts == "own" and cfg.reinforce:
            advantages = group_advantages(rewards, cfg.samples, "reinforce")
            chosen = batch.role == CHOSEN
            logprobs = gather_logprobs(model.logits(hidden[chosen]), batch.targets[chosen])
            gains = advantages[batch.thought()[chosen]] * logprobs
            losses.append(-cfg.reinforce * gains.sum() / counts[2])
    for i, loss in enumerate(losses[:3]):
        sums[i] += loss.detach()
    return torch.stack(losses).sum()


def finish(log: RunLog, cfg: Config, model: QuietModel, thinker: Transformer,
           tokenizer: Tokenizer, sets: dict[str, list[Problem]]) -> dict:
    """Measure what the thoughts are worth, save the policy and its head; result.json's content."""
    lengths = (0,) if cfg.thoughts == "none" else (0, *cfg.lengths)
    write = partial(think, cfg.thoughts, thinker, tokenizer)
    with flops.uncounted():
        rows, verdicts, shown = measured_thoughts(
            model, tokenizer, sets, lengths, write, cfg.after, cfg.weighed,
            stream_seed(cfg.seed, "quiet every token"))
    if parallel.is_main():
        checkpoint.write_tensors(log.out / HEAD, model.mixing.state_dict())
    return finish_policy(log, cfg, model.policy(), tokenizer, rows, quiet_verdicts=verdicts,
                         thoughts=shown)
