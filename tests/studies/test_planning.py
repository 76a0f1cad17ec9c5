"""The planning study in its tiny form: it runs, resumes, continues with RL, redraws; its arms."""

import dataclasses
import json
import re
from collections import Counter
from itertools import chain, product

import pytest

from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, split_of
from minireason.report.seeds import margin_rows
from minireason.studies import planning as study
from minireason.studies import planning_tables
from minireason.studies.planning import Cell, Config
from minireason.training import imitate as imitation


@pytest.fixture
def smallest(monkeypatch):
    """The smoke size, with fewer problems."""
    for name, recipe in study.SIZES["smoke"].items():
        monkeypatch.setitem(study.SIZES["smoke"], name,
                            dataclasses.replace(recipe, eval_n=2, save_every=1))


def test_smoke_runs_resumes_and_is_the_same(smallest, tmp_path, monkeypatch, undrawn):
    cfg = Config(out=str(tmp_path / "a"), size="smoke", arms=("dropped", "star_mixed"),
                 rl=("star_mixed",), seeds=(0,), device="cpu")
    whole, steps = imitation.supervised_step, []

    def dies(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(imitation, "supervised_step", dies)
    with pytest.raises(KeyboardInterrupt):
        study.run(cfg)
    result = study.run(cfg)                              # from step 2, not from the start
    assert len(steps) == 3 + 2 + 4
    other = study.run(dataclasses.replace(cfg, out=str(tmp_path / "b")))
    assert result["measured"] == other["measured"] and result["models"] == other["models"]
    assert json.loads((tmp_path / "a/result.json").read_text()) == result == study.run(cfg)
    assert [model["arm"] for model in result["models"]] == ["dropped", "star_mixed",
                                                            "star_mixed+rl"]
    assert Counter((row["line"], row["method"]) for row in result["measured"]) == Counter(
        (f"{arm}, {mode}", method) for arm in ("dropped", "star_mixed", "star_mixed+rl")
        for mode, method in (*product(("fast", "slow", "auto"), ("greedy", "sampled")),
                             ("fast x 16", "greedy")))
    parent = json.loads((tmp_path / "a/cells/star_mixed+rl/config.json").read_text())
    assert parent["parents"]["init"] and result["models"][2]["train_tokens"] > 0
    study.run(Config(source=str(tmp_path / "a"), out=str(tmp_path / "drawn")))
    assert (tmp_path / "drawn/planning.png").exists()    # from result.json alone
    assert (tmp_path / "drawn/table.md").read_text() == (tmp_path / "a/table.md").read_text()


def test_seeds_are_studies_of_their_own(smallest, tmp_path, monkeypatch, undrawn):
    """Trained where a sweep over seeds puts them, they are only read back and put together."""
    cfg = Config(out=str(tmp_path / "a"), size="smoke", arms=("star",), seeds=(0, 1), device="cpu",
                 split="validation")
    for seed in cfg.seeds:
        study.run(dataclasses.replace(cfg, seeds=(seed,),
                                      out=str(tmp_path / f"a/seeds/seeds={seed}")))
    monkeypatch.setattr(study, "trained_model", None)
    rows = study.run(cfg)["measured"]
    assert [(row["seed"], row["set"], row["method"]) for row in rows] == [
        (seed, "pathstar-validation-l5", method) for seed in (0, 1)
        for method in ("greedy", "sampled", "greedy")]


def test_arms_see_equal_problems_and_equal_tokens(monkeypatch):
    asked = {}
    for arm, (name, _) in study.ARMS.items():
        cell, taken = Cell("smoke", 0, arm), []
        monkeypatch.setattr(study, "imitate", lambda log, model, tokenizer, recipe, rows_at, muon,
                            taken=taken: taken.extend(rows_at(step) for step in range(40)))
        seen = study.train(cell, None, None, Tokenizer.build(FAMILIES[name].TOKENS))
        tokens = sum(len(row) - 1 for rows in taken for row, _ in rows) / 40
        assert tokens == pytest.approx(cell.recipe.tokens_per_step, rel=0.15)     # rows are whole
        assert seen["train_tokens"] == pytest.approx(4 * tokens, rel=0.1)
        prompts, texts = study.lines_of_step(cell, 7, 30)
        asked.setdefault(name, []).append(prompts)
        problems = [FAMILIES[name].read(prompt) for prompt in prompts]
        assert {split_of(problem) for problem in problems} == {"train"}
        for problem, text in zip(problems, texts, strict=True):
            assert FAMILIES[name].verify(problem, text).correct
    assert all(prompts == own[0] for own in asked.values() for prompts in own)


def test_dropped_lines_have_dualformers_shares():
    cell, counts = Cell("smoke", 1, "dropped"), Counter()
    for step in range(20):
        _, texts = study.lines_of_step(cell, step, 30)
        for text in texts:
            numbered = text.startswith("<think>") and text[7].isdigit()
            counts["cot" if numbered else "direct" if text[:2] == "</" else "drop"] += 1
    for kind, share in (("cot", 0.45), ("direct", 0.05), ("drop", 0.5)):
        assert abs(counts[kind] / 600 - share) < 5 * (share * (1 - share) / 600) ** 0.5


def test_an_arm_answers_in_the_modes_that_it_has_learned():
    modes = {arm: Cell("smoke", 0, arm).modes for arm in study.ARMS}
    both = ["fast", "slow", "auto"]
    assert modes == {"plan": ["fast"], "trace": ["slow"], "dropped": both, "star": ["fast"],
                     "star_reversed": ["fast"], "star_thought": ["slow"], "star_mixed": both,
                     "program": ["fast"], "program_trace": ["slow"]}
    assert Cell("smoke", 0, "dropped+rl").modes == both


def test_a_vote_is_the_answer_that_most_give():
    problem = FAMILIES["maze"].read("5:a0>c0#e4=")
    texts = ["</think>", "</think>a1b1b0c0<eos>", "</think>b0c0<eos>", "</think>b0c0<eos>"]
    assert study.most_frequent(problem, texts) == "</think>b0c0<eos>"
    assert study.most_frequent(problem, texts[:1] * 2) == "</think>"       # none is readable
    assert study.most_frequent(problem, texts[:2]) == texts[1]


def test_every_mode_is_asked_for_and_a_vote_pays_for_all_its_tokens(monkeypatch):
    asked = []

    def drawn(model, tokenizer, problems, style, how):
        asked.append((style, how.temperature))
        return [["</think>(a)<eos>", *[FAMILIES["pathstar"].render(one, "direct")] * (how.n - 1)]
                for one in problems]

    monkeypatch.setattr(study, "complete", drawn)
    monkeypatch.setattr(study.checkpoint, "load", lambda folder, device: (
        None, Tokenizer.build(FAMILIES["pathstar"].TOKENS)))
    rows = study.measured_rows(Cell("smoke", 0, "star_mixed"), None, None, "validation")["rows"]
    assert asked == [(style, t) for t in (0, 1) for style in ("direct", "cot", "auto")] + [
        ("direct", 1)]
    assert [(row["accuracy"], row["tokens"], row["thinking"]) for row in rows] == [
        (0, 5, 0)] * 6 + [(1, 5 + 15 * 7, 0)]
    assert {row["set"] for row in rows} == {"pathstar-validation-l5"}


def test_the_trained_levels_are_measured_with_draws_of_the_seeds_own(smallest, monkeypatch):
    maze, drawn_with = FAMILIES["maze"], []

    def drawn(model, tokenizer, problems, style, how):
        drawn_with.append(how)
        return [[maze.render(one, "direct")] * how.n for one in problems]

    monkeypatch.setattr(study, "complete", drawn)
    monkeypatch.setattr(study.checkpoint, "load", lambda folder, device: (
        None, Tokenizer.build(maze.TOKENS)))
    monkeypatch.setitem(study.SIZES["smoke"], "maze", dataclasses.replace(
        study.SIZES["smoke"]["maze"], levels=(5, 6)))
    rows = study.measured_rows(Cell("smoke", 0, "plan"), None, None, "test")["rows"]
    assert {row["set"] for row in rows} == {"maze-test-n5", "maze-test-n6"}
    study.measured_rows(Cell("smoke", 1, "plan"), None, None, "test")
    zero, one = ({how.seed for how in drawn_with[i:i + 6] if how.temperature} for i in (0, 6))
    assert len(zero) == len(one) == 1 and zero != one


def test_margins_are_paired_by_seed_and_problem():
    lines = {"trace, slow": ("1111", "1110"), "plan, fast": ("0011", "0010")}
    rows = [{"line": line, "set": "maze-test-n6", "seed": seed, "digits": digits}
            for line, answers in lines.items() for seed, digits in enumerate(answers)]
    (found,) = margin_rows([*rows, {**rows[0], "line": "dropped, auto", "seed": 7}], "line",
                           planning_tables.MARGINS)
    assert found["line"] == "trace, slow - plan, fast" and found["accuracy"] == 0.5
    assert found["low"] <= 0.5 <= found["high"]
    lines = [f"{arm}, {mode}{vote}" for arm in (*study.ARMS, "star+rl", "dropped+rl",
                                                "star_mixed+rl")
             for mode in Cell("smoke", 0, arm).modes for vote in ("", f" x {study.VOTES}")]
    assert set(lines) >= {*chain(*planning_tables.MARGINS)}


def test_tables_and_figure_as_by_hand():
    """Sets of unequal size, RL on top, more lines than there are colours."""
    arms = ("star", "star_reversed", "star_thought", "star_mixed", "star+rl", "star_mixed+rl")
    lines = [f"{arm}, {mode}" for arm in arms for mode in Cell("smoke", 0, arm).modes]
    rows = [{"line": line, "family": "pathstar", "seed": 0, "set": name, "method": method,
             "digits": "11" * n if (line[5:12], method) == ("thought", "sampled") else "10" * n,
             "accuracy": 0.5, "low": 0.4, "high": 0.6, "problems": 2 * n,
             "tokens": 9.0 if method == "sampled" else 7.0, "steps": 2.0, "thinking": 0.5}
            for line in lines for method in ("greedy", "sampled")
            for name, n in (("pathstar-test-l4", 2), ("pathstar-test-l5", 3))]
    models = [{"arm": arm, "seed": 0, "parameters": 10 ** 6, "train_tokens": 2 * 10 ** 6,
               "train_examples": 1000} for arm in arms]
    text = planning_tables.family_text(rows, models)
    assert "n = 4 to 6 frozen problems per set" in text
    assert "star 2.00M in 1,000 examples, " in text
    assert "star+rl 2.00M in 1,000 samples of its own, on top, " in text
    assert re.findall(r"(?m)^\| star_thought, slow - star, fast, points \| (\S+)", text) == [
        "+0.0", "+50.0"]                                 # greedy, then sampled
    assert "| star, fast | 7, 2.0, 50% | 7, 2.0, 50% |" in text
    (axes,) = planning_tables.accuracy_figure(rows).axes
    assert [*axes.lines[0].get_xdata()] == [4, 5]
    assert axes.get_legend().texts[0].get_text() == "star, fast (7)"
    longer = [{**row, "tokens": 8.0} if row["set"].endswith("5") else row for row in rows]
    (other,) = planning_tables.accuracy_figure(longer).axes
    assert other.get_legend().texts[0].get_text() == "star, fast (7 to 8)"
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines
             if line.get_marker() in "osD^vPX"}
    assert len(looks) == len(lines) == 10


@pytest.mark.parametrize("text, steps", [
    ("<think>0e4:d4;1d4:c4</think>c4<eos>", 2), ("</think>a1;a2<eos>", 0),
    ("<think></think>a1<eos>", 0), ("<think>0e4:d4;;1d4", 3), ("<think>0e4<eos>", 1),
    ("a1<eos>", 0)])
def test_steps_count_as_written_in_malformed_and_cut_completions_too(text, steps):
    assert study.steps_written(text) == steps


@pytest.mark.parametrize("more, message", [
    ({"size": "huge"}, "--size huge"), ({"arms": ("fast",)}, "--arms"), ({"seeds": ()}, "--seeds"),
    ({"arms": ("star",), "rl": ("plan",)}, "--rl plan")])
def test_bad_configuration_is_a_user_error(more, message):
    with pytest.raises(UserError, match=message):
        Config(**more)
