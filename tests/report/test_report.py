"""Report: the page shows what a run folder holds and says what it lacks; the README's numbers."""

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from minireason.core.config import UserError, to_dict
from minireason.measure.estimates import share_interval
from minireason.problems import chain
from minireason.report import build as report
from minireason.report import figures, figures_search, markup, readme
from minireason.report import runs as results
from minireason.report import tables as readme_tables
from minireason.report.build import Config as ReportConfig
from minireason.search import compare
from minireason.stages import critic, flywheel, pretrain, revise, rl, sft, star, testtime
from minireason.stages import guided_search as search

LEVELS = range(1, 9)


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Small pictures: these tests never look at pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figures.STYLE, "savefig.dpi", 40)
        yield


def write(folder: Path, stage: str, config, result: dict, metrics: list[dict] = ()) -> None:
    """A finished stage's folder, without weights."""
    folder.mkdir(parents=True)
    record = {"stage": stage, "config": to_dict(config), "parents": {}}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "result.json").write_text(json.dumps({"stage": stage, **result}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))


def accuracies(top: float, slope: float, n: int = 500) -> dict:
    """{set name: fields of Accuracy}, falling with the level."""
    found = {}
    for level in LEVELS:
        right = round(n * min(1.0, max(0.02, top - slope * level)))
        found[f"chain-test-k{level}"] = {**share_interval(right, n), "n": n}
    return found


def records(generator: np.random.Generator, problems: int, n: int) -> list[dict]:
    """Test-time records of made-up samples whose critic knows something."""
    found = []
    for _ in range(problems):
        problem = chain.sample(generator, 8)
        skill = generator.beta(0.5, 1.2)
        correct = generator.random(n) < skill
        values = np.clip(0.25 + 0.45 * correct + generator.normal(0, 0.2, n), 0, 1).round(6)
        wrong = [str(90 + int(generator.integers(0, 5))) for _ in range(n)]
        answers = [problem.answer if right else other
                   for right, other in zip(correct, wrong, strict=True)]
        steps = list(problem.steps)
        if not correct[0]:
            steps[3] = steps[3].partition("=")[0] + "=11"
        example = f"<think>{';'.join(steps)}</think>{answers[0]}<eos>"
        found.append({"prompt": problem.prompt, "answer": problem.answer, "answers": answers,
                      "tokens": generator.integers(40, 50, n).tolist(), "example": example,
                      "correct": correct.astype(int).tolist(), "values": values.tolist(),
                      "steps_valid": correct.astype(int).tolist()})
    return found


@lru_cache
def measured(seed: int, problems: int, n: int) -> tuple[list[dict], dict]:
    """Records of made-up samples and what the test-time stage makes of them."""
    found = records(np.random.default_rng(seed), problems, n)
    return found, testtime.estimate(testtime.Config("", "", seed=seed, n=n), found)


def made_run(folder: Path, seed: int = 0, stages: int = 5) -> Path:
    """A run folder of made-up numbers in the stages' own formats; the first `stages` of them."""
    generator, at = np.random.default_rng(seed), str(folder)
    lift = 0.02 * seed
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(
        {"stage": "run", "config": {"size": "quickstart", "out": at, "seed": seed}}))
    (folder / "machine.json").write_text(json.dumps({"cores": 2, "torch": "2.13.0"}))
    metrics = [{"step": i, "train/loss": 1.2 + 2.5 * np.exp(-i / 60) + generator.normal(0, 0.05),
                "train/tokens": 5000} for i in range(300)]
    write(folder / "pretrain", "pretrain", pretrain.Config(out=f"{at}/pretrain", seed=seed),
          {"seconds": 200.0, "parameters": 451_000,
           "accuracy": {"direct": accuracies(0.2, 0.03), "cot": accuracies(0.8 + lift, 0.1)}},
          metrics)
    parts = iter(range(1, stages))
    if next(parts, 0):
        write(folder / "sft", "sft", sft.Config(init=f"{at}/pretrain", out=f"{at}/sft",
                                                   seed=seed),
              {"seconds": 20.0, "accuracy": {"cot": accuracies(0.9 + lift, 0.09)}}, metrics[:50])
    if next(parts, 0):
        rounds = [{"accuracy": {"cot": accuracies(0.9 + 0.05 * r + lift, 0.08 - 0.02 * r)},
                   "kept": 1500 + 100 * r, "share_solved": 0.5 + 0.1 * r,
                   "share_rationalized": 0.1, "share_wrong_steps": 0.3 - 0.05 * r,
                   "kept_per_level": {}, "seconds": 60.0} for r in (1, 2, 3)]
        write(folder / "star", "star", star.Config(init=f"{at}/sft", base=f"{at}/pretrain",
                                                       out=f"{at}/star", seed=seed),
              {"seconds": 180.0, "rounds": rounds, "accuracy": rounds[-1]["accuracy"]})
    if next(parts, 0):
        write(folder / "critic", "critic", critic.Config(init=f"{at}/star", seed=seed,
                                                               out=f"{at}/critic"),
              {"seconds": 60.0, "share_right": 0.4, "auc": 0.91, "held_out": 800})
    if next(parts, 0):
        cfg = testtime.Config(policy=f"{at}/star", critic=f"{at}/critic", seed=seed,
                                      out=f"{at}/testtime", problems=24, n=8)
        found, curve = measured(seed, cfg.problems, cfg.n)
        write(folder / "testtime", "testtime", cfg,
              {"seconds": 100.0, "curves": {"chain-test-k8": curve}, "greedy": {},
               "calibration": {"chain-test-k8": testtime.calibration(found)}})
        (folder / "testtime" / "samples-chain-test-k8-0.json").write_text(json.dumps(found))
    return folder


def add_rl(folder: Path, seed: int = 0) -> None:
    """The RL stage of a made-up run."""
    generator = np.random.default_rng(seed)
    at, metrics, curve = str(folder), [], []
    for step in range(50):
        line = {"reward": 0.3 + 0.01 * step, "entropy": 0.4 - 0.005 * step, "approx_kl": 1e-3,
                "clip_fraction": 0.01 * generator.random(), "share_silent": 0.2,
                "generated_tokens": 20_000, "trained_tokens": 15_000, "length_wrong": 45.0}
        if step > 5:                                           # early steps may have none
            line["length_right"] = 44.0 + generator.random()
        metrics.append({"step": step, **{f"train/{key}": value for key, value in line.items()}})
    for step in range(0, 51, 10):
        curve.append({"step": step, "generated_tokens": 20_000 * step, "flops": 1e9 * step,
                      "eval/chain-validation-k8/sampled": 0.3 + 0.008 * step + 0.01 * seed,
                      "eval/chain-validation-k8/greedy": 0.4 + 0.008 * step + 0.01 * seed})
    write(folder / "rl", "rl", rl.Config(init=f"{at}/star", out=f"{at}/rl", seed=seed),
          {"seconds": 150.0, "curve": curve, "accuracy": {
              "cot": accuracies(1.0, 0.01), "sampled": accuracies(0.97, 0.02),
              "sampled_before": accuracies(0.9, 0.07)}}, metrics)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """One complete run folder of made-up numbers with its page; tests only read it."""
    folder = made_run(tmp_path_factory.mktemp("report") / "run")
    assert report.run(ReportConfig(run=str(folder))) == folder / "report.html"
    return folder


def page_of(folder: Path) -> str:
    """The page without its pictures."""
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PNG", (folder /
                                                                     "report.html").read_text())


def test_page_is_self_contained(made):
    html = page_of(made)
    assert html.count('src="PNG"') == html.count("<img ") == 8
    assert not re.findall(r"(?:https?:)?//|@import|<script|<link|url\(", html)
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html


def test_page_states_the_numbers_of_the_results(made):
    html = page_of(made)
    run = results.load_run(made)
    curve = run["testtime"]["result"]["curves"]["chain-test-k8"]
    difference = curve["differences"]["critic_best_of_n - majority"]
    assert f"{100 * difference['mean']:+.1f} [{100 * difference['low']:+.1f}" in html
    point = run["star"]["result"]["rounds"][1]["accuracy"]["cot"]["chain-test-k6"]
    assert f"<td>{100 * point['accuracy']:.1f} [{100 * point['low']:.1f}" in html
    assert "451,000 parameters; cores 2, torch 2.13.0." in html
    assert "<td>pretrain</td><td>200</td><td>1,500,000</td>" in html
    assert "0.910" in html and "24 test problems, 8 samples each" in html


def test_samples_carry_the_verifiers_marks(made):
    html = page_of(made)
    records_of = json.loads((made / "testtime/samples-chain-test-k8-0.json").read_text())
    wrong = next(r for r in records_of[:results.EXAMPLES] if not r["correct"][0])
    step = wrong["example"].removeprefix("<think>").split(";")[3]
    assert f'<li class="wrong"><code>{step}</code> ✗ wrong</li>' in html
    assert f"the right one is {wrong['answer']}" in html


@pytest.mark.parametrize("stages", [1, 3])
def test_missing_stages_are_named_and_nothing_is_invented(tmp_path, stages):
    folder = made_run(tmp_path / "run", stages=stages)
    report.run(ReportConfig(run=str(folder)))
    html = page_of(folder)
    absent = [s for s in results.STAGES if not (folder / s).exists()]
    assert f"Not in this run: {', '.join(absent)}." in html
    assert ("<h2>STaR</h2>" in html) == (stages >= 3)
    assert "<h2>Test-time compute</h2>" not in html and "<h2>The critic</h2>" not in html


def test_rl_is_a_rung_and_a_section(tmp_path):
    folder = made_run(tmp_path / "run", stages=3)
    add_rl(folder)
    report.run(ReportConfig(run=str(folder)))
    html = page_of(folder)
    assert "<h2>Reinforcement learning</h2>" in html and "1.00 million tokens" in html
    assert "<td>8</td><td>34.0 [" in html                      # sampled before, level 8
    assert "<td>rl</td><td>150</td><td>750,000</td>" in html
    assert list(results.rungs(results.load_run(folder)))[-1] == "RL"


def test_flywheel_and_process_critic_have_their_sections(tmp_path):
    folder = made_run(tmp_path / "run", stages=1)
    turns = [{"single": 0.3, "searched": 0.5, "coverage": 0.7, "precision": 0.912, "auc": 0.87,
              "accuracy": {"cot": accuracies(0.9, 0.1 - 0.02 * t)}} for t in (1, 2)]
    write(folder / "flywheel", "flywheel", flywheel.Config("p", "b", "c"),
          {"seconds": 9.0, "turns": turns, "accuracy": turns[-1]["accuracy"]})
    rates = {"accuracy": 0.9, "false_positive": 0.1, "false_negative": 0.05}
    check = {"step_ends": 321, "share_true": 0.6,
             **{str(n): {"hard": rates, "soft": rates} for n in (1, 2, 4)}}
    write(folder / "process", "critic", critic.Config("p", labels="mc_soft"),
          {"seconds": 9.0, "label_accuracy": 0.934, "auc": 0.9, "auc_min": 0.91, "auc_steps": 0.95,
           "auc_product": 0.92, "held_out": 800, "monte_carlo": check})
    rate = {"share": 0.75, "n": 4, "low": 0.3, "high": 0.95}
    kinds = {kind: rate for kind in ("detection", "false_alarm", "mended")}
    write(folder / "revise", "revise", revise.Config("p", "b"), {
        "seconds": 9.0, "pool_with_errors": 77, "withdrawals": {"chain-test-k8": kinds},
        "accuracy": {"sampled": accuracies(0.9, 0.1)}})
    report.run(ReportConfig(run=str(folder)))
    html = page_of(folder)
    assert "<td>8</td>" + "<td>75.0 [30.0, 95.0]</td>" * 3 + "<td>10.0 [" in html
    assert "<td>2</td><td>91.2</td><td>0.870</td>" in html
    run = results.load_run(folder)
    assert list(results.rungs(run))[-1] == "flywheel"
    bars = figures_search.bars(run, "chain-test-k8")
    assert bars["flywheel"][0]["accuracy"] == turns[-1]["accuracy"]["cot"]["chain-test-k8"][
        "accuracy"]
    assert "<td>process</td><td>mc_soft</td><td>93.4</td><td>0.900</td>" in html
    assert "321 step ends" in html
    assert {path.name for path in (folder / "figures").iterdir()} >= {
        "flywheel.png", "flywheel_levels.png", "labels_process.png"}


def test_pass_at_n_before_and_after_rl(tmp_path):
    """Only on sets that both stages measured; the climb and the samples come from the later one."""
    folder = made_run(tmp_path / "run")
    add_rl(folder)
    cfg = testtime.Config(policy="rl", critic="rl_critic", problems=24, n=8)
    found, curve = measured(9, cfg.problems, cfg.n)
    write(folder / "rl_testtime", "testtime", cfg,
          {"seconds": 1.0, "curves": {"chain-test-k8": curve, "chain-test-k7": curve},
           "calibration": {}, "greedy": {}})
    (folder / "rl_testtime/samples-chain-test-k8-0.json").write_text(json.dumps(found))
    report.run(ReportConfig(run=str(folder)))
    html, run = page_of(folder), results.load_run(folder)
    before = run["testtime"]["result"]["curves"]["chain-test-k8"]["points"]
    after = curve["points"]
    for what, n, method in (("pass@1", "1", "single"), ("pass@8", "8", "coverage"),
                            ("critic best-of-8", "8", "critic_best_of_n")):
        assert (f"<td>8</td><td>{what}</td><td>{markup.share(before[n][method])}</td>"
                f"<td>{markup.share(after[n][method])}</td>") in html
    assert "<td>7</td><td>pass" not in html
    assert "<h3>Level 8, after RL</h3>" in html
    assert found[0]["prompt"] in html
    assert figures_search.hardest(run) == "chain-test-k7"       # the last of the last stage
    bars = figures_search.bars(run, "chain-test-k8")
    assert bars["RL, majority vote, N = 8"][0] == after["8"]["majority"]
    assert not any(label.startswith("STaR, ") for label in bars)


def test_search_has_its_section_and_its_tree(tmp_path):
    folder = made_run(tmp_path / "run", stages=1)
    curve = {n: {"mean": 0.4, "low": 0.35, "high": 0.45, "tokens": 45.0 * int(n)}
             for n in ("4", "16")}
    difference = {"mean": 0.0321, "low": 0.011, "high": 0.052}
    found = {"n_problems": 200, "unit": 45,
             "allocation": {"sample until sure": {
                 "tokens": 700.0, "factor": 3.25, "factor_low": 2.9, "factor_high": 3.6,
                 "difference": 0.004, "difference_low": -0.01, "difference_high": 0.02}},
             "curves": {method: curve for method in ("single", "best_of_n", "tree", "tree_vote",
                                                     "sequential")},
             "against_best_of_n": {what: {"all": difference, "bins": [
                 {"n": 40, "best_of_n": 0.125 * b, **difference} for b in range(5)]}
                 for what in ("tree 4", "tree 16", "sequential 16")}}
    write(folder / "search", "search", search.Config("p", "c"),
          {"seconds": 9.0, "sets": {"chain-test-k8": found}})
    node = {"state": "open", "value": 0.5, "draws": 1, "visits": 2, "right": True}
    nodes = [{**node, "id": 0, "parent": None, "text": "<bos>((9/3)*9)=<think>"},
             {**node, "id": 1, "parent": 0, "text": "9/3=3;", "value": None},
             {**node, "id": 2, "parent": 0, "text": "9/3=4;", "right": False},
             {**node, "id": 3, "parent": 1, "text": "27<eos>", "state": "complete", "value": 0.9}]
    (folder / "search/tree.json").write_text(json.dumps({"chain-test-k8": {
        "prompt": "((9/3)*9)=", "answer": "27", "pass_rate": 0.25, "nodes": nodes}}))
    assert figures_search.best_path(nodes) == {0, 1, 3}
    report.run(ReportConfig(run=str(folder)))
    html = page_of(folder)
    assert html.count("<td>tree 16</td><td>+3.2 [+1.1, +5.2]</td>") == 2
    assert html.count("<td>tree 4</td>") == 1 and html.count("<td>sequential 16</td>") == 2
    assert "<td>best-of-N 16 (%)</td><td>40.0</td><td>0.0</td><td>12.5</td>" in html
    bars = figures_search.bars(results.load_run(folder), "chain-test-k8")
    assert bars["revisions, 1 chain, N = 16"][0]["accuracy"] == 0.4
    assert not any("best-of-N" in label for label in bars)      # of search, only the searches
    assert "right in 25% of single samples" in html and "200 test problems" in html
    assert ("<td>31 [28, 34]</td><td>3.25 [2.90, 3.60]</td><td>+0.4 [-1.0, +2.0]</td>") in html
    assert (folder / "figures/tree_k8.png").exists()


def test_an_unfinished_stage_is_missing(tmp_path):
    folder = made_run(tmp_path / "run", stages=3)
    (folder / "star" / "result.json").unlink()
    assert list(results.load_run(folder)) == ["pretrain", "sft"]
    with pytest.raises(UserError, match="no finished pretrain"):
        report.run(ReportConfig(run=str(folder / "pretrain")))
    assert not (folder / "pretrain" / "figures").exists()


def test_page_of_a_run_that_really_happened(ladder):
    """The stages' own files, tiny: what the formats above copy by hand cannot drift."""
    report.run(ReportConfig(run=str(ladder)))
    html = page_of(ladder)
    for title in ("The ladder", "Pretraining", "STaR", "Test-time compute", "The critic",
                  "Sample completions", "Configuration and cost"):
        assert f"<h2>{title}</h2>" in html
    assert "Level 1" in html and "Level 2" in html


# ---- the README ---------------------------------------------------------------------------------

@pytest.fixture
def three(tmp_path, monkeypatch) -> Path:
    """A folder with runs of three seeds and a README; the current directory."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        made_run(Path(f"runs/s{seed}"), seed)
    Path("README.md").write_text(f"above\n{readme.BEGIN}\nold\n{readme.END}\nbelow\n")
    return tmp_path


RUNS = ("runs/s0", "runs/s1", "runs/s2")


def test_readme_is_made_anew_from_the_reference_alone(three):
    report.run(ReportConfig(runs=RUNS, readme="README.md"))
    first = Path("README.md").read_text()
    pictures = {path.name: path.read_bytes() for path in Path("docs/figures").iterdir()}
    for path in RUNS:
        Path(path).rename(path + "-gone")
    Path("README.md").write_text(first.replace("%", "?"))
    for path in Path("docs/figures").iterdir():
        path.unlink()
    report.run(ReportConfig(readme="README.md"))
    assert Path("README.md").read_text() == first
    assert {p.name: p.read_bytes() for p in Path("docs/figures").iterdir()} == pictures
    assert first.startswith(f"above\n{readme.BEGIN}\n") and first.endswith(
        f"{readme.END}\nbelow\n") and "old" not in first
    for name in re.findall(r'src="([^"]+)"', first):
        assert Path(name).is_file()


def test_reference_is_small_and_names_no_path_of_the_machine(three):
    here = str(three / "runs/absolute")
    made_run(Path(here), seed=7)
    report.run(ReportConfig(runs=(here,), reference="kept"))
    files = [path for path in Path("kept").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert {path.suffix for path in files} == {".json", ".jsonl"}
    assert not any(str(three) in path.read_text() for path in files)
    kept = results.load_run("kept/seed-7")
    assert kept["star"]["config"]["init"] == "seed-7/sft"
    whole = results.load_run(here)
    assert len(kept["pretrain"]["metrics"]) == results.THIN < len(whole["pretrain"]["metrics"])
    assert [s["tokens"] for s in kept.values()] == [s["tokens"] for s in whole.values()]
    report.run(ReportConfig(run="kept/seed-7"))                 # a copy has a page too
    assert "the right one is" in page_of(Path("kept/seed-7"))


def test_table_states_mean_interval_range_and_provenance(three):
    report.run(ReportConfig(runs=RUNS, readme="README.md", levels=(2, 8)))
    text = Path("README.md").read_text()
    points = [results.load_run(run)["sft"]["result"]["accuracy"]["cot"]["chain-test-k2"]
              for run in RUNS]
    mean, low, high = (100 * np.mean([p[k] for p in points]) for k in ("accuracy", "low", "high"))
    values = [100 * p["accuracy"] for p in points]
    spread = f"({min(values):.0f} to {max(values):.0f})"
    assert f"| SFT | {mean:.1f} [{low:.0f}, {high:.0f}] {spread} |" in text
    assert "| accuracy (%) | level 2 | level 8 |" in text
    differences = [results.load_run(run)["testtime"]["result"]["curves"]["chain-test-k8"]
                   ["differences"]["majority - single"] for run in RUNS]
    mean, low, high = (100 * np.mean([d[key] for d in differences])
                       for key in ("mean", "low", "high"))
    worst = 100 * min(d["low"] for d in differences)
    assert f"| majority - single | {mean:+.1f} [{low:+.1f}, {high:+.1f}] | {worst:+.1f} |" in text
    for fact in ("seeds 0, 1, 2", "n = 500", "--size quickstart", "451,000 parameters", "cores 2",
                 "torch 2.13.0", "9.3 to 9.3 minutes"):
        assert fact in text, fact


def test_runs_that_cannot_be_averaged_are_refused(three):
    with pytest.raises(UserError, match="one run a seed"):
        readme.keep_runs(("runs/s0", "runs/s0"), Path("kept"))
    record = json.loads(Path("runs/s1/sft/config.json").read_text())
    record["config"]["traces"] = 5
    Path("runs/s1/sft/config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="runs/s1 has other stages or settings"):
        readme.keep_runs(RUNS, Path("kept"))
    assert not Path("kept").exists()
    readme.keep_runs(("runs/s0",), Path("kept"))
    with pytest.raises(UserError, match="seed-0"):              # would mix old with new
        readme.keep_runs(("runs/s2",), Path("kept"))


@pytest.mark.parametrize("text", ["no marks", f"{readme.END}{readme.BEGIN}", readme.BEGIN * 2
                                  + readme.END])
def test_readme_without_its_marks_is_left_alone(three, text):
    Path("README.md").write_text(text)
    with pytest.raises(UserError, match="results:begin"):
        report.run(ReportConfig(readme="README.md"))
    assert Path("README.md").read_text() == text


def test_every_method_of_the_test_time_stages_is_drawn():
    assert set(figures.METHODS) == set(testtime.METHODS + testtime.OUTCOME)
    assert set(figures_search.METHODS) == set(compare.SAMPLED + search.METHODS)


def test_thinning_sums_tokens_and_averages_the_rest():
    lines = [{"step": i, "train/tokens": 10, "train/loss": float(i)} for i in range(10)]
    assert results.thin(lines, 5)[:2] == [{"step": 1, "train/tokens": 20, "train/loss": 0.5},
                                          {"step": 3, "train/tokens": 20, "train/loss": 2.5}]
    assert results.thin([], 5) == []


def test_readme_tables_of_rl_and_search_take_their_numbers_from_the_runs():
    def run(single: float, beam: float) -> dict:
        def curve(value: float) -> dict:
            point = {m: {"accuracy": value, "low": value - 0.1, "high": value + 0.1}
                     for m in ("single", "majority", "critic_vote", "critic_best_of_n", "coverage")}
            return {"chain-test-k7": {"samples": 8, "points": {"8": point}}}

        def points(*values: float) -> dict:
            return {str(n): {"mean": v, "low": v, "high": v, "tokens": n}
                    for n, v in zip((1, 4, 8), values, strict=True)}

        found = {"n_problems": 9, "curves": {
            "best_of_n": points(0.1, 0.2, 0.3),
            "beam": {k: v for k, v in points(0, beam, beam).items() if k != "1"}}}
        return {"testtime": {"result": {"curves": curve(single)}},
                "rl_testtime": {"result": {"curves": curve(single + 0.2)}},
                "search": {"result": {"sets": {"chain-test-k7": found}}}}

    runs = [run(0.3, 0.5), run(0.5, 0.7)]
    assert ("| single sample, T = 1 | 40.0 [30, 50] (30 to 50) | 60.0 [50, 70] (50 to 70) |"
            in readme_tables.rl(runs))
    table = readme_tables.search(runs)
    assert "n = 9" in table and "| 4 samples | 8 samples |" in table and "1 samples" not in table
    assert "| beam | 60.0 [60, 60] (50 to 70) | 60.0 [60, 60] (50 to 70) |" in table
    assert readme_tables.rl([{}]) == readme_tables.search([{}]) == ""


def test_studies_are_redrawn_from_what_is_committed(tmp_path):
    """The repository's own results: each has its table and its figure; none, no block."""
    reference = Path(__file__).parents[2] / "data" / "reference"
    text = readme.studies(reference, tmp_path)
    drawn = sorted(path.name for path in (tmp_path / readme.FIGURES).glob("*.png"))
    assert {"ablate_star.png", "countdown.png"} <= set(drawn)
    assert all(f'src="docs/figures/{name}"' in text for name in drawn)
    held = results.read_json(reference / "ablations" / "star.json")
    worth = [100 * seed[-1]["accuracy"]["chain-test-k7"][0] for seed in
             held["variants"]["keep only if all steps are right"]]
    assert f"| {sum(worth) / 3:.1f} [" in text
    assert f"] ({min(worth):.0f} to {max(worth):.0f}) |" in text
    assert readme.studies(tmp_path, tmp_path) == ""
