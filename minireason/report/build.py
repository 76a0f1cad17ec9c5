"""`minireason report`: a run's figures and page, and the README's table from committed results.

    report --run R                          R/figures/*.png and R/report.html, one file by itself
    report --runs A B C --readme README.md  keep the small files of A B C (one run a seed) in
                                            `reference`, then as below
    report --readme README.md               table and figures from `reference` alone
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from minireason.core.config import write_atomic
from minireason.report import readme
from minireason.report import sections as page
from minireason.report import sections_scale as page_scale
from minireason.report.markup import Page
from minireason.report.runs import load_machine, load_run

SECTIONS = (page.missing, page.ladder, page.pretraining, page.star, page_scale.rl, page.testtime,
            page.calibration, page_scale.critics, page_scale.revise, page_scale.search,
            page_scale.flywheel, page.samples, page.cost)
CSS = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fdfdfd; --line: #d5d5d5;
  --good: #00694d; --bad: #b34700; --soft: #f1f3f5 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #17191c; --line: #3b3f45;
  --good: #4fd1ab; --bad: #ff9a5c; --soft: #22262b } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 1240px; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem;
  border-top: 1px solid var(--line); padding-top: 1rem } h3 { font-size: 1rem; margin: 1rem 0 0 }
p { max-width: 75ch; margin: .5rem 0 }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px),
  1fr)); margin: .75rem 0 }
figure { margin: 0 } img { width: 100%; max-width: 600px; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; display: block }
figcaption { font-size: .85rem; padding: .25rem 0 }
.wide { overflow-x: auto; margin: .5rem 0 } table { border-collapse: collapse; font-size: .85rem;
  font-variant-numeric: tabular-nums } th, td { padding: .25rem .6rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap }
th { white-space: normal } th:first-child, td:first-child { text-align: left }
summary { cursor: pointer; padding: .3rem 0 }
code { font-size: .9em; overflow-wrap: anywhere } ol { margin: .25rem 0; padding-left: 2rem }
.samples { display: grid; gap: .75rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)) }
.sample { background: var(--soft); border-radius: 6px; padding: .25rem .75rem }
.right { color: var(--good) } .wrong { color: var(--bad); font-weight: 600 }
.withdrawn { opacity: .7; text-decoration: line-through }
"""


@dataclass(frozen=True)
class Config:
    """Figures and report.html of a run, or the README's results from several."""

    run: str = "runs/quickstart"  # run folder whose page is written
    runs: tuple[str, ...] = ()    # finished run folders, one a seed: kept in `reference`
    reference: str = "data/reference/quickstart"   # small committed copies of runs
    readme: str = ""              # file whose results block is written from `reference`
    levels: tuple[int, ...] = ()  # levels of the README's table; default: the three hardest


def run(cfg: Config) -> Path:
    """Write what is asked for; returns the path of the page, the README or the reference."""
    if not cfg.runs and not cfg.readme:
        return write_page(Path(cfg.run))
    if cfg.runs:
        readme.keep_runs(cfg.runs, Path(cfg.reference))
    if not cfg.readme:
        return Path(cfg.reference)
    return readme.write(Path(cfg.readme), Path(cfg.reference), cfg.levels)


def write_page(folder: Path) -> Path:
    """report.html with every figure inside, and the figures as PNG beside it."""
    content = Page(load_run(folder), load_machine(folder), folder / "figures")
    content.figures.mkdir(exist_ok=True)
    body = "".join(part(content) for part in SECTIONS)
    title = f"minireason: {folder.name}"
    path = folder / "report.html"
    write_atomic(path, '<!doctype html><html lang="en"><head><meta charset="utf-8">'
                 '<meta name="viewport" content="width=device-width, initial-scale=1">'
                 f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
                 f"<h1>{escape(title)}</h1>{body}</body></html>\n")
    return path
