"""`minireason report`: a run's figures and page, and the README's blocks from committed results.

    report --run R                          R/figures/*.png and R/report.html, one file by itself
    report --runs A B C --readme README.md  keep the small files of A B C (one run per seed) in
                                            `reference`, then as below
    report --readme README.md               tables and figures from `reference` alone
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from minireason.core.config import PATHS, UserError, read_json, write_atomic
from minireason.report import page, style
from minireason.report import runs as results

BLOCKS = {   # name of the README's block: the folders beside `reference` whose studies it shows
    "addition": ("reproduce/seed-*",), "studies": ("ablations", "countdown", "scale")}
FIGURES = Path("docs/figures")


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
        return page.write_page(Path(cfg.run))
    if cfg.runs:
        keep_runs(cfg.runs, Path(cfg.reference))
    if cfg.readme:
        return write_readme(Path(cfg.readme), Path(cfg.reference))
    return Path(cfg.reference)


def keep_runs(runs: tuple[str, ...], reference: Path) -> None:
    """Copy the small files of each run to reference/seed-<seed>; UserError if they do not match."""
    loaded = [results.load_run(folder) for folder in runs]
    seeds = [run["pretrain"]["config"]["seed"] for run in loaded]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--runs: seeds {seeds}; give one run per seed")
    for folder, run in zip(runs, loaded, strict=True):
        if settings(run) != settings(loaded[0]):
            raise UserError(f"--runs: {folder} has other stages or settings than {runs[0]}; only "
                            "runs that differ in nothing but the seed can be averaged")
    targets = [reference / f"seed-{seed}" for seed in seeds]
    for path in sorted(reference.glob("seed-*")):
        if path not in targets or any(path.rglob("*.safetensors")):
            raise UserError(f"{path}: is not an older copy of these runs; delete it or choose "
                            "another --reference")
    for folder, target in zip(runs, targets, strict=True):
        results.keep(folder, target)


def settings(run: dict[str, dict]) -> dict:
    """Every stage's config without its seed and paths."""
    own = (*PATHS, "seed")
    return {name: {key: value for key, value in stage["config"].items() if key not in own}
            for name, stage in run.items()}


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
    drawn.mkdir(parents=True, exist_ok=True)
    whole = between(readme, whole, "results", results_block(folders, drawn))
    for name, patterns in BLOCKS.items():
        found = [path for pattern in patterns for path in sorted(reference.parent.glob(pattern))]
        block = "\n\n".join(filter(None, [study_block(path, drawn) for path in found]))
        if block and f"<!-- {name}:begin -->" in whole:
            whole = between(readme, whole, name, block)
    write_atomic(readme, whole)
    return readme


def between(readme: Path, whole: str, name: str, block: str) -> str:
    """The text with what stands between a block's marks replaced; UserError without the marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise UserError(f"{readme}: needs the lines {begin} and {end}, once and in this order")
    head, rest = whole.split(begin)
    return f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def image(name: str, text: str) -> str:
    """A figure of docs/figures, half a page wide."""
    return f'<img src="{FIGURES}/{name}.png" alt="{text}" width="49%">'


def results_block(folders: list[Path], drawn: Path) -> str:
    """Tables and figures of the reference runs and how they were made, from results.md.j2."""
    runs = [results.load_run(folder) for folder in folders]

    def picture(name: str, text: str, function, *arguments: object) -> str:
        style.save(drawn / f"{name}.png", function, runs, *arguments)
        return image(name, text)

    record = folders[0] / "config.json"
    minutes = [sum(stage["result"].get("seconds", 0) for stage in run.values()) / 60
               for run in runs]
    return page.render(
        "results.md.j2", runs=runs, picture=picture, minutes=sorted(minutes),
        size=read_json(record)["config"]["size"] if record.exists() else "?",
        machines=sorted({results.load_machine(folder) for folder in folders}))


def study_block(folder: Path, drawn: Path) -> str:
    """A study's tables as they are, each with the picture of its name, then the other pictures.

    Pictures are copied to docs/figures.
    """
    def order(path: Path) -> tuple[bool, str]:
        return not path.with_suffix(".md").exists(), path.name

    text = ""
    for path in sorted(folder.iterdir(), key=order):
        if path.suffix == ".md":
            text += "\n" + path.read_text(encoding="utf-8").strip() + "\n\n"
        elif path.suffix == ".png":
            name = f"{folder.name}-{path.stem}"
            shutil.copyfile(path, drawn / f"{name}.png")
            text += image(name, f"{folder.name}: {path.stem}") + "\n"
    return text.strip()
