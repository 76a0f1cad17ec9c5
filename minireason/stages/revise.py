"""Self-correction: the policy learns to withdraw its own wrong step and to take it again.

    <think>23+4=28<wrong>23+4=27;27*3=81</think>81<eos>

A trace is spliced from the policy's own samples of one problem: a fully right one, and the first
wrong steps of others, each put before the right step and followed by `<wrong>`. The tokens of a
wrong step are not counted in the loss: what is learned is to notice an error and to mend it, not to
make it. Fully right rationales and the pretraining mixture fill the rest of each batch.
Revision policies: Snell 2024 (arXiv:2408.03314, section 6); backtracking in the training text:
Gandhi 2024 (arXiv:2404.03683).
"""

from dataclasses import dataclass
from itertools import chain

from minireason.core.config import rng, stream_seed
from minireason.core.errors import UserError
from minireason.measure import evaluate
from minireason.measure.estimates import wilson
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Row, check_longest, encode_lines
from minireason.training.imitate import OwnSamplesConfig, imitate, sample_own


@dataclass(frozen=True, kw_only=True)
class Config(OwnSamplesConfig):
    """A policy that corrects itself, from backtracking traces of its own samples."""

    base: str                     # pretrained folder whose mixture is replayed
    out: str = "runs/revise"
    problems: int = 2500          # train problems that the policy is sampled on
    min_level: int = 2
    n: int = 8                    # samples per problem
    max_errors: int = 2           # withdrawn steps per trace at most
    mended: float = 0.3           # share of rows that are backtracking traces; 0 is the control
    replay: float = 0.4           # share of rows from the mixture; the rest is fully right
    steps: int = 300
    max_new: int = 92             # tokens per completion at most; withdrawals need room

    def __post_init__(self):
        if not 0 <= self.mended + self.replay <= 1 or min(self.mended, self.replay) < 0:
            raise UserError(f"--mended {self.mended} --replay {self.replay}: shares of rows must "
                            "be at least 0 and sum to at most 1")
        if not hasattr(FAMILIES.get(self.family), "withdrawn"):
            raise UserError(f"--family {self.family}: its steps cannot be withdrawn; use chain")


def run(cfg: Config) -> dict:
    """Sample, splice, train, measure; returns result.json's content."""
    log, device = checkpoint.open_stage("revise", cfg, cfg.out, init=cfg.init, base=cfg.base)
    if log.done:
        return log.done
    mixture = Mixture.of(cfg.base)
    model, tokenizer = checkpoint.load(cfg.init, device)
    check_longest(model.config.max_len, tokenizer, FAMILIES[cfg.family], cfg.max_level, mixture)
    log.start(model, device)
    pool = log.once("pool.json", lambda: sample_pool(cfg, model, tokenizer))["pool"]
    with_errors = sum(bool(errors) for *_, errors in pool)
    if not pool or (cfg.mended and not with_errors):
        raise UserError(f"{log.out}: no problem has both a right sample and a wrong step; change "
                        "--min-level, --max-level or --n")
    imitate(log, model, tokenizer, cfg,
            lambda step: rows_of_step(cfg, step, pool, mixture, tokenizer))
    rows: list[dict] = [{"set": "train", "method": "pool_with_errors", "count": with_errors}]
    withdrawals = {}
    how = Sampling(max_new=cfg.max_new, seed=stream_seed(cfg.seed, "revise measured"))
    for name, problems in evaluate.final_sets(cfg).items():
        texts = list(chain(*complete(model, tokenizer, problems, "cot", how)))
        withdrawals[name] = withdrawal_rates(problems, texts)
        for kind, found in withdrawals[name].items():
            rows.append({"set": name, "method": kind, "accuracy": found["share"],
                         "low": found["low"], "high": found["high"], "problems": found["n"]})
    return evaluate.finish_policy(
        log, cfg, model, tokenizer, rows, None, cfg.max_new, withdrawals=withdrawals,
        pool=len(pool), pool_with_errors=with_errors)


def sample_pool(cfg: Config, policy: Transformer, tokenizer: Tokenizer) -> dict:
    """[prompt, right steps, first wrong steps] of every problem with a fully right sample.

    The wrong steps are [index, step], each different one once.
    """
    problems, completions = sample_own(cfg, policy, tokenizer, "revise", max_new=cfg.max_new)
    pool = []
    for problem, texts, verdicts in zip(problems, completions,
                                        evaluate.verdicts_of(problems, completions), strict=True):
        if any(verdict.steps_valid for verdict in verdicts):
            errors = dict.fromkeys(first_wrong(problem, text) for text in texts)
            pool.append([problem.prompt, problem.steps, [error for error in errors if error]])
    return {"pool": pool}


def first_wrong(problem: Problem, completion: str) -> tuple[int, str] | None:
    """Index and text of the first wrong step, None if there is none that a right one replaces."""
    family = FAMILIES[problem.family]
    steps, _ = family.parse(completion) or ((), "")
    for i, right in enumerate(family.check_steps(problem, steps)[:len(problem.steps)]):
        if not right:
            return i, steps[i]
    return None


def rows_of_step(cfg: Config, step: int, pool: list[list], mixture: Mixture,
                 tokenizer: Tokenizer) -> list[Row]:
    """One step's rows: backtracking traces, fully right rationales, and the mixture replayed."""
    generator = rng(cfg.seed, "revise rows", step)
    n_mended, n_replay = (round(s * cfg.rows_per_step) for s in (cfg.mended, cfg.replay))
    with_errors = [entry for entry in pool if entry[2]]
    prompts, texts = [], []
    for i in generator.integers(0, max(1, len(with_errors)), n_mended):
        prompt, steps, errors = with_errors[i]
        order = generator.permutation(len(errors))[:generator.integers(1, cfg.max_errors + 1)]
        prompts.append(prompt)
        texts.append(spliced_trace(steps, [errors[k] for k in order]))
    for i in generator.integers(0, len(pool), cfg.rows_per_step - n_mended - n_replay):
        prompts.append(pool[i][0])
        texts.append(spliced_trace(pool[i][1], []))
    lines = corpus_lines(mixture, FAMILIES[cfg.family], generator, n_replay)
    rows = encode_lines(tokenizer, prompts + [""] * n_replay, texts + lines)
    return [without_withdrawn(row, tokenizer) for row in rows]


def spliced_trace(steps: list[str], errors: list[list]) -> str:
    """The right `steps` with each wrong one of `errors` before the right one, withdrawn."""
    parts = []
    for i, right in enumerate(steps):
        withdrawn = [f"{wrong}<wrong>" for at, wrong in errors if at == i]
        parts.append("".join(withdrawn) + right)
    return f"<think>{';'.join(parts)}</think>{steps[-1].partition('=')[2]}<eos>"


def without_withdrawn(row: Row, tokenizer: Tokenizer) -> Row:
    """The row with the tokens of every step that `<wrong>` follows not counted; `<wrong>` is."""
    wrong, *others = tokenizer.ids_of("<wrong>", ";", "<think>", "</think>", "<eos>")
    skipped, begin = [], 0                                   # begin: of the step under way
    for t, token in enumerate(row[0]):
        if token == wrong:
            skipped += range(begin, t)
        if token == wrong or token in others:
            begin = t + 1
    return row[0], row[1], *skipped


def withdrawal_rates(problems: list[Problem], completions: list[str]) -> dict:
    """Detection, false alarms and mends, exact, with 95% intervals, over well-formed completions.

    detection: share of wrong steps that were withdrawn. false_alarm: share of right steps that
    were. mended: share of withdrawn wrong steps in whose place a right one stands.
    """
    events: dict[str, list[bool]] = {"detection": [], "false_alarm": [], "mended": []}
    for problem, text in zip(problems, completions, strict=True):
        family = FAMILIES[problem.family]
        steps, _ = family.parse(text) or ((), "")
        marks = family.check_steps(problem, steps)
        for mark in marks:
            events["false_alarm" if mark else "detection"].append(False)
        for i, step in vars(family)["withdrawn"](text):       # optional in a family
            mark = family.check_steps(problem, (*steps[:i], step))[-1]
            events["false_alarm" if mark else "detection"].append(True)
            if not mark:
                events["mended"].append(marks[i])
    report = {}
    for name, found in events.items():
        low, high = wilson(sum(found), len(found))
        report[name] = {"share": sum(found) / max(1, len(found)), "n": len(found), "low": low,
                        "high": high}
    return report
