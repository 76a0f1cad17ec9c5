"""The countdown study in its tiny form: it runs, resumes, continues with RL, redraws; its arms."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from minireason.core.errors import UserError
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import addition, chain
from minireason.studies import stream_of_search as study
from minireason.studies import stream_of_search_curves as curves
from minireason.studies import sweep
from minireason.studies.stream_of_search import Config
from minireason.training import imitate as imitation


@pytest.fixture
def smallest(monkeypatch, undrawn):
    """The smoke size, with fewer problems, and without what random tries solve of all of them."""
    monkeypatch.setattr(curves, "random_tries", lambda name: (np.full(500, 0.05), 40.0))
    recipe = dataclasses.replace(study.SIZES["smoke"], eval_n=2, coverage_n=2, save_every=1)
    monkeypatch.setitem(study.SIZES, "smoke", recipe)
    return recipe


def test_smoke_runs_resumes_and_is_the_same(smallest, tmp_path, monkeypatch):
    cfg = Config(out=str(tmp_path / "a"), size="smoke", arms=("sos",), device="cpu")
    whole, steps = imitation.supervised_step, []

    def dies(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(imitation, "supervised_step", dies)
    with pytest.raises(KeyboardInterrupt):
        study.run(cfg)
    result = study.run(cfg)                                      # from step 2, not from the start
    assert len(steps) == 3 + smallest.steps - 2
    other = study.run(dataclasses.replace(cfg, out=str(tmp_path / "b")))
    assert result["cells"] == other["cells"]
    text = (tmp_path / "a/table.md").read_text()
    assert re.search(r"\| sos: .* examples \| 0\.0 \[", text) and "random, one try" in text
    assert json.loads((tmp_path / "a/result.json").read_text()) == result == study.run(cfg)
    study.run(Config(source=str(tmp_path / "a"), out=str(tmp_path / "drawn")))
    assert (tmp_path / "drawn/coverage.png").exists()            # from result.json alone
    assert (tmp_path / "drawn/table.md").read_text() == text


def test_a_result_of_an_older_version_is_refused_in_one_line(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"command": "c", "cells": [{"arm": "sos"}]}))
    with pytest.raises(UserError, match="of another version of minireason"):
        study.run(Config(source=str(tmp_path)))


def test_seeds_and_arms_are_studies_of_their_own(smallest, tmp_path, monkeypatch):
    """Trained where a sweep over both puts them, they are only read back and put together."""
    cfg = Config(out=str(tmp_path / "a"), size="smoke", arms=("optimal_examples", "guided"),
                 seeds=(0, 1), device="cpu", split="validation")
    grid = ("seeds=0,1", "arms=optimal_examples,guided")
    sweep.run(sweep.Config(command="countdown", vary=grid, workers=1, out=f"{cfg.out}/cells",
                           fixed=("size=smoke", "device=cpu", "split=validation")))
    monkeypatch.setattr(study, "trained_cell", None)
    cells = study.run(cfg)["cells"]
    assert [(cell["seed"], cell["arm"]) for cell in cells] == [
        (seed, arm) for seed in cfg.seeds for arm in cfg.arms]
    assert list(cells[0]["greedy"]) == list(cells[0]["samples"]) == [
        f"countdown-{kind}-n{n}" for kind in ("validation", "targets-validation") for n in (3, 4)]
    assert cells[0]["samples"]["countdown-validation-n4"]["n"] == smallest.n * 3 // 2


def test_arms_start_from_a_policy_and_rl_continues_from_an_arm(smallest, ladder, tmp_path):
    shutil.copytree(ladder / "star", tmp_path / "s0")
    result = study.run(Config(
        out=str(tmp_path / "a"), size="smoke", init=str(tmp_path / "s{seed}"),
        arms=("optimal_tokens", "guided"), rl=("guided",), device="cpu"))
    assert [c["arm"] for c in result["cells"]] == ["optimal_tokens", "guided", "guided+rl"]
    part = "cells/seeds=0_arms=guided/cells/guided-s0"
    own = json.loads((tmp_path / "a" / part / "config.json").read_text())
    assert own["config"]["init"] == "../../../../../s0"            # "{seed}" stood for it
    rl = json.loads((tmp_path / "a/cells/guided+rl-s0/rl/config.json").read_text())
    assert rl["config"]["init"] == f"../../{part.removeprefix('cells/')}"
    assert result["cells"][2]["train_tokens"] > 0 and (tmp_path / "a/coverage.png").exists()


@pytest.mark.parametrize("more, message", [
    ({"size": "huge"}, "--size huge"), ({"arms": ("sos",), "rl": ("guided",)}, "--rl guided"),
    ({"arms": ("fast",)}, "--arms"), ({"seeds": ()}, "--seeds"), ({"split": "all"}, "--split")])
def test_bad_configuration_is_a_user_error(more, message):
    with pytest.raises(UserError, match=message):
        Config(**more)


def test_arms_see_equal_problems_and_equal_tokens():
    tokenizer, recipe = Tokenizer.build(chain.TOKENS), study.SIZES["smoke"]
    sos, paths = (study.lines_of_step(arm, 0, 5, 12) for arm in ("sos", "optimal_examples"))
    assert sos[0] == paths[0] and sos[1] != paths[1]
    assert all("<wrong>" not in text for text in paths[1])
    assert all(re.search(r";(\d+)-\1=0</think>", text) for text in paths[1])    # compared, too
    counts = {arm: study.rows_per_step(recipe, tokenizer, arm) for arm in study.ARMS}
    assert counts["sos"] == counts["optimal_examples"] < counts["optimal_tokens"]
    for arm in ("sos", "guided", "optimal_tokens"):
        prompts, completions = study.lines_of_step(arm, 1, 0, round(60 * counts[arm]))
        texts = np.char.add(prompts, completions).tolist()
        tokens = sum(map(len, tokenizer.encode_batch(texts)))
        assert tokens == pytest.approx(60 * recipe.tokens_per_step, rel=0.15)   # rows are whole


def test_arms_of_a_seed_start_from_the_same_random_weights():
    tokenizer = Tokenizer.build(chain.TOKENS)
    models = [study.first_model(study.SIZES["smoke"], study.Cell("smoke", "", seed, arm), tokenizer)
              for seed, arm in ((0, "sos"), (0, "optimal_tokens"), (1, "sos"))]
    a, b, other = (model.blocks[0].down.weight for model in models)
    assert a.equal(b) and not a.equal(other)


def test_models_start_from_a_policy_with_longer_rows(ladder):
    recipe, star = study.SIZES["smoke"], str(ladder / "star")
    cell, tokenizer = study.Cell("smoke", star, 0, "guided"), Tokenizer.build(chain.TOKENS)
    model, (parent, _) = study.first_model(recipe, cell, tokenizer), checkpoint.load(star)
    for a, b in zip(model.parameters(), parent.parameters(), strict=True):
        assert a.equal(b)
    assert model.config.max_len == recipe.max_len != parent.config.max_len
    with pytest.raises(UserError, match="its tokenizer is not countdown's"):
        study.first_model(recipe, cell, Tokenizer.build(addition.TOKENS))


def test_an_arm_keeps_its_style_after_rl():
    arms = ("sos", "guided+rl", "optimal_tokens+rl")
    styles = [study.Cell("smoke", "", 0, arm).style for arm in arms]
    assert styles == ["sos", "guided", "checked"]
