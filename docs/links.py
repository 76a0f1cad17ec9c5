"""Follow every link of the documentation: files, headings, lines that implement a technique.

    python docs/links.py          say what leads nowhere; exit code 1 if anything does
    python docs/links.py --fix    first move links to lines of Python to where their names stand now

A link to a line is written [`name`](path/of/module.py#L12), and line 12 must begin the function or
class `name`. A reader comes from docs/index.md to the lines of any technique in two clicks: each
row's first link is a page, and each page has such a link, and links to its row's tutorials.
Addresses of the web are not called.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"!?\[([^\]]*)\]\(([^()\s]+)\)|<img src=\"([^\"]+)\"")


def pages() -> list[Path]:
    """Every Markdown file that a reader may open."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("cuda_ext/*.md")]
    found += [*ROOT.glob("docs/**/*.md"), *ROOT.glob("tutorials/**/*.md")]
    return sorted(found)


def text_of(page: Path) -> str:
    """A page without its blocks of code, in which nothing is a link; lines keep their numbers."""
    whole = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), whole, flags=re.M | re.S)


def links_of(page: Path) -> list[tuple[str, str]]:
    """(text, address) of every link and picture of a page."""
    return [(m[1] or "", m[2] or m[3]) for m in LINK.finditer(text_of(page))]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text_of(page), re.M):
        words = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
        found.add(re.sub(r" +", "-", words.strip()))
    return found


def lines_of(module: Path) -> dict[str, int]:
    """{name: line} of a module's functions and classes."""
    body = ast.parse(module.read_text(encoding="utf-8")).body
    return {node.name: node.lineno for node in body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def fault_of(page: Path, text: str, address: str) -> str:
    """What is wrong with a link, "" if nothing."""
    if address.startswith(("https://", "http://", "mailto:")):
        return ""
    path, _, anchor = address.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return "leads to no file"
    if not anchor:
        return ""
    if target.suffix == ".md":
        return "" if anchor in anchors_of(target) else "names no heading there"
    name = text.strip("`")
    stands = lines_of(target).get(name) if target.suffix == ".py" else None
    if stands is None:
        return f"names {name}, which is not there"
    return "" if anchor == f"L{stands}" else f"should be #L{stands} (--fix)"


def faults() -> list[str]:
    """Everything that leads nowhere, and every technique without its two clicks."""
    found = []
    for page in pages():
        for text, address in links_of(page):
            fault = fault_of(page, text, address)
            if fault:
                found.append(f"{page.relative_to(ROOT)}: [{text}]({address}) {fault}")
    index = ROOT / "docs" / "index.md"
    rows = [line for line in index.read_text(encoding="utf-8").splitlines()
            if line.startswith("| ") and not line.startswith("| technique")]
    reached = set()
    for row in rows:
        first = LINK.search(row.split("|")[1])
        page = index.parent / (first[2] if first else "")
        code = [a for _, a in links_of(page) if "#L" in a or a.endswith(".cu")] \
            if page.is_file() else []
        if not code:
            found.append(f"docs/index.md: {row.split('|')[1].strip()} is not two clicks from code")
        linked = {(page.parent / a).resolve() for _, a in links_of(page)} if page.is_file() else ()
        found += [f"docs/index.md: {row.split('|')[1].strip()} has {address}, to which its page "
                  "does not link" for _, address, _ in LINK.findall(row)
                  if "/tutorials/" in address and (index.parent / address).resolve() not in linked]
        reached.add(page.resolve())
    found += [f"{page.relative_to(ROOT)}: no row of docs/index.md leads here"
              for page in (ROOT / "docs" / "techniques").glob("*.md") if page not in reached]
    return found


def fix() -> None:
    """Move every link to a line of Python to where its name stands now."""
    for page in pages():
        def moved(match: re.Match, page: Path = page) -> str:
            text, address = match[1] or "", match[2] or ""
            path, _, anchor = address.partition("#")
            if not path.endswith(".py") or not anchor:
                return match[0]
            line = lines_of((page.parent / path).resolve()).get(text.strip("`"))
            return f"[{text}]({path}#L{line})" if line else match[0]

        whole = page.read_text(encoding="utf-8")
        new = LINK.sub(moved, whole)
        if new != whole:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    if "--fix" in sys.argv:
        fix()
    wrong = faults()
    count = sum(len(links_of(page)) for page in pages())
    print(*wrong, f"{count} links, {len(wrong)} lead nowhere", sep="\n")
    sys.exit(bool(wrong))
