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

from dataclasses import dataclass
from functools import partial

from minireason.core.config import check_choice, rng, stream_seed
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
    rounds: int = 3
    problems: int = 1500          # new train problems per round
    min_level: int = 4
    temperature: float = 0.8
    keep: str = "answer"          # answer | steps
    per_problem: int = 1          # rationales kept per problem at most
    rationalize: bool = True      # try failed problems again with the answer as a hint
    restart: bool = True          # from `base` each round; else from the last policy
    steps: int = 200              # training steps per round

    def __post_init__(self):
        check_choice("keep", self.keep, ("answer", "steps"))


def run(cfg: Config) -> dict:
    """All rounds, each its own folder `round-r` below `out`; returns result.json's content."""
    log, device = checkpoint.open_stage("star", cfg, cfg.out, init=cfg.init, base=cfg.base)
    return log.done or run_rounds(log, device, "round", cfg.rounds, cfg.init,
                                  partial(run_round, cfg))


def run_round(cfg: Config, number: int, policy_folder: str) -> dict:
    """Sample, verify, keep, retrain, evaluate; returns the round's result.json."""
    log, device = checkpoint.open_stage(f"star round {number}", cfg, f"{cfg.out}/round-{number}",
                                        policy=policy_folder)
    if log.done:
        return log.done
    kept = log.once("rationales.json", lambda: sample_rationales(
        cfg, number, *checkpoint.load(policy_folder, device)))
    rationales = kept.pop("rationales")
    log.say(f"kept {len(rationales)} rationales of {cfg.problems} problems")
    model, tokenizer = imitate_kept(log, cfg, rationales, policy_folder, device, lambda step: rng(
        cfg.seed, "star rows", number, step))
    return finish_policy(log, cfg, model, tokenizer, share_rows(kept, cfg.problems), **kept)


def sample_rationales(cfg: Config, number: int, policy: Transformer,
                      tokenizer: Tokenizer) -> dict:
    """The round's [prompt, completion] pairs, with what was kept and how sound it is."""
    family = FAMILIES[cfg.family]
    problems, completions = sample_own(cfg, policy, tokenizer, "star", number)
    solved = keep_right(cfg, problems, completions)
    failed = [p for p, texts in zip(problems, solved, strict=True) if not texts]
    explained: list[list[str]] = []
    if cfg.rationalize and failed:
        how = Sampling(n=cfg.n, temperature=cfg.temperature,
                       seed=stream_seed(cfg.seed, "star hinted", number))
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
    for texts, verdicts in zip(completions, verdicts_of(problems, completions), strict=True):
        good = [text for text, v in zip(texts, verdicts, strict=True)
                if v.correct and (v.steps_valid or cfg.keep == "answer")]
        kept.append(list(dict.fromkeys(good))[:cfg.per_problem])
    return kept
