"""The parts that every section of report.html is put together from."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

from minireason.report import figures


@dataclass(frozen=True)
class Page:
    """What a section works from."""

    run: dict[str, dict]          # results.load_run
    machine: str
    figures: Path                 # folder of the PNG files

    def figure(self, name: str, alt: str, function, *arguments) -> str:
        """Draw `function([run], *arguments)` into the folder and embed it."""
        path = figures.save(self.figures / f"{name}.png", function, [self.run], *arguments)
        data = base64.b64encode(path.read_bytes()).decode()
        return (f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(alt)}</figcaption></figure>")


def section(title: str, *parts: str) -> str:
    """A titled section."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def text(*sentences: str) -> str:
    """A paragraph."""
    return f"<p>{escape(' '.join(sentences))}</p>"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                   for row in rows)
    return (f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
            "</table></div>")


def grid(*parts: str, kind: str = "grid") -> str:
    """Figures (or, with kind "samples", narrower parts) side by side where there is room."""
    return f'<div class="{kind}">{"".join(parts)}</div>'


def share(point: dict) -> str:
    """An accuracy with its interval, in percent."""
    return f"{100 * point['accuracy']:.1f} [{100 * point['low']:.1f}, {100 * point['high']:.1f}]"


def percent(value: float | None) -> str:
    """A share in percent, a dash for a share of nothing."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(difference: dict) -> str:
    """A difference of accuracies with its interval, in points."""
    return (f"{100 * difference['mean']:+.1f} [{100 * difference['low']:+.1f}, "
            f"{100 * difference['high']:+.1f}]")
