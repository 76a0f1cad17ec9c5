"""Samples of frozen problems, drawn shard by shard and kept as records in the stage's folder.

A record holds what any estimator needs of one problem's N samples: tokens, answers, verdicts and
the critics' values, each a list of N. Sampling is done once; all figures are arithmetic on records.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minireason.core import flops, parallel
from minireason.core.files import read_checked, write_atomic, write_checked
from minireason.core.runlog import RunLog
from minireason.measure.estimates import Pool, answer_ids
from minireason.measure.evaluate import answer_keys, answer_of
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling

Judge = Callable[[list[Problem], list[list[str]]], list[list[float]]]   # a value per completion
FAILED = 1e-4                     # value of a sample that fails a test: counts where all of them do



def sample_records(policy: Transformer, tokenizer: Tokenizer, judges: dict[str, Judge],
                   problems: list[Problem], how: Sampling) -> list[dict]:
    """One record per problem, drawn on this rank alone; judges {field of the record: its judge}."""
    completions = complete(policy, tokenizer, problems, "cot", how, alone=True)
    values = {field: judge(problems, completions) for field, judge in judges.items()}
    records = []
    for i, (problem, texts) in enumerate(zip(problems, completions, strict=True)):
        verdicts = [FAMILIES[problem.family].verify(problem, text) for text in texts]
        record = {
            "prompt": problem.prompt, "answer": problem.answer,
            "tokens": [len(ids) - 1 for ids in tokenizer.encode_batch(texts)],  # opener is forced
            "answers": answer_keys(problem, texts),
            "correct": [int(verdict.correct) for verdict in verdicts],
            "steps_valid": [int(verdict.steps_valid) for verdict in verdicts],
            "ended": [int(text.endswith("<eos>")) for text in texts]}
        if any(passed := passed_tests(problem, texts)):       # the family has tests
            record["passed"] = passed
            record["self_check_values"] = [1.0 if all(own) else FAILED for own in passed]
        for field, found in values.items():
            record[field] = [round(value, 4) for value in found[i]]
        records.append({**record, "example": texts[0]})
    return records


def passed_tests(problem: Problem, completions: list[str]) -> list[list[int]]:
    """Of each completion, which of its family's own tests (`self_check`) its answer passes."""
    self_check, found = getattr(FAMILIES[problem.family], "self_check", lambda *_: ()), []
    tests = len(self_check(problem, problem.answer))
    for text in completions:
        answer = answer_of(problem, text)
        passed = (False,) * tests if answer is None else self_check(problem, answer)
        found.append([int(one) for one in passed])
    return found


def sharded_records(log: RunLog, kind: str, sets: dict[str, list[Problem]], size: int,
                    make: Callable[[list[Problem], str], list[dict]]) -> dict[str, list[dict]]:
    """{set name: one record per problem}, made `size` problems at a time.

    make(problems, purpose) returns the records of one shard; purpose names its random streams. A
    shard is a file `kind-set-start.json`; a resumed run reads it back. Ranks share the shards.
    """
    everything = [(name, start) for name, problems in sets.items()
                  for start in range(0, len(problems), size)]
    shards = parallel.share(everything)
    for i in log.steps(0, len(shards)):
        name, start = shards[i]
        path = log.out / f"{kind}-{name}-{start}.json"
        if not path.exists():
            with flops.uncounted():
                records = make(sets[name][start:start + size], f"{name} {start}")
            write_checked(path, records, log.owner(path.name))
    parallel.barrier()
    found: dict[str, list[dict]] = {name: [] for name in sets}
    for name, start in everything:
        path = log.out / f"{kind}-{name}-{start}.json"
        found[name] += read_checked(path, log.owner(path.name))
    return found


def values_field(method: str) -> str:
    """The field of a record that a method goes by."""
    for prefix in ("outcome", "self_check"):
        if method.startswith(prefix):
            return f"{prefix}_values"
    return "values"


def save_pools(path: Path, drawn: dict[float, dict[str, list[dict]]],
               greedy: dict[str, np.ndarray]) -> None:
    """The numbers of the samples, some bytes each, from which every paired difference follows.

    drawn: {temperature: {set: its records}}; greedy: {set: (P,) 1 where the one greedy answer is
    right}. An .npz of arrays (P, N) named "set temperature field", critics' values in 1/10,000, and
    "set greedy".
    """
    arrays: dict[str, Any] = {
        f"{name} greedy": right.astype(np.uint8) for name, right in greedy.items()}
    for temperature, sets in drawn.items():
        for name, records in sets.items():
            start = f"{name} {temperature:g}"
            arrays[f"{start} answers"] = np.array(
                [answer_ids(record["answers"]) for record in records], np.int16)
            for field in ("correct", "tokens"):
                arrays[f"{start} {field}"] = np.array([r[field] for r in records], np.uint16)
            for field in ("values", "outcome_values", "self_check_values"):
                if field in records[0]:
                    values = 10_000 * np.array([record[field] for record in records])
                    arrays[f"{start} {field}"] = values.round().astype(np.uint16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_pools(path: Path, name: str, temperature: float, values: str = "values") -> list[Pool]:
    """What save_pools kept of one set's samples, one pool per problem, judged by one critic."""
    with np.load(path) as arrays:
        correct, answers, tokens, judged = (
            arrays[f"{name} {temperature:g} {field}"]
            for field in ("correct", "answers", "tokens", values))
    return [Pool(*problem) for problem in
            zip(correct.astype(float), answers, judged / 10_000, tokens, strict=True)]
