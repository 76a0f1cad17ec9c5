"""The README's results: a table and figures from committed copies of runs, one a seed.

All that stands between the two marks is written here, so that no number of the README is typed by
hand; every table ends with the command, the sizes, n, the seeds and the machine that made it.
"""

from pathlib import Path

from minireason.core.config import UserError, from_dict, read_json, write_atomic
from minireason.report import figures, figures_scale, figures_search
from minireason.report import tables as readme_tables
from minireason.report.runs import keep, load_machine, load_run, rungs
from minireason.studies import ablate
from minireason.studies import lee2023 as reproduce
from minireason.studies import scaling_figures as scale_figures
from minireason.studies import stream_of_search_curves as countdown_curves

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
ADDITION = "<!-- addition:begin -->", "<!-- addition:end -->"      # may be missing
STUDIES = "<!-- studies:begin -->", "<!-- studies:end -->"         # may be missing
FIGURES = Path("docs/figures")
PATHS = ("out", "init", "base", "start", "policy", "critic", "outcome", "reviser",
         "seed")              # may differ


def keep_runs(runs: tuple[str, ...], reference: Path) -> None:
    """Copy the small files of each run to reference/seed-<seed>; UserError if they do not match."""
    loaded = [load_run(folder) for folder in runs]
    seeds = [run["pretrain"]["config"]["seed"] for run in loaded]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--runs: seeds {seeds}; give one run a seed")
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
        keep(folder, target)


def settings(run: dict[str, dict]) -> dict:
    """Every stage's config without its seed and paths."""
    return {name: {key: value for key, value in stage["config"].items() if key not in PATHS}
            for name, stage in run.items()}


def write(readme: Path, reference: Path, levels: tuple[int, ...]) -> Path:
    """Replace the README's results block; the figures go to docs/figures beside it.

    Where the README has marks for them, the addition table is made from reference/../reproduce and
    the studies from the folders beside it.
    """
    if not readme.is_file():
        raise UserError(f"{readme}: no such file")
    whole = readme.read_text(encoding="utf-8")
    between(readme, whole, (BEGIN, END), "")        # refuse a file without marks before drawing
    folders = sorted(reference.glob("seed-*"))
    if not folders:
        raise UserError(f"{reference}: holds no seed-* folders; make it with minireason report "
                        "--runs RUN...")
    runs = [load_run(folder) for folder in folders]
    images = draw(runs, readme.parent / FIGURES)
    tables = [readme_tables.accuracy(runs, levels), readme_tables.differences(runs),
              readme_tables.rl_levels(runs), readme_tables.rl(runs), readme_tables.search(runs)]
    block = "\n\n".join([*filter(None, tables), provenance(runs, folders), images])
    whole = between(readme, whole, (BEGIN, END), block)
    if ADDITION[0] in whole:
        whole = between(readme, whole, ADDITION, addition_tables(reference.parent / "reproduce"))
    if STUDIES[0] in whole:
        whole = between(readme, whole, STUDIES, studies(reference.parent, readme.parent))
    write_atomic(readme, whole)
    return readme


def between(readme: Path, whole: str, marks: tuple[str, str], block: str) -> str:
    """The text with what stands between two marks replaced; UserError if they are not there."""
    begin, end = marks
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise UserError(f"{readme}: needs the lines {begin} and {end}, once and in this order")
    head, rest = whole.split(begin)
    return f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def addition_tables(folder: Path) -> str:
    """Lee 2023's table from the finished cells under folder/seed-*; UserError without any."""
    tables = []
    for path in sorted(folder.glob("seed-*")):
        cfg = from_dict(reproduce.Config, read_json(path / "config.json")["config"])
        if cells := [read_json(found) for found in sorted(path.glob("cells/*.json"))]:
            tables.append(reproduce.table(cfg, cells) + "\nMade by `minireason reproduce --size "
                          f"{cfg.size} --seed {cfg.seed}` on: {load_machine(path)}.")
    if not tables:
        raise UserError(f"{folder}: holds no seed-*/cells/*.json; make them with minireason "
                        f"reproduce --out {folder}/seed-0")
    return "\n\n".join(tables)


def studies(reference: Path, root: Path) -> str:
    """Ablations, countdown and scaling laws: their tables and figures, redrawn from results."""
    parts, drawn = [], root / FIGURES
    drawn.mkdir(parents=True, exist_ok=True)
    for stage in ablate.STUDIES:
        path = reference / "ablations" / f"{stage}.json"
        if path.exists():
            figures.save(drawn / f"ablate_{stage}.png", ablate.draw, read_json(path))
            parts += [f"`minireason ablate --stage {stage} --runs RUN...`:",
                      ablate.markdown(read_json(path)),
                      image(f"ablate_{stage}", f"Ablation of {stage}")]
    path = reference / "countdown" / "result.json"
    if path.exists():
        cells = read_json(path)["cells"]
        figures.save(drawn / "countdown.png", countdown_curves.coverage, cells)
        arms = [cell["arm"] for cell in cells if cell["seed"] == cells[0]["seed"]]
        after = [arm.removesuffix("+rl") for arm in arms if arm.endswith("+rl")]
        command = " --rl ".join([f"--arms {' '.join(a for a in arms if '+' not in a)}",
                                 *([" ".join(after)] if after else [])])
        seeds = " ".join(str(seed) for seed in sorted({cell["seed"] for cell in cells}))
        parts += [f"`minireason countdown --init 'runs/s{{seed}}/star' --seeds {seeds} {command}`:",
                  countdown_curves.summary(cells), image("countdown", "Countdown")]
    path = reference / "scale" / "result.json"
    if path.exists():
        found = scale_figures.draw_all(read_json(path), drawn, "scale-")
        parts.append("`minireason scale --rl RUN/rl... --testtime RUN/testtime... --search "
                     "RUN/search...`:")
        parts.append("\n".join(image(figure.stem, figure.stem) for figure in found))
    return "\n\n".join(part.strip() for part in parts)


def image(name: str, text: str) -> str:
    """A figure of docs/figures, half a page wide."""
    return f'<img src="{FIGURES}/{name}.png" alt="{text}" width="49%">'


def provenance(runs: list[dict], folders: list[Path]) -> str:
    """How the numbers were made, and how to read them."""
    seeds = [str(run["pretrain"]["config"]["seed"]) for run in runs]
    seconds = [sum(stage["result"].get("seconds", 0) for stage in run.values()) for run in runs]
    sizes = sorted({point["n"] for run in runs for points in rungs(run).values()
                    for point in points.values()})
    record = folders[0] / "config.json"
    size = read_json(record)["config"]["size"] if record.exists() else "?"
    parameters = runs[0]["pretrain"]["result"].get("parameters")
    machines = " / ".join(sorted({load_machine(folder) for folder in folders}))
    return (f"Mean over seeds {', '.join(seeds)} [mean of the seeds' 95% intervals over problems] "
            f"(lowest to highest seed); stages answer greedily, n = "
            f"{' to '.join(map(str, sizes))} frozen test problems a level and seed. Coverage asks "
            "the verifier which sample is right: an oracle bound, not a method. Made by "
            f"`minireason run --size {size} --seed S`"
            + (f" ({parameters:,} parameters)" if parameters else "")
            + f" in {min(seconds) / 60:.1f} to {max(seconds) / 60:.1f} minutes a seed on: "
            f"{machines}.")


def draw(runs: list[dict], folder: Path) -> str:
    """Draw the README's figures into the folder; returns the markdown that shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = runs[0].get("testtime", {}).get("result", {}).get("curves", {})
    hardest = list(measured or rungs(runs[0])["direct answer"])[-1]
    wanted = [("climb", "The whole climb at the hardest level", figures_search.climb,
               figures_search.hardest(runs[0])),
              ("ladder", "Accuracy of every stage against level", figures.ladder)]
    if "star" in runs[0]:
        wanted += [("star_levels", "STaR: accuracy a round", figures.star_levels),
                   ("star_shares", "STaR: what was kept", figures.star_shares)]
    if "rl" in runs[0]:
        wanted.append(("rl_curve", "RL: validation accuracy", figures_scale.rl_curve))
    if "testtime" in runs[0]:
        wanted += [(f"testtime_{axis}", f"Accuracy against {axis} at test time", figures.testtime,
                    hardest, axis) for axis in ("samples", "tokens")]
        wanted.append(("calibration", "The critic's calibration", figures.calibration, hardest))
    if "search" in runs[0]:
        wanted.append(("search", "Every method at equal tokens", figures_search.equal_tokens,
                       figures_search.hardest(runs[0])))
    if "flywheel" in runs[0]:
        wanted.append(("flywheel_levels", "The flywheel: accuracy a turn",
                       figures.flywheel_levels))
    wanted.append(("pretraining", "Pretraining loss", figures.pretraining))
    lines = []
    for name, alt, function, *arguments in wanted:
        figures.save(folder / f"{name}.png", function, runs, *arguments)
        lines.append(image(name, alt))
    note = ("Bars and bands: lowest to highest seed." if len(runs) > 1 else
            "Bars and bands: 95% intervals over problems.")
    return "\n".join(lines) + f"\n\n{note}"
