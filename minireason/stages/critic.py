"""The critic: a policy's backbone with a value head, P(correct | prefix), at every step end.

Trained on the policy's own samples, each step labelled with the verdict on its whole completion
(the outcome reward model of Cobbe 2021, arXiv:2110.14168, section 4; "process" use of the values
at inner steps is what tree search needs later). It starts from the policy's weights: what knows how
to take a step knows much about whether a step is right.
"""

import json
from dataclasses import dataclass

import torch

from minireason import checkpoint, parallel
from minireason.batches import Batch
from minireason.config import read_json, resolve_device, rng, stream_seed, write_atomic
from minireason.critic import STEP_ENDS, rollout_ids, step_values
from minireason.evaluate import complete, judge
from minireason.generate import Sampling
from minireason.losses import value_bce
from minireason.optim import make_optimizer, schedule, train_step
from minireason.problems import FAMILIES, sample_split
from minireason.runlog import RunLog


@dataclass(frozen=True)
class CriticConfig:
    """Stage 4: a learned judge of the policy's own solutions."""

    init: str                     # folder of the policy that it judges and starts from
    out: str = "runs/critic"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    problems: int = 1500          # train problems
    min_level: int = 4
    max_level: int = 8
    n: int = 8                    # samples a problem
    temperature: float = 1.0      # that of the test-time samples it will rank
    steps: int = 300
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    lr: float = 1e-3              # peak learning rate
    warmup: int = 20              # steps
    weight_decay: float = 0.1
    save_every: int = 100         # steps between saved states
    held_out: int = 100           # of the problems: kept from training, to measure calibration


def run(cfg: CriticConfig) -> dict:
    """Sample, verify, train; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    log = RunLog(cfg.out, "critic", cfg, {"init": checkpoint.weights_hash(cfg.init)})
    if log.done:
        return log.done
    rollouts = collect(cfg, log, device)
    cut = len(rollouts) - cfg.held_out * cfg.n
    model, tokenizer = checkpoint.load(cfg.init, device, value_head=True)
    log.start(model, device)
    ends = torch.tensor(tokenizer.ids_of(*STEP_ENDS))
    problems = [FAMILIES[cfg.family].read(prompt) for prompt, _, _ in rollouts]
    ids = rollout_ids(tokenizer, problems, [text for _, text, _ in rollouts])
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        chosen = rng(cfg.seed, "critic", step).integers(0, cut, cfg.rows_per_step)
        rows = [(*ids[i], float(rollouts[i][2])) for i in chosen]
        batches, count = value_batches(rows, ends, cfg.token_budget, tokenizer.pad)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: value_bce(model.values(b.inputs), b.targets, b.loss_mask, n), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
    sha256 = checkpoint.save(cfg.out, model, tokenizer)
    values = step_values(model, tokenizer, problems[cut:], [t for _, t, _ in rollouts[cut:]])
    right = [bool(r) for _, _, r in rollouts]
    final = [v[-1] if v else 0.0 for v in values]
    report = {"share_right": sum(right) / len(right),
              "auc": auc(final, right[cut:]), "held_out": len(final)}
    log.say(", ".join(f"{name} {value:.3g}" for name, value in report.items()))
    return log.finish(seconds=log.seconds(), weights=sha256, **report)


def collect(cfg: CriticConfig, log: RunLog, device: torch.device) -> list[list]:
    """[prompt, completion, right] of every sample, kept in rollouts.json once drawn."""
    path = log.out / "rollouts.json"
    if not path.exists():
        policy, tokenizer = checkpoint.load(cfg.init, device)
        generator, family = rng(cfg.seed, "critic problems"), FAMILIES[cfg.family]
        levels = cfg.max_level - cfg.min_level + 1
        problems = [sample_split(family, generator, cfg.min_level + i % levels, "train")
                    for i in range(cfg.problems)]
        how = Sampling(n=cfg.n, temperature=cfg.temperature,
                       seed=stream_seed(cfg.seed, "critic samples"))
        completions = complete(policy, tokenizer, problems, "cot", how)
        verdicts = judge(problems, completions)
        rollouts = [[p.prompt, text, v.correct]
                    for p, texts, row in zip(problems, completions, verdicts, strict=True)
                    for text, v in zip(texts, row, strict=True)]
        if parallel.is_main():
            write_atomic(path, json.dumps({"rollouts": rollouts, "seconds": log.seconds()}))
        parallel.barrier()
    held = read_json(path)
    log.seconds_before = held["seconds"]
    return held["rollouts"]


def value_batches(rows: list[tuple[list[int], int, float]], ends: torch.Tensor,
                  token_budget: int, pad: int) -> tuple[list[Batch], int]:
    """This rank's (tokens, first, label) rows as batches, and the GLOBAL count of step ends.

    targets hold the label; the mask picks step ends at or after `first`.
    """
    stop = set(ends.tolist())
    count = sum(token in stop for tokens, first, _ in rows for token in tokens[first:])
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
        labels = torch.tensor([[label] for _, _, label in group]).expand(inputs.shape)
        batches.append(Batch(inputs, labels.contiguous(), mask.float()))
    return batches, max(1, count)


def auc(scores: list[float], labels: list[bool]) -> float:
    """P(a right completion scores above a wrong one), ties half; 0.5 if one kind is missing."""
    right = torch.tensor([s for s, label in zip(scores, labels, strict=True) if label])
    wrong = torch.tensor([s for s, label in zip(scores, labels, strict=True) if not label])
    if not len(right) or not len(wrong):
        return 0.5
    difference = right[:, None] - wrong[None]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())
