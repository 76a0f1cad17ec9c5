"""The reproduction of Lee 2023's table, in its tiny form: runs, resumes, and reports honestly."""

import dataclasses
import json

import pytest

from minireason.core.config import UserError
from minireason.measure.evaluate import frozen_sets
from minireason.problems import addition, split_of
from minireason.studies import lee2023 as reproduce
from minireason.studies.lee2023 import PUBLISHED, run, training_set
from minireason.studies.lee2023 import Config as ReproduceConfig


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def tiny(tmp_path):
    return ReproduceConfig(out=str(tmp_path / "run"), size="tiny", styles=("plain", "simplified"),
                           examples=(1000, 40), eval_n=5, device="cpu")


def test_tiny_table_runs_resumes_and_is_the_same(tiny, monkeypatch, tmp_path):
    """A run that dies in its last cell goes on there, and ends as one that never died."""
    trained, whole = [], reproduce.train

    def dies_late(cfg, log, tokenizer, style, n, device):
        if len(trained) == 3:
            raise Killed
        trained.append((style, n))
        return whole(cfg, log, tokenizer, style, n, device)

    monkeypatch.setattr(reproduce, "train", dies_late)
    with pytest.raises(Killed):
        run(tiny)
    assert not (tmp_path / "run/result.json").exists()
    trained.clear()
    result = run(tiny)
    assert trained == [("simplified", 40)]                       # only the cell that was missing
    monkeypatch.setattr(reproduce, "train", whole)
    again = run(dataclasses.replace(tiny, out=str(tmp_path / "other")))
    timeless = [{k: v for k, v in c.items() if "seconds" not in k} for c in result["cells"]]
    assert timeless == [{k: v for k, v in c.items() if "seconds" not in k} for c in again["cells"]]
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [m["step"] for m in metrics] == [0, 1, 2, 3]
    assert run(tiny) == json.loads((tmp_path / "run/result.json").read_text())


def test_table_states_measured_interval_n_and_published(tiny):
    cells = [{"style": style, "examples": n, "accuracy": 0.25, "low": 0.2, "high": 0.31, "n": 240,
              "published": PUBLISHED[style].get(n), "parameters": 600_000}
             for n in tiny.examples for style in tiny.styles]
    text = reproduce.table(tiny, cells)
    assert "| 1,000 | 25.0 [20.0, 31.0] / 0.4 | 25.0 [20.0, 31.0] / 84.6 |" in text
    assert "| 40 | 25.0 [20.0, 31.0] / – |" in text
    assert "240 problems of 3-digit" in text and "0.60M" in text and "`tiny`" in text


def test_split_chooses_the_problems(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(reproduce, "frozen_sets",
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
    """10.6M parameters, 256 x 256 and 16 x 1024 tokens a step (config2/ of the authors)."""
    from minireason.model.transformer import ModelConfig, Transformer
    recipe = reproduce.SIZES["paper"]
    model = Transformer(ModelConfig(45, recipe.d_model, recipe.n_layers, recipe.n_heads,
                                    recipe.n_heads, recipe.head_dim, recipe.d_ff))
    assert abs(model.n_params / 10.6e6 - 1) < 0.02
    assert (recipe.bare_tokens, recipe.thought_tokens) == (256 * 256, 16 * 1024)
    assert (recipe.bare_steps, recipe.thought_steps) == (5000, 20_000)


@pytest.mark.parametrize("size", reproduce.SIZES)
def test_every_format_is_trained_on_equal_tokens(size):
    recipe = reproduce.SIZES[size]
    assert recipe.bare_tokens * recipe.bare_steps == recipe.thought_tokens * recipe.thought_steps


@pytest.mark.parametrize(("field", "value"), [
    ("size", "huge"), ("split", "train"), ("styles", ("plain", "fancy")), ("examples", (0,)),
    ("styles", ())])
def test_bad_configuration_is_a_user_error(tiny, field, value):
    with pytest.raises(UserError, match=f"--{field}"):
        dataclasses.replace(tiny, **{field: value})


def test_published_numbers_cover_the_table():
    cfg = ReproduceConfig()
    assert set(cfg.styles) == set(PUBLISHED) <= set(addition.STYLES)
    assert all(n in PUBLISHED[style] for style in cfg.styles for n in cfg.examples)
