"""The output folder: what it refuses, what it cuts back, and what stops a run."""

import dataclasses
import io
import json
import os
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from minireason import __version__
from minireason.core import config, runlog
from minireason.core.errors import UserError
from minireason.core.locks import unlock_folder
from minireason.core.runlog import RunLog, _differences


@dataclass(frozen=True)
class Config:
    out: str = "x"
    lr: float = 0.1


def lines(log) -> list[dict]:
    return [json.loads(line) for line in (log.out / "metrics.jsonl").read_text().splitlines()]


def test_a_folder_belongs_to_one_config_stage_and_parent(tmp_path):
    out = str(tmp_path / "run")
    RunLog(out, "sft", Config(), {"init": "aaaa"})
    RunLog(out, "sft", Config(out="elsewhere"), {"init": "aaaa"})       # a moved folder is the same
    with pytest.raises(UserError, match=r"lr: 0\.1 there, 0\.2 now"):
        RunLog(out, "sft", Config(lr=0.2), {"init": "aaaa"})
    with pytest.raises(UserError, match="stage 'sft'"):
        RunLog(out, "star", Config(), {"init": "aaaa"})
    with pytest.raises(UserError, match="init: 'aaaa' there, 'bbbb' now"):
        RunLog(out, "sft", Config(), {"init": "bbbb"})


def test_a_field_that_is_new_or_gone_is_a_difference(tmp_path):
    @dataclass(frozen=True)
    class Older(Config):
        gone: int = 3

    RunLog(str(tmp_path), "sft", Older(), {})
    with pytest.raises(UserError, match="gone: 3 there, None now"):
        RunLog(str(tmp_path), "sft", Config(), {})
    RunLog(str(tmp_path / "new"), "sft", Config(), {})
    with pytest.raises(UserError, match="gone: None there, 3 now"):
        RunLog(str(tmp_path / "new"), "sft", Older(), {})
    with pytest.raises(UserError, match="gone: None there, 0 now"):
        RunLog(str(tmp_path / "new"), "sft", Older(gone=0), {})
    RunLog(str(tmp_path / "new"), "sft", Config(), {}).finish()
    assert RunLog(str(tmp_path / "new"), "sft", Older(gone=0), {}).done     # off: it was not there
    with pytest.raises(UserError, match="gone: None there, 3 now"):
        RunLog(str(tmp_path / "new"), "sft", Older(), {})


def test_a_part_of_a_finished_config_may_lack_what_is_off_and_nothing_else():
    def compared(held: dict, wanted: dict, finished: bool = True) -> str:
        return _differences({"stage": "", "config": {"part": held}, "parents": {}},
                            {"stage": "", "config": {"part": wanted}, "parents": {}}, finished)

    assert not compared({"a": 1}, {"a": 1, "new": 0.0})
    for held, wanted, finished in (({"a": 1}, {"a": 1, "new": 0.0}, False),
                                   ({"a": 1}, {"a": 1, "new": 0.5}, True),
                                   ({"a": None}, {"a": 0.0}, True), ({"a": 1}, {"a": 0}, True),
                                   ({"a": 1, "gone": 0.0}, {"a": 1}, True)):
        assert compared(held, wanted, finished).startswith("part: ")
    whole = {"stage": "", "config": {}, "parents": {}}
    for lost in ("config", "parents"):
        held = {key: value for key, value in whole.items() if key != lost}
        assert _differences(held, whole, False) == f"no {lost} there"


def test_records_are_flat_json_lines_and_rewind_cuts_them(tmp_path):
    log = RunLog(str(tmp_path / "run"), "sft", Config(), {})
    log.record(0, **{"train/loss": 2.5})
    mark = log.mark()
    log.record(1, **{"train/loss": 1.5})
    assert lines(log) == [{"step": 0, "train/loss": 2.5}, {"step": 1, "train/loss": 1.5}]
    log.rewind(**mark)
    assert lines(log) == [{"step": 0, "train/loss": 2.5}]


def emptied(text: str) -> str:
    return ""


def shortened(text: str) -> str:
    return text[:-1]


def edited(text: str) -> str:
    return text.replace("2.5", "2.6")


@pytest.mark.parametrize("alter", [emptied, shortened, edited])
def test_metrics_that_were_altered_before_the_mark_are_refused(tmp_path, alter):
    """A log shorter than its saved state is never filled up with zeros."""
    log = RunLog(str(tmp_path / "run"), "sft", Config(), {})
    log.record(0, **{"train/loss": 2.5})
    mark = log.mark()
    log.metrics.write_text(alter(log.metrics.read_text()))
    with pytest.raises(UserError, match=r"metrics\.jsonl: was cut or altered"):
        log.rewind(**mark)
    log.metrics.unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl: was cut or altered"):
        log.rewind(**mark)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_stops_the_run(tmp_path, value):
    log = RunLog(str(tmp_path / "run"), "sft", Config(), {})
    for number in (value, np.float64(value)):
        with pytest.raises(UserError, match=r"train/loss is -?(nan|inf) at step 4"):
            log.record(4, **{"train/loss": number})
    assert not log.metrics.exists()


def test_what_a_run_keeps_is_its_own(tmp_path):
    """A file of another run, another stage or another part of this one is found out."""
    logs = [RunLog(str(tmp_path / name), stage, Config(lr=lr), parents) for name, stage, lr, parents
            in (("a", "sft", 0.1, {}), ("b", "sft", 0.2, {}), ("c", "star", 0.1, {}),
                ("d", "sft", 0.1, {"init": "aaaa"}))]
    for log in logs:
        log.once("kept.json", lambda: {"value": 1})
    logs[0].once("other.json", lambda: {"value": 2})
    whole = (tmp_path / "a" / "kept.json").read_bytes()
    for strange in ("b/kept.json", "c/kept.json", "d/kept.json", "a/other.json"):
        (tmp_path / "a" / "kept.json").write_bytes((tmp_path / strange).read_bytes())
        with pytest.raises(UserError, match=r"kept\.json: belongs to another run"):
            logs[0].once("kept.json", dict)
    (tmp_path / "a" / "kept.json").write_bytes(whole)
    unlock_folder(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert RunLog(str(tmp_path / "moved"), "sft", Config(out="moved"), {}).once(
        "kept.json", dict) == {"value": 1}


def test_what_a_run_keeps_comes_back_whole(tmp_path):
    """Values of any name, those included that the log keeps beside them."""
    made = {"flops": 5.0, "seconds": 7, "value": [1, 2]}
    log = RunLog(str(tmp_path / "a"), "sft", Config(), {})
    assert log.once("kept.json", lambda: dict(made)) == made == log.once("kept.json", dict)


def test_finish_marks_the_end_and_drops_the_state(tmp_path, monkeypatch):
    """result.json comes last: a folder that holds it is whole and has its manifest."""
    replace, written = os.replace, []
    monkeypatch.setattr(os, "replace", lambda source, target: (
        written.append(target.name), replace(source, target)))
    log = RunLog(str(tmp_path / "run"), "sft", Config(), {})
    assert log.done is None and (log.out / ".lock").exists()      # it works there
    (log.out / "state.safetensors").write_bytes(b"x")
    result = log.finish(accuracy=0.5)
    assert log.done == result and written[-3:] == ["rows.jsonl", "manifest.json", "result.json"]
    assert (result["stage"], result["accuracy"]) == ("sft", 0.5) and result["made_with"]["torch"]
    assert not (log.out / "state.safetensors").exists()
    with pytest.raises(UserError, match="lr: 0"):
        RunLog(str(log.out), "sft", Config(lr=0.2), {})
    assert not (log.out / ".lock").exists()                # whoever is refused works there no more


def test_steps_count_from_the_resume_point(tmp_path, capsys):
    log = RunLog(str(tmp_path / "run"), "sft", Config(), {})
    assert list(log.steps(3, 6)) == [3, 4, 5]
    shown = capsys.readouterr().err
    assert "6/6" in shown and "it/s" in shown              # total progress and rate


def test_a_line_of_a_second_process_says_so_and_is_one_write(tmp_path, monkeypatch):
    """In two, a line of the other process could come between."""
    log, written, stream = RunLog(str(tmp_path), "critic", Config(), {}), [], io.StringIO()
    monkeypatch.setattr(stream, "write", written.append)
    monkeypatch.setattr(sys, "stderr", stream)
    log.say("one\ntwo")
    monkeypatch.setattr(runlog.workers, "is_worker", lambda: True)
    log.say("three")
    assert [text for text in written if text] == ["[critic] one\ntwo\n",
                                                  "[critic, second process] three\n"]


def test_the_config_on_disk_is_the_dataclass(tmp_path):
    out = str(tmp_path / "run")
    log = RunLog(out, "sft", Config(out), {"init": "aaaa"})
    held = json.loads((log.out / "config.json").read_text())
    assert held.pop("made_with")["ranks"] == 1
    assert held == {"stage": "sft", "config": dataclasses.asdict(Config(out=".")),
                    "parents": {"init": "aaaa"}}


def test_a_run_that_goes_on_under_other_conditions_says_so(tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "run")
    RunLog(out, "sft", Config(out), {})
    RunLog(out, "sft", Config(out), {})
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setenv("MINIREASON_DECODE", "torch")
    RunLog(out, "sft", Config(out), {})
    assert "begun with MINIREASON_DECODE None, goes on with torch" in capsys.readouterr().err


@pytest.mark.parametrize("name, was", [("torch", "2.9.0"), ("threads", 99), ("ranks", 8),
                                       ("processor", "DEFAULT"), ("gone", "1")])
def test_every_other_condition_is_named_and_an_altered_record_harms_nothing(
        tmp_path, capsys, name, was):
    log = RunLog(str(tmp_path), "sft", Config(), {})
    path = tmp_path / "config.json"
    held = json.loads(path.read_text())
    for made_with in (held["made_with"] | {name: was}, [], None):
        path.write_text(json.dumps(held | {"made_with": made_with}))
        log = RunLog(str(tmp_path), "sft", Config(), {})
        warned = capsys.readouterr().err
        assert f"begun with {name} {was if made_with else None}, goes on with" in warned or (
            name == "gone" and not made_with)
    log.finish()
    RunLog(str(tmp_path), "sft", Config(), {})             # a finished run goes on with nothing
    assert "warning" not in capsys.readouterr().err


def test_the_result_says_what_was_used_and_who_resumes_inherits_it(tmp_path, monkeypatch):
    """A part that was made by another process tells what that one ran on."""
    monkeypatch.setattr(config, "used", {})
    monkeypatch.setattr(runlog, "used", config.used)
    log = RunLog(str(tmp_path), "sft", Config(), {})
    config.used["decoder"] = "native"
    log.once("kept.json", dict)
    config.used.clear()                                    # a new process
    log = RunLog(str(tmp_path), "sft", Config(), {})
    assert log.once("kept.json", dict) == {}
    config.used["attention"] = "sdpa"
    made_with = log.finish()["made_with"]
    assert (made_with["decoder"], made_with["attention"]) == ("native", "sdpa")
    assert made_with["minireason"] == __version__


def test_a_state_of_another_version_is_refused_by_name(tmp_path):
    log = RunLog(str(tmp_path), "sft", Config(), {})
    for spent in ({}, {"seconds": 1.0, "flops": 2.0}, {"seconds": 1.0, "decoder": None}):
        with pytest.raises(UserError, match="begun by another version"):
            log.resume_at(spent)
