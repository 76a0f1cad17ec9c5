"""Building the kernels: what is cached under which name, and that a failure is loud and whole."""

import shutil

import pytest

from cuda_ext import build, cache, mutate

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None,
                                    reason="NOT CHECKED: the emulator needs g++")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the sources, and a cache of its own."""
    copy = tmp_path / "cuda_ext"
    shutil.copytree(build.SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("MINIREASON_KERNEL_CACHE", str(tmp_path / "cache"))
    return copy


def test_the_hash_follows_every_source(sources):
    before = build.source_hash(sources)
    assert before == build.source_hash()
    for path in (sources / "tile.h", sources / "kernels" / "9_prompt.cu"):
        text = path.read_text()
        path.write_text(text + "\n")
        assert build.source_hash(sources) != before, path
        path.write_text(text)
    assert build.source_hash(sources) == before


@needs_compiler
def test_a_build_is_made_once_and_a_changed_flag_makes_another(sources, monkeypatch):
    text = 'extern "C" __attribute__((visibility("default"))) int error_text() { return 0; }'
    for path in (sources / "kernels").iterdir():       # small kernels, quick to compile
        path.write_text(text if path.stem == "7_norm_rope" else "\n")
    first = build.library("emulated", "fp32", 32, sources=sources)
    stamp = first.stat().st_mtime_ns
    assert build.library("emulated", "fp32", 32, sources=sources) == first
    assert first.stat().st_mtime_ns == stamp
    monkeypatch.setitem(build.HOST_MODES, "emulated", ("-O0",))
    second = build.library("emulated", "fp32", 32, sources=sources)
    assert second != first and second.exists() and first.exists()
    assert sorted(first.parent.iterdir()) == sorted([first, second])    # no leftovers


@needs_compiler
def test_a_compiler_error_is_shown_and_leaves_nothing_behind(sources):
    path = sources / "kernels" / "3_online.cu"
    path.write_text("this is not C++\n")
    with pytest.raises(build.BuildError, match=r"3_online\.cu:1"):
        build.library("emulated", "fp32", 128, sources=sources)
    assert not list(cache.folder().iterdir())


def test_missing_compilers_say_how_to_get_them(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    with pytest.raises(build.BuildError, match=r"install the CUDA toolkit .* or choose .*sdpa"):
        build.find_nvcc()
    assert not build.has_nvcc()
    with pytest.raises(build.BuildError, match=r"install g\+\+"):
        build.find_host_compiler()
    assert build.main(["--check"]) == 1


def test_ptxas_reports_are_read():
    text = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z18attention_backwardI6__halfLi128ELb1ELb0EEv13AttentionCall' for 'sm_90'
ptxas info    : Function properties for _Z18attention_backwardI6__halfLi128ELb1ELb0EEv13AttentionCall
    0 bytes stack frame, 48 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""  # noqa: E501
    assert build.parse_ptxas(text) == [{"kernel": "attention_backward 10", "arch": "sm_90",
                                        "registers": 255, "spill_bytes": 92}]


def test_the_recorded_mutations_name_every_barrier():
    """cuda_ext/README.md holds one line for each word that mutate.py deletes."""
    readme = (build.SOURCES / "README.md").read_text()
    wanted = [f"| {name} | {where} |" for name in mutate.SUITE for *_, where in mutate.sites(name)]
    assert not [line for line in wanted if line not in readme]
    assert sum(line.split(" | ")[0].removeprefix("| ") in mutate.SUITE
               for line in readme.splitlines()) == len(wanted)
