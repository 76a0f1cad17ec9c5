"""A checkpoint is read back exactly or not at all; nothing but safetensors is ever opened."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from minireason.core.errors import UserError
from minireason.core.runlog import RunLog
from minireason.critics.value_head import Critic
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import addition, chain
from minireason.training.batches import pad_right
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, train_step

TOKENIZER = Tokenizer.build(addition.TOKENS)


@dataclass(frozen=True)
class Config:
    out: str = "x"


def small(seed: int = 0, **shape) -> Transformer:
    config = ModelConfig(TOKENIZER.vocab_size, 16, 1, 2, 2, 8, 16, 32, **shape)
    return Transformer(config).init_weights(torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model; tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save(folder, small(), TOKENIZER)
    return folder


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("shape", [{}, {"tied": False}, {"rope_theta": 5e5, "norm_eps": 1e-5}])
def test_round_trip(tmp_path, shape):
    model = small(**shape)
    sha256 = checkpoint.save(tmp_path, model, TOKENIZER)
    loaded, tokenizer = checkpoint.load(tmp_path)
    assert same(model, loaded) and loaded.config == model.config
    assert tokenizer.to_json() == TOKENIZER.to_json()
    assert checkpoint.weights_hash(tmp_path) == sha256
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_loading_does_not_import_the_compiler(folder):
    """Which takes seconds, of every command that reads a checkpoint."""
    code = ("import sys; from minireason.model.checkpoint import load; load(sys.argv[1]); "
            "sys.exit('torch._dynamo' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == 0


def test_the_hash_names_weights_and_shape(tmp_path, folder):
    model = small()
    again = checkpoint.save(tmp_path, model, TOKENIZER)
    assert again == checkpoint.weights_hash(folder)
    with torch.no_grad():
        model.final_norm[3] += 1e-6
    assert checkpoint.save(tmp_path, model, TOKENIZER) != again


def test_a_critic_starts_as_its_policy_with_a_head_of_zeros(tmp_path, folder):
    critic = Critic.from_policy(checkpoint.load(folder)[0])
    assert critic.values(torch.zeros(1, 3, dtype=torch.long)).abs().max() == 0
    with torch.no_grad():
        critic.value.weight.fill_(0.5)
    checkpoint.save(tmp_path, critic, TOKENIZER)
    assert same(checkpoint.load(tmp_path, kind=Critic)[0], critic)
    with pytest.raises(UserError, match="holds a policy; give the folder of a critic"):
        checkpoint.load(folder, kind=Critic)
    with pytest.raises(UserError, match="holds a critic; give the folder of a policy"):
        checkpoint.load(tmp_path)


def size_of(folder) -> int:
    return (folder / "model.safetensors").stat().st_size


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_flipped_bit_is_found(folder, tmp_path_factory, data):
    """Header and weights alike: there is no bit whose change goes unnoticed."""
    at = data.draw(st.integers(0, 8 * size_of(folder) - 1) | st.integers(0, 8 * 1200))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[at // 8] ^= 1 << at % 8
    path = tmp_path_factory.mktemp("flip") / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: "):
        checkpoint.read_tensors(path)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_truncation_is_found(folder, tmp_path_factory, data):
    keep = data.draw(st.integers(0, size_of(folder) - 1))
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes((folder / "model.safetensors").read_bytes()[:keep])
    with pytest.raises(UserError, match="truncated or of another format"):
        checkpoint.read_tensors(path)


def test_a_pickle_is_never_loaded(tmp_path, folder):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    for write in (lambda p: p.write_bytes(pickle.dumps(Evil())), lambda p: torch.save(Evil(), p)):
        target = tmp_path / "copy"
        shutil.copytree(folder, target, dirs_exist_ok=True)
        write(target / "model.safetensors")
        with pytest.raises(UserError, match="another format"):
            checkpoint.load(target)
    assert not (tmp_path / "executed").exists()


def test_what_is_missing_or_does_not_fit_is_named(tmp_path, folder):
    with pytest.raises(UserError, match="no such folder"):
        checkpoint.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        checkpoint.load(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        checkpoint.load(tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").write_text(Tokenizer.build(chain.TOKENS).to_json())
    shutil.copy(folder / "model.safetensors", tmp_path / "copy")
    with pytest.raises(UserError, match=r"tokenizer\.json: is not the one"):
        checkpoint.load(tmp_path / "copy")


def test_weights_of_another_shape_or_without_config_are_refused(tmp_path):
    checkpoint.save(tmp_path, small(), TOKENIZER)
    path = tmp_path / "model.safetensors"
    tensors, metadata, _ = checkpoint.read_tensors(path)
    checkpoint.write_tensors(path, tensors)
    with pytest.raises(UserError, match="no model config"):
        checkpoint.load(tmp_path)
    metadata["model"]["n_layers"] = 2
    checkpoint.write_tensors(path, tensors, **metadata)
    with pytest.raises(UserError, match="do not fit its model config"):
        checkpoint.load(tmp_path)


def steps(model, optimizer, start: int, stop: int) -> list[float]:
    """Training on random rows that depend on the step alone."""
    found = []
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        rows = [(torch.randint(20, (6,), generator=generator).tolist(), 1) for _ in range(3)]
        loss, _ = train_step(model, optimizer, [pad_right(rows, 0)],
                             lambda b: nll(model(b.inputs), b.targets, b.loss_mask, 15), 0.01)
        found.append(loss)
    return found


@pytest.mark.parametrize("muon", [False, True])
def test_resume_goes_on_bit_identically(tmp_path, muon):
    whole = small()
    optimizer = make_optimizer(whole, 0.1, muon=muon)
    expected = steps(whole, optimizer, 0, 6)

    log = RunLog(str(tmp_path / "run"), "pretrain", Config(), {})
    first = small()
    optimizer = make_optimizer(first, 0.1, muon=muon)
    assert checkpoint.resume(log, first, optimizer) == 0
    steps(first, optimizer, 0, 3)
    log.record(0, loss=1.0)
    checkpoint.save_state(log, 3, first, optimizer)
    kept = log.metrics.read_bytes()
    log.record(1, loss=2.0)                                  # written after the saved state

    second = small(seed=9)
    optimizer = make_optimizer(second, 0.1, muon=muon)
    assert checkpoint.resume(log, second, optimizer) == 3
    assert log.metrics.read_bytes() == kept
    assert steps(second, optimizer, 3, 6) == expected[3:]
    assert same(whole, second)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["stage"] == "pretrain"


def test_resume_without_a_state_starts_with_empty_metrics(tmp_path):
    log = RunLog(str(tmp_path / "run"), "pretrain", Config(), {})
    log.record(0, loss=1.0)
    model = small()
    assert checkpoint.resume(log, model, make_optimizer(model, 0.1)) == 0
    assert log.metrics.read_bytes() == b""


def test_the_state_of_another_run_is_refused(tmp_path):
    """Even one whose metrics begin with the same bytes."""
    for name, stage in (("one", "sft"), ("other", "star")):
        log = RunLog(str(tmp_path / name), stage, Config(), {})
        model = small()
        optimizer = make_optimizer(model, 0.1)
        steps(model, optimizer, 0, 1)
        log.record(0, loss=1.0)
        checkpoint.save_state(log, 1, model, optimizer)
    path = tmp_path / "one" / "state.safetensors"
    path.rename(tmp_path / "other" / "state.safetensors")
    with pytest.raises(UserError, match=r"state\.safetensors: belongs to another run"):
        checkpoint.resume(log, model, optimizer)


def test_a_damaged_state_is_refused(tmp_path):
    log = RunLog(str(tmp_path / "run"), "pretrain", Config(), {})
    model = small()
    optimizer = make_optimizer(model, 0.1)
    steps(model, optimizer, 0, 1)
    checkpoint.save_state(log, 1, model, optimizer)
    path = log.out / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"state\.safetensors"):
        checkpoint.resume(log, model, optimizer)


@pytest.mark.parametrize(("change", "named"), [
    ({"n_kv_heads": 0}, "--n-kv-heads 0"), ({"n_heads": -3}, "--n-heads -3"),
    ({"n_layers": True}, "n_layers must be int"), ({"d_ff": 32.5}, "d_ff must be int"),
    ({"rope_theta": float("nan")}, "--rope-theta nan"), ({"rope_theta": 0.0}, "rope_theta 0.0"),
    ({"norm_eps": "1e-6"}, "norm_eps must be float"), ({"max_len": 10 ** 12}, "max-len 10000"),
    ({"n_layers": 10 ** 6}, "n_layers 10000"), ({"vocab_size": 10 ** 6}, "do not fit its model"),
    ({"tied": 1}, "tied must be bool")], ids=str)
def test_a_config_that_cannot_be_is_refused_before_anything_is_allocated(tmp_path, change, named):
    checkpoint.save(tmp_path, small(), TOKENIZER)
    path = tmp_path / "model.safetensors"
    tensors, metadata, _ = checkpoint.read_tensors(path)
    metadata["model"] |= change
    checkpoint.write_tensors(path, tensors, **metadata)
    with pytest.raises(UserError, match=named):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, monkeypatch, number):
    """Neither written, as no loss has seen what the last step did, nor read."""
    model, log = small(), RunLog(str(tmp_path / "run"), "sft", Config(), {})
    model.blocks[0].down.weight.data[3, 1] = number
    for save in (lambda: checkpoint.save(tmp_path, model, TOKENIZER),
                 lambda: checkpoint.save_state(log, 3, model, make_optimizer(model, 0.1))):
        with pytest.raises(UserError, match=r"blocks\.0\.down\.weight holds .* is not saved"):
            save()
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.setattr(checkpoint, "check_finite", lambda *_: None)
    checkpoint.save(tmp_path, model, TOKENIZER)
    with pytest.raises(UserError, match="not finite; run its stage"):
        checkpoint.load(tmp_path)


def test_a_folder_of_transformers_is_told_apart_from_a_damaged_one(tmp_path):
    checkpoint.save(tmp_path, small(), TOKENIZER)
    save_file(small().state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="`minireason import` reads a folder"):
        checkpoint.load(tmp_path)
