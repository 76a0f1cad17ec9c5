"""`minireason report`: a run's figures and page, and all tables of the committed results.

    report --run R                          R/figures/*.png and R/report.html, one file by itself
    report --run R --ship S                 R's small files and every stage's weights in float16 as
                                            the run folder S, to start from
    report --runs A B C --readme README.md  keep the small files of A B C (one run per seed) in
                                            `reference`, then as below
    report --readme README.md               from `reference` alone: the README's results block, one
                                            table and one figure, and docs/RESULTS.md, all others

report.html shows the stages in the ladder's order (STAGES), those of one kind together, and needs
no other file. To add a section, write one block (a macro of sections.html.j2, listed in its
`sections` under the stage's kind) and one figure function that takes the runs (figures.py). A stage
without a block gets its rows as one table.
"""

import re
import shutil
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from minireason import stages
from minireason.core.config import from_dict
from minireason.core.errors import UserError
from minireason.core.files import read_json, write_atomic
from minireason.measure.evaluate import answer_of, marked_steps
from minireason.problems import FAMILIES, corpus
from minireason.report import copies, figures, figures_testtime, seeds, style, tables
from minireason.report import runs as results

BLOCKS = {   # block of RESULTS: what it shows of the studies beside `reference`, folders or files
    "controls": ("controls",), "thoughts": ("thoughts",), "nothing": ("from_nothing",),
    "budgets": ("budgets",), "internalize": ("internalize",), "obedience": ("obedience",),
    "splitting": ("splitting",), "planning": ("planning",), "stars": ("stars",),
    "programs": ("programs",), "addition": ("reproduce/*",),
    **{f"law-{law}": (f"scale/{law}*",)
       for law in ("pretrain", "rl", "testtime", "exchange", "search")},
    "countdown": ("countdown",), "bench": ("bench",), "studies": ("ablations",)}
RESULTS, FIGURES = Path("docs/RESULTS.md"), Path("docs/figures")    # beside the README
CORPUS_LINES = 10                 # of the pretraining text, on the page
MARKS = {"right": "✓", "wrong": "✗ wrong", "withdrawn": "↺ withdrawn by the policy"}


@dataclass(frozen=True)
class Config:
    """Figures and report.html of a run, or the README's results from several."""

    run: str = "runs/quickstart"  # run folder whose page is written
    ship: str = ""                # folder for a small copy of `run`, with weights in float16
    runs: tuple[str, ...] = ()    # finished run folders, one per seed: kept in `reference`
    reference: str = "data/reference/quickstart"   # small committed copies of runs
    readme: str = ""              # README to write from `reference`, and docs/RESULTS.md beside it


def run(cfg: Config) -> Path:
    """Write what is asked for; returns the path of the page, the README or the reference."""
    if cfg.ship:
        return copies.ship(Path(cfg.run), Path(cfg.ship))
    if not cfg.runs and not cfg.readme:
        return write_page(Path(cfg.run))
    if cfg.runs:
        copies.keep_runs(cfg.runs, Path(cfg.reference))
    if cfg.readme:
        return write_readme(Path(cfg.readme), Path(cfg.reference))
    return Path(cfg.reference)


def render(template: str, runs: list[dict], figures_folder: Path, **values: object) -> str:
    """A template of this folder; it may call what the report's modules offer, and `picture`."""
    def picture(name: str, function: Callable[..., Figure], *arguments: object) -> Path:
        return style.save(figures_folder / f"{name}.png", function, runs, *arguments)

    figures_folder.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined,
        autoescape=select_autoescape(["html.j2"]), trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"results": results, "seeds": seeds, "tables": tables,
                            "figures": figures, "testtime": figures_testtime, "picture": picture,
                            "runs": runs, "b64encode": b64encode, "MARKS": MARKS}
    environment.filters["markdown"] = tables.markdown
    return environment.get_template(template).render(values).strip()


def write_page(folder: Path) -> Path:
    """report.html with every figure inside, and the figures as PNG beside it; returns its path."""
    run = results.load_run(folder)
    kinds: dict[str, dict[str, dict]] = {}     # each where its last stage stands: all critics
    for name, stage in run.items():
        kinds[stage["stage"]] = {**kinds.pop(stage["stage"], {}), name: stage}
    path = folder / "report.html"
    write_atomic(path, render(
        "page.html.j2", [run], folder / "figures", title=f"minireason: {folder.name}", run=run,
        machine=results.load_machine(folder), kinds=kinds, completions=completions,
        marked_lines=marked_lines, band=seeds.committed_band(folder, run),
        help={stage.name: stage.help for stage in stages.STAGES},
        missing=[s.name for s in stages.STAGES if s.in_run and s.name not in run]) + "\n")
    return path


def completions(stage: dict, name: str) -> list[dict]:
    """The kept first samples on one set, with the verifier's marks."""
    family, found = FAMILIES[stage["config"]["family"]], []
    for record in stage["examples"][name]:
        problem, text = family.read(record["prompt"]), record["example"]
        verdict, kind = family.verify(problem, text), "wrong"
        if verdict.correct:
            kind = "right" if verdict.steps_valid else "right answer, wrong steps"
        found.append({"problem": problem, "text": text, "right": verdict.correct, "kind": kind,
                      "steps": marked_steps(problem, text), "answer": answer_of(problem, text),
                      "value": record["values"][0]})
    return found


def sample_thoughts(run: dict[str, dict]) -> list[str]:
    """A problem that the policy got wrong before RL and right after it, both thoughts marked.

    Lines of text, the problem first; none where no problem is of that kind.
    """
    before, after = (run.get(name, {}).get("examples", {}) for name in ("testtime", "rl_testtime"))
    for name in [*before][::-1]:
        if name not in after:
            continue
        for pair in zip(completions(run["testtime"], name), completions(run["rl_testtime"], name),
                        strict=False):
            if [found["kind"] for found in pair] == ["wrong", "right"]:
                return [pair[0]["problem"].prompt] + [
                    f"  {label:<9} " + "  ".join(f"{step} {MARKS[kind]}" for step, kind in
                                                 found["steps"]) + f"  -> {found['answer']}"
                    for label, found in zip(("before RL", "after RL"), pair, strict=True)]
    return []


def marked_lines(stage: dict) -> list[list[tuple[str, str]]]:
    """Lines of a pretraining text cut into (piece, its mistake or ""); [] if nobody errs."""
    family = FAMILIES[stage["config"]["family"]]
    mixture = from_dict(corpus.Mixture, stage["config"]["mixture"])
    lines = corpus.marked_corpus(family, mixture, CORPUS_LINES, stage["config"]["seed"])
    return lines if any(mistake for line in lines for _, mistake in line) else []


def write_readme(readme: Path, reference: Path) -> Path:
    """Replace the results blocks of the README and of RESULTS, from `reference`.

    The blocks of studies and of other families' runs (`<family>-quickstart` beside `quickstart`)
    stand in RESULTS; they are optional, and stay where nothing is there.
    """
    page, texts = readme.parent / RESULTS, {}
    for path in (readme, page):
        if not path.is_file():
            raise UserError(f"{path}: no such file; it needs the lines <!-- results:begin --> and "
                            "<!-- results:end -->")
        texts[path] = path.read_text(encoding="utf-8")
        between(path, texts[path], "results", "")   # refuse a file without marks before drawing
    folders = sorted(reference.glob("seed-*"))
    if not folders:
        raise UserError(f"{reference}: holds no seed-* folders; make it with minireason report "
                        "--runs RUN...")
    record, first = folders[0] / "config.json", next(iter(FAMILIES))
    family = read_json(record)["config"].get("family", first) if record.exists() else first
    if family != first:
        raise UserError(f"{reference}: holds runs of {family}, of which the README does not "
                        f"speak; give --readme with the --reference of {first} beside it")
    drawn = readme.parent / FIGURES
    for path, whole in texts.items():
        extent = "README" if path == readme else "all"
        block = results_block(folders, drawn, path.parent, extent)
        texts[path] = between(path, whole, "results", block)
    for family in FAMILIES:
        runs = sorted(reference.parent.glob(f"{family}-{reference.name}/seed-*"))
        if runs:
            block = results_block(runs, drawn / family, page.parent, "family")
            texts[page] = between(page, texts[page], f"run-{family}", block)
    for name, patterns in BLOCKS.items():
        block = ""
        for pattern in patterns:
            paths = sorted(reference.parent.glob(pattern))
            groups = [sorted(path.iterdir()) for path in paths if path.is_dir()] or [paths]
            block += "".join(study_block(files, drawn, page.parent) for files in groups)
        if block:
            texts[page] = between(page, texts[page], name, block.strip())
    for path, whole in texts.items():
        write_atomic(path, whole)
    return readme


def between(readme: Path, whole: str, name: str, block: str) -> str:
    """The text with what stands between a block's marks replaced; UserError without the marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise UserError(f"{readme}: needs the lines {begin} and {end}, once and in this order")
    head, rest = whole.split(begin)
    return f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def image(folder: Path, path: Path, text: str) -> str:
    """A figure, half a page wide, as a page in `folder` shows it."""
    return f'<img src="{path.relative_to(folder)}" alt="{text}" width="49%">'


def results_block(folders: list[Path], drawn: Path, seen_from: Path, extent: str) -> str:
    """Tables and figures of the reference runs and how they were made, from results.md.j2.

    extent: "README", one table and one figure; "family", those of another family; or "all".
    seen_from: the folder of the file that shows them.
    """
    runs = [results.load_run(folder) for folder in folders]
    record = folders[0] / "config.json"
    minutes = [sum(stage["result"].get("seconds", 0) for stage in run.values()) / 60
               for run in runs]
    block = render(
        "results.md.j2", runs, drawn, image=partial(image, seen_from), minutes=sorted(minutes),
        extent=extent, thoughts=sample_thoughts(runs[0]),
        controls=partial(seeds.control_rows, folders[0].parent),
        size=read_json(record)["config"]["size"] if record.exists() else "?",
        machines=sorted({results.load_machine(folder) for folder in folders}))
    return re.sub(r"\n{3,}", "\n\n", block)   # where a table is missing


def study_block(files: list[Path], drawn: Path, seen_from: Path) -> str:
    """A study's tables as they are, each with the picture of its name, then the other pictures."""
    text = ""
    for path in sorted(files, key=lambda path: not path.with_suffix(".md").exists()):
        if path.suffix == ".md":
            text += "\n\n" + path.read_text(encoding="utf-8").strip() + "\n"
        elif path.suffix == ".png":
            study = path.parent.name
            copy = shutil.copyfile(path, drawn / f"{study}-{path.name}")
            text += "\n" + image(seen_from, copy, f"{study}: {path.stem}")
    return text
