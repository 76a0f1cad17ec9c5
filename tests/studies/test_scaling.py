"""minireason scale: the smallest form of every law, and its arithmetic by hand."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from minireason import cli
from minireason.core.errors import UserError
from minireason.critics.judges import unread_tokens
from minireason.measure.samples import save_pools
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.report.runs import select
from minireason.stages import pretrain
from minireason.studies import scaling, scaling_laws, scaling_rows, scaling_search, sweep
from minireason.studies.fits import inference_multiple
from minireason.studies.scaling_plans import JUDGES, LAWS, PLANS, TUNING_SEED

SMALLEST = replace(PLANS["smoke"], shapes=((8, 1, 1, 16, 16), (16, 1, 1, 16, 32)),
                   steps=((8, 40), (8, 40)), rates=dict.fromkeys((8, 40), (3e-3, 1e-2)), ladder=1,
                   exchange=((0, 16), (1, 1)), exchange_steps=40, rl=(1, 2, 4),
                   flags={name: given | {"eval_n": 2} if "eval_n" in given else given
                          for name, given in PLANS["smoke"].flags.items()})

SEARCHED = {"search-samples.png", *(
    f"search-{method}-{against}.png" for method in ("beam", "tree")
    for against in ("best_of_n", "critic_vote", "majority"))}


# ---- the whole study -----------------------------------------------------------------------------

def drawn(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (".png", ".md", ".json")}


def test_what_laws_share_is_run_once_and_the_rest_follows_from_rows(tmp_path, monkeypatch, undrawn):
    """Two laws of one small policy; all of them in the long form below."""
    monkeypatch.setitem(PLANS, "smoke", replace(SMALLEST, ladder=0, rates={40: (1e-2,)}, rl=(1, 2)))
    monkeypatch.setattr(pretrain, "entropy_lines", partial(pretrain.entropy_lines, n=100))
    cfg = scaling.Config(size="smoke", seeds=(0,), out=str(tmp_path / "a"), device="cpu")
    first = scaling.run(replace(cfg, laws=("rl",)))["rows"]
    assert [(row["steps"], row["method"]) for row in first] == [
        (n, method) for n in (0, 1, 2) for method in ("greedy", "sampled")]
    asked, whole = [], sweep.run_task
    monkeypatch.setattr(sweep, "run_task",
                        lambda task, **more: asked.append(task.name) or whole(task, **more))
    rows = scaling.run(replace(cfg, laws=("search",)))["rows"]
    assert asked == ["critic-s0", *(f"search-{judge}-s0" for judge in JUDGES)]
    assert rows[:6] == first and {row["judge"] for row in rows[6:]} == set(JUDGES)
    assert {row.get("seed") for row in rows[6:]} == {0, None}
    path = tmp_path / "a/rl-2-s0/rows.jsonl"
    text = path.read_text()
    path.write_text(text.replace("0.0", "0.9"))
    with pytest.raises(UserError, match=r"rl-2-s0/rows\.jsonl: is not what its stage"):
        scaling.run(replace(cfg, laws=("rl",)))
    path.write_text(text)
    scaling.run(scaling.Config(source=str(tmp_path / "a"), out=str(tmp_path / "b")))
    assert drawn(tmp_path / "b") == drawn(tmp_path / "a") - {"sweep.json"} == {
        "result.json", "fits.json", "rl.md", "search.md", "rl.png", *SEARCHED}
    for name in ("result.json", "fits.json", "rl.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.long
def test_every_law_is_measured_once_and_drawn_from_its_rows_alone(tmp_path, monkeypatch, undrawn):
    monkeypatch.setitem(PLANS, "smoke", SMALLEST)
    monkeypatch.setattr(pretrain, "entropy_lines", partial(pretrain.entropy_lines, n=100))
    monkeypatch.setattr(scaling_rows, "PAST", 0.0)                 # so small a model knows little
    cfg = scaling.Config(size="smoke", seeds=(0,), out=str(tmp_path / "a"), device="cpu")
    first = scaling.run(replace(cfg, laws=("testtime", "rl")))
    assert {row["law"] for row in first["rows"]} == {"testtime", "rl"}
    asked, whole = [], sweep.run_task
    monkeypatch.setattr(sweep, "run_task",
                        lambda task, **more: asked.append(task.name) or whole(task, **more))
    result = scaling.run(replace(cfg, laws=("pretrain", "exchange", "search")))
    rows = result["rows"]
    assert {row["law"] for row in rows} == set(LAWS)
    assert [row for row in rows if row["law"] in ("testtime", "rl")] == first["rows"]
    again = {"sft-s0", "star-s0", "rl-4-s0", "pretrain-1-40-s0", "tuning-1-40-0.003"}
    assert not again & set(asked) and {"search-noisy-s0", "exact-1-s0", "pretrain-0-8-s0"} < set(
        asked)
    asked.clear()
    assert scaling.run(replace(cfg, laws=("search",)))["rows"] == rows and not asked
    scaling.run(scaling.Config(source=str(tmp_path / "a"), out=str(tmp_path / "b")))
    made = drawn(tmp_path / "b")
    assert drawn(tmp_path / "a") - made == {"sweep.json"}
    sizes = sorted({row["small"] for row in rows if row["law"] == "exchange"})
    (larger,) = {row["large"] for row in rows if row["law"] == "exchange"}
    assert made == {"result.json", "fits.json", *(f"{law}.md" for law in LAWS), "pretrain.png",
                    "pretrain-rates.png",
                    "rl.png", *SEARCHED, f"exchange-{sizes[0]}-{larger}.png",
                    *(f"testtime-{name}-chain-test-k2.png" for name in ("base", "star", "rl"))}
    for name in ("result.json", "fits.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    models = select(rows, law="pretrain", kind="run")
    assert len(models) == 4 and all(row["excess"] > 0 for row in models)
    for row in models:
        assert row["loss"] - row["excess"] == pytest.approx(row["entropy"])
        assert row["flops"] == pytest.approx(6 * row["parameters"] * row["tokens"], rel=0.1)
    steps = [row["steps"] for row in rows if row["law"] == "rl" and row["method"] == "greedy"]
    assert steps == [0, 1, 2, 4]
    counts = next(row for row in rows if row.get("method") == "pass@1")
    assert len(counts["right"]) == 8 and max(counts["right"]) <= counts["n"] == 16
    assert all(v <= r for v, r in zip(counts["valid"], counts["right"], strict=True))
    last, = select(rows, policy="rl", method="valid coverage", n=16)
    assert last["accuracy"] == np.mean(np.array(
        select(rows, policy="rl", method="pass@1")[0]["valid"]) > 0)
    assert {row["policy"] for row in select(rows, method="vote less greedy")} == {
        "base", "star", "rl"}
    assert {row["judge"] for row in rows if row["law"] == "search"} == set(JUDGES)
    head, *table = scaling_laws.samples_of_policies(select(rows, law="testtime"))
    assert [line[:3] for line in table] == [[name, "chain-test-k2", "16"]
                                            for name in ("base", "star", "rl")]
    assert {len(line) for line in table} == {len(head)} and "[" in table[0][-1]
    for law, *words in (("pretrain", "loss above entropy: least for its FLOPs", "Entropy of the"),
                        ("rl", "RL, sampled: log-linear"), ("search", "fifths, votes")):
        text = (tmp_path / f"a/{law}.md").read_text()
        assert all(part in text for part in (*words, scaling_laws.CLAIMS[law]))


def test_one_law_asks_for_its_own_runs_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_rows, "tuned_rate", lambda *_: 1e-3)
    def names(*laws: str) -> list[str]:
        cfg = scaling.Config(size="smoke", laws=laws, seeds=(7,))
        return [task.name for tasks in scaling.waves(cfg, PLANS["smoke"], tmp_path)
                for task in tasks]

    ladder = ["tuning-2-300-0.01", "tuning-2-300-0.03", "pretrain-2-300-s7", "sft-s7"]
    assert names("rl") == ladder + [f"rl-{n}-s7" for n in (1, 2, 3, 4, 6)]
    assert names("testtime") == [*ladder, "star-s7", "rl-6-s7", "testtime-base-s7",
                                 "testtime-star-s7", "testtime-rl-s7"]
    assert names("search") == [*ladder, "critic-s7",
                               *(f"search-{judge}-s7" for judge in JUDGES)]
    assert [name for name in names("exchange") if "tuning" not in name] == [
        "exact-1-s7", "exact-2-s7", "exchange-1-s7", "exchange-2-s7"]
    assert len(names("pretrain")) == 3 * 2 * 2 + 3 * 2


def test_rates_that_the_rows_hold_are_not_tuned_again(tmp_path):
    """Unless pretraining itself is asked for, whose rows are made of these runs."""
    plan, rows = SMALLEST, [
        {"law": "pretrain", "kind": "tuning", "seed": TUNING_SEED, "parameters": size,
         "steps": steps, "lr": lr, "chosen": lr == best}
        for size in (500, 90) for steps, best in ((8, 1e-2), (40, 3e-3)) for lr in (1e-2, 3e-3)]
    assert scaling_rows.held_rates(rows, plan) == {(0, 8): 1e-2, (0, 40): 3e-3,
                                                   (1, 8): 1e-2, (1, 40): 3e-3}
    assert scaling_rows.held_rates(rows[:4], plan) == {}           # of another number of shapes
    (tmp_path / "result.json").write_text(json.dumps({
        "command": "minireason scale --size smoke --laws pretrain --seeds 7", "rows": rows}))
    cfg = scaling.Config(size="smoke", laws=("rl",), seeds=(7,))
    first, (base,) = (tasks for tasks, _ in zip(scaling.waves(cfg, plan, tmp_path), range(2),
                                                strict=False))
    assert first == [] and base.words[base.words.index("--lr") + 1] == "0.003"
    assert len(next(scaling.waves(replace(cfg, laws=LAWS), plan, tmp_path))) == 8


def test_a_longer_run_takes_the_rate_of_its_shapes_longest():
    plan = replace(SMALLEST, steps=((8, 40), (8,)))
    assert [plan.tuned(*run)[3e-3] for run in ((0, 8), (0, 40), (1, 40))] == [
        "tuning-0-8-0.003", "tuning-0-40-0.003", "tuning-1-8-0.003"]


@pytest.mark.parametrize("size", PLANS)
def test_every_command_line_of_a_size_is_one(size, tmp_path, monkeypatch):
    """One of each kind of task: its flags exist and its numbers are allowed."""
    monkeypatch.setattr(scaling_rows, "tuned_rate", lambda *_: 1e-3)
    cfg, found = scaling.Config(size=size, seeds=(3,), device="cpu"), {}
    for tasks in scaling.waves(cfg, PLANS[size], tmp_path):
        found |= {task.name.partition("-")[0]: task for task in tasks}
    assert list(found) == ["tuning", "pretrain", "exact", "sft", "star", "rl", "testtime",
                           "exchange", "critic", "search"]
    for task in found.values():
        _, config = cli.read_command(list(task.words))
        assert config.out == task.folder and config.seed in (3, TUNING_SEED)
    _, exact = cli.read_command(list(found["exact"].words))
    assert exact.mixture.authors.exact
    _, search = cli.read_command(list(found["search"].words))
    assert (search.judge, search.methods) == ("random", ("beam", "tree"))


def test_every_size_spans_two_decades_and_six_models():
    for name in ("cpu", "gpu"):
        plan = PLANS[name]
        assert len(plan.shapes) >= 6 and plan.rl[-1] / plan.rl[0] >= 100
        assert plan.flags["testtime"]["n"] >= 1024
        first, last = (shape[0] ** 2 * shape[1] * steps for shape, steps in (
            (plan.shapes[0], plan.steps[0][0]), (plan.shapes[-1], plan.steps[-1][-1])))
        assert last / first >= 100 and len(plan.steps) == len(plan.shapes)
        assert max(shape[0] for shape in plan.shapes) == plan.shapes[-1][0]


def test_bad_configuration_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="--size huge"):
        scaling.Config(size="huge")
    with pytest.raises(UserError, match="--seeds"):
        scaling.Config(seeds=())
    with pytest.raises(UserError, match=r"--seeds.*1000"):
        scaling.Config(seeds=(0, TUNING_SEED))
    with pytest.raises(UserError, match="--laws gravity"):
        scaling.Config(laws=("gravity",))
    (tmp_path / "result.json").write_text(json.dumps({"cells": []}))
    with pytest.raises(UserError, match="of an older minireason"):
        scaling.run(scaling.Config(source=str(tmp_path)))


# ---- its parts -----------------------------------------------------------------------------------

def test_the_rate_of_a_shape_is_that_of_its_lowest_loss(tmp_path):
    for lr, excess in ((1e-3, 0.5), (2e-3, 0.2), (4e-3, 0.3)):
        folder = tmp_path / f"tuning-1-40-{lr:g}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"excess_per_token": excess}))
    plan = replace(SMALLEST, rates={40: (1e-3, 2e-3, 4e-3)})
    assert scaling_rows.tuned_rate(tmp_path, plan.tuned(1, 40)) == 2e-3


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_the_small_model_draws_as_many_samples_as_the_least_ratio_asks_for(size):
    plan = PLANS[size]
    weights = []
    for d_model, layers, heads, head_dim, d_ff in plan.shapes:
        weights.append(layers * d_model * (4 * heads * head_dim + 3 * d_ff)
                       + d_model * Tokenizer.build(chain.TOKENS).vocab_size)
    for i, (small, n) in enumerate(plan.exchange):
        for large, _ in plan.exchange[i + 1:]:
            assert n >= int(inference_multiple(weights[large] / weights[small], 0.1))
    assert plan.exchange[-1][1] == 1


def records(rows: list[list[int]], answers: list[list[str]]) -> list[dict]:
    return [{"answer": "7", "answers": given, "correct": row, "tokens": [9] * len(row)}
            for row, given in zip(rows, answers, strict=True)]


def test_exchange_spends_equal_flops_and_says_when_capped(tmp_path):
    small = records([[1] * 20 + [0] * 12] * 3, [["7"] * 20 + ["8"] * 12] * 3)
    large = records([[1], [0], [1]], [["7"], ["8"], ["7"]])
    for name, found, right in (("small", small, np.ones(3)), ("large", large, np.array([1, 0, 1]))):
        (tmp_path / name).mkdir()
        save_pools(tmp_path / name / "pools.npz", {1.0: {"chain-test-k1": found}},
                   {"chain-test-k1": right})
    found = scaling_rows.traded(tmp_path / "small", tmp_path / "large", 14.0)
    at = {row["R"]: (row, right) for row, right in found}
    assert set(at) == set(scaling_rows.RATIOS)
    (often, solved), (seldom, by_many) = at[10.0], at[0.1]
    assert often["n"] == int(inference_multiple(14, 10.0)) == 17 and not often["capped"]
    assert seldom["n"] == 32 and seldom["capped"]
    assert by_many["small_vote"].tolist() == by_many["small_oracle"].tolist() == [1, 1, 1]
    assert solved["small_single"] == pytest.approx(20 / 32)
    assert solved["large_greedy"].tolist() == [1, 0, 1]
    assert solved["small_greedy"].tolist() == [1, 1, 1]


def test_samples_cost_what_the_search_cost_in_both_accounts():
    """By hand: prompt of 8 tokens with <bos> and the opener, samples of 10, W = 100 weights."""
    tokenizer = Tokenizer.build(chain.TOKENS)
    assert len(tokenizer.encode("(2+3)=")) + 2 == 8
    made = [{"prompt": "(2+3)=", "answer": "5", "tokens": [10] * 20, "correct": [1, 0] * 10,
             "answers": ["5", "6"] * 10, "values": [0.9, 0.1] * 10, "unread": [10.0] * 20,
             "cells": {"beam 4": {"tokens": 36, "correct": right, "voted": 0,
                                  "flops": 2 * 100 * 147.0}}} for right in (1, 0, 1, 1, 0)]
    found = scaling_search.equal_flops(made, tokenizer, 100)
    whole = {(row["account"], row["against"]): row for row, *_ in found}
    # run: 2 * 8 + 2 * n * 10 = 147, as all differ; cached: the same = 2 * (8 + 36);
    # votes: 8 + n * 10, of 10 at most
    assert {key: pytest.approx(row["samples"]) for key, row in whole.items()} == {
        ("run", "best_of_n"): 6.55, ("run", "critic_vote"): 6.55, ("cached", "best_of_n"): 3.6,
        ("run", "majority"): 10}
    assert whole["run", "majority"]["capped"] and not whole["run", "best_of_n"]["capped"]
    (row, mine, other), = (cell for cell in found if cell[0] == whole["cached", "best_of_n"])
    assert row["n"] == 4 and mine.tolist() == [1, 0, 1, 1, 0]
    none = [np.prod([(5 - i) / (10 - i) for i in range(n)]) for n in (3, 4)]
    assert other == pytest.approx(0.4 * (1 - none[0]) + 0.6 * (1 - none[1]))    # a right one wins


def test_bins_are_of_the_problems_hard_for_the_mean_of_the_seeds():
    """Ten problems; the search of seed 1 solves all, that of seed 0 none; samples the first six."""
    def of_seed(seed: int) -> list[dict]:                  # the second half tells how hard it is
        return [{"answer": "5", "tokens": [10] * 4, "answers": ["5"] * 4, "values": [0.5] * 4,
                 "correct": [i % 2, i % 2, int(i < 5 + 2 * seed), int(i < 2)]} for i in range(10)]

    def compared(seed: int, records: list[dict]) -> list[scaling_search.Compared]:
        row = {"method": "beam", "n": 4, "account": "run", "against": "majority",
               "samples": 2 + seed, "capped": seed == 1}
        return [(row, np.full(10, float(seed)), np.arange(10) < 6)]

    rows = scaling_search.rows_by_difficulty((0, 1), [of_seed(0), of_seed(1)], compared)
    samples = select(rows, method="samples")
    runs, means = (select(rows, kind=kind, method="beam") for kind in ("run", "mean"))
    assert [(row["seed"], row["accuracy"], row["search"]) for row in runs] == [
        (0, pytest.approx(-0.6), 0.0), (1, pytest.approx(0.4), 1.0)]
    assert [(row["bin"], row["problems"], row["pass_rate"], row["accuracy"]) for row in means] == [
        (None, 10, pytest.approx(0.4), pytest.approx(-0.1)), (0, 2, 1.0, -0.5), (1, 2, 0.5, -0.5),
        (2, 2, pytest.approx(0.375), -0.5), (3, 2, 0.125, 0.5), (4, 2, 0.0, 0.5)]
    assert all(row["samples"] == 2.5 and row["capped"] for row in means)
    assert means[0]["low"] < -0.5 < 0.4 < means[0]["high"]            # two seeds say little
    # the first half is right for every other problem
    assert [(row["seed"], row["n"], row["accuracy"]) for row in select(samples, kind="run")] == [
        (0, 1, 0.5), (1, 1, 0.5), (0, 2, 0.5), (1, 2, 0.5)]
    assert [(row["bin"], row["n"], row["accuracy"]) for row in select(samples, kind="mean")] == [
        (which, 1, 0.0) for which in (None, 0, 1, 2, 3, 4)]


def test_what_samples_begin_with_alike_is_judged_once_and_so_cheaper():
    texts = ["<think>7+8=6", "<think>7+8=6", "<think>7+9=6", "<think>7+8", "<think>3"]
    unread = unread_tokens(Tokenizer.build(chain.TOKENS), [], [texts, texts[::-1]])
    assert unread == [[5, 0, 3, 0, 1], [1, 3, 3, 2, 0]]
    found = scaling_search.judged_tokens([{"unread": own} for own in unread], 8.0, 4)
    assert found.tolist() == [8 + 3, 8 + 4.5, 8 + 7.5, 8 + 8.5]


def search_rows(judge: str, differences: list[float], n: int = 64) -> list[dict]:
    return [{"law": "search", "kind": "mean", "judge": judge, "method": "beam", "n": n,
             "bin": number, "account": account, "against": against, "accuracy": value,
             "low": value - 0.02, "high": value + 0.02, "samples": 90.4, "capped": False}
            for account, against in scaling_search.AGAINST
            for number, value in [(None, np.mean(differences)), *enumerate(differences)]]


def test_a_sign_flip_is_worse_on_easy_problems_and_better_on_harder_ones():
    rows = search_rows("noisy", [-0.3, -0.01, 0.0, 0.3, 0.0])
    rows += search_rows("oracle", [0.3, 0.0, 0.0, -0.3, 0.0])
    head, *table = scaling_search.flips_table(rows)
    assert {len(line) for line in table} == {len(head)}
    assert [line[:3] for line in table] == [["noisy", "beam search", "64"],
                                            ["oracle", "beam search", "64"]]
    assert table[0][3:] == ["-0.2 [-2.2, +1.8] (90.4)", "**`-..+.`**"] * 4
    assert table[1][4] == "`+..-.`"


def test_the_best_of_more_samples_stands_beside_fewer():
    rows = [{"judge": "noisy", "method": "samples", "kind": "run", "seed": seed, "n": n,
             "accuracy": n / 1000} for n in (1, 64, 256, 512) for seed in (0, 1)]
    rows += [{"judge": "noisy", "method": "samples", "kind": "mean", "n": n, "bin": which,
              "accuracy": -n / 1000, "low": -0.1, "high": -0.01}
             for n in (1, 64, 256) for which in (None, 0, 1, 2, 3, 4)]
    assert scaling_search.samples_table(rows) == [
        ["judge of samples", "best of 1", "best of 64", "best of 256", "best of 512",
         "512 less 64 (points)", "fifths"],
        ["noisy", "0 (0 to 0)", "6 (6 to 6)", "26 (26 to 26)", "51 (51 to 51)",
         "-6.4 [-10.0, -1.0]", "`-----`"]]


def test_the_frontier_holds_what_nothing_cheaper_equals():
    models = [{"seed": seed, "flops": flops, "excess": excess} for seed in (0, 1)
              for flops, excess in ((4.0, 0.3), (1.0, 0.5), (2.0, 0.6), (3.0, 0.4), (5.0, 0.3))]
    assert [(row["seed"], row["flops"]) for row in scaling_laws.frontier(models)] == [
        (seed, flops) for seed in (0, 1) for flops in (1.0, 3.0, 4.0)]


def model_rows() -> list[dict]:
    """Models of six sizes and three lengths whose loss obeys a law, with three seeds."""
    rows = []
    for seed in (0, 1, 2):
        for i in range(6):
            for steps in (60, 240, 960):
                size, tokens = 30_000 * 2.3 ** i, 2000 * steps
                excess = 0.02 * (size / 1e6) ** -0.6 + 0.05 * (tokens / 1e6) ** -0.9
                rows.append({"law": "pretrain", "kind": "run", "seed": seed, "parameters": size,
                             "steps": steps, "tokens": tokens, "flops": 6 * size * tokens,
                             "excess": excess * (1 + 0.02 * (seed - 1)), "entropy": 0.5,
                             "entropy_error": 0.004, "lr": 1e-3})
    return rows


def test_laws_recover_what_the_rows_were_made_of():
    rows = model_rows()
    for seed in (0, 1, 2):
        for steps in (0, 4, 16, 64, 256, 1024):
            rows.append({"law": "rl", "seed": seed, "method": "sampled", "steps": steps,
                         "flops": 1e9 * steps, "accuracy": 0.2 + 0.1 * np.log10(max(1, steps))})
        for k in range(11):
            rows.append({"law": "testtime", "policy": "base", "seed": seed, "set": "k8",
                         "method": "coverage", "n": 2 ** k,
                         "accuracy": float(np.exp(-1.3 * (2.0 ** k) ** -0.4))})
    found = scaling_laws.laws(rows)
    both = found["loss above entropy: parameters and tokens"]
    assert [both.values[name] for name in "AaBb"] == pytest.approx([0.02, 0.6, 0.05, 0.9], rel=0.02)
    assert both.low["A"] < both.values["A"] < both.high["A"]
    assert found["RL, sampled: log-linear"].values["q"] == pytest.approx(0.1)
    assert found["RL, sampled: log-linear"].beyond < 1e-9 < found["RL, sampled: linear"].beyond
    power, beta = (found[f"base, k8, coverage: {name}"] for name in ("power law", "beta"))
    assert power.values["b"] == pytest.approx(-0.4, rel=1e-3) and power.beyond < beta.beyond
    table = scaling_laws.laws_table(found)
    assert len(table) == 1 + len(found) and {len(line) for line in table} == {6}
    json.dumps(scaling_laws.as_json(found), allow_nan=False)


def test_a_span_is_in_decades():
    assert scaling_laws.span([{"flops": 1e9}, {"flops": 0.0}, {"flops": 2e11}]) == "2.3 decades"
    rows = [{"law": "exchange", "small": 10, "large": 100, "seed": 0, "level_1": 0.5,
             "method": "not past"}]
    assert "not past 80% at level 1" in scaling_laws.exchange_table(rows)[1]


@pytest.mark.parametrize(("source", "said"), [
    ("", "holds rows of seeds 3; give these"), ("whole", "that would be lost"),
    ("damaged", r"damaged/result\.json: is damaged")])
def test_rows_of_other_seeds_are_not_replaced(tmp_path, source, said):
    row = {"law": "pretrain", "seed": 3, "loss": 1.0}
    for name, rows in (("out", [row]), ("whole", [{**row, "seed": 0}]), ("damaged", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({
            "command": "minireason scale --size cpu --laws rl", "rows": rows}))
    before = (tmp_path / "out/result.json").read_text()
    with pytest.raises(UserError, match=said):
        given = {"source": str(tmp_path / source)} if source else {"seeds": (0,),
                                                                   "laws": ("pretrain",)}
        scaling.run(scaling.Config(out=str(tmp_path / "out"), **given))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]
    assert (tmp_path / "out/result.json").read_text() == before


@pytest.mark.parametrize(("more", "said"), [
    ({"size": "smoke"}, "of another size"), ({"seeds": (3, 4)}, "more only with every law"),
    ({"seeds": (3, 4), "laws": ()}, "--laws: give at least one of pretrain")])
def test_laws_of_one_folder_are_of_one_size_and_the_same_seeds(tmp_path, more, said):
    (tmp_path / "result.json").write_text(json.dumps({
        "command": "minireason scale --size cpu --laws pretrain --seeds 3",
        "rows": [{"law": "pretrain", "seed": 3}, {"law": "pretrain", "seed": TUNING_SEED}]}))
    given = {"seeds": (3,), "laws": ("rl",), "out": str(tmp_path), **more}
    with pytest.raises(UserError, match=said):
        scaling.run(scaling.Config(**given))
