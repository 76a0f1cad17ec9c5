"""Forced thoughts: held to a plain loop, token by token; what is not forced is not changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from minireason.core import parallel
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.sampling import forcing
from minireason.sampling.complete import complete, limits_of
from minireason.sampling.forcing import Draft, Forcing, close, complete_forced, think_on
from minireason.sampling.sampler import Sampling, draw_tokens, uniforms

PROBLEMS = [chain.read(text) for text in ("2+3", "(2+3)*2", "9-4", "(8-3)+4", "(7*2)-9")]
HOW = Sampling(n=3, max_new=24, seed=4)
GREEDY = Sampling(temperature=0, max_new=24)


@pytest.fixture(scope="module")
def policy() -> tuple[Transformer, Tokenizer]:
    """Random, but fond of opening thoughts and of ending steps, thoughts and answers."""
    tokenizer = Tokenizer.build(chain.TOKENS)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 16, 2, 2, 2, 8, 24, 64))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise + (parameter.dim() < 2))
        model.embedding.weight[tokenizer.ids_of("<think>", "</think>", "<eos>", ";")] *= 1.7
    return model, tokenizer


@torch.inference_mode()
def forced_plainly(model, tokenizer, problem, how: Sampling, rules: Forcing,
                   row: int) -> tuple[str, int]:
    """One completion token by token, each from a forward pass over the whole row."""
    asked = "" if rules.asked is None else f"<hint>{rules.asked}"
    prompt = tokenizer.encode(f"<bos>{problem.prompt}{asked}")
    think, end_think, eos = tokenizer.think, tokenizer.end_think, tokenizer.eos
    step_end, wait = tokenizer.ids_of(";", rules.wait)
    opener = {"cot": [think], "direct": [end_think], "auto": []}[rules.style]
    if rules.budget == 0:
        opener = [end_think]
    (limit,) = limits_of(how, [problem])
    u = torch.from_numpy(uniforms(how.seed, np.array([row]), limit))
    tokens, spent, waits = [], len(opener), rules.waits
    while len(tokens) < limit and tokens[-1:] != [eos]:
        logits = model(torch.tensor([prompt + opener + tokens]))[0, -1:]
        token = int(draw_tokens(logits, u[:, len(tokens)], how)[0])
        spent += 1
        open_thought = (opener + tokens)[:1] == [think] and end_think not in tokens
        if open_thought and token == end_think and waits:
            token, waits = wait, waits - 1
        tokens.append(token)
        so_far = len(opener + tokens) - 1
        if open_thought and token not in (end_think, eos) and so_far > rules.budget:
            ends = [t for t, token in enumerate(tokens) if token == step_end]
            spent += 1
            if ends:
                tokens = [*tokens[:ends[-1]], end_think]
            elif opener:
                opener, tokens = [end_think], []
            else:
                tokens = [end_think]
    return tokenizer.decode(opener + tokens), spent


@pytest.mark.parametrize("rules", [
    Forcing(), Forcing("direct"), Forcing("auto"), Forcing(budget=0), Forcing(budget=5),
    Forcing(budget=6), Forcing("auto", budget=8), Forcing(waits=1), Forcing(waits=2, wait=";"),
    Forcing(budget=11, waits=1, wait=";"), Forcing(asked=6)], ids=str)
def test_pieces_give_what_the_plain_loop_gives(policy, rules):
    found = complete_forced(*policy, PROBLEMS, HOW, rules)
    for i, problem in enumerate(PROBLEMS):
        for j in range(HOW.n):
            plain = forced_plainly(*policy, problem, HOW, rules, i * HOW.n + j)
            assert found[i][j] == plain, (problem.prompt, j)


@pytest.mark.parametrize("style", ["cot", "direct", "auto"])
def test_without_force_it_is_the_completion_that_complete_gives(policy, style):
    found = complete_forced(*policy, PROBLEMS, HOW, Forcing(style))
    assert [[text for text, _ in row] for row in found] == complete(*policy, PROBLEMS, style, HOW)


def test_neither_chunks_nor_ranks_nor_pauses_change_a_row(policy, monkeypatch):
    rules = Forcing(budget=11, waits=1, wait=";")
    whole = complete_forced(*policy, PROBLEMS, HOW, rules)
    assert complete_forced(*policy, PROBLEMS, replace(HOW, chunk=2), rules) == whole
    monkeypatch.setattr(parallel, "share", lambda items: items[1::2])
    assert complete_forced(*policy, PROBLEMS, HOW, rules) == whole[1::2]
    drafts = forcing.drafts_of(policy[1], PROBLEMS, HOW, rules)
    pieces = [[len(draft.tokens) for draft in drafts]
              for _ in think_on(*policy, drafts, HOW, rules, ";")]
    assert len(pieces) > 2 and [policy[1].decode(d.completion) for d in drafts] == [
        text for row in whole for text, _ in row]


def draft_of(tokenizer, text: str, opener: str = "<think>") -> Draft:
    return Draft(PROBLEMS[0], [], tokenizer.encode(opener), 0, 99, tokenizer.encode(text))


@pytest.mark.parametrize(("opener", "text", "closed", "discarded"), [
    ("<think>", "2+3=5;5*2=10;10-", "<think>2+3=5;5*2=10</think>", 3),
    ("<think>", "2+3=5;", "<think>2+3=5</think>", 1),
    ("<think>", "2+3=", "</think>", 5),
    ("", "<think>2+3=5;5*", "<think>2+3=5</think>", 3),
    ("", "<think>2+3=", "</think>", 5)])
def test_a_thought_is_closed_after_its_last_whole_step(policy, opener, text, closed, discarded):
    tokenizer = policy[1]
    draft = draft_of(tokenizer, text, opener)
    close(tokenizer, draft)
    assert tokenizer.decode(draft.completion) == closed and draft.discarded == discarded


def written(policy, rules: Forcing) -> list[Draft]:
    """The greedy drafts of all problems, written to their ends."""
    drafts = forcing.drafts_of(policy[1], PROBLEMS, GREEDY, rules)
    list(think_on(*policy, drafts, GREEDY, rules))
    return drafts


def test_a_budget_is_kept_and_one_as_long_as_the_thought_changes_nothing(policy):
    tokenizer, lengths = policy[1], []
    for draft in (free := written(policy, Forcing())):
        ends = [t for t, x in enumerate(draft.tokens) if x in (tokenizer.end_think, tokenizer.eos)]
        lengths.append(min(ends, default=len(draft.tokens)))
    enough = written(policy, Forcing(budget=max(lengths)))
    assert [draft.tokens for draft in enough] == [draft.tokens for draft in free]
    closed = 0
    for budget in (1, 3, 6, 9):
        for draft, length in zip(written(policy, Forcing(budget=budget)), lengths, strict=True):
            kept = [*draft.tokens, tokenizer.eos].index(tokenizer.eos)
            if tokenizer.end_think in draft.tokens:
                kept = draft.tokens.index(tokenizer.end_think)
            assert kept <= budget or draft.opener == [tokenizer.end_think]
            closed += length > budget
    assert closed > 5


def test_a_thought_that_fills_its_row_ends(policy):
    """Made to go on for ever, it stops where the model's rows or the limit do."""
    rules = Forcing(waits=99, wait=";")
    for max_new in (7, 1000):
        for row in complete_forced(*policy, PROBLEMS, replace(HOW, max_new=max_new), rules):
            for text, _ in row:
                assert len(policy[1].encode(text)) <= min(max_new + 1, 64)
