"""STaR: the policy teaches itself from its own rationales (Zelikman 2022, arXiv:2203.14465).

Each round: sample rationales for many problems, keep those whose answer is right, and retrain
from the base model on what was kept (algorithm 1). Two choices are the paper's own questions:

    rationalize   problems it failed are tried again with the answer as a hint, and a rationale
                  that leads there is kept as if it had come without one (section 3.2)
    keep          "answer": right answer suffices, wrong steps may slip in; "steps": the exact
                  verifier must pass every step, which the paper had no means to do

Part of every batch replays the pretraining mixture: a small set of rationales
without replay makes a small model forget (docs/LOG.md).
"""

import json
from dataclasses import dataclass, replace

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
from minireason.measure.evaluate import evaluate, frozen_sets, judge, show
from minireason.model import checkpoint
from minireason.problems import FAMILIES, Problem, sample_split
from minireason.problems.corpus import Mixture, draw_line
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step


@dataclass(frozen=True)
class Config:
    """Stage 3: self-taught rationales."""

    init: str                     # folder of the first policy (SFT)
    base: str                     # folder of the model that each round restarts from
    out: str = "runs/star"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    rounds: int = 3
    problems: int = 1500          # new train problems a round
    min_level: int = 4
    max_level: int = 8
    n: int = 4                    # samples a problem
    temperature: float = 0.8
    keep: str = "answer"          # answer | steps
    per_problem: int = 1          # rationales kept a problem at most
    rationalize: bool = True      # try failed problems again with the answer as a hint
    restart: bool = True          # from `base` each round; else go on from the last policy
    replay: float = 0.5           # share of rows from the pretraining mixture
    steps: int = 200              # training steps a round
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens a micro-batch; never changes the gradient
    lr: float = 1e-3              # peak learning rate
    warmup: int = 20              # steps
    weight_decay: float = 0.1
    save_every: int = 100         # steps between saved states
    eval_n: int = 500             # problems a level

    def __post_init__(self):
        if self.keep not in ("answer", "steps"):
            raise UserError(f"--keep {self.keep}: must be answer or steps")


def run(cfg: Config) -> dict:
    """All rounds, each its own folder `round-r` below `out`; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    mixture = Mixture.of(cfg.base)
    parents = {"init": checkpoint.weights_hash(cfg.init),
               "base": checkpoint.weights_hash(cfg.base)}
    policy, tokenizer = checkpoint.load(cfg.init, device)
    log = RunLog(cfg.out, "star", cfg, parents)
    if log.done:
        return log.done
    log.start(policy, device)
    log.rewind(0)
    history, folder = [], cfg.init
    for number in range(1, cfg.rounds + 1):
        result = run_round(cfg, number, folder, mixture)
        folder = f"{cfg.out}/round-{number}"
        history.append(result)
        log.record(number, **{"time/seconds" if key == "seconds" else f"star/{key}": value
                              for key, value in result.items() if isinstance(value, float)},
                   **{f"eval/{name}": value["accuracy"]
                      for name, value in result["accuracy"]["cot"].items()})
    policy, _ = checkpoint.load(folder, device)
    sha256 = checkpoint.save(cfg.out, policy, tokenizer)
    sets = frozen_sets(cfg.family, "test", 1)
    log.samples(show(policy, tokenizer, [s[0] for s in list(sets.values())[3:6]], "cot",
                     Sampling(temperature=0)))
    return log.finish(seconds=sum(r["seconds"] for r in history), weights=sha256, rounds=history,
                      accuracy=history[-1]["accuracy"])


def run_round(cfg: Config, number: int, policy_folder: str, mixture: Mixture) -> dict:
    """Sample, verify, keep, retrain, evaluate; returns the round's result.json."""
    device = resolve_device(cfg.device)
    log = RunLog(f"{cfg.out}/round-{number}", f"star round {number}", cfg,
                 {"policy": checkpoint.weights_hash(policy_folder)})
    if log.done:
        return log.done
    path = log.out / "rationales.json"
    if not path.exists():
        policy, tokenizer = checkpoint.load(policy_folder, device)
        kept = collect(cfg, number, policy, tokenizer, log)
        if parallel.is_main():
            write_atomic(path, json.dumps({**kept, "seconds": log.seconds()}))
        parallel.barrier()
    kept = read_json(path)
    log.seconds_before = max(log.seconds_before, kept["seconds"])
    trains = bool(kept["rationales"])
    if not trains:
        log.say("no rationale was kept, so this round trains nothing and passes its policy on; "
                "lower --min-level, raise --n, or train the first policy longer")
    start = cfg.base if cfg.restart and trains else policy_folder
    model, tokenizer = checkpoint.load(start, device)
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps if trains else 0):
        rows = draw_rows(cfg, number, step, kept["rationales"], mixture, tokenizer)
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
    sha256 = checkpoint.save(log.out, model, tokenizer)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    report = {"cot": evaluate(model, tokenizer, sets, "cot", Sampling(temperature=0))}
    return log.finish(seconds=log.seconds(), weights=sha256, accuracy=report,
                      **{key: value for key, value in kept.items()
                         if key not in ("rationales", "seconds")})


def collect(cfg: Config, number: int, policy, tokenizer, log: RunLog) -> dict:
    """Rationales of one round as [prompt, completion] pairs, with what was kept and how sound."""
    generator = rng(cfg.seed, "star problems", number)
    family = FAMILIES[cfg.family]
    levels = cfg.max_level - cfg.min_level + 1
    problems = [sample_split(family, generator, cfg.min_level + i % levels, "train")
                for i in range(cfg.problems)]
    how = Sampling(n=cfg.n, temperature=cfg.temperature,
                   seed=stream_seed(cfg.seed, "star samples", number))
    own = keep_right(cfg, problems, complete(policy, tokenizer, problems, "cot", how))
    failed = [p for p, texts in zip(problems, own, strict=True) if not texts]
    explained: list[list[str]] = []
    if cfg.rationalize and failed:
        how = replace(how, seed=stream_seed(cfg.seed, "star hinted", number))
        explained = keep_right(cfg, failed,
                               complete(policy, tokenizer, failed, "cot", how, hinted=True))
    pairs = [(p, text, False) for p, texts in zip(problems, own, strict=True) for text in texts]
    pairs += [(p, text, True) for p, texts in zip(failed, explained, strict=False)
              for text in texts]
    sound = [family.verify(p, text).steps_valid for p, text, _ in pairs]
    log.say(f"kept {len(pairs)} rationales of {len(problems)} problems")
    return {"rationales": [[p.prompt, text] for p, text, _ in pairs],
            "share_solved": 1 - len(failed) / len(problems),
            "share_rationalized": sum(map(bool, explained)) / len(problems),
            **({"share_wrong_steps": 1 - sum(sound) / len(sound)} if sound else {}),
            "kept": len(pairs),
            "kept_per_level": {str(level): sum(p.level == level for p, _, _ in pairs)
                               for level in range(cfg.min_level, cfg.max_level + 1)}}


def keep_right(cfg: Config, problems: list[Problem],
               completions: list[list[str]]) -> list[list[str]]:
    """For each problem the first `per_problem` different completions that the rule accepts."""
    kept = []
    for texts, verdicts in zip(completions, judge(problems, completions), strict=True):
        good = [text for text, v in zip(texts, verdicts, strict=True)
                if v.correct and (v.steps_valid or cfg.keep == "answer")]
        kept.append(list(dict.fromkeys(good))[:cfg.per_problem])
    return kept


def draw_rows(cfg: Config, number: int, step: int, rationales: list[list[str]],
              mixture: Mixture, tokenizer) -> list[tuple[list[int], int]]:
    """One step's rows: rationales, and lines of the pretraining mixture replayed."""
    generator = rng(cfg.seed, "star rows", number, step)
    n_replay = round(cfg.replay * cfg.rows_per_step)
    chosen = [rationales[i] for i in
              generator.integers(0, len(rationales), cfg.rows_per_step - n_replay)]
    lines = [draw_line(mixture, cfg.family, generator) for _ in range(n_replay)]
    return encode_lines(tokenizer, [p for p, _ in chosen] + [""] * n_replay,
                        [c for _, c in chosen] + lines)
