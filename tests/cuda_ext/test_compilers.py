"""Compilers that fail, hang or write garbage: one line is said, nothing bad is kept."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cuda_ext import build, cache
from cuda_ext.cache import BuildError
from minireason.core import compiled

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="NOT CHECKED: needs g++")
OUT = 'for last; do :; done\n'                          # g++ is called with -o FILE at the end


@needs_compiler
@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("script", [
    'echo garbage > "$last"', ': > "$last"', "exit 0",
    '$REAL "$@" && head -c 2000 "$last" > "$last.x" && mv "$last.x" "$last"',
    '$REAL -shared -x c++ /dev/null -o "$last"', "kill -SEGV $$", "echo 'a: error: b'; exit 1",
    "yes error | head -n 100000; exit 1"])
def test_a_compiler_that_fails_or_writes_garbage_leaves_the_cache_clean(
        folder, libraries, compiler, name, script):
    compiler(f'{OUT}case "$*" in *--version*|*-dM*) exec $REAL "$@";; esac\n{script}')
    with pytest.raises(BuildError) as error:
        libraries[name]()
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    assert not list(folder.iterdir())
    compiler('exec $REAL "$@"')
    assert libraries[name]().panel_width() == 7


def test_a_complaint_is_cut_to_its_first_lines():
    said = "In file a.h:\na.cpp:1: warning: x\n\na.cpp:3: error: y\n  3 | text\n    ^\nmore\nmore\n"
    with pytest.raises(BuildError) as error:
        cache.run(["sh", "-c", f"echo '{said}' >&2; exit 3"])
    assert str(error.value) == "sh failed with status 3: a.cpp:3: error: y | 3 | text | ^"
    assert "warning" in error.value.output
    with pytest.raises(BuildError, match="sh failed with status 1: it wrote nothing"):
        cache.run(["sh", "-c", "exit 1"])
    for lacking in ("/no/such", "/"):
        with pytest.raises(BuildError, match=f"{lacking} cannot be started: "):
            cache.run([lacking])


def ended(pid: int) -> bool:
    """Whether a process is gone, or will be once its parent asks."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


HANG = 'sleep 1000 & echo $! > "$0.pid"; wait'          # a compiler's child hangs


@needs_compiler
@pytest.mark.parametrize("name", ["kernels", "native"])
def test_a_compiler_that_hangs_is_stopped_with_its_children(folder, libraries, compiler, name,
                                                            tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "COMPILE_SECONDS", 4)
    monkeypatch.setattr(compiled, "SECONDS", 4)
    compiler(f'case "$*" in *--version*|*-dM*) exec $REAL "$@";; esac\n{HANG}')
    with pytest.raises(BuildError, match=r"cxx did not end within 4 s and was stopped"):
        libraries[name]()
    assert ended(int((tmp_path / "cxx.pid").read_text())) and not list(folder.iterdir())


def test_all_compilers_stop_when_one_fails():
    with pytest.raises(BuildError, match="status 5"):
        cache.run_all([["sh", "-c", "exit 5"], ["sleep", "1000"]], at_once=2)
    begin = [["sh", "-c", f"echo {i}"] for i in range(7)]
    assert cache.run_all(begin, at_once=3) == [f"{i}\n" for i in range(7)]


def test_an_interrupt_stops_the_compilers(compiler, tmp_path):
    """Ctrl-C reaches this process only: a compiler leads a group of its own."""
    compiler(HANG)
    program = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)     # ignored in the background
from cuda_ext import cache
output = cache.Compiler.output
cache.Compiler.output = lambda compiler: print("it waits", flush=True) or output(compiler)
cache.run([{os.environ['CXX']!r}])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert process.stdout.readline() == b"it waits\n"
    pid = tmp_path / "cxx.pid"
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1].decode()
    assert ended(int(pid.read_text()))


def test_a_server_that_a_compiler_leaves_behind_is_not_waited_for():
    assert cache.run(["sh", "-c", "sleep 3 & echo done"], 2.0) == "done\n"


@needs_compiler
def test_cxx_may_have_options_and_a_wrapper(folder, libraries, compiler, tmp_path, monkeypatch):
    compiler('echo "$@" >> "$0.calls"; exec "$@"')                   # as ccache does
    wrapper = os.environ["CXX"]
    (tmp_path / "my tools").mkdir()
    spaced = tmp_path / "my tools" / "g++"
    spaced.symlink_to(shutil.which("g++"))
    for name in ("g++ -m64", f"{wrapper} g++", f"'{spaced}' -m64", str(spaced), "", " "):
        monkeypatch.setenv("CXX", name)
        assert libraries["native"]().panel_width() == libraries["kernels"]().panel_width() == 7
    assert (tmp_path / "cxx.calls").read_text().count("-shared") == 2
    for name in ("no-such-compiler -m64", "'g++", "''"):
        monkeypatch.setenv("CXX", name)
        with pytest.raises(BuildError, match=f"^{re.escape(name)} not found: install g"):
            libraries["native"]()
    monkeypatch.setenv("CXX", f"{wrapper} no-such-compiler")
    with pytest.raises(BuildError, match="no-such-compiler"):
        libraries["native"]()


def test_jobs_are_a_number(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "3")
    assert build.jobs() == 3
    for wrong in ("0", "-1", "many"):
        monkeypatch.setenv("MAX_JOBS", wrong)
        with pytest.raises(BuildError, match=f"MAX_JOBS={wrong}: must be"):
            build.jobs()
