"""Self-correction: the policy learns to withdraw its own wrong step and to take it again.

    <think>23+4=28<wrong>23+4=27;27*3=81</think>81<eos>

A trace is spliced from the policy's own samples of one problem: a fully right one, and the first
wrong steps of others, each put before the right step and followed by `<wrong>`. The tokens of a
wrong step are not counted in the loss: what is learnt is to notice an error and to mend it, not to
make it. Fully right rationales and the pretraining mixture fill the rest of each batch.
Revision policies: Snell 2024 (arXiv:2408.03314, section 6); backtracking in the training text:
Gandhi 2024 (arXiv:2404.03683).
"""

import json
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minireason.core import parallel
from minireason.core.config import (
    UserError,
    read_json,
    resolve_device,
    rng,
    stream_seed,
    write_atomic,
)
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import accuracy_of, evaluate, frozen_sets, judge, show, wilson
from minireason.model import checkpoint
from minireason.problems import FAMILIES, Problem, sample_split
from minireason.problems.corpus import Mixture, draw_line
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step

SEPARATORS = ("<wrong>", ";", "<think>", "</think>", "<eos>")   # what stands between two steps


@dataclass(frozen=True)
class Config:
    """A policy that corrects itself, from backtracking traces of its own samples."""

    init: str                     # folder of the policy to start from and to sample
    base: str                     # pretrained folder whose mixture is replayed
    out: str = "runs/revise"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    problems: int = 2500          # train problems that the policy is sampled on
    min_level: int = 2
    max_level: int = 8
    n: int = 8                    # samples a problem
    temperature: float = 1.0
    max_errors: int = 2           # withdrawn steps a trace at most
    mended: float = 0.3           # share of rows that are backtracking traces; 0 is the control
    replay: float = 0.4           # share of rows from the mixture; the rest is fully right
    steps: int = 300
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    lr: float = 1e-3              # peak learning rate
    warmup: int = 20              # steps
    weight_decay: float = 0.1
    save_every: int = 100         # steps between saved states
    max_new: int = 92             # tokens a completion at most; withdrawals need room
    eval_n: int = 500             # problems a level

    def __post_init__(self):
        if not 0 <= self.mended + self.replay <= 1 or min(self.mended, self.replay) < 0:
            raise UserError(f"--mended {self.mended} --replay {self.replay}: shares of rows must "
                            "be at least 0 and sum to at most 1")
        if not hasattr(FAMILIES.get(self.family), "withdrawn"):
            raise UserError(f"--family {self.family}: its steps cannot be withdrawn; use chain")


def run(cfg: Config) -> dict:
    """Sample, splice, train, measure; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    mixture = Mixture.of(cfg.base)
    log = RunLog(cfg.out, "revise", cfg, {"init": checkpoint.weights_hash(cfg.init),
                                          "base": checkpoint.weights_hash(cfg.base)})
    if log.done:
        return log.done
    model, tokenizer = checkpoint.load(cfg.init, device)
    log.start(model, device)
    pool = collect(cfg, log, model, tokenizer)
    if not pool or (cfg.mended and not any(errors for _, _, errors in pool)):
        raise UserError(f"{log.out}: no problem has both a right sample and a wrong step; change "
                        "--min-level, --max-level or --n")
    separators = tokenizer.ids_of(*SEPARATORS)
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        rows = draw_rows(cfg, step, pool, mixture, tokenizer)
        batches, count = micro_batches(rows, cfg.token_budget, tokenizer.pad)
        batches = [skip_withdrawn(batch, separators) for batch in batches]
        count -= sum(int(in_withdrawn(torch.tensor(row[1:]), separators).sum()) for row, _ in rows)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                   b.loss_mask, n), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
    return finish(cfg, log, model, tokenizer, pool)


def finish(cfg: Config, log: RunLog, model, tokenizer, pool: list) -> dict:
    """Save the weights; measure accuracy and, at T = 1, what is withdrawn and rightly so."""
    sha256 = checkpoint.save(cfg.out, model, tokenizer)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    greedy = Sampling(temperature=0, max_new=cfg.max_new)
    drawn = replace(greedy, temperature=1.0, seed=stream_seed(cfg.seed, "revise measured"))
    accuracy = {"cot": evaluate(model, tokenizer, sets, "cot", greedy), "sampled": {}}
    withdrawals = {}
    for name, problems in sets.items():
        texts = complete(model, tokenizer, problems, "cot", drawn)
        accuracy["sampled"][name] = vars(accuracy_of([v for v, in judge(problems, texts)]))
        withdrawals[name] = withdrawal_rates(problems, [text for text, in texts])
    log.samples(show(model, tokenizer, [s[0] for s in list(sets.values())[3:6]], "cot", drawn))
    return log.finish(seconds=log.seconds(), weights=sha256, accuracy=accuracy,
                      withdrawals=withdrawals, pool=len(pool),
                      pool_with_errors=sum(bool(errors) for _, _, errors in pool))


def collect(cfg: Config, log: RunLog, policy, tokenizer) -> list[list]:
    """[prompt, right steps, first wrong steps] of every problem with a fully right sample.

    The wrong steps are [index, step], each different one once. Kept in pool.json once drawn.
    """
    path = log.out / "pool.json"
    if not path.exists():
        generator, family = rng(cfg.seed, "revise problems"), FAMILIES[cfg.family]
        levels = cfg.max_level - cfg.min_level + 1
        problems = [sample_split(family, generator, cfg.min_level + i % levels, "train")
                    for i in range(cfg.problems)]
        how = Sampling(n=cfg.n, temperature=cfg.temperature, max_new=cfg.max_new,
                       seed=stream_seed(cfg.seed, "revise samples"))
        completions = complete(policy, tokenizer, problems, "cot", how)
        pool = []
        for problem, texts, verdicts in zip(problems, completions, judge(problems, completions),
                                            strict=True):
            if any(v.steps_valid for v in verdicts):
                errors = dict.fromkeys(error for text in texts if (error := first_wrong(
                    problem, text)) is not None)
                pool.append([problem.prompt, list(problem.steps), list(map(list, errors))])
        if parallel.is_main():
            write_atomic(path, json.dumps({"pool": pool, "seconds": log.seconds()}))
        parallel.barrier()
    held = read_json(path)
    log.seconds_before = max(log.seconds_before, held["seconds"])
    return held["pool"]


def first_wrong(problem: Problem, completion: str) -> tuple[int, str] | None:
    """Index and text of the first wrong step, None if there is none that a right one replaces."""
    family = FAMILIES[problem.family]
    parsed = family.parse(completion)
    marks = [] if parsed is None else family.check_steps(problem, parsed[0])
    if all(marks) or marks.index(False) >= len(problem.steps):
        return None
    return marks.index(False), parsed[0][marks.index(False)]


def splice(steps: list[str], errors: list[list]) -> str:
    """The thought `steps` with each wrong step of `errors` before the right one, withdrawn."""
    return ";".join("".join(f"{wrong}<wrong>" for at, wrong in errors if at == i) + right
                    for i, right in enumerate(steps))


def draw_rows(cfg: Config, step: int, pool: list[list], mixture: Mixture,
              tokenizer) -> list[tuple[list[int], int]]:
    """One step's rows: backtracking traces, fully right rationales, and the mixture replayed."""
    generator = rng(cfg.seed, "revise rows", step)
    n_mended, n_replay = (round(s * cfg.rows_per_step) for s in (cfg.mended, cfg.replay))
    n_right = cfg.rows_per_step - n_mended - n_replay
    with_errors = [entry for entry in pool if entry[2]]
    chosen = [with_errors[i] for i in generator.integers(0, max(1, len(with_errors)), n_mended)]
    errors = [[entry[2][i] for i in generator.permutation(len(entry[2]))[
        :generator.integers(1, cfg.max_errors + 1)]] for entry in chosen]
    chosen += [pool[i] for i in generator.integers(0, len(pool), n_right)]
    errors += [[]] * n_right
    texts = [f"<think>{splice(steps, wrong)}</think>{steps[-1].partition('=')[2]}<eos>"
             for (_, steps, _), wrong in zip(chosen, errors, strict=True)]
    lines = [draw_line(mixture, cfg.family, generator) for _ in range(n_replay)]
    return encode_lines(tokenizer, [prompt for prompt, _, _ in chosen] + [""] * n_replay,
                        texts + lines)


def in_withdrawn(targets: Tensor, separators: list[int]) -> Tensor:
    """True on the tokens of a step that `<wrong>` follows, not on `<wrong>`; (..., T) -> bool.

    separators: the ids of SEPARATORS.
    """
    ends = torch.isin(targets, torch.tensor(separators))
    last = targets.shape[-1] - 1
    position = torch.where(ends, torch.arange(last + 1), last)
    following = position.flip(-1).cummin(-1).values.flip(-1)             # next separator's place
    return (targets.gather(-1, following) == separators[0]) & ~ends


def skip_withdrawn(batch: Batch, separators: list[int]) -> Batch:
    """The batch with the tokens of withdrawn steps not counted."""
    skipped = in_withdrawn(batch.targets, separators)
    return replace(batch, loss_mask=batch.loss_mask * ~skipped)


def withdrawal_rates(problems: list[Problem], completions: list[str]) -> dict:
    """Detection, false alarms and mends, exact, with 95% intervals, over well-formed completions.

    detection: share of wrong steps that were withdrawn. false_alarm: share of right steps that
    were. mended: share of withdrawn wrong steps in whose place a right one stands.
    """
    wrong, right, mended = [], [], []
    for problem, text in zip(problems, completions, strict=True):
        family = FAMILIES[problem.family]
        steps, _ = family.parse(text) or ((), "")
        marks = family.check_steps(problem, steps)
        for mark in marks:
            (right if mark else wrong).append(False)
        for i, step in family.withdrawn(text):
            mark = family.check_steps(problem, (*steps[:i], step))[-1]
            (right if mark else wrong).append(True)
            mended += [] if mark else [marks[i]]
    report = {}
    for name, events in (("detection", wrong), ("false_alarm", right), ("mended", mended)):
        low, high = wilson(sum(events), len(events))
        report[name] = {"share": sum(events) / max(1, len(events)), "n": len(events),
                        "low": low, "high": high}
    return report
