"""Makes executed notebooks of the tutorials, and keeps them in step with the scripts.

    python tutorials/notebooks.py [01 02 ...]         execute and write tutorials/notebooks/*.ipynb
    python tutorials/notebooks.py --prose [01 ...]    new prose into what was executed before

A notebook holds its script's cells behind a Colab link and a cell that installs what is missing.
Its metadata names the sha256 of the code that made its outputs; `faults` compares it with the
script, and the tests ask for none.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE / "notebooks"
LARGEST = 300_000                 # bytes of a committed notebook
ADDED = 2                         # cells before the script's own
COLAB = "https://colab.research.google.com/"
SETUP = '''import importlib.util
import os
import sys
from pathlib import Path

if importlib.util.find_spec("tutorial_tools") is None:
    above = [folder for folder in Path.cwd().parents if (folder / "tutorials").is_dir()]
    if not above:                 # not in a copy of the repository, as on Colab
        REPO = os.environ.get("REPO", "{repository}")
        !git clone -q "$REPO" minireason
        %pip install -q "./minireason[dev]"
        above = [Path("minireason").resolve()]
    sys.path.insert(0, str(above[0] / "tutorials"))'''


def scripts(names: list[str]) -> list[Path]:
    """The tutorials whose names begin with one of `names`, all if none is given."""
    found = [path for path in sorted(HERE.glob("[0-9]*.py"))
             if not names or path.name.startswith(tuple(names))]
    if not found:
        sys.exit(f"no tutorial begins with {' or '.join(names)}")
    return found


def code_sha256(notebook: NotebookNode) -> str:
    """Names the code of a notebook's own cells, and what all tutorials share."""
    digest = hashlib.sha256((HERE / "tutorial_tools.py").read_bytes())
    for cell in notebook.cells[ADDED:]:
        if cell.cell_type == "code":
            digest.update(b"\0" + cell.source.encode())
    return digest.hexdigest()


def notebook_of(script: Path, repository: str = "") -> NotebookNode:
    """The script's cells without outputs; repository is OWNER/NAME on GitHub, if it is there."""
    notebook = jupytext.read(script, fmt="py:percent")
    at = f"github/{repository}/blob/main/tutorials/notebooks/{script.stem}.ipynb"
    link = (f"[Open in Colab]({COLAB}{at})" if repository else
            f"[Open Colab]({COLAB}), then File, Upload notebook; REPO is the repository's address")
    address = f"https://github.com/{repository}" if repository else ""
    notebook.cells[:0] = [
        nbformat.v4.new_markdown_cell(link),
        nbformat.v4.new_code_cell(SETUP.replace("{repository}", address))]
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = {}
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "minireason": {"code_sha256": code_sha256(notebook), "repository": repository}}
    return notebook


def worth_keeping(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Text and figures; not progress, nor the object that a cell's last line happens to return.

    Texts that follow each other are one: where the kernel cut them is chance.
    """
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text if output.name == "stdout" else ""
        elif output.output_type == "execute_result":
            kept += [output] * ("image/png" in output.data)
        elif output.get("name") != "stderr":
            kept.append(output)
    return kept


def execute(notebook: NotebookNode, folder: Path, **client) -> str:
    """Run all cells in a kernel in the folder, outputs into the notebook; returns what was printed.

    CellExecutionError where a cell fails.
    """
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(folder)}},
                   **client).execute()
    printed = []
    for cell in notebook.cells:
        cell.metadata = {}                                # without the times of execution
        if cell.cell_type == "code":
            cell.outputs = worth_keeping(cell.outputs)
            printed += [x.text for x in cell.outputs if x.output_type == "stream"]
    notebook.metadata.pop("language_info", None)
    return "".join(printed)


def with_prose_of(executed: NotebookNode, fresh: NotebookNode) -> NotebookNode:
    """The fresh cells with the executed ones' outputs; ValueError if their code differs."""
    if executed.metadata["minireason"]["code_sha256"] != code_sha256(fresh):
        raise ValueError("the code has changed since it was executed")
    outputs = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell, done in zip((c for c in fresh.cells if c.cell_type == "code"), outputs, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    return fresh


def faults(path: Path) -> list[str]:
    """What is wrong with a committed notebook; empty if it is what its script says."""
    held, found = nbformat.read(path, as_version=4), []
    fresh = notebook_of(HERE / f"{path.stem}.py", held.metadata["minireason"]["repository"])
    if held.metadata["minireason"]["code_sha256"] != code_sha256(fresh):
        found.append("its outputs are of other code than the script's: "
                     f"python tutorials/notebooks.py {path.stem[:2]}")
    elif [c.source for c in held.cells] != [c.source for c in fresh.cells]:
        found.append("its prose is not the script's: python tutorials/notebooks.py --prose "
                     f"{path.stem[:2]}")
    if path.stat().st_size > LARGEST:
        found.append(f"larger than {LARGEST} bytes")
    if not any("image/png" in x.get("data", {}) for c in held.cells for x in c.get("outputs", [])):
        found.append("without a figure")
    return found


def write(notebook: NotebookNode, path: Path) -> None:
    """The notebook as a file, with what it holds said in a line."""
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """The commands above."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="first digits of tutorials; default: all")
    parser.add_argument("--prose", action="store_true", help="change the text cells alone")
    parser.add_argument("--repository", default="", help="OWNER/NAME on GitHub, for the Colab link")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.setdefault("MINIREASON_RUN", str(HERE.parent / "data" / "quickstart"))
    NOTEBOOKS.mkdir(exist_ok=True)
    for script in scripts(args.names):
        path, notebook = NOTEBOOKS / f"{script.stem}.ipynb", notebook_of(script, args.repository)
        if args.prose:
            if path.exists():
                write(with_prose_of(nbformat.read(path, as_version=4), notebook), path)
            continue
        execute(notebook, NOTEBOOKS)
        write(notebook, path)


if __name__ == "__main__":
    main()
