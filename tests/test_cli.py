"""Bad input gives one clear line and a non-zero exit code, and nothing is lost (issue 2, H)."""

import importlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kill_run import differences
from tiny_run import flags, tiny_stages

from minireason import __version__, cli, evalset, pipeline
from minireason.cli import commands, main
from minireason.core.files import check_manifest, write_manifest
from minireason.core.locks import unlock_folder
from minireason.presets import FAMILY_SIZES, SIZES, settings_of
from minireason.problems import FAMILIES, check_config
from minireason.stages import STAGES
from minireason.training import optim

TINY = ["--steps", "3", "--rows-per-step", "8", "--d-model", "16", "--n-layers", "1",
        "--n-heads", "1", "--head-dim", "16", "--d-ff", "16", "--eval-n", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny pretrained folder."""
    out = tmp_path_factory.mktemp("cli") / "pretrain"
    assert main(["pretrain", "--out", str(out), *TINY]) == 0
    return out


def one_error_line(capsys, *arguments: object) -> str:
    """Run a command that must fail; returns its one line of stderr that says why."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and "Traceback" not in lines[0]
    return lines[0]


def test_every_command_has_help():
    for command in commands():
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0


WRONG = {         # command line: what its one error line names; @ is the finished ladder, # a size
    "sft --family foo --init @/pretrain": "--family foo",
    "critic --family foo --init @/sft": "--family foo",
    "rl --family foo --init @/sft": "--family foo",
    "testtime --family foo --policy @/sft --critic @/critic": "--family foo",
    "bench --shape.family foo": "--family foo",
    "bench --threads 9999999": "--threads 9999999: this machine has",
    "reproduce --examples 1000000000": "--examples 1000000000: must be",
    "sft --init @/pretrain --max-level 5 --min-level 6": "--min-level 6: is above --max-level 5",
    "star --init @/sft --base @/pretrain --max-level 100": "--max-level 100: chain has levels",
    "sft --init @/pretrain --family countdown": "--min-level 1: countdown has levels 2 to 6",
    "sft --init @/pretrain --max-level 16": "longer than the model's max_len",
    "rl --init @/sft --max-level 8": "longer than the model's max_len",
    "star --init @/sft --base @/pretrain --max-level 8": "longer than the model's max_len",
    "critic --init @/sft --max-level 8": "longer than the model's max_len",
    "sft --init @/pretrain --lr 2": "--lr 2.0: must be",
    "sft --init @/pretrain --traces 100000000": "--traces 100000000: must be",
    "rl --init @/sft --temperature 1e-30 --max-level 2": "--temperature 1e-30: must be",
    "sft --init @/pretrain --hinted 1.5": "--hinted 1.5",
    "sft --init @/pretrain --replay 2": "--replay 2",
    "sft --init @/pretrain --out=": "--out: is empty",
    "sft --init=": "--init: is empty",
    "sft --init @": "model.safetensors: no such file",
    "sft --init @/critic": "holds a critic",
    "sft --init @/sft/config.json": "no such file",
    "sft --init nnn": "nnn",
    "sft --init @/pretrain --out file/x": "file/x: cannot write",
    "sft --init @/pretrain --out nnn": "cannot write (File name too long)",
    "internalize --arm half --out o": "--arm half",
    "internalize --steps 10 --out o": "--steps 10: ",
    "internalize --arm auxiliary --out o": "--family chain: has no running sums",
    "pretrain # --out dangling": "dangling: cannot write",
    "pretrain # --out loop/x": "loop/x: cannot write",
    "pretrain # --max-len 8": "max_len 8",
    "pretrain # --head-dim 3": "head_dim even",
    "pretrain # --mixture.facts 2": "2.0 of facts",
    "pretrain # --mixture.facts nan": "--mixture.facts nan",
    "pretrain # --mixture.facts .8 --mixture.direct .3": "more than all lines",
    "pretrain # --mixture.min-level 9": "--mixture.min-level 9: is above",
    "pretrain # --mixture.facts-per-line 0": "--mixture.facts-per-line 0",
    "pretrain # --device mps": "--device mps",
    "pretrain # --device meta": "--device meta",
    "pretrain # --device cpu:7": "--device cpu:7",
    "pretrain # --device=": "--device: is empty",
    "pretrain # --stéps 3": "--stéps",
    "pretrain # --seed -1": "--seed -1",
    "run --size smoke --seed -1": "--seed -1",
    "run --size smoke --device mps": "--device mps",
    "run --size=": "--size: is empty",
    "run --size": "--size",
    "run smoke": "smoke",
    "rl --init @/sft --eval-levels 13": "--eval-levels 13",
    "testtime --policy @/sft --critic @/critic --levels 13": "--levels 13",
    "testtime --policy @/critic --critic @/critic": "holds a critic",
    "chat --run @/critic/config.json": "neither a run folder",
    "chat --run @ --checkpoint @": "tokenizer.json",
    "chat --run @ --n 0": "--n 0",
    "chat --run @ --device mps": "--device mps",
    "eval --checkpoint @ --problems chain-test-k1": "tokenizer.json",
    "eval --checkpoint @/sft --problems chain-test-k99": "chain-test-k99",
    "eval --checkpoint @/sft --problems .": "Is a directory",
    "eval --checkpoint @/sft --problems nnn": "too long",
    "eval --checkpoint @/sft --problems chain-test-k1 --style foo": "--style foo",
    "eval --checkpoint @/sft --problems chain-test-k1 --limit -1": "--limit -1",
    "eval --checkpoint @/sft --problems chain-test-k1 --n 100000000000000 --temperature 1":
        "--n 100000000000000: must be a whole number from 1 to 10000000",
    "eval --checkpoint @/sft --problems chain-test-k1 --n 9999999 --temperature 1": "lower --n",
    "eval --checkpoint @/sft --problems chain-test-k1 --temperature 1e-300": "--temperature 1e-300",
    "eval --checkpoint @/sft --problems chain-test-k1 --out file/x": "file: cannot write",
    "eval --checkpoint @/sft --problems chain-test-k1 --out file": "no result of eval",
    "eval --checkpoint @/sft --problems chain-test-k1 --out @/sft/result.json": "no result of eval",
    "eval --checkpoint @/sft --problems chain-test-k1 --out @/sft/manifest.json": "no result of",
    "eval --checkpoint @/sft --problems chain-test-k1 --out folder": "not a plain file",
    "eval --checkpoint @/sft --problems chain-test-k1 --out dangling": "not a plain file",
    "eval --checkpoint @/sft --problems chain-test-k1 --out nnn": "too long",
    "report --run @/sft": "no finished pretrain stage",
    "report --run nnn": "nnn",
    "report --readme folder --reference folder": "folder",
    "export --checkpoint @/sft --out file/x": "file/x",
    "export --checkpoint @/critic --out o": "holds a critic",
    "import --source @/sft --out o": "config.json",
    "import --source file --out o": "no such folder",
    "ablate --runs= --out o": "--runs: is empty",
    "ablate --runs folder --out o": "folder",
    "scale --from file": "file/result.json",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_one_error_line_and_leaves_no_file(line, capsys, tmp_path, ladder,
                                                                  monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("mine")
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    arguments = []
    for word in line.split():
        word = word.replace("nnn", "n" * 300).replace("@", str(ladder))
        arguments += TINY if word == "#" else [word]
    if "--device" not in line and arguments[0] in [stage.name for stage in STAGES]:
        arguments += ["--device", "cpu"]
    capsys.readouterr()
    assert main(arguments) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if "error:" in text]
    assert len(errors) == 1 and WRONG[line] in errors[0]
    assert {path.name for path in tmp_path.rglob("*") if not path.is_dir()} == {
        "file", "dangling", "loop"}
    assert Path("file").read_text() == "mine"
    check_manifest(ladder / "sft")


def test_unknown_command_and_flag(capsys):
    assert "pretrian" in one_error_line(capsys, "pretrian")
    assert "--stpes" in one_error_line(capsys, "pretrain", "--stpes", 3)
    assert "--size huge" in one_error_line(capsys, "run", "--size", "huge")


def test_version_and_flags_given_twice(capsys, tmp_path):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"minireason {__version__}\n"
    line = ["--steps", "2", "--seed", "7", "--steps", "1"]               # the last one holds
    assert main(["pretrain", "--out", str(tmp_path / "o"), *TINY, *line]) == 0
    assert len((tmp_path / "o" / "metrics.jsonl").read_text().splitlines()) == 1
    for line in (["ablate", "--runs", "a", "--stage", "star", "--runs", "b"],
                 ["testtime", "--policy", "a", "--levels", "6", "--levels=7"],
                 ["controls", "--run", "a", "--runs", "b"],
                 ["rl", "--init", "a", "--eval_levels", "2", "--eval-levels", "3"],
                 ["countdown", "--seeds", "1", "--seeds", "2", "3"]):      # but a list has all
        assert "given 2 times; give all its values after one" in one_error_line(capsys, *line)


@pytest.mark.parametrize("line", [
    ["testtime", "--policy", "{}/star"], ["rl", "--init", "{}/star"],
    ["testtime", "--policy", "{}/star", "--critic", "{}/critic"]])
def test_a_parent_of_a_family_with_other_tokens_is_refused(capsys, tmp_path, ladder, line):
    """Of one with the same tokens, which a policy may go on with, it is said."""
    last = line[-1].format(tmp_path)
    shutil.copytree(ladder / "star", tmp_path / "star")
    shutil.copytree(ladder / "critic", tmp_path / "critic")
    for stage in ("star", "critic"):            # of the parents the last one is of another family
        config = (tmp_path / stage / "config.json").read_text()
        if str(tmp_path / stage) != last:
            config = config.replace('"chain"', '"maze"')
        (tmp_path / stage / "config.json").write_text(config)
        write_manifest(tmp_path / stage, "result.json",
                       (tmp_path / stage / "result.json").read_text())
    words = [word.format(tmp_path) for word in line]
    levels = ["--min-level", 4, "--max-level", 5] if line[0] == "rl" else ["--levels", 4]
    said = one_error_line(capsys, *words, *levels, "--family", "maze", "--out", tmp_path / "out")
    assert f"{last} was trained on chain, whose tokens are others; give --family chain" in said
    assert not (tmp_path / "out").exists()


def test_a_parent_of_a_family_with_the_same_tokens_is_named(capsys, tmp_path, ladder):
    assert main(["rl", "--init", str(ladder / "star"), "--family", "countdown", "--out",
                 str(tmp_path / "out"), "--min-level", "3", "--max-level", "3"]) == 2
    said = capsys.readouterr().err
    assert "star was trained on chain, and this is countdown" in said
    assert "longer than the model's max_len" in said                      # which alone stops it


@pytest.mark.parametrize(("fault", "said"), [
    (MemoryError(), "out of memory"), (RuntimeError("CUDA out of memory. Tried 9 GiB"), "9 GiB"),
    (RuntimeError("can't allocate memory: 8 bytes"), "8 bytes"),
    (OSError(5, "Input/output error", "a/b"), "'a/b'"),
    (OSError(28, "no space"), "standard output: no space")])
def test_what_the_machine_refuses_is_one_line(capsys, monkeypatch, fault, said):
    def fail(config):
        raise fault

    monkeypatch.setattr(cli, "check_config", fail)
    assert said in one_error_line(capsys, "chat")


def test_the_end_of_the_terminal_itself_is_no_error(monkeypatch):
    """SIGHUP comes when nobody can read the line that says so."""
    def hang_up(config):
        monkeypatch.setattr(sys, "stderr", open("/dev/full", "w", buffering=1))
        raise KeyboardInterrupt(1)

    monkeypatch.setattr(cli, "check_config", hang_up)
    assert main(["chat"]) == 129


@pytest.mark.parametrize(("command", "again"), [
    ("run", True), ("obedience --runs x", True), ("eval --checkpoint x --problems y", False),
    ("chat", False)])
def test_an_interrupted_command_says_whether_it_resumes(command, again, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    real = cli.read_command
    monkeypatch.setattr(cli, "read_command", lambda words: (interrupt, real(words)[1]))
    assert main(command.split()) == 130
    assert ("run the same command again to resume" in capsys.readouterr().err) == again


@pytest.mark.parametrize("bug", [KeyError("foo"), RuntimeError("no"), ZeroDivisionError()])
def test_a_bug_is_not_hidden_from_tests(monkeypatch, bug):
    def fail(config):
        raise bug

    monkeypatch.setattr(cli, "check_config", fail)
    with pytest.raises(type(bug)):
        main(["chat"])


def test_a_folder_without_results_takes_other_flags(tmp_path, ladder, capsys):
    line = ["sft", "--init", ladder / "pretrain", "--out", tmp_path / "o", "--steps", 1,
            "--rows-per-step", 8, "--eval-n", 2, "--device", "cpu"]
    assert "max_len" in one_error_line(capsys, *line, "--max-level", 16)
    assert not (tmp_path / "o").exists()
    assert main([*map(str, line), "--max-level", "1"]) == 0
    assert (tmp_path / "o" / "result.json").exists()


def test_an_evaluation_is_written_though_nobody_reads_the_table(tmp_path, ladder, monkeypatch,
                                                                 capsys):
    line = ["eval", "--checkpoint", str(ladder / "sft"), "--problems", "chain-test-k1", "--limit",
            "2", "--device", "cpu", "--out", str(tmp_path / "e.json")]

    def refuse(*values):
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr(evalset, "accuracy_table", refuse)
        with pytest.raises(BrokenPipeError):
            main(line)
    assert "groups" in json.loads((tmp_path / "e.json").read_text())
    monkeypatch.setattr(os, "replace", refuse)           # and shown though it cannot be written
    capsys.readouterr()
    assert main(line) == 2
    captured = capsys.readouterr()
    assert "n = 2" in captured.out and "e.json: cannot write" in captured.err


def test_wrong_type_names_the_flag(capsys):
    assert "--steps" in one_error_line(capsys, "pretrain", "--steps", "many")


def test_missing_parent(capsys, tmp_path):
    line = one_error_line(capsys, "sft", "--init", tmp_path / "nothing", "--out", tmp_path / "o")
    assert "nothing" in line and not (tmp_path / "o").exists()


@pytest.mark.parametrize(("stage", "parent"), [
    ("star", "init"), ("star", "base"), ("critic", "init"), ("testtime", "policy"),
    ("testtime", "critic")])
def test_each_parent_is_looked_at_before_anything_is_written(capsys, tmp_path, ladder, stage,
                                                             parent):
    _, config = tiny_stages(ladder)[stage]
    changes = {parent: str(tmp_path / "nothing"), "out": str(tmp_path / "o")}
    assert "nothing" in one_error_line(capsys, stage, *flags(config, **changes))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("command", "flag"), [
    ("chat", "run"), ("eval", "checkpoint"), ("report", "run"), ("export", "checkpoint")])
def test_each_reader_names_a_missing_folder(capsys, tmp_path, command, flag):
    more = {"eval": ["--problems", "chain-test-k1"], "export": ["--out", tmp_path / "o"]}
    line = one_error_line(capsys, command, f"--{flag}", tmp_path / "nothing",
                          *more.get(command, []))
    assert "nothing" in line and not (tmp_path / "o").exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "pickle"])
def test_damaged_parent(capsys, tmp_path, base, damage):
    parent = tmp_path / "parent"
    shutil.copytree(base, parent)
    weights = parent / "model.safetensors"
    data = bytearray(weights.read_bytes())
    canary = tmp_path / "executed"
    if damage == "truncate":
        data = data[:-100]
    elif damage == "flip":
        data[-50] ^= 1
    else:
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(canary),)
        data = pickle.dumps(Evil())
    weights.write_bytes(data)
    line = one_error_line(capsys, "sft", "--init", parent, "--out", tmp_path / "o")
    assert "model.safetensors" in line
    assert not canary.exists(), "a pickle was executed"


def test_damaged_files_beside_the_weights(capsys, tmp_path, ladder):
    """Tokenizer, base's config, and the folder's own config, result and saved state."""
    shutil.copytree(ladder, tmp_path / "copy")
    root = tmp_path / "copy"
    (root / "sft" / "tokenizer.json").write_text("{")
    _, config = tiny_stages(root)["star"]
    assert "sft/tokenizer.json" in one_error_line(
        capsys, "star", *flags(config, out=str(tmp_path / "o")))
    shutil.copy(ladder / "sft" / "tokenizer.json", root / "sft")
    (root / "pretrain" / "config.json").write_text("[1")
    assert "pretrain/config.json" in one_error_line(
        capsys, "star", *flags(config, out=str(tmp_path / "o")))
    _, config = tiny_stages(ladder)["critic"]
    again = ["critic", *flags(config, out=str(root / "critic"))]
    for name in ("result.json", "rollouts.json", "config.json"):
        if name != "result.json":                  # which vouches for the others
            (root / "critic" / "result.json").unlink(missing_ok=True)
        (root / "critic" / name).write_text("{")
        assert f"critic/{name}" in one_error_line(capsys, *again)
    shutil.rmtree(root / "critic")
    (root / "critic").mkdir()
    (root / "critic" / "state.safetensors").write_bytes(b"x" * 500)
    assert "state.safetensors" in one_error_line(capsys, *again)


def test_output_folder_of_another_config(capsys, base):
    before = (base / "model.safetensors").read_bytes()
    line = one_error_line(capsys, "pretrain", "--out", base, *TINY, "--seed", 5)
    assert "seed: 0 there, 5 now" in line
    assert (base / "model.safetensors").read_bytes() == before


def test_output_path_is_a_file(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file" in one_error_line(capsys, "pretrain", "--out", tmp_path / "file", *TINY)
    assert (tmp_path / "file").read_text() == "mine"


def test_nan_loss_stops_and_keeps_the_saved_state(capsys, tmp_path, monkeypatch):
    real, calls = optim.nll, []

    def poisoned(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr(optim, "nll", poisoned)
    line = one_error_line(capsys, "pretrain", "--out", tmp_path / "o", *TINY, "--save-every", 1,
                          "--token-budget", 100000)
    assert "nan" in line
    assert (tmp_path / "o" / "state.safetensors").exists()
    assert not (tmp_path / "o" / "result.json").exists()
    monkeypatch.setattr(optim, "nll", real)
    assert main(["pretrain", "--out", str(tmp_path / "o"), *TINY, "--save-every", "1",
                 "--token-budget", "100000"]) == 0


def test_unreadable_expression(capsys, base, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("2+x\n"))
    with pytest.raises(SystemExit) as stop:
        main(["chat", "--run", str(base)])
    assert stop.value.code == 2 and "'2+x'" in capsys.readouterr().err


def test_broken_line_of_a_problem_file(capsys, tmp_path, base):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "(2+3)="}) + "\n{broken\n")
    line = one_error_line(capsys, "eval", "--checkpoint", base, "--problems", path)
    assert "line 2" in line
    path.write_text(json.dumps({"prompt": "(2+3)="}) + "\n\n" + json.dumps({"prompt": "2^3"}))
    assert "line 3" in one_error_line(capsys, "eval", "--checkpoint", base, "--problems", path)


@pytest.fixture
def disk(tmp_path):
    """A tmpfs of 64 kB that a test may enlarge; skipped where this is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("NOT CHECKED: mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]).returncode:
        pytest.skip("NOT CHECKED: this machine does not allow mounting a tmpfs")
    yield folder
    unlock_folder(folder / "o")
    subprocess.run(["umount", str(folder)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_full_disk(capsys, disk):
    line = one_error_line(capsys, "pretrain", "--out", disk / "o", *TINY,
                          "--d-model", 64, "--save-every", 1)
    assert "disk" in line and "space" in line
    left = {path.name for path in (disk / "o").iterdir()}
    assert "result.json" not in left and "model.safetensors" not in left
    assert not any(name.endswith(".tmp") for name in left), "a half-written file was left"
    resize(disk, "64m")
    assert main(["pretrain", "--out", str(disk / "o"), *TINY, "--d-model", "64",
                 "--save-every", "1"]) == 0


@pytest.mark.parametrize("stage", ["star", "critic", "testtime"])
def test_disk_full_at_one_write_after_the_other(capsys, disk, ladder, stage):
    """The disk grows page by page, so rationales, rollouts, shards, states, results all fail once.

    In the end the folder is that of a run on an empty disk.
    """
    _, config = tiny_stages(ladder)[stage]
    failed, pages = 0, 1
    while True:
        resize(disk, f"{4 * pages}k")
        capsys.readouterr()
        code = main([stage, *flags(config, out=str(disk / "o"))])
        if code == 0:
            break
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1 and "cannot write" in lines[0] and "free some space" in lines[0]
        assert not list((disk / "o").rglob(".*.tmp")), "a half-written file was left"
        failed, pages = failed + 1, max(pages + 1, round(1.25 * pages))
    assert failed >= 3
    assert differences(ladder / stage, disk / "o") == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_presets_build_their_configs(size, family):
    plan = pipeline.plan_of(pipeline.Config(size=size, family=family))
    assert [name for name, _ in plan] == [stage.name for stage in STAGES if stage.in_run]
    for _, run_stage in plan:
        check_config(*run_stage.args)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_presets_of_stages_that_run_by_themselves_build_their_configs(size, family):
    for stage in STAGES:
        if settings := settings_of(family, size, stage.name):
            module = importlib.import_module(stage.module)
            own = {"family": family, **dict.fromkeys(stage.parents, "x"), **stage.settings}
            check_config(module.Config(**own, **settings))


def test_presets_name_stages_that_are_there():
    known = {stage.name for stage in STAGES}
    for sizes in (SIZES, *FAMILY_SIZES.values()):
        assert set(sizes) <= set(SIZES)
        for size in sizes:
            assert set(sizes[size]) <= known
