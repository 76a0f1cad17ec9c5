"""Every grader tells right from wrong: a part of the wrong solutions here, all of them by
`python tests/assignments/wrong_solutions.py`."""

import sys
from pathlib import Path

import pytest
from compilers import need_host_compiler
from wrong_solutions import (
    ASSIGNMENTS,
    FOLDERS,
    Local,
    grader,
    lost,
    no_nvcc,
    solution_path,
    wrong_solutions,
)

from cuda_ext import build

KERNEL = "07_cuda_kernel"
SHOWN = 6                         # wrong solutions per assignment that are graded here


@pytest.fixture
def graded(tmp_path, monkeypatch):
    """{check that was lost: why} of a source text, in this process (a kernel: in its own)."""
    monkeypatch.setattr(sys, "path", [*sys.path])         # a grader adds its folder
    monkeypatch.setattr(build, "find_nvcc", no_nvcc)      # slow, and worth no points

    def run(folder: str, source: str, seed: int = 0) -> dict[str, str]:
        if folder == KERNEL:
            need_host_compiler()
        path = tmp_path / f"solution{solution_path(folder).suffix}"
        path.write_text(source)
        return lost(grader(folder), path, seed)

    return run


def starter(folder: str) -> Path:
    return next((ASSIGNMENTS / folder).glob("starter.*"))


def named(folder: str, name: str) -> str:
    """The wrong solution of that name."""
    return dict(wrong_solutions(folder))[name]


def test_every_assignment_is_complete():
    assert len(FOLDERS) == 10
    for folder in FOLDERS:
        assert (ASSIGNMENTS / folder / "README.md").is_file() and starter(folder).is_file()
        names = [name for name, _ in wrong_solutions(folder)]
        assert len(names) == len(set(names)) >= 20, folder
    assert not [path for path in ASSIGNMENTS.rglob("*") if "solution" in path.name]


@pytest.mark.parametrize("folder", [
    pytest.param(folder, marks=pytest.mark.long) if folder == KERNEL else folder
    for folder in FOLDERS])
def test_the_right_solution_gets_full_points_and_the_starter_none(folder, graded, monkeypatch):
    assert graded(folder, solution_path(folder).read_text(), seed=1) == {}
    found = graded(folder, starter(folder).read_text())
    assert len(found) == len(grader(folder)["CHECKS"])
    assert all("nothing is written yet" in why for why in found.values())


@pytest.mark.long
@pytest.mark.parametrize("folder", FOLDERS)
def test_wrong_solutions_lose_points_and_are_told_why(folder, graded):
    every = wrong_solutions(folder)
    step = len(every) // (2 if folder == KERNEL else SHOWN)
    for name, source in every[::step]:
        assert graded(folder, source, seed=2), name


@pytest.mark.parametrize("folder,name,hint", [
    ("01_step_checker", "fractions are cut", "the quotient is cut"),
    ("01_step_checker", "errors are counted twice", "one error is counted again"),
    ("01_step_checker", "digits of all alphabets", "digits of other alphabets count"),
    ("02_attention", "neighbours are paired", "this equals the interleaved rotation"),
    ("02_attention", "the mean is taken away", "this is LayerNorm"),
    ("02_attention", "key heads in turn", "consecutive ones share"),
    ("02_attention", "masked with zero", "hidden scores are set to 0"),
    ("02_attention", "rotated before the norm's gain", "QK-norm comes first"),
    ("03_votes", "with replacement", "draws with replacement: it is biased"),
    ("04_policy_gradient", "the sample's standard deviation", "not the population's (G)"),
    ("04_policy_gradient", "clamped without the minimum", "clipped without the minimum"),
    ("05_beam_search", "the first finished", "the first one finished, not the best"),
    ("06_allocation", "ties to the dearest", "expected"),
    ("06_allocation", "scored on what was chosen on", "chosen on itself"),
    ("08_star_filter", "the normal interval", "not Wilson's interval"),
    ("09_grpo_rloo", "1.96 for few seeds", "few need Student's t"),
    ("10_critic_picks", "ties do not count", "ties count half"),
])
def test_a_hint_names_the_likely_mistake(folder, name, hint, graded):
    found = graded(folder, named(folder, name)).values()
    assert any(hint in why for why in found)
    assert all("expected" in why and "came" in why and "\n" not in why for why in found)


# ---- these once had full points ------------------------------------------------------------------

def test_stopping_at_the_first_finished_round(graded):
    found = graded("05_beam_search",
                   named("05_beam_search", "stops at the first finished round"))
    assert "does the search stop at the first finished round?" in found[
        "goes on after the first finished round"]


def test_strategy_0_for_an_empty_bin(graded):
    found = graded("06_allocation", named("06_allocation", "an empty bin takes strategy 0"))
    assert "not strategy 0" in found["choose: empty bins"]


@pytest.mark.parametrize("name,check,told", [
    ("a loop on the host", "values: rows of whole blocks", "came a loop on the host"),
    ("one thread does all", "work: shared by all threads of a block", "came 1 threads that read"),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        ("an empty kernel beside a loop on the host", "values: rows of whole blocks",
         "accesses outside of it"),
        ("every thread reads all keys: no reduction", "barriers: every order of warps",
         "expected two reductions with barriers"),
        ("barriers for show, every thread reads all keys", "work: shared by all threads of a block",
         "reads of keys that another thread owns"),
        ("every thread adds up what all found", "work: shared by all threads of a block",
         "does one add up all?"))),
])
def test_a_kernel_that_does_not_share_its_work(name, check, told, graded):
    assert told in graded(KERNEL, named(KERNEL, name))[check]


def test_a_table_of_one_seed_is_worth_nothing_under_another(graded, monkeypatch):
    """Cases are drawn anew: what was answered right for seed 1 does not help with seed 2."""
    recorded, ask = {}, Local.ask

    def record(self, request, callbacks):
        results = ask(self, request, callbacks)
        recorded.update({repr((request["name"], call)): result for call, result in
                         zip(request["calls"], results, strict=True)})
        return results

    def look_up(self, request, callbacks):
        return [recorded.get(repr((request["name"], call))) for call in request["calls"]]

    right = solution_path("10_critic_picks").read_text()
    monkeypatch.setattr(Local, "ask", record)
    assert graded("10_critic_picks", right, seed=1) == {}
    monkeypatch.setattr(Local, "ask", look_up)
    assert graded("10_critic_picks", right, seed=1) == {}
    assert set(graded("10_critic_picks", right, seed=2)) >= {
        "auc: pairs, ties, one kind", "auc: 10,000 samples", "calibration_error: values",
        "pick: first", "pick: best", "pick: majority", "pick: weighted",
        "closed: the share and its interval"}


# ---- assignment 7 compiles its solution ----------------------------------------------------------

@pytest.mark.long
def test_a_read_out_of_bounds_is_shown_with_its_line(graded):
    source = solution_path(KERNEL).read_text()
    loop = "j < seen; j += THREADS) largest = fmaxf(largest, row[j]);"
    assert source.count(loop) == 1
    source = source.replace(loop, """j - t < seen; j += THREADS) {
    float x = row[j];
    if (j < seen) largest = fmaxf(largest, x);
}""")
    found = graded(KERNEL, source)
    number = source.splitlines().index("    float x = row[j];") + 1
    assert set(found) == {"memory: nothing out of bounds"}
    assert f"a read of 4 bytes out of bounds in line {number}: " in found[
        "memory: nothing out of bounds"]


@pytest.mark.long
def test_a_kernel_that_crashes_or_never_ends_costs_its_checks_only(graded, monkeypatch):
    at = "int seen = n_keys - n_queries + query + 1;"
    faults = """
    if (n_keys == 31) *(volatile int *)nullptr = 0;
    for (volatile bool on = n_keys == 258; on;) { }
"""
    need_host_compiler()
    import grading
    monkeypatch.setattr(grading.Limits, "__init__", lambda self: self.__dict__.update(
        seconds=8.0, total=300.0, megabytes=2048))
    found = graded(KERNEL, solution_path(KERNEL).read_text().replace(at, at + faults))
    assert set(found) == {"values: rows of any length", "mask: zeros where nothing is seen"}
    assert "SEGV" in found["values: rows of any length"]
    assert "an endless loop?" in found["mask: zeros where nothing is seen"]


def test_what_does_not_compile_says_so(graded):
    found = graded(KERNEL, solution_path(KERNEL).read_text().replace("int t = ", "int u = "))
    assert len(found) == len(grader(KERNEL)["CHECKS"])
    assert all("expected a file that compiles, came solution.cu:" in why for why in found.values())


def test_without_a_compiler_assignment_7_says_so_in_one_line(graded, monkeypatch):
    need_host_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit) as stop:
        graded(KERNEL, solution_path(KERNEL).read_text())
    assert str(stop.value.code).startswith("not graded: no-such-compiler not found: install g++")
    assert "\n" not in str(stop.value.code)


@pytest.mark.parametrize("line,told", [
    ('#include <thread>', 'including <thread> is not allowed; allowed: "vocabulary.h"'),
    ("int x = system(0);", "system is not allowed"),
    ("grader::counts.launches = 1;", "grader is not allowed"),
    ("#define launch(...) 0", "CUDA's words may not be defined anew"),
    ("emulator::current->index;", "emulator is not allowed"),
    ("#define A sys##tem", "## is not allowed"),
])
def test_a_kernel_may_say_nothing_but_a_kernel(line, told):
    broken = grader(KERNEL)["broken"]
    assert broken(solution_path(KERNEL).read_bytes()) == []
    assert f"line 2: {told}" in broken(b"// a comment: system\n" + line.encode())


@pytest.mark.parametrize(("body", "told"), [
    ("exit 0", "nvcc: compiles for a GPU as well (sm_80, sm_90)"),
    ("echo '/a/b/solution.cu(7): error: no' >&2; exit 1",
     "nvcc: does not compile for a GPU: solution.cu(7): error: no"),
])
def test_nvcc_is_asked_where_it_is_found(body, told, tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\n{body}\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(sys, "path", [*sys.path])
    grader(KERNEL)
    gpu_line = sys.modules["emulated"].gpu_line
    monkeypatch.setattr(build, "find_nvcc", no_nvcc)
    assert gpu_line(tmp_path / "solution.cu") == ""
    monkeypatch.setattr(build, "find_nvcc", lambda: str(nvcc))
    assert gpu_line(tmp_path / "solution.cu") == told
