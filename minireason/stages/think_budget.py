"""Thinking when it pays: the policy opens a thought, shortens it, or answers at once.

    direct    </think>81<eos>                        thinking  <think>23+4=27;...</think>81<eos>

A model that holds one operation per forward pass cannot do without a thought, but the token after
`<think>` can stand for the first step and the answer for the last. A warm-up teaches to leave them
out, from the policy's own samples whose answer the verifier finds right (randomized traces:
Dualformer, Su 2024, arXiv:2410.09918). Reinforcement learning then rewards the right answer minus
a price per token, opener included, so that the policy learns when a thought pays and which steps of
it do (AdaptThink, Zhang 2025, arXiv:2505.13417):

    r = correct - price * tokens

Measured beside it: always and never thinking, a threshold on the critic's value, forced budgets
(s1, Muennighoff 2025, arXiv:2501.19393) and early exits of the policy as its warm-up left it.
"""

import time
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from minireason.core import flops, parallel
from minireason.core.config import Share, rng, stream_seed
from minireason.core.errors import UserError
from minireason.critics.value_head import Critic, final_values
from minireason.measure import thinking
from minireason.measure.evaluate import finish_policy, frozen_sets, verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, sample_levels
from minireason.sampling.forcing import Forcing
from minireason.sampling.sampler import Sampling
from minireason.training import losses, rollouts
from minireason.training.batches import Row, check_longest, encode_lines
from minireason.training.imitate import OwnSamplesConfig, imitate, sample_own
from minireason.training.optim import Optimizer, make_optimizer, schedule, train_step
from minireason.training.rollouts import Rewards


@dataclass(frozen=True, kw_only=True)
class Config(OwnSamplesConfig):
    """A warm-up in shorter thoughts, then reinforcement learning with a price per token."""

    critic: str                   # folder of the critic whose threshold is compared
    out: str = "runs/think_budget"
    problems: int = 16_000        # train problems that the policy is sampled on for the warm-up
    n: int = 1                    # samples of each
    warm_steps: int = 1000        # steps of the warm-up
    steps: int = 150              # steps of reinforcement learning
    omitted: Share = 0.9          # of the warm-up's first steps, and of its last ones
    asked: Share = 0.15           # share of warm-up rows whose prompt asks for the length
    prompts_per_step: int = 64    # P of the reinforcement learning
    group_size: int = 4           # G
    rewards: Rewards = field(default_factory=lambda: Rewards(process=0.0, price=0.002))
    token_budget: int = 4096      # tokens per micro-batch; never changes the gradient
    warm_lr: float = 2e-3         # peak learning rate of the warm-up
    lr: float = 5e-4              # that of reinforcement learning
    weight_decay: float = 0.0
    save_every: int = 50          # steps between saved states
    measured: int = 200           # problems per level for forced budgets and early exits
    budgets: tuple[int, ...] = (0, 6, 12, 18, 24, 30, 36, 42, 48)   # tokens per thought
    waits: tuple[int, ...] = (1, 2)   # times that a thought is made to go on
    tries: int = 8                # samples per problem of rejection by length

    def __post_init__(self):
        if self.group_size < 2:
            raise UserError(f"--group-size {self.group_size}: must be at least 2")
        if not self.measured_levels:          # no levels would mean all
            raise UserError(f"--min-level {self.min_level}: {self.family} has no frozen set from "
                            f"there to --max-level {self.max_level}")

    @property
    def measured_levels(self) -> tuple[int, ...]:
        """The trained levels of which there are frozen sets."""
        return tuple(level for level in FAMILIES[self.family].LEVELS
                     if self.min_level <= level <= self.max_level)


def run(cfg: Config) -> dict:
    """Warm up, learn what thoughts are worth, measure; returns result.json's content."""
    log, device = checkpoint.open_stage("think_budget", cfg, cfg.out, init=cfg.init,
                                        critic=cfg.critic)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.init, device)
    critic, _ = checkpoint.load(cfg.critic, device, Critic, tokenizer)
    check_longest(policy.config.max_len, tokenizer, FAMILIES[cfg.family], cfg.max_level)
    log.start(policy, device)
    begun = warm_up(cfg)
    log.started, log.flops_at_start = time.perf_counter(), flops.spent()   # it counts its own
    policy, _ = checkpoint.load(log.out / "warm", device)
    optimizer = make_optimizer(policy, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, policy, optimizer), cfg.steps):
        log.record(step, **reinforce(cfg, step, policy, optimizer, tokenizer))
        checkpoint.save_state_every(log, cfg, step, policy, optimizer)
    with flops.uncounted():
        rows = measure(cfg, policy, checkpoint.load(log.out / "warm", device)[0], critic, tokenizer)
    return finish_policy(log, cfg, policy, tokenizer, rows, style="auto",
                         forcing=thinking.forcing_summary(rows),
                         seconds=log.seconds() + begun["seconds"],
                         flops=log.flops() + begun["flops"])


def warm_up(cfg: Config) -> dict:
    """The policy of all shapes, in the folder `warm` below `out`; returns its result.json."""
    log, device = checkpoint.open_stage("think_budget warm-up", cfg, f"{cfg.out}/warm",
                                        init=cfg.init)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.init, device)
    pool = log.once("pool.json", lambda: sample_pool(cfg, policy, tokenizer))["pool"]
    if not pool:
        raise UserError(f"{log.out}: the policy has no right sample to learn from; lower "
                        "--min-level or raise --n")
    imitate(log, policy, tokenizer, replace(cfg, steps=cfg.warm_steps, lr=cfg.warm_lr),
            lambda step: rows_of_step(cfg, step, pool, tokenizer), muon=True)
    return log.finish(weights=checkpoint.save(log.out, policy, tokenizer))


def sample_pool(cfg: Config, policy: Transformer, tokenizer: Tokenizer) -> dict:
    """[prompt, completion] of every sample whose answer is right; different ones once."""
    problems, completions = sample_own(cfg, policy, tokenizer, "think budget")
    pool = {}
    for problem, texts, verdicts in zip(problems, completions, verdicts_of(problems, completions),
                                        strict=True):
        for text, verdict in zip(texts, verdicts, strict=True):
            if verdict.correct:
                pool[problem.prompt, text] = None
    return {"pool": [list(pair) for pair in pool]}


def rows_of_step(cfg: Config, step: int, pool: list[list[str]], tokenizer: Tokenizer) -> list[Row]:
    """One warm-up step's rows; some ask in their prompt for just the length that follows."""
    generator = rng(cfg.seed, "think budget rows", step)
    prompts, texts = [], []
    for i in generator.integers(0, len(pool), cfg.rows_per_step):
        prompt, text = pool[i]
        text = shortened(cfg, text, generator)
        if generator.random() < cfg.asked:
            (length,) = thinking.thought_lengths(tokenizer, [(text, 0)])
            prompt += f"<hint>{length}"
        prompts.append(prompt)
        texts.append(text)
    return encode_lines(tokenizer, prompts, texts)


def shortened(cfg: Config, text: str, generator: np.random.Generator) -> str:
    """The completion whole, or without its first step, its last one, or both; of two one stays."""
    thought, _, answer = text.removeprefix("<think>").partition("</think>")
    steps = thought.split(";")
    first, last = (generator.random(2) < cfg.omitted).tolist()
    steps = steps[first and not (last and len(steps) == 2):len(steps) - last]
    return (f"<think>{';'.join(steps)}" if steps else "") + f"</think>{answer}"


def reinforce(cfg: Config, step: int, policy: Transformer, optimizer: Optimizer,
              tokenizer: Tokenizer) -> dict[str, float]:
    """One on-policy update by outcome and price; the opener is drawn and learns as well."""
    family = FAMILIES[cfg.family]
    problems = sample_levels(family, rng(cfg.seed, "think budget prompts", step),
                             (cfg.min_level, cfg.max_level), cfg.prompts_per_step)
    how = Sampling(cfg.group_size, family.max_new(cfg.max_level), cfg.temperature,
                   seed=stream_seed(cfg.seed, "think budget rollouts", step))
    mine = parallel.share(list(range(len(problems))))
    groups = rollouts.sample_groups(policy, tokenizer, [problems[i] for i in mine], how, mine,
                                    "auto")
    rollouts.reward_groups(groups, tokenizer, cfg.rewards, "auto")
    rollouts.credit_groups(groups, tokenizer, "optimal", cfg.rewards.process)
    groups = parallel.gather(groups)
    flat = list(chain(*groups))
    lengths = torch.tensor([rollout.length for rollout in flat])
    batches = rollouts.rollout_batches(flat, losses.token_weights(lengths, "token", 1).tolist(),
                                       cfg.temperature, cfg.token_budget, tokenizer.pad)

    def loss_of(batch: rollouts.RolloutBatch) -> Tensor:
        logprobs = rollouts.drawn_logprobs(policy, batch, cfg.temperature)
        return losses.policy_gradient_loss(logprobs, logprobs.detach(), batch.advantages,
                                           batch.weights, 0.2, 0.28)     # the ratio is 1

    lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
    loss, grad_norm = train_step(policy, optimizer, batches, loss_of, lr)
    record = rollouts.diagnostics(groups, tokenizer.eos) | {
        "loss": loss, "grad_norm": grad_norm, "lr": lr, "thinking": float(np.mean(
            [rollout.tokens[rollout.first] == tokenizer.think for rollout in flat]))}
    return {f"train/{name}": value for name, value in record.items()}


def measure(cfg: Config, policy: Transformer, warm: Transformer, critic: Critic,
            tokenizer: Tokenizer) -> list[dict]:
    """All rows: modes by level, the critic's threshold, forced budgets, early exits."""
    init, _ = checkpoint.load(cfg.init, policy.embedding.weight.device)
    sets = frozen_sets(cfg.family, cfg.split, cfg.eval_n, cfg.measured_levels)
    problems = list(chain(*sets.values()))
    modes = {"always": (init, Forcing()), "never": (warm, Forcing("direct")),
             "warm": (warm, Forcing("auto")), "auto": (policy, Forcing("auto"))}
    written = {method: thinking.greedy_forced(model, tokenizer, problems, forcing)
               for method, (model, forcing) in modes.items()}
    rows = []
    for method, texts in written.items():
        rows += thinking.rows_by_level(sets, method, texts)
    direct = [[text] for text, _ in written["never"]]
    values = [row[0] for row in final_values(critic, tokenizer, problems, direct)]
    rows += thinking.threshold_rows(problems, written["never"], written["always"], values)
    few = list(chain(*(members[:cfg.measured] for members in sets.values())))
    policies = {"forced": warm, "forced_untaught": init, "asked": warm}
    how = Sampling(cfg.tries, seed=stream_seed(cfg.seed, "think budget rejected"))
    rows += thinking.forcing_rows(policies, tokenizer, few, cfg.budgets, cfg.waits, how)
    return rows + thinking.exit_rows(warm, critic, tokenizer, few)
