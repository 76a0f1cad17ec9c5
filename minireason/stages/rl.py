"""RL: the policy learns from the exact verifier's reward on its own samples.

    G completions a prompt, rewards r:   A_i = r_i - mean(r)
    loss = - sum over tokens of  w_t min(rho_t A, clip(rho_t) A),    rho = pi / pi_old

What the papers differ in is a choice here: the advantage (losses.group_advantages), the weight of a
token, the clip, and drawing anew where a group has no signal (DAPO, arXiv:2503.14476). A process
reward is credited to the tokens of its own step (rollouts.step_credits); with it and the baseline
of least variance the quickstart's policy learns, without them it hardly does (docs/LOG.md). Prompts
come from the train split. Sampling and learning see one distribution, temperature included.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from minireason.core import parallel
from minireason.core.config import UserError, resolve_device, rng, stream_seed
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import evaluate, frozen_sets, show
from minireason.model import checkpoint
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, sample_split
from minireason.problems.corpus import Mixture, draw_line
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, encode_lines, micro_batches
from minireason.training.losses import clipped, kl_k3, nll, policy_gradient_loss, token_weights
from minireason.training.optim import make_optimizer, schedule, train_step
from minireason.training.rollouts import (
    Rewards,
    Rollout,
    RolloutBatch,
    compute_curve,
    diagnostics,
    draw_groups,
    drawn_logprobs,
    has_signal,
    make_batches,
)

ADVANTAGES = ("reinforce", "rloo", "grpo", "dr_grpo", "optimal")
AGGREGATIONS = ("token", "sequence", "constant")


@dataclass(frozen=True)
class Config:
    """Stage 4: reinforcement learning against the exact verifier."""

    init: str                     # folder of the policy to start from; also the KL reference
    out: str = "runs/rl"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    steps: int = 440
    prompts_per_step: int = 16    # P
    group_size: int = 16          # G rollouts a prompt; B = P * G
    min_level: int = 1            # levels below it are forgotten
    max_level: int = 8
    temperature: float = 1.0      # of sampling and of the distribution that learns
    max_new: int = 64             # tokens a completion at most
    rewards: Rewards = field(default_factory=Rewards)
    advantage: str = "optimal"    # reinforce | rloo | grpo | dr_grpo (as reinforce) | optimal
    aggregation: str = "token"    # token (DAPO) | sequence (GRPO) | constant (Dr. GRPO)
    clip_low: float = 0.2         # ratio at least 1 - clip_low
    clip_high: float = 0.28       # ratio at most 1 + clip_high (DAPO's clip-higher)
    epochs: int = 1               # passes over a step's rollouts
    minibatches: int = 1          # updates a pass
    redraws: int = 0              # DAPO's dynamic sampling: times that silent groups are replaced
    kl: float = 0.0               # beta: weight of KL(policy || init), estimator k3
    replay: float = 0.0           # weight of the nll on lines of the pretraining mixture
    replay_rows: int = 32         # lines an update
    base: str = ""                # folder of the pretrained model, for its mixture (replay)
    token_budget: int = 4096      # tokens a micro-batch; never changes the gradient
    lr: float = 5e-4              # peak learning rate
    warmup: int = 5               # steps
    lr_floor: float = 0.0         # last learning rate / peak; 1 stays constant
    weight_decay: float = 0.0
    save_every: int = 40          # steps between saved states
    eval_every: int = 40          # steps between points of the validation curve
    eval_levels: tuple[int, ...] = ()   # of the validation curve; () means max_level
    validation_n: int = 300       # problems a level of the curve
    eval_n: int = 500             # test problems a level at the end

    def __post_init__(self):
        if self.advantage not in ADVANTAGES or self.aggregation not in AGGREGATIONS:
            raise UserError(f"--advantage {self.advantage} --aggregation {self.aggregation}: must "
                            f"be of {', '.join(ADVANTAGES)} and of {', '.join(AGGREGATIONS)}")
        if self.group_size < 2 or self.temperature <= 0 or self.min_level > self.max_level:
            raise UserError("rl: needs --group-size of at least 2, --temperature above 0, and "
                            "--min-level up to --max-level")
        if self.replay and not self.base:
            raise UserError("rl: --replay needs --base, the pretrained folder, for its mixture")


def run(cfg: Config) -> dict:
    """Sample, verify, learn; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    policy, tokenizer = checkpoint.load(cfg.init, device)
    reference, _ = checkpoint.load(cfg.init, device)
    mixture = Mixture.of(cfg.base) if cfg.replay else None
    log = RunLog(cfg.out, "rl", cfg, {"init": checkpoint.weights_hash(cfg.init)})
    if log.done:
        return log.done
    log.start(policy, device)
    optimizer = make_optimizer(policy, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, policy, optimizer), cfg.steps):
        curve = validate(cfg, step, policy, tokenizer, log) if step % cfg.eval_every == 0 else {}
        groups, drawn = collect(cfg, step, policy, tokenizer)
        parts = [batches_of(cfg, part, policy, reference, tokenizer.pad)
                 for part in split(cfg, step, groups)]
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup, cfg.lr_floor)
        learned = learn(cfg, step, policy, optimizer, parts, lr, mixture, tokenizer)
        trained = cfg.epochs * sum(len(r.tokens) for group in groups for r in group
                                   if not r.silent or cfg.kl)
        record = {**diagnostics(drawn), **learned, "trained_tokens": trained, "lr": lr}
        log.record(step, **{f"train/{name}": value for name, value in record.items()}, **curve)
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            checkpoint.save_state(log, step + 1, policy, optimizer)
    log.record(cfg.steps, **validate(cfg, cfg.steps, policy, tokenizer, log))
    seconds = log.seconds()
    sha256 = checkpoint.save(cfg.out, policy, tokenizer)
    greedy = Sampling(temperature=0, max_new=cfg.max_new)
    single = Sampling(max_new=cfg.max_new, seed=stream_seed(cfg.seed, "rl test"))
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    report = {"cot": evaluate(policy, tokenizer, sets, "cot", greedy),
              "sampled": evaluate(policy, tokenizer, sets, "cot", single),
              "sampled_before": evaluate(reference, tokenizer, sets, "cot", single)}
    log.samples(show(policy, tokenizer, [s[0] for s in list(sets.values())[-3:]], "cot", greedy))
    return log.finish(seconds=seconds, weights=sha256, accuracy=report,
                      curve=compute_curve(log.out / "metrics.jsonl", policy.n_params))


def collect(cfg: Config, step: int, policy: Transformer,
            tokenizer) -> tuple[list[list[Rollout]], list[list[Rollout]]]:
    """(groups to learn from, all groups drawn); with redraws, silent groups are replaced.

    DAPO's dynamic sampling, bounded: after `redraws` more draws the step goes on with fewer groups.
    """
    family, kept, drawn = FAMILIES[cfg.family], [], []
    for attempt in range(1 + cfg.redraws):
        generator = rng(cfg.seed, "rl problems", step, attempt)
        levels = generator.integers(cfg.min_level, cfg.max_level + 1,
                                    cfg.prompts_per_step - len(kept)).tolist()
        problems = [sample_split(family, generator, level, "train") for level in levels]
        how = Sampling(cfg.group_size, cfg.max_new, cfg.temperature,
                       seed=stream_seed(cfg.seed, "rl samples", step, attempt))
        groups = draw_groups(policy, tokenizer, problems, how, cfg.rewards, cfg.advantage)
        drawn += groups
        kept += [group for group in groups if has_signal(group)] if cfg.redraws else groups
        if len(kept) == cfg.prompts_per_step:
            break
    return kept, drawn


def split(cfg: Config, step: int, groups: list[list[Rollout]]) -> list[list[Rollout]]:
    """The step's rollouts in `minibatches` random parts, one an update."""
    rollouts = [rollout for group in groups for rollout in group]
    if cfg.minibatches > 1:
        order = rng(cfg.seed, "rl minibatches", step).permutation(len(rollouts))
        rollouts = [rollouts[i] for i in order]
    return [rollouts[i::cfg.minibatches] for i in range(cfg.minibatches)]


def batches_of(cfg: Config, rollouts: list[Rollout], policy: Transformer,
               reference: Transformer, pad: int) -> list[RolloutBatch]:
    """This rank's micro-batches of one update; the weights count the rollouts of all ranks.

    With one update a step the policy is the one that drew, and the ratio is 1 by definition.
    """
    lengths = torch.tensor([rollout.length for rollout in rollouts])
    weights = token_weights(lengths, cfg.aggregation, cfg.max_new).tolist()
    old = policy if cfg.epochs * cfg.minibatches > 1 else None
    return make_batches(rollouts, weights, cfg.temperature, cfg.token_budget, pad,
                        old, reference if cfg.kl else None)


def rl_loss(cfg: Config, policy: Transformer, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
    """The loss of a micro-batch, and its sums (tokens, clipped, KL(old || policy))."""
    logprobs = drawn_logprobs(policy, batch.rows, cfg.temperature)        # (M,)
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    loss = policy_gradient_loss(logprobs, old, batch.advantages, batch.weights, cfg.clip_low,
                                cfg.clip_high)
    if cfg.kl:
        loss = loss + cfg.kl * (batch.weights * kl_k3(logprobs, batch.ref_logprobs)).sum()
    with torch.no_grad():
        stopped = clipped(logprobs, old, batch.advantages, cfg.clip_low, cfg.clip_high)
        moved = kl_k3(old, logprobs)
        sums = torch.stack([torch.ones_like(moved).sum(), stopped.float().sum(), moved.sum()])
    return loss, sums


def learn(cfg: Config, step: int, policy: Transformer, optimizer, parts: list[list[RolloutBatch]],
          lr: float, mixture: Mixture | None, tokenizer) -> dict[str, float]:
    """All updates of a step; returns their mean loss, grad_norm, clip_fraction and approx_kl."""
    sums = torch.zeros(3, device=policy.embedding.weight.device)
    losses, norms = [], []
    for update in range(cfg.epochs * cfg.minibatches):
        batches, count = list(parts[update % cfg.minibatches]), 1
        if mixture is not None:
            generator = rng(cfg.seed, "rl replay", step, update)
            lines = [draw_line(mixture, cfg.family, generator) for _ in range(cfg.replay_rows)]
            replayed, count = micro_batches(encode_lines(tokenizer, [""] * len(lines), lines),
                                            cfg.token_budget, tokenizer.pad)
            batches += replayed

        def loss_of(batch, count=count):
            if isinstance(batch, Batch):
                return cfg.replay * nll(policy(batch.inputs, batch.cu_seqlens, batch.max_len),
                                        batch.targets, batch.loss_mask, count)
            loss, part = rl_loss(cfg, policy, batch)
            sums.add_(part)
            return loss

        loss, norm = train_step(policy, optimizer, batches, loss_of, lr)
        losses.append(loss)
        norms.append(norm)
    parallel.all_sum([sums])
    tokens, stopped, moved = sums.tolist()
    return {"loss": sum(losses) / len(losses), "grad_norm": sum(norms) / len(norms),
            "clip_fraction": stopped / max(1.0, tokens), "approx_kl": moved / max(1.0, tokens)}


def validate(cfg: Config, step: int, policy: Transformer, tokenizer, log: RunLog) -> dict:
    """A point of the curve: single-sample and greedy accuracy on the frozen validation sets."""
    sets = frozen_sets(cfg.family, "validation", cfg.validation_n,
                       cfg.eval_levels or (cfg.max_level,))
    greedy = Sampling(temperature=0, max_new=cfg.max_new)
    single = Sampling(max_new=cfg.max_new, seed=stream_seed(cfg.seed, "rl validation"))
    report = {f"eval/{name}/{method}": value["accuracy"]
              for method, how in (("sampled", single), ("greedy", greedy))
              for name, value in evaluate(policy, tokenizer, sets, "cot", how).items()}
    shown = [problem for members in sets.values() for problem in members][:3]
    log.say(f"step {step}: " + ", ".join(f"{name.removeprefix('eval/')} {value:.3f}"
                                         for name, value in report.items())
            + "\n" + show(policy, tokenizer, shown, "cot", greedy))
    return report
