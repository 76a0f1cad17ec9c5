"""What thinking costs: s1's measures by hand, thresholds, exits, and who pays for what."""

import math

import numpy as np
import pytest
import torch

from minireason.measure import thinking
from minireason.measure.thinking import ALL
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.sampling.forcing import Forcing
from minireason.sampling.sampler import Sampling

TOKENIZER = Tokenizer.build(chain.TOKENS)
PROBLEMS = [chain.read(text) for text in ("(2+3)*2", "9-4", "(8-3)+4")]
WHOLE = [(chain.render(p, "cot"), 20) for p in PROBLEMS]
DIRECT = [("</think>10<eos>", 3), ("</think>6<eos>", 3), ("</think>9<eos>", 3)]


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Random weights, opinionated enough that answers end."""
    model = Transformer(ModelConfig(TOKENIZER.vocab_size, 16, 2, 2, 2, 8, 24, 64))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise + (parameter.dim() < 2))
        model.embedding.weight[TOKENIZER.eos] *= 1.6
    return model


def test_rows_hold_accuracy_tokens_and_share_of_thinking():
    sets = {"chain-test-k2": [PROBLEMS[0], PROBLEMS[2]], "chain-test-k1": [PROBLEMS[1]]}
    rows = thinking.rows_by_level(sets, "auto", [WHOLE[0], DIRECT[2], DIRECT[1]])
    found = {row["set"]: (row["accuracy"], row["tokens"], row["thinking"]) for row in rows}
    assert found["chain-test-k2"] == (1.0, 11.5, 0.5)
    assert found["chain-test-k1"] == (0.0, 3.0, 0.0)
    assert found[ALL] == pytest.approx((2 / 3, 26 / 3, 1 / 3))


def test_a_doubted_direct_answer_is_paid_for_as_well():
    rows = thinking.threshold_rows(PROBLEMS, DIRECT, WHOLE, [0.9, 0.1, 0.5])
    whole = {row["decile"]: row for row in rows}
    assert [whole[i]["accuracy"] for i in (0, 5, 10)] == pytest.approx([2 / 3, 1, 1])
    assert whole[0]["tokens"] == 3 and whole[0]["thinking"] == 0
    assert whole[5]["tokens"] == pytest.approx(3 + 20 / 3)         # the second alone is below
    assert whole[10]["tokens"] == pytest.approx(3 + 40 / 3)


def test_scaling_is_the_mean_slope_of_all_pairs():
    assert thinking.scaling([(0, 0.0), (10, 50.0), (30, 60.0)]) == pytest.approx((5 + 2 + 0.5) / 3)
    assert thinking.scaling([(5, 1.0), (5, 3.0)]) is None
    # 50 points in 0.01 of a token would outweigh all else
    assert thinking.scaling([(0, 0.0), (10, 50.0), (10.01, 100.0)]) == pytest.approx(
        (5 + 100 / 10.01) / 2)


def test_the_summary_of_budgets_by_hand():
    rows = [{"method": "forced", "budget": b, "thought": b, "control": c, "accuracy": a}
            for b, c, a in ((0, 1.0, 0.1), (6, 1.0, 0.4), (12, 0.5, 0.3), (18, 1.0, 0.5))]
    rows += [{"method": "forced", "waits": 1, "accuracy": 0.9}, {"method": "auto", "accuracy": 1.0}]
    rows[1:4] = rows[3:0:-1]                        # budgets as a command line may name them
    found = thinking.forcing_summary(rows)
    slopes = [(40 - 10) / 6, (30 - 10) / 12, (50 - 10) / 18, -10 / 6, 10 / 12, 20 / 6]
    assert found == {"forced": {"control": pytest.approx(0.875), "rises_to": 6, "performance": 0.5,
                                "scaling": pytest.approx(np.mean(slopes))}}


def test_rejection_takes_the_first_that_fits_and_pays_for_all_before():
    samples = [(f"<think>{'1+1=2;' * n}1+1=2</think>2<eos>", 10 * n) for n in (3, 2, 1)]
    assert thinking.first_that_fits(TOKENIZER, samples, 11) == (samples[2][0], 60)
    assert thinking.first_that_fits(TOKENIZER, samples, 17) == (samples[1][0], 50)
    assert thinking.first_that_fits(TOKENIZER, samples, 5) == (samples[2][0], 60)
    assert thinking.thought_lengths(TOKENIZER, samples).tolist() == [23, 17, 11]
    assert thinking.thought_lengths(TOKENIZER, DIRECT).tolist() == [0, 0, 0]


def test_control_is_what_keeps_to_the_budget_asked_or_forced(model):
    policies = {"forced": model, "asked": model}
    rows = thinking.forcing_rows(policies, TOKENIZER, PROBLEMS, (0, 6, 64), (1,),
                                 Sampling(2))
    control = {(row["method"], row["budget"]): row["control"] for row in rows if "budget" in row}
    assert [control["forced", budget] for budget in (0, 6, 64)] == [1.0, 1.0, 1.0]
    assert control["asked", 0] < 1 and control["asked", 64] == 1
    assert [row["method"] for row in rows if "waits" in row] == ["forced"]


@torch.inference_mode()
def test_answers_are_greedy_and_their_probability_that_of_a_fresh_forward(model):
    heads = ["</think>", "<think>9-4=5</think>", "<think>8-3=5;5+4=9</think>"]
    found = thinking.answers_after(model, TOKENIZER, PROBLEMS, heads)
    for problem, head, (text, probability) in zip(PROBLEMS, heads, found, strict=True):
        tokens = TOKENIZER.encode(f"<bos>{problem.prompt}") + TOKENIZER.encode(head)
        expected, drawn = 0.0, []
        while drawn[-1:] != [TOKENIZER.eos] and len(tokens) + len(drawn) < 64:
            logprobs = model(torch.tensor([tokens + drawn]))[0, -1].log_softmax(-1)
            drawn.append(int(logprobs.argmax()))
            expected += float(logprobs.max())
        assert text == head + TOKENIZER.decode(drawn)
        assert math.log(probability) == pytest.approx(expected, abs=1e-4)


def test_a_thought_that_fills_its_row_is_probed_as_far_as_there_is_room(model, monkeypatch):
    """No answer fits behind the whole of it, as of a policy that rambles to the row's end."""
    room = model.config.max_len - len(TOKENIZER.encode(f"<bos>{PROBLEMS[1].prompt}<think>"))
    endless = "<think>" + "1+1=2;" * (room // 6) + "1" * (room % 6)
    monkeypatch.setattr(thinking, "greedy_forced", lambda *_: [(endless, 64)])
    monkeypatch.setattr(thinking, "final_values", lambda critic, tokenizer, problems, texts: [
        [0.0] for (text,) in texts if len(tokenizer.encode(text)) <= 64])
    rows = thinking.exit_rows(model, None, TOKENIZER, PROBLEMS[1:2])
    assert [row["steps"] for row in rows if row["method"] == "exit_critic"] == [room // 6] * 10


def test_an_exit_is_taken_where_the_probe_is_sure_and_every_probe_is_paid(model, monkeypatch):
    """Thoughts of 2, 1 and 2 steps; probes are sure from the second on, the third's never."""
    monkeypatch.setattr(thinking, "greedy_forced", lambda *_: WHOLE)
    sure = [0.1, 0.96, 1.0, 0.1, 0.96, 0.1, 0.2, 0.3]
    probes = iter(sure)
    monkeypatch.setattr(thinking, "answers_after", lambda policy, tokenizer, problems, heads: [
        (f"{head}{p.answer}<eos>", next(probes)) for p, head in zip(problems, heads, strict=True)])
    monkeypatch.setattr(thinking, "final_values", lambda *_: [[0.75]] * 8)
    rows = thinking.exit_rows(model, None, TOKENIZER, PROBLEMS)
    found = {(row["method"], row["threshold"]): row for row in rows}
    row = found["exit_probability", 0.95]
    probe = 3                                            # </think>, answer, <eos>
    assert row["tokens"] == pytest.approx((6 + 2 * probe + 6 + 2 * probe + 12 + 3 * probe) / 3)
    assert row["steps"] == pytest.approx(4 / 3) and row["accuracy"] == 1
    assert found["exit_critic", 0.7]["tokens"] == probe
    assert found["exit_critic", 0.8]["steps"] == pytest.approx(5 / 3)


def test_greedy_forced_is_one_completion_per_problem(model):
    (first, spent), *_ = thinking.greedy_forced(model, TOKENIZER, PROBLEMS, Forcing("direct"))
    assert first.startswith("</think>") and spent >= 2
