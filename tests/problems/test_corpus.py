"""The pretraining mixture: the train split only, the shares it promises, lines that are right."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.problems import chain, split_of
from minireason.problems import corpus as module
from minireason.problems.corpus import Mixture, corpus_lines

CHAIN = Mixture(facts=0.3, direct=0.25, facts_per_line=4, max_level=5, common_level=2,
                worked_tail=0.5, rule=0.0, rare=0.0, slip=0.0)      # by authors who never err


@pytest.mark.parametrize(("mixture", "sha256"), [
    (Mixture(), "b88bf26700716314"), (CHAIN, "7939db8fbf2fea68"),
    (Mixture(max_level=16, common_level=16), "65398760ea6e255b")], ids=("default", "exact", "gpu"))
def test_a_seed_gives_the_lines_it_always_gave(mixture, sha256):
    """All committed results hang on these lines: only a change that says so may alter them."""
    lines = corpus_lines(mixture, chain, rng(0, "pretrain", 0), 500)
    assert hashlib.sha256("".join(lines).encode()).hexdigest()[:16] == sha256


def kind_of(line: str) -> str:
    return "worked" if "<think>" in line else "direct" if "</think>" in line else "fact"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2 ** 40))
def test_every_line_is_right_and_of_the_train_split(seed):
    (line,) = corpus_lines(CHAIN, chain, rng(seed, "test"), 1)
    assert line.endswith("<eos>") and line.count("<eos>") == 1
    if kind_of(line) == "fact":
        facts = line.removesuffix("<eos>").split(";")
        assert len(facts) == 4
        for fact in facts:
            left, operator, right, result = chain._STEP.fullmatch(fact).groups()
            assert chain.compute(int(left), operator, int(right)) == int(result)
        return
    prompt, opener, rest = line.partition("<think>" if "<think>" in line else "</think>")
    problem = chain.read(prompt)
    verdict = chain.verify(problem, opener + rest)
    assert verdict.correct and problem.level <= 5
    assert verdict.steps_valid == (opener == "<think>")
    assert split_of(problem) == "train"


def test_problems_are_asked_of_the_train_split_only(monkeypatch):
    """Facts do not show the chain they come from, so the question itself is watched."""
    asked = []
    real = module.sample_split
    monkeypatch.setattr(module, "sample_split",
                        lambda f, g, level, split: asked.append(split) or real(f, g, level, split))
    kinds = set(map(kind_of, corpus_lines(CHAIN, chain, rng(0, "test"), 60)))
    assert kinds == {"fact", "direct", "worked"} and asked == ["train"] * 60


def test_shares_and_tail_are_those_of_the_config():
    generator, n = rng(0, "shares"), 4000
    lines = corpus_lines(CHAIN, chain, generator, n)
    kinds = Counter(map(kind_of, lines))
    # Four standard deviations of a binomial share at n = 4000 are at most 0.032.
    for kind, share in (("fact", 0.3), ("direct", 0.25), ("worked", 0.45)):
        assert kinds[kind] / n == pytest.approx(share, abs=0.032)
    levels = Counter(line.count(";") + 1 for line in lines if kind_of(line) == "worked")
    expected = np.array([1, 1, 1 / 2, 1 / 4, 1 / 8])
    for level, share in enumerate(expected / expected.sum(), 1):
        # n is about 1800: four deviations are below 0.048.
        assert levels[level] / kinds["worked"] == pytest.approx(share, abs=0.048)
    direct = Counter(chain.read(line.partition("<")[0]).level for line in lines
                     if kind_of(line) == "direct")
    assert set(direct) == set(range(1, 6)) and min(direct.values()) > 0.6 * max(direct.values())


def test_a_line_is_a_function_of_its_stream():
    one, same, other = (corpus_lines(CHAIN, chain, rng(seed, "x"), 20) for seed in (1, 1, 2))
    assert one == same != other


def test_mixture_is_read_from_a_pretrained_folder_only(ladder):
    assert Mixture.of(ladder / "pretrain").max_level == 2
    with pytest.raises(UserError, match="'sft' folder"):
        Mixture.of(ladder / "sft")
    with pytest.raises(UserError, match="no such file"):
        Mixture.of(ladder / "nothing")
