"""Judges of a search: the oracle is the verifier, noise stays with its prefix, all cost alike."""

import numpy as np
import pytest

from minireason.core import flops
from minireason.core.config import rng
from minireason.critics.judges import judge_of, whole_values
from minireason.critics.step_labels import exact_labels, step_prefixes
from minireason.critics.value_head import Critic, final_values, prefix_values
from minireason.model import checkpoint
from minireason.problems import chain

RIGHT = chain.read("((27+5)-4)=")
TEXTS = ["<think>27+5=32;32-4=28</think>28<eos>", "<think>27+5=22;22-4=18</think>18<eos>",
         "<think>27+5=32;32-4=28</think>18<eos>", "<think>27+5=32</think>28<eos>",
         "<think>27+5=22;22-4=18</think>28<eos>"]                    # luck


@pytest.fixture(scope="module")
def critic(ladder):
    return checkpoint.load(ladder / "critic", kind=Critic)


def rows_of(tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer.encode_batch(["<bos>" + RIGHT.prompt + text for text in texts])


def test_the_oracle_is_the_verifier_at_every_step_end(critic):
    values = judge_of("oracle", *critic, chain)
    for text in TEXTS:
        prefixes = step_prefixes(text)
        labels = exact_labels(RIGHT, text)
        assert values(rows_of(critic[1], prefixes)) == [
            min(labels[:i + 1]) for i in range(len(labels))], text
    assert values(rows_of(critic[1], ["<think>"])) == [1.0]           # nothing is wrong yet


def test_noise_stays_with_its_prefix_and_has_its_deviation(critic):
    rows = rows_of(critic[1], [f"<think>{a}+5={b};" for a in range(40) for b in range(40)])
    plain = judge_of("critic", *critic, chain)(rows)
    assert plain == prefix_values(*critic, rows)
    noisy = judge_of("critic", *critic, chain, noise=2.0, seed=3)
    found = noisy(rows)
    assert noisy(rows[::-1]) == pytest.approx(found[::-1], rel=1e-4)  # fp32 in other batches
    assert judge_of("critic", *critic, chain, noise=2.0, seed=4)(rows) != found
    plain, found = (judge_of("random", *critic, chain, noise=noise, seed=3)(rows)
                    for noise in (0.0, 2.0))
    odds = [np.log(np.clip(p, 1e-4, 1 - 1e-4) / (1 - np.clip(p, 1e-4, 1 - 1e-4)))
            for p in (np.array(plain), np.array(found))]
    inside = (np.array(plain) > 1e-4) & (np.array(found) > 1e-4) & (np.array(found) < 1 - 1e-4)
    errors = (odds[1] - odds[0])[inside]
    assert len(errors) > 300 and errors.std() == pytest.approx(2, rel=0.25)
    oracle = np.array(judge_of("oracle", *critic, chain, noise=5.0)(rows_of(critic[1], TEXTS)))
    assert ((0 < oracle) & (oracle < 1)).all()                        # even the truth gets noise


def test_a_random_judge_knows_nothing_but_what_it_said_before(critic):
    values = judge_of("random", *critic, chain, seed=1)
    rows = rows_of(critic[1], [f"<think>{a}+5=7;" for a in range(100)] * 2)
    found = np.array(values(rows))
    assert (found[:100] == found[100:]).all() and 0.4 < found.mean() < 0.6
    assert len(set(found.tolist())) == 100


def test_every_judge_is_charged_alike(critic):
    rows, costs = rows_of(critic[1], TEXTS), []
    for kind in ("critic", "oracle", "random"):
        before = flops.spent()
        judge_of(kind, *critic, chain)(rows)
        costs.append(flops.spent() - before)
    assert costs == [2.0 * critic[0].n_params * sum(map(len, rows))] * 3


def test_whole_values_are_the_critics_last_ones(critic):
    problems = [chain.sample(rng(i, "judged"), 2) for i in range(2)]
    completions = [[chain.render(problem, "cot") for problem in problems] * 2] * 2
    values = judge_of("critic", *critic, chain)
    assert whole_values(values, critic[1], problems, completions) == final_values(
        *critic, problems, completions)
    oracle = judge_of("oracle", *critic, chain)
    assert whole_values(oracle, critic[1], problems, completions) == [
        [1.0, 0.0] * 2, [0.0, 1.0] * 2]
