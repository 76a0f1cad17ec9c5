"""Sequential revision at test time: where it resumes, what it withdraws, what it may spend."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.model import checkpoint
from minireason.problems import chain
from minireason.problems.frozen import load_frozen
from minireason.sampling.complete import prompt_ids
from minireason.search import steps
from minireason.search.sequential import (
    Chain,
    ReviseSearchConfig,
    first_wrong,
    resume_at,
    revise_search,
    withdrawn_prefix,
)
from minireason.search.steps import COMPLETE, Node, Stepper, Task

PROBLEM = chain.read("((23+4)*3-2)")


@pytest.fixture(scope="module")
def policy(ladder):
    return checkpoint.load(ladder / "sft")


def stepper_of(policy, values, seed=0) -> Stepper:
    return Stepper(*policy, values, max_step=10, seed=seed)


def odd_values(prefixes: list[list[int]]) -> list[float]:
    """Any fixed function of the prefix."""
    return [(sum(prefix) * 7919 % 101) / 101 for prefix in prefixes]


def prompts_of(policy, n: int = 4) -> list[list[int]]:
    return prompt_ids(policy[1], load_frozen("chain-test-k2")[:n], "cot")


def searched(stepper: Stepper, cfg: ReviseSearchConfig, prompts, budgets, expected) -> list[Task]:
    tasks = steps.plant(stepper, prompts, budgets, expected)
    revise_search(stepper, cfg, tasks)
    return tasks


@pytest.fixture(scope="module")
def drawn():
    """Tokens of every row that the sampler drew, counted outside the search's own ledger."""
    counts, real = [], steps.stream

    def counting(*arguments):
        for chunk in real(*arguments):
            counts.extend(chunk.mask.sum(dim=1).tolist())
            yield chunk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "stream", counting)
        yield counts


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(1, 5), st.booleans(),
       st.integers(0, 2 ** 32))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_never_spends_more_than_its_budget(policy, drawn, budgets, chains, withdraw, seed):
    drawn.clear()
    cfg = ReviseSearchConfig(chains=chains, withdraw=withdraw)
    prompts = prompts_of(policy, len(budgets))
    outcomes = searched(stepper_of(policy, odd_values, seed), cfg, prompts, budgets, 15.0)
    assert all(o.spent <= budget for o, budget in zip(outcomes, budgets, strict=True))
    assert sum(o.spent for o in outcomes) == sum(drawn)
    for outcome, prompt in zip(outcomes, prompts, strict=True):
        for node in outcome.complete:
            assert node.tokens[:len(prompt)] == prompt and node.state == COMPLETE
            assert node.tokens.count(policy[1].eos) == 1


def test_first_wrong_weights():
    assert first_wrong([1.0, 1.0, 0.25, 0.25]) == pytest.approx([0, 0.75, 0])
    assert first_wrong([0.5, 0.5, 0.75, 0.375]) == pytest.approx([0, 0, 0.5])
    assert first_wrong([0.8, 0.4, 0.3]) == pytest.approx([0.5, 0.125])
    assert first_wrong([0.0, 0.0]) == pytest.approx([0.0])
    assert first_wrong([1.0, 0.0, 0.0]) == pytest.approx([1.0, 0.0])


def path(root: Node, tokenizer, values: dict[str, float]) -> Node:
    """The attempt made of the given steps, each drawn once."""
    node = root
    for text, value in values.items():
        node = node.child(tuple(tokenizer.encode(text)), 0.0)
        node.value, node.state = value, COMPLETE
    return node


def chain_of(root: Node, *attempts: Node) -> Chain:
    task = Task(root, 999, max_step=10)
    return Chain(task, task, root, list(attempts))


def test_resumes_before_the_step_that_the_values_blame(policy):
    """The best attempt falls to 0 in one step, so that this step is drawn for sure."""
    stepper, tokenizer = stepper_of(policy, odd_values), policy[1]
    root = Node(prompt_ids(tokenizer, [PROBLEM], "cot")[0])
    good = path(root, tokenizer, {"23+4=27;": 0.9, "27*3=80;": 0.0, "80-2=78</think>": 0.2,
                                  "78<eos>": 0.2})
    bad = path(root, tokenizer, {"23+4=28;": 0.9, "28*3=84;": 0.1, "84-2=82</think>": 0.1,
                                 "82<eos>": 0.1})
    attempts = chain_of(root, good, bad)                   # the last one is not the best
    cut, generator = ReviseSearchConfig(), np.random.default_rng(0)
    assert tokenizer.decode(resume_at(stepper, cut, attempts, generator).tokens).endswith(
        "<think>23+4=27;")
    shown = resume_at(stepper, replace(cut, withdraw=True), attempts, generator)
    assert tokenizer.decode(shown.tokens).endswith("<think>23+4=27;27*3=80<wrong>")
    again = path(shown, tokenizer, {"27*3=81;": 0.9, "81-2=79</think>": 0.0, "79<eos>": 0.3})
    attempts.attempts.append(again)                        # what was withdrawn is not blamed again
    assert tokenizer.decode(resume_at(stepper, cut, attempts, generator).tokens).endswith(
        "<wrong>27*3=81;")


def test_a_chain_that_nothing_blames_starts_again(policy):
    tokenizer = policy[1]
    root = Node(prompt_ids(tokenizer, [PROBLEM], "cot")[0])
    attempt = path(root, tokenizer, {"23+4=27;": 0.5, "27*3=81;": 0.5, "81-2=79</think>": 0.6})
    assert resume_at(stepper_of(policy, odd_values), ReviseSearchConfig(), chain_of(root, attempt),
                     np.random.default_rng(0)) is root


def test_steps_are_drawn_by_their_drops(policy):
    """Values 0.8, 0.8, 0.2, 0.2 after two first steps of mean 0.9: drops of 1/9 and 2/3."""
    stepper, tokenizer = stepper_of(policy, odd_values), policy[1]
    root = Node(prompt_ids(tokenizer, [PROBLEM], "cot")[0])
    path(root, tokenizer, {"23+4=28;": 1.0})               # the other first step
    attempt = path(root, tokenizer, {"23+4=27;": 0.8, "27*3=81;": 0.2, "81-2=79</think>": 0.2,
                                     "79<eos>": 0.2})
    generator = np.random.default_rng(1)
    lengths = [len(resume_at(stepper, ReviseSearchConfig(), chain_of(root, attempt),
                             generator).tokens) for _ in range(2000)]
    found = np.unique(lengths, return_counts=True)[1] / 2000
    # five standard deviations of a share of 2000 draws are at most 5 * 0.5 / sqrt(2000)
    assert found == pytest.approx([1 / 7, 6 / 7], abs=0.056)


def test_withdrawn_prefix_keeps_its_bounds(policy):
    stepper, tokenizer = stepper_of(policy, odd_values), policy[1]
    root = Node(prompt_ids(tokenizer, [PROBLEM], "cot")[0])
    node = path(root, tokenizer, {"23+4=28<wrong>23+4=27;": 0.5})
    assert withdrawn_prefix(stepper, node).tokens == [
        *root.tokens, *tokenizer.encode("23+4=28<wrong>23+4=27<wrong>")]
    assert withdrawn_prefix(stepper, node) is withdrawn_prefix(stepper, node)
    full = path(root, tokenizer, {"1<wrong>2<wrong>3<wrong>4<wrong>5;": 0.5})
    assert withdrawn_prefix(stepper, full) is root         # it holds four withdrawn steps
    answer = path(root, tokenizer, {"23+4=27</think>": 0.5, "27<eos>": 0.5})
    assert withdrawn_prefix(stepper, answer) is answer.parent
    tight = replace(stepper, max_step=stepper.policy.config.max_len - len(node.tokens) + 1)
    assert withdrawn_prefix(tight, node) is root


def test_a_constant_critic_gains_nothing_and_an_oracle_reaches_coverage(policy):
    """With equal values the first complete attempt is chosen; with the truth any right one is."""
    problems = load_frozen("chain-test-k1")[:12]
    prompts = prompt_ids(policy[1], problems, "cot")

    def right(tokens: list[int]) -> bool:
        text = policy[1].decode(tokens)
        (problem,) = [p for p in problems if text.startswith("<bos>" + p.prompt)]
        return chain.verify(problem, text.removeprefix("<bos>" + problem.prompt)).correct
    cfg = ReviseSearchConfig(chains=1)
    for values, best_is in ((lambda rows: [0.5] * len(rows), "first"),
                            (lambda rows: [float(right(row)) for row in rows], "any")):
        outcomes = searched(stepper_of(policy, values), cfg, prompts, [60] * 12, 10.0)
        for outcome in outcomes:
            verdicts = [right(node.tokens) for node in outcome.complete]
            if verdicts:
                assert right(outcome.best().tokens) == (
                    verdicts[0] if best_is == "first" else any(verdicts))


@pytest.mark.parametrize(("chains", "budgets", "expected"), [
    (1, [60, 60], [1, 1]), (4, [60, 33], [4, 2]), (9, [60, 7], [4, 1])])
def test_chains_split_the_budget(policy, monkeypatch, chains, budgets, expected):
    """A problem has no more chains than first attempts that it can pay."""
    rounds, real = [], steps.expand

    def spy(stepper, requests, *purpose):
        rounds.append([request.task.budget for request in requests])
        return real(stepper, requests, *purpose)
    monkeypatch.setattr(steps, "expand", spy)
    searched(stepper_of(policy, odd_values), ReviseSearchConfig(chains=chains),
             prompts_of(policy, 2), budgets, 15.0)
    shares = rounds[0]
    assert len(shares) == sum(expected)
    assert [sum(shares[:expected[0]]), sum(shares[expected[0]:])] == budgets
    assert max(shares[:expected[0]]) - min(shares[:expected[0]]) <= 1
