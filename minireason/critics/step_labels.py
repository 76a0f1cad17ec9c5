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
from minireason.model.tokenizer import STEP_ENDS, Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.problems.base import check_prefix
from minireason.sampling.complete import limits_of, prompt_ids, sample
from minireason.sampling.sampler import Sampling

END = re.compile("|".join(map(re.escape, STEP_ENDS)))


def step_prefixes(completion: str) -> list[str]:
    """The completion up to and with each step end; opener included."""
    return [completion[:match.end()] for match in END.finditer(completion)]


def exact_labels(problem: Problem, completion: str) -> list[bool]:
    """At every step end: is the completion exactly right so far?"""
    family = FAMILIES[problem.family]
    return [check_prefix(family, problem, prefix, completion)
            for prefix in step_prefixes(completion)]


def outcome_labels(completion: str, right: bool) -> list[float]:
    """The verdict on the whole completion, at every step end."""
    return [float(right)] * len(step_prefixes(completion))


def verdicts_from_prefixes(policy: Transformer, tokenizer: Tokenizer,
                           prefixes: list[tuple[Problem, str]],
                           how: Sampling) -> dict[tuple[str, str], list[bool]]:
    """Verdicts of how.n completions from each distinct prefix; {(prompt, prefix): [right]}.

    Prefixes (opener included, `<eos>` not) are decoded in order of length, so that a chunk holds
    rows with about as much left to say; ranks share them. One that leaves no room is all wrong.
    """
    distinct = list({(problem.prompt, prefix): (problem, prefix)
                     for problem, prefix in prefixes}.values())
    tails = tokenizer.encode_batch([prefix for _, prefix in distinct])
    heads = prompt_ids(tokenizer, [problem for problem, _ in distinct], "cot")
    rows = [head + tail[1:] for head, tail in zip(heads, tails, strict=True)]
    roomy = [i for i, row in enumerate(rows) if len(row) < policy.config.max_len]
    order = parallel.share(sorted(roomy, key=lambda i: len(rows[i])))
    limits = limits_of(how, [distinct[i][0] for i in order])
    texts = sample(policy, tokenizer, [rows[i] for i in order], how, order, limits)
    wins = {(problem.prompt, prefix): [False] * how.n for problem, prefix in distinct}
    found = []
    for at, i in enumerate(order):
        problem, prefix = distinct[i]
        verify = FAMILIES[problem.family].verify
        found.append([verify(problem, prefix + text).correct
                      for text in texts[at * how.n:(at + 1) * how.n]])
    for i, right in parallel.gather(list(zip(order, found, strict=True))):
        wins[distinct[i][0].prompt, distinct[i][1]] = right
    return wins


def monte_carlo_labels(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                       completions: list[str], how: Sampling) -> list[list[float]]:
    """At every step end the share of how.n rollouts that end right; at `<eos>` the verdict.

    A completion's own continuation is not among the rollouts of its prefixes.
    """
    pairs = list(zip(problems, completions, strict=True))
    inner = [(problem, prefix) for problem, text in pairs for prefix in step_prefixes(text)
             if not prefix.endswith("<eos>")]
    wins = verdicts_from_prefixes(policy, tokenizer, inner, how)
    labels = []
    for problem, text in pairs:
        row = []
        for prefix in step_prefixes(text):
            if prefix.endswith("<eos>"):
                row.append(float(FAMILIES[problem.family].verify(problem, prefix).correct))
            else:
                row.append(float(np.mean(wins[problem.prompt, prefix])))
        labels.append(row)
    return labels


def label_accuracy(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                   completions: list[str], how: Sampling) -> list[dict]:
    """How often Monte Carlo labels agree with the exact truth, as rows for n = 1, 2, 4, ... how.n.

    Truth of a step end before `<eos>`: every step so far is exactly right. Per n: hard (any of n
    right) and soft (more than half right), averaged over the how.n / n disjoint sets of rollouts.
    """
    ends = []                                         # (problem, prefix, is it exactly right?)
    for problem, completion in zip(problems, completions, strict=True):
        labels = exact_labels(problem, completion)
        for prefix, label in zip(step_prefixes(completion), labels, strict=True):
            if not prefix.endswith("<eos>"):
                ends.append((problem, prefix, label))
    wins = verdicts_from_prefixes(policy, tokenizer, [(p, prefix) for p, prefix, _ in ends],
                                  replace(how, seed=how.seed + 1))
    right = np.array([wins[problem.prompt, prefix] for problem, prefix, _ in ends])   # (S, N)
    truth = np.array([label for _, _, label in ends])
    rows = []
    for n in (2 ** i for i in range(how.n.bit_length())):
        blocks = right.reshape(len(ends), how.n // n, n)
        hard, soft = blocks.any(axis=2), np.asarray(blocks.mean(axis=2) > 0.5)        # (S, N / n)
        for name, label in (("mc_hard", hard), ("mc_soft", soft)):
            rows.append({"set": "held-out", "method": name, "n": n, "count": len(ends),
                         "share_true": float(truth.mean()),
                         "accuracy": float((label == truth[:, None]).mean()),
                         "false_positive": _share(label, ~truth),
                         "false_negative": _share(~label, truth)})
    return rows


def _share(label: np.ndarray, among: np.ndarray) -> float:
    """Share of true labels among some step ends; 0 if there are none."""
    return float(label[among].mean()) if among.any() else 0.0
