"""The critic: a policy's backbone with a value head, P(correct | prefix), at every step end.

Trained on the policy's own samples; what labels each step end is the choice (step_labels.py): the
verdict on the whole completion makes an outcome critic (Cobbe 2021, arXiv:2110.14168), labels
of the steps a process critic (Lightman 2023, arXiv:2305.20050; Math-Shepherd, arXiv:2312.08935).
It starts from the policy's weights: what knows how to take a step knows much about whether a step
is right. When the policy has moved, its critic is stale: run the stage again with the new policy,
from the old critic (`start`) or anew.
"""

from dataclasses import dataclass

from minireason.core.config import rng, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.core.runlog import RunLog
from minireason.critics import step_labels
from minireason.critics.value_head import (
    AGGREGATIONS,
    Critic,
    aggregate,
    fit_critic,
    labelled_rows,
    step_values,
)
from minireason.measure.estimates import auc
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.sampler import Sampling
from minireason.training.batches import check_longest
from minireason.training.imitate import OwnSamplesConfig, sample_own

LABELS = ("outcome", "exact", "mc_hard", "mc_soft")
CHECKED = 16                      # rollouts per step end when labels are compared with the truth


@dataclass(frozen=True, kw_only=True)
class Config(OwnSamplesConfig):
    """Stage 5: a learned judge of the policy's own solutions; it starts from the policy, init."""

    start: str = ""               # folder of an earlier critic to start from instead
    out: str = "runs/critic"
    problems: int = 3000          # train problems
    min_level: int = 4
    labels: str = "exact"         # outcome | exact | mc_hard | mc_soft
    mc_n: int = 4                 # Monte Carlo rollouts per step end
    mc_check: int = 40            # held-out problems on which Monte Carlo labels meet the truth
    shard: int = 250              # problems between two saved sets of Monte Carlo labels
    imitation: float = 0.15       # weight of right thoughts' tokens beside the values
    held_out: int = 100           # of the problems: kept from training, to measure calibration
    steps: int = 300

    def __post_init__(self):
        check_choice("labels", self.labels, LABELS)
        if not 0 < self.held_out < self.problems:
            raise UserError("critic: --held-out must be at least 1 and below --problems")


def run(cfg: Config) -> dict:
    """Sample, verify, label, train; returns result.json's content."""
    log, device = checkpoint.open_stage("critic", cfg, cfg.out, init=cfg.init, start=cfg.start)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.init, device)
    check_longest(policy.config.max_len, tokenizer, FAMILIES[cfg.family], cfg.max_level)
    critic = Critic.from_policy(policy)
    if cfg.start:
        critic, _ = checkpoint.load(cfg.start, device, Critic, tokenizer)
    rollouts = log.once("rollouts.json", lambda: sample_rollouts(cfg, policy, tokenizer))
    prompts, texts, right = map(list, zip(*rollouts["rollouts"], strict=True))
    problems = list(map(FAMILIES[cfg.family].read, prompts))
    labels = step_end_labels(cfg, log, policy, tokenizer, problems, texts, right)
    log.start(critic, device)
    cut = len(texts) - cfg.held_out * cfg.n
    taught = labelled_rows(tokenizer, problems[:cut], texts[:cut], labels[:cut])
    fit_critic(log, critic, tokenizer, cfg, taught, lambda step: rng(cfg.seed, "critic", step),
               cfg.imitation)
    sha256 = checkpoint.save(cfg.out, critic, tokenizer)
    values = step_values(critic, tokenizer, problems[cut:], texts[cut:])
    report = {"share_right": sum(right) / len(right),
              **measure(values, right[cut:], labels[cut:], problems[cut:], texts[cut:])}
    log.say(", ".join(f"{name} {value:.3g}" for name, value in report.items()))
    rows = [{"set": "held-out", "method": name, "accuracy": value, "problems": len(texts) - cut}
            for name, value in report.items()]
    if cfg.labels != "outcome" and cfg.mc_check:
        some = slice(cut, cut + cfg.mc_check * cfg.n, cfg.n)         # one sample per problem
        how = Sampling(n=CHECKED, temperature=cfg.temperature,
                       seed=stream_seed(cfg.seed, "critic check"))
        rows += step_labels.label_accuracy(policy, tokenizer, problems[some], texts[some], how)
    return log.finish(rows, weights=sha256, **report)


def sample_rollouts(cfg: Config, policy: Transformer, tokenizer: Tokenizer) -> dict:
    """[prompt, completion, right] of every sample."""
    problems, completions = sample_own(cfg, policy, tokenizer, "critic")
    verify, rollouts = FAMILIES[cfg.family].verify, []
    for problem, texts in zip(problems, completions, strict=True):
        rollouts += [[problem.prompt, text, verify(problem, text).correct] for text in texts]
    return {"rollouts": rollouts}


def step_end_labels(cfg: Config, log: RunLog, policy: Transformer, tokenizer: Tokenizer,
                    problems: list[Problem], texts: list[str],
                    right: list[bool]) -> list[list[float]]:
    """The label of every step end of every rollout; Monte Carlo ones are kept once drawn."""
    if cfg.labels == "outcome":
        return list(map(step_labels.outcome_labels, texts, right))
    if cfg.labels == "exact":
        return list(map(step_labels.exact_labels, problems, texts))
    shares: list[list[float]] = []
    for start in log.steps(0, -(-cfg.problems // cfg.shard), "labels"):
        rows = slice(start * cfg.shard * cfg.n, (start + 1) * cfg.shard * cfg.n)
        how = Sampling(n=cfg.mc_n, temperature=cfg.temperature,
                       seed=stream_seed(cfg.seed, "critic labels", start))
        held = log.once(f"labels-{start}.json", lambda rows=rows, how=how: {
            "shares": step_labels.monte_carlo_labels(policy, tokenizer, problems[rows],
                                                     texts[rows], how)})
        shares += held["shares"]
    if cfg.labels == "mc_soft":
        return shares
    return [[float(share > 0) for share in row] for row in shares]


def measure(values: list[list[float]], right: list[bool], labels: list[list[float]],
            problems: list[Problem], texts: list[str]) -> dict[str, float]:
    """AUC of held-out samples: whole ones by each aggregation, and single steps; label accuracy.

    A step's truth is exact: every step up to its end is right; `<eos>`, whose truth is the verdict
    that the whole sample is judged by already, is left out.
    """
    scores = {how: auc([aggregate(v, how) for v in values], right) for how in AGGREGATIONS}
    truth, agree, judged = [], 0, []                   # of all steps
    for problem, text, ends, taught in zip(problems, texts, values, labels, strict=True):
        exact = step_labels.exact_labels(problem, text)
        for i in range(len(step_labels.inner_prefixes(text))):
            truth.append(bool(exact[i]))
            agree += (taught[i] > 0.5) == truth[-1]
            judged.append(ends[i])
    return {"auc": scores["last"], "auc_min": scores["min"], "auc_product": scores["product"],
            "auc_steps": auc(judged, truth), "label_accuracy": agree / max(1, len(truth)),
            "share_steps_true": sum(truth) / max(1, len(truth))}
