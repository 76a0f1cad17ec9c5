"""The self-correcting policy and sequential revision at test time."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kill_run import differences

from minireason.core.config import UserError
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.problems.corpus import Mixture
from minireason.problems.frozen import load_frozen
from minireason.sampling.complete import prompt_ids
from minireason.search import steps
from minireason.search.sequential import (
    PICKS,
    Chain,
    ReviseSearchConfig,
    first_wrong,
    own_values,
    resume_at,
    revise_search,
    withdrawn_prefix,
)
from minireason.search.steps import COMPLETE, Node, Stepper
from minireason.stages import revise
from minireason.training.batches import encode_lines, micro_batches

PROBLEM = chain.read("((23+4)*3-2)")
RIGHT = "<think>23+4=27;27*3=81;81-2=79</think>79<eos>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.build(chain.TOKENS)


@pytest.fixture
def config(ladder, tmp_path) -> revise.Config:
    return revise.Config(
        init=str(ladder / "star"), base=str(ladder / "pretrain"), out=str(tmp_path / "revise"),
        device="cpu", problems=60, min_level=1, max_level=2, n=6, steps=6, rows_per_step=16,
        token_budget=256, warmup=2, save_every=2, max_new=40, eval_n=4)


# ---- backtracking traces ------------------------------------------------------------------------

def test_splice_puts_wrong_steps_before_the_right_ones():
    steps = list(PROBLEM.steps)
    assert revise.spliced_trace(steps, []) == RIGHT
    assert revise.spliced_trace(steps, [[1, "27*3=82"], [0, "23+4=28"], [1, "27*3=80"]]) == (
        "<think>23+4=28<wrong>23+4=27;27*3=82<wrong>27*3=80<wrong>27*3=81;81-2=79</think>79<eos>")


@pytest.mark.parametrize(("thought", "found"), [
    ("23+4=27;27*3=81;81-2=79", None),
    ("23+4=28;28*3=84;84-2=82", (0, "23+4=28")),
    ("23+4=27;27*3=80;80-2=78", (1, "27*3=80")),
    ("23+4=28<wrong>23+4=27;27*3=82;82-2=80", (1, "27*3=82")),     # the first was withdrawn
    ("23+4=27;27*3=81", None),                                      # too short: no step is wrong
    ("23+4=27;27*3=81;81-2=79;79+0=79", None),                      # no right step in its place
    ("23+4=27;27*3=", None)])
def test_first_wrong_step(thought, found):
    assert revise.first_wrong(PROBLEM, f"<think>{thought}</think>79<eos>") == found


@pytest.mark.parametrize("packed", [False, True])
def test_wrong_steps_do_not_count(tokenizer, packed):
    """Of every row exactly the tokens of withdrawn steps and the prompt are left out."""
    texts = ["<think>23+4=28<wrong>23+4=29<wrong>23+4=27;27*3=82<wrong>27*3=81;81-2=79</think>79"
             "<eos>", RIGHT, "1+2=3;4+5=9<eos>"]
    prompts = [PROBLEM.prompt, PROBLEM.prompt, ""]
    counted = ["<think>", "<wrong>", "<wrong>", *tokenizer.encode_batch(["23+4=27;"])[0],
               "<wrong>", *tokenizer.encode_batch(["27*3=81;81-2=79</think>79<eos>"])[0]]
    expected = sorted(
        [t if isinstance(t, int) else tokenizer.ids_of(t)[0] for t in counted]
        + tokenizer.encode(RIGHT) + tokenizer.encode("1+2=3;4+5=9<eos>"))
    rows = encode_lines(tokenizer, prompts, texts)
    separators = tokenizer.ids_of(*revise.SEPARATORS)
    batches, count = micro_batches(rows, 10 ** 6, tokenizer.pad, packed=packed)
    left = []
    for batch in batches:
        counts = batch.loss_mask.bool() & ~revise.in_withdrawn(batch.targets, separators)
        left += batch.targets[counts].tolist()
    assert sorted(left) == expected
    for row, _ in rows:
        count -= int(revise.in_withdrawn(torch.tensor(row[1:]), separators).sum())
    assert count == len(expected)


def test_rows_have_their_shares_and_verify(config, tokenizer):
    pool = [[PROBLEM.prompt, list(PROBLEM.steps), [[0, "23+4=28"], [1, "27*3=80"], [0, "23+4=9"]]],
            [PROBLEM.prompt, list(PROBLEM.steps), []]]
    cfg = replace(config, mended=0.25, replay=0.5, rows_per_step=64)
    texts = [tokenizer.decode(row) for step in range(5) for row, _ in revise.rows_of_step(
        cfg, step, pool, Mixture.of(cfg.base), tokenizer)]
    own = [t.removeprefix("<bos>" + PROBLEM.prompt) for t in texts
           if t.startswith("<bos>" + PROBLEM.prompt)]
    mended = [t for t in own if "<wrong>" in t]
    assert len(mended) == 5 * 16 and len(own) == 5 * 32 and len(texts) == 5 * 64
    assert all(chain.verify(PROBLEM, t).steps_valid for t in own)
    assert {t.count("<wrong>") for t in mended} == {1, 2}
    control = [tokenizer.decode(row) for row, _ in revise.rows_of_step(
        replace(cfg, mended=0), 0, pool, Mixture.of(cfg.base), tokenizer)]
    assert len(control) == 64 and not any("<wrong>" in t for t in control)


def test_withdrawal_rates_are_exact():
    texts = ["23+4=28<wrong>23+4=27;27*3=81;81-2=79",                # found and mended
             "23+4=28<wrong>23+4=26;26*3=78;78-2=76",                # found, mended wrongly
             "23+4=27<wrong>23+4=27;27*3=80;80-2=78",                # false alarm; one missed
             "23+4=27;27*3=81<wrong>27*3=81"]
    texts = [f"<think>{t}</think>79<eos>" for t in texts] + ["<think>23+4=1<wrong>", "</think>7"]
    rates = revise.withdrawal_rates([PROBLEM] * 6, texts)
    assert (rates["detection"]["n"], rates["detection"]["share"]) == (4, 0.5)
    assert (rates["false_alarm"]["n"], rates["false_alarm"]["share"]) == (11, 2 / 11)
    assert (rates["mended"]["n"], rates["mended"]["share"]) == (2, 0.5)
    assert rates["detection"]["low"] < 0.5 < rates["detection"]["high"]


# ---- the stage ----------------------------------------------------------------------------------

@pytest.fixture
def scripted(monkeypatch):
    """A policy this small is never right: the samples to learn from are written by hand.

    Of each problem one is right, one has a wrong first step, one a wrong last step, one is cut.
    """
    real = revise.complete

    def complete(model, tokenizer, problems, style, how):
        if how.n == 1:
            return real(model, tokenizer, problems, style, how)
        return [[chain.render(p, "cot"), *(f"<think>{';'.join(off(p, i))}</think>1<eos>"
                                           for i in (0, -1)), "<think>1+2"] for p in problems]

    def off(problem, i):
        steps = list(problem.steps)
        head, _, value = steps[i].partition("=")
        steps[i] = f"{head}={(int(value) + 1) % 100}"
        return steps
    monkeypatch.setattr(revise, "complete", complete)


def test_killed_and_resumed_is_bit_identical(config, tmp_path, run_with_deaths, scripted):
    revise.run(config)
    other = replace(config, out=str(tmp_path / "other" / "revise"))
    assert run_with_deaths(lambda: revise.run(other), 1) >= 2
    result = revise.run(other)
    assert differences(tmp_path / "revise", tmp_path / "other" / "revise") == []
    assert result["pool_with_errors"] > 0 and revise.run(other) == result
    pool = json.loads((tmp_path / "revise" / "pool.json").read_text())["pool"]
    for prompt, own, errors in pool:
        problem = chain.read(prompt)
        assert own == list(problem.steps) and all(
            revise.first_wrong(problem, f"<think>{';'.join([*own[:i], wrong])}</think>1<eos>")
            == (i, wrong) for i, wrong in errors)


def test_learns_to_withdraw_and_not_to_err(config, scripted):
    """Overfits four problems: `<wrong>` follows their wrong steps, which it does not write."""
    cfg = replace(config, problems=4, min_level=1, max_level=1, steps=150, lr=1e-2, mended=0.5,
                  replay=0.0, save_every=999, eval_n=1)
    assert revise.run(cfg)["pool_with_errors"] == 4
    model, tokenizer = checkpoint.load(cfg.out)
    pool = json.loads((Path(cfg.out) / "pool.json").read_text())["pool"]
    problems = [chain.read(prompt) for prompt, _, _ in pool]
    heads = prompt_ids(tokenizer, problems, "cot")
    right = [h + tokenizer.encode(p.steps[0] + "</think>") for h, p in zip(heads, problems,
                                                                            strict=True)]
    wrong = [h + tokenizer.encode(errors[0][1] + "</think>")
             for h, (_, _, errors) in zip(heads, pool, strict=True)]
    values = own_values(model, tokenizer)
    assert min(values(right)) > 0.7 and max(values(wrong)) < 0.3
    for row in wrong:                                      # its result: the token before </think>
        with torch.no_grad():
            chance = model(torch.tensor([row[:-2]]))[0, -1].softmax(-1)[row[-2]].item()
        assert chance < 0.2


def test_bad_shares_and_families_are_refused(config):
    for changes, complaint in (({"mended": 0.7, "replay": 0.6}, "--mended 0.7 --replay 0.6"),
                               ({"mended": -0.1}, "--mended -0.1"),
                               ({"family": "addition"}, "--family addition")):
        with pytest.raises(UserError, match=complaint):
            replace(config, **changes)


# ---- revision at test time ----------------------------------------------------------------------

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


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(1, 5),
       st.sampled_from(PICKS), st.sampled_from(["best", "last"]), st.booleans(),
       st.integers(0, 2 ** 32))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_never_spends_more_than_its_budget(policy, drawn, budgets, chains, pick, of, withdraw,
                                           seed):
    drawn.clear()
    cfg = ReviseSearchConfig(chains=chains, pick=pick, of=of, withdraw=withdraw)
    prompts = prompts_of(policy, len(budgets))
    outcomes = revise_search(stepper_of(policy, odd_values, seed), cfg, prompts, budgets, 15.0)
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


def test_resumes_before_the_step_that_the_values_blame(policy):
    stepper, tokenizer = stepper_of(policy, odd_values), policy[1]
    root = Node(prompt_ids(tokenizer, [PROBLEM], "cot")[0])
    good = path(root, tokenizer, {"23+4=27;": 0.9, "27*3=80;": 0.2, "80-2=78</think>": 0.2,
                                  "78<eos>": 0.2})
    bad = path(root, tokenizer, {"23+4=28;": 0.1, "28*3=84;": 0.1, "84-2=82</think>": 0.1,
                                 "82<eos>": 0.1})
    chain_of = Chain(0, root, root, [good, bad])
    cut = ReviseSearchConfig(pick="worst", prior=0.9)
    generator = np.random.default_rng(0)
    assert tokenizer.decode(resume_at(stepper, cut, chain_of, generator).tokens).endswith(
        "<think>23+4=27;")
    assert resume_at(stepper, replace(cut, of="last"), chain_of, generator) is root
    assert resume_at(stepper, replace(cut, pick="start"), chain_of, generator) is root
    shown = resume_at(stepper, replace(cut, withdraw=True), chain_of, generator)
    assert tokenizer.decode(shown.tokens).endswith("<think>23+4=27;27*3=80<wrong>")
    again = path(shown, tokenizer, {"27*3=81;": 0.9, "81-2=79</think>": 0.3, "79<eos>": 0.3})
    chain_of.attempts.append(again)                        # what was withdrawn is not blamed again
    assert tokenizer.decode(resume_at(stepper, cut, chain_of, generator).tokens).endswith(
        "<wrong>27*3=81;")


def test_random_steps_are_uniform_and_samples_follow_the_drops(policy):
    stepper, tokenizer = stepper_of(policy, odd_values), policy[1]
    root = Node(prompt_ids(tokenizer, [PROBLEM], "cot")[0])
    attempt = path(root, tokenizer, {"23+4=27;": 0.8, "27*3=81;": 0.2, "81-2=79</think>": 0.2,
                                     "79<eos>": 0.2})
    for pick, expected in (("random", [0.25] * 4), ("sample", [0.25, 0.75, 0, 0])):
        cfg, generator = ReviseSearchConfig(pick=pick, prior=16 / 15), np.random.default_rng(1)
        lengths = [len(resume_at(stepper, cfg, Chain(0, root, root, [attempt]), generator).tokens)
                   for _ in range(2000)]
        found = np.unique(lengths, return_counts=True)[1] / 2000
        # five standard deviations of a share of 2000 draws are at most 5 * 0.5 / sqrt(2000)
        assert found == pytest.approx([e for e in expected if e], abs=0.056)


def test_withdrawn_prefix_keeps_its_bounds(policy):
    stepper, tokenizer = stepper_of(policy, odd_values), policy[1]
    root = Node(prompt_ids(tokenizer, [PROBLEM], "cot")[0])
    node = path(root, tokenizer, {"23+4=28<wrong>23+4=27;": 0.5})
    assert withdrawn_prefix(stepper, node, 2).tokens == [
        *root.tokens, *tokenizer.encode("23+4=28<wrong>23+4=27<wrong>")]
    assert withdrawn_prefix(stepper, node, 2) is withdrawn_prefix(stepper, node, 2)
    assert withdrawn_prefix(stepper, node, 1) is root
    answer = path(root, tokenizer, {"23+4=27</think>": 0.5, "27<eos>": 0.5})
    assert withdrawn_prefix(stepper, answer, 2) is answer.parent
    tight = replace(stepper, max_step=stepper.policy.config.max_len - len(node.tokens) + 1)
    assert withdrawn_prefix(tight, node, 2) is root


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
        outcomes = revise_search(stepper_of(policy, values), cfg, prompts, [60] * 12, 10.0)
        for outcome in outcomes:
            verdicts = [right(node.tokens) for node in outcome.complete]
            if verdicts:
                assert right(outcome.best().tokens) == (
                    verdicts[0] if best_is == "first" else any(verdicts))


@pytest.mark.parametrize(("chains", "budgets", "expected"), [
    (1, [60, 60], [1, 1]), (4, [60, 33], [4, 2]), (9, [60, 7], [4, 1])])
def test_chains_split_the_budget(policy, monkeypatch, chains, budgets, expected):
    """A problem has no more chains than first attempts that it can pay."""
    from minireason.search import sequential as search
    rounds, real = [], search.expand

    def spy(stepper, ledger, requests, *purpose):
        rounds.append((len(requests), ledger.budgets))
        return real(stepper, ledger, requests, *purpose)
    monkeypatch.setattr(search, "expand", spy)
    revise_search(stepper_of(policy, odd_values), ReviseSearchConfig(chains=chains),
                  prompts_of(policy, 2), budgets, 15.0)
    n, shares = rounds[0]
    assert n == sum(expected)
    assert [sum(shares[:expected[0]]), sum(shares[expected[0]:])] == budgets
    assert max(shares[:expected[0]]) - min(shares[:expected[0]]) <= 1


def test_own_values_are_the_chance_that_nothing_is_withdrawn(policy):
    """Against one uncached forward a prefix, without padding."""
    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    wrong, end = tokenizer.ids_of("<wrong>", ";")
    model.embedding.weight.data[wrong] = model.embedding.weight.data[end]    # as likely as `;`
    head = prompt_ids(tokenizer, [PROBLEM], "cot")[0]
    rows = [head, head + tokenizer.encode("23+4=27;"),
            head + tokenizer.encode("23+4=28<wrong>23+4=27;27*3=81;81-2=79</think>79<eos>")]
    with torch.no_grad():
        expected = []
        for row in rows:
            chance = 1.0
            for t in range(1, len(row)):
                if t >= len(head) and tokenizer.decode([row[t]]) in (";", "</think>"):
                    chance *= 1 - model(torch.tensor([row[:t]]))[0, -1].softmax(-1)[wrong].item()
            expected.append(chance)
    assert expected[0] == 1 and expected[2] < 0.9999       # ten times the tolerance below
    # float32 sums of a dozen terms: some 1e-6 relative
    assert own_values(model, tokenizer, 64)(rows) == pytest.approx(expected, rel=1e-5)
    assert own_values(model, tokenizer)([]) == []


def test_unknown_picks_are_refused():
    for changes in ({"pick": "lowest"}, {"of": "worst"}):
        with pytest.raises(UserError, match=next(iter(changes.values()))):
            ReviseSearchConfig(**changes)
