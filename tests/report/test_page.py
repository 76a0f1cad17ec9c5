"""The page shows what a run folder holds, says what it lacks, and shows any stage."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_runs import add_rl, level_rows, made_run, method_rows, records, search_rows, write

from minireason import stages
from minireason.core.errors import UserError
from minireason.core.files import write_checked
from minireason.report import figures_testtime, tables
from minireason.report import runs as results
from minireason.report.build import marked_lines, write_page
from minireason.stages import critic, flywheel, guided_search, revise, testtime

pytestmark = pytest.mark.usefixtures("undrawn")


def page_of(folder: Path) -> str:
    """The page without its pictures."""
    html = write_page(folder).read_text()
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PNG", html)


def test_page_is_self_contained(made):
    html = page_of(made)
    assert html.count('src="PNG"') == html.count("<img ") == 9
    assert not re.findall(r"(?:https?:)?//|@import|<script|<link|url\(", html)
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html


def test_page_states_the_numbers_of_the_rows(made):
    html = page_of(made)
    assert "<td>critic best-of-N - majority vote</td><td>+3.2 [+0.2, +5.2]</td>" in html
    point = results.select(results.load_run(made)["star"]["rows"], round=2, set="chain-test-k6")[0]
    assert f"<td>{100 * point['accuracy']:.1f} [{100 * point['low']:.1f}" in html
    assert "451,000 parameters; cores 2, torch 2.13.0." in html
    assert "<tr><td>pretrain</td><td>200</td><td>1.5e+12</td></tr>" in html
    assert "24 test problems, up to 8 samples each, 45.0 tokens" in html
    assert "temperatures: single sample 1; majority vote 1; critic-weighted vote 1;" in html
    assert "<tr><td>critic (exact)</td><td>–</td><td>91.0</td>" in html


def test_samples_carry_the_verifiers_marks(made):
    html = page_of(made)
    wrong = records()[0]
    step = wrong["example"].removeprefix("<think>").split(";")[3]
    assert f'<li class="wrong"><code>{step}</code> ✗ wrong</li>' in html
    assert f"the right one is {wrong['answer']} (wrong; critic's value 0.50)" in html


@pytest.mark.parametrize("number", [1, 3])
def test_missing_stages_are_named_and_nothing_is_invented(tmp_path, number):
    folder = made_run(tmp_path / "run", stages=number)
    html = page_of(folder)
    absent = [s.name for s in stages.STAGES if s.in_run and not (folder / s.name).exists()]
    assert f"Not in this run: {', '.join(absent)}." in html
    assert ("Self-taught rationales" in html) == (number >= 3)
    assert "Votes and best-of-N" not in html and "Sample completions" not in html


def test_an_unfinished_stage_is_missing(tmp_path):
    folder = made_run(tmp_path / "run", stages=3)
    (folder / "star" / "result.json").unlink()
    assert list(results.load_run(folder)) == ["pretrain", "sft"]
    with pytest.raises(UserError, match="no finished pretrain"):
        write_page(folder / "pretrain")
    assert not (folder / "pretrain" / "figures").exists()


def test_rl_is_a_rung_and_a_section(tmp_path):
    folder = made_run(tmp_path / "run", stages=3)
    add_rl(folder)
    html = page_of(folder)
    assert "Reinforcement learning against the verifier" in html and "1.00 million tokens" in html
    assert "<td>level 8</td><td>34.0 [" in html                # sampled before
    assert "<td>rl</td><td>150</td><td>7.5e+11</td>" in html
    rungs = results.group_by(results.rung_rows([results.load_run(folder)]), "rung")
    assert list(rungs)[-1] == "RL"


def test_signs_of_trouble_stand_beside_the_diagnostics(tmp_path):
    folder = made_run(tmp_path / "run", stages=1)
    add_rl(folder)
    html = page_of(folder)
    assert "<li>groups without signal (%): 20 at first, 20 at the end</li>" in html
    assert "Warning:" not in html
    path = folder / "rl/metrics.jsonl"
    path.write_text(path.read_text().replace('"train/share_cut": 0.01', '"train/share_cut": 0.5'))
    assert '<span class="wrong">Warning: thoughts that find no end' in page_of(folder)


def test_lines_of_fallible_authors_are_marked_and_named(tmp_path):
    folder = made_run(tmp_path / "run", stages=1)
    path = folder / "pretrain/config.json"
    record = json.loads(path.read_text())
    pages = []
    for chance in (0.0, 0.9):
        record["config"]["mixture"] |= {"rule": chance, "rare": chance, "slip": chance / 3}
        path.write_text(json.dumps(record))
        pages.append(page_of(folder))
    exact, html = pages
    assert "fallible authors" not in exact
    part = html[html.index("fallible authors"):html.index("</ul>", html.index("fallible authors"))]
    lines = marked_lines(results.load_run(folder)["pretrain"])
    assert part.count("<li>") == len(lines) == 10
    for line in lines:
        for piece, mistake in line:
            if mistake:
                assert f'<span class="wrong">{piece}</span>' in part and mistake in part
    assert "<eos>" not in part and "&lt;think&gt;" in part


def test_flywheel_critic_and_revise_have_their_sections(tmp_path):
    folder = made_run(tmp_path / "run", stages=1)
    rows = []
    for turn in (1, 2):
        rows += level_rows(0.9, 0.1 - 0.02 * turn, round=turn)
        for method, accuracy in (("single", 0.3), ("searched", 0.5), ("coverage", 0.7),
                                 ("precision", 0.912), ("auc", 0.87)):
            rows.append({"set": "train", "method": method, "round": turn, "accuracy": accuracy})
        rows.append({"set": "train", "method": "kept", "round": turn, "count": 7})
    write(folder / "flywheel", "flywheel", flywheel.Config(
        init="p", base="b", critic="c"), rows, {"seconds": 9.0})
    judged = {"label_accuracy": 0.934, "auc": 0.9, "auc_min": 0.91, "auc_product": 0.92,
              "auc_steps": 0.95}
    check = [{"set": "held-out", "method": method, "accuracy": accuracy, "problems": 800}
             for method, accuracy in judged.items()]
    for n in (1, 2, 4):
        for method in ("mc_hard", "mc_soft"):
            check.append({"set": "held-out", "method": method, "n": n, "accuracy": 0.9,
                          "false_positive": 0.1, "false_negative": 0.05, "count": 321})
    write(folder / "process", "critic", critic.Config(init="p", labels="mc_soft"), check,
          {"seconds": 9.0})
    rates = [{"set": "chain-test-k8", "method": method, "accuracy": 0.75, "low": 0.3, "high": 0.95,
              "problems": 4} for method in ("detection", "false_alarm", "mended")]
    pool = [{"set": "train", "method": "pool_with_errors", "count": 77}]
    write(folder / "revise", "revise", revise.Config(init="p", base="b"),
          pool + level_rows(0.9, 0.1, "sampled") + rates, {"seconds": 9.0})
    html = page_of(folder)
    assert "<td>level 8</td>" + "<td>75.0 [30.0, 95.0]</td>" * 3 + "<td>10.0 [" in html
    assert "<td>2</td><td>7</td><td>91.2</td><td>87.0</td>" in html
    assert "<td>process (mc_soft)</td><td>93.4</td><td>90.0</td>" in html
    assert "321 step ends" in html and "Taught on 77 problems" in html
    runs = [results.load_run(folder)]
    bars = figures_testtime.climb_bars(runs, "chain-test-k8")
    (final,) = results.select(results.final_rows(runs, "flywheel"), set="chain-test-k8")
    assert list(bars)[-1] == "flywheel"
    assert bars["flywheel"] == [final]
    assert {path.name for path in (folder / "figures").iterdir()} >= {
        "flywheel.png", "flywheel_levels.png", "labels_process.png"}


def test_methods_under_two_policies_are_held_together(tmp_path):
    """Only on sets measured under both; the climb shows the first, the samples the later one."""
    folder = made_run(tmp_path / "run")
    add_rl(folder)
    cfg = testtime.Config(policy=f"{folder}/rl", critic="rl_critic")
    rows = method_rows("chain-test-k8", 0.05) + method_rows("chain-test-k7")
    write(folder / "rl_testtime", "testtime", cfg, rows, {"seconds": 1.0})
    path = folder / "rl_testtime/samples-chain-test-k8-0.json"
    write_checked(path, [{**records()[1], "values": [0.125]}])
    html, run = page_of(folder), results.load_run(folder)
    (table,) = tables.by_policy([run], 1)
    assert table[0] == ["level 8, N = 8, accuracy (%)", "STaR", "RL"]
    assert table[1] == ["greedy", "55.0 [50.0, 60.0]", "60.0 [55.0, 65.0]"]
    assert table[3] == ["majority vote", "60.0 [55.0, 64.0]", "65.0 [60.0, 69.0]"]
    assert "<td>majority vote</td><td>60.0 [55.0, 64.0]</td><td>65.0 [60.0, 69.0]</td>" in html
    assert "<h3>Level 8, RL</h3>" in html and "value 0.12)" in html
    assert results.hardest_set(run, "testtime", "search") == "chain-test-k7"
    bars = figures_testtime.climb_bars([run], "chain-test-k8")
    assert bars["STaR, majority vote, N = 8"][0]["accuracy"] == pytest.approx(0.60)
    assert not any(label.startswith("RL, ") for label in bars)


def test_search_has_its_section_and_its_tree(tmp_path):
    folder = made_run(tmp_path / "run", stages=1)
    cfg = guided_search.Config(policy="star", critic="c")
    write(folder / "search", "search", cfg, search_rows(), {"seconds": 9.0})
    node = {"state": "open", "value": 0.5, "draws": 1, "visits": 2, "right": True}
    nodes = [{**node, "id": 0, "parent": None, "text": "<bos>((9/3)*9)=<think>"},
             {**node, "id": 1, "parent": 0, "text": "9/3=3;", "value": None},
             {**node, "id": 2, "parent": 0, "text": "9/3=4;", "right": False},
             {**node, "id": 3, "parent": 1, "text": "27<eos>", "state": "complete", "value": 0.9}]
    (folder / "search/tree.json").write_text(json.dumps({"chain-test-k8": {
        "prompt": "((9/3)*9)=", "answer": "27", "pass_rate": 0.25, "nodes": nodes}}))
    assert figures_testtime.best_path(nodes) == {0, 1, 3}
    html = page_of(folder)
    tree, best = "<td>tree search (PUCT) - critic best-of-N</td>", "<td>critic best-of-N</td>"
    assert html.count(f"{tree}<td>+3.2 [+1.1, +5.2]</td>") == 3     # at the largest N, at each N
    assert html.count("<th>N = 16</th>") == 2 and html.count("<th>N = 4</th>") == 1
    assert html.count("<td>revisions, 1 chain - critic best-of-N</td>") == 2
    assert f"{best}<td>40.0 [35.0, 45.0]</td><td>0.0</td><td>12.5</td>" in html
    bars = figures_testtime.climb_bars([results.load_run(folder)], "chain-test-k8")
    assert bars["STaR, revisions, 1 chain, N = 16"][0]["accuracy"] == 0.4
    assert not any("best-of-N" in label for label in bars)      # of search, only the searches
    assert "right in 25% of single samples" in html and "200 test problems" in html
    assert "<td>31 [28, 34]</td><td>3.25 [2.90, 3.60]</td><td>+0.4 [-1.0, +2.0]</td>" in html
    assert (folder / "figures/tree_k8.png").exists()


@dataclass(frozen=True)
class ToyConfig:
    """A stage that the report has never heard of."""

    init: str = "star"


def test_a_stage_without_a_section_gets_its_rows_and_a_rung(tmp_path, monkeypatch):
    folder = made_run(tmp_path / "run", stages=1)
    write(folder / "toy", "toy", ToyConfig(),
          [*level_rows(0.9, 0.05), {"set": "train", "method": "kept", "round": 1, "count": 12}],
          {"seconds": 1.0})
    row = stages.Stage("toy", "nowhere", "a <toy> of the test", {"init": "star"}, label="toy")
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, row))
    html = page_of(folder)
    assert "A &lt;toy&gt; of the test <code>toy</code>" in html
    assert "<td>kept, round 1</td>" in html and "<td>12</td>" in html
    rungs = results.group_by(results.rung_rows([results.load_run(folder)]), "rung")
    assert list(rungs) == ["direct answer", "pretrained, step by step", "toy"]


def test_page_of_a_run_that_really_happened(ladder):
    """The stages' own files, tiny: what the made-up rows copy by hand cannot drift."""
    html = page_of(ladder)
    for title in ("The ladder", "A base model", "Self-taught rationales", "A learned judge",
                  "Votes and best-of-N", "Sample completions", "Configuration and cost"):
        assert f"<h2>{title}" in html
    assert "Level 1, STaR" in html and "Level 2, STaR" in html
