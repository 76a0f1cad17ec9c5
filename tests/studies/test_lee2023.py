"""The reproduction of Lee 2023's table, in its tiny form: runs, resumes, and reports honestly."""

import dataclasses
import json

import pytest

from minireason import cli
from minireason.core.errors import UserError
from minireason.measure.evaluate import frozen_sets
from minireason.model.tokenizer import Tokenizer
from minireason.problems import addition, split_of
from minireason.studies import lee2023, sweep
from minireason.studies.lee2023 import PUBLISHED, Config, run, training_set
from minireason.training import imitate as imitation


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def tiny(tmp_path):
    return Config(out=str(tmp_path / "run"), size="tiny", styles=("plain", "simplified"),
                  examples=(40,), seeds=(0, 1), eval_n=5, device="cpu")


def test_killed_cell_resumes_from_its_state_and_ends_the_same(tiny, monkeypatch, tmp_path):
    """Killed between two saved states of the last cell: finished cells are not trained again."""
    recipe = dataclasses.replace(lee2023.SIZES["tiny"], save_every=3)
    monkeypatch.setitem(lee2023.SIZES, "tiny", recipe)
    steps, whole = [], imitation.supervised_step

    def dies_late(*arguments):
        steps.append(1)
        if len(steps) == 2 + 2 + 8 + 5:                          # step 5 of the last cell's 8
            raise Killed
        return whole(*arguments)

    monkeypatch.setattr(imitation, "supervised_step", dies_late)
    with pytest.raises(Killed):
        run(tiny)
    assert not (tmp_path / "run/result.json").exists()
    steps[:] = [0] * 100                                         # past the kill
    result = run(tiny)
    assert len(steps) == 100 + 8 - 3
    assert result["cells"] == run(dataclasses.replace(tiny, out=str(tmp_path / "other")))["cells"]
    assert run(tiny) == json.loads((tmp_path / "run/result.json").read_text())


def test_a_sweep_trains_the_cells_where_the_study_reads_them(tiny, tmp_path, monkeypatch):
    """The tasks of the module's docstring are its cells, so the study trains nothing anew."""
    tasks = sweep.tasks_of(sweep.Config(
        command="reproduce", out=str(tmp_path / "run/cells"),
        vary=("seeds=0,1", "examples=1000,40", "styles=plain,simplified"),
        fixed=("size=tiny", "eval_n=5", "device=cpu")))
    study = dataclasses.replace(tiny, seeds=(0, 1), examples=(1000, 40))
    parts = lee2023.parts_of(study, tmp_path / "run")
    assert {task.folder for task in tasks} == {part.out for part in parts}
    assert cli.read_command(list(tasks[-1].words))[1] in parts    # with equal configurations


def test_the_table_is_made_of_the_result_alone(tiny, tmp_path):
    run(tiny)
    text = (tmp_path / "run/table.md").read_text()
    (tmp_path / "run/table.md").unlink()
    run(Config(source=str(tmp_path / "run"), out=str(tmp_path / "again")))
    assert (tmp_path / "again/table.md").read_text() == text
    assert "`minireason reproduce --size tiny --styles plain simplified " in text
    assert "--seeds 0 1` on: cores " in text


def test_table_states_measured_interval_n_and_published(tmp_path):
    cells = [{"style": style, "examples": n, "seed": 0, "accuracy": 0.05, "low": 0.02, "high": 0.31,
              "n": 240, "parameters": 600_000}
             for n in (1000, 40) for style in ("plain", "simplified")]
    lee2023.write({"split": "test", "cells": cells, "command": "minireason reproduce"}, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| 1000 | 5.0 [2, 31] / 0.4 | 5.0 [2, 31] / 84.6 | plain |" in text
    assert "| 40 | 5.0 [2, 31] / – | 5.0 [2, 31] / – | none |" in text
    assert text.startswith("Test accuracy in % on 240 problems of 3-digit") and "0.60M" in text


def test_split_chooses_the_problems(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(lee2023, "frozen_sets",
                        lambda *args: asked.append(args[1]) or frozen_sets(*args))
    run(dataclasses.replace(tiny, split="validation", seeds=(0,), styles=("plain",)))
    assert asked == ["validation"]


def test_windows_are_cut_from_running_text(tiny, monkeypatch):
    """Equally long, at any place, an example after the other; and no longer than the text."""
    rows, whole = [], imitation.supervised_step
    monkeypatch.setattr(imitation, "supervised_step",
                        lambda *given: rows.extend(given[2]) or whole(*given))
    cfg = dataclasses.replace(tiny, window=32, styles=("plain",), seeds=(0,))
    run(cfg)
    tokenizer = Tokenizer.build(addition.TOKENS)
    lines = [f"<bos>{p.prompt}{addition.render(p, 'plain')}" for p in training_set(3, 40, 0)]
    text = "".join(lines)
    assert len(rows) == 2 * 256 / 32 and {len(tokens) for tokens, _ in rows} == {33}
    assert all(tokenizer.decode(tokens) in text for tokens, _ in rows)
    assert len({tokens[0] for tokens, _ in rows}) > 1
    with pytest.raises(UserError, match="--window 9999: 40 examples have"):
        run(dataclasses.replace(cfg, window=9999, out=f"{cfg.out}-2"))


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
    ("styles", ()), ("seeds", ()), ("extra-steps", -1.0)])
def test_bad_configuration_is_a_user_error(tiny, field, value):
    with pytest.raises(UserError, match=f"--{field}"):
        dataclasses.replace(tiny, **{field.replace("-", "_"): value})


def test_extra_steps_are_a_share_of_the_recipes(tiny, monkeypatch):
    steps, whole = [], imitation.supervised_step
    monkeypatch.setattr(imitation, "supervised_step",
                        lambda *given: steps.append(1) or whole(*given))
    (cell,) = run(dataclasses.replace(tiny, styles=("plain",), seeds=(0,)))["cells"]
    (more,) = run(dataclasses.replace(tiny, styles=("plain",), seeds=(0,), extra_steps=1.5,
                                      out=f"{tiny.out}-2"))["cells"]
    assert len(steps) == 2 + 5 and more["passes"] > 2 * cell["passes"]


def test_published_numbers_cover_the_table():
    cfg = Config()
    assert set(cfg.styles) == set(PUBLISHED) <= set(addition.STYLES)
    assert set(cfg.examples) <= set(lee2023.COUNTS)
    assert {len(accuracies) for accuracies in PUBLISHED.values()} == {len(lee2023.COUNTS)}
