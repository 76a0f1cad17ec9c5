"""MkDocs hook: what the pages link to outside docs/ becomes part of the site, with line numbers.

A linked Markdown file is a page, source code a page with an anchor per line; `#L12`, as GitHub has
it, becomes the anchor of line 12. So a technique leads to its lines without another host.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^()\s#]+)(#[^()\s]*)?(\))")
LANGUAGES = {".py": "python", ".cu": "cpp", ".cpp": "cpp", ".h": "cpp", ".toml": "toml"}


def place(address: str, page: str) -> str:
    """Where a relative link of a page of the repository leads, seen from the repository's top."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), address))


def site_page_of(path: str) -> str:
    """The site's source file for a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"source/{path}/folder.md"
    return f"source/{path}" if path.endswith((".md", ".png")) else f"source/{path}.md"


def rewritten(text: str, page: str) -> str:
    """A page's text with its links to files outside docs/ leading to their pages here."""
    def moved(match: re.Match) -> str:
        path = place(match[2], page)
        if ":" in match[2] or not (ROOT / path).exists():
            return match[0]
        target = posixpath.relpath(site_page_of(path), posixpath.dirname(site_page_of(page)))
        anchor = re.sub(r"^#L(\d+)$", r"#__codelineno-0-\1", match[3] or "")
        return f"{match[1]}{target}{anchor}{match[4]}"

    return LINK.sub(moved, text)


def content_of(path: str) -> str:
    """The Markdown of a page made from a file or folder of the repository."""
    source = ROOT / path
    if source.is_dir():
        names = sorted(name for name in os.listdir(source) if name[0] not in "._")
        return f"# {path}\n\n" + "".join(f"- `{name}`\n" for name in names)
    text = source.read_text(encoding="utf-8")
    if path.endswith(".md"):
        return rewritten(text, path)
    language = LANGUAGES.get(source.suffix, "text")
    return f'# {path}\n\n````` {{ .{language} linenums="1" }}\n{text}\n`````\n'


def on_files(files: Files, config) -> Files:
    """Add a page for everything outside docs/ that a page, or such a page, links to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for match in LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
            path = place(match[2], page)
            if ":" in match[2] or path in seen or path.startswith(("docs/", "..")):
                continue
            if not (ROOT / path).exists():
                continue
            seen.add(path)
            if path.endswith(".png"):
                content: str | bytes = (ROOT / path).read_bytes()
            else:
                content = content_of(path)
            files.append(File.generated(config, site_page_of(path), content=content))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page, **_: object) -> str:
    """Links of the pages of docs/ themselves."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    return rewritten(markdown, f"docs/{page.file.src_uri}")
