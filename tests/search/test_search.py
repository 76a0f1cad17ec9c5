"""Search: budgets hold, values alone decide, an oracle gives coverage, a random critic chance."""

import ast
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minireason.search
from minireason.core.errors import UserError
from minireason.critics.value_head import Critic, prefix_values, step_values
from minireason.measure.estimates import wilson
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import addition, chain
from minireason.sampling.complete import stream as real_stream
from minireason.search import steps
from minireason.search.beam import BeamConfig, beam_search
from minireason.search.steps import COMPLETE, DEAD, Stepper, Task, tree_record
from minireason.search.tree import TreeConfig, tree_search

TOKENIZER = Tokenizer.build(addition.TOKENS)
END_THINK = TOKENIZER.end_think
SEARCHES = {"beam": (beam_search, BeamConfig()), "wide": (beam_search, BeamConfig(width=0)),
            "lookahead": (beam_search, BeamConfig(lookahead=True)),
            "tree": (tree_search, TreeConfig()),
            "uct": (tree_search, TreeConfig(uct=True, leaves=1))}


def markov_policy(table: dict[str, dict[str, float]]) -> Transformer:
    """A real Transformer whose next token depends on the last one alone, as the table says.

    The one layer writes nothing (its outputs are zero); the embedding is the identity, which
    rms_norm scales by sqrt(d_model), and the unembedding holds log probabilities over that.
    """
    size = TOKENIZER.vocab_size
    model = Transformer(ModelConfig(vocab_size=size, d_model=size, n_layers=1, n_heads=1,
                                    n_kv_heads=1, head_dim=2, d_ff=2, tied=False, max_len=128))
    logprobs = torch.full((size, size), -60.0)
    for last, following in table.items():
        for token, probability in following.items():
            logprobs[TOKENIZER.ids_of(last)[0], TOKENIZER.ids_of(token)[0]] = np.log(probability)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_() if parameter.dim() > 1 else parameter.fill_(1.0)
        model.embedding.weight.copy_(torch.eye(size))
        model.unembedding.weight.copy_(logprobs.T / size ** 0.5)
    return model


def thinker(right: float = 0.25) -> Transformer:
    """Steps of one uniform digit 0..3, one to several; then an answer A, C, D or E.

    A, the right one, has probability `right`; the others share the rest.
    """
    digits = dict.fromkeys("0123", 0.25)
    other = (1 - right) / 3
    table = {"<think>": digits, ";": digits, "</think>": {"A": right, "C": other, "D": other,
                                                          "E": other}}
    table |= {digit: {";": 0.6, "</think>": 0.4} for digit in "0123"}
    return markov_policy(table | {letter: {"<eos>": 1.0} for letter in "ACDE"})


def prompts(n: int) -> list[list[int]]:
    return TOKENIZER.encode_batch([f"<bos>{i % 10}+{i // 10 % 10}=<think>" for i in range(n)])


def random_values(seed: int):
    """A critic that knows nothing: a uniform number that depends on seed and prefix alone."""
    def values(rows: list[list[int]]) -> list[float]:
        digests = [hashlib.sha256(json.dumps([seed, *row]).encode()).digest() for row in rows]
        return [int.from_bytes(digest[:8], "big") / 2 ** 64 for digest in digests]
    return values


def is_right(row: list[int], letter: str = "A") -> bool:
    return key_of(row) == f"{letter}<eos>"


def key_of(row: list[int]) -> str:
    return TOKENIZER.decode(row).rpartition("</think>")[2]


def search(name: str, policy, values, n: int, budget: int, seed: int = 0, expected: float = 7.0):
    run, cfg = SEARCHES[name]
    stepper = Stepper(policy, TOKENIZER, values, max_step=4, seed=seed)
    tasks = steps.plant(stepper, prompts(n), [budget] * n, expected)
    run(stepper, cfg, tasks)
    return tasks


@pytest.mark.parametrize("name", SEARCHES)
def test_random_critic_gives_chance(name):
    """With values that know nothing every search answers as the policy does: right in 1 of 4.

    Lookahead leans to the greedy answer (kept for its value, it wins by the same value), so there
    the right letter changes from problem to problem.
    """
    outcomes = search(name, thinker(), random_values(1), 250, 60)
    found = [is_right(o.best().tokens, "ACDE"[i % 4] if name == "lookahead" else "A")
             for i, o in enumerate(outcomes) if o.complete]
    assert len(found) > 180                                     # the rest found no way to <eos>
    low, high = wilson(sum(found), len(found), z=3.29)          # 99.9%: five searches are tested
    assert low < 0.25 < high, np.mean(found)
    assert np.mean([o.spent for o in outcomes]) > 30


@pytest.mark.parametrize("name", SEARCHES)
def test_oracle_critic_finds_what_was_drawn(name):
    """With the truth as value a search is right wherever any complete candidate is right."""
    outcomes = search(name, thinker(), lambda rows: [float(is_right(row)) for row in rows], 100, 60)
    for outcome in outcomes:
        covered = any(is_right(node.tokens) for node in outcome.complete)
        assert is_right(outcome.best().tokens) == covered
        keys = [key_of(node.tokens) for node in outcome.complete]
        assert is_right(outcome.voted(keys).tokens) == covered


def test_oracle_at_the_steps_makes_search_beat_equal_tokens():
    """Right means all digits 0 here, 1 in 4 a step: step values find it where samples cannot."""
    policy, zero = thinker(), TOKENIZER.ids_of("0")[0]
    wrong = set(TOKENIZER.ids_of("1", "2", "3"))

    def values(rows):
        bodies = [row[row.index(TOKENIZER.think) + 1:] for row in rows]
        return [0.0 if wrong & set(body) else min(1.0, 0.1 * body.count(zero)) for body in bodies]

    def steps_found(outcomes):
        return np.mean([10 * values([o.best().tokens])[0] for o in outcomes])

    for name, gain in (("beam", 1), ("tree", 0.75)):
        guided = search(name, policy, values, 50, 200, expected=16.0)
        blind = search(name, policy, random_values(0), 50, 200, expected=16.0)
        assert steps_found(guided) > steps_found(blind) + gain, name


@pytest.fixture(scope="module")
def tiny():
    """A random policy and critic: they ramble, cut steps and rarely end."""
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, d_model=16, n_layers=1, n_heads=1,
                         n_kv_heads=1, head_dim=16, d_ff=16, max_len=48)
    policy = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    wide = replace(config, max_len=128)                  # it reads the thinker's rows, too
    critic = Critic(wide).init_weights(torch.Generator().manual_seed(1))
    return policy, critic


@settings(max_examples=25, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(SEARCHES)), max_step=st.integers(1, 9),
       budgets=st.lists(st.integers(0, 150), min_size=1, max_size=4),
       expected=st.floats(1, 60), temperature=st.sampled_from([0.0, 1.0, 3.0]),
       width=st.integers(1, 7), ends=st.booleans())
def test_no_search_overspends(tiny, name, max_step, budgets, expected, temperature, width, ends):
    """What the sampler draws is exactly what is charged, and never above any problem's budget."""
    policy, critic = (thinker() if ends else tiny[0]), tiny[1]
    run, cfg = SEARCHES[name]
    cfg = type(cfg)(**{**vars(cfg), "width": width})
    drawn = []

    def counted(*args):
        for chunk in real_stream(*args):
            drawn.append(int(chunk.mask.sum()))
            yield chunk

    stepper = Stepper(policy, TOKENIZER, lambda rows: prefix_values(critic, TOKENIZER, rows),
                      temperature, max_step, seed=len(budgets))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "stream", counted)
        outcomes = steps.plant(stepper, prompts(len(budgets)), budgets, expected)
        run(stepper, cfg, outcomes)
    assert sum(drawn) == sum(outcome.spent for outcome in outcomes)
    for outcome, budget in zip(outcomes, budgets, strict=True):
        assert outcome.spent <= budget
        in_tree = sum(r["draws"] > 0 for r in tree_record(outcome.root, TOKENIZER))
        assert in_tree <= outcome.spent


@pytest.mark.parametrize("name", SEARCHES)
def test_search_repeats_itself_and_obeys_its_seed(name, tiny):
    def values(rows):
        return prefix_values(tiny[1], TOKENIZER, rows)

    first, again, other = (search(name, thinker(), values, 6, 70, seed) for seed in (3, 3, 4))
    records = [[tree_record(o.root, TOKENIZER) for o in run] for run in (first, again, other)]
    assert records[0] == records[1] != records[2]


def test_tree_record_holds_every_step_once(tiny):
    outcome = search("tree", thinker(), random_values(5), 1, 90)[0]
    nodes = tree_record(outcome.root, TOKENIZER)
    assert [n["id"] for n in nodes] == list(range(len(nodes)))
    assert nodes[0]["text"] == "<bos>0+0=<think>" and nodes[0]["parent"] is None
    assert all(node["parent"] < node["id"] for node in nodes[1:])
    assert all(0 <= node["value"] <= 1 for node in nodes[1:])
    children: dict[int, list[str]] = {}
    for node in nodes[1:]:
        children.setdefault(node["parent"], []).append(node["text"])
    assert all(len(set(texts)) == len(texts) for texts in children.values())
    best = outcome.best()
    text = TOKENIZER.decode(best.tokens)
    while best.parent:                                          # the way back spells the completion
        best = best.parent
    assert text.startswith(TOKENIZER.decode(best.tokens))


def test_uneven_visits_prefer_value_and_prior():
    """PUCT and UCT pass most often through the first step that the critic likes."""
    liked = tuple(TOKENIZER.ids_of("2", ";"))                   # `2</think>` is soon used up

    def values(rows):
        return [0.9 if tuple(row[row.index(TOKENIZER.think) + 1:][:2]) == liked else 0.1
                for row in rows]

    for name in ("tree", "uct"):
        roots = [outcome.root for outcome in search(name, thinker(), values, 40, 300)]
        shares = [root.children[liked].visits / sum(c.visits for c in root.children.values())
                  for root in roots if liked in root.children]
        assert len(shares) > 15 and np.median(shares) > 0.75, name       # some draw it last


def test_beam_keeps_n_over_m_and_spends_its_budget():
    """Budget of N = 16 samples, M = 4: all tokens but the last step's are put to use."""
    outcomes = search("beam", thinker(), random_values(2), 50, 16 * 7)
    assert np.mean([o.spent for o in outcomes]) > 0.6 * 16 * 7
    for outcome in outcomes:
        used = [child for child in outcome.root.children.values() if child.below]
        assert len(outcome.root.children) <= 8 and len(used) <= 4


def test_voted_sums_values_of_equal_answers():
    root = steps.Node(TOKENIZER.encode("<bos>1+1=<think>"))
    found = []
    for text, value in (("1</think>A<eos>", 0.6), ("2</think>C<eos>", 0.5),
                        ("3</think>C<eos>", 0.4)):
        node = root.child(tuple(TOKENIZER.encode(text)), 0.0)
        node.value, node.state = value, COMPLETE
        found.append(node)
    task = Task(root, 12, max_step=4)
    assert task.best() is found[0] and task.voted([]) is found[0]            # nothing is complete
    task.add([root, *found])
    assert list(task.complete) == found
    assert task.best() is found[0] and task.voted(["A", "C", "C"]) is found[1]
    assert task.voted([None, "C", None]) is found[1]             # what has no answer has no vote
    assert task.voted([None] * 3) is found[0]


def test_a_task_grants_what_it_can_pay():
    task = Task(steps.Node([TOKENIZER.bos]), budget=20, max_step=6)
    assert (task.left, task.reach, task.rows) == (20, 6, 3)
    task.charge(4, finished=True)
    assert (task.left, task.reach, task.rows) == (16, 4, 4)
    task.charge(15, finished=False)
    assert (task.left, task.reach, task.rows) == (1, 4, 1)
    with pytest.raises(AssertionError, match="overspent"):
        task.charge(2, finished=True)


@pytest.mark.parametrize(("budget", "n", "longest"),
                         [(20, 3, 4), (20, 5, 4), (14, 5, 2), (4, 5, 0)])
def test_steps_are_cut_where_the_budget_ends(budget, n, longest):
    """n rows of one task may each be as long as the budget pays for, at most max_step."""
    stepper = Stepper(thinker(), TOKENIZER, random_values(0), max_step=4)
    asked, real = [], steps.stream

    def spying(*arguments):
        asked.append(arguments[3].max_new)
        return real(*arguments)

    (task,) = steps.plant(stepper, prompts(1), [budget], 7.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "stream", spying)
        (children,) = steps.expand(stepper, [steps.Request(task, task.root, n)], "cut")
    assert asked == ([longest] if longest else []) and bool(children) == bool(longest)


def test_prefix_values_are_the_step_values(tiny):
    problems = [chain.read("((3+4)*5)="), chain.read("(((9-2)*3)+8)=")]
    texts = [chain.render(problem, "cot") for problem in problems]
    rows = [TOKENIZER.encode("<bos>" + p.prompt + t) for p, t in zip(problems, texts, strict=True)]
    every = step_values(tiny[1], TOKENIZER, problems, texts)
    cut = [row[:row.index(TOKENIZER.ids_of(";")[0]) + 1] for row in rows]
    for budget in (8192, 30):                                   # one batch, or a batch a row
        got = prefix_values(tiny[1], TOKENIZER, [*rows, *cut], budget)
        expected = [v[-1] for v in every] + [v[0] for v in every]
        assert got == pytest.approx(expected, abs=1e-6)         # fp32, other padding


def test_search_cannot_reach_the_verifier():
    """No module of search/ imports a judge of truth or reads a problem's answer."""
    forbidden = {"verdicts_of", "verify", "check_steps", "FAMILIES", "Problem", "Verdict"}
    for path in Path(minireason.search.__file__).parent.glob("*.py"):
        if path.name in ("vote.py", "allocate.py"):             # they take recorded 0 and 1 only
            continue
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                 for alias in node.names}
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not forbidden & (names | used), path.name


def test_a_prompt_without_room_is_named(tiny):
    stepper = Stepper(tiny[0], TOKENIZER, random_values(0), max_step=9)
    with pytest.raises(UserError, match="44 tokens leaves no room"):
        steps.plant(stepper, [[TOKENIZER.bos] * 44], [50], 10.0)
    (outcome,) = steps.plant(stepper, prompts(1), [0], 10.0)
    tree_search(stepper, TreeConfig(), [outcome])
    assert outcome.spent == 0 and outcome.best() is outcome.root and outcome.root.state != DEAD
