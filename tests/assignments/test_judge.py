"""The judge: rules, the student's process and its limits, the command line and its files."""

import json
import runpy
import sys
from functools import partial
from pathlib import Path

import grading
import judge
import pytest
import rules
import student
from wrong_solutions import ASSIGNMENTS, Local, grader, solution_path, wrong_solutions

QUICK = "06_allocation"           # to grade
RIGHT = solution_path("01_step_checker").read_text()
LIMITS = grading.Limits(seconds=20, total=120, megabytes=300)


# ---- what may not be said ------------------------------------------------------------------------

@pytest.mark.parametrize("source", [
    "eval('1+1')", "e = eval", "exec('x')", "compile('1', '', 'eval')", "__import__('os')",
    "import builtins", "__builtins__['eval']", "().__class__.__base__.__subclasses__()",
    "import minireason", "import minireason.problems.chain as re",
    "from minireason.problems import chain as math", "from minireason.problems.chain import parse",
    "import importlib", "from importlib import import_module as load", "import os", "import sys",
    "import subprocess", "import ctypes", "import inspect", "import dataclasses\ndataclasses.sys",
    "from dataclasses import sys", "from re import *", "getattr(re, 'sys')", "open('grade.py')",
    "from operator import attrgetter", "import operator\noperator.methodcaller('x')",
    "from . import grade", "import torch", "globals()['x']", "import collections.abc as c\nc.sys",
    "def f(x, y=eval): pass", "class A:\n    b = exec", "f'{eval(1)}'", "@eval\ndef f(): pass",
])
def test_forbidden_words_are_found_in_the_syntax_tree(source):
    (line, *_) = rules.broken(source.encode())
    assert line.startswith("line ") and "is not allowed" in line


@pytest.mark.parametrize("source", [
    "import torch\ntorch.nn.functional.scaled_dot_product_attention(1, 2, 3)",
    "import torch.nn.functional as F\nF.scaled_dot_product_attention",
    "from torch.nn.functional import scaled_dot_product_attention as mine",
    "import torch\nf = torch._C._nn.scaled_dot_product_attention",
    "import torch\ntorch.ops.aten.scaled_dot_product_attention",
    "from torch import nn\nnn.MultiheadAttention(1, 1)", "import torch\ntorch.rms_norm",
])
def test_a_fused_attention_is_found(source):
    banned = grader("02_attention")["BANNED"]
    assert rules.broken(source.encode(), ("torch",), banned)


@pytest.mark.parametrize("folder", ["01_step_checker", "02_attention", "03_votes",
                                    "04_policy_gradient", "05_beam_search", "06_allocation",
                                    "08_star_filter", "09_grpo_rloo", "10_critic_picks"])
def test_right_solutions_and_starters_break_no_rule(folder):
    """A word in a comment, a docstring or a text is no rule broken."""
    banned = grader(folder).get("BANNED", ())
    for path in (solution_path(folder), ASSIGNMENTS / folder / "starter.py"):
        source = path.read_bytes() + b"\n# eval(minireason)\nTEXT = 'import os; exec'\n"
        assert rules.broken(source, ("numpy", "torch"), banned) == []


# ---- the student's process -----------------------------------------------------------------------

@pytest.fixture
def asked(tmp_path):
    """A solution in a process of its own, past the rules: what the process itself forbids."""
    made = []

    def start(source: str, limits: grading.Limits = LIMITS) -> judge.Student:
        path = tmp_path / "mine.py"
        path.write_text(source)
        made.append(judge.Student(path, limits))
        made[-1].new_check()
        return made[-1]

    yield start
    for solution in made:
        solution.close()


def test_values_cross_the_wire_as_they_are(asked):
    import numpy as np
    solution = asked("def same(x): return x\ndef call(f, x): return f(x) + 1\n")
    values = [None, True, 1, -2.5, float("inf"), "ü\n", [1, [2]], (1, ("a",)), {"a": (1,)},
              np.arange(6.0).reshape(2, 3), np.float32(1.5), np.zeros((0, 2), dtype=bool)]
    for value in values:
        came = solution.same(value)
        assert type(came) is type(value) and repr(came) == repr(value)
    assert solution.call(lambda x: 2 * x, 20) == 41


def test_an_object_that_equals_everything_does_not_get_through(asked):
    solution = asked("""
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(): return Yes(3)
""")
    with pytest.raises(judge.Mismatch, match="a Yes is no plain value"):
        solution.f()


def test_patching_the_comparison_changes_nothing(asked):
    """The student's process holds no comparison; what it patches ends with it."""
    solution = asked("""
import sys, builtins
for module in list(sys.modules.values()):
    for name in ("expect", "close", "require", "outcome"):
        setattr(module, name, lambda *a, **k: None)
def compute(left, operator, right): return 7
def parse(text): return None
def check_steps(prompt, steps): return []
def verify(prompt, text): return (True, True, True)
""")
    found = grader("01_step_checker")["CHECKS"]
    results = grading.run_checks(found, solution, 0, lambda line: None)
    assert {r.check.name for r in results if not r.wrong} == {"parse: format tricks"}


@pytest.mark.parametrize("body,told", [
    ("import minireason", "ImportError in line 1: minireason is not allowed"),
    ("m = 'mini' + 'reason'; __import__(m + '.problems.chain')", "minireason"),
    (f"open({str(ASSIGNMENTS / 'grading.py')!r}, 'a')", "PermissionError in line 1: writing"),
    (f"open({str(ASSIGNMENTS / '01_step_checker' / 'grade.py')!r})", "reading"),
    (f"import os; os.remove({str(ASSIGNMENTS / 'rules.py')!r})", "os.remove is not allowed"),
    ("import os; os.fork()", "os.fork is not allowed"),
    ("import subprocess; subprocess.run(['true'])", "is not allowed"),
    ("import socket; socket.socket()", "is not allowed"),
])
def test_what_the_process_may_not_do(body, told, asked):
    solution = asked(f"def f(): {body}\n")
    with pytest.raises(judge.Mismatch, match=told.split(" in line")[0].split("Error")[-1] or told):
        solution.f()
    assert (ASSIGNMENTS / "rules.py").is_file()


def test_a_crash_or_an_endless_loop_costs_its_own_call_only(asked):
    solution = asked("""
import os
def crash(): os._exit(3)
def raises():
    raise ZeroDivisionError("oh")
def leaves(): raise SystemExit(0)
def loops():
    while True: pass
def fine(): return 1
def prints(): print('{"result": [7]}'); return 2
""", grading.Limits(seconds=3, total=120, megabytes=300))
    for name, told in (("crash", r"the end of the process \(exit code 3\)"),
                       ("raises", r"on raises\(\): expected a result, came Zero.*Error in line 5"),
                       ("leaves", "SystemExit"), ("loops", "an endless loop?")):
        solution.new_check()
        with pytest.raises(judge.Mismatch, match=told):
            getattr(solution, name)()
        solution.new_check()
        assert solution.fine() == 1
    assert solution.prints() == 2
    assert '{"result": [7]}' in solution.close()


def test_memory_is_limited(asked):
    solution = asked("def f(): return len(bytearray(2_000_000_000))\ndef g(): return 1\n")
    if sys.platform != "linux":
        pytest.skip("NOT CHECKED: memory is limited on Linux only")
    with pytest.raises(judge.Mismatch, match="MemoryError"):
        solution.f()
    assert solution.g() == 1


def test_the_whole_grading_has_a_time_limit(asked):
    solution = asked("def f():\n    while True: pass\n",
                     grading.Limits(seconds=30, total=1, megabytes=300))
    checks = [grading.Check(str(i), 1, lambda s, seed: s.f()) for i in range(3)]
    results = grading.run_checks(checks, solution, 0, lambda line: None)
    assert [r.wrong for r in results] == ["expected an end of all checks within 1 s, came none"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
def test_what_left_the_group_is_ended_too(tmp_path):
    import os
    import subprocess
    mark = f"MINIREASON_GRADING={tmp_path}"
    program = "import time; print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True,
                               stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "MINIREASON_GRADING": str(tmp_path)})
    assert process.stdout.readline() == "up\n"
    judge.end_marked(mark)
    assert process.wait(60) == -9


# ---- the command line ----------------------------------------------------------------------------

@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Grade a source text with options, in this process: (exit code, lines)."""
    def run(source: str, *options: str, folder: str = "01_step_checker", asked: type = Local):
        path = tmp_path / "mine.py"
        path.write_text(source)
        names = grader(folder)
        capsys.readouterr()
        try:
            code = grading.grade(names["CHECKS"], str(ASSIGNMENTS / folder / "grade.py"),
                                 [str(path), *options], student=asked,
                                 allowed=("numpy",) * (folder == QUICK))
        except SystemExit as stop:
            code = stop.code
        return code, "".join(capsys.readouterr()).splitlines()

    return run


def test_a_seed_is_drawn_printed_and_repeatable(command):
    command = partial(command, wrong_solutions(QUICK)[0][1], folder=QUICK)
    code, lines = command()
    assert code == 1 and lines[-1] != "0 / 20 points" and lines[0].startswith("seed ")
    seed = lines[0].split()[1]
    assert lines[0] == f"seed {seed} (repeat with --seed {seed})"
    assert command("--seed", seed)[1] == lines
    assert command()[1][0] != lines[0]


def test_gradescope_gets_its_format(command, tmp_path):
    out = tmp_path / "results.json"
    code, lines = command(RIGHT.replace("0 <= value <= 99", "0 <= value"), "--json", str(out))
    found = json.loads(out.read_text())
    assert code == 1 and set(found) == {"score", "output", "tests"}
    assert found["score"] == sum(t["score"] for t in found["tests"])
    assert lines[-1] == f"{found['score']} / 20 points" != "20 / 20 points"
    assert found["output"] == lines[0].split(" (")[0]
    for test in found["tests"]:
        assert {"name", "score", "max_score", "output", "status", "visibility"} == set(test)
        assert (test["status"] == "passed") == (test["output"] == "")
        assert test["score"] in (0, test["max_score"])


def test_hidden_tests_count_and_say_nothing(command, tmp_path):
    hidden, out = tmp_path / "hidden.py", tmp_path / "results.json"
    hidden.write_text("""
from grading import Check, expect
def secret(solution, seed):
    expect(solution.compute(6, "*", 7), 41, "the secret case")
CHECKS = [Check("hidden: products", 5, secret)]
""")
    code, lines = command(RIGHT, "--hidden", str(hidden), "--json", str(out))
    assert code == 1 and lines[-1] == "20 / 25 points"
    assert "FAIL  0/5  hidden: products: not passed" in lines
    last = json.loads(out.read_text())["tests"][-1]
    assert last["visibility"] == "after_published" and last["output"] == ""
    assert "secret case" not in out.read_text() + "".join(lines)


def test_a_broken_rule_costs_all_points_and_is_named(command, tmp_path):
    out = tmp_path / "results.json"
    source = RIGHT + "\nimport minireason.problems.chain as mine\nvalue = eval('1')\n"
    code, lines = command(source, "--json", str(out))
    assert code == 1 and lines[-1] == "0 / 20 points"
    number = source.splitlines().index("value = eval('1')") + 1
    assert f"mine.py line {number}: eval is not allowed" in lines
    assert f"mine.py line {number - 1}: importing minireason.problems.chain is not allowed" in (
        "\n".join(lines))
    assert json.loads(out.read_text())["score"] == 0


def test_a_syntax_error_is_one_line(command):
    code, lines = command("def f(:\n")
    assert code == 1 and "mine.py line 1: not Python: invalid syntax" in lines


def test_rewriting_the_grader_or_another_solution_is_found_out(command, tmp_path, monkeypatch):
    """Whatever way it was done, a file that changed costs everything."""
    copy = tmp_path / "assignments"
    copy.mkdir()
    (copy / "grade.py").write_text("CHECKS = []")
    (tmp_path / "other.py").write_text("x = 1")
    monkeypatch.setattr(grading, "HERE", copy)
    for victim in (copy / "grade.py", tmp_path / "other.py", copy / "new.py"):
        class Rewriting(Local):
            def close(self, victim=victim):
                victim.write_text("return 20")
                return ""

        code, lines = command(solution_path(QUICK).read_text(), folder=QUICK, asked=Rewriting)
        assert (code, lines[-1]) == (2, "0 / 20 points")
        assert f"files changed while grading, no points: {victim.name}" in lines


@pytest.mark.parametrize("options,told", [
    (("--seed", "-1"), "--seed must be 0 or more"),
    (("--seconds", "0"), "--seconds, --total and --megabytes must be above 0"),
    (("--json", "/nowhere/results.json"), "--json /nowhere/results.json: no such folder"),
    (("--hidden", "/nowhere.py"), "--hidden /nowhere.py: no such file"),
])
def test_an_error_of_the_user_is_one_line(options, told, command):
    code, lines = command(RIGHT, *options)
    assert code == 2 and len(lines) == 1 and lines[0].endswith(told)


def test_a_hidden_file_without_checks_and_a_missing_solution_are_one_line(command, tmp_path,
                                                                             capsys):
    (tmp_path / "hidden.py").write_text("x = 1")
    code, lines = command(RIGHT, "--hidden", str(tmp_path / "hidden.py"))
    assert code == 2 and "holds no list CHECKS" in lines[-1]
    for name, told in (("nowhere.py", "no such file"), (str(tmp_path), "no such file"),
                       (str(ASSIGNMENTS / "01_step_checker" / "README.md"), "not a .py file")):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            grading.grade([], str(ASSIGNMENTS / "01_step_checker" / "grade.py"), [name])
        assert stop.value.code == 2
        assert capsys.readouterr().err.endswith(f"{name}: {told}\n")


def test_a_grader_runs_as_a_command(tmp_path):
    import subprocess
    command = [sys.executable, str(ASSIGNMENTS / QUICK / "grade.py")]
    done = subprocess.run([*command, str(solution_path(QUICK)), "--seed", "3",
                           "--seconds", "250"],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("20 / 20 points\n") and done.returncode == 0, done.stderr
    assert Path(student.__file__).parent == ASSIGNMENTS
    assert runpy.run_path(str(ASSIGNMENTS / QUICK / "grade.py"))["CHECKS"]
