"""The self-correcting policy: its traces, its loss, what it withdraws."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kill_run import differences

from minireason.core.errors import UserError
from minireason.core.files import read_checked
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.problems.corpus import Mixture
from minireason.sampling.complete import prompt_ids
from minireason.stages import revise
from minireason.training import imitate
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
    rows = [revise.without_withdrawn(row, tokenizer)
            for row in encode_lines(tokenizer, prompts, texts)]
    batches, count = micro_batches(rows, 10 ** 6, tokenizer.pad, packed=packed)
    left = []
    for batch in batches:
        left += batch.targets[batch.loss_mask > 0].tolist()
    assert sorted(left) == expected and count == len(expected)


def test_rows_have_their_shares_and_verify(config, tokenizer):
    pool = [[PROBLEM.prompt, list(PROBLEM.steps), [[0, "23+4=28"], [1, "27*3=80"], [0, "23+4=9"]]],
            [PROBLEM.prompt, list(PROBLEM.steps), []]]
    cfg = replace(config, mended=0.25, replay=0.5, rows_per_step=64)
    texts = [tokenizer.decode(row) for step in range(5) for row, *_ in revise.rows_of_step(
        cfg, step, pool, Mixture.of(cfg.base), tokenizer)]
    own = [t.removeprefix("<bos>" + PROBLEM.prompt) for t in texts
           if t.startswith("<bos>" + PROBLEM.prompt)]
    mended = [t for t in own if "<wrong>" in t]
    assert len(mended) == 5 * 16 and len(own) == 5 * 32 and len(texts) == 5 * 64
    assert all(chain.verify(PROBLEM, t).steps_valid for t in own)
    assert {t.count("<wrong>") for t in mended} == {1, 2}
    control = [tokenizer.decode(row) for row, *_ in revise.rows_of_step(
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
    real = imitate.complete

    def complete(model, tokenizer, problems, style, how, **rest):
        if how.n == 1:
            return real(model, tokenizer, problems, style, how)
        return [[chain.render(p, "cot"), *(f"<think>{';'.join(off(p, i))}</think>1<eos>"
                                           for i in (0, -1)), "<think>1+2"] for p in problems]

    def off(problem, i):
        steps = list(problem.steps)
        head, _, value = steps[i].partition("=")
        steps[i] = f"{head}={(int(value) + 1) % 100}"
        return steps
    monkeypatch.setattr(imitate, "complete", complete)


@pytest.mark.long
def test_killed_and_resumed_is_bit_identical(config, tmp_path, run_with_deaths, scripted):
    revise.run(config)
    other = replace(config, out=str(tmp_path / "other" / "revise"))
    assert run_with_deaths(lambda: revise.run(other), 2) >= 2
    result = revise.run(other)
    assert differences(tmp_path / "revise", tmp_path / "other" / "revise") == []
    assert result["pool_with_errors"] > 0 and revise.run(other) == result
    pool = read_checked(tmp_path / "revise" / "pool.json")["pool"]
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
    pool = read_checked(Path(cfg.out) / "pool.json")["pool"]
    problems = [chain.read(prompt) for prompt, _, _ in pool]
    heads = prompt_ids(tokenizer, problems, "cot")
    right = [h + tokenizer.encode(p.steps[0] + "</think>") for h, p in zip(heads, problems,
                                                                            strict=True)]
    wrong = [h + tokenizer.encode(errors[0][1] + "</think>")
             for h, (_, _, errors) in zip(heads, pool, strict=True)]
    def chance(row: list[int], at: int, token: int) -> float:
        """P(token) in place of the row's token `at`."""
        with torch.no_grad():
            return model(torch.tensor([row[:at]]))[0, -1].softmax(-1)[token].item()

    (withdraw,) = tokenizer.ids_of("<wrong>")
    assert max(chance(row, -1, withdraw) for row in right) < 0.3
    assert min(chance(row, -1, withdraw) for row in wrong) > 0.7
    assert max(chance(row, -2, row[-2]) for row in wrong) < 0.2     # the wrong step's result


def test_bad_shares_and_families_are_refused(config):
    for changes, complaint in (({"mended": 0.7, "replay": 0.6}, "--mended 0.7 --replay 0.6"),
                               ({"mended": -0.1}, "--mended -0.1"),
                               ({"family": "addition"}, "--family addition")):
        with pytest.raises(UserError, match=complaint):
            replace(config, **changes)
