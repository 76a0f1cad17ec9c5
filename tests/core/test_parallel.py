"""Sharing rows over ranks, without processes: the ranks are played one after the other."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.core import parallel
from minireason.core.errors import UserError
from minireason.training.batches import micro_batches


def as_rank(monkeypatch, rank: int, size: int) -> None:
    monkeypatch.setattr(parallel, "rank", lambda: rank)
    monkeypatch.setattr(parallel, "world_size", lambda: size)


def test_one_process_is_the_identity():
    tensor = torch.ones(2)
    parallel.all_sum([tensor])
    parallel.barrier()
    assert tensor.tolist() == [1, 1] and parallel.is_main()
    assert parallel.share([1, 2, 3]) == parallel.gather([1, 2, 3]) == [1, 2, 3]
    assert parallel.init(torch.device("cpu")) == torch.device("cpu")


LEAVES = """
import atexit, torch, torch.distributed as dist
from minireason.core import parallel
from minireason.core.errors import UserError
atexit.register(lambda: print("left" if not dist.is_initialized() else "still in"))   # runs last
parallel.init(torch.device("cpu"))
print("joined" if dist.is_initialized() else "alone")
"""


@pytest.mark.long
def test_a_process_leaves_its_group_before_the_interpreter_ends():
    """Else Gloo's threads abort it now and then, with all its work done."""
    one = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", LEAVES], env={**os.environ, **one}, text=True,
                          capture_output=True, timeout=120)
    said = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
    assert (done.returncode, said) == (0, ["joined", "left"]), done.stderr


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_gather_undoes_share(items, size):
    with pytest.MonkeyPatch.context() as patch:
        parts = []
        for rank in range(size):
            as_rank(patch, rank, size)
            parts.append(parallel.share(items))
        patch.setattr(parallel.dist, "all_gather_object",
                      lambda out, mine: out.__setitem__(slice(None), parts))
        for part in parts:
            assert parallel.gather(part) == items


def test_every_rank_divides_by_the_same_count(monkeypatch):
    rows = [([0] * n, 1) for n in (3, 5, 4, 9, 2)]
    counts, tokens = set(), 0
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        batches, count = micro_batches(rows, 8, pad=0, packed=False)
        counts.add(count)
        tokens += sum(int(b.loss_mask.sum()) for b in batches)
    assert counts == {tokens} == {2 + 4 + 3 + 8 + 1}


def test_a_rank_without_rows_has_no_batches(monkeypatch):
    as_rank(monkeypatch, 1, 2)
    assert micro_batches([([0, 1], 1)], 8, pad=0) == ([], 1)


def test_all_sum_is_one_message_and_keeps_shapes(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    sent = []
    monkeypatch.setattr(parallel.dist, "all_reduce", lambda flat: (sent.append(1), flat.mul_(2)))
    tensors = [torch.ones(2, 3), torch.tensor(5.0), torch.arange(4.0)]
    parallel.all_sum(tensors)
    assert len(sent) == 1 and tensors[0].shape == (2, 3)
    assert (tensors[0] == 2).all() and tensors[1] == 10 and tensors[2].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("environment", [
    {"RANK": "0"}, {"RANK": "x", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
    {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "many"}], ids=str)
def test_a_rank_without_torchrun_is_told_so(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"RANK=. is set, but no process group .* torchrun"):
        parallel.init(torch.device("cpu"))
