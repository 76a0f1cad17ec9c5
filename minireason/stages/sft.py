"""Supervised fine-tuning: a few chain-of-thought traces bind the format of thinking.

The loss counts completions only. A share of the traces is hinted (`<hint>answer` stands before the
thought), so that the policy can later explain an answer it is told: that is what STaR's
rationalization asks of it (Zelikman 2022, section 3.2). With `replay`, a share of every batch comes
from the pretraining mixture, so that few traces seen many times do not overwrite what the base
knew; the quickstart does without, which leaves STaR room to improve.
"""

from dataclasses import dataclass

from minireason.core import parallel
from minireason.core.config import resolve_device, rng
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import evaluate, frozen_sets, show
from minireason.model import checkpoint
from minireason.problems import FAMILIES, sample_levels
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.sampler import Sampling
from minireason.training.batches import encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, schedule, train_step


@dataclass(frozen=True)
class Config:
    """Stage 2: chain-of-thought fine-tuning on few exact traces."""

    init: str                     # folder of the pretrained model; for replay, with its mixture
    out: str = "runs/sft"
    family: str = "chain"
    seed: int = 0
    device: str = "auto"
    traces: int = 300             # worked examples in all, each seen many times
    min_level: int = 1
    max_level: int = 8            # longest trace
    hinted: float = 0.25          # share of rows that show the answer first
    replay: float = 0.0           # share of rows from the pretraining mixture
    steps: int = 150
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens per micro-batch; never changes the gradient
    lr: float = 5e-4              # peak learning rate
    warmup: int = 10              # steps
    weight_decay: float = 0.1
    save_every: int = 50          # steps between saved states
    eval_n: int = 500             # problems per level


def traces(cfg: Config) -> list[tuple[str, str, str]]:
    """(prompt, hint, completion) of every trace, levels in equal shares."""
    family = FAMILIES[cfg.family]
    problems = sample_levels(family, rng(cfg.seed, "sft traces"), (cfg.min_level, cfg.max_level),
                             cfg.traces)
    return [(p.prompt, f"<hint>{p.answer}", family.render(p, "cot")) for p in problems]


def run(cfg: Config) -> dict:
    """Fine-tune the model in `init`; returns result.json's content."""
    device = parallel.init(resolve_device(cfg.device))
    model, tokenizer = checkpoint.load(cfg.init, device)
    log = RunLog(cfg.out, "sft", cfg, parents={"init": checkpoint.weights_hash(cfg.init)})
    if log.done:
        return log.done
    log.start(model, device)
    pool, family = traces(cfg), FAMILIES[cfg.family]
    mixture = Mixture.of(cfg.init) if cfg.replay else None
    optimizer = make_optimizer(model, cfg.weight_decay)
    for step in log.steps(checkpoint.resume(log, model, optimizer), cfg.steps):
        generator = rng(cfg.seed, "sft", step)
        n_replay = round(cfg.replay * cfg.rows_per_step)
        n_traces = cfg.rows_per_step - n_replay
        chosen = [pool[i] for i in generator.integers(0, len(pool), n_traces)]
        hinted = generator.random(n_traces) < cfg.hinted
        prompts = [prompt + hint if shown else prompt
                   for (prompt, hint, _), shown in zip(chosen, hinted, strict=True)]
        lines = corpus_lines(mixture, family, generator, n_replay) if mixture else []
        rows = encode_lines(tokenizer, prompts + [""] * n_replay,
                            [completion for _, _, completion in chosen] + lines)
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
    sha256 = checkpoint.save(cfg.out, model, tokenizer)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    greedy = Sampling(temperature=0)
    report = {"cot": evaluate(model, tokenizer, sets, "cot", greedy)}
    log.samples(show(model, tokenizer, [s[0] for s in list(sets.values())[:3]], "cot", greedy))
    return log.finish(seconds=log.seconds(), weights=sha256, accuracy=report)
