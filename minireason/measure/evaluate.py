"""Accuracy with its interval, unbiased pass@k and maj@k, on the frozen sets.

Every accuracy in this project comes from here, with n and a 95% interval beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minireason.core.config import StageConfig
from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, Verdict
from minireason.problems.frozen import load_frozen
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling


def frozen_sets(family: str, split: str, n: int,
                levels: tuple[int, ...] = ()) -> dict[str, list[Problem]]:
    """The first n problems of each frozen level, {set name: problems}; no levels means all."""
    return {name: load_frozen(name)[:n] for level in levels or FAMILIES[family].LEVELS
            for name in [f"{family}-{split}-{FAMILIES[family].LEVEL_SYMBOL}{level}"]}


def judge(problems: list[Problem], completions: list[list[str]]) -> list[list[Verdict]]:
    """The exact verifier's verdict on every completion."""
    return [[FAMILIES[p.family].verify(p, text) for text in texts]
            for p, texts in zip(problems, completions, strict=True)]


def answer_of(problem: Problem, completion: str) -> str | None:
    """The answer that a completion states, None if malformed; needs no ground truth."""
    parsed = FAMILIES[problem.family].parse(completion)
    return None if parsed is None else parsed[1]


def marked_steps(problem: Problem, completion: str) -> list[tuple[str, str]]:
    """(step, "right" | "wrong" | "withdrawn") as written; [] if the completion is malformed."""
    family = FAMILIES[problem.family]
    parsed = family.parse(completion)
    if parsed is None:
        return []
    marks = family.verify(problem, completion).marks
    withdrawn = family.withdrawn(completion) if hasattr(family, "withdrawn") else []
    shown = []
    for i, (step, good) in enumerate(zip(parsed[0], marks, strict=True)):
        shown += [(text, "withdrawn") for at, text in withdrawn if at == i]
        shown.append((step, "right" if good else "wrong"))
    return shown


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); well-behaved at 0 and at n."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased P(at least one of k samples is right) (Chen 2021, arXiv:2107.03374, eq. 1)."""
    assert k <= n, "cannot estimate k beyond the samples drawn"
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


@dataclass(frozen=True)
class Accuracy:
    """A proportion with its n and 95% interval."""

    accuracy: float
    n: int
    low: float
    high: float
    steps_valid: float = 0.0      # share with every step exactly right
    well_formed: float = 0.0      # share that matches the grammar to the end


def accuracy_of(verdicts: list[Verdict]) -> Accuracy:
    """Summary of one verdict a problem."""
    n, right = len(verdicts), sum(v.correct for v in verdicts)
    low, high = wilson(right, n)
    return Accuracy(right / n, n, low, high, sum(v.steps_valid for v in verdicts) / n,
                    sum(v.well_formed for v in verdicts) / n)


def evaluate(model: Transformer, tokenizer: Tokenizer, sets: dict[str, list[Problem]],
             style: str, how: Sampling) -> dict[str, dict]:
    """Accuracy on each named set, one completion a problem; {name: fields of Accuracy}."""
    problems = [problem for name in sets for problem in sets[name]]
    verdicts = judge(problems, complete(model, tokenizer, problems, style, how))
    report, start = {}, 0
    for name, members in sets.items():
        mine = [row[0] for row in verdicts[start:start + len(members)]]
        report[name] = vars(accuracy_of(mine))
        start += len(members)
    return report


def finish_policy(log: RunLog, cfg: StageConfig, model: Transformer, tokenizer: Tokenizer,
                  rows: Sequence[dict] = (), accuracy: dict | None = None,
                  max_new: int | None = None, **result: object) -> dict:
    """How every stage that yields a policy ends: weights, greedy accuracy, a sample per level.

    rows, accuracy: what else was measured, as rows and as {method: {set: ...}}. Returns
    result.json's content.
    """
    sha256 = checkpoint.save(log.out, model, tokenizer)
    sets = frozen_sets(cfg.family, "test", cfg.eval_n)
    greedy = Sampling(temperature=0, max_new=max_new or Sampling.max_new)
    report = {"cot": evaluate(model, tokenizer, sets, "cot", greedy)}
    firsts = [problems[0] for problems in sets.values()]
    log.samples(show(model, tokenizer, firsts, "cot", greedy))
    return log.finish([*rows_of(report["cot"], "greedy"), *rows], seconds=log.seconds(),
                      weights=sha256, accuracy={**report, **(accuracy or {})}, **result)


def rows_of(report: dict[str, dict], method: str, **extra: object) -> list[dict]:
    """An evaluation as flat rows for rows.jsonl; extra: what else tells them apart."""
    return [{"set": name, "method": method, "n": 1, "accuracy": found["accuracy"],
             "low": found["low"], "high": found["high"], "problems": found["n"], **extra}
            for name, found in report.items()]


def share_rows(found: dict, problems: int) -> list[dict]:
    """The shares (floats) and counts among what a round reports of its train problems, as rows."""
    rows = []
    for name, value in found.items():
        if isinstance(value, float):
            rows.append({"set": "train", "method": name, "accuracy": value, "problems": problems})
        elif isinstance(value, int):
            rows.append({"set": "train", "method": name, "count": value})
    return rows


def show(model: Transformer, tokenizer: Tokenizer, problems: list[Problem], style: str,
         how: Sampling) -> str:
    """A few problems with completion and verdict, as text."""
    lines = []
    for problem, (text,) in zip(problems, complete(model, tokenizer, problems, style, how),
                                strict=True):
        verdict = FAMILIES[problem.family].verify(problem, text)
        mark = "right" if verdict.correct else "wrong"
        lines.append(f"{problem.prompt}{text}   [{mark}, answer {problem.answer}]")
    return "\n".join(lines)


def paired_bootstrap(a: np.ndarray, b: np.ndarray, seed: int = 0,
                     draws: int = 10_000) -> tuple[float, float, float]:
    """mean(a - b) over problems with its 95% percentile interval; a and b (n,)."""
    assert a.shape == b.shape, "paired values need equal shapes"
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    generator = np.random.default_rng(seed)
    n = len(difference)
    means = np.concatenate([difference[generator.integers(0, n, (part, n))].mean(axis=1)
                            for part in np.diff([*range(0, draws, 500), draws])])
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)
