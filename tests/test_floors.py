"""The house itself: imports point down, stages know nothing of each other, nothing is left open."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from minireason.cli import commands

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "minireason"
FILES = sorted(p for p in LIBRARY.rglob("*.py") if p.name != "__main__.py")


def floors() -> dict[str, int]:
    """{module or folder of minireason/: floor}, from docs/architecture.md, always right."""
    rows = re.findall(r"^\| (\d) \| `([^`]+)`", (ROOT / "docs/architecture.md").read_text(),
                      re.MULTILINE)
    return {word.strip("/"): int(floor) for floor, words in rows for word in words.split()}


def module_of(path: Path) -> str:
    """Dotted name below minireason: "model", "stages.sft", "stages" for its __init__."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Modules below minireason that a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = {s for s in submodules if s.removeprefix("minireason.") in MODULES}
            found |= inner or {node.module}
    return {name.removeprefix("minireason.") for name in found if name.startswith("minireason.")}


def test_every_module_has_its_floor_in_the_architecture():
    listed = floors()
    assert set(listed.values()) == set(range(6))
    assert {name.partition(".")[0] for name in MODULES if name} == set(listed)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_down(name):
    listed = floors()
    own = listed[name.partition(".")[0]]
    for imported in imports_of(MODULES[name]):
        theirs = listed[imported.partition(".")[0]]
        assert theirs <= own, f"{name} (floor {own}) imports {imported} (floor {theirs})"


@pytest.mark.parametrize(("family", "study"), [
    ("instructions", "obedience"), ("decomposition", "splitting")])
def test_a_family_is_one_file_and_only_its_rows_and_its_study_name_it(family, study):
    known = {f"problems.{family}", "problems", "presets", f"studies.{study}"}
    assert len(MODULES[f"problems.{family}"].read_text().splitlines()) <= 250
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            named = [getattr(node, field, None) for field in ("id", "attr", "value", "module")]
            named += [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            found = [one for one in named if isinstance(one, str)
                     and one.rpartition(".")[2] == family]
            assert name in known or not found, f"{name} names {family}"


def test_no_stage_imports_a_stage():
    for name in MODULES:
        if name.startswith("stages."):
            assert not any(i.startswith("stages") for i in imports_of(MODULES[name])), name


def test_no_import_cycles():
    graph = {name: imports_of(path) - {name} for name, path in MODULES.items()}
    list(TopologicalSorter(graph).static_order())        # raises CycleError


def test_every_module_has_a_name_of_its_own():
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert len(names) == len(set(names)), sorted(n for n in set(names) if names.count(n) > 1)


def test_functions_are_named_in_full():
    """A name says what the function returns or does; these alone say neither."""
    vague = {"draw", "search", "cell", "table", "collect"}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                assert node.name not in vague, f"{path.name}: {node.name}"


def test_kernels_know_nothing_of_the_library():
    """Only the scripts that measure the library's own calls may import it."""
    scripts = {"bench.py", "end_to_end.py", "gpu_check.py"}
    for path in (ROOT / "cuda_ext").rglob("*.py"):
        assert path.name in scripts or not imports_of(path), path.name


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)
               and not any("Function" in ast.unparse(base) for base in node.bases)]   # autograd's
    for node in [*tree.body, *(node for c in classes for node in c.body)]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"line {node.lineno}: {node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_is_left_open_or_hidden(path):
    """No stub, no swallowed error, no pickle, no hidden state, no arguments passed on unseen."""
    source = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError|torch\.load)\b", source)
    for node in ast.walk(ast.parse(source)):
        where = f"line {getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Global), f"{where}: module state"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
            assert not all(isinstance(n, ast.Pass) for n in node.body), f"{where}: swallowed error"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            assert "pickle" not in names, f"{where}: pickle"
        if isinstance(node, ast.arguments) and node.kwarg:
            assert node.kwarg.arg != "kwargs", f"{where}: **kwargs"


def test_packages_are_listed_and_listed_ones_exist():
    """A package that is not listed would be missing from an installed wheel."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    moved = setup["package-dir"]
    folders = {name: ROOT / moved.get(name, name.replace(".", "/")) for name in setup["packages"]}
    for name, folder in folders.items():
        assert folder.is_dir(), f"{name} is listed but {folder} does not exist"
    holding = {path.parent for top in ("minireason", "cuda_ext")
               for path in (ROOT / top).rglob("*.py") if "_build" not in path.parts}
    assert holding <= set(folders.values())


def test_commands_lead_to_modules():
    for function, _ in commands().values():
        module = function.partition(":")[0]
        assert module.removeprefix("minireason.") in MODULES


def test_size_of_the_library(capsys):
    """Prints the number of lines: all, and those with code (no blank, comment or docstring)."""
    total = sum(len(path.read_text().splitlines()) for path in FILES)
    code = 0
    for path in FILES:
        tree = ast.parse(path.read_text())
        strings = {line for node in ast.walk(tree)
                   if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                   for line in range(node.lineno, node.end_lineno + 1)}
        code += sum(bool(line.strip()) and not line.strip().startswith("#") and n not in strings
                    for n, line in enumerate(path.read_text().splitlines(), 1))
    with capsys.disabled():
        print(f"\nlibrary: {total:,} lines in {len(FILES)} files, {code:,} of them code")
    assert 0 < code < total
