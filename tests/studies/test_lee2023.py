"""The reproduction of Lee 2023's table, in its tiny form: runs, resumes, and reports honestly."""

import dataclasses
import json

import pytest

from minireason.core.errors import UserError
from minireason.measure.evaluate import frozen_sets
from minireason.problems import addition, split_of
from minireason.studies import lee2023
from minireason.studies.lee2023 import PUBLISHED, Config, run, training_set


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def tiny(tmp_path):
    return Config(out=str(tmp_path / "run"), size="tiny", styles=("plain", "simplified"),
                  examples=(1000, 40), eval_n=5, device="cpu")


def test_tiny_table_runs_resumes_and_is_the_same(tiny, monkeypatch, tmp_path):
    """A run that dies in its last cell resumes there, and ends as one that never died."""
    made, whole = [], lee2023.trained

    def dies_late(cfg, study, style, n, device):
        if len(made) == 3:
            raise Killed
        made.append((style, n))
        return whole(cfg, study, style, n, device)

    monkeypatch.setattr(lee2023, "trained", dies_late)
    with pytest.raises(Killed):
        run(tiny)
    assert not (tmp_path / "run/result.json").exists()
    made.clear()
    result = run(tiny)
    assert made == [("simplified", 40)]                          # only the cell that was missing
    monkeypatch.setattr(lee2023, "trained", whole)
    again = run(dataclasses.replace(tiny, out=str(tmp_path / "other")))
    assert result["cells"] == again["cells"]
    assert run(tiny) == json.loads((tmp_path / "run/result.json").read_text())
    steps = (tmp_path / "run/cells/simplified-40/metrics.jsonl").read_text().splitlines()
    assert len(steps) == 4 * lee2023.SIZES["tiny"].steps         # a scratchpad has four times


def test_the_table_is_made_of_the_result_alone(tiny, tmp_path):
    run(tiny)
    text = (tmp_path / "run/table.md").read_text()
    (tmp_path / "run/table.md").unlink()
    run(Config(source=str(tmp_path / "run"), out=str(tmp_path / "again")))
    assert (tmp_path / "again/table.md").read_text() == text
    assert "`minireason reproduce --size tiny --styles plain simplified " in text
    assert "--seed 0` on: cores " in text


def test_table_states_measured_interval_n_and_published(tmp_path):
    cells = [{"style": style, "examples": n, "accuracy": 0.25, "low": 0.2, "high": 0.31, "n": 240,
              "parameters": 600_000} for n in (1000, 40) for style in ("plain", "simplified")]
    lee2023.write({"split": "test", "cells": cells, "command": "minireason reproduce"}, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| 1000 | 25.0 [20.0, 31.0] / 0.4 | 25.0 [20.0, 31.0] / 84.6 |" in text
    assert "| 40 | 25.0 [20.0, 31.0] / – |" in text
    assert text.startswith("Test accuracy in % on 240 problems of 3-digit") and "0.60M" in text


def test_split_chooses_the_problems(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(lee2023, "frozen_sets",
                        lambda *args: asked.append(args[1]) or frozen_sets(*args))
    run(dataclasses.replace(tiny, split="validation", examples=(40,), styles=("plain",)))
    assert asked == ["validation"]


def test_training_set_is_train_split_only_unique_and_nested():
    large, small = training_set(3, 600, seed=1), training_set(3, 200, seed=1)
    assert large[:200] == small and small != training_set(3, 200, seed=2)
    assert len({p.prompt for p in large}) == 600
    assert {split_of(p) for p in large} == {"train"}
    with pytest.raises(UserError, match="only about"):
        training_set(1, 200, seed=0)


def test_paper_size_is_the_papers():
    """10.6M parameters, 256 x 256 and 16 x 1024 tokens per step (config2/ of the authors)."""
    from minireason.model.transformer import ModelConfig, Transformer
    recipe = lee2023.SIZES["paper"]
    model = Transformer(ModelConfig(45, recipe.d_model, recipe.n_layers, recipe.n_heads,
                                    recipe.n_heads, recipe.head_dim, recipe.d_ff))
    assert abs(model.n_params / 10.6e6 - 1) < 0.02
    assert (recipe.tokens_per_step, recipe.steps) == (256 * 256, 5000)
    assert (recipe.tokens_per_step // 4, recipe.steps * 4) == (16 * 1024, 20_000)


@pytest.mark.parametrize(("field", "value"), [
    ("size", "huge"), ("styles", ("plain", "fancy")), ("examples", (0,)),
    ("styles", ())])
def test_bad_configuration_is_a_user_error(tiny, field, value):
    with pytest.raises(UserError, match=f"--{field}"):
        dataclasses.replace(tiny, **{field: value})


def test_published_numbers_cover_the_table():
    cfg = Config()
    assert set(cfg.styles) == set(PUBLISHED) <= set(addition.STYLES)
    assert set(cfg.examples) <= set(lee2023.COUNTS)
    assert {len(accuracies) for accuracies in PUBLISHED.values()} == {len(lee2023.COUNTS)}
