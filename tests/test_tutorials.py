"""Every tutorial runs in its tiny form and says what it teaches."""

import runpy
import shutil
from pathlib import Path

import matplotlib
import pytest
import torch

from minireason.core.files import write_manifest
from minireason.model import checkpoint
from minireason.stages import rl

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
KEY_LINES = {   # tutorial: what it must print
    "01_problem_and_verifier": ("tricks that win: naive grader 8 of 10, verifier 0 of 10",
                                "falsely: 0.0% [0.0, ", "share 0 keys", "split by key:    0.0%"),
    "02_transformer_by_hand": ("masked:   outputs that moved: [8]", "counted 52,912, model 52,912",
                               "loss by hand", "naive 1260, cached 51"),
    "03_pretraining": ("validation loss", "width 32: a = ", "straight line"),
    "04_chain_of_thought": ("level 8: direct ", "p^k", "level 8, SFT, here: "),
    "05_star": ("by hand the same", "kept with a wrong step: ", "round 2: kept "),
    "06_reinforcement_learning": ("gradient of a silent group: ", "no gradient for rho from 1.28",
                                  "after 2 updates ", "the run, greedy, step"),
    "07_votes_and_critics": ("all 28 subsets 0.4643, library 0.4643", "AUC by last: ", "checked",
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
}

NEED_A_RUN = [name for name in KEY_LINES if name >= "04" and name[:2] != "10"]


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


@pytest.mark.parametrize("name", KEY_LINES)
def test_tutorial_runs_and_says_what_it_teaches(name, finished_run, tmp_path, monkeypatch, capsys):
    run_tutorial(name, finished_run, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    for line in KEY_LINES[name]:
        assert line in out, f"{name} does not print {line!r}"
    figures = list((tmp_path / "tutorial_figures").glob("*.png"))
    assert [path.stem[:2] for path in figures] == [name[:2]]
    assert figures[0].stat().st_size > 5000


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
    run_tutorial(name, run, tmp_path, monkeypatch)
    assert "figure: " in capsys.readouterr().out


@pytest.mark.parametrize("name", NEED_A_RUN)
def test_without_a_run_a_tutorial_says_what_to_do(name, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        run_tutorial(name, tmp_path / "nowhere", tmp_path, monkeypatch)
    message = str(stop.value.code)
    assert "run `minireason run` first" in message and "nowhere" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", KEY_LINES)
def test_tutorials_are_notebooks(name):
    """Percent format: prose in markdown cells, no output cell, questions at the end."""
    text = (TUTORIALS / f"{name}.py").read_text()
    assert text.startswith(f"# %% [markdown]\n# # {int(name[:2])}. ")
    last = text.split("# %% [markdown]")[-1]
    assert "# ## Try it" in text and "# 2. " in last
    assert 'os.environ.get("MINIREASON_TUTORIAL_SMALL")' in text
