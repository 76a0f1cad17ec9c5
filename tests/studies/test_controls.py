"""Controls: every arm gets its rung's FLOPs; differences, prices and pictures follow from rows."""

import dataclasses
import json
import shutil

import pytest
from tiny_run import tiny_stages

from minireason import cli
from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.measure.estimates import two_way_interval
from minireason.model import checkpoint
from minireason.report.runs import select
from minireason.stages import critic, flywheel, rl, sft, star
from minireason.studies import controls, controls_tables, ladders


@pytest.fixture(scope="module")
def finished(ladder, tmp_path_factory):
    """The tiny ladder up to the flywheel."""
    root = tmp_path_factory.mktemp("controls") / "run"
    shutil.copytree(ladder, root)
    at = {name: str(root / name) for name in ("pretrain", "star", "rl", "rl_critic", "flywheel")}
    rl.run(rl.Config(init=at["star"], out=at["rl"], device="cpu", steps=12, prompts_per_step=2,
                     group_size=2, max_level=2, eval_every=12, validation_n=2, eval_n=2))
    judge = dataclasses.replace(tiny_stages(root)["critic"][1], init=at["rl"], out=at["rl_critic"])
    critic.run(judge)
    flywheel.run(flywheel.Config(
        init=at["rl"], base=at["pretrain"], critic=at["rl_critic"], out=at["flywheel"], turns=1,
        device="cpu", problems=12, max_level=2, n=2, steps=8, rows_per_step=12, filter="none",
        refresh="no", eval_n=2, lr=3e-4))
    return root


@pytest.fixture(scope="module")
def measured(finished):
    """The study of that ladder."""
    return controls.run(controls.Config(runs=(str(finished),), gold=(4,)))


def flops_of(folder) -> float:
    return read_json(folder / "result.json")["flops"]


def test_every_arm_has_the_flops_of_its_rung(finished, measured):
    first = select(measured["rows"], method="greedy", set="chain-test-k2")
    assert [row["arm"] for row in first] == [
        "pretrained, step by step", "SFT", "STaR", "RL", "flywheel", "pretraining continued",
        "pretraining twice as long", "4 gold lines", "200 gold lines", "STaR, more rounds",
        "RL by outcome and process", "replay alone"]
    rungs = {row["arm"]: row["flops"] for row in first if "against" not in row}
    to_rl = sum(flops_of(finished / name) for name in ("pretrain", "sft", "star", "rl"))
    assert rungs["RL"] == to_rl
    assert rungs["flywheel"] == to_rl + flops_of(finished / "rl_critic") + flops_of(
        finished / "flywheel")
    for row in first[5:]:
        assert row["target"] == rungs[row["against"]]
        twice = row["arm"] == "pretraining twice as long"
        assert row["start"] == "" if twice else row["times"] == 1
        wanted = 2 * row["target"] if twice else row["target"]
        need = wanted - rungs.get(row["start"], 0)
        assert abs(row["flops"] - wanted) <= 0.05 * need, row["arm"]


def test_an_arm_is_its_stage_from_the_rung_that_it_names(finished, measured):
    trained = {}
    for path in (finished / "controls").iterdir():
        if path.is_dir():
            last = max(path.iterdir(), key=lambda one: int(one.name.removeprefix("try-")))
            trained[path.name] = read_json(last / "config.json")
    assert len(trained) == 7
    parent = {name: checkpoint.weights_hash(finished / name) for name in ("pretrain", "sft", "star",
                                                                         "rl")}
    for name, rung in {"pretraining-continued": "pretrain", "4-gold-lines": "pretrain",
                       "200-gold-lines": "pretrain", "STaR-more-rounds": "sft",
                       "RL-by-outcome-and-process": "star", "replay-alone": "rl"}.items():
        assert trained[name]["parents"]["init"] == parent[rung], name
        rows = [row for row in measured["rows"] if row["arm"].replace(",", "").replace(" ", "-")
                == name]
        tries = sorted((finished / "controls" / name).iterdir(), key=lambda one: int(one.name[4:]))
        assert {row["start"] for row in rows} == {controls.LABELS[rung]}
        assert {row["flops"] for row in rows} == {
            controls.cumulative_flops(finished, rung) + flops_of(tries[-1])}
    own = ladders.config_of(finished, "pretrain")
    assert trained["pretraining-continued"]["config"]["lr"] == own.lr
    twice = trained["pretraining-twice-as-long"]
    assert not twice["parents"] and twice["config"]["steps"] == 2 * own.steps
    assert trained["replay-alone"]["config"]["lr"] == 3e-4
    for n in (4, 200):
        assert trained[f"{n}-gold-lines"]["config"]["traces"] == n
    rewards = trained["RL-by-outcome-and-process"]["config"]["rewards"]
    assert rewards == {"outcome": 1.0, "format": 0.0, "process": 1.0, "price": 0.0}
    lines = {row["arm"]: row["lines"] for row in measured["rows"]}
    assert lines["pretraining continued"] == 0 and lines["4 gold lines"] == 4
    assert lines["RL"] == lines["STaR, more rounds"] == lines["replay alone"] == 200


def test_a_finished_study_is_only_written_again(finished, measured, tmp_path, monkeypatch):
    monkeypatch.setattr("minireason.training.optim.train_step", None)          # would fail
    out = finished / "controls"
    texts = {name: (out / name).read_bytes() for name in ("controls.md", "controls.png")}
    assert controls.run(controls.Config(runs=(str(finished),), gold=(4,))) == measured
    assert cli.main(["controls", "--from", str(out), "--out", str(tmp_path / "again")]) == 0
    for name, written in texts.items():
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes() == written
    assert b"| 4 gold lines | " in texts["controls.md"]
    assert "controls" not in [path.parent.name for path in finished.glob("*/result.json")]


def test_a_dose_is_scaled_whole():
    tuned = sft.Config(init="", steps=150)
    assert controls.dosed(tuned, 2.5) == dataclasses.replace(tuned, steps=375)
    assert controls.dosed(tuned, 1e-9).steps == 1
    taught = star.Config(init="", base="", rounds=3, problems=1000, steps=60)
    more = controls.dosed(taught, 2.5)                                # 7.5 rounds
    assert (more.rounds, more.problems, more.steps) == (8, 938, 56)


@pytest.mark.parametrize(("per_step", "fixed", "steps"), [
    (1.0, 0.0, [100]),                # as expected
    (1.04, 0.0, [100]),               # near enough
    (2.0, 0.0, [100, 50]),            # corrected
    (1.0, 50.0, [100, 67, 57]),       # a cost that is no multiple of the steps: three tries
    (1000.0, 0.0, [100, 1])])         # one step costs too much already
def test_an_arm_far_from_its_target_is_trained_again(tmp_path, per_step, fixed, steps):
    ran = []

    def train(config):
        ran.append((config.steps, config.out))
        return {"flops": fixed + per_step * config.steps}

    arm = controls.Arm("arm", train, "pretrain", "rl", sft.Config(init="", steps=10), 10.0)
    folder, spent = controls.train_at(arm, 100.0, tmp_path)
    assert [count for count, _ in ran] == steps and ran[-1][1] == str(folder)
    assert folder.name == f"try-{len(steps)}" and spent == fixed + per_step * steps[-1]


def made_row(arm: str, digits: str, seed: int = 0, **about) -> dict:
    """A greedy and sampled policy on level 8."""
    right = len(digits) - digits.count("0")
    return {"arm": arm, "set": "chain-test-k8", "method": "greedy", "seed": seed, "flops": 2e9,
            "accuracy": right / len(digits), "low": 0.0, "high": 1.0, "problems": len(digits),
            "lines": 60, "digits": digits, **about}


def made_rows(seed: int, **changes: str) -> list[dict]:
    """Base, RL, one control and two gold arms; changes: {arm's first word: digits}."""
    about = {"target": 2e9, "against": "RL", "start": "pretrained, step by step"}
    gold = {**about, "gold": True}
    rows = [made_row("pretrained, step by step", "1000", seed, flops=1e9),
            made_row("RL", "2120", seed),
            made_row("STaR, more rounds", "1100", seed, **about | {"flops": 1.9e9}),
            made_row("60 gold lines", "1000", seed, **gold),
            made_row("600 gold lines", "2222", seed, **gold | {"lines": 600})]
    for row in rows:
        if row["arm"].split()[0].strip(",") in changes:
            row["digits"] = changes[row["arm"].split()[0].strip(",")]
            row["problems"] = len(row["digits"])
    return rows + [{**row, "method": "sampled"} for row in rows]


def test_differences_are_paired_by_seed_and_problem():
    rows = made_rows(1, STaR="0110", RL="1112") + made_rows(0)
    rows = rows[:1] + select(rows, arm="RL")[::-1] + [row for row in rows[1:] if row["arm"] != "RL"]
    found = {(row["arm"], row["way"]): row for row in controls_tables.difference_rows(rows)}
    gains = two_way_interval([[0, 0, 1, 0], [1, 0, 0, 1]], [[0] * 4] * 2)   # seed 0 first
    row = found["RL - STaR, more rounds", "greedy"]
    assert {key: row[key] for key in gains} == gains
    assert {arm for arm, _ in found} == {"RL - STaR, more rounds", "RL - 60 gold lines",
                                         "RL - 600 gold lines"}
    text = controls_tables.text_of(rows)
    assert f"| RL - 60 gold lines | +{62.5:.1f} [" in text
    assert "| RL | 75 (75 to 75) / 75 (75 to 75) | 2.00e+09 |  | 60 |" in text
    assert "more rounds | 50 (50 to 50) / 50 (50 to 50) | 1.90e+09 | 0.90 of RL | 60 |" in text
    assert "| RL | 280 |" in text                       # 60 * 10 ** (2 / 3)


def test_seeds_pair_in_any_order():
    """Rung and arm are right on the same problems, other ones with each seed."""
    rows = made_rows(1, STaR="0011", RL="0022") + made_rows(0, RL="1100")
    rows = select(rows, arm="RL")[::-1] + [row for row in rows if row["arm"] != "RL"]
    found = controls_tables.difference_rows(rows)
    assert {(row["accuracy"], row["low"], row["high"]) for row in found
            if row["arm"] == "RL - STaR, more rounds"} == {(0.0, 0.0, 0.0)}


@pytest.mark.parametrize(("accuracies", "wanted", "said"), [
    ([0.1, 0.5, 0.9], 0.5, "200"), ([0.1, 0.5, 0.9], 0.3, "110"), ([0.1, 0.5, 0.9], 0.1, "60"),
    ([0.1, 0.5, 0.9], 0.05, "fewer than 60"), ([0.1, 0.5, 0.9], 0.95, "more than 2,400"),
    ([0.1, 0.5, 0.9], 0.9, "2,400"), ([0.1, 0.6, 0.5], 0.55, "180"),
    ([0.2, 0.1, 0.1], 0.15, "fewer than 60"), ([0.5, 0.5, 0.5], 0.5, "60")])
def test_the_price_is_where_the_gold_arms_first_reach_the_rung(accuracies, wanted, said):
    assert controls_tables.price([60, 200, 2400], accuracies, wanted) == said


def test_the_picture_has_every_policy_once():
    rows = made_rows(0)
    harder = [{**row, "set": "chain-test-k12", "digits": "0000", "accuracy": 0.0} for row in rows]
    (only,) = controls_tables.figure_of(rows + harder).axes           # nobody masters level 12
    assert "level 8" in only.get_ylabel()
    easier = [{**row, "set": "chain-test-k4"} for row in rows]
    upper, lower = controls_tables.figure_of(easier + rows + harder).axes
    said = upper.get_legend_handles_labels()[1]
    assert said == ["pretrained, step by step", "RL", "control: STaR, more rounds",
                    "control: gold lines"]
    assert [text.get_text() for text in upper.texts] == ["60", "600"]
    assert "level 8" in lower.get_ylabel() and "level 4" in upper.get_ylabel()


def test_what_cannot_be_compared_is_one_clear_line(finished, measured, capsys, tmp_path):
    for flags, words in ((["--run", finished / "nothing"], "nothing/pretrain"),
                         (["--gold", "0", "--run", finished], "--gold 0"), ([], "give --run"),
                         (["--gold", "4", "--runs", finished, finished], "one run per seed")):
        assert cli.main(["controls", "--out", str(tmp_path / "o"), *map(str, flags)]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    controls.check_pairs(made_rows(0) + made_rows(1), 2)
    for other in (made_rows(0), [row for row in made_rows(1) if row["arm"] != "RL"],
                  made_rows(1, RL="12")):
        with pytest.raises(UserError, match="one run per seed"):
            controls.check_pairs(made_rows(0) + other, 2)


def test_a_config_is_read_where_its_folders_are(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    found = ladders.config_of("run", "star")
    assert (found.init, found.base, found.out) == ("run/sft", "run/pretrain", "run/star")
    assert ladders.config_of(finished, "rl").rewards == rl.Config(init="").rewards
    record = json.loads((finished / "star/config.json").read_text())
    (finished.parent / "odd/star").mkdir(parents=True)
    (finished.parent / "odd/star/config.json").write_text(json.dumps({**record, "stage": "rl"}))
    with pytest.raises(UserError, match="is a 'rl' folder"):
        ladders.config_of("odd", "star")
