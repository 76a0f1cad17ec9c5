"""The flywheel: search improves the policy's answers, and the policy learns from what it found.

Each turn: draw N solutions of many problems, choose one of each by search (best-of-N by the
critic, or a majority vote), keep what a filter lets through, train the policy on it, refresh the
critic on the new policy (expert iteration: Anthony 2017, arXiv:1705.08439; policy and value in
turn: Zhang 2024, arXiv:2406.03816; after reinforcement learning: DeepSeek-AI 2025,
arXiv:2501.12948, section 2.3.3). What may the filter know?

    verifier   the truth: only right answers are kept
    critic     an opinion: values above a threshold are kept, and what it mistakes is learnt too
    none       whatever search chose is kept
"""

import json
from dataclasses import dataclass
from itertools import chain

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
from minireason.critics.step_labels import exact_labels, step_prefixes
from minireason.critics.value_head import Critic, auc, critic_loss, rollout_ids, value_batches
from minireason.measure.evaluate import answer_of, evaluate, frozen_sets, judge, show
from minireason.model import checkpoint
from minireason.model.tokenizer import STEP_ENDS
from minireason.problems import FAMILIES, Problem, sample_split
from minireason.problems.corpus import Mixture, draw_line
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.search.vote import (
    FILTERS,
    SEARCHES,
    agreement,
    final_values,
    passes,
    searched,
    truth,
)
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step

CHOICES = {"search": SEARCHES, "filter": FILTERS, "refresh": ("exact", "outcome", "majority", "no")}


@dataclass(frozen=True)
class Config:
    """Stage 5: turns of search, filter, training, and a refreshed critic."""

    init: str                     # folder of the first policy
    base: str                     # pretrained folder whose mixture is replayed; see restart
    critic: str                   # folder of the first policy's critic
    out: str = "runs/flywheel"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    turns: int = 3
    problems: int = 1500          # new train problems a turn
    min_level: int = 1
    max_level: int = 8
    n: int = 8                    # N samples a problem
    temperature: float = 1.0
    search: str = "critic"        # chooses one of N: critic | majority | single (the first)
    filter: str = "verifier"      # lets it through: verifier | critic | none
    threshold: float = 0.5        # least value that the critic as filter lets through
    refresh: str = "exact"        # labels of the new critic: exact | outcome | majority | no
    critic_problems: int = 600    # new train problems that the critic is refreshed on
    held_out: int = 100           # of these: kept from training, to measure the critic
    critic_steps: int = 300
    imitation: float = 0.15       # weight of right thoughts' tokens in the critic's loss
    restart: bool = False         # each turn trains `base` anew; else it goes on from the last
    replay: float = 0.5           # share of rows from the pretraining mixture
    steps: int = 300              # training steps a turn
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    lr: float = 1e-3              # peak learning rate, policy and critic
    warmup: int = 20              # steps
    weight_decay: float = 0.1
    save_every: int = 100         # steps between saved states
    eval_n: int = 500             # problems a level

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"--{name} {getattr(self, name)}: must be one of "
                                f"{', '.join(choices)}")
        if not 0 < self.held_out < self.critic_problems:
            raise UserError("flywheel: --held-out must be at least 1 and below --critic-problems")


def run(cfg: Config) -> dict:
    """All turns, each its own folder `turn-t` below `out`; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    mixture = Mixture.of(cfg.base)
    log = RunLog(cfg.out, "flywheel", cfg, {name: checkpoint.weights_hash(getattr(cfg, name))
                                            for name in ("init", "base", "critic")})
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(cfg.init, device)
    log.start(policy, device)
    log.rewind(0)
    history, policy_folder, critic_folder = [], cfg.init, cfg.critic
    for number in range(1, cfg.turns + 1):
        result = run_turn(cfg, number, policy_folder, critic_folder, mixture)
        policy_folder = f"{cfg.out}/turn-{number}"
        critic_folder = critic_folder if cfg.refresh == "no" else f"{policy_folder}/critic"
        history.append(result)
        log.record(number, **{f"flywheel/{key}": value for key, value in result.items()
                              if isinstance(value, float)},
                   **{f"eval/{name}": value["accuracy"]
                      for name, value in result["accuracy"]["cot"].items()})
    policy, _ = checkpoint.load(policy_folder, device)
    sha256 = checkpoint.save(cfg.out, policy, tokenizer)
    sets = frozen_sets(cfg.family, "test", 1)
    log.samples(show(policy, tokenizer, [s[0] for s in list(sets.values())[3:6]], "cot",
                     Sampling(temperature=0)))
    return log.finish(seconds=sum(r["seconds"] for r in history), weights=sha256, turns=history,
                      accuracy=history[-1]["accuracy"])


def run_turn(cfg: Config, number: int, policy_folder: str, critic_folder: str,
             mixture: Mixture) -> dict:
    """Search, filter, retrain, refresh, evaluate; returns the turn's result.json."""
    device = resolve_device(cfg.device)
    log = RunLog(f"{cfg.out}/turn-{number}", f"flywheel turn {number}", cfg,
                 {"policy": checkpoint.weights_hash(policy_folder),
                  "critic": checkpoint.weights_hash(critic_folder)})
    if log.done:
        return log.done
    path = log.out / "solutions.json"
    if not path.exists():
        policy, tokenizer = checkpoint.load(policy_folder, device)
        critic, _ = checkpoint.load(critic_folder, device, Critic)
        found = search(cfg, number, policy, critic, tokenizer, log)
        if parallel.is_main():
            write_atomic(path, json.dumps({**found, "seconds": log.seconds()}))
        parallel.barrier()
    found = read_json(path)
    log.seconds_before = max(log.seconds_before, found["seconds"])
    trains = bool(found["solutions"])
    start = cfg.base if cfg.restart and trains else policy_folder
    model, tokenizer = checkpoint.load(start, device)
    if trains:
        retrain(cfg, number, log, model, tokenizer, found["solutions"], mixture)
    else:
        log.say("no solution passed the filter, so this turn trains nothing and passes its policy "
                "on; lower --threshold or --min-level, or raise --n")
    sha256 = checkpoint.save(log.out, model, tokenizer)
    refreshed = {} if cfg.refresh == "no" else refresh(cfg, number, log)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    report = {"cot": evaluate(model, tokenizer, sets, "cot", Sampling(temperature=0))}
    return log.finish(
        seconds=log.seconds(), weights=sha256, accuracy=report,
        **{key: value for key, value in found.items() if key not in ("solutions", "seconds")},
        **{f"critic_{key}": value for key, value in refreshed.items()
           if key in ("auc", "label_accuracy")})


def draw(cfg: Config, problems: int, purpose: str, number: int, policy,
         tokenizer) -> tuple[list[Problem], list[list[str]]]:
    """New train problems of a turn and N completions of each."""
    generator, family = rng(cfg.seed, f"{purpose} problems", number), FAMILIES[cfg.family]
    levels = cfg.max_level - cfg.min_level + 1
    drawn = [sample_split(family, generator, cfg.min_level + i % levels, "train")
             for i in range(problems)]
    how = Sampling(n=cfg.n, temperature=cfg.temperature,
                   seed=stream_seed(cfg.seed, f"{purpose} samples", number))
    return drawn, complete(policy, tokenizer, drawn, "cot", how)


def search(cfg: Config, number: int, policy, critic, tokenizer, log: RunLog) -> dict:
    """The solutions that search chose and the filter kept, and the exact truth about them."""
    problems, completions = draw(cfg, cfg.problems, "flywheel", number, policy, tokenizer)
    values = final_values(critic, tokenizer, problems, completions)
    verdicts = judge(problems, completions)
    chosen = searched(cfg.search, problems, completions, values, verdicts)
    kept = [solution for solution in chosen if passes(cfg.filter, solution, cfg.threshold)]
    drawn, report = [v.correct for row in verdicts for v in row], truth(kept)
    right = f", {100 * report['precision']:.0f}% of them right" if kept else ""
    log.say(f"kept {len(kept)} solutions of {len(problems)} problems{right}")
    return {"solutions": [[s.problem.prompt, s.text] for s in kept], **report,
            "single": sum(drawn) / len(drawn),
            "searched": sum(s.verdict.correct for s in chosen) / len(problems),
            "coverage": sum(any(v.correct for v in row) for row in verdicts) / len(problems),
            "auc": auc([v for row in values for v in row], drawn)}


def retrain(cfg: Config, number: int, log: RunLog, model, tokenizer,
            solutions: list[list[str]], mixture: Mixture) -> None:
    """Train the policy on the kept solutions, half of each batch replayed (as STaR does)."""
    optimizer = make_optimizer(model, cfg.weight_decay)
    n_replay = round(cfg.replay * cfg.rows_per_step)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        generator = rng(cfg.seed, "flywheel rows", number, step)
        chosen = [solutions[i] for i in
                  generator.integers(0, len(solutions), cfg.rows_per_step - n_replay)]
        lines = [draw_line(mixture, cfg.family, generator) for _ in range(n_replay)]
        rows = encode_lines(tokenizer, [p for p, _ in chosen] + [""] * n_replay,
                            [c for _, c in chosen] + lines)
        batches, count = micro_batches(rows, cfg.token_budget, tokenizer.pad)
        lr = schedule(step, cfg.steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets,
                                   b.loss_mask, n), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            checkpoint.save_state(log, step + 1, model, optimizer)


def refresh(cfg: Config, number: int, turn: RunLog) -> dict:
    """A critic anew from the turn's policy, on its own samples; result.json of `turn-t/critic`."""
    device = resolve_device(cfg.device)
    log = RunLog(f"{turn.out}/critic", f"flywheel critic {number}", cfg,
                 {"policy": checkpoint.weights_hash(turn.out)})
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(turn.out, device)
    problems, completions = draw(cfg, cfg.critic_problems, "refresh", number, policy, tokenizer)
    labels = [labels_of(cfg.refresh, p, texts)
              for p, texts in zip(problems, completions, strict=True)]
    cut = cfg.critic_problems - cfg.held_out
    flat = [(p, text, ends) for p, texts, row in zip(problems[:cut], completions[:cut], labels,
                                                     strict=False)
            for text, ends in zip(texts, row, strict=True)]
    ids = rollout_ids(tokenizer, [p for p, _, _ in flat], [text for _, text, _ in flat])
    rows = [(*row, ends) for row, (_, _, ends) in zip(ids, flat, strict=True)]
    model = Critic.from_policy(policy)
    teach(cfg, number, log, model, tokenizer, rows)
    sha256 = checkpoint.save(log.out, model, tokenizer)
    values = chain(*final_values(model, tokenizer, problems[cut:], completions[cut:]))
    right = [[v.correct for v in row] for row in judge(problems, completions)]
    agree = [(ends[-1] > 0.5) == verdict for row, verdicts in zip(labels, right, strict=True)
             for ends, verdict in zip(row, verdicts, strict=True) if ends]
    return log.finish(seconds=log.seconds(), weights=sha256,
                      auc=auc(list(values), list(chain(*right[cut:]))),
                      label_accuracy=sum(agree) / max(1, len(agree)))


def labels_of(how: str, problem: Problem, texts: list[str]) -> list[list[float]]:
    """A label for every step end of every sample of a problem; only "majority" knows no truth."""
    if how == "exact":
        return [[float(right) for right in exact_labels(problem, text)] for text in texts]
    good = (agreement([answer_of(problem, text) for text in texts]) if how == "majority"
            else [FAMILIES[problem.family].verify(problem, text).correct for text in texts])
    return [[float(right)] * len(step_prefixes(text))
            for right, text in zip(good, texts, strict=True)]


def teach(cfg: Config, number: int, log: RunLog, model, tokenizer,
          rows: list[tuple[list[int], int, list[float]]]) -> None:
    """Train the value head and its backbone on (tokens, first, labels) rows."""
    ends = torch.tensor(tokenizer.ids_of(*STEP_ENDS))
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.critic_steps):
        chosen = rng(cfg.seed, "flywheel critic", number, step).integers(
            0, len(rows), cfg.rows_per_step)
        batches, count = value_batches([rows[i] for i in chosen], ends, cfg.token_budget,
                                       tokenizer.pad)
        lr = schedule(step, cfg.critic_steps, cfg.lr, cfg.warmup)
        loss, grad_norm = train_step(
            model, optimizer, batches,
            lambda b, n=count: critic_loss(model, b, n, cfg.imitation), lr)
        log.record(step, **{"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr,
                            "train/tokens": count})
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.critic_steps:
            checkpoint.save_state(log, step + 1, model, optimizer)
