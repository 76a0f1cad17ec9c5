"""Quiet thoughts: the loss, the controls, what is measured; killed and resumed with all stages."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_stages

from minireason.core import parallel
from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.core.files import read_lines
from minireason.core.runlog import RunLog
from minireason.measure import quiet_thoughts
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.problems import chain, sample_levels
from minireason.report import build, figures, style
from minireason.report import runs as results
from minireason.stages import quiet_star
from minireason.training.losses import gather_logprobs
from minireason.training.thoughts import UNSAID, QuietModel, Thought, think


@pytest.fixture
def config(ladder, tmp_path) -> quiet_star.Config:
    return replace(tiny_stages(ladder)["quiet_star"][1], out=str(tmp_path / "quiet_star"))


@pytest.fixture
def policy(ladder):
    return checkpoint.load(ladder / "sft")


def step_of(cfg: quiet_star.Config, policy, step: int = 0, n: int = 6):
    """(model, batches, counts) of one step's lines on this rank."""
    first, tokenizer = policy
    model = QuietModel.from_policy(first, 0)
    lines = quiet_thoughts.lines_of(tokenizer, sample_levels(chain, rng(0, "lines"), (1, 2), n))
    return model, *quiet_star.batches_of_step(cfg, step, rng(0, "step", step), lines, model,
                                              tokenizer)


def gradients(cfg, model, batches, counts) -> tuple[float, dict]:
    """The loss and the gradient of every parameter that has one."""
    model.zero_grad()
    total, sums = 0.0, torch.zeros(4)
    for batch in batches:
        loss = quiet_star.thought_loss(model, batch, cfg, counts, sums)
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_thoughts_stand_after_the_question_and_after_one_other_token(config, policy):
    _, batches, _ = step_of(replace(config, lines=30), policy, n=30)
    tokenizer, others = policy[1], set()
    for batch in batches:
        for b in range(len(batch.inputs)):
            line = tokenizer.decode(batch.inputs[b][batch.owner[b] == 0].tolist())
            roots = [int(batch.root[b][batch.owner[b] == j][0]) for j in (1, 2, 3, 4)]
            at = tokenizer.decode([batch.inputs[b][roots[0]].item()])
            assert at == "=" and line.count("=") == 1
            assert roots[0] == roots[1] and roots[2] == roots[3] != roots[0] and roots[2] > 0
            others.add(tokenizer.decode([batch.inputs[b][roots[2]].item()]))
    assert {"(", ")"} <= others and len(others) > 5


def test_thoughts_may_stand_after_the_first_bracket_alone(config, policy):
    """The line alone answers the same wherever a thought would stand."""
    cfg = replace(config, after=")", elsewhere=False)
    _, batches, counts = step_of(cfg, policy, n=30)
    for batch in batches:
        for inputs, root, owner in zip(batch.inputs, batch.root, batch.owner, strict=True):
            assert set(root[owner > 0].tolist()) == {inputs.tolist().index(
                policy[1].ids_of(")")[0])}
    assert counts[2] == 30 * config.samples
    model, sets = QuietModel.from_policy(policy[0], 0), frozen_sets("chain", "test", 20, (1, 2))
    write = partial(think, "pause", model, policy[1])
    found = [quiet_thoughts.answer_rows(model, policy[1], sets, (0, 3), write, after)[0]
             for after in ("=", ")")]
    alone = [[row for row in rows if row["tokens"] == 0] for rows in found]
    assert alone[0] == [{**row, "nats": pytest.approx(row["nats"])} for row in alone[1]]
    assert found[0] != found[1]
    with pytest.raises(UserError, match="--after '/': not in the line"):
        quiet_thoughts.root_of([1], "/", policy[1])


def test_marks_start_as_the_tokens_given(config, monkeypatch):
    seen = []
    real = QuietModel.from_policy
    monkeypatch.setattr(QuietModel, "from_policy", lambda policy, seed: seen.append(
        policy.embedding.weight.clone()) or real(policy, seed))
    quiet_star.run(replace(config, marks=("=", ")"), steps=1, eval_n=1))
    _, tokenizer = checkpoint.load(config.init)
    (rows,), ids = seen, tokenizer.ids_of("=", ")")
    assert torch.equal(rows[[tokenizer.think, tokenizer.end_think]], rows[ids])
    with pytest.raises(UserError, match="--marks =: give two"):
        replace(config, marks=("=",))


def test_micro_batches_and_ranks_share_one_gradient(config, policy, monkeypatch):
    model, whole, counts = step_of(replace(config, token_budget=10 ** 6), policy)
    loss, expected = gradients(config, model, whole, counts)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "share", lambda items, rank=rank: items[rank::2])
        _, batches, same = step_of(replace(config, token_budget=100), policy)
        assert same == counts and len(batches) > 1
        parts.append(gradients(config, model, batches, counts))
    assert sum(found for found, _ in parts) == pytest.approx(loss, abs=1e-4)
    for name, gradient in expected.items():
        torch.testing.assert_close(parts[0][1][name] + parts[1][1][name], gradient, rtol=1e-3,
                                   atol=1e-5 * max(1.0, float(gradient.abs().max())))


def test_reinforce_raises_the_thoughts_that_help(config, policy):
    """Its part of the gradient is that of -A log p(thought), computed on flat rows."""
    tokenizer = policy[1]
    model, (batch,), counts = step_of(replace(config, token_budget=10 ** 6), policy)
    _, with_it = gradients(replace(config, reinforce=1.0), model, [batch], counts)
    _, without = gradients(replace(config, reinforce=0.0), model, [batch], counts)
    model.zero_grad()
    texts = {}
    for b, j in {(b, j) for b in range(len(batch.inputs)) for j in (1, 2, 3, 4)}:
        mine = batch.owner[b] == j
        root = int(batch.root[b][mine][0])
        row = batch.inputs[b][:root + 1].tolist() + batch.inputs[b][mine].tolist()
        targets = batch.targets[b][:root + 1].tolist() + batch.targets[b][mine].tolist()
        role = torch.cat((torch.zeros(root + 1), batch.role[b][mine]))
        logits, targets = model(torch.tensor([row]))[0], torch.tensor(targets)
        text = logits.clone()
        text[:, UNSAID] = float("-inf")
        reward = gather_logprobs(text, targets)[role == 3].sum().item()
        texts[b, j] = reward, gather_logprobs(logits, targets)[role == 2].sum()
    for (b, j), (reward, logprob) in texts.items():
        other = texts[b, (2, 1, 4, 3)[j - 1]][0]
        (-(reward - other) / 2 * logprob / counts[2]).backward(retain_graph=True)
    assert max(abs(texts[b, 1][0] - texts[b, 2][0]) for b in range(len(batch.inputs))) > 0.01
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(with_it[name] - without[name], parameter.grad,
                                       rtol=1e-2, atol=1e-4)
    assert tokenizer.decode([batch.inputs[0][batch.owner[0] == 1][0].item()]) == "<think>"


def test_every_arm_reads_the_same_lines_and_only_thoughts_cost_more(config, monkeypatch):
    """And only thoughts by the policy have a loss of their own."""
    seen, flops = {}, {}
    real = quiet_star.batches_of_step

    def noted(cfg, step, generator, lines, thinker, tokenizer):
        seen.setdefault(cfg.thoughts, []).append([tokens for tokens, _ in lines])
        return real(cfg, step, generator, lines, thinker, tokenizer)

    monkeypatch.setattr(quiet_star, "batches_of_step", noted)
    for arm in ("own", "frozen", "random", "pause", "none"):
        cfg = replace(config, thoughts=arm, out=f"{config.out}-{arm}", steps=4, eval_n=1,
                      samples=1 if arm == "pause" else 2)
        flops[arm] = quiet_star.run(cfg)["flops"]
        rows = read_lines(Path(cfg.out) / "rows.jsonl")
        lengths = {row["tokens"] for row in rows if row["method"] == "quiet"}
        assert lengths == ({0} if arm == "none" else {0, 3, 6})
        assert bool(results.select(rows, method="weight")) == (arm != "none")
    assert all(lines == seen["own"] for lines in seen.values())
    assert flops["none"] < flops["pause"] < flops["random"] < flops["own"]


def test_where_a_thought_tells_the_answer_the_head_learns_to_listen(config, monkeypatch):
    """A thought after the question that is the answer: read, and weighed at `=` alone."""
    def oracle(kind, policy, tokenizer, lines, roots, how, numbers=None):
        return [[Thought(root, [tokens[first]] if root == first - 1 else [tokenizer.hint])
                 for root in own for _ in range(how.n)]
                for (tokens, first), own in zip(lines, roots, strict=True)]

    monkeypatch.setattr(quiet_star, "think", oracle)
    cfg = replace(config, steps=150, lr=1e-2, rows_per_step=24, lines=2000, min_level=2, eval_n=40,
                  save_every=999, weighed=20, replay=0.25)
    quiet_star.run(cfg)
    rows = read_lines(Path(cfg.out) / "rows.jsonl")
    weights = {row["token"]: row["accuracy"] for row in results.select(rows, method="weight")}
    assert set(weights) == {"=", "operand", "bracket", "operator", "answer"}
    # a thought that tells nothing is as good as none, so elsewhere nothing presses a weight down
    assert weights["="] > 0.8 and max(weights["operand"], weights["bracket"]) < 0.55
    answers = {row["tokens"]: row["accuracy"] for row in results.select(rows, method="quiet")}
    assert answers[6] > answers[0] + 0.3
    gains = {row["decile"]: row["gain"] for row in results.select(rows, method="gain")}
    assert list(gains) == list(range(1, 11)) and gains[10] > 0.5 > abs(gains[1])


def test_the_policy_loads_alone_and_thoughts_are_kept(ladder):
    folder = ladder / "quiet_star"
    checkpoint.load(folder)
    tensors, _, _ = checkpoint.read_tensors(folder / "mixing.safetensors")
    assert set(tensors) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    result = json.loads((folder / "result.json").read_text())
    assert len(result["thoughts"]) == 2 and {"thought", "steps", "weight", "gain"} <= set(
        result["thoughts"][0])


def test_the_figure_shows_every_level_kind_and_decile(ladder):
    figure = figures.quiet_thoughts([results.load_run(ladder)])
    lengths, losses, kinds, deciles = figure.axes
    labels = lengths.get_legend_handles_labels()[1]
    assert labels == ["level 1", "level 2"]
    assert len(losses.lines) == 2 and len(kinds.patches) == 5 and len(deciles.patches) == 10
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_the_page_shows_the_thoughts(ladder, tmp_path, monkeypatch):
    monkeypatch.setitem(style.STYLE, "savefig.dpi", 40)
    for name in ("pretrain", "quiet_star"):
        shutil.copytree(ladder / name, tmp_path / "run" / name)
    page = build.run(build.Config(run=str(tmp_path / "run"))).read_text()
    thoughts = json.loads((ladder / "quiet_star" / "result.json").read_text())["thoughts"]
    part = page[page.index("Thoughts: own"):]
    for thought in thoughts:
        assert f"<code>{thought['line']}</code> w = {thought['weight']:.2f}" in part
    assert (tmp_path / "run" / "figures" / "quiet_star.png").exists()


def test_the_head_of_the_init_folder_is_kept(ladder, config):
    """And checked: a run that changes nothing ends with the weights that it starts from."""
    first = ladder / "quiet_star"
    still = replace(config, init=str(first), lr=0.0, steps=1, eval_n=1)
    quiet_star.run(still)
    for name in ("mixing.safetensors", "model.safetensors"):
        before, after = (checkpoint.read_tensors(folder / name)[0]
                         for folder in (first, Path(still.out)))
        assert all(torch.equal(before[key], after[key]) for key in before), name
    copy = Path(config.out).parent / "copy"
    shutil.copytree(first, copy)
    head = bytearray((copy / "mixing.safetensors").read_bytes())
    head[-1] ^= 1
    (copy / "mixing.safetensors").write_bytes(head)
    with pytest.raises(UserError, match=r"mixing\.safetensors: is not what its stage wrote"):
        quiet_star.run(replace(still, init=str(copy), out=f"{config.out}-damaged"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"thoughts": "fancy"}, "--thoughts fancy: must be one of own, "),
    ({"samples": 1}, "--samples 1: REINFORCE .* --reinforce 0"),
    ({"replay": 1.0}, "--replay 1 --rows-per-step 12: leaves no row"),
    ({"rows_per_step": 1, "replay": 0.6}, "--replay 0.6 --rows-per-step 1: leaves no row"),
    ({"max_level": 13}, "--max-level 13: must be one of 1, 2, .*, 12$"),
    ({"family": "countdown"}, "--min-level 1: must be one of 3, 4$"),
    ({"family": "none"}, "--family none: must be one of chain, "),
])
def test_settings_that_cannot_work_are_refused_at_once(config, changes, message):
    with pytest.raises(UserError, match=message) as error:
        replace(config, **changes)
    assert "\n" not in str(error.value)


def test_one_thought_is_enough_where_none_is_compared(config):
    for changes in ({"reinforce": 0.0}, {"thoughts": "pause"}, {"thoughts": "none"}):
        replace(config, samples=1, **changes)


@pytest.mark.parametrize(("changes", "replayed", "message"), [
    ({"lengths": (6, 60)}, 2, r"--lengths 60: .* leaves \d+ tokens"),
    ({}, 8, "the mixture of levels up to 8: .* longer than the model's max_len 64"),
    ({"family": "countdown", "min_level": 3, "max_level": 4}, 8, "countdown has levels 2 to 6"),
])
def test_what_does_not_fit_is_refused_before_the_first_step(config, changes, replayed, message,
                                                            monkeypatch):
    mixture = replace(quiet_star.Mixture.of(config.base), max_level=replayed)
    monkeypatch.setattr(quiet_star.Mixture, "of", lambda _: mixture)
    monkeypatch.setattr(RunLog, "start", lambda *_: pytest.fail("started"))
    with pytest.raises(UserError, match=message):
        quiet_star.run(replace(config, **changes))
