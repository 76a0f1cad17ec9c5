"""Step labels: what a process critic is taught at the end of each step of a completion.

    exact        every step so far is exactly right: the verifier's, which the papers had to buy
    Monte Carlo  the policy goes on n times from there; hard: any of them ends right, soft: the
                 share that does (Math-Shepherd, Wang 2023, arXiv:2312.08935, section 3.2)
    outcome      the verdict on the whole completion, repeated (Cobbe 2021, arXiv:2110.14168)

At `<eos>` nothing is left to go on with, and every label is the verdict. A prefix whose steps are
right but whose policy never recovers, or the reverse, is where Monte Carlo and truth part.
"""

import re
from dataclasses import replace

import numpy as np

from minireason.core import parallel
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.complete import prompt_ids
from minireason.sampling.sampler import Sampling, sample

END = re.compile(r";|</think>|<eos>")    # the texts of critic.STEP_ENDS


def step_prefixes(completion: str) -> list[str]:
    """The completion up to and with each step end; opener included."""
    return [completion[:match.end()] for match in END.finditer(completion)]


def exact_label(problem: Problem, prefix: str, completion: str) -> bool:
    """Is the prefix exactly right so far? At `<eos>` the verdict on the answer.

    A thought that closes must also be complete: closed too early, it is not right.
    """
    family = FAMILIES[problem.family]
    if prefix.endswith("<eos>"):
        return family.verify(problem, prefix).correct
    if prefix.endswith("</think>"):
        closed = family.verify(problem, f"{prefix}{problem.answer}<eos>").steps_valid
        return closed or family.verify(problem, completion).steps_valid
    thought = prefix.removeprefix(family.OPENER["cot"]).removesuffix(";")
    marks = family.verify(problem, f"{prefix[:-1]}</think>{problem.answer}<eos>").marks
    marks = marks or family.check_steps(problem, tuple(thought.split(";")))
    return "</think>" not in thought and all(marks)


def exact_labels(problem: Problem, completion: str) -> list[bool]:
    """exact_label at every step end."""
    return [exact_label(problem, prefix, completion) for prefix in step_prefixes(completion)]


def go_on(policy: Transformer, tokenizer: Tokenizer, prefixes: list[tuple[Problem, str]],
          how: Sampling) -> dict[tuple[str, str], list[bool]]:
    """Verdicts of how.n completions from each different prefix; {(prompt, prefix): [right]}.

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
    texts = sample(policy, tokenizer, [rows[i] for i in order], how, order)
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
    ends = [step_prefixes(completion) for completion in completions]
    wins = go_on(policy, tokenizer,
                 [(problem, prefix) for problem, prefixes in zip(problems, ends, strict=True)
                  for prefix in prefixes if not prefix.endswith("<eos>")], how)
    return [[float(np.mean(wins[problem.prompt, prefix])) if (problem.prompt, prefix) in wins
             else float(exact_label(problem, prefix, prefix)) for prefix in prefixes]
            for problem, prefixes in zip(problems, ends, strict=True)]


def label_accuracy(policy: Transformer, tokenizer: Tokenizer, problems: list[Problem],
                   completions: list[str], how: Sampling) -> dict:
    """How often Monte Carlo labels agree with the exact truth, for n = 1, 2, 4, ... how.n.

    Truth of a step end before `<eos>`: every step so far is exactly right. Per n: hard (any of n
    right) and soft (more than half right), averaged over the how.n / n disjoint sets of rollouts.
    """
    ends = [(problem, prefix, exact_label(problem, prefix, completion))
            for problem, completion in zip(problems, completions, strict=True)
            for prefix in step_prefixes(completion) if not prefix.endswith("<eos>")]
    wins = go_on(policy, tokenizer, [(problem, prefix) for problem, prefix, _ in ends],
                 replace(how, seed=how.seed + 1))
    right = np.array([wins[problem.prompt, prefix] for problem, prefix, _ in ends])   # (S, N)
    truth = np.array([label for _, _, label in ends])
    report: dict = {"step_ends": len(ends), "share_true": float(truth.mean())}
    for n in (2 ** i for i in range(how.n.bit_length())):
        blocks = right.reshape(len(ends), how.n // n, n)
        hard, soft = blocks.any(axis=2), blocks.mean(axis=2) > 0.5                    # (S, N / n)
        report[str(n)] = {name: {"accuracy": float((label == truth[:, None]).mean()),
                                 "false_positive": _share(label, ~truth),
                                 "false_negative": _share(~label, truth)}
                          for name, label in (("hard", hard), ("soft", soft))}
    return report


def _share(label: np.ndarray, among: np.ndarray) -> float:
    """Share of true labels among some step ends; 0 if there are none."""
    return float(label[among].mean()) if among.any() else 0.0
