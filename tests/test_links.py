"""Links lead somewhere; a technique's lines are two clicks away, and its files few and short."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import links  # noqa: E402


def test_every_link_leads_somewhere_and_every_technique_to_its_lines():
    assert links.faults() == []
    assert sum(len(links.links_of(page)) for page in links.pages()) > 300


def test_files_are_short_and_names_are_said_once_and_in_full():
    modules = [path for path in (ROOT / "minireason").rglob("*.py") if path.stem != "__init__"]
    assert len({path.stem for path in modules}) == len(modules) > 100
    for path in modules:
        text = path.read_text()
        assert len(text.splitlines()) <= 240, path
        alone = {node.name for node in ast.walk(ast.parse(text)) if isinstance(
            node, ast.FunctionDef)} & {"draw", "search", "cell", "table", "collect"}
        assert not alone, (path, alone)


@pytest.mark.parametrize(("technique", "most"), [
    ("STaR", 6), ("reinforcement learning", 7), ("tree search", 5), ("sampler with KV cache", 3)])
def test_a_technique_is_read_from_few_files(technique, most):
    (row,) = [line.split("|") for line in (ROOT / "docs/index.md").read_text().splitlines()
              if line.startswith(f"| [{technique}](")]
    assert 1 < row[4].count("](") <= most


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A repository of two pages and a module; returns the technique's page."""
    (tmp_path / "docs" / "techniques").mkdir(parents=True)
    (tmp_path / "code.py").write_text("x = 1\n\n\ndef found():\n    pass\n")
    (tmp_path / "docs" / "index.md").write_text(
        "# Index\n\n| technique | paper |\n|---|---|\n| [one](techniques/one.md) | x |\n")
    page = tmp_path / "docs" / "techniques" / "one.md"
    page.write_text("# The one `thing`\n\n[`found`](../../code.py#L4) [up](../index.md#index)\n")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    return page


def test_a_sound_repository_has_no_faults_and_code_blocks_hold_no_links(small):
    small.write_text(small.read_text() + "```\n[no](link)\n```\n")
    assert links.faults() == []


@pytest.mark.parametrize(("old", "new", "said"), [
    ("../index.md#index", "../gone.md", "leads to no file"),
    ("../index.md#index", "../../../../etc", "leads to no file"),
    ("#index", "#other", "names no heading"),
    ("#L4", "#L3", r"should be #L4"),
    ("`found`", "`lost`", "names lost, which is not there"),
    ("[`found`](../../code.py#L4)", "nothing", "not two clicks from code")])
def test_each_fault_is_found(small, old, new, said):
    small.write_text(small.read_text().replace(old, new))
    assert any(said in fault for fault in links.faults())


def test_a_page_without_a_row_is_found(small):
    small.with_name("two.md").write_text("# Two\n")
    assert links.faults() == ["docs/techniques/two.md: no row of docs/index.md leads here"]


def test_a_page_that_leaves_out_its_tutorial_is_found(small):
    (small.parents[2] / "tutorials").mkdir()
    (small.parents[2] / "tutorials" / "01.py").touch()
    index = small.parents[1] / "index.md"
    index.write_text(index.read_text().replace("| x |", "| [01](../tutorials/01.py) |"))
    assert "has ../tutorials/01.py, to which its page does not" in "".join(links.faults())
    small.write_text(small.read_text() + "[tutorial](../../tutorials/01.py)\n")
    assert links.faults() == []


def test_fix_moves_a_link_to_where_its_name_stands(small):
    small.write_text(small.read_text().replace("#L4", "#L400"))
    links.fix()
    assert "[`found`](../../code.py#L4)" in small.read_text() and links.faults() == []
