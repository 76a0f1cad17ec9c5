"""Ablations: a variant differs from its reference by its own fields alone; the table is right."""

import importlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny_run import tiny_stages

from minireason.core.config import from_dict, portable
from minireason.core.errors import UserError
from minireason.core.files import read_json, read_lines
from minireason.measure import thinking
from minireason.measure.estimates import wilson
from minireason.report import style
from minireason.report.runs import rows_with_verdicts, select
from minireason.stages import STAGES, flywheel, pretrain, rl, star
from minireason.studies import ablate, internalize_tables, quiet_tables, shared

REFERENCE = Path(__file__).parents[2] / "data/reference"


def row(variant: str, accuracy: float, **more) -> dict:
    """An accuracy of 10 problems of level 2 at the end of seed 0."""
    low, high = wilson(10 * accuracy, 10)
    return {"variant": variant, "seed": 0, "round": 1, "set": "chain-test-k2", "method": "greedy",
            "accuracy": accuracy, "low": low, "high": high, "problems": 10, **more}


def run_folder(root, parents: tuple[str, ...] = ()):
    """A run folder with the configurations that ablate reads, and its parents' rows."""
    base, critic = f"{root}/pretrain", f"{root}/rl_critic"
    records = {"pretrain": pretrain.Config(out=base, steps=7, eval_n=9),
               "star": star.Config(init=f"{root}/sft", base=base, out=f"{root}/star", steps=7),
               "rl": rl.Config(init=f"{root}/star", out=f"{root}/rl", steps=7),
               "flywheel": flywheel.Config(init=f"{root}/rl", base=base, critic=critic,
                                           out=f"{root}/flywheel", steps=7)}
    for name in (*records, *parents):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in (1, 2):
            line = {"set": "chain-test-k2", "method": "greedy", "round": number, "seed": 0,
                    "accuracy": 0.1 * number, "low": 0.0, "high": 1.0, "problems": 10}
            with open(root / name / "rows.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
    for name, config in records.items():
        record = {"stage": name, "config": portable(config, root / name)}
        (root / name / "config.json").write_text(json.dumps(record))
    return root


@pytest.mark.parametrize("name", ablate.VARIANTS)
def test_a_variant_changes_what_it_names_and_nothing_else(tmp_path, name):
    (stage,) = (stage for stage in STAGES if stage.name == ablate.STAGE_OF.get(name, name))
    config = importlib.import_module(stage.module).Config
    own = ablate.settings_of(stage, run_folder(tmp_path))
    first, *changes = ablate.VARIANTS[name].values()
    reference, *others = (asdict(from_dict(config, own | part)) for part in (first, *changes))
    assert (reference["steps"] == 7) == stage.in_run and reference["seed"] == 0
    assert all(reference[key] == f"{tmp_path}/{parent}" for key, parent in stage.parents.items())
    for other, change in zip(others, changes, strict=True):
        changed = {key for key in other if other[key] != reference[key]}
        assert changed == {key for key, value in change.items() if first.get(key) != value}
        for key, value in change.items():
            inner = isinstance(value, dict)       # of rewards, some fields
            assert value.items() <= other[key].items() if inner else other[key] == value


def test_a_stage_outside_of_runs_shares_the_settings_of_its_own_parent(tmp_path):
    """Not of STaR, which a run folder of quiet thoughts need not hold."""
    stages, root = {stage.name: stage for stage in STAGES}, run_folder(tmp_path)
    assert ablate.settings_of(stages["revise"], root)["eval_n"] == 500
    shutil.rmtree(root / "star")
    settings = ablate.settings_of(stages["quiet_star"], root)
    assert settings["eval_n"] == 9 and settings["init"] == settings["base"] == f"{root}/pretrain"


def test_variants_run_from_their_parents_and_their_rows_are_kept(tmp_path, monkeypatch):
    """The stage itself is replaced: what is run, from where, into which folder."""
    ran = []

    def fake(cfg):
        ran.append(cfg)
        reference = not cfg.restart and cfg.rationalize and cfg.keep == "answer"
        out = tmp_path / ("run/star" if reference else cfg.out)
        out.mkdir(parents=True, exist_ok=True)
        lines = [row("", 0.4, round=1), row("", 0.5, round=2),
                 row("", 0, method="kept", set="train", count=9, round=2),
                 row("", 0, method="kept", set="4", level=4, count=5, round=2),
                 row("", 0.7, method="share_solved", set="train", round=2)]
        for line in lines:
            line.pop("variant")
        (out / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(star, "run", fake)
    folder = run_folder(tmp_path / "run", ("sft",))
    cfg = ablate.Config(runs=(str(folder),), out=str(tmp_path / "out"))
    result = ablate.run(cfg)
    assert [c.out.removeprefix(f"{folder}/") for c in ran] == [
        "star", "ablations/star-no-rationalization", "ablations/star-restart-from-the-base",
        "ablations/star-keep-only-if-all-steps-are-right"]
    assert {c.init for c in ran} == {f"{folder}/sft"}
    assert [r["accuracy"] for r in result["rows"] if r["variant"] == "before"] == [0.2]   # its last
    assert [r["count"] for r in result["rows"] if r["method"] == "kept"] == [9] * 4
    assert {r["method"] for r in result["rows"]} == {"greedy", "kept"}
    ran.clear()
    parts = ablate.run(replace(cfg, variants=("no rationalization", "restart from the base")))
    assert [c.out.rpartition("-")[2] for c in ran] == ["rationalization", "base"]
    assert parts["rows"] == result["rows"]                     # those of the others are still there
    result = ablate.run(cfg)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/star.json").write_text(json.dumps({"rows": [row("renamed since", 0.5)]}))
    with pytest.raises(UserError, match="holds rows of renamed since, which is no variant of star"):
        ablate.run(replace(cfg, out=str(tmp_path / "old")))
    (tmp_path / "old/star.json").write_text(json.dumps({"rows": [
        row("no rationalization", 0.5, seed=5, problems=7)]}))
    with pytest.raises(UserError, match="of 7 problems, here are 10: runs of another size"):
        ablate.run(replace(cfg, out=str(tmp_path / "old")))
    counts = [row("no rationalization", 0.5, seed=5, method="detection", problems=7)]
    assert counts[0] in ablate.with_others("star", tmp_path, counts, result["rows"])
    changed = [{**line, "accuracy": 0.123} for line in result["rows"]]       # of the same seeds
    (tmp_path / "old/star.json").write_text(json.dumps({"command": "c", "rows": changed}))
    with pytest.raises(UserError, match="holds results of `c` that would be lost"):
        ablate.run(replace(cfg, out=str(tmp_path / "old")))
    with pytest.raises(UserError, match="--runs: their seeds 0 0: give each once"):
        ablate.run(replace(cfg, runs=(str(folder),) * 2))
    again = ablate.run(replace(cfg, runs=(), out=str(tmp_path / "again"),
                               source=str(tmp_path / "out")))
    assert again == result == read_json(tmp_path / "out/star.json")
    for name in ("star.md", "star.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    text = (tmp_path / "out/star.md").read_text()
    assert text.count("\n| ") == 5 and "minireason ablate --runs" in text and "on: cores" in text


@pytest.mark.parametrize("path", sorted(
    path for name in ablate.VARIANTS for path in REFERENCE.glob(f"*/{name}.json")),
    ids=lambda path: path.stem)
def test_committed_results_can_be_drawn_elsewhere_though_a_variant_has_another_name_now(
        tmp_path, undrawn, path):
    for source in (path.parent, tmp_path):                     # and there again
        found = ablate.run(ablate.Config(stage=path.stem, source=str(source), out=str(tmp_path)))
        assert not shared.missing_in(found["rows"], read_json(path)["rows"])


def test_the_table_holds_means_ranges_and_pooled_rates():
    rows = [row("before", 0.5, round=0), row("before", 0.5, round=0, seed=1),
            row("backtracking traces", 0.5), row("backtracking traces", 0.3, seed=1),
            row("backtracking traces", 0.2, method="sampled"),
            row("backtracking traces", 0.5, method="detection", problems=2),
            row("backtracking traces", 1.0, method="detection", problems=6, set="chain-test-k3")]
    text = ablate.ablation_table("revise", rows)
    (low, high), (lower, higher) = wilson(5, 10), wilson(3, 10)
    interval = f"[{50 * (low + lower):.0f}, {50 * (high + higher):.0f}]"
    assert f"| backtracking traces | 40.0 {interval} (30 to 50) | 88 |" in text    # of steps: 7/8
    assert "sampled at T = 1 | 20.0 [" in text and "mean over seeds 0, 1 with" in text
    assert "n = 10 to 10 problems per level and seed" in text


def test_hard_levels_are_pooled_by_their_problems_and_drawn_by_round():
    pooled = [row("a", 0.5), row("a", 1.0, problems=30, set="chain-test-k3")]
    assert style.spread(ablate.pooled_by_seed(pooled)) == tuple(
        100 * share for share in (35 / 40, *wilson(35, 40)))
    rows = [row("before", 0.2, round=0), *(row("a", 0.1 * i, round=i) for i in (1, 2, 3))]
    ends, rounds = ablate.ablation_figure("star", rows).axes
    assert list(ends.lines[0].get_ydata().round(6)) == [30]
    assert list(rounds.lines[0].get_ydata().round(6)) == [20, 10, 20, 30]
    (alone,) = ablate.ablation_figure("revise", rows[:2]).axes
    assert 20 in [y for line in alone.lines for y in line.get_ydata().round(6)]


def test_what_cannot_be_ablated_is_one_clear_line(tmp_path):
    (tmp_path / "star").mkdir()
    (tmp_path / "star" / "config.json").write_text('{"stage": "sft", "config": {}}')
    with pytest.raises(UserError, match="is a 'sft' folder"):
        ablate.run(ablate.Config(runs=(str(tmp_path),)))
    with pytest.raises(UserError, match="--stage sft: must be one of star, flywheel, revise"):
        ablate.Config(runs=("x",), stage="sft")
    with pytest.raises(UserError, match="--variants pause tokens: must be one of reference, no r"):
        ablate.Config(runs=("x",), variants=("reference", "pause tokens"))
    with pytest.raises(UserError, match="--runs"):
        ablate.Config()


def test_quiet_variants_meet_at_their_longest_thought_and_are_paired(tmp_path):
    def arm(variant: str, seed: int, digits: dict[int, str]) -> list[dict]:
        found = [row("", mean, seed=seed, method="quiet", tokens=length, nats=1.0)
                 for length, mean in ((length, own.count("1") / 10)
                                      for length, own in digits.items())]
        verdicts = {str(length): {"chain-test-k2": own} for length, own in digits.items()}
        thought = {"line": f"1+1={seed}", "thought": "1+1=2", "steps": [["1+1=2", "right"]],
                   "weight": 0.5, "gain": 1.0}
        quiet_tables.complete_rows(found, {"quiet_verdicts": verdicts, "flops": 1e9,
                                           "thoughts": [thought]})
        return [{**line, "variant": variant} for line in found]

    rows = []
    for seed in (0, 1):
        rows += [row("before", 0.5, round=0, seed=seed, set=f"chain-test-k{k}",
                     digits="0111110000") for k in (2, 9)]
        rows += arm("own thoughts", seed, {0: "1" * 10, 24: "1111110000"})
        rows += arm("ordinary training", seed, {0: "1110000000"})
    (tmp_path / "quiet_star.json").write_text(json.dumps({"command": "c", "rows": rows}))
    ablate.run(ablate.Config(stage="quiet_star", source=str(tmp_path)))
    text = (tmp_path / "quiet_star.md").read_text()
    assert "| before, thinking aloud | 50.0 [" in text and "level 9" not in text
    assert "| own thoughts - before, thinking aloud | +10.0 [" in text
    assert "| own thoughts | 60.0 [" in text and "| ordinary training | 30.0 [" in text
    assert "| own thoughts - ordinary training | +30.0 [" in text and "| 1.0e+09 |" in text
    assert "`1+1=0`" in text and "`1+1=1`" not in text                 # of the first seed
    assert {path.name for path in tmp_path.glob("*.png")} == {"quiet_star.png",
                                                              "quiet_star-thoughts.png"}
    (axes,) = quiet_tables.seeds_figure([one for one in rows if one["set"][-1] == "2"]).axes
    assert [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()] == [
        "own thoughts", "ordinary training", "before, thinking aloud"]
    assert len(axes.containers) == 2                                                # the seeds


def test_arms_that_internalize_meet_on_their_tasks(tmp_path, ladder):
    rows = []
    for seed, arm, right in ((0, "thought removed", 8), (1, "thought removed", 6),
                             (0, "never a thought", 1), (1, "never a thought", 3)):
        for task, name in (("3x3", "multiplication-test-k3"), ("chain", "chain-test-k4")):
            digits, where = "1" * right + "0" * (10 - right), {"seed": seed, "set": name}
            rows += [row(f"{arm}, {task}", right / 10, digits=digits, flops=1e9, **where),
                     row(f"{arm}, {task}", 0.0, method="nats", step=9, nats=2.0, **where)]
    (tmp_path / "internalize.json").write_text(json.dumps({"command": "c", "rows": rows}))
    ablate.run(ablate.Config(stage="internalize", source=str(tmp_path)))
    text = (tmp_path / "internalize.md").read_text()
    assert "| answers right (%) | 3x3 digits | chain, level 4 | FLOPs (3x3) |" in text
    assert "| thought removed | 70.0 [" in text and "(60 to 80) | 1.0e+09 |" in text
    assert "| thought removed - never a thought | +50.0 [" in text
    (axes,) = internalize_tables.figure_of(rows).axes
    assert [line.get_label()[0] for line in axes.lines] == ["t", "_", "n", "_"]    # a name per arm

    folder = ladder / "internalize"
    cfg = replace(tiny_stages(ladder)["internalize"][1], max_level=1)
    found, steps = rows_with_verdicts(folder), read_lines(folder / "metrics.jsonl")
    internalize_tables.complete_rows(found, {"flops": 7.0}, cfg)
    nats = [line["nats"] for line in select(found, method="nats")]
    assert nats == [step["train/loss"] * step["train/tokens"] / step["train/rows"]
                    for step in steps] and len(nats) == cfg.steps
    others = [line for line in found if line["method"] != "nats"]
    assert {line["set"] for line in others} == {"chain-test-k1"}
    assert {line["flops"] for line in others} == {7.0}


def test_thinking_variants_are_paired_with_the_policy_before(tmp_path):
    def mode(method: str, seed: int, accuracy: float, tokens: float, name: str, **more) -> dict:
        return row("a price per token", accuracy, seed=seed, method=method, tokens=tokens, set=name,
                   thinking=0.5, **more)

    rows = []
    for seed in (0, 1):
        for k in (1, 2):
            name = f"chain-test-k{k}"
            rows += [row("before", 0.9, round=0, seed=seed, set=name, digits="1111111110"),
                     row("a price per token", 0.8, seed=seed, set=name, digits="1111111100"),
                     row("no price", 0.75, seed=seed, set=name,
                         digits="1111111100" if k == 1 else "1111111000"),
                     mode("always", seed, 0.9, 10.0 * k, name)]
        everything = thinking.ALL
        rows += [mode("always", seed, 0.9, 15.0, everything),
                 mode("auto", seed, 0.8, 9.0, everything),
                 mode("critic_threshold", seed, 0.895, 12.0, everything),
                 mode("critic_threshold", seed, 0.7, 3.0, everything),
                 mode("exit_critic", seed, 0.295, 18.0, everything),
                 mode("exit_critic", seed, 0.2, 3.0, everything),
                 mode("exit_probability", seed, 0.2, 3.0, everything)]
        for budget, accuracy in ((0, 0.2), (6, 0.4), (12, 0.3)):
            rows.append(mode("forced", seed, accuracy, budget, everything, budget=budget,
                             control=1.0, thought=budget))
            rows.append(mode("asked", seed, 0.4, 9.0, everything, budget=budget,
                             control=budget / 12, thought=6 + budget / 100))
    (tmp_path / "think_budget.json").write_text(json.dumps({"command": "c", "rows": rows}))
    ablate.run(ablate.Config(stage="think_budget", source=str(tmp_path)))
    text = (tmp_path / "think_budget.md").read_text()
    assert "| all levels | 90.0 / 15.0 / 50 |  |  | 80.0 / 9.0 / 50 |" in text
    assert "| a price per token, choosing - before | -10.0 [" in text          # 16 - 18 of 20
    assert "| forced | 100 | +0.8 (+0.8 to +0.8) | 6 | 40.0 |" in text     # 20/6, 10/12, -10/6
    assert "| asked | 50 | – | 12 | 40.0 |" in text
    assert "| critic threshold | 80% | 80% |" in text
    # exits: against whole thoughts of the same policy on the same problems, 30% with 12 tokens
    assert "| exit critic | 150% | 150% |" in text and "| exit probability | none | none |" in text
    assert "| no price, choosing - a price per token, choosing | -5.0 [" in text
    assert (tmp_path / "think_budget.png").exists()
