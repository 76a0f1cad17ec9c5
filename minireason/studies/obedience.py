"""`minireason obedience`: what each rung of the ladder does to the instructions of its prompts.

Of every policy of finished runs of the family `instructions`, and of RL again with a reward for
obedience (`rewards.format`) beside the outcome's 1: how often it is right, how often it obeys, and
both, by the number of instructions, by level, by the length of the thought that it writes, by
instruction, and on pairs of instructions that it never saw together. MathIF (Fu 2025,
arXiv:2505.14810) asks the same of large models: reasoning training costs obedience, more so where
thoughts are long, and a format reward buys part of it back.
"""

from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from matplotlib.figure import Figure

from minireason.core.config import stream_seed
from minireason.core.errors import UserError
from minireason.measure.estimates import two_way_interval
from minireason.measure.evaluate import frozen_sets, verdicts_of
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import instructions
from minireason.report import style, tables
from minireason.report.runs import group_by, level_of, select
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.studies import ladders, shared
from minireason.studies.fits import mean_over_runs

KINDS = {1: "one instruction", 2: "two", "held": "two, held out"}
POOLED = {(1, 2): "one or two", **KINDS}
MEASURES = ("right", "obedient", "both")
METHODS = {"greedy": "greedy", "sampled": "one sample at T = 1"}
LENGTHS = ((-1, "unreadable"), (0, "0"), (2, "1 to 2"), (4, "3 to 4"), (99, "5 on"))
"""(most pieces of the thought that was written, in words); -1 where it does not parse."""
OF_LENGTH = {"only", *instructions.COUNTED}       # instructions on the length itself


@dataclass(frozen=True)
class Config(shared.Study):
    """Right and obedient after every rung, and what a reward for obedience is worth."""

    runs: tuple[str, ...] = ()    # finished runs of the family, one per seed
    weights: tuple[float, ...] = (0.3, 1.0)   # of the reward for obedience, an arm each

    def __post_init__(self):
        if not self.runs and not self.source:
            raise UserError("obedience: give --runs, finished run folders, or --from")


def run(cfg: Config) -> dict:
    """Train and measure what is missing; writes obedience.json, .md and .png into `out`."""
    others = {f"RL, format reward {weight:g}": {"format": weight} for weight in cfg.weights}
    return ladders.study_ladders(cfg, "obedience", cfg.runs, instructions.NAME, others, {},
                                rows_of_policy, text_of, figure_of)


def rows_of_policy(about: dict, policy: Transformer, tokenizer: Tokenizer) -> list[dict]:
    """One row per method, frozen set, and kind of prompt.

    right and obedient hold a digit per problem; obeyed is {instruction: [how often it was
    followed, asked]}; lengths [pieces in the thought, how many obedient, how many], without the
    prompts that say how long it should be: there a long thought would be long by disobeying.
    """
    held = "held" if about["split"] == "test" else "held-validation"
    sets = {(kind, level_of(name)): problems for kind in (about["split"], held)
            for name, problems in frozen_sets(instructions.NAME, kind, about["problems"]).items()}
    how = {"greedy": Sampling(temperature=0),
           "sampled": Sampling(seed=stream_seed(about["seed"], "obedience"))}
    rows, everything = [], list(chain(*sets.values()))
    for method, sampling in how.items():
        texts = complete(policy, tokenizer, everything, "cot", sampling)
        judged = zip(chain(*texts), chain(*verdicts_of(everything, texts)), strict=True)
        for (kind, level), problems in sets.items():
            cells: dict[object, dict] = {}
            for problem in problems:
                (text, verdict), names = next(judged), instructions.task_of(problem.prompt).asked
                asked = "held" if kind == held else len(names)
                row = cells.setdefault(asked, {
                    "method": method, "level": level, "asked": asked, "right": "", "obedient": "",
                    "lengths": {}, "obeyed": {}})
                row["right"] += str(int(verdict.correct))
                row["obedient"] += str(int(verdict.obedient))
                for name, obeyed in zip(names, verdict.obeyed, strict=True):
                    add_to(row["obeyed"], name, obeyed)
                if OF_LENGTH.isdisjoint(names):
                    pieces = len(verdict.marks) if instructions.parse(text) else -1
                    add_to(row["lengths"], pieces, verdict.obedient)
            rows += [{**row, "lengths": [[n, *row["lengths"][n]] for n in sorted(row["lengths"])]}
                     for row in cells.values()]
    return rows


def add_to(counts: dict, key: object, obeyed: bool) -> None:
    """One more of `key` in {key: [how many were obeyed, how many]}."""
    found = counts.setdefault(key, [0, 0])
    found[0] += int(obeyed)
    found[1] += 1


# ---- tables and picture, from rows alone ---------------------------------------------------------

def values(rows: list[dict], measure: str) -> np.ndarray:
    """(S, P) 1 where a problem's completion is right, obedient, or both; a row of it per seed."""
    found = []
    for _, own in sorted(group_by(rows, "seed").items()):
        right, obedient = (np.array([digit == "1" for row in own for digit in row[field]])
                           for field in ("right", "obedient"))
        found.append({"right": right, "obedient": obedient, "both": right & obedient}[measure])
    return np.array(found, dtype=float)


def three_text(rows: list[dict]) -> str:
    """`81 / 97 / 79`: right, obedient, both, in percent."""
    return " / ".join(f"{100 * values(rows, measure).mean():.0f}" for measure in MEASURES)


def difference_rows(rows: list[dict]) -> list[dict]:
    """Each rung minus the one before, each arm minus RL by outcome, paired by seed and problem."""
    policies = list(group_by(rows, "policy"))
    ladder, arms = policies[:4], policies[4:]
    found = []
    for before, after in [*pairwise(ladder), *((ladder[-1], arm) for arm in arms)]:
        for asked, words in POOLED.items():
            cell = select(rows, asked=asked)
            for measure in MEASURES:
                a, b = (values(select(cell, policy=name), measure) for name in (after, before))
                found.append({"what": f"{after} - {before}, {words}", "measure": measure,
                              "method": "a - b", **two_way_interval(a, b)})
    return found


def slope_text(rows: list[dict], after: str, before: str, measure: str) -> str:
    """`-2.1 [-3.0, -1.2]`: points of the difference per operation of the chain, over seeds.

    By least squares over levels, one slope per seed; the interval is a t interval of their mean.
    """
    slopes = []
    for own in group_by(select(rows, asked=(1, 2)), "seed").values():
        levels, gaps = [], []
        for level, cell in group_by(own, "level").items():
            a, b = (values(select(cell, policy=name), measure).mean() for name in (after, before))
            levels.append(level)
            gaps.append(100 * (a - b))
        slopes.append(np.polyfit(levels, gaps, 1)[0])
    mean, low, high = mean_over_runs(slopes).values()
    return f"{mean:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if len(slopes) > 1 else "")


def length_rows(rows: list[dict]) -> list[dict]:
    """Completions by the length of their thoughts: {policy, length, obeyed, of}."""
    found = []
    for row in rows:
        for pieces, obeyed, of in row["lengths"]:
            most, words = next(span for span in LENGTHS if pieces <= span[0])
            found.append({"policy": row["policy"], "length": words, "most": most,
                          "obeyed": obeyed, "of": of})
    return sorted(found, key=lambda row: row["most"])


def instruction_rows(rows: list[dict]) -> list[dict]:
    """Each instruction, whatever else was asked: {policy, instruction, obeyed, of}."""
    return [{"policy": row["policy"], "instruction": name, "obeyed": obeyed, "of": of}
            for row in rows for name, (obeyed, of) in row["obeyed"].items()]


def share_text(rows: list[dict]) -> str:
    """`83 (1204)`: how many of them obey, in percent, and how many there are."""
    obeyed, of = (sum(row[field] for row in rows) for field in ("obeyed", "of"))
    return f"{100 * obeyed / of:.0f} ({of})"


def text_of(rows: list[dict]) -> str:
    """All tables: by number of instructions, differences, by level, length and instruction."""
    seeds, parts = sorted(group_by(rows, "seed")), []
    for method, words in METHODS.items():
        parts.append(tables.markdown(tables.pivot(
            select(rows, method=method), "policy", "asked", words, names=dict(KINDS),
            text=three_text)))
    parts.append(f"Right / obedient / both, percent, mean over seeds {', '.join(map(str, seeds))}.")
    sampled = select(rows, method="sampled")
    parts.append(tables.markdown(tables.pivot(
        difference_rows(sampled), "what", "measure", "one sample at T = 1, difference")))
    parts.append("Points [95% bootstrap interval over seeds and problems (two_way_interval)].")
    known = select(sampled, asked=(1, 2))
    levels = {level: f"level {level}" for level in group_by(known, "level")}
    parts.append(tables.markdown(tables.pivot(known, "policy", "level", "one sample", names=levels,
                                              text=three_text)))
    policies = list(group_by(rows, "policy"))
    for after, before in [(policies[3], policies[2]),
                          *((arm, policies[3]) for arm in policies[4:])]:
        said = ", ".join(f"{measure} {slope_text(sampled, after, before, measure)}"
                         for measure in MEASURES[:2])
        parts.append(f"{after} - {before}, points per operation: {said}.")
    for members, field, words in ((length_rows(known), "length", "pieces in the thought"),
                                  (instruction_rows(known), "instruction", "obeyed")):
        parts.append(tables.markdown(tables.pivot(
            members, "policy", field, words, text=share_text)))
    parts.append("Obedient in percent (how many), one sample, all seeds, by the length of the "
                 "thought that was written, where no instruction is about it; then each "
                 "instruction by itself.")
    return "\n\n".join(parts) + "\n"


def figure_of(rows: list[dict]) -> Figure:
    """Obedience and accuracy of one sample against level, a line per policy."""
    rows = select(rows, method="sampled", asked=(1, 2))
    figure, panels = style.panels(2, 5.6, sharex=True)
    for axes, measure in zip(panels, ("obedient", "right"), strict=True):
        for (policy, own), look in zip(group_by(rows, "policy").items(), style.LOOKS, strict=False):
            bars = []
            for cell in group_by(own, "level").values():
                shares = 100 * values(cell, measure).mean(axis=1)
                bars.append((shares.mean(), shares.min(), shares.max()))
            style.whiskers(axes, list(group_by(own, "level")), bars, *look, policy)
        style.percent_axis(axes, f"{measure} (%)")
    panels[-1].set_xlabel("level k (operations)")
    panels[-1].set_xticks(list(group_by(rows, "level")))
    style.legend_below(figure, panels[-1], 2)
    return figure
