"""Files: whole or not at all, known by their sha256."""

import errno
import hashlib
import json
import os

import pytest

from minireason.core import files
from minireason.core.errors import UserError
from minireason.core.files import (
    check_manifest,
    read_checked,
    read_json,
    read_lines,
    write_atomic,
    write_checked,
    write_manifest,
)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[]", b"7", b"[" * 100_000,
                                     b'{"a": ' + b"1" * 5000 + b"}"])
def test_broken_json_names_the_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json: (not|holds no) "):
        read_json(path)
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(UserError, match=f"{os.devnull}: is a device"):
        read_json(os.devnull)                         # and not read without end, as a tape of zeros


class Broken:
    """Stands for a file on a disk that fails at one operation."""

    def __init__(self, code):
        self.code = code

    def __call__(self, *_):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO,
                                  errno.EPERM, errno.EXDEV, errno.ELOOP, errno.ENAMETOOLONG])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, operation, code):
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    monkeypatch.setattr(files.os, operation, Broken(code))
    with pytest.raises(UserError, match=r"file\.json: cannot write"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.json"]
    write_atomic(path, b"new")
    assert path.read_text() == "new"


def test_full_disk_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", Broken(errno.ENOSPC))
    with pytest.raises(UserError, match=r"file: cannot write \(No space left.*free some space"):
        write_atomic(tmp_path / "file", "x")


def test_lines_may_hold_any_unicode_and_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"a": "x\u2028y\x85z"}\n\n{"a": 2}\n'.encode())
    assert read_lines(path) == [{"a": "x\u2028y\x85z"}, {"a": 2}]
    path.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(UserError, match=r"lines\.jsonl, line 2: holds no JSON object"):
        read_lines(path)
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(UserError, match=r"lines\.jsonl, line 2: not valid JSON"):
        read_lines(path)


def test_a_changed_byte_of_a_checked_file_is_found(tmp_path):
    """Every single byte, and every length that it may be cut to."""
    path, content = tmp_path / "held.json", {"a": [1, 2.5, "x"], "b": None}
    write_checked(path, content)
    assert read_checked(path) == content == json.loads(path.read_text())["content"]
    whole = path.read_bytes()
    altered = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1:] for i in range(len(whole) - 1)]
    for data in altered + [whole[:n] for n in range(len(whole) - 1)]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"held\.json"):
            read_checked(path)


def test_a_checked_file_in_another_place_is_refused(tmp_path):
    path = tmp_path / "held.json"
    write_checked(path, [1], "one")
    assert read_checked(path) == read_checked(path, "one") == [1]
    with pytest.raises(UserError, match=r"held\.json: belongs to another run"):
        read_checked(path, "other")
    path.write_text(path.read_text().replace('"one"', '"two"'))
    for of in ("", "one", "two"):
        with pytest.raises(UserError, match="sha256 does not match"):
            read_checked(path, of)


def test_a_manifest_finds_what_was_altered_swapped_or_lost(tmp_path):
    for name in ("a.json", "b.jsonl"):
        (tmp_path / name).write_text(name)
    for passing in ("state.safetensors", ".lock"):    # neither belongs to a finished stage
        (tmp_path / passing).write_text("x")
    write_manifest(tmp_path, "result.json", "{}")
    assert set(read_json(tmp_path / "manifest.json")) == {"a.json", "b.jsonl", "result.json"}
    with pytest.raises(UserError, match=r"result\.json: cannot read"):
        check_manifest(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    check_manifest(tmp_path)
    (tmp_path / "a.json").write_text("b.jsonl")
    with pytest.raises(UserError, match=r"a\.json: is not what its stage wrote"):
        check_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"does not list result\.json"):
        check_manifest(tmp_path)
    sha256 = hashlib.sha256(b"{}").hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({"result.json": sha256, "a\0": sha256}))
    with pytest.raises(UserError, match="cannot read"):
        check_manifest(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"lacks manifest\.json"):
        check_manifest(tmp_path)
