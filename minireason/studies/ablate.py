"""`minireason ablate`: what each choice of a stage is worth, over several seeds.

    --stage star       rationalization, restarting, the keeping rule (Zelikman 2022)
    --stage flywheel   who filters what the policy learns from its own search: the verifier, the
                       critic, nobody; and whether it goes on from the last policy
    --stage revise     backtracking traces against fully right traces alone

Every variant changes a field or two and starts from the same parents, stages of a finished run;
sizes are those of the run's own stage (of its STaR for revise, which no run has). Finished variants
are not run again, and `--from FOLDER` draws table and figure from its JSON without any run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure

from minireason.core.config import UserError, from_dict, read_json, write_atomic
from minireason.measure.estimates import wilson
from minireason.report import style, tables
from minireason.report.runs import level_of
from minireason.stages import flywheel, revise, star

SIZES = ("family", "seed", "device", "problems", "min_level", "max_level", "steps",
         "rows_per_step", "token_budget", "save_every", "eval_n")     # what revise takes from STaR
TURNS = {"turns": 3, "refresh": "exact"}


class Study(NamedTuple):
    """A stage, its parents among a run's stages, and what each variant changes, reference first."""

    run: Callable[..., dict]
    config: type
    parents: dict[str, str]
    variants: dict[str, dict]


STUDIES = {
    "star": Study(star.run, star.Config, {"init": "sft", "base": "pretrain"}, {
        "reference": {},
        "no rationalization": {"rationalize": False},
        "continue from the last policy": {"restart": False},
        "keep only if all steps are right": {"keep": "steps"}}),
    "flywheel": Study(flywheel.run, flywheel.Config,
                      {"init": "rl", "base": "pretrain", "critic": "rl_critic"}, {
        "filter by the verifier": TURNS,
        "filter by the critic": TURNS | {"filter": "critic"},
        "the critic, never refreshed": TURNS | {"filter": "critic", "refresh": "no"},
        "no filter": TURNS | {"filter": "none"},
        "the verifier, restarting": TURNS | {"restart": True}}),
    "revise": Study(revise.run, revise.Config, {"init": "star", "base": "pretrain"}, {
        "backtracking traces": {},
        "right traces only": {"mended": 0.0}}),
}
EXTRAS = {          # of the last round or turn: name in its result -> heading
    "star": {"kept": "kept", "share_wrong_steps": "right answer, wrong steps (%)"},
    "flywheel": {"kept": "kept", "precision": "right among kept (%)",
                 "steps_valid": "every step right (%)", "critic_auc": "critic's AUC (%)"},
    "revise": {"detection": "wrong steps withdrawn (%)", "false_alarm": "right ones withdrawn (%)",
               "mended": "of withdrawn, then right (%)"},
}
COLOURS = (style.BLACK, style.BLUE, style.ORANGE, style.GREEN, style.PURPLE)


@dataclass(frozen=True)
class Config:
    """A stage with one choice changed at a time, for every given run folder (one a seed)."""

    runs: tuple[str, ...] = ()    # finished `minireason run` folders of different seeds
    stage: str = "star"           # star | flywheel | revise
    out: str = ""                 # JSON, table, figure go here; default: <first run>/ablations
    source: Annotated[str, tyro.conf.arg(name="from")] = ""   # only draw this folder's <stage>.json

    def __post_init__(self):
        if self.stage not in STUDIES:
            raise UserError(f"--stage {self.stage}: choose from {', '.join(STUDIES)}")
        if not self.runs and not self.source:
            raise UserError("ablate: give --runs, finished run folders, or --from")


def run(cfg: Config) -> dict:
    """Run what is missing; writes <stage>.json, .md and .png into `out`, returns the JSON."""
    out = Path(cfg.out or (cfg.source or Path(cfg.runs[0]) / "ablations"))
    if cfg.source:
        summary = read_json(Path(cfg.source) / f"{cfg.stage}.json")
    else:
        study = STUDIES[cfg.stage]
        summary = {"stage": cfg.stage, "seeds": [], "before": [],
                   "variants": {name: [] for name in study.variants}}
        for folder in map(Path, cfg.runs):
            own = own_config(cfg.stage, folder)
            summary["seeds"].append(own["seed"])
            summary["before"].append(accuracies(
                read_json(folder / study.parents["init"] / "result.json")["accuracy"]["cot"]))
            for name in study.variants:
                result = study.run(variant_config(cfg.stage, name, folder, own))
                summary["variants"][name].append(points_of(cfg.stage, result))
    out.mkdir(parents=True, exist_ok=True)
    if not cfg.source:
        write_atomic(out / f"{cfg.stage}.json", json.dumps(summary, indent=1) + "\n")
    text = markdown(summary)
    write_atomic(out / f"{cfg.stage}.md", text)
    style.save(out / f"{cfg.stage}.png", draw, summary)
    print(text)
    return summary


def own_config(stage: str, folder: Path) -> dict:
    """The run's own configuration of the stage, of STaR for a stage that no run has."""
    name = "star" if stage == "revise" else stage
    record = read_json(folder / name / "config.json")
    if record.get("stage") != name:
        raise UserError(f"{folder}/{name}: is a {record.get('stage')!r} folder")
    return record["config"]


def variant_config(stage: str, name: str, folder: Path, own: dict):
    """The stage's configuration for a variant; STaR's reference is the run's own stage."""
    study, start = STUDIES[stage], own
    if stage == "revise":
        known = {field.name for field in fields(study.config)}
        start = {key: own[key] for key in SIZES if key in known}
        start |= {key: str(folder / parent) for key, parent in study.parents.items()}
    if stage != "star" or name != next(iter(study.variants)):
        words = "".join(c for c in name if c.isalnum() or c == " ").replace(" ", "-")
        prefix = "" if stage == "star" else f"{stage}-"
        start = {**start, "out": str(folder / "ablations" / (prefix + words))}
    return from_dict(study.config, {**start, **study.variants[name]})


def accuracies(report: dict) -> dict:
    """{set: [accuracy, n]} of an evaluation."""
    return {name: [point["accuracy"], point["n"]] for name, point in report.items()}


def points_of(stage: str, result: dict) -> list[dict]:
    """What each round (STaR), turn (flywheel) or the one training (revise) reports."""
    if stage == "revise":
        rates = {name: [(w[name]["share"], w[name]["n"]) for w in result["withdrawals"].values()]
                 for name in EXTRAS[stage]}
        shares = {name: sum(share * n for share, n in parts) / max(1, sum(n for _, n in parts))
                  for name, parts in rates.items()}
        return [{"accuracy": accuracies(result["accuracy"]["cot"]), **shares,
                 "sampled": accuracies(result["accuracy"]["sampled"])}]
    rounds = result["rounds" if stage == "star" else "turns"]
    return [{"accuracy": accuracies(part["accuracy"]["cot"]),
             **{key: part[key] for key in EXTRAS[stage] if key in part}} for part in rounds]


def markdown(summary: dict) -> str:
    """One row a variant: the end's accuracy a level and its extras, mean over seeds and range."""
    stage, variants = summary["stage"], summary["variants"]
    names = list(summary["before"][0])
    rows = {"before": ([{"accuracy": before}] for before in summary["before"]), **variants}
    if stage == "revise":
        rows |= {f"{name}, sampled at T = 1": [[{"accuracy": end["sampled"]}] for (end,) in seeds]
                 for name, seeds in variants.items()}
    lines = [f"| {stage} | " + " | ".join([name.rpartition("-")[2] for name in names]
                                          + list(EXTRAS[stage].values())) + " |",
             "|---" * (1 + len(names) + len(EXTRAS[stage])) + "|"]
    for variant, seeds in rows.items():
        ends = [points[-1] for points in seeds]
        cells = [tables.accuracy_text([pooled(end["accuracy"], [name]) for end in ends])
                 for name in names]
        for key in EXTRAS[stage]:
            values = [end[key] * (1 if key == "kept" else 100) for end in ends if key in end]
            cells.append(spread_text(values) if values else "")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    sizes = sorted({n for before in summary["before"] for _, n in before.values()})
    seeds = (f"of seed {summary['seeds'][0]}" if len(summary["seeds"]) == 1 else "mean over seeds "
             f"{', '.join(map(str, summary['seeds']))} with their range")
    lines.append(f"\nAccuracy in percent, greedy unless said, {seeds} [95% interval]; "
                 f"n = {' to '.join(map(str, sizes))} problems a level and seed.")
    return "\n".join(lines) + "\n"


def spread_text(values: list[float]) -> str:
    """`77 (73 to 81)`, or `77` of one seed."""
    several = f" ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else ""
    return f"{np.mean(values):.0f}{several}"


def pooled(accuracy: dict, names: list[str]) -> dict:
    """One seed's accuracy over the problems of several sets, with its 95% Wilson interval."""
    n = sum(accuracy[name][1] for name in names)
    right = round(sum(accuracy[name][0] * accuracy[name][1] for name in names))
    return dict(zip(("accuracy", "low", "high"), (right / n, *wilson(right, n)), strict=True))


def draw(summary: dict) -> Figure:
    """Accuracy at the end against level; where there are rounds, of the hard levels by round."""
    variants, names = summary["variants"], list(summary["before"][0])
    rounds = len(next(iter(variants.values()))[0])
    hard = names[-3:-1] if len(names) > 3 else names[-1:]      # 6 and 7 of chain, as everywhere
    figure = Figure(figsize=(style.WIDTH, 3.6 if rounds == 1 else 6.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1 if rounds == 1 else 2, 1))
    levels = [level_of(name) for name in names]
    if rounds == 1:
        lines = {"before": summary["before"]} | {
            name: [end["accuracy"] for (end,) in seeds] for name, seeds in variants.items()}
    else:
        lines = {name: [points[-1]["accuracy"] for points in seeds]
                 for name, seeds in variants.items()}
    for (label, seeds), colour, marker in zip(lines.items(), COLOURS, "osD^v", strict=False):
        rows = [style.spread([pooled(accuracy, [name]) for accuracy in seeds]) for name in names]
        style.whiskers(panels[0], levels, rows, colour, marker, label)
    panels[0].set_xlabel("level k (operations)")
    style.percent_axis(panels[0], "accuracy at the end (%)")
    if rounds > 1:
        for seeds, colour, marker in zip(variants.values(), COLOURS, "osD^v", strict=False):
            curves = [[before, *(point["accuracy"] for point in points)]
                      for before, points in zip(summary["before"], seeds, strict=True)]
            rows = [style.spread([pooled(curve[i], hard) for curve in curves])
                    for i in range(rounds + 1)]
            style.whiskers(panels[1], range(rounds + 1), rows, colour, marker)
        panels[1].set_xticks(range(rounds + 1))
        panels[1].set_xlabel("round (0: before)" if summary["stage"] == "star" else
                             "turn (0: before)")
        style.percent_axis(panels[1], "accuracy, levels " + " and ".join(
            str(level_of(name)) for name in hard) + " (%)")
    style.legend_below(figure, panels[0], 2)
    return figure
