"""The README's blocks come from the committed copies alone, and nothing else is touched."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import add_rl, made_run, search_rows, write
from tiny_run import tiny_stages

from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.critics.value_head import Critic
from minireason.model import checkpoint
from minireason.model.transformer import Transformer
from minireason.report import build, copies
from minireason.report import runs as results
from minireason.stages import guided_search

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
README, RESULTS = Path("README.md"), Path("docs/RESULTS.md")
RUNS = ("runs/s0", "runs/s1", "runs/s2")


@pytest.fixture
def three(tmp_path, monkeypatch) -> Path:
    """A folder with runs of three seeds and a README; the current directory."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        made_run(Path(f"runs/s{seed}"), seed)
    Path("docs").mkdir()
    for path in (README, RESULTS):
        path.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    return tmp_path


@pytest.mark.parametrize("drawn", [False, pytest.param(True, marks=pytest.mark.long)])
def test_both_files_are_made_anew_from_the_reference_alone(three, drawn, request):
    if not drawn:
        request.getfixturevalue("undrawn")
    build.run(build.Config(runs=RUNS, readme="README.md"))
    first = {path: path.read_text() for path in (README, RESULTS)}
    pictures = {path.name: path.read_bytes() for path in Path("docs/figures").iterdir()}
    for path in RUNS:
        Path(path).rename(path + "-gone")
    for path, text in first.items():
        path.write_text(text.replace("%", "?"))
    for path in Path("docs/figures").iterdir():
        path.unlink()
    build.run(build.Config(readme="README.md"))
    assert {p.name: p.read_bytes() for p in Path("docs/figures").iterdir()} == pictures
    for path, text in first.items():
        assert path.read_text() == text
        assert text.startswith(f"above\n{BEGIN}\n") and text.endswith(f"{END}\nbelow\n")
        assert "old" not in text and "\n\n\n" not in text
        for name in re.findall(r'src="([^"]+)"', text):
            assert (path.parent / name).is_file()


def test_the_readme_has_one_table_and_one_figure(three, undrawn):
    build.run(build.Config(runs=RUNS, readme="README.md"))
    text, whole = README.read_text(), RESULTS.read_text()
    assert text.count("|---") == 4 and text.count("<img ") == 1
    assert "| greedy accuracy (%) | level 2 | level 4 | level 8 |" in text
    assert "| greedy accuracy (%) | level 5 | level 6 | level 7 | level 8 |" in whole
    assert whole.count("<img ") == 9 and "majority vote" not in text


def test_table_states_mean_interval_range_and_provenance(three, undrawn):
    build.run(build.Config(runs=RUNS, readme="README.md"))
    text = RESULTS.read_text()
    points = results.rows_of([results.load_run(run) for run in RUNS], stage="sft",
                             set="chain-test-k6")
    mean, low, high = (100 * np.mean([p[k] for p in points]) for k in ("accuracy", "low", "high"))
    values = [100 * p["accuracy"] for p in points]
    spread = f"({min(values):.0f} to {max(values):.0f})"
    (line,) = [line for line in text.splitlines() if line.startswith("| SFT | 47.")]
    assert f"| {mean:.1f} [{low:.0f}, {high:.0f}] {spread} |" in line
    assert "| STaR, greedy | 57.0 [52, 62] (55 to 59) |" in text
    assert "| STaR, majority vote, N = 8 | 62.0 [57, 66] (60 to 64) |" in text
    assert "| majority vote - single sample | +12.0 [+9.0, +14.0] | +7.0 |" in text
    for fact in ("seeds 0, 1, 2", "n = 500", "--size quickstart", "451,000 parameters", "cores 2",
                 "torch 2.13.0", "9.3 to 9.3 minutes"):
        assert fact in text, fact


def test_budgets_are_those_that_every_method_has(three, undrawn):
    for seed, folder in enumerate(RUNS):
        add_rl(Path(folder), seed)
        rows = search_rows()
        write(Path(folder) / "search", "search", guided_search.Config(
            policy=f"{folder}/rl", critic="c", seed=seed), [{**rows[0], "n": 1}, *rows],
            {"seconds": 1.0})
    build.run(build.Config(runs=RUNS, readme="README.md"))
    text = RESULTS.read_text()
    assert "| greedy | 92.0 [89, 94] (92 to 92) | 92.0 [89, 94] (92 to 92) |" in text
    assert "n = 200, accuracy (%) at the tokens of | 4 samples | 16 samples |" in text
    assert ("| tree search (PUCT), vote | 40.0 [35, 45] (40 to 40) | 40.0 [35, 45] (40 to 40) |"
            in text)
    assert "| level 8 | 34.0 [30, 38] (34 to 34) | 81.0 [" in text     # one sample, RL


def test_runs_of_another_family_have_a_block_and_figures_of_their_own(three, undrawn):
    copies.keep_runs(RUNS, Path("kept/modular-quickstart"))
    RESULTS.write_text(RESULTS.read_text() + "<!-- run-modular:begin -->\n<!-- run-modular:end -->")
    config = build.Config(runs=RUNS, reference="kept/quickstart", readme="README.md")
    build.run(config)
    block = RESULTS.read_text().partition("<!-- run-modular:begin -->")[2]
    assert "| greedy accuracy (%) | level 5 | level 6 | level 7 | level 8 |" in block
    assert "`minireason run --family chain --size quickstart --seed S`" in block
    pictures = re.findall(r'src="([^"]+)"', block)
    assert [Path(name).name for name in pictures] == ["ladder.png", "climb.png",
                                                     "testtime_samples.png"]
    for name in pictures:
        assert name.startswith("figures/modular/") and (RESULTS.parent / name).is_file()
    RESULTS.write_text(RESULTS.read_text().replace("run-modular:end", "run-modular"))
    with pytest.raises(UserError, match="run-modular:end"):
        build.run(config)
    record = Path("kept/modular-quickstart/seed-0/config.json")
    record.write_text(json.dumps({"config": {"family": "modular", "size": "quickstart"}}))
    with pytest.raises(UserError, match=r"holds runs of modular, .* --reference of chain"):
        build.run(build.Config(reference="kept/modular-quickstart", readme="README.md"))


def test_results_have_a_place_for_every_study_and_for_the_families_that_walk_the_ladder():
    whole = (Path(__file__).parents[2] / RESULTS).read_text()
    families = ("program", "synthesis", "maze", "instructions", "decomposition")
    for name in (*build.BLOCKS, *(f"run-{family}" for family in families)):
        assert build.between(RESULTS, whole, name, "new").count(f"<!-- {name}:begin -->\nnew\n")


def test_runs_that_cannot_be_averaged_are_refused(three):
    with pytest.raises(UserError, match="one run per seed"):
        copies.keep_runs(("runs/s0", "runs/s0"), Path("kept"))
    record = json.loads(Path("runs/s1/sft/config.json").read_text())
    record["config"]["traces"] = 5
    Path("runs/s1/sft/config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="runs/s1 has other stages or settings"):
        copies.keep_runs(RUNS, Path("kept"))
    assert not Path("kept").exists()
    copies.keep_runs(("runs/s0",), Path("kept"))
    with pytest.raises(UserError, match="seed-0"):              # would mix old with new
        copies.keep_runs(("runs/s2",), Path("kept"))
    shutil.rmtree("kept/seed-0/pretrain")
    with pytest.raises(UserError, match="not an older copy"):   # somebody's own folder
        copies.keep_runs(("runs/s0",), Path("kept"))


def test_a_copy_never_replaces_what_it_is_made_from(three):
    before = sorted(Path("runs").rglob("*"))
    for where in ("runs/s0", "runs/s0/inside", "runs"):
        with pytest.raises(UserError, match="which is to be copied"):
            copies.check_apart(Path("runs/s0"), Path(where), "--ship")
    Path("runs/s0").rename("runs/seed-0")
    with pytest.raises(UserError, match="--reference runs/seed-0: is, holds or lies in"):
        copies.keep_runs(("runs/seed-0",), Path("runs"))
    Path("runs/seed-0").rename("runs/s0")
    assert sorted(Path("runs").rglob("*")) == before


def test_a_copy_that_fails_leaves_the_older_one(tmp_path):
    def fails(new: Path) -> None:
        new.mkdir()
        (new / "half").write_text("")
        raise UserError("disk full")

    copies.replaced(tmp_path / "copy", lambda new: new.mkdir())
    for _ in range(2):
        with pytest.raises(UserError, match="disk full"):
            copies.replaced(tmp_path / "copy", fails)
    assert not list((tmp_path / "copy").iterdir())
    (tmp_path / "copy").rename(tmp_path / ".copy.old")          # killed between two renames
    with pytest.raises(UserError, match="disk full"):
        copies.replaced(tmp_path / "copy", fails)
    assert (tmp_path / "copy").is_dir()
    copies.replaced(tmp_path / "copy", lambda new: (new.mkdir(), (new / "a").write_text("")))
    assert [path.name for path in tmp_path.rglob("*")] == ["copy", "a"]


def test_a_shipped_run_is_a_run_with_rounded_weights(ladder, tmp_path, undrawn):
    """Weights within float16's rounding, no training data; it draws its page, finds damage, and is
    replaced by a newer copy only."""
    out = build.run(build.Config(run=str(ladder), ship=str(tmp_path / "shipped")))
    for name, kind in (("pretrain", Transformer), ("star", Transformer), ("critic", Critic)):
        whole, _ = checkpoint.load(ladder / name, kind=kind)
        rounded, _ = checkpoint.load(out / name, kind=kind)
        for a, b in zip(whole.parameters(), rounded.parameters(), strict=True):
            assert b.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=2 ** -11, atol=2 ** -25)
        sizes = [(folder / name / "model.safetensors").stat().st_size for folder in (ladder, out)]
        assert sizes[1] < 0.7 * sizes[0]
        found = checkpoint.read_tensors(out / name / "model.safetensors")[1]["rounded_from"]
        assert found == checkpoint.weights_hash(ladder / name)
    assert not any(out.rglob("rollouts*")) and not any(out.rglob("state.safetensors"))
    assert build.run(build.Config(run=str(out))) == out / "report.html"
    for name, (run, config) in tiny_stages(out).items():         # its stages are finished, and know
        if (out / name).is_dir():                                # their parents by the old weights
            assert run(config) == read_json(ladder / name / "result.json")
    run, config = tiny_stages(out)["sft"]              # and so does what starts from the new ones
    new = replace(config, out=str(tmp_path / "new"))
    assert run(new) == run(new)
    build.run(build.Config(run=str(ladder), ship=str(out)))
    again = build.run(build.Config(run=str(out), ship=str(tmp_path / "again")))
    assert checkpoint.read_tensors(again / "sft/model.safetensors")[1]["rounded_from"] == (
        checkpoint.weights_hash(ladder / "sft"))
    damage = out / "sft" / "rows.jsonl"
    damage.write_text(damage.read_text().replace("0.", "1.", 1))
    with pytest.raises(UserError, match="is not what its stage wrote"):
        checkpoint.load(out / "sft")
    with pytest.raises(UserError, match="is there and no copy made by --ship"):
        build.run(build.Config(run=str(ladder), ship=str(ladder / "sft")))


@pytest.mark.parametrize("text", ["no marks", END + BEGIN, BEGIN * 2 + END])
@pytest.mark.parametrize("path", [README, RESULTS])
def test_files_without_their_marks_are_left_alone(three, path, text):
    path.write_text(text)
    before = README.read_text(), RESULTS.read_text()
    with pytest.raises(UserError, match=f"{path}: needs .*results:begin"):
        build.run(build.Config(runs=RUNS, readme="README.md"))
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: no such file"):
        build.run(build.Config(readme="README.md"))
    assert not Path("docs/figures").exists()
    path.write_text(text)
    assert before == (README.read_text(), RESULTS.read_text())


def test_studies_are_what_their_folders_hold(three, undrawn):
    """Tables as they are, pictures copied; a block without a study stays as it is."""
    build.run(build.Config(runs=RUNS))
    beside = Path("data/reference")
    for name, content in (("ablations/star.md", "| star |\n"), ("ablations/star.png", "P"),
                          ("ablations/star.json", "{}"), ("scale/rl-b.png", "B"),
                          ("scale/rl.png", "A"), ("scale/rl.md", "| scale |\n")):
        (beside / name).parent.mkdir(exist_ok=True)
        (beside / name).write_text(content)
    marks = "<!-- studies:begin -->\nold\n<!-- studies:end -->\n"
    kept = "<!-- addition:begin -->\nkept\n<!-- addition:end -->\n"
    law = "<!-- law-rl:begin -->\nold\n<!-- law-rl:end -->\n"
    RESULTS.write_text(f"{BEGIN}\n{END}\n{law}{marks}{kept}")
    build.run(build.Config(readme="README.md"))
    text = RESULTS.read_text()
    images = {name: f'<img src="figures/{name}.png" alt="{name.replace("-", ": ", 1)}" '
                    'width="49%">' for name in ("ablations-star", "scale-rl", "scale-rl-b")}
    assert (f"<!-- law-rl:begin -->\n| scale |\n\n{images['scale-rl']}\n{images['scale-rl-b']}\n"
            "<!-- law-rl:end -->\n<!-- studies:begin -->\n| star |\n\n"
            f"{images['ablations-star']}\n<!-- studies:end -->\n{kept}") in text
    assert Path("docs/figures/scale-rl-b.png").read_text() == "B"
    (beside / "scale/search.md").write_text("| search |\n")         # no place for it
    with pytest.raises(UserError, match="needs the lines <!-- law-search:begin"):
        build.run(build.Config(readme="README.md"))
    (beside / "scale/search.md").unlink()
    (beside / "reproduce/seed-0").mkdir(parents=True)
    (beside / "reproduce/seed-0/table.md").write_text("| sums |\n")
    build.run(build.Config(readme="README.md"))
    assert "<!-- addition:begin -->\n| sums |\n<!-- addition:end -->" in (
        RESULTS.read_text())
