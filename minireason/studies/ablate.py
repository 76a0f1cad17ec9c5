"""`minireason ablate`: what each choice of a stage is worth, over several seeds.

    --stage star       rationalization, restarting, the keeping rule (Zelikman 2022)
    --stage flywheel   who filters what the policy learns from its own search: the verifier, the
                       critic, nobody; and whether it continues from the last policy
    --stage revise     backtracking traces against fully right traces alone
    --stage quiet_star whose thoughts, whether REINFORCE adds anything, and no thoughts at all at
                       equal FLOPs (Zelikman 2024)
    --stage from_nothing   quiet thoughts of a base that never read one: who invents them
    --stage think_budget   a price per token against none, and without a warm-up that shortens
                       (AdaptThink, Zhang 2025)
    --stage internalize    a thought removed piece by piece against none and a whole one, by task

A variant is data: the fields that it changes. All variants of a stage start from the same parents,
stages of a finished run, with the settings of the run's own stage, or the defaults of a stage that
no run has. Finished variants are not run again. Rows of other variants (`--variants`) and seeds
stay in the JSON, so a long study can be run in parts; `--from FOLDER` makes table and figure of it.
"""

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from minireason.core.config import from_dict
from minireason.core.errors import UserError, check_choice, check_once
from minireason.measure.estimates import share_interval
from minireason.report import style, tables
from minireason.report.runs import group_by, level_of, rows_with_verdicts, select
from minireason.stages import STAGES, Stage
from minireason.studies import internalize_tables, ladders, quiet_tables, shared, thinking_tables

TURNS = {"turns": 3, "refresh": "exact", "filter": "verifier"}
VARIANTS: dict[str, dict[str, dict]] = {      # {stage: {variant: what it changes}}
    "star": {
        "reference": {},
        "no rationalization": {"rationalize": False},
        "restart from the base": {"restart": True},
        "keep only if all steps are right": {"keep": "steps"}},
    "flywheel": {
        "filter by the verifier": TURNS,
        "filter by the critic": TURNS | {"filter": "critic"},
        "the critic, never refreshed": TURNS | {"filter": "critic", "refresh": "no"},
        "no filter": TURNS | {"filter": "none"},
        "the verifier, restarting": TURNS | {"restart": True}},
    "revise": {
        "backtracking traces": {"steps": 150, "replay": 0.0},
        "right traces only": {"steps": 150, "replay": 0.0, "mended": 0.0}},
    "quiet_star": quiet_tables.VARIANTS,
    "from_nothing": quiet_tables.FROM_NOTHING,
    "think_budget": {
        "a price per token": {},
        "no price": {"rewards": {"process": 0.0, "price": 0.0}},
        "nothing left out": {"omitted": 0.0}},       # the same steps: what a price does alone
    "internalize": internalize_tables.VARIANTS,
}
EXTRAS = {          # of the last round or turn: name in its result -> heading
    "star": {"kept": "kept", "share_wrong_steps": "right answer, wrong steps (%)"},
    "flywheel": {"kept": "kept", "precision": "right among kept (%)",
                 "steps_valid": "every step right (%)", "critic_auc": "critic's AUC (%)"},
    "revise": {"detection": "wrong steps withdrawn (%)", "false_alarm": "right ones withdrawn (%)",
               "mended": "of withdrawn, then right (%)"},
    "quiet_star": dict.fromkeys(("quiet", "sound", "weight", "gain", "thought"), ""),
    "from_nothing": dict.fromkeys(("quiet", "sound", "weight", "thought"), ""),
    "think_budget": dict.fromkeys((*thinking_tables.MODES, *thinking_tables.OTHERS,
                                   *thinking_tables.BUDGETS), ""),
    "internalize": {"nats": ""},
}
OWN = {             # tables and pictures of a stage's own: (text, {end of a name: picture})
    "quiet_star": (quiet_tables.text_of, {"": quiet_tables.arms_figure,
                                          "-thoughts": quiet_tables.thoughts_figure}),
    "from_nothing": (quiet_tables.text_of, {"": quiet_tables.seeds_figure}),
    "think_budget": (thinking_tables.text_of, {"": thinking_tables.figure_of}),
    "internalize": (internalize_tables.text_of, {"": internalize_tables.figure_of})}
COMPLETE = {"quiet_star": quiet_tables.complete_rows,         # add rows that a stage does not write
            "internalize": internalize_tables.complete_rows}
STAGE_OF = {"from_nothing": "quiet_star"}     # of variants that are not named by their stage
SHARED = ("family", "seed", "split", "device", "eval_n")  # what a stage outside of runs takes from
                                                          # the stage that it starts from
LOOKS = ((style.BLACK, "o"), (style.BLUE, "s"), (style.ORANGE, "D"), (style.GREEN, "^"),
         (style.PURPLE, "v"))


@dataclass(frozen=True)
class Config(shared.Study):
    """A stage with one choice changed at a time, for every given run folder (one per seed)."""

    runs: tuple[str, ...] = ()    # finished `minireason run` folders of different seeds
    # star | flywheel | revise | quiet_star | from_nothing | think_budget | internalize
    stage: str = "star"
    variants: tuple[str, ...] = ()   # of the stage; (): all

    def __post_init__(self):
        check_choice("stage", self.stage, VARIANTS)
        for variant in self.variants:
            check_choice("variants", variant, VARIANTS[self.stage])
        if not self.runs and not self.source:
            raise UserError("ablate: give --runs, finished run folders, or --from")


def run(cfg: Config) -> dict:
    """Run what is missing; writes <stage>.json, .md and .png into `out`, returns the JSON."""
    text_of, figures = OWN.get(cfg.stage, (partial(ablation_table, cfg.stage),
                                           {"": partial(ablation_figure, cfg.stage)}))
    return shared.study_rows(cfg, "ablate", f"{''.join(cfg.runs[:1])}/ablations",
                             lambda _: variant_rows(cfg), text_of, figures, cfg.stage,
                             partial(with_others, cfg.stage))


def with_others(stage: str, path: Path, held: list[dict], rows: list[dict]) -> list[dict]:
    """The rows and those of other variants and seeds in the file, in the order of the variants."""
    answers = ("greedy", "direct")                # of other methods "problems" may count steps
    sizes = {row["set"]: row["problems"] for row in select(rows, method=answers)}
    for row in select(held, method=answers):
        if sizes.get(row["set"], row["problems"]) != row["problems"]:
            raise UserError(f"{path}: holds {row['set']} of {row['problems']} problems, here are "
                            f"{sizes[row['set']]}: runs of another size; give another --out")
    made = {(row["variant"], row["seed"]) for row in rows}
    others = [row for row in held if (row["variant"], row["seed"]) not in made]
    order = ["before", *VARIANTS[stage]]
    if unknown := {row["variant"] for row in others}.difference(order):
        raise UserError(f"{path}: holds rows of {', '.join(sorted(unknown))}, which is no variant "
                        f"of {stage}; give another --out")
    order += [row["variant"] for row in rows]                 # of --from, an older one's
    return sorted(rows + others, key=lambda row: (order.index(row["variant"]), row["seed"]))


def variant_rows(cfg: Config) -> list[dict]:
    """Every variant's rows with its name and seed; "before" is the parent's last, as round 0."""
    name = STAGE_OF.get(cfg.stage, cfg.stage)
    (stage,) = (stage for stage in STAGES if stage.name == name)
    module = importlib.import_module(stage.module)
    answers = "direct" if cfg.stage == "from_nothing" else "greedy"
    wanted, rows = (answers, "sampled", *EXTRAS[cfg.stage]), []
    check_once("runs: their seeds", [settings_of(stage, Path(run))["seed"]
                                            for run in cfg.runs])
    for folder in map(Path, cfg.runs):
        settings = settings_of(stage, folder)
        parents = [folder / stage.parents["init"]] if "init" in stage.parents else []
        before = select([row for parent in parents for row in rows_with_verdicts(parent)],
                        method=answers, step=None)           # a step: on validation problems
        last = max((row.get("round", 0) for row in before), default=0)
        rows += [{**row, "variant": "before", "round": 0} for row in before
                 if row.get("round", 0) == last]
        for variant, changes in VARIANTS[cfg.stage].items():
            if cfg.variants and variant not in cfg.variants:
                continue
            held = settings | changes
            if changes or not stage.in_run:           # else it is the run's own stage
                words = ladders.folder_name(variant)
                held["out"] = str(folder / "ablations" / f"{cfg.stage}-{words}")
            own = from_dict(module.Config, held)
            result = module.run(own)
            found = rows_with_verdicts(Path(own.out))
            if name in COMPLETE:
                COMPLETE[name](found, result, own)
            for row in select(found, method=wanted, level=None):      # a level: what it alone kept
                rows.append({"round": 1, **row, "variant": variant})
    return rows


def settings_of(stage: Stage, folder: Path) -> dict:
    """The run's own configuration of the stage; what a stage outside of runs shares with `init`."""
    like = stage.name if stage.in_run else stage.parents.get("init", "pretrain")
    own = vars(ladders.config_of(folder, like))
    if stage.in_run:
        return own
    settings = {key: own[key] for key in SHARED}
    for field, parent in stage.parents.items():
        settings[field] = str(folder / parent)
    return settings


def ablation_table(stage: str, rows: list[dict]) -> str:
    """One row per variant: the end's accuracy per level and its extras, mean over seeds, range."""
    before = select(rows, variant="before")
    ends = before + select(rows, round=max(row["round"] for row in rows))
    names = {name: name.rpartition("-")[2] for name in group_by(before, "set")}
    shown = select(ends, method="greedy")
    for row in select(ends, method="sampled"):
        shown.append({**row, "variant": f"{row['variant']}, sampled at T = 1"})
    table = tables.pivot(shown, "variant", "set", stage, names=names)
    for line in table[1:]:
        for key in EXTRAS[stage]:
            line.append(extra_text(select(ends, variant=line[0], method=key)))
    table[0] += EXTRAS[stage].values()
    seeds, sizes = list(group_by(rows, "seed")), list(group_by(before, "problems"))
    numbers = ", ".join(map(str, seeds))
    said = f"mean over seeds {numbers} with their range" if len(seeds) > 1 else f"seed {numbers}"
    return (f"{tables.markdown(table)}\n\nAccuracy in percent, greedy unless said, {said} "
            f"[95% interval]; n = {min(sizes)} to {max(sizes)} problems per level and seed.")


def extra_text(rows: list[dict]) -> str:
    """`77 (73 to 81)`, or `77` of one seed: a count, or a share over all sets in percent."""
    values = [row["count"] for row in rows if "count" in row]
    values = values or [100 * point["accuracy"] for point in pooled_by_seed(rows)]
    return tables.range_text(values) if values else ""


def pooled_by_seed(rows: list[dict]) -> list[dict]:
    """One {accuracy, low, high} per seed, over the problems of all sets."""
    points = []
    for own in group_by(rows, "seed").values():
        right = sum(row["accuracy"] * row["problems"] for row in own)
        points.append(share_interval(right, max(1, sum(row["problems"] for row in own))))
    return points


def ablation_figure(stage: str, rows: list[dict]) -> Figure:
    """Accuracy at the end against level; where there are rounds, of the hard levels by round."""
    rows = select(rows, method="greedy")
    before, last = select(rows, variant="before"), max(row["round"] for row in rows)
    names = list(group_by(before, "set"))
    hard = names[-3:-1] if len(names) > 3 else names[-1:]      # 6 and 7 of chain
    variants = group_by(rows, "variant")
    if last > 1:
        variants.pop("before")                        # it stands in the panel of rounds
    figure, (at_end, *by_round) = style.panels(*((1, 3.6) if last == 1 else (2, 6.2)))
    for (variant, own), look in zip(variants.items(), LOOKS, strict=False):
        ends = own if variant == "before" else select(own, round=last)
        bars = [style.spread(pooled_by_seed(select(ends, set=name))) for name in names]
        style.whiskers(at_end, [level_of(name) for name in names], bars, *look, variant)
        for axes in by_round:
            pooled = [row for row in before + own if row["set"] in hard]
            bars = [style.spread(pooled_by_seed(same_round))
                    for _, same_round in sorted(group_by(pooled, "round").items())]
            style.whiskers(axes, range(last + 1), bars, *look)
    at_end.set_xlabel("level k (operations)")
    style.percent_axis(at_end, "accuracy at the end (%)")
    for axes in by_round:
        axes.set_xticks(range(last + 1))
        axes.set_xlabel(f"{'round' if stage == 'star' else 'turn'} (0: before)")
        middle = " and ".join(name.rpartition("-")[2][1:] for name in hard)
        style.percent_axis(axes, f"accuracy, levels {middle} (%)")
    style.legend_below(figure, at_end, 2)
    return figure
