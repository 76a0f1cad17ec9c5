"""How large the library is, counted one way for everybody.

    python tests/size.py [FOLDER]     lines of every package, and comprehensions per 100 lines

FOLDER is the root of a checkout, this one by default. Lines are all lines of Python files, blank
ones and docstrings included. `lesson and engine` are the packages without report, studies and the
loose files.
"""

import ast
import sys
from pathlib import Path

APART = ("report", "studies", ".")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def main(root: Path) -> dict[str, float]:
    """Print the table; returns its totals."""
    library, rows, longest = root / "minireason", {}, []
    for path in sorted(library.rglob("*.py")):
        text = path.read_text()
        package = path.relative_to(library).parent.parts[:1]
        lines, found = rows.setdefault(package[0] if package else ".", [0, 0])
        count = len(text.splitlines())
        inner = sum(isinstance(node, COMPREHENSIONS) for node in ast.walk(ast.parse(text)))
        rows[package[0] if package else "."] = [lines + count, found + inner]
        longest.append((count, str(path.relative_to(library))))
    total = {"library": sum(lines for lines, _ in rows.values()),
             "comprehensions": sum(found for _, found in rows.values()),
             "lesson and engine": sum(lines for name, (lines, _) in rows.items()
                                      if name not in APART)}
    for name, (lines, found) in rows.items():
        share = 100 * found / lines
        print(f"{name:<18}{lines:>7,} lines{share:>7.1f} comprehensions per 100")
    for name in ("lesson and engine", "library"):
        print(f"{name:<18}{total[name]:>7,} lines")
    total["per 100"] = 100 * total["comprehensions"] / total["library"]
    print(f"{'in all':<18}{total['comprehensions']:>7,} comprehensions, "
          f"{total['per 100']:.1f} per 100 lines")
    top = sorted(longest, reverse=True)[:5]
    print("longest: " + ", ".join(f"{name} {count}" for count, name in top))
    loose = [path.name for path in library.iterdir()
             if not path.is_dir() and path.suffix != ".pyc"]
    print(f"{len(loose)} loose files: {' '.join(sorted(loose))}")
    return total


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
