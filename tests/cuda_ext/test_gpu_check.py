"""The GPU check runs to its end in its dry form, and its results become tables and a choice."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from cuda_ext import build, gpu_check, table

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None,
                                    reason="NOT CHECKED: the emulator needs g++")


@pytest.mark.parametrize("nested", [False, pytest.param(True, marks=pytest.mark.long)])
@needs_compiler
def test_the_dry_run_passes_every_part_and_its_tables_can_be_written(tmp_path, monkeypatch, nested):
    """The long form starts what it starts: kernel tests and the sanitizers' shapes."""
    out, started = tmp_path / "attention.json", []

    def started_only(command, **_):
        started.append(command[2])
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    if not nested:
        monkeypatch.setattr(gpu_check, "subprocess", SimpleNamespace(
            run=started_only, TimeoutExpired=TimeoutError))
    assert gpu_check.main(["--dry-run", "--out", str(out)]) == 0
    assert nested or sorted(started) == ["cuda_ext.gpu_check", "pytest"]
    results = json.loads(out.read_text())
    assert set(results["seconds"]) == set(gpu_check.parts(torch.device("cpu")))
    assert results["correctness"]["memcheck"]["ok"] and results["correctness"]["tests"]["ok"]
    names = {row["what"] for row in results["kernels"]}
    assert names == {f"{kind}{way}" for kind in ("", "packed ", "region ")
                     for way in ("forward", "backward")} | {"decode"}
    for row in results["kernels"]:
        assert row["ours"]["us"] > 0 and row["best"] and row["ratio"] > 0, row
    page = tmp_path / "docs" / "machines.md"
    for path in (page, tmp_path / "cuda_ext" / "README.md"):
        path.parent.mkdir()
        path.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "cuda_ext")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "RESULTS", out)
    assert table.main() == 0
    text = (tmp_path / "cuda_ext" / "README.md").read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    assert text.count("| forward |") == 1 and "| decode |" in text and "training" in text
    assert "sampling, tokens/s" in page.read_text()
    assert json.loads((tmp_path / "cuda_ext" / "crossover.json").read_text())["measured"]


def test_without_a_gpu_the_check_says_so_and_measures_nothing(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpu_check.main(["--out", str(tmp_path / "out.json")]) == 2
    assert "no GPU is visible" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_committed_tables_are_those_of_the_committed_results(tmp_path, monkeypatch):
    """They may be of an earlier version of the sources, and then say so."""
    copy = tmp_path / "cuda_ext"
    copy.mkdir()
    shutil.copy(build.SOURCES / "README.md", copy)
    (tmp_path / "docs").mkdir()
    shutil.copy(table.ROOT / "docs" / "machines.md", tmp_path / "docs")
    before = {path: path.read_text() for path in tmp_path.rglob("*.md")}
    committed = (build.SOURCES / "crossover.json").read_text()
    monkeypatch.setattr(build, "SOURCES", copy)
    monkeypatch.setattr(table, "ROOT", tmp_path)
    assert table.main() == 0
    assert {path: path.read_text() for path in tmp_path.rglob("*.md")} == before
    assert (copy / "crossover.json").read_text() == committed


def timed(what: str, shape: list[int], ratio: float) -> dict:
    """A row of results in which the best baseline takes 100 us."""
    return {"what": what, "shape": shape, "ours": {"us": 100 / ratio, "spread": 0.01},
            "baselines": {"sdpa cudnn": {"us": 100.0, "spread": 0.01}}, "best": "sdpa cudnn",
            "ratio": ratio}


def both_passes(kind: str, length: int, forward: float, backward: float) -> list[dict]:
    """Rows of a forward and a backward pass with these ratios, head size 64."""
    return [timed(f"{kind} {way}", [1, 1, length, 64], ratio)
            for way, ratio in (("forward", forward), ("backward", backward))]


def test_auto_gets_the_longest_length_up_to_which_both_passes_together_win():
    """At 128 the backward pass alone loses (100 us against 111), at 256 both together do."""
    rows = [row for numbers in ((64, 2, 2), (128, 1.5, 0.9), (256, 1.2, 0.7), (512, 1.3, 1.3))
            for row in both_passes("region", *numbers)]
    rows.append(timed("decode", [16, 16, 128, 64], 1.8))
    results = {"device": "some GPU", "torch": "2.11", "kernels": rows}
    found = table.crossover(results)["longest_row"]
    assert found["self"]["bfloat16"] == {"64": 128} == found["packed"]["float16"]
    assert found["decode"]["bfloat16"] == {"64": 192}
    rows[-1]["ratio"] = 0.9
    assert table.crossover(results)["longest_row"]["decode"] == {}
    rows[1] = {key: rows[1][key] for key in ("what", "shape", "baselines", "best")} | {
        "ours": {"error": "no"}}
    assert table.crossover(results)["longest_row"]["packed"] == {}


@pytest.mark.parametrize(("forward", "step", "longest"), [
    (1.3, 1.6, 256), (1.3, 0.9, 128), (0.7, 1.6, None)])
def test_auto_packs_up_to_the_longest_row_of_a_step_that_won(forward, step, longest):
    """Packed kernels and the training step must win; the step's rows are longer than those."""
    rows = both_passes("packed", 128, forward, 1.0) + both_passes("region", 128, 0.8, 0.8)
    speed = {"kernels": {"tokens_per_second": step, "longest_row": 256, "head_dim": 64},
             "sdpa": {"tokens_per_second": 1.0}}
    results = {"device": "some GPU", "torch": "2.11", "kernels": rows, "training": speed}
    found = table.crossover(results)["longest_row"]
    assert found["packed"].get("bfloat16", {}).get("64") == longest and found["decode"] == {}


def test_the_table_says_whether_its_sources_are_todays():
    results = json.loads(table.RESULTS.read_text())
    old, new = ({**results, "source": source} for source in ("0" * 64, build.source_hash()))
    assert "of an earlier version of the sources (`000000000000`)" in table.where_from(old)
    assert "of today's sources" in table.where_from(new)
    clean = {"correctness": {"ok": True, "tests": {"ok": True}}}
    assert table.correctness(clean) == "Checks on the device: tests clean."


def test_a_ratio_within_the_noise_is_called_even():
    assert table.ratio(timed("forward", [1], 1.02)) == "even"
    assert table.ratio(timed("forward", [1], 1.31)) == "1.31"
    assert table.ratio({"what": "forward", "ours": {"error": "no"}}) == "-"
