"""Every file that the program reads, damaged: it is refused by one line, or nothing has changed.

The long form, over all stages and commands, is `python tests/fault_run.py --faults 10000`.
"""

import contextlib
import dataclasses
import random
import shutil
from pathlib import Path
from unittest import mock

import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import quietly, small_stages, stopped

from minireason.core.errors import UserError
from minireason.core.files import check_manifest, read_checked, read_json
from minireason.model import checkpoint, tensors
from minireason.model.transformer import Transformer
from minireason.problems import frozen
from minireason.problems.corpus import Mixture
from minireason.report.runs import load_stage
from minireason.serve import answers
from minireason.training.optim import make_optimizer

FUZZ = settings(max_examples=40, deadline=None, derandomize=True)
CHANCES = given(st.randoms(use_true_random=False))


@pytest.fixture(scope="module")
def halted(ladder, tmp_path_factory) -> Path:
    """Stages that died half-way: sft behind a saved state, critic and testtime behind shards."""
    base = tmp_path_factory.mktemp("halted")
    for stage, share in (("sft", 0.8), ("critic", 0.6), ("testtime", 0.6)):
        stopped(stage, ladder, base, share)
    return base


def check(folder: Path, name: str, load, chance: random.Random) -> None:
    """load(folder) with a damaged file gives the same value, or a UserError of one line."""
    path = folder / name
    whole, expected = path.read_bytes(), load(folder)
    others = sorted(p for p in folder.iterdir() if p.is_file() and p != path)
    kept = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    other = chance.choice(others).read_bytes() if others else b""
    _, data = damaged(whole, chance, other)
    try:
        path.write_bytes(data)
        try:
            found = quietly(lambda: load(folder))
        except UserError as error:
            assert "\n" not in str(error) and str(folder) in str(error)
        else:
            assert found == expected
    finally:
        for p, content in kept.items():
            p.write_bytes(content)


def loaded(folder: Path) -> tuple:
    model, tokenizer = checkpoint.load(folder)
    return tensors.digest(model.state_dict()), tokenizer.to_json()


@FUZZ
@CHANCES
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_weights_and_tokenizer_without_a_manifest(ladder, tmp_path_factory, name, chance):
    folder = tmp_path_factory.mktemp("bare")
    for kept in ("model.safetensors", "tokenizer.json"):
        shutil.copy(ladder / "sft" / kept, folder)
    check(folder, name, loaded, chance)


def resumed(ladder: Path, folder: Path) -> tuple:
    """What a resumed sft goes on with: the step, the weights, the metrics."""
    cfg = dataclasses.replace(small_stages(ladder)["sft"][1], out=str(folder))
    log, _ = checkpoint.open_stage("sft", cfg, cfg.out, init=cfg.init)
    model: Transformer = checkpoint.load(cfg.init)[0]
    optimizer = make_optimizer(model, cfg.weight_decay)
    step = quietly(lambda: checkpoint.resume(log, model, optimizer))
    moments = {f"{i} {key}": value for i, p in enumerate(model.parameters())
               for key, value in optimizer.state[p].items()}
    return step, tensors.digest(model.state_dict() | moments), log.metrics.read_bytes()


@FUZZ
@CHANCES
@pytest.mark.parametrize("name", ["state.safetensors", "metrics.jsonl", "config.json"])
def test_the_files_of_an_interrupted_stage(ladder, halted, name, chance):
    check(halted / "sft", name, lambda folder: resumed(ladder, folder), chance)


@FUZZ
@CHANCES
@pytest.mark.parametrize("stage, name", [("critic", "rollouts.json"), ("critic", "labels-0.json"),
                                         ("testtime", "samples-chain-test-k1-0.json")])
def test_results_that_are_kept_while_a_stage_is_under_way(ladder, halted, stage, name, chance):
    """Damaged, or another file of the same form put in their place."""
    _, cfg = small_stages(ladder)[stage]
    cfg = dataclasses.replace(cfg, out=str(halted / stage))
    log, _ = checkpoint.open_stage(stage, cfg, cfg.out, **parents_of(cfg))
    check(halted / stage, name, lambda folder: read_checked(folder / name, log.owner(name)),
          chance)


def parents_of(cfg) -> dict[str, str]:
    """{field: folder} of the parents that a small stage records."""
    return {name: getattr(cfg, name) for name in ("init", "policy", "critic")
            if hasattr(cfg, name)}


@FUZZ
@CHANCES
@pytest.mark.parametrize("stage", ["sft", "testtime"])
def test_every_file_of_a_finished_stage(ladder, tmp_path_factory, stage, chance):
    """As the report reads it, as the stage itself finds it, and as a parent."""
    folder = tmp_path_factory.mktemp("finished") / stage
    shutil.copytree(ladder / stage, folder)
    name = chance.choice(sorted(path.name for path in folder.iterdir()))

    def load(folder: Path) -> tuple:
        check_manifest(folder)
        weights = checkpoint.weights_hash(folder) if stage == "sft" else ""
        return load_stage(folder), read_json(folder / "result.json"), weights

    check(folder, name, load, chance)


@FUZZ
@CHANCES
@pytest.mark.parametrize("name", ["chain-test-k1.jsonl", "SHA256SUMS"])
def test_the_frozen_sets(tmp_path_factory, name, chance):
    folder = tmp_path_factory.mktemp("frozen")
    for kept in ("chain-test-k1.jsonl", "chain-test-k2.jsonl", "SHA256SUMS"):
        shutil.copy(frozen.frozen_folder() / kept, folder)
    with mock.patch.object(frozen, "frozen_folder", lambda: folder):
        check(folder, name, lambda _: frozen.load_frozen("chain-test-k1")[:3], chance)


@FUZZ
@CHANCES
def test_problems_of_a_user_are_read_exactly_or_refused(tmp_path_factory, chance):
    """No sha256 vouches for them: whatever is read has its own right answer."""
    lines = [f'{{"prompt": "(({a}+4)*3)=", "answer": "{(a + 4) * 3}"}}' for a in range(3, 9)]
    path = tmp_path_factory.mktemp("user") / "problems.jsonl"
    path.write_bytes(damaged("\n".join(lines).encode(), chance)[1])
    try:
        problems = list(frozen.numbered_problems(path).values())
    except UserError as error:
        assert "\n" not in str(error) and "problems.jsonl" in str(error)
    else:
        for problem in problems:
            assert problem.answer == str(eval(problem.prompt.rstrip("=").replace("/", "//")))


@FUZZ
@CHANCES
def test_the_config_of_a_parent_without_a_manifest(ladder, tmp_path_factory, chance):
    """The mixture and the family are read from it."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_bytes(damaged((ladder / "pretrain" / "config.json").read_bytes(), chance)[1])
    for load in (lambda: Mixture.of(str(path.parent)),
                 lambda: answers.find_family("", path.parent)):
        with contextlib.suppress(UserError):
            load()
