"""What the shell sees: exit codes, and one line instead of a traceback, however a command ends."""

import os
import subprocess
import sys
import types

import pytest

from minireason import __main__, cli

COMMAND = f"{sys.executable} -m minireason"


@pytest.fixture
def ends_with(monkeypatch, capsys):
    """ends_with(what): (exit code, stderr) of a command whose main() raises or returns that."""
    def ended(what: object) -> tuple[object, str]:
        def main() -> object:
            if isinstance(what, BaseException):
                raise what
            return what

        monkeypatch.setattr(cli, "main", main)
        code = __main__.start()
        return code, capsys.readouterr().err

    return ended


def test_a_bug_is_one_line_that_says_so_and_the_traceback_is_to_be_had(ends_with, monkeypatch):
    for bug in (KeyError("foo"), AssertionError("two\nlines"), RuntimeError("no such kernel")):
        code, error = ends_with(bug)
        assert code == 1 and error.count("\n") == 1
        assert "a bug of ours" in error and type(bug).__name__ in error and "test_main.py" in error
        monkeypatch.setenv(__main__.TRACEBACK, "1")
        with pytest.raises(type(bug)):
            ends_with(bug)
        monkeypatch.delenv(__main__.TRACEBACK)
    bug.__cause__ = Exception('Traceback:\n  File "/a/b.py", line 2\n  File "/a/far.py", line 7')
    assert "(far.py, line 7)" in ends_with(bug)[1]                   # of a worker process


def test_a_worker_inherits_what_stands_for_a_closed_stream(ends_with, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert ends_with(0)[0] == 0
    with sys.stderr as stream:
        assert os.get_inheritable(stream.fileno())


def test_exit_codes_pass_through(ends_with):
    assert ends_with(0) == (0, "") and ends_with(2) == (2, "")
    assert ends_with(SystemExit(2)) == (2, "") and ends_with(SystemExit(None)) == (0, "")


def test_interrupt_during_the_imports_is_answered(monkeypatch, capsys):
    class Importing(types.ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "minireason.cli", Importing("minireason.cli"))
    assert __main__.start() == 130
    assert capsys.readouterr().err == "minireason: interrupted\n"


@pytest.mark.parametrize(("line", "codes", "error"), [
    pytest.param("{} sft --help | true; echo ${{PIPESTATUS[@]}}", "141 0", "",
                 marks=pytest.mark.long),
    ("{} --help >/dev/full; echo $?", "2", "standard output: No space left on device"),
    pytest.param("{} --version <&- >&- 2>&-; echo $?", "0", "", marks=pytest.mark.long),
    pytest.param("LC_ALL=C PYTHONUTF8=0 {} sft --init é --max-level -1 <&-; echo $?", "2",
                 "--max-level -1", marks=pytest.mark.long),
])
def test_streams_that_are_closed_full_or_without_a_reader(line, codes, error):
    done = subprocess.run(["bash", "-c", line.format(COMMAND)], text=True, capture_output=True,
                          timeout=600)
    assert done.stdout.split("\n")[-2] == codes
    assert error in done.stderr and done.stderr.count("\n") == bool(error)


def test_bytes_that_are_no_text_are_one_unreadable_problem(ladder):
    done = subprocess.run([*COMMAND.split(), "chat", "--run", str(ladder), "--device", "cpu"],
                          input=b"1+7\n\xff\xfe\n2+3\n", capture_output=True, timeout=600,
                          env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 2 and done.stdout.count(b"\n") == 2
    assert done.stderr.count(b"error:") == 1 and b"Traceback" not in done.stderr
