"""Ablations: a variant differs from its reference by its own fields alone; the table is right."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from minireason.core.config import UserError, read_json, to_dict
from minireason.measure.estimates import wilson
from minireason.stages.flywheel import Config as FlywheelConfig
from minireason.studies import ablate


@pytest.mark.parametrize("stage", ablate.STUDIES)
def test_a_variant_changes_what_it_names_and_nothing_else(ladder, tmp_path, stage):
    folder, study = tmp_path / "run", ablate.STUDIES[stage]
    shutil.copytree(ladder / "star", folder / "star")
    parents = {key: str(folder / parent) for key, parent in study.parents.items()}
    if stage == "flywheel":
        (folder / "flywheel").mkdir()
        record = {"stage": "flywheel", "config": to_dict(FlywheelConfig(**parents, steps=7))}
        (folder / "flywheel" / "config.json").write_text(json.dumps(record))
    own = ablate.own_config(stage, folder)
    own |= {"restart": True} if stage == "star" else {}           # the default, as in a real run
    reference, *others = [asdict(ablate.variant_config(stage, name, folder, own))
                          for name in study.variants]
    assert reference["steps"] == own["steps"] and reference["seed"] == own["seed"]
    assert len({config["out"] for config in (reference, *others)}) == len(study.variants)
    first, *changes = study.variants.values()
    assert all(reference[key] == value for key, value in first.items())
    if stage != "star":                                # star's own parents come with its config
        assert all(reference[key] == value for key, value in parents.items())
    for config, change in zip(others, changes, strict=True):
        changed = {key for key in config if config[key] != reference[key]} - {"out"}
        assert changed == {key for key, value in change.items() if first.get(key) != value}
        assert changed and all(config[key] == change[key] for key in change)


def test_finished_stages_become_a_table_that_redraws_from_its_json(ladder, tmp_path, monkeypatch):
    study = ablate.STUDIES["star"]                    # a variant that so small a policy survives
    monkeypatch.setitem(ablate.STUDIES, "star", study._replace(
        variants={"reference": {}, "two a problem": {"per_problem": 2}}))
    folder = tmp_path / "run"
    shutil.copytree(ladder, folder)
    reference = read_json(folder / "star" / "config.json")
    text = (folder / "star" / "config.json").read_text().replace(str(ladder), str(folder))
    (folder / "star" / "config.json").write_text(text)
    for number in range(1, reference["config"]["rounds"] + 1):
        path = folder / "star" / f"round-{number}" / "config.json"
        path.write_text(path.read_text().replace(str(ladder), str(folder)))
    cfg = ablate.Config(runs=(str(folder),), out=str(tmp_path / "out"))
    summary = ablate.run(cfg)
    last = read_json(folder / "star" / "result.json")["accuracy"]["cot"]
    assert summary["variants"]["reference"][0][-1]["accuracy"] == ablate.accuracies(last)
    assert set(summary["variants"]) == set(ablate.STUDIES["star"].variants)
    again = ablate.run(replace(cfg, runs=(), out=str(tmp_path / "again"),
                               source=str(tmp_path / "out")))
    assert again == summary
    for name in ("star.md", "star.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert Path(tmp_path / "out" / "star.md").read_text().count("\n| ") == 3


def test_the_table_holds_means_ranges_and_pooled_rates():
    result = {"accuracy": {"cot": {"chain-test-k2": {"accuracy": 0.5, "n": 10}},
                           "sampled": {"chain-test-k2": {"accuracy": 0.2, "n": 10}}},
              "withdrawals": {name: {key: {"share": share, "n": n} for key in
                                     ("detection", "false_alarm", "mended")}
                              for name, share, n in (("k2", 0.5, 2), ("k3", 1.0, 6))}}
    (end,) = ablate.points_of("revise", result)
    assert end["detection"] == pytest.approx(7 / 8)           # of steps, not of levels
    worse = {**end, "accuracy": {"chain-test-k2": [0.3, 10]}}
    text = ablate.markdown({"stage": "revise", "seeds": [0, 1], "before": [end["accuracy"]] * 2,
                            "variants": {"backtracking traces": [[end], [worse]]}})
    (low, high), (lower, higher) = wilson(5, 10), wilson(3, 10)
    interval = f"[{50 * (low + lower):.0f}, {50 * (high + higher):.0f}]"
    assert f"| backtracking traces | 40.0 {interval} (30 to 50) | 88 (88 to 88)" in text
    assert "sampled at T = 1 | 20.0 [" in text


def test_levels_are_pooled_by_their_problems():
    found = ablate.pooled({"k6": [0.5, 10], "k7": [1.0, 30]}, ["k6", "k7"])
    assert (found["accuracy"], found["low"], found["high"]) == (35 / 40, *wilson(35, 40))


def test_what_cannot_be_ablated_is_one_clear_line(tmp_path):
    (tmp_path / "star").mkdir()
    (tmp_path / "star" / "config.json").write_text('{"stage": "sft", "config": {}}')
    with pytest.raises(UserError, match="is a 'sft' folder"):
        ablate.run(ablate.Config(runs=(str(tmp_path),)))
    with pytest.raises(UserError, match="choose from star, flywheel, revise"):
        ablate.Config(runs=("x",), stage="sft")
    with pytest.raises(UserError, match="--runs"):
        ablate.Config()
