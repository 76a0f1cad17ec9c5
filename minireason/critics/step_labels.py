"""Step labels: what a process critic is taught at the end of each step of a completion.

    exact        every step so far is exactly right: the verifier's, which the papers had to buy
    Monte Carlo  the policy continues n times from there; hard: any of them ends right, soft: the
                 share that does (Math-Shepherd, Wang 2023, arXiv:2312.08935, section 3.2)
    outcome      the verdict on the whole completion, repeated (Cobbe 2021, arXiv:2110.14168)

At `<eos>` nothing is left to continue, and every label is the verdict. A prefix whose steps are
right but whose policy never recovers, or the reverse, is where Monte Carlo and truth part.
"""

import re
from dataclasses import replace

import numpy as np

from minireason.core import parallel
from minireason.critics.value_head import rollout_ids
from minireason.model.tokenizer import STEP_ENDS, Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.problems.base import check_prefix
from minireason.sampling.complete import limits_of, sample
from minireason.sampling.sampler import Sampling

END = re.compile("|".join(map(re.escape, STEP_ENDS)))


def step_prefixes(completion: str) -> list[str]:
    """The completion up to and with each step end; opener included."""
    return [completion[:match.end()] for match in END.finditer(completion)]


def inner_prefixes(completion: str) -> list[str]:
    """Those of step_prefixes after which something is left to write: all but `<eos>`."""
    return step_prefixes(completion.removesuffix("<eos>"))


def exact_labels(problem: Problem, completion: str) -> list[float]:
    """At every step end: 1 if the completion is exactly right so far, else 0."""
    family = FAMILIES[problem.family]
    return [float(check_prefix(family, problem, prefix, completion))
            for prefix in step_prefixes(completion)]


def outcome_labels(completion: str, right: bool) -> list[float]:
    """The verdict on the whole completion, at every step end."""
    return [float(right)] * len(step_prefixes(completion))


def verdicts_from_prefixes(policy: Transformer, tokenizer: Tokenizer,
                           prefixes: list[tuple[Problem, str]], how: Sampling) -> list[list[bool]]:
    """Of each (problem, prefix) the verdicts on how.n completions; equal prefixes share theirs.

    Prefixes (opener included, `<eos>` not) are decoded in order of length, so that a chunk holds
    rows with about as much left to say; ranks share them. One that leaves no room is all wrong.
    """
    distinct = list(dict.fromkeys(prefixes))
    rows = rollout_ids(tokenizer, [problem for problem, _ in distinct],
                       [prefix for _, prefix in distinct])
    roomy = [i for i, (row, _) in enumerate(rows) if len(row) < policy.config.max_len]
    order = parallel.share(sorted(roomy, key=lambda i: len(rows[i][0])))
    limits = limits_of(how, [distinct[i][0] for i in order])
    texts = sample(policy, tokenizer, [rows[i][0] for i in order], how, order, limits)
    found = []
    for at, i in enumerate(order):
        problem, prefix = distinct[i]
        verify = FAMILIES[problem.family].verify
        found.append((distinct[i], [verify(problem, prefix + text).correct
                                    for text in texts[at * how.n:(at + 1) * how.n]]))
    verdicts = dict(parallel.gather(found))
    return [verdicts.get(pair, [False] * how.n) for pair in prefixes]


def monte_carlo_labels(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                       completions: list[str], how: Sampling) -> list[list[float]]:
    """At every step end the share of how.n rollouts that end right; at `<eos>` the verdict.

    A completion's own continuation is not among the rollouts of its prefixes.
    """
    pairs = list(zip(problems, completions, strict=True))
    inner = [(problem, prefix) for problem, text in pairs for prefix in inner_prefixes(text)]
    verdicts = iter(verdicts_from_prefixes(policy, tokenizer, inner, how))
    labels = []
    for problem, text in pairs:
        row = [float(np.mean(next(verdicts))) for _ in inner_prefixes(text)]
        if text.endswith("<eos>"):
            row.append(float(FAMILIES[problem.family].verify(problem, text).correct))
        labels.append(row)
    return labels


def label_accuracy(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                   completions: list[str], how: Sampling) -> list[dict]:
    """How often Monte Carlo labels agree with the exact truth, as rows for n = 1, 2, 4, ... how.n.

    Truth of a step end before `<eos>`: every step so far is exactly right. Per n: hard (any of n
    right) and soft (more than half right), averaged over the how.n / n disjoint sets of rollouts.
    """
    ends, labels = [], []
    for problem, text in zip(problems, completions, strict=True):
        prefixes = inner_prefixes(text)
        ends += [(problem, prefix) for prefix in prefixes]
        labels += exact_labels(problem, text)[:len(prefixes)]
    right = np.array(verdicts_from_prefixes(policy, tokenizer, ends,
                                            replace(how, seed=how.seed + 1)))         # (S, N)
    truth = np.array(labels, dtype=bool)
    rows = []
    for n in (2 ** i for i in range(how.n.bit_length())):
        wins = right.reshape(len(ends), how.n // n, n).sum(axis=2)                    # (S, N / n)
        for name, label in (("mc_hard", wins > 0), ("mc_soft", 2 * wins > n)):
            of_wrong, of_right = label[~truth], label[truth]
            rows.append({"set": "held-out", "method": name, "n": n, "count": len(ends),
                         "share_true": float(truth.mean()),
                         "accuracy": float((label == truth[:, None]).mean()),
                         "false_positive": float(of_wrong.sum() / max(1, of_wrong.size)),
                         "false_negative": float((~of_right).sum() / max(1, of_right.size))})
    return rows
