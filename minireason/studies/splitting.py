"""`minireason splitting`: which steps a policy breaks into easier ones, and what that is worth.

Of every policy of finished runs of the family `decomposition`, and of RL again with a price per
token: the share of operations that it splits, by how hard they are, where the way is free; how
often each way is right; and accuracy where it may choose, must not and must split, at equal tokens,
where the cheaper mode votes over more samples (Wang 2022, arXiv:2203.11171). The last level is
longer than anything in the corpus.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import groupby

from minireason.core.config import stream_seed
from minireason.core.errors import UserError
from minireason.measure.estimates import answer_ids
from minireason.measure.evaluate import answer_keys, frozen_sets, verdicts_of
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import decomposition
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.studies import ladders, shared
from minireason.studies.splitting_tables import BINS, BLOCKS, MODES, figure_of, text_of


@dataclass(frozen=True)
class Config(shared.Study):
    """What is split before and after every rung, and accuracy beside never and always splitting."""

    runs: tuple[str, ...] = ()    # finished runs of the family, one per seed
    prices: tuple[float, ...] = (0.002, 0.01)   # per token, an arm of RL each
    problems: int = 500           # per level, at most
    n: int = 16                   # samples of each, in each mode

    def __post_init__(self):
        if not self.runs and not self.source:
            raise UserError("splitting: give --runs, finished run folders, or --from")


def run(cfg: Config) -> dict:
    """Train and measure what is missing; writes splitting.json, .md and .png into `out`."""
    others = {f"RL, price {price:g}": {"price": price} for price in cfg.prices}
    about = {"problems": cfg.problems, "n": cfg.n}
    return ladders.study_ladders(cfg, "splitting", cfg.runs, decomposition.NAME, others, about,
                                rows_of_policy, text_of, figure_of)


def questions(split: str, n: int) -> list[str]:
    """The first n different questions of each frozen level, without what they prescribe."""
    found = []
    for problems in frozen_sets(decomposition.NAME, split, 10 ** 6).values():
        bare = [problem.prompt.rpartition(":")[2] for problem in problems]
        found += list(dict.fromkeys(bare))[:n]
    return found


def rows_of_policy(about: dict, policy: Transformer, tokenizer: Tokenizer) -> list[dict]:
    """Answers by mode, level and hardest operation; operations by operator, hardness and way.

    A row of the first kind holds of each problem the samples' verdicts as digits and their answers
    as letters, equal ones the same, and the tokens of all together. One of the second counts
    operations that could be split, by blocks of problems, and, in all, those whose result is exact.
    """
    rows, asked = [], questions(about["split"], about["problems"])
    for mode in MODES:
        problems = [decomposition.read(f"{mode}:{bare}".removeprefix(":")) for bare in asked]
        how = Sampling(about["n"], seed=stream_seed(about["seed"], "splitting", mode))
        texts = complete(policy, tokenizer, problems, "cot", how)
        cells, counts, exact = {}, defaultdict(lambda: [0] * BLOCKS), Counter()
        for i, (problem, own, verdicts) in enumerate(zip(
                problems, texts, verdicts_of(problems, texts), strict=True)):
            operations = map(decomposition.operation_of, decomposition.facts(problem))
            hard = [decomposition.hardness(one) for one in operations
                    if decomposition.pieces_of(one)]
            where = problem.level, min(max(hard, default=2), max(BINS))
            row = cells.setdefault(where, {
                "kind": "answers", "mode": mode, "level": where[0], "hardest": where[1],
                "right": [], "answers": [], "tokens": 0})
            row["right"].append("".join(str(int(verdict.correct)) for verdict in verdicts))
            ids = answer_ids(answer_keys(problem, own))
            row["answers"].append("".join(chr(ord("a") + one) for one in ids))
            row["tokens"] += sum(len(ids) - 1 for ids in tokenizer.encode_batch(own))
            for text in own:
                taken, end = decomposition.walk(problem, (decomposition.parse(text) or ((),))[0])
                for number, steps in groupby(taken, key=lambda step: step.number):
                    first, *others = steps
                    if first.way:
                        hard = min(decomposition.hardness(first.operation), max(BINS))
                        where = problem.level, first.operation[1], hard, first.way
                        counts[where][i % BLOCKS] += 1
                        exact[where] += number < end.done and all(
                            step.right for step in (first, *others))
        rows += [{**row, "right": " ".join(row["right"]), "answers": " ".join(row["answers"])}
                 for row in cells.values()]
        rows += [{"kind": "operations", "mode": mode, **dict(zip(
            ("level", "operator", "hardness", "way"), where, strict=True)),
            "count": count, "right_results": exact[where]}
            for where, count in sorted(counts.items())]
    return rows
