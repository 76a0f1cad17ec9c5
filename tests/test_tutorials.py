"""Every tutorial runs in its tiny form, as a script and as a notebook, and says what it teaches."""

import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from compilers import need_host_compiler
from jupyter_client.manager import KernelManager
from matplotlib.figure import Figure

from minireason.core.files import write_manifest
from minireason.critics.value_head import Critic
from minireason.model import checkpoint
from minireason.model.transformer import Transformer
from minireason.stages import rl

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
sys.path.append(str(TUTORIALS))
import notebooks  # noqa: E402
import tutorial_tools  # noqa: E402

KEY_LINES = {   # tutorial: what it must print
    "01_problem_and_verifier": ("tricks that win: naive grader 8 of 10, verifier 0 of 10",
                                "falsely: 0.0% [0.0, ", "share 0 keys", "split by key:    0.0%"),
    "02_transformer_by_hand": ("masked:   outputs that moved: [8]", "counted 52,912, model 52,912",
                               "loss by hand", "without RoPE", "trained weights: largest"),
    "03_pretraining": ("validation loss", "width 32: a = ", "straight line"),
    "04_chain_of_thought": ("level 8: direct ", "p^k", "level 8, SFT, here: "),
    "05_star": ("by hand the same", "kept with a wrong step: ", "round 2: kept "),
    "06_reinforcement_learning": ("dJ/dz: by autograd", "baseline the best", "k3 0.1",
                                  "least variance: by hand", "gradient of a silent group: ",
                                  "no gradient for rho from 1.28", "after 2 updates ",
                                  "the run, greedy, step"),
    "07_votes_and_critics": ("all 28 subsets 0.4643, library 0.4643", "AUC by last: ", "checked",
                             "Monte Carlo       steps: AUC", "expected calibration error",
                             "coverage (oracle bound) - critic best-of-N"),
    "08_search_and_flywheel": ("charged ", "tree - best-of-N: ", "filter critic "),
    "09_quiet_thoughts": ("flat against shared: ", "thought with a wrong step, nats: ",
                          "silent groups, ", "own thoughts - base, thinking aloud: ",
                          "own thoughts - no thoughts, at once: "),
    "10_thoughts_that_disappear": ("fewer than 5 bits: 0.0", "after </think>, swapped: ",
                                   "without the swap: ", "internalized - direct: "),
    "11_when_to_think": ("p = 0.988: slope ", "level 2, examples with a thought: ",
                         "break-even price by level: ", "share that thinks, ",
                         "closed at 12 tokens: ", "exit at 0.9: ",
                         "choosing - a coin with as many tokens: "),
    "12_sampler_and_cache": ("naive 1420, cached 55", "row 5 together and alone: ",
                             "1, 3 and 512 rows are the same: True", "as reported: "),
    "13_allocating_compute": ("chosen by bin: ", "scored on the other half (%): ",
                              "by hand equal the library's", "until sure: factor"),
    "14_self_correction": ("not counted: 23+4=28", "wrong steps withdrawn: ",
                           "a first wrong step from a right one: AUC", "backtracking - control: "),
    "15_countdown_search": ("one move leads to 19 states", "distance - random at 10 moves: ",
                            "streams that end in a solution: "),
    "16_scaling_laws": ("grows as C^0.452, by hand C^0.452", "unseen points ", "loss by N: "),
    "17_cuda_kernel": ("rescaled ", "T =  64: naive   332,800 numbers read",
                       "tiled: largest score"),
    "18_two_processes_and_export": ("every one sent 1500, by the formula 1500", "rank 1 of 2",
                                    "Qwen3ForCausalLM: largest difference", "same bits: True"),
    "19_programs": ("the same output by hand", "3 shown: of ", "filter, then majority - oracle"),
    "20_planning": ("as short", "every plan is right", "= ln 2", "drop2 - local rule at 10 x 10: "),
    "21_obedience": ("the same verdict by hand", "chains of 4, at most 2 asked: ",
                     "the price of at most 2: "),
    "22_splitting_a_step": ("the same pieces by hand", "hardness 4 (", "hardest bin: at once "),
}

NEED_A_RUN = [name for name in KEY_LINES
              if "RUN = finished(" in (TUTORIALS / f"{name}.py").read_text()]
NEED_A_COMPILER = ("17_cuda_kernel",)
SHORT = ("01_problem_and_verifier", "05_star", "07_votes_and_critics", "14_self_correction")


@pytest.fixture(scope="module")
def finished_run(ladder, tmp_path_factory) -> Path:
    """The tiny ladder with one step of reinforcement learning, as a run folder has it."""
    run = tmp_path_factory.mktemp("tutorials") / "run"
    shutil.copytree(ladder, run)
    shutil.copytree(run / "critic", run / "rl_critic")
    rl.run(rl.Config(init=f"{run}/star", out=f"{run}/rl", device="cpu", steps=1,
                       prompts_per_step=2, group_size=2, max_level=2, eval_every=1,
                       validation_n=4, eval_n=2))
    return run


def run_tutorial(name: str, run: Path, folder: Path, monkeypatch) -> dict:
    """Run the script as `python tutorials/NAME.py` would, in an empty folder."""
    monkeypatch.setenv("MINIREASON_TUTORIAL_SMALL", "1")
    monkeypatch.setenv("MINIREASON_RUN", str(run))
    monkeypatch.syspath_prepend(TUTORIALS)
    monkeypatch.chdir(folder)
    with matplotlib.rc_context():
        return runpy.run_path(str(TUTORIALS / f"{name}.py"), run_name="__main__")


def test_every_tutorial_is_tested():
    assert sorted(KEY_LINES) == sorted(path.stem for path in TUTORIALS.glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel for all notebooks, so that torch is imported once."""
    manager = KernelManager(kernel_name="python3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIREASON_TUTORIAL_SMALL", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TUTORIALS), *sys.path]))
        manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", [
    name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in KEY_LINES])
def test_a_notebook_runs_and_says_what_it_teaches(name, finished_run, tmp_path, kernel):
    """Made from the script and executed in a kernel, its figure inline."""
    if name in NEED_A_COMPILER:
        need_host_compiler()
    notebook = notebooks.notebook_of(TUTORIALS / f"{name}.py")
    here = f"""%reset -f
import os
os.environ["MINIREASON_RUN"] = {str(finished_run)!r}
os.chdir({str(tmp_path)!r})"""
    notebook.cells.insert(0, notebooks.nbformat.v4.new_code_cell(here))
    out = notebooks.execute(notebook, tmp_path, km=kernel)
    for line in KEY_LINES[name]:
        assert line in out, f"{name} does not print {line!r}"
    figures = list((tmp_path / "tutorial_figures").glob("*.png"))
    assert [path.stem[:2] for path in figures] == [name[:2]]
    assert figures[0].stat().st_size > 5000
    shown = [x.data for cell in notebook.cells for x in cell.get("outputs", []) if "data" in x]
    assert ["image/png" in data for data in shown] == [True]


@pytest.mark.parametrize("name", NEED_A_RUN)
def test_a_tutorial_survives_a_policy_that_is_never_right(name, finished_run, tmp_path,
                                                          monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for stage in ("pretrain", "sft", "star", "rl"):
        model, tokenizer = checkpoint.load(run / stage)
        checkpoint.save(run / stage, model.init_weights(torch.Generator().manual_seed(1)),
                        tokenizer)
        write_manifest(run / stage, "result.json", (run / stage / "result.json").read_text())
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    run_tutorial(name, run, tmp_path, monkeypatch)
    assert "figure: " in capsys.readouterr().out


@pytest.mark.parametrize("name", NEED_A_RUN)
def test_without_a_run_a_tutorial_says_what_to_do(name, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        run_tutorial(name, tmp_path / "nowhere", tmp_path, monkeypatch)
    message = str(stop.value.code)
    assert "run `minireason run` first" in message and "nowhere" in message
    assert "\n" not in message


@pytest.mark.parametrize(("damage", "said"), [
    (lambda star: (star / "rows.jsonl").write_text("{}"), "rows.jsonl: is not what its "),
    (lambda star: (star / "manifest.json").write_text("x"), "manifest.json: not valid JSON"),
    (lambda star: (star / "manifest.json").unlink(), "star: lacks manifest.json"),
    (lambda star: edit(star, "chain", "maze"), "is a run of maze, and the tutorials read one of ")])
def test_a_damaged_run_or_one_of_another_family_is_one_line(finished_run, tmp_path, monkeypatch,
                                                            damage, said):
    shutil.copytree(finished_run / "star", tmp_path / "star")
    monkeypatch.setenv("MINIREASON_RUN", str(tmp_path))
    assert tutorial_tools.finished("star") == tmp_path
    damage(tmp_path / "star")
    with pytest.raises(SystemExit, match=said) as stop:
        tutorial_tools.finished("star")
    assert "\n" not in str(stop.value.code)


def edit(stage: Path, old: str, new: str) -> None:
    """Replace in the stage's configuration, which its manifest then names."""
    text = (stage / "config.json").read_text()
    (stage / "config.json").write_text(text.replace(f'"{old}"', f'"{new}"'))
    write_manifest(stage, "result.json", (stage / "result.json").read_text())


def test_the_shipped_run_is_whole(tmp_path, monkeypatch):
    """Every stage's weights and numbers are those of its manifest, which loading checks."""
    monkeypatch.delenv("MINIREASON_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tutorial_tools, "RUNS", tutorial_tools.RUNS[::2])     # not the user's own
    run = tutorial_tools.finished("pretrain", "sft", "star", "critic", "rl", "rl_critic")
    assert run == TUTORIALS.parent / "data" / "quickstart"
    for weights in run.rglob("model.safetensors"):
        critic = "critic" in weights.parent.name or weights.parent.name == "outcome"
        model, _ = checkpoint.load(weights.parent, kind=Critic if critic else Transformer)
        assert sum(p.numel() for p in model.parameters()) >= 456_544
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) < 12e6


@pytest.mark.parametrize("name", KEY_LINES)
def test_a_tutorial_ends_in_its_claim_and_three_exercises(name):
    """An asserted claim, one closing sentence, and exercises with folded hints and answers."""
    text = (TUTORIALS / f"{name}.py").read_text()
    assert text.startswith(f"# %% [markdown]\n# # {int(name[:2])}. ")
    assert 'os.environ.get("MINIREASON_TUTORIAL_SMALL")' in text
    *_, claim, code, last = text.split("# %%")
    assert "# ## The claim" in claim and re.search(r"^\s*assert ", code, re.M), "no claim"
    closing, tried = last.split("# ## Try it")
    prose = " ".join(line.lstrip("# ") for line in closing.splitlines()).strip()
    assert re.search(r"In one sentence: [^.]+\.$", prose), "no closing sentence"
    questions, hints, answers = re.split("<details><summary>(?:Hints|Answers)</summary>", tried)
    for part in (questions, hints, answers):
        numbers = re.findall(r"^# (\d)\. \S", part, re.M)
        assert numbers == ["1", "2", "3"], f"exercises, hints, answers 1 to 3, not {numbers}"


@pytest.mark.parametrize("path", sorted((TUTORIALS / "notebooks").glob("*.ipynb")),
                         ids=lambda path: path.stem)
def test_a_committed_notebook_is_what_its_script_says(path):
    assert notebooks.faults(path) == []


def test_prose_is_renewed_and_other_code_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "HERE", tmp_path)
    (tmp_path / "tutorial_tools.py").write_text("")
    script, path = tmp_path / "30_toy.py", tmp_path / "30_toy.ipynb"
    script.write_text("# %% [markdown]\n# Old.\n\n# %%\nprint(6 * 7)\n")
    done = notebooks.notebook_of(script)
    done.cells[-1].outputs = [notebooks.nbformat.v4.new_output("stream", text="42\n")]
    script.write_text(script.read_text().replace("Old", "New"))
    notebooks.write(done, path)
    assert [fault.split(":")[0] for fault in notebooks.faults(path)] == [
        "its prose is not the script's", "without a figure"]
    renewed = notebooks.with_prose_of(done, notebooks.notebook_of(script))
    assert renewed.cells[2].source == "New." and renewed.cells[-1].outputs[0].text == "42\n"
    notebooks.write(renewed, path)
    assert notebooks.faults(path) == ["without a figure"]
    script.write_text(script.read_text().replace("6", "8"))
    assert "of other code than the script's" in notebooks.faults(path)[0]
    with pytest.raises(ValueError, match="the code has changed"):
        notebooks.with_prose_of(renewed, notebooks.notebook_of(script))


def test_a_colab_link_names_the_repository():
    script = TUTORIALS / "02_transformer_by_hand.py"
    link, setup, *_ = notebooks.notebook_of(script, "me/mine").cells
    assert "google.com/github/me/mine/blob/main/tutorials/notebooks/02_transf" in link.source
    assert '"https://github.com/me/mine"' in setup.source and "%pip install" in setup.source
