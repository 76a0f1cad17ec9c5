"""Dataclass <-> JSON, random streams, and files that are written whole or not at all."""

import errno
import os
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.core import config
from minireason.core.config import (
    UserError,
    from_dict,
    read_json,
    resolve_device,
    rng,
    stream_seed,
    to_dict,
    write_atomic,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Example:
    a: int
    b: float = 0.5
    c: tuple[int, ...] = (1, 2)


@quick
@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False),
       st.lists(st.integers()).map(tuple))
def test_dataclass_round_trip(a, b, c):
    assert from_dict(Example, to_dict(Example(a, b, c))) == Example(a, b, c)


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(UserError, match=r"unknown fields \['d'\], missing fields \['a'\]"):
        from_dict(Example, {"d": 1})
    with pytest.raises(UserError, match=r"unknown fields \['d'\], missing fields \[\]"):
        from_dict(Example, {"a": 1, "d": 1})


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_broken_json_names_the_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json: not valid JSON"):
        read_json(path)
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "absent.json")


@quick
@given(st.integers(0, 2 ** 63), st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_streams_differ_by_purpose_and_repeat(seed, one, other):
    assert stream_seed(seed, *one) == stream_seed(seed, *one)
    assert (stream_seed(seed, *one) == stream_seed(seed, *other)) == (one == other)
    assert stream_seed(seed, *one) != stream_seed(seed + 1, *one)
    assert 0 <= stream_seed(seed, *one) < 2 ** 63


def test_streams_ignore_global_state():
    np.random.seed(1)                                     # noqa: NPY002
    first = rng(3, "lines", 7).random(4)
    np.random.seed(2)                                     # noqa: NPY002
    assert (rng(3, "lines", 7).random(4) == first).all()
    assert stream_seed(0, "weights") == 5681230749671811970   # a change breaks every seed


class Broken:
    """Stands for a file on a disk that fails at one operation."""

    def __init__(self, code):
        self.code = code

    def __call__(self, *arguments):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, operation, code):
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    monkeypatch.setattr(config.os, operation, Broken(code))
    expected = OSError if code == errno.EIO else UserError     # EIO is no matter of free space
    with pytest.raises(expected):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.json"]
    write_atomic(path, b"new")
    assert path.read_text() == "new"


def test_full_disk_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(config.os, "fsync", Broken(errno.ENOSPC))
    with pytest.raises(UserError, match=r"file: cannot write \(No space left.*free some space"):
        write_atomic(tmp_path / "file", "x")


def test_devices(monkeypatch):
    monkeypatch.setattr(config.torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match="--device cuda: no CUDA device"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="--device toaster: not a device"):
        resolve_device("toaster")
