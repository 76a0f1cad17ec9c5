"""Thinking when it pays: shapes of the warm-up, the price, what is measured, resume."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny_run import tiny_stages

from minireason.core.config import rng
from minireason.core.errors import UserError
from minireason.core.files import read_checked, read_lines
from minireason.model import checkpoint
from minireason.problems import chain, sample_levels, split_of
from minireason.report import build, figures_testtime, style
from minireason.report import runs as results
from minireason.stages import think_budget
from minireason.training import rollouts
from minireason.training.optim import make_optimizer
from minireason.training.rollouts import Rewards

TEXT = "<think>2+3=5;5*2=10;10-4=6</think>6<eos>"


@pytest.fixture
def config(ladder, tmp_path) -> think_budget.Config:
    return replace(tiny_stages(ladder)["think_budget"][1], out=str(tmp_path / "think_budget"))


def test_a_thought_is_whole_or_lacks_its_ends(config):
    generator = rng(0, "shapes")

    def shapes(text: str, omitted: float) -> Counter:
        cfg = replace(config, omitted=omitted)
        return Counter(think_budget.shortened(cfg, text, generator) for _ in range(400))

    assert shapes(TEXT, 0.0) == {TEXT: 400}
    assert shapes(TEXT, 1.0) == {"<think>5*2=10</think>6<eos>": 400}
    mixed = shapes(TEXT, 0.5)
    assert len(mixed) == 4 and min(mixed.values()) > 60
    for text in mixed:
        assert chain.verify(chain.read("((2+3)*2)-4"), text).correct
    two, one = "<think>2+3=5;5*2=10</think>10<eos>", "<think>2+3=5</think>5<eos>"
    assert shapes(two, 1.0) == {"<think>2+3=5</think>10<eos>": 400}     # never both
    assert set(shapes(two, 0.5)) == {two, "<think>2+3=5</think>10<eos>",
                                     "<think>5*2=10</think>10<eos>"}
    assert shapes(one, 1.0) == {"</think>5<eos>": 400}


def test_a_prompt_asks_for_the_length_that_follows(config, ladder):
    tokenizer = checkpoint.load(ladder / "star")[1]
    cfg = replace(config, asked=0.5, rows_per_step=200, omitted=0.5)
    hinted = 0
    for tokens, first in think_budget.rows_of_step(cfg, 0, [["(((2+3)*2)-4)=", TEXT]], tokenizer):
        prompt, text = tokenizer.decode(tokens[:first]), tokenizer.decode(tokens[first:])
        question, _, length = prompt.partition("<hint>")
        assert question == "<bos>(((2+3)*2)-4)="
        if length:
            thought = text.partition("</think>")[0].removeprefix("<think>")
            assert int(length) == len(tokenizer.encode(thought))
            hinted += 1
    assert 70 < hinted < 130


def test_the_pool_holds_right_samples_of_train_problems(ladder):
    pool = read_checked(ladder / "think_budget" / "warm" / "pool.json")["pool"]
    assert pool and len({tuple(pair) for pair in pool}) == len(pool)
    for prompt, text in pool:
        problem = chain.read(prompt)
        assert split_of(problem) == "train" and chain.verify(problem, text).correct


def test_the_opener_is_drawn_and_every_token_is_paid_for(ladder):
    policy, tokenizer = checkpoint.load(ladder / "think_budget" / "warm")
    with torch.no_grad():             # as fond of one opener as of the other
        weight = policy.embedding.weight
        weight[tokenizer.end_think] = weight[tokenizer.think]
    problems = sample_levels(chain, rng(0, "paid"), (1, 2), 20)
    how = think_budget.Sampling(4, 40, seed=1)
    groups = rollouts.sample_groups(policy, tokenizer, problems, how, style="auto")
    openers = Counter(tokenizer.decode([r.tokens[r.first]]) for group in groups for r in group)
    assert openers["<think>"] > 0 and openers["</think>"] > 0
    right = rollouts.Rollout(chain.read("((2+3)*2)-4"), tokenizer.encode(TEXT), 0, [])
    rollouts.reward_groups([*groups, [right]], tokenizer, Rewards(price=0.01), "auto")
    assert right.reward == pytest.approx(1 - 0.01 * 21)
    for group in groups:
        for rollout in group:
            text = tokenizer.decode(rollout.tokens[rollout.first:])
            correct = chain.verify(rollout.problem, text).correct
            assert rollout.reward == pytest.approx(correct - 0.01 * rollout.length)


def test_a_price_alone_teaches_to_answer_at_once(config, ladder):
    """Where no answer pays, the cheapest completions win: the opener itself learns."""
    policy, tokenizer = checkpoint.load(ladder / "think_budget" / "warm")
    cfg = replace(config, steps=30, prompts_per_step=8, group_size=8, lr=3e-3,
                  warmup=1, rewards=Rewards(outcome=0.0, process=0.0, price=0.1))
    optimizer = make_optimizer(policy, 0.0)
    records = [think_budget.reinforce(cfg, step, policy, optimizer, tokenizer)
               for step in range(30)]
    before, after = records[0], records[-1]
    assert before["train/thinking"] > 0.3 > 2 * after["train/thinking"]
    assert after["train/generated_tokens"] < 0.5 * before["train/generated_tokens"]


def test_what_is_measured(ladder):
    folder = ladder / "think_budget"
    rows = read_lines(folder / "rows.jsonl")
    for method, count in {"always": 3, "never": 3, "warm": 3, "auto": 3, "critic_threshold": 11,
                          "forced": 3, "forced_untaught": 3, "asked": 2, "rejected": 2,
                          "exit_probability": 10, "exit_critic": 10}.items():
        assert len(results.select(rows, method=method)) == count, method
    thinking = {row["method"]: row["thinking"]
                for row in results.select(rows, set="all levels", method=("always", "never"))}
    assert thinking == {"always": 1.0, "never": 0.0}
    forcing = json.loads((folder / "result.json").read_text())["forcing"]
    assert set(forcing) == {"forced", "forced_untaught", "asked", "rejected"}
    assert forcing["forced"]["control"] == 1.0
    assert checkpoint.weights_hash(folder / "warm") != checkpoint.weights_hash(folder)


def test_killed_at_any_file_it_ends_in_the_same_bits(config, tmp_path, run_with_deaths, ladder):
    from kill_run import differences
    other = replace(config, out=str(tmp_path / "other" / "think_budget"))
    assert run_with_deaths(lambda: think_budget.run(other), 1) >= 4
    assert differences(ladder / "think_budget", tmp_path / "other" / "think_budget") == []


def test_the_page_shows_every_way_to_spend_tokens(ladder, tmp_path, monkeypatch):
    monkeypatch.setitem(style.STYLE, "savefig.dpi", 40)
    for name in ("pretrain", "think_budget"):
        shutil.copytree(ladder / name, tmp_path / "run" / name)
    page = build.run(build.Config(run=str(tmp_path / "run"))).read_text()
    part = page[page.index("Price 0.01 per token"):]
    assert "forced untaught" in part and "rises up to" in part
    assert (tmp_path / "run" / "figures" / "think_budget.png").exists()
    costs, levels = figures_testtime.thinking([results.load_run(tmp_path / "run")]).axes
    labels = costs.get_legend_handles_labels()[1]
    assert len(labels) == len(figures_testtime.THINKING) and len(levels.lines) == 2
    assert [len(line.get_xdata()) for line in levels.lines] == [2, 2]


def test_bad_settings_are_refused(config):
    with pytest.raises(UserError, match="--group-size 1: must be at least 2"):
        replace(config, group_size=1)
    # no measured level would have meant all of them
    with pytest.raises(UserError, match="--min-level 5: multiplication has no frozen set from"):
        replace(config, family="multiplication", min_level=5, max_level=6)
