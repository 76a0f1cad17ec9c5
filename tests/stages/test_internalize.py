"""A thought removed token by token: what is cut, equal tokens, the head that is dropped."""

import dataclasses
import json
from collections import Counter
from itertools import pairwise

import pytest
import torch
from kill_run import differences
from test_stages import NEAR, losses

from minireason.core.errors import UserError
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.presets import FAMILY_SIZES, SIZES, settings_of
from minireason.problems import FAMILIES, check_config, multiplication, split_of
from minireason.stages import internalize
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer

TOKENIZER = Tokenizer.build(multiplication.TOKENS)
FIELDS = {"family": "multiplication", "device": "cpu", "min_level": 2, "max_level": 2,
          "d_model": 32, "n_layers": 1, "n_heads": 2, "head_dim": 16, "d_ff": 32, "max_len": 64,
          "steps": 16, "steps_per_token": 1, "unit": "token",
          "rows_per_step": 8, "token_budget": 128, "warmup": 2, "save_every": 5, "eval_n": 2}


def settings(**changes) -> internalize.Config:
    return internalize.Config(**(FIELDS | changes))


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def thought_length(tokens) -> int:
    return len(internalize.cuts(tokens, "token", TOKENIZER)) - 1


# ---- what is removed, and when ------------------------------------------------------------------

def test_tokens_go_from_the_left_and_the_opener_with_the_last():
    ((row, first),) = encode_lines(TOKENIZER, ["12*34="], ["<think>84;036</think>(804)<eos>"])
    kept = [TOKENIZER.decode(internalize.without(row, n, 0, "token", TOKENIZER))[11:]
            for n in range(8)]
    assert first == 7
    assert kept == ["<think>84;036</think>(804)<eos>", "<think>4;036</think>(804)<eos>",
                    "<think>;036</think>(804)<eos>", "<think>036</think>(804)<eos>",
                    "<think>36</think>(804)<eos>", "<think>6</think>(804)<eos>",
                    "</think>(804)<eos>", "</think>(804)<eos>"]


def test_pieces_end_before_running_sums_or_behind_semicolons():
    for prompt, text, pieces in (
            ("719*349=", "<think>1746;06782(13243);007512</think>(139052)<eos>",
             ["06782(13243);007512</think>(139052)<eos>", "(13243);007512</think>(139052)<eos>"]),
            ("12*34=", "<think>84;063</think>(804)<eos>", ["063</think>(804)<eos>"])):
        ((row, first),) = encode_lines(TOKENIZER, [prompt], [text])
        kept = [TOKENIZER.decode(internalize.without(row, 0, n, "piece", TOKENIZER)[first:])
                for n in range(len(pieces) + 3)]
        answer = text[text.index("</think>"):]
        assert kept == [text, *(f"<think>{piece}" for piece in pieces), answer, answer]


def test_one_token_at_a_time_until_none_is_left(tmp_path):
    internalize.run(settings(out=str(tmp_path / "run"), smoothing=99.0))
    left = [line["train/thought_tokens"] for line in metrics(tmp_path / "run")]
    assert left == [8, 7, 6, 5, 4, 3, 2, 1, *[0] * 8]                       # of 480;0630


@pytest.mark.parametrize(("arm", "left"), [("explicit", 8), ("direct", 0), ("auxiliary", 0)])
def test_controls_keep_their_thought_or_have_none(tmp_path, arm, left):
    internalize.run(settings(out=str(tmp_path / "run"), arm=arm, steps=3))
    assert {line["train/thought_tokens"] for line in metrics(tmp_path / "run")} == {left}


def test_arms_read_equally_many_tokens_of_train_problems():
    for step in range(4):
        read = []
        for arm, removed in (("explicit", 0), ("internalize", 3), ("direct", 10 ** 6)):
            cfg = settings(arm=arm, min_level=1, max_level=3)
            rows, _ = internalize.rows_of_step(cfg, step, removed, TOKENIZER)
            read.append(sum(len(tokens) for tokens, _ in rows))
            for tokens, first in rows:
                prompt = TOKENIZER.decode(tokens[1:first])
                assert split_of(multiplication.read(prompt)) == "train"
        assert min(read) == read[0] and max(read) < read[0] + 44        # one line more at most


def test_smoothing_is_ahead_by_o_tokens_with_exponential_chances():
    cfg = settings(smoothing=1.0, rows_per_step=4000)
    rows, _ = internalize.rows_of_step(cfg, 0, 2, TOKENIZER)
    ahead = Counter(6 - thought_length(tokens) for tokens, _ in rows)
    for o in range(4):
        assert ahead[o] / len(rows) == pytest.approx(0.632 * 0.368 ** o, abs=0.03)
    for arm, removed in (("explicit", 0), ("direct", 10 ** 6)):
        rows, _ = internalize.rows_of_step(settings(arm=arm, smoothing=1.0), 0, removed, TOKENIZER)
        assert len({thought_length(tokens) for tokens, _ in rows}) == 1


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimizer_starts_anew_and_warms_up_at_each_removal(tmp_path, monkeypatch, reset):
    seen, learn = [], internalize.learn

    def noted(model, optimizer, rows, sums, lr, *more):
        seen.append((not optimizer.state, lr))
        return learn(model, optimizer, rows, sums, lr, *more)

    monkeypatch.setattr(internalize, "learn", noted)
    cfg = settings(out=str(tmp_path / "run"), reset=reset, steps=40, steps_per_token=4, warmup=3,
                   decay=0.05)
    internalize.run(cfg)
    new = [step for step, (fresh, _) in enumerate(seen) if fresh]
    assert new == [0, *(range(4, 36, 4) if reset else ())]            # 8 tokens, 8 removals
    for step in new[1:]:
        for share, since in ((1 / 3, 0), (2 / 3, 1), (1, 2), (1, 3)):
            assert seen[step + since][1] == pytest.approx(share * cfg.lr)


@pytest.mark.parametrize("swap", [True, False])
def test_the_openers_swap_their_embeddings_at_the_last_removal(tmp_path, monkeypatch, swap):
    learn, before, swapped = internalize.learn, [], []

    def noted(model, *more):
        openers = model.embedding.weight[[TOKENIZER.think, TOKENIZER.end_think]].detach().clone()
        swapped.append(bool(before) and openers.flip(0).equal(before[-1]))
        result = learn(model, *more)
        before.append(model.embedding.weight[[TOKENIZER.think, TOKENIZER.end_think]].detach())
        return result

    monkeypatch.setattr(internalize, "learn", noted)
    internalize.run(settings(out=str(tmp_path / "run"), swap=swap, unit="piece"))
    assert [step for step, here in enumerate(swapped) if here] == ([8] if swap else [])


def test_the_learning_rate_is_constant_and_falls_in_the_last_share(tmp_path):
    internalize.run(settings(out=str(tmp_path / "run"), decay=0.25, lr=1e-3))
    rates = [line["train/lr"] for line in metrics(tmp_path / "run")]
    assert rates == pytest.approx([5e-4, *[1e-3] * 12, 7.5e-4, 5e-4, 2.5e-4])


def test_pieces_have_each_a_rise_and_a_fall(tmp_path):
    internalize.run(settings(out=str(tmp_path / "run"), unit="piece", decay=0.5, lr=1e-3))
    rates = [line["train/lr"] for line in metrics(tmp_path / "run")]
    assert internalize.removal_steps(settings(unit="piece"), TOKENIZER) == [4, 8]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4] * 2
                                  + [5e-4, *[1e-3] * 4, 7.5e-4, 5e-4, 2.5e-4])


def test_a_recipe_that_leaves_thoughts_is_refused(tmp_path):
    with pytest.raises(UserError, match="--steps 8: the thought is gone only after 8"):
        internalize.run(settings(out=str(tmp_path / "run"), steps=8))
    assert not (tmp_path / "run").exists()
    for changes, why in (({"arm": "half"}, "--arm half"), ({"smoothing": 0.0}, "--smoothing 0"),
                         ({"arm": "auxiliary", "family": "chain"}, "--family chain: has no")):
        with pytest.raises(UserError, match=why):
            settings(**changes)


# ---- what is learned ----------------------------------------------------------------------------

@pytest.mark.parametrize("arm", [
    "internalize", "auxiliary",
    *(pytest.param(arm, marks=pytest.mark.long) for arm in ("direct", "explicit"))])
def test_one_batch_is_learned_by_heart(tmp_path, monkeypatch, arm):
    """The same three problems at every step, so the floor is zero; the head's error included."""
    problems = [multiplication.read(text) for text in ("12*34", "56*78", "90*11")]
    monkeypatch.setattr(internalize, "sample_levels", lambda *_: problems)
    result = internalize.run(settings(out=str(tmp_path / "run"), arm=arm, steps=200, lr=1e-2,
                                      steps_per_token=16, smoothing=99.0,
                                      head_weight=0.1))
    assert losses(tmp_path / "run")[0] > 2 and losses(tmp_path / "run")[-1] < NEAR
    assert list(result["accuracy"]) == ["cot" if arm == "explicit" else "direct", "sampled"]


def test_the_head_reads_each_sum_just_before_its_digit():
    cfg = settings(arm="auxiliary")
    rows, sums = internalize.rows_of_step(cfg, 0, 10 ** 6, TOKENIZER)
    for tokens, first in rows:
        problem = multiplication.read(TOKENIZER.decode(tokens[1:first]))
        read = sums[tuple(tokens[:-1])]
        assert [total * 10 for _, total in read] == list(multiplication.running_sums(problem))
        for place, total in read:
            digit = TOKENIZER.decode([tokens[place + 1]])
            assert digit == str(round(total * 10) % 10)
        assert all(after == before + 1 for (before, _), (after, _) in pairwise(read))


def test_the_loss_of_the_head_is_the_mean_squared_error_whatever_the_micro_batches():
    cfg = settings(arm="auxiliary", head_weight=3.0)
    rows, sums = internalize.rows_of_step(cfg, 0, 10 ** 6, TOKENIZER)
    shape = ModelConfig(TOKENIZER.vocab_size, 32, 1, 2, 2, 16, 32, 64)
    found = []
    for budget, weight in ((10 ** 6, 3.0), (64, 3.0), (64, 0.0)):
        model = internalize.SumReader.random(shape, 0)
        own = dataclasses.replace(cfg, token_budget=budget, head_weight=weight)
        found.append(internalize.learn(model, make_optimizer(model, 0.0), rows, sums, 0.0, own,
                                       TOKENIZER.pad)["train/loss"])
    errors = []
    for tokens, _ in rows:
        hidden = model.hidden(torch.tensor([tokens[:-1]]))[0]
        for place, total in sums[tuple(tokens[:-1])]:
            errors.append((model.running_sum(hidden[place]).item() - total) ** 2)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] - found[2] == pytest.approx(3 * sum(errors) / len(errors), rel=1e-4)


def test_the_head_is_no_part_of_the_policy(tmp_path):
    """It starts from the weights of its controls, and leaves a plain transformer."""
    internalize.run(settings(out=str(tmp_path / "run"), arm="auxiliary", steps=2))
    model, _ = checkpoint.load(tmp_path / "run")
    assert type(model) is Transformer
    with_head = internalize.SumReader.random(model.config, 5)
    plain = Transformer.random(model.config, 5)
    for name, weight in plain.state_dict().items():
        assert weight.equal(with_head.state_dict()[name])


@pytest.mark.parametrize("arm", ["auxiliary", "internalize"])
def test_killed_within_the_removals_it_ends_the_same(tmp_path, run_with_deaths, arm):
    internalize.run(settings(out=str(tmp_path / "whole"), arm=arm))
    broken = settings(out=str(tmp_path / "broken"), arm=arm)
    assert run_with_deaths(lambda: internalize.run(broken), 2) >= 2
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


def test_presets_are_recipes_that_end_without_thoughts():
    found = 0
    for family in FAMILIES:
        for size in SIZES:
            if "internalize" in FAMILY_SIZES.get(family, {}).get(size, {}):
                cfg = internalize.Config(family=family, **settings_of(family, size, "internalize"))
                check_config(cfg)
                tokenizer = Tokenizer.build(FAMILIES[family].TOKENS)
                assert internalize.removal_steps(cfg, tokenizer)
                found += 1
    assert found
