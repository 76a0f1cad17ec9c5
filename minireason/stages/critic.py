"""The critic: a policy's backbone with a value head, P(correct | prefix), at every step end.

Trained on the policy's own samples; what each step end is labelled with is the choice (labels.py):
the verdict on the whole completion makes an outcome critic (Cobbe 2021, arXiv:2110.14168), labels
of the steps a process critic (Lightman 2023, arXiv:2305.20050; Math-Shepherd, arXiv:2312.08935).
It starts from the policy's weights: what knows how to take a step knows much about whether a step
is right. When the policy has moved, its critic is stale: run the stage again with the new policy,
from the old critic (`start`) or anew.
"""

import json
from dataclasses import dataclass

import torch

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
from minireason.critics.step_labels import (
    exact_labels,
    label_accuracy,
    monte_carlo_labels,
    step_prefixes,
)
from minireason.critics.value_head import (
    AGGREGATIONS,
    Critic,
    aggregate,
    auc,
    critic_loss,
    rollout_ids,
    step_values,
    value_batches,
)
from minireason.measure.evaluate import judge
from minireason.model import checkpoint
from minireason.model.tokenizer import STEP_ENDS
from minireason.problems import FAMILIES, Problem, sample_split
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.optim import make_optimizer, schedule, train_step

LABELS = ("outcome", "exact", "mc_hard", "mc_soft")
CHECKED = 16                      # rollouts a step end when labels are compared with the truth


@dataclass(frozen=True)
class Config:
    """Stage 5: a learned judge of the policy's own solutions."""

    init: str                     # folder of the policy that it judges and starts from
    start: str = ""               # folder of an earlier critic to go on from instead
    out: str = "runs/critic"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    problems: int = 5000          # train problems
    min_level: int = 4
    max_level: int = 8
    n: int = 4                    # samples a problem
    temperature: float = 1.0      # that of the test-time samples it will rank
    labels: str = "exact"         # outcome | exact | mc_hard | mc_soft
    mc_n: int = 4                 # Monte Carlo rollouts a step end
    mc_check: int = 40            # held-out samples on which Monte Carlo labels meet the truth
    shard: int = 250              # problems between two saved sets of Monte Carlo labels
    steps: int = 400
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    lr: float = 1e-3              # peak learning rate
    warmup: int = 20              # steps
    weight_decay: float = 0.1
    save_every: int = 100         # steps between saved states
    imitation: float = 0.15       # weight of right thoughts' tokens beside the values
    held_out: int = 100           # of the problems: kept from training, to measure calibration

    def __post_init__(self):
        if self.labels not in LABELS:
            raise UserError(f"--labels {self.labels}: must be one of {', '.join(LABELS)}")
        if not 0 < self.held_out < self.problems:
            raise UserError("critic: --held-out must be at least 1 and below --problems")


def run(cfg: Config) -> dict:
    """Sample, verify, label, train; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    parents = {"init": cfg.init, **({"start": cfg.start} if cfg.start else {})}
    log = RunLog(cfg.out, "critic", cfg, {name: checkpoint.weights_hash(folder)
                                          for name, folder in parents.items()})
    if log.done:
        return log.done
    rollouts = collect(cfg, log, device)
    cut = len(rollouts) - cfg.held_out * cfg.n
    problems = [FAMILIES[cfg.family].read(prompt) for prompt, _, _ in rollouts]
    texts = [text for _, text, _ in rollouts]
    labels = label(cfg, log, device, problems, rollouts)
    if cfg.start:
        model, tokenizer = checkpoint.load(cfg.start, device, Critic)
    else:
        policy, tokenizer = checkpoint.load(cfg.init, device)
        model = Critic.from_policy(policy)
    log.start(model, device)
    ends = torch.tensor(tokenizer.ids_of(*STEP_ENDS))
    ids = rollout_ids(tokenizer, problems, texts)
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        chosen = rng(cfg.seed, "critic", step).integers(0, cut, cfg.rows_per_step)
        rows = [(*ids[i], labels[i]) for i in chosen]
        batches, count = value_batches(rows, ends, cfg.token_budget, tokenizer.pad)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: critic_loss(model, b, n, cfg.imitation), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
    sha256 = checkpoint.save(cfg.out, model, tokenizer)
    right = [bool(verdict) for _, _, verdict in rollouts]
    values = step_values(model, tokenizer, problems[cut:], texts[cut:])
    report = {"share_right": sum(right) / len(right),
              **measure(values, right[cut:], labels[cut:], problems[cut:], texts[cut:])}
    log.say(", ".join(f"{name} {value:.3g}" for name, value in report.items()))
    return log.finish(seconds=log.seconds(), weights=sha256, **report,
                      monte_carlo=check(cfg, device, problems[cut:], texts[cut:]))


def measure(values: list[list[float]], right: list[bool], labels: list[list[float]],
            problems: list[Problem], texts: list[str]) -> dict[str, float]:
    """AUC of held-out samples: whole ones by each aggregation, and single steps; label accuracy.

    A step's truth is exact: every step up to its end is right; `<eos>`, whose truth is the verdict
    that the whole sample is judged by already, is left out.
    """
    truth = [exact_labels(problem, text) for problem, text in zip(problems, texts, strict=True)]
    inner = [(i, j) for i, text in enumerate(texts)
             for j, prefix in enumerate(step_prefixes(text)) if not prefix.endswith("<eos>")]
    agree = [(labels[i][j] > 0.5) == truth[i][j] for i, j in inner]
    scores = {how: auc([aggregate(v, how) for v in values], right) for how in AGGREGATIONS}
    return {"auc": scores["last"], "auc_min": scores["min"], "auc_product": scores["product"],
            "auc_steps": auc([values[i][j] for i, j in inner], [truth[i][j] for i, j in inner]),
            "label_accuracy": sum(agree) / max(1, len(agree)),
            "share_steps_true": sum(truth[i][j] for i, j in inner) / max(1, len(inner)),
            "held_out": len(texts)}


def check(cfg: Config, device: torch.device, problems: list[Problem],
          texts: list[str]) -> dict | None:
    """Monte Carlo labels against the truth at n = 1 .. CHECKED, whatever step labels are taught.

    On one sample of each of `mc_check` held-out problems; None for an outcome critic.
    """
    if cfg.labels == "outcome" or not cfg.mc_check:
        return None
    policy, tokenizer = checkpoint.load(cfg.init, device)
    how = Sampling(n=CHECKED, temperature=cfg.temperature,
                   seed=stream_seed(cfg.seed, "critic check"))
    rows = slice(0, cfg.mc_check * cfg.n, cfg.n)
    return label_accuracy(policy, tokenizer, problems[rows], texts[rows], how)


def collect(cfg: Config, log: RunLog, device: torch.device) -> list[list]:
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
    log.seconds_before = max(log.seconds_before, held["seconds"])
    return held["rollouts"]


def label(cfg: Config, log: RunLog, device: torch.device, problems: list[Problem],
          rollouts: list[list]) -> list[list[float]]:
    """The label of every step end of every rollout; Monte Carlo ones are kept once drawn."""
    if cfg.labels == "outcome":
        return [[float(right)] * len(step_prefixes(text)) for _, text, right in rollouts]
    if cfg.labels == "exact":
        return [[float(right) for right in exact_labels(problem, text)]
                for problem, (_, text, _) in zip(problems, rollouts, strict=True)]
    policy, tokenizer = checkpoint.load(cfg.init, device)
    shares: list[list[float]] = []
    for start in log.steps(0, -(-cfg.problems // cfg.shard), "labels"):
        path = log.out / f"labels-{start}.json"
        if not path.exists():
            rows = slice(start * cfg.shard * cfg.n, (start + 1) * cfg.shard * cfg.n)
            how = Sampling(n=cfg.mc_n, temperature=cfg.temperature,
                           seed=stream_seed(cfg.seed, "critic labels", start))
            drawn = monte_carlo_labels(policy, tokenizer, problems[rows],
                                       [text for _, text, _ in rollouts[rows]], how)
            if parallel.is_main():
                write_atomic(path, json.dumps({"shares": drawn, "seconds": log.seconds()}))
            parallel.barrier()
        held = read_json(path)
        log.seconds_before = max(log.seconds_before, held["seconds"])
        shares += held["shares"]
    if cfg.labels == "mc_soft":
        return shares
    return [[float(share > 0) for share in row] for row in shares]
