"""Dataclass <-> JSON, what a configuration may hold, random streams, devices."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.core import config
from minireason.core.config import (
    check_numbers,
    from_dict,
    resolve_device,
    rng,
    stream_seed,
    to_dict,
)
from minireason.core.errors import UserError

quick = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Example:
    a: int
    b: float = 0.5
    c: tuple[int, ...] = (1, 2)
    warmup: int = 5
    lr: float = 0.1
    temperature: float = 1.0
    steps: int = 5


@quick
@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False),
       st.lists(st.integers()).map(tuple))
def test_dataclass_round_trip(a, b, c):
    assert from_dict(Example, to_dict(Example(a, b, c))) == Example(a, b, c)


@dataclass(frozen=True)
class Holder:
    part: Example
    more: int = 1


def test_a_dataclass_in_a_dataclass_is_rebuilt_and_checked():
    whole = Holder(Example(3, c=(5,)))
    assert from_dict(Holder, to_dict(whole)) == whole == from_dict(Holder, vars(whole))
    with pytest.raises(UserError, match="Example: a must be int, not 'x'"):
        from_dict(Holder, {"part": {"a": "x"}})
    with pytest.raises(UserError, match=r"Example: unknown fields \['z'\]"):
        from_dict(Holder, {"part": {"a": 1, "z": 2}})


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(UserError, match=r"unknown fields \['d'\], missing fields \['a'\]"):
        from_dict(Example, {"d": 1})
    with pytest.raises(UserError, match=r"unknown fields \['d'\], missing fields \[\]"):
        from_dict(Example, {"a": 1, "d": 1})


@pytest.mark.parametrize(("values", "named"), [
    ({"a": True}, "a must be int, not True"), ({"a": 1.0}, "a must be int, not 1.0"),
    ({"a": "1"}, "a must be int, not '1'"), ({"a": None}, "a must be int, not None"),
    ({"a": 1, "b": "x"}, "b must be float, not 'x'"), ({"a": 1, "c": [1, "2"]}, "c must be tuple"),
    ({"a": 1, "c": 3}, "c must be tuple, not 3")], ids=str)
def test_a_value_of_another_type_is_named(values, named):
    with pytest.raises(UserError, match=named):
        from_dict(Example, values)


@pytest.mark.parametrize(("values", "flag"), [
    ({"a": 0}, "--a 0"), ({"a": -1}, "--a -1"), ({"b": -0.5}, "--b -0.5"),
    ({"b": float("nan")}, "--b nan"), ({"b": float("inf")}, "--b inf"), ({"a": 10 ** 30}, "--a 10"),
    ({"c": (1, 0)}, "--c 0"), ({"warmup": -1}, "--warmup -1"), ({"a": 10 ** 8}, "--a 10"),
    ({"c": (1, 10 ** 8)}, "--c 1000"), ({"lr": 1.5}, "--lr 1.5: must be 0 or from 0 to 1"),
    ({"steps": 2 ** 63}, "--steps 9"), ({"temperature": 1e-30}, "--temperature 1e-30"),
    ({"temperature": 1e30}, r"--temperature 1e\+30: must be 0 or from 0.001 to 1000")], ids=str)
def test_a_number_that_no_run_can_work_with_is_named_as_a_flag(values, flag):
    check_numbers(Example(3))
    check_numbers(Example(3, b=0.0, warmup=0, lr=1.0, temperature=0.0, steps=10 ** 15))
    with pytest.raises(UserError, match=flag):
        check_numbers(Example(**{"a": 3} | values))


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


def test_devices(monkeypatch):
    monkeypatch.setattr(config.torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match="--device cuda: no CUDA device"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="--device toaster: not a device"):
        resolve_device("toaster")


def test_what_a_run_is_made_with_names_all_that_its_numbers_hang_on():
    found = config.made_with()
    assert {"cores", "threads", "ranks", "python", "numpy", "tokenizers", "safetensors",
            "minireason"} <= found.keys()
    assert found["processor"] == torch.backends.cpu.get_cpu_capability()
    assert (found["torch"], found["threads"]) == (torch.__version__, torch.get_num_threads())
