"""`minireason eval`: a checkpoint's accuracy on a frozen set or on a JSONL file of problems.

One greedy completion per problem, or N samples: then also pass@k (at least one of k is right, the
oracle bound; Chen 2021) and maj@k (the vote of k is right; Wang 2022), unbiased over subsets.
Lines that are too long for the model are named and left out of every share.

With --gym the problems are reasoning-gym's own, as many as can be written in our grammar, and its
own scorer judges the answers: right is a score of exactly 1.
"""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minireason.core import config, files, parallel
from minireason.core.errors import UserError, check_choice
from minireason.measure.estimates import Pool, answer_ids, mean_interval
from minireason.measure.evaluate import accuracy_of, answer_keys, verdicts_of
from minireason.measure.gym import GYM, gym_scores, make_gym, written_in_our_grammar
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, Problem
from minireason.problems.frozen import frozen_path, numbered_problems
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling

MOST_NAMED = 20                   # lines that the table names of each kind


@dataclass(frozen=True)
class Config:
    """Accuracy with n and a 95% interval, level by level."""

    checkpoint: str               # folder of a policy
    problems: str = ""            # a frozen set such as chain-test-k6, or a JSONL file
    gym: str = ""                 # in their place, chain_sum | basic_arithmetic | countdown
    gym_settings: tuple[str, ...] = ()   # of that generator, such as max_digits=1 max_terms=4
    style: str = "cot"            # cot | direct | auto (the policy chooses) | one of the family's
    n: int = 1                    # samples per problem; above 1 also pass@k and maj@k
    temperature: float = 0.0      # 0 is greedy; with --n above 1 give for instance 1
    max_new: int = 0              # tokens per completion at most; 0: the family's
    limit: int = 0                # the first problems only; 0 means all, of --gym 500
    out: str = ""                 # JSON of the result, if given
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        if self.n < 1 or (self.n > 1 and self.temperature == 0):
            raise UserError(f"--n {self.n}: several samples need --temperature above 0, such as 1")
        if bool(self.problems) == bool(self.gym):
            raise UserError("give --problems or --gym")
        if self.gym:
            check_choice("gym", self.gym, GYM)


def run(cfg: Config) -> dict:
    """Print a table and return {"groups": {"chain level 6": {...}}} with what was asked for."""
    config.check_numbers(cfg)
    device = parallel.init(config.resolve_device(cfg.device))
    if cfg.out:                       # before the work: can it be written?
        files.make_folder(Path(cfg.out).parent)
        check_replaceable(Path(cfg.out))
    gym = make_gym(cfg.gym, cfg.gym_settings, cfg.limit or 500, cfg.seed) if cfg.gym else []
    lines = written_in_our_grammar(cfg.gym, gym) if cfg.gym else read(cfg.problems)
    lines = dict(list(lines.items())[:max(0, cfg.limit) or None])
    for problem in lines.values():
        check_choice("style", cfg.style, (*FAMILIES[problem.family].OPENER, "auto"))
    policy, tokenizer = checkpoint.load(cfg.checkpoint, device)
    trained_on = check_families(cfg.checkpoint, lines)
    long = too_long(lines, cfg.style.replace("auto", "cot"), tokenizer, policy.config.max_len)
    problems = [lines[line] for line in sorted(set(lines) - set(long))]
    how = Sampling(n=cfg.n, temperature=cfg.temperature, max_new=cfg.max_new or None,
                   seed=config.stream_seed(cfg.seed, "eval"))
    completions = complete(policy, tokenizer, problems, cfg.style, how)
    groups: dict[str, list[int]] = {}
    for i, problem in sorted(enumerate(problems), key=lambda pair: pair[1].level):
        groups.setdefault(f"{problem.family} level {problem.level}", []).append(i)
    if len(groups) > 1:
        groups["all"] = list(range(len(problems)))
    result = {"checkpoint": cfg.checkpoint, "problems": cfg.problems or cfg.gym, "style": cfg.style,
              "trained_on": trained_on, "n": cfg.n, "temperature": cfg.temperature,
              "seed": cfg.seed, "lines": len(lines),
              "too_long": long, "repeated": repeated(lines), "groups": {}}
    for name, members in groups.items():
        result["groups"][name] = measure(cfg, [problems[i] for i in members],
                                         [completions[i] for i in members])
    if cfg.gym:
        numbers = sorted(set(lines) - set(long))
        result["gym"] = gym_scores(gym, dict(zip(numbers, completions, strict=True)), problems)
    if parallel.is_main():
        try:                          # whichever of the two fails, the other is there
            if cfg.out:
                files.write_atomic(cfg.out, json.dumps(result, indent=1) + "\n")
        finally:
            print(accuracy_table(result))
    return result


def check_replaceable(path: Path) -> None:
    """UserError if the path is taken by anything but an earlier result of this command."""
    files.check_target(path)
    if path.exists():
        try:
            held = files.read_json(path)
        except UserError:
            held = {}
        if "groups" not in held:
            raise UserError(f"--out {path}: is there and no result of eval; choose another path")


def read(name: str) -> dict[int, Problem]:
    """{line: problem} of a frozen set by name, else of a JSONL file by path."""
    frozen = re.fullmatch(r"[a-z]+(-[a-z]+)+-[a-z]\d+", name) and not Path(name).exists()
    return numbered_problems(frozen_path(name) if frozen else name)


def check_families(folder: str, lines: dict[int, Problem]) -> str:
    """The family that a policy was trained on, if known; UserError on problems of families whose
    tokens are others, which would reach it as something that it has never read."""
    family = checkpoint.family_of(folder)
    for other in {problem.family for problem in lines.values()} if family in FAMILIES else ():
        if FAMILIES[other].TOKENS != FAMILIES[family].TOKENS:
            raise UserError(f"{folder}: was trained on {family}, in whose tokens a problem of "
                            f"{other} cannot be asked; give a policy of {other}")
    return family


def too_long(lines: dict[int, Problem], style: str, tokenizer: Tokenizer,
             max_len: int) -> list[int]:
    """The lines whose prompt and ideal completion a row of max_len tokens cannot hold."""
    texts = [f"<bos>{problem.prompt}{FAMILIES[problem.family].render(problem, style)}"
             for problem in lines.values()]
    return [line for line, ids in zip(lines, tokenizer.encode_batch(texts), strict=True)
            if len(ids) > max_len]


def repeated(lines: dict[int, Problem]) -> list[list[int]]:
    """[line, earlier line with the same problem] of every duplicate."""
    first: dict[str, int] = {}
    pairs = [[line, first.setdefault(problem.key, line)] for line, problem in lines.items()]
    return [[line, earlier] for line, earlier in pairs if line != earlier]


def measure(cfg: Config, problems: list[Problem], completions: list[list[str]]) -> dict:
    """Accuracy, step validity and, with several samples, pass@k and maj@k of one group."""
    verdicts = verdicts_of(problems, completions)
    singles = accuracy_of(list(itertools.chain.from_iterable(verdicts)))
    if cfg.n == 1:
        return singles
    pools = []
    for problem, texts, row in zip(problems, completions, verdicts, strict=True):
        correct = np.array([verdict.correct for verdict in row], dtype=float)
        ids = answer_ids(answer_keys(problem, texts))
        pools.append(Pool(correct, ids, values=correct, tokens=correct))
    result = {**singles, **mean_interval(np.array([pool.correct.mean() for pool in pools])),
              "n": len(problems), "pass_at": {}, "maj_at": {}}
    for k in [2 ** i for i in range(cfg.n.bit_length())]:
        for kind, method in (("pass_at", "coverage"), ("maj_at", "majority")):
            expected = []
            for problem, pool in zip(problems, pools, strict=True):
                subsets = config.rng(cfg.seed, "eval subsets", problem.key, k)
                expected.append(pool.accuracy(method, k, subsets))
            result[kind][str(k)] = mean_interval(np.array(expected))
    return result


def accuracy_table(result: dict) -> str:
    """The result as lines of text, in percent."""
    how = f"{result['n']} samples at T = {result['temperature']:g}"
    if result["temperature"] == 0:
        how = "greedy"
    trained = f", trained on {result['trained_on']}" if result["trained_on"] else ""
    lines = [f"{result['checkpoint']}{trained}, on {result['problems']}, {result['style']}, {how}"]
    for name, group in result["groups"].items():
        lines.append(f"{name:<18}{percent(group)}  n = {group['n']}, every step right "
                     f"{100 * group['steps_valid']:.1f}, well formed "
                     f"{100 * group['well_formed']:.1f}")
        for kind in ("pass_at", "maj_at"):
            for k, point in group.get(kind, {}).items():
                lines.append(f"  {kind.replace('_at', '@')}{k:<11}{percent(point)}")
    if "gym" in result:
        found = result["gym"]
        lines.append(f"reasoning-gym's scorer: {percent(found).strip()} of the {found['asked']} of "
                     f"its {found['of']} problems that our grammar can write "
                     f"({found['asked'] / found['of']:.1%}); {found['train_split']} of them are of "
                     "the split that training draws from")
    for what, named in (("too long for this model, counted apart", result["too_long"]),
                        ("the same problem as an earlier line, counted again",
                         [f"{line} (as {first})" for line, first in result["repeated"]])):
        if named:
            shown = ", ".join(map(str, named[:MOST_NAMED])) + ", ..." * (len(named) > MOST_NAMED)
            lines.append(f"{what}: {len(named)} of {result['lines']}, line {shown}")
    return "\n".join(lines)


def percent(point: dict) -> str:
    """An accuracy with its 95% interval."""
    return (f"{100 * point['accuracy']:5.1f}% [{100 * point['low']:.1f}, "
            f"{100 * point['high']:.1f}]")
