"""RL: the policy learns from the exact verifier's reward on its own samples.

    G completions per prompt, rewards r:   A_i = r_i - mean(r)
    loss = - sum over tokens of  w_t min(rho_t A, clip(rho_t) A),    rho = pi / pi_old

What the papers differ in is a choice here: the advantage (losses.group_advantages), the weight of a
token, the clip, and drawing anew where a group has no signal (DAPO, arXiv:2503.14476). A process
reward is credited to the tokens of its own step (rollouts.credit_groups); with it and the baseline
of least variance the quickstart's policy learns, without them it hardly does (docs/LOG.md). Prompts
come from the train split. Sampling and learning see one distribution, temperature included.
"""

from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from minireason.core import parallel
from minireason.core.config import TrainingConfig, rng, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.core.files import read_lines
from minireason.core.runlog import RunLog
from minireason.measure import evaluate
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, sample_split
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.sampler import Sampling
from minireason.training import losses, optim, rollouts
from minireason.training.batches import Batch, check_longest, encode_lines, micro_batches
from minireason.training.rollouts import Group, Rewards, RolloutBatch


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Stage 4: reinforcement learning against the exact verifier."""

    init: str                     # folder of the policy to start from; also the KL reference
    out: str = "runs/rl"
    steps: int = 300
    prompts_per_step: int = 64    # P; few of them make a step too noisy to be large
    group_size: int = 4           # G rollouts per prompt; B = P * G
    min_level: int = 1            # levels below it are forgotten
    max_level: int = 8
    temperature: float = 1.0      # of sampling and of the distribution that learns
    rewards: Rewards = field(default_factory=lambda: Rewards(process=0.0))
    advantage: str = "optimal"    # reinforce | rloo | grpo | dr_grpo (as reinforce) | optimal
    aggregation: str = "token"    # token (DAPO) | sequence (GRPO) | constant (Dr. GRPO)
    clip_low: float = 0.2         # ratio at least 1 - clip_low
    clip_high: float = 0.28       # ratio at most 1 + clip_high (DAPO's clip-higher)
    epochs: int = 1               # passes over a step's rollouts
    minibatches: int = 1          # updates per pass
    redraws: int = 0              # DAPO's dynamic sampling: times that silent groups are replaced
    kl: float = 0.0               # beta: weight of KL(policy || init), estimator k3
    replay: float = 0.0           # weight of the nll on lines of the pretraining mixture
    replay_rows: int = 32         # lines per update
    base: str = ""                # folder of the pretrained model, for its mixture (replay)
    token_budget: int = 4096      # tokens per micro-batch; never changes the gradient
    lr: float = 5e-4              # peak learning rate
    warmup: int = 20              # steps
    lr_floor: float = 0.0         # last learning rate / peak; 1 stays constant
    weight_decay: float = 0.0
    save_every: int = 50          # steps between saved states
    eval_every: int = 50          # steps between points of the validation curve
    eval_levels: tuple[int, ...] = ()   # of the curve; (): the highest up to max_level
    validation_n: int = 300       # problems per level of the curve

    def __post_init__(self):
        check_choice("advantage", self.advantage, losses.ADVANTAGES)
        check_choice("aggregation", self.aggregation, losses.AGGREGATIONS)
        if self.group_size < 2 or self.temperature <= 0 or self.min_level > self.max_level:
            raise UserError("rl: needs --group-size of at least 2, --temperature above 0, and "
                            "--min-level up to --max-level")
        if self.replay and not self.base:
            raise UserError("rl: --replay needs --base, the pretrained folder, for its mixture")


def run(cfg: Config) -> dict:
    """Sample, reward, credit, learn; returns result.json's content."""
    log, device = checkpoint.open_stage("rl", cfg, cfg.out, init=cfg.init)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.init, device)
    reference, _ = checkpoint.load(cfg.init, device)
    mixture = Mixture.of(cfg.base) if cfg.replay else None
    check_longest(policy.config.max_len, tokenizer, FAMILIES[cfg.family], cfg.max_level, mixture)
    log.start(policy, device)
    optimizer = optim.make_optimizer(policy, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, policy, optimizer), cfg.steps):
        curve = validate(cfg, step, policy, tokenizer, log) if step % cfg.eval_every == 0 else {}
        before = log.flops()
        groups, drawn = groups_of_step(cfg, step, policy, tokenizer)
        updates = batches_of_updates(cfg, step, groups, policy, reference, tokenizer.pad)
        lr = optim.schedule(step, cfg.steps, cfg.lr, cfg.warmup, cfg.lr_floor)
        record = rollouts.diagnostics(drawn, tokenizer.eos)
        record |= learn(cfg, step, policy, optimizer, updates, lr, mixture, tokenizer)
        record |= {"flops": log.flops() - before, "lr": lr}
        log.record(step, **{f"train/{name}": value for name, value in record.items()}, **curve)
        checkpoint.save_state_every(log, cfg, step, policy, optimizer)
    log.record(cfg.steps, **validate(cfg, cfg.steps, policy, tokenizer, log))
    rows = evaluate.compute_curve(read_lines(log.metrics), cfg.validation_n)
    before, _ = evaluate.grade(reference, tokenizer, evaluate.final_sets(cfg), "cot",
                               Sampling(seed=stream_seed(cfg.seed, "test sampled")))
    return evaluate.finish_policy(log, cfg, policy, tokenizer, rows, {"sampled_before": before})


def groups_of_step(cfg: Config, step: int, policy: Transformer,
                   tokenizer: Tokenizer) -> tuple[list[Group], list[Group]]:
    """(groups to learn from, all groups drawn): the first three passes. Ranks share the problems.

    With redraws, silent groups are replaced: DAPO's dynamic sampling, bounded, after which the step
    continues with fewer groups.
    """
    family, kept, drawn = FAMILIES[cfg.family], [], []
    for attempt in range(1 + cfg.redraws):
        generator = rng(cfg.seed, "rl problems", step, attempt)
        levels = generator.integers(cfg.min_level, cfg.max_level + 1,
                                    cfg.prompts_per_step - len(kept)).tolist()
        problems = [sample_split(family, generator, level, "train") for level in levels]
        how = Sampling(cfg.group_size, family.max_new(cfg.max_level), cfg.temperature,
                       seed=stream_seed(cfg.seed, "rl samples", step, attempt))
        mine = parallel.share(list(range(len(problems))))
        groups = rollouts.sample_groups(policy, tokenizer, [problems[i] for i in mine], how, mine)
        rollouts.reward_groups(groups, tokenizer, cfg.rewards)
        rollouts.credit_groups(groups, tokenizer, cfg.advantage, cfg.rewards.process)
        groups = parallel.gather(groups)
        drawn += groups
        kept += filter(rollouts.has_signal, groups) if cfg.redraws else groups
        if len(kept) == cfg.prompts_per_step:
            break
    return kept, drawn


def batches_of_updates(cfg: Config, step: int, groups: list[Group], policy: Transformer,
                       reference: Transformer, pad: int) -> list[list[RolloutBatch]]:
    """The step's rollouts in `minibatches` random parts, one per update, as micro-batches.

    The weights count the rollouts of all ranks. With one update per step the policy is the one
    that drew, and the ratio is 1 by definition.
    """
    flat = list(chain(*groups))
    if cfg.minibatches > 1:
        order = rng(cfg.seed, "rl minibatches", step).permutation(len(flat))
        flat = [flat[i] for i in order]
    constant = FAMILIES[cfg.family].max_new(cfg.max_level)
    updates = []
    for i in range(cfg.minibatches):
        part = flat[i::cfg.minibatches]
        lengths = torch.tensor([rollout.length for rollout in part])
        weights = losses.token_weights(lengths, cfg.aggregation, constant).tolist()
        updates.append(rollouts.rollout_batches(
            part, weights, cfg.temperature, cfg.token_budget, pad,
            old=policy if cfg.epochs * cfg.minibatches > 1 else None,
            reference=reference if cfg.kl else None))
    return updates


def rl_loss(cfg: Config, policy: Transformer, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
    """The loss of a micro-batch, and its sums (tokens, clipped, KL(old || policy))."""
    logprobs = rollouts.drawn_logprobs(policy, batch, cfg.temperature)             # (M,)
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    loss = losses.policy_gradient_loss(logprobs, old, batch.advantages, batch.weights,
                                       cfg.clip_low, cfg.clip_high)
    if batch.ref_logprobs is not None:
        loss = loss + cfg.kl * (batch.weights * losses.kl_k3(logprobs, batch.ref_logprobs)).sum()
    with torch.no_grad():
        stopped = losses.clipped(logprobs, old, batch.advantages, cfg.clip_low, cfg.clip_high)
        sums = torch.stack([torch.tensor(float(len(old)), device=old.device),
                            stopped.float().sum(), losses.kl_k3(old, logprobs).sum()])
    return loss, sums


def learn(cfg: Config, step: int, policy: Transformer, optimizer: optim.Optimizer,
          updates: list[list[RolloutBatch]], lr: float, mixture: Mixture | None,
          tokenizer: Tokenizer) -> dict[str, float]:
    """Pass 4, all updates of a step: mean loss and grad_norm, clip_fraction and approx_kl."""
    sums = torch.zeros(3, device=policy.embedding.weight.device)     # tokens, clipped, KL
    steps = []                                                       # (loss, grad_norm)
    for update in range(cfg.epochs * cfg.minibatches):
        batches: list[Batch] = [*updates[update % cfg.minibatches]]
        count = 0                                                    # tokens of the replay
        if mixture is not None:
            lines = corpus_lines(mixture, FAMILIES[cfg.family],
                                 rng(cfg.seed, "rl replay", step, update), cfg.replay_rows)
            replayed, count = micro_batches(encode_lines(tokenizer, [""] * len(lines), lines),
                                            cfg.token_budget, tokenizer.pad)
            batches += replayed

        def loss_of(batch: Batch, count: int = count) -> Tensor:
            if not isinstance(batch, RolloutBatch):
                return cfg.replay * optim.batch_nll(policy, batch, count)
            loss, part = rl_loss(cfg, policy, batch)
            sums.add_(part)
            return loss

        steps.append(optim.train_step(policy, optimizer, batches, loss_of, lr))
    parallel.all_sum([sums])
    tokens, stopped, moved = sums.tolist()
    loss, grad_norm = (sum(values) / len(steps) for values in zip(*steps, strict=True))
    return {"loss": loss, "grad_norm": grad_norm, "clip_fraction": stopped / max(1.0, tokens),
            "approx_kl": moved / max(1.0, tokens)}


def validate(cfg: Config, step: int, policy: Transformer, tokenizer: Tokenizer,
             log: RunLog) -> dict[str, float]:
    """A point of the curve: single-sample and greedy accuracy on the frozen validation sets."""
    frozen = FAMILIES[cfg.family].LEVELS
    hardest = max((level for level in frozen if level <= cfg.max_level), default=frozen[0])
    sets = evaluate.frozen_sets(cfg.family, "validation", cfg.validation_n,
                                cfg.eval_levels or (hardest,))
    greedy = Sampling(temperature=0)
    methods = {"sampled": Sampling(seed=stream_seed(cfg.seed, "rl validation")), "greedy": greedy}
    report, said = {}, []
    for method, how in methods.items():
        for name, found in evaluate.evaluate(policy, tokenizer, sets, "cot", how).items():
            report[f"eval/{name}/{method}"] = found["accuracy"]
            said.append(f"{name}/{method} {found['accuracy']:.3f}")
    shown = list(chain(*sets.values()))[:3]
    samples = evaluate.show(policy, tokenizer, shown, "cot", greedy)
    log.say(f"step {step}: {', '.join(said)}\n{samples}")
    return report
