"""What a model reaches on the frozen sets, as the exact verifier sees it.

Every greedy accuracy in this project comes from here, with n and a 95% interval beside it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from minireason.core import flops, parallel
from minireason.core.config import TrainingConfig, stream_seed
from minireason.core.files import write_atomic
from minireason.core.runlog import RunLog
from minireason.measure.estimates import share_interval
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, Verdict
from minireason.problems.frozen import load_frozen
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling

OF_KEPT = ("precision", "steps_valid", "mean_value", "share_wrong_steps")   # shares of what is kept
MANY_CUT = 0.05                   # share of completions without an end that is worth a warning
Graded = dict[str, dict[str, list[Verdict]]]     # {method: {set: a verdict per problem}}


def frozen_sets(family: str, split: str, n: int,
                levels: tuple[int, ...] = ()) -> dict[str, list[Problem]]:
    """The first n problems of each frozen level, {set name: problems}; no levels means all."""
    sets = {}
    for level in levels or FAMILIES[family].LEVELS:
        name = f"{family}-{split}-{FAMILIES[family].LEVEL_SYMBOL}{level}"
        sets[name] = load_frozen(name, n)
    return sets


def final_sets(cfg: TrainingConfig) -> dict[str, list[Problem]]:
    """The frozen sets that a stage's policy is measured on at its end."""
    return frozen_sets(cfg.family, cfg.split, cfg.eval_n, cfg.eval_levels)


def verdicts_of(problems: list[Problem], completions: list[list[str]]) -> list[list[Verdict]]:
    """The exact verifier's verdict on every completion."""
    return [[FAMILIES[p.family].verify(p, text) for text in texts]
            for p, texts in zip(problems, completions, strict=True)]


def answer_of(problem: Problem, completion: str) -> str | None:
    """The answer that a completion states, None if malformed or given up; needs no truth."""
    family = FAMILIES[problem.family]
    parsed = family.parse(completion)
    return parsed[1] if parsed and family.answer_key(parsed[1]) else None


def answer_keys(problem: Problem, completions: list[str]) -> list[str | None]:
    """What votes go by: the key of every completion's answer, None where there is no answer."""
    answers = [answer_of(problem, text) for text in completions]
    key = FAMILIES[problem.family].answer_key
    return [None if answer is None else key(answer) for answer in answers]


def marked_steps(problem: Problem, completion: str) -> list[tuple[str, str]]:
    """(step, "right" | "wrong" | "withdrawn") as written; [] if the completion is malformed.

    Of a thought that is shorter than the solution, as after think_budget, the first steps may have
    been left out: it is held against the part of the solution that suits it best.
    """
    family = FAMILIES[problem.family]
    parsed = family.parse(completion)
    if parsed is None:
        return []
    marks = family.verify(problem, completion).marks
    for first in range(1, len(problem.steps) - len(parsed[0]) + 1):
        rest = replace(problem, steps=problem.steps[first:])
        marks = max(marks, family.check_steps(rest, parsed[0]), key=sum)
    withdrawn = getattr(family, "withdrawn", lambda text: [])(completion)
    shown = []
    for i, (step, good) in enumerate(zip(parsed[0], marks, strict=True)):
        shown += [(text, "withdrawn") for at, text in withdrawn if at == i]
        shown.append((step, "right" if good else "wrong"))
    return shown


def accuracy_of(verdicts: list[Verdict]) -> dict:
    """Summary of one verdict per problem: {accuracy, n, low, high, steps_valid, well_formed}.

    steps_valid is the share with every step exactly right, well_formed the share that matches the
    grammar to the end.
    """
    n = len(verdicts)
    found = share_interval(sum(v.correct for v in verdicts), n)
    return {"accuracy": found["accuracy"], "n": n, "low": found["low"], "high": found["high"],
            "steps_valid": sum(v.steps_valid for v in verdicts) / n,
            "well_formed": sum(v.well_formed for v in verdicts) / n}


def grade(model: Transformer, tokenizer: Tokenizer, sets: dict[str, list[Problem]], style: str,
          how: Sampling) -> tuple[dict[str, list[Verdict]], float]:
    """Verdicts on each named set, one completion per problem, and the share that max_new cut."""
    problems = [problem for name in sets for problem in sets[name]]
    with flops.uncounted():
        completions = complete(model, tokenizer, problems, style, how)
    verdicts, found = verdicts_of(problems, completions), {}
    for name, members in sets.items():
        found[name] = [row[0] for row in verdicts[:len(members)]]
        del verdicts[:len(members)]
    return found, sum(not text.endswith("<eos>") for (text,) in completions) / len(problems)


def evaluate(model: Transformer, tokenizer: Tokenizer, sets: dict[str, list[Problem]],
             style: str, how: Sampling) -> dict[str, dict]:
    """Accuracy on each named set, one completion per problem; {name: accuracy_of its verdicts}."""
    verdicts, _ = grade(model, tokenizer, sets, style, how)
    return {name: accuracy_of(members) for name, members in verdicts.items()}


def finish_policy(log: RunLog, cfg: TrainingConfig, model: Transformer, tokenizer: Tokenizer,
                  rows: Sequence[dict] = (), others: Graded | None = None,
                  max_new: int | None = None, style: str = "cot", **result: object) -> dict:
    """How every stage that yields a policy ends: weights, greedy and sampled accuracy, samples.

    style: how the policy answers, "direct" if it does not think.

    `verdicts.json` holds {method: {set: a digit per problem}}: 0 wrong, 1 the right answer, 2 with
    every step right; paired differences are recomputed from it. rows: what else was measured;
    others: {method: {set: verdicts}} on the same sets. Returns result.json's content.
    """
    sha256 = checkpoint.save(log.out, model, tokenizer)
    sets = final_sets(cfg)
    greedy = Sampling(temperature=0, max_new=max_new)
    single = Sampling(seed=stream_seed(cfg.seed, "test sampled"), max_new=max_new)
    graded: Graded = {}
    for method, how in (("greedy", greedy), ("sampled", single)):
        graded[method], cut = grade(model, tokenizer, sets, style, how)
        if cut > MANY_CUT:
            log.say(f"warning: {100 * cut:.0f}% of the {method} completions were cut before their "
                    "end; the policy rambles (train longer or lower --lr), or needs more room "
                    "(pretrain --max-len)")
    report, digits, measured = {}, {}, []
    for method, verdicts in (graded | (others or {})).items():
        report[method] = {name: accuracy_of(members) for name, members in verdicts.items()}
        measured += rows_of(report[method], method)
        digits[method] = {name: "".join(str(v.correct + (v.correct and v.steps_valid))
                                        for v in members) for name, members in verdicts.items()}
    if parallel.is_main():
        write_atomic(log.out / "verdicts.json", json.dumps(digits, indent=1) + "\n")
    firsts = [problems[0] for problems in sets.values()]
    log.samples(show(model, tokenizer, firsts, style, greedy))
    accuracy = {style: report.pop("greedy"), **report}
    return log.finish([*measured, *rows], weights=sha256, accuracy=accuracy, **result)


def rows_of(report: dict[str, dict], method: str, **extra: object) -> list[dict]:
    """An evaluation as flat rows for rows.jsonl; extra: what else tells them apart."""
    rows = []
    for name, found in report.items():
        rows.append({"set": name, "method": method, "n": 1, "accuracy": found["accuracy"],
                     "low": found["low"], "high": found["high"], "problems": found["n"], **extra})
    return rows


def compute_curve(metrics: list[dict], problems: int) -> list[dict]:
    """The validation curve as rows, with the RL compute spent before each point."""
    rows, generated, spent_flops = [], 0, 0.0
    for record in metrics:
        spent = {"step": record["step"], "generated_tokens": generated, "flops": spent_flops}
        for key, accuracy in record.items():
            if key.startswith("eval/"):
                _, name, method = key.split("/")
                rows.append({"set": name, "method": method, "n": 1, "accuracy": accuracy,
                             "problems": problems, **spent})
        generated += record.get("train/generated_tokens", 0)
        spent_flops += record.get("train/flops", 0.0)
    return rows


def share_rows(found: dict, problems: int) -> list[dict]:
    """The shares (floats, with an interval where one is given) and counts among what a round
    reports of its train problems, as rows."""
    rows = []
    for name, value in found.items():
        row = {"set": "train", "method": name}
        if isinstance(value, int):
            rows.append({**row, "count": value})
        elif isinstance(value, float) and not name.endswith(("_low", "_high")):
            of = found["kept"] if name in OF_KEPT else problems
            row |= {"accuracy": value, "problems": of}
            if f"{name}_low" in found:
                row |= {"low": found[f"{name}_low"], "high": found[f"{name}_high"]}
            rows.append(row)
    return rows


def show(model: Transformer, tokenizer: Tokenizer, problems: list[Problem], style: str,
         how: Sampling) -> str:
    """A few problems with completion and verdict, as text."""
    lines = []
    with flops.uncounted():
        completions = complete(model, tokenizer, problems, style, how)
    verdicts = verdicts_of(problems, completions)
    for problem, (text,), (verdict,) in zip(problems, completions, verdicts, strict=True):
        mark = "right" if verdict.correct else "wrong"
        lines.append(f"{problem.prompt}{text}   [{mark}, answer {problem.answer}]")
    return "\n".join(lines)
