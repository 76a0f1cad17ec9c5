"""The README's results: a table and figures from committed copies of runs, one a seed.

All that stands between the two marks is written here, so that no number of the README is typed by
hand; every table ends with the command, the sizes, n, the seeds and the machine that made it.
"""

from pathlib import Path

import numpy as np

from minireason import figures, figures_scale, figures_search, reproduce
from minireason.config import UserError, from_dict, read_json, write_atomic
from minireason.results import keep, level_of, load_machine, load_run, rungs

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
ADDITION = "<!-- addition:begin -->", "<!-- addition:end -->"      # may be missing
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

    The addition table, where the README has marks for it, is made from reference/../reproduce.
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
    images = draw(runs, readme.parent, Path("docs/figures"))
    tables = [accuracy_table(runs, levels), difference_table(runs), rl_table(runs),
              search_table(runs)]
    block = "\n\n".join([*filter(None, tables), provenance(runs, folders), images])
    whole = between(readme, whole, (BEGIN, END), block)
    if ADDITION[0] in whole:
        whole = between(readme, whole, ADDITION, addition_tables(reference.parent / "reproduce"))
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
        cfg = from_dict(reproduce.ReproduceConfig, read_json(path / "config.json")["config"])
        if cells := [read_json(found) for found in sorted(path.glob("cells/*.json"))]:
            tables.append(reproduce.table(cfg, cells) + "\nMade by `minireason reproduce --size "
                          f"{cfg.size} --seed {cfg.seed}` on: {load_machine(path)}.")
    if not tables:
        raise UserError(f"{folder}: holds no seed-*/cells/*.json; make them with minireason "
                        f"reproduce --out {folder}/seed-0")
    return "\n\n".join(tables)


def cell(points: list[dict]) -> str:
    """Mean over seeds, mean of the seeds' intervals, and the seeds' range, in percent."""
    mean, low, high = (100 * float(np.mean([point[key] for point in points]))
                       for key in ("accuracy", "low", "high"))
    values = [100 * point["accuracy"] for point in points]
    seeds = f" ({min(values):.0f} to {max(values):.0f})" if len(points) > 1 else ""
    return f"{mean:.1f} [{low:.0f}, {high:.0f}]{seeds}"


def accuracy_table(runs: list[dict], levels: tuple[int, ...]) -> str:
    """Stages and test-time methods against the hard levels, as markdown."""
    ladders = [rungs(run) for run in runs]
    names = list(ladders[0]["direct answer"])
    names = [name for name in names if level_of(name) in levels] if levels else names[-3:]
    lines = ["| accuracy (%) | " + " | ".join(f"level {level_of(name)}" for name in names) + " |",
             "|---" * (len(names) + 1) + "|"]
    for rung in ladders[0]:
        cells = [cell([ladder[rung][name] for ladder in ladders]) for name in names]
        lines.append(f"| {rung} | {' | '.join(cells)} |")
    curves = [run.get("testtime", {}).get("result", {}).get("curves", {}) for run in runs]
    if any(name in curves[0] for name in names):
        last = next(str(curve["samples"]) for curve in curves[0].values())
        for method, (label, _, _) in figures.measured(next(iter(curves[0].values()))).items():
            cells = [cell([curve[name]["points"][last][method] for curve in curves])
                     if name in curves[0] else "" for name in names]
            label = "single sample, T = 1" if method == "single" else f"{label}, N = {last}"
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_table(runs: list[dict]) -> str:
    """Paired differences at the largest N: mean over seeds, and the worst seed's lower bound."""
    lines = []
    for name, curve in runs[0].get("testtime", {}).get("result", {}).get("curves", {}).items():
        lines += ["", f"| level {level_of(name)}, N = {curve['samples']}, "
                  f"n = {curve['n_problems']} problems; points of accuracy "
                  "| mean over seeds | lowest 95% bound of any seed |", "|---|---|---|"]
        for pair in curve["differences"]:
            rows = [run["testtime"]["result"]["curves"][name]["differences"][pair] for run in runs]
            mean, low = np.mean([row["mean"] for row in rows]), min(row["low"] for row in rows)
            lines.append(f"| {pair.replace('_', ' ')} | {100 * mean:+.1f} | {100 * low:+.1f} |")
    return "\n".join(lines).strip()


def rl_table(runs: list[dict]) -> str:
    """Every test-time method before and after RL, at the levels measured both times."""
    lines = []
    for name, curve in runs[0].get("rl_testtime", {}).get("result", {}).get("curves", {}).items():
        if name not in runs[0]["testtime"]["result"]["curves"]:
            continue
        last = str(curve["samples"])
        lines += ["", f"| level {level_of(name)}, N = {last}, accuracy (%) | before RL "
                  "| after RL |", "|---|---|---|"]
        for method, (label, _, _) in figures.measured(curve).items():
            cells = [cell([run[stage]["result"]["curves"][name]["points"][last][method]
                           for run in runs]) for stage in ("testtime", "rl_testtime")]
            label = "single sample, T = 1" if method == "single" else label
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines).strip()


def search_table(runs: list[dict]) -> str:
    """After RL: every method at the same tokens; the differences from critic best-of-N."""
    lines = []
    for name, first in runs[0].get("search", {}).get("result", {}).get("sets", {}).items():
        sets = [run["search"]["result"]["sets"][name] for run in runs]
        budgets = [n for n in first["curves"]["best_of_n"] if all(
            n in curve for curve in first["curves"].values())]
        lines += ["", f"| level {level_of(name)}, after RL, n = {first['n_problems']}, accuracy "
                  "(%) at the tokens of | " + " | ".join(f"{n} samples" for n in budgets) + " |",
                  "|---" * (len(budgets) + 1) + "|"]
        for method in first["curves"]:
            points = [[one["curves"][method][n] for one in sets] for n in budgets]
            cells = [cell([{**p, "accuracy": p["mean"]} for p in seeds]) for seeds in points]
            lines.append(f"| {method.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines).strip()


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


def draw(runs: list[dict], root: Path, folder: Path) -> str:
    """Draw the README's figures into root/folder; returns the markdown that shows them."""
    (root / folder).mkdir(parents=True, exist_ok=True)
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
    wanted.append(("pretraining", "Pretraining loss", figures.pretraining))
    lines = []
    for name, alt, function, *arguments in wanted:
        figures.save(root / folder / f"{name}.png", function, runs, *arguments)
        lines.append(f'<img src="{folder}/{name}.png" alt="{alt}" width="49%">')
    note = ("Bars and bands: lowest to highest seed." if len(runs) > 1 else
            "Bars and bands: 95% intervals over problems.")
    return "\n".join(lines) + f"\n\n{note}"
