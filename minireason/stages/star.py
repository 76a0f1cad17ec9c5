"""STaR: the policy teaches itself from its own rationales (Zelikman 2022, arXiv:2203.14465).

Each round: sample rationales for many problems, keep those whose answer is right, and train on what
was kept (algorithm 1, which retrains the base each time: `restart`). Two choices are the paper's
own questions:

    rationalize   problems it failed are tried again with the answer as a hint, and a rationale
                  that leads there is kept as if it had come without one (section 3.2)
    keep          "answer": right answer suffices, wrong steps may slip in; "steps": the exact
                  verifier must pass every step, which the paper had no means to do

By default each round continues from the last policy and replays nothing: the errors of the
pretraining text are what it has to unlearn (docs/LOG.md).
"""

from dataclasses import dataclass
from functools import partial

from minireason.core.config import stream_seed
from minireason.core.errors import check_choice
from minireason.measure.evaluate import finish_policy, share_rows, verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.imitate import RoundsConfig, imitate_kept, run_rounds, sample_own


@dataclass(frozen=True, kw_only=True)
class Config(RoundsConfig):
    """Stage 3: self-taught rationales; init is the SFT policy."""

    out: str = "runs/star"
    rounds: int = 2
    problems: int = 400           # new train problems per round
    temperature: float = 0.8
    keep: str = "answer"          # answer | steps
    per_problem: int = 1          # rationales kept per problem at most
    rationalize: bool = True      # try failed problems again with the answer as a hint
    restart: bool = False         # from `base` each round; else from the last policy
    replay: float = 0.0           # share of rows from the mixture: it would teach the errors back
    steps: int = 15               # training steps per round
    lr: float = 2e-4              # peak learning rate
    warmup: int = 5               # steps

    def __post_init__(self):
        check_choice("keep", self.keep, ("answer", "steps"))


def run(cfg: Config) -> dict:
    """All rounds, each its own folder `round-r` below `out`; returns result.json's content."""
    return run_rounds("star", "round", cfg, cfg.rounds, partial(run_round, cfg))


def run_round(cfg: Config, number: int, policy_folder: str) -> dict:
    """Sample, verify, keep, retrain, evaluate; returns the round's result.json."""
    log, device = checkpoint.open_stage(f"star round {number}", cfg, f"{cfg.out}/round-{number}",
                                        policy=policy_folder)
    if log.done:
        return log.done
    found = log.once("rationales.json", lambda: sample_rationales(
        cfg, number, *checkpoint.load(policy_folder, device)))
    kept = found.pop("rationales")
    log.say(f"kept {len(kept)} rationales of {cfg.problems} problems")
    model, tokenizer = imitate_kept(log, cfg, kept, policy_folder, device, "star", number)
    return finish_policy(log, cfg, model, tokenizer, share_rows(found, cfg.problems), **found)


def sample_rationales(cfg: Config, number: int, policy: Transformer,
                      tokenizer: Tokenizer) -> dict:
    """The round's [prompt, completion] pairs, with what was kept and how sound it is."""
    family = FAMILIES[cfg.family]
    problems, completions = sample_own(cfg, policy, tokenizer, "star", number)
    solved = keep_right(cfg, problems, completions)
    failed = [p for p, texts in zip(problems, solved, strict=True) if not texts]
    explained: list[list[str]] = [[] for _ in failed]
    if cfg.rationalize and failed:
        how = Sampling(n=cfg.n, temperature=cfg.temperature,
                       seed=stream_seed(cfg.seed, "star hinted", number))
        hinted = complete(policy, tokenizer, failed, "cot", how, hinted=True)
        explained = keep_right(cfg, failed, hinted)
    rationales, sound = [], 0
    per_level = dict.fromkeys(range(cfg.min_level, cfg.max_level + 1), 0)
    for problem, texts in zip(problems + failed, solved + explained, strict=True):
        for text in texts:
            rationales.append((problem.prompt, text))
            sound += family.verify(problem, text).steps_valid
            per_level[problem.level] += 1
    found = {"rationales": rationales, "share_solved": 1 - len(failed) / len(problems),
             "share_rationalized": sum(map(bool, explained)) / len(problems),
             "kept": len(rationales), "kept_per_level": per_level}
    if rationales:
        found["share_wrong_steps"] = 1 - sound / len(rationales)
    return found


def keep_right(cfg: Config, problems: list[Problem],
               completions: list[list[str]]) -> list[list[str]]:
    """For each problem the first `per_problem` different completions that the rule accepts."""
    kept = []
    for texts, verdicts in zip(completions, verdicts_of(problems, completions), strict=True):
        good: dict[str, None] = {}
        for text, verdict in zip(texts, verdicts, strict=True):
            if verdict.correct and (verdict.steps_valid or cfg.keep == "answer"):
                good[text] = None
        kept.append(list(good)[:cfg.per_problem])
    return kept
