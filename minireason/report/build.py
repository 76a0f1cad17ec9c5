"""`minireason report`: a run's figures and page, and the README's blocks from committed results.

    report --run R                          R/figures/*.png and R/report.html, one file by itself
    report --runs A B C --readme README.md  keep the small files of A B C (one run per seed) in
                                            `reference`, then as below
    report --readme README.md               tables and figures from `reference` alone

report.html shows the stages in the ladder's order (STAGES), those of one kind together, and needs
no other file. To add a section, write one block (a macro of sections.html.j2, listed in its
`sections` under the stage's kind) and one figure function that takes the runs (figures.py). A stage
without a block gets its rows as one table.
"""

import shutil
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from minireason import stages
from minireason.core.config import UserError, read_json, write_atomic
from minireason.measure.evaluate import answer_of, marked_steps
from minireason.problems import FAMILIES
from minireason.report import figures, figures_testtime, style, tables
from minireason.report import runs as results

BLOCKS = {   # name of the README's block: the folders beside `reference` whose studies it shows
    "addition": ("reproduce/seed-*",), "studies": ("ablations", "countdown", "scale")}
FIGURES = Path("docs/figures")
PATHS = ("out", "init", "base", "start", "policy", "critic", "outcome", "reviser",
         "seed")              # may differ between runs that are averaged
MARKS = {"right": "✓", "wrong": "✗ wrong", "withdrawn": "↺ withdrawn by the policy"}


@dataclass(frozen=True)
class Config:
    """Figures and report.html of a run, or the README's results from several."""

    run: str = "runs/quickstart"  # run folder whose page is written
    runs: tuple[str, ...] = ()    # finished run folders, one per seed: kept in `reference`
    reference: str = "data/reference/quickstart"   # small committed copies of runs
    readme: str = ""              # file whose results block is written from `reference`


def run(cfg: Config) -> Path:
    """Write what is asked for; returns the path of the page, the README or the reference."""
    if not cfg.runs and not cfg.readme:
        return write_page(Path(cfg.run))
    if cfg.runs:
        keep_runs(cfg.runs, Path(cfg.reference))
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
    environment.globals |= {"results": results, "tables": tables, "figures": figures,
                            "testtime": figures_testtime, "picture": picture, "runs": runs,
                            "b64encode": b64encode, "MARKS": MARKS}
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


def keep_runs(runs: tuple[str, ...], reference: Path) -> None:
    """Copy the small files of each run to reference/seed-<seed>; UserError if they do not match."""
    configs = []
    for folder in runs:
        loaded = results.load_run(folder)
        configs.append({name: stage["config"] for name, stage in loaded.items()})
    seeds = [config["pretrain"]["seed"] for config in configs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--runs: seeds {seeds}; give one run per seed")
    for folder, config in zip(runs, configs, strict=True):
        for stage in config.values():
            for key in PATHS:
                stage.pop(key, None)
        if config != configs[0]:
            raise UserError(f"--runs: {folder} has other stages or settings than {runs[0]}; only "
                            "runs that differ in nothing but the seed can be averaged")
    targets = [reference / f"seed-{seed}" for seed in seeds]
    for path in sorted(reference.glob("seed-*")):
        if path not in targets or any(path.rglob("*.safetensors")):
            raise UserError(f"{path}: is not an older copy of these runs; delete it or choose "
                            "another --reference")
    for folder, target in zip(runs, targets, strict=True):
        results.keep(folder, target)


def write_readme(readme: Path, reference: Path) -> Path:
    """Replace the README's results block, from `reference`, and those of studies beside it.

    Figures go to docs/figures. A block of studies is optional, and stays where nothing is there.
    """
    if not readme.is_file():
        raise UserError(f"{readme}: no such file")
    whole = readme.read_text(encoding="utf-8")
    between(readme, whole, "results", "")           # refuse a file without marks before drawing
    folders = sorted(reference.glob("seed-*"))
    if not folders:
        raise UserError(f"{reference}: holds no seed-* folders; make it with minireason report "
                        "--runs RUN...")
    drawn = readme.parent / FIGURES
    whole = between(readme, whole, "results", results_block(folders, drawn))
    for name, patterns in BLOCKS.items():
        block = ""
        for pattern in patterns:
            for folder in sorted(reference.parent.glob(pattern)):
                block += study_block(folder, drawn)
        if block and f"<!-- {name}:begin -->" in whole:
            whole = between(readme, whole, name, block.strip())
    write_atomic(readme, whole)
    return readme


def between(readme: Path, whole: str, name: str, block: str) -> str:
    """The text with what stands between a block's marks replaced; UserError without the marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise UserError(f"{readme}: needs the lines {begin} and {end}, once and in this order")
    head, rest = whole.split(begin)
    return f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def image(path: Path, text: str) -> str:
    """A figure of docs/figures, half a page wide."""
    return f'<img src="{FIGURES}/{path.name}" alt="{text}" width="49%">'


def results_block(folders: list[Path], drawn: Path) -> str:
    """Tables and figures of the reference runs and how they were made, from results.md.j2."""
    runs = [results.load_run(folder) for folder in folders]
    record = folders[0] / "config.json"
    minutes = [sum(stage["result"].get("seconds", 0) for stage in run.values()) / 60
               for run in runs]
    return render(
        "results.md.j2", runs, drawn, image=image, minutes=sorted(minutes),
        size=read_json(record)["config"]["size"] if record.exists() else "?",
        machines=sorted({results.load_machine(folder) for folder in folders}))


def study_block(folder: Path, drawn: Path) -> str:
    """A study's tables as they are, each with the picture of its name, then the other pictures."""
    text = ""
    files = sorted(folder.iterdir())
    for path in sorted(files, key=lambda path: not path.with_suffix(".md").exists()):
        if path.suffix == ".md":
            text += "\n\n" + path.read_text(encoding="utf-8").strip() + "\n"
        elif path.suffix == ".png":
            copy = shutil.copyfile(path, drawn / f"{folder.name}-{path.name}")
            text += "\n" + image(copy, f"{folder.name}: {path.stem}")
    return text
