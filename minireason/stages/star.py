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

from dataclasses import dataclass, replace

from minireason.core import parallel
from minireason.core.config import UserError, resolve_device, rng, stream_seed
from minireason.core.runlog import RunLog
from minireason.measure.evaluate import evaluate, frozen_sets, judge, show
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, sample_levels
from minireason.problems.corpus import Mixture
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.imitate import imitate, replayed_rows


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
    problems: int = 1500          # new train problems per round
    min_level: int = 4
    max_level: int = 8
    n: int = 4                    # samples per problem
    temperature: float = 0.8
    keep: str = "answer"          # answer | steps
    per_problem: int = 1          # rationales kept per problem at most
    rationalize: bool = True      # try failed problems again with the answer as a hint
    restart: bool = True          # from `base` each round; else from the last policy
    replay: float = 0.5           # share of rows from the pretraining mixture
    steps: int = 200              # training steps per round
    rows_per_step: int = 64       # B
    token_budget: int = 1024      # tokens per micro-batch; never changes the gradient
    lr: float = 1e-3              # peak learning rate
    warmup: int = 20              # steps
    weight_decay: float = 0.1
    save_every: int = 100         # steps between saved states
    eval_n: int = 500             # problems per level

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
    kept = log.once("rationales.json", lambda: sample_rationales(
        cfg, number, *checkpoint.load(policy_folder, device)))
    rationales = kept.pop("rationales")
    log.say(f"kept {len(rationales)} rationales of {cfg.problems} problems")
    start = cfg.base if cfg.restart and rationales else policy_folder
    model, tokenizer = checkpoint.load(start, device)
    if rationales:
        family = FAMILIES[cfg.family]
        imitate(log, model, tokenizer, cfg, lambda step: replayed_rows(
            tokenizer, rationales, cfg.rows_per_step, mixture, family, cfg.replay,
            rng(cfg.seed, "star rows", number, step)))
    else:
        log.say("no rationale was kept, so this round trains nothing and passes its policy on; "
                "lower --min-level, raise --n, or train the first policy longer")
    sha256 = checkpoint.save(log.out, model, tokenizer)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    report = {"cot": evaluate(model, tokenizer, sets, "cot", Sampling(temperature=0))}
    return log.finish(seconds=log.seconds(), weights=sha256, accuracy=report, **kept)


def sample_rationales(cfg: Config, number: int, policy: Transformer,
                      tokenizer: Tokenizer) -> dict:
    """The round's [prompt, completion] pairs, with what was kept and how sound it is."""
    family, levels = FAMILIES[cfg.family], (cfg.min_level, cfg.max_level)
    problems = sample_levels(family, rng(cfg.seed, "star problems", number), levels, cfg.problems)
    how = Sampling(n=cfg.n, temperature=cfg.temperature,
                   seed=stream_seed(cfg.seed, "star samples", number))
    solved = keep_right(cfg, problems, complete(policy, tokenizer, problems, "cot", how))
    failed = [p for p, texts in zip(problems, solved, strict=True) if not texts]
    explained: list[list[str]] = []
    if cfg.rationalize and failed:
        how = replace(how, seed=stream_seed(cfg.seed, "star hinted", number))
        explained = keep_right(cfg, failed,
                               complete(policy, tokenizer, failed, "cot", how, hinted=True))
    pairs = []
    for asked, kept in ((problems, solved), (failed[:len(explained)], explained)):
        for problem, texts in zip(asked, kept, strict=True):
            pairs += [(problem, text) for text in texts]
    sound = [family.verify(problem, text).steps_valid for problem, text in pairs]
    found = {"rationales": [[problem.prompt, text] for problem, text in pairs],
             "share_solved": 1 - len(failed) / len(problems),
             "share_rationalized": sum(map(bool, explained)) / len(problems),
             "kept": len(pairs),
             "kept_per_level": {str(level): sum(problem.level == level for problem, _ in pairs)
                                for level in range(cfg.min_level, cfg.max_level + 1)}}
    return found | ({"share_wrong_steps": 1 - sum(sound) / len(sound)} if sound else {})


def keep_right(cfg: Config, problems: list[Problem],
               completions: list[list[str]]) -> list[list[str]]:
    """For each problem the first `per_problem` different completions that the rule accepts."""
    kept = []
    for texts, verdicts in zip(completions, judge(problems, completions), strict=True):
        good = [text for text, v in zip(texts, verdicts, strict=True)
                if v.correct and (v.steps_valid or cfg.keep == "answer")]
        kept.append(list(dict.fromkeys(good))[:cfg.per_problem])
    return kept
