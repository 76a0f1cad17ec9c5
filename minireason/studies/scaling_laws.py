"""Every law of `minireason scale`, fitted to its rows alone, and the tables that say so."""

import math
from dataclasses import asdict

import numpy as np

from minireason.report import tables
from minireason.report.runs import group_by, select
from minireason.studies import laws as shapes
from minireason.studies.fits import Fit, over_runs
from minireason.studies.scaling_rows import PAST
from minireason.studies.scaling_search import flips_table, samples_table

CLAIMS = {                        # law: what it claims, and what would show it wrong
    "pretrain": "The loss above the text's entropy, which is computed and not fitted, falls as a "
                "power of compute, while accuracy stops at what the authors reach. Wrong if the "
                "frontier bends on logarithms (R², the error beyond), if a size's best learning "
                "rate lies at the edge of those tried, or if accuracy passes its authors'.",
    "rl": "Accuracy rises with the logarithm of RL compute, each length a run of its own schedule. "
          "Wrong if another curve comes closer to lengths that it was fitted without. Near 100% "
          "any curve that ends there does (`beyond`), so the lengths in between decide "
          "(`held out`).",
    "testtime": "More samples buy coverage by a power law of N, votes by its logarithm. Wrong if "
                "local slopes are not level, or if Beta-distributed pass@1 foretells coverage at "
                "the largest N better; then the histogram says why. Random answers are the least "
                "that coverage must beat. `valid coverage`: the answer and every step right.",
    "exchange": "A small model that thinks longer is worth a larger one at equal FLOPs over their "
                "lives, if it has learned the task at all. Wrong at every R where the large one's "
                "greedy answer lies above the small one's vote, or the "
                "small one's own greedy answer does. Range over seeds; the vote's lead with "
                "its 95% interval over seeds and problems.",
    "search": "Search with a good judge helps hard problems; with an imperfect one it finds the "
              "judge's errors and hurts easy ones (Snell 2024). Wrong if no imperfect judge shows "
              "the flip, or if the oracle does. In points less as many samples as cost the same "
              "FLOPs (how many), used for votes, votes weighted by the judge, or as the best by "
              "it. Fifths from the easiest to the hardest problems: `+` above, `-` below, `.` "
              "neither, by intervals of 95% over seeds and problems, of which some differ by "
              "chance; bold where the sign flips. Counted is what our code read and drew, equal "
              "beginnings judged once; `if cached`: as if the judge read every drawn token."}
COMPARED = {"linear": shapes.LINEAR, "log-linear": shapes.LOG_LINEAR,
            "saturating": shapes.SATURATING}
LEARNED = {**COMPARED, "exponential": shapes.EXPONENTIAL}           # of RL, whose end is at 100%
COVERED = {"power law": shapes.COVERAGE, "beta": shapes.BETA}


def column(rows: list[dict], *fields: str) -> np.ndarray:
    """(n,) one field of every row, or (n, fields) several."""
    found = np.array([[row[field] for field in fields] for row in rows], dtype=float)
    return found[:, 0] if len(fields) == 1 else found


def frontier(rows: list[dict]) -> list[dict]:
    """The models that no cheaper one of their seed equals: the least loss for its FLOPs."""
    kept = []
    for own in group_by(rows, "seed").values():
        least = math.inf
        for row in sorted(own, key=lambda row: row["flops"]):
            if row["excess"] < least:
                least = row["excess"]
                kept.append(row)
    return kept


def laws(rows: list[dict]) -> dict[str, Fit]:
    """Every law that the rows have enough points for, named "<curve>: <law>"."""
    found: dict[str, Fit] = {}

    def fit(name: str, law: shapes.Law, x, y, own: list[dict], level=None) -> None:
        if len(np.unique(x if level is None else level)) > len(law.names):
            found[name] = over_runs(law, x, y, [row["seed"] for row in own], level)

    models = [row for row in select(rows, law="pretrain", kind="run") if row["excess"] > 0]
    if models:
        best = frontier(models)
        fit("loss above entropy: parameters and tokens", shapes.SIZES,
            column(models, "parameters", "tokens") / 1e6, column(models, "excess"), models,
            column(models, "parameters") * column(models, "steps"))
        fit("loss above entropy: least for its FLOPs", shapes.POWER, column(best, "flops"),
            column(best, "excess"), best, column(best, "parameters") * column(best, "steps"))
        for steps, own in group_by(models, "steps").items():
            fit(f"loss above entropy: {steps} steps, parameters", shapes.POWER,
                column(own, "parameters"), column(own, "excess"), own)
    rl = [row for row in select(rows, law="rl") if row["steps"]]
    for method, own in group_by(rl, "method").items():
        for name, law in LEARNED.items():
            fit(f"RL, {method}: {name}", law, column(own, "flops"), column(own, "accuracy"), own,
                column(own, "steps"))
    curves = select(rows, law="testtime", method=("majority", "coverage", "valid coverage"))
    for (policy, name, method), own in group_by(curves, "policy", "set", "method").items():
        for form, law in (COMPARED if method == "majority" else COVERED).items():
            fit(f"{policy}, {name}, {method}: {form}", law, column(own, "n"),
                column(own, "accuracy"), own)
    return found


def as_json(found: dict[str, Fit]) -> dict[str, dict]:
    """The fits as plain values; None where there is no number."""
    def plain(value):
        return None if isinstance(value, float) and math.isnan(value) else value

    return {name: {key: plain(value) for key, value in asdict(fit).items()}
            for name, fit in found.items()}


# ---- tables --------------------------------------------------------------------------------------

def laws_table(found: dict[str, Fit]) -> list[list[str]]:
    """A line per law: parameters with intervals over runs, R^2, errors on what it did not see."""
    table = [["law", "parameters [95% over runs]", "R²", "held out", "beyond", "points"]]
    for name, fit in found.items():
        values = ", ".join(f"{key} = {fit.text(key)}" for key in fit.values)
        errors = ["" if math.isnan(error) else f"{error:.3g}"
                  for error in (fit.held_out, fit.beyond)]
        table.append([name, values, f"{fit.r2:.3f}", *errors, str(fit.n)])
    return table


def span(rows: list[dict], field: str = "flops") -> str:
    """`2.1 decades`: the range of a field."""
    values = column([row for row in rows if row.get(field)], field)
    return f"{np.log10(values.max() / values.min()):.1f} decades"


def sizes_table(rows: list[dict]) -> list[list[str]]:
    """Per size and length the loss above the entropy and the accuracy beside the authors' own."""
    table = [["parameters", "steps", "learning rate", "FLOPs",
              "loss above entropy (nats per token)", "greedy (%)", "its authors", "one sample (%)",
              "its authors"]]
    tuned = select(rows, kind="tuning")
    for size, models in group_by(select(rows, kind="run"), "parameters").items():
        for steps, own in group_by(models, "steps").items():
            tried = [row["lr"] for row in select(tuned, parameters=size, steps=steps)]
            lr = own[0]["lr"]
            edge = " (edge)" if lr in (min(tried), max(tried)) else ""
            cells = [tables.range_text([100 * row[key] for row in own])
                     for key in ("greedy", "limit_greedy", "sampled", "limit_single")]
            table.append([f"{size:,}", str(steps), f"{lr:g}{edge}",
                          f"{column(own, 'flops').mean():.2g}",
                          f"{column(own, 'excess').mean():.3g}", *cells])
    return table


def exchange_table(rows: list[dict]) -> list[list[str]]:
    """Per pair, level and R: N, what the small model reaches with it, the large one's answer, and
    the vote less this answer with its 95% interval."""
    names = ("small_greedy", "small_single", "small_vote", "small_oracle", "large_greedy")
    table = [["small", "large", "set", "R", "N", *(name.replace("_", ", ") for name in names),
              "vote less large (points)"]]
    for (small, large, name, ratio), own in group_by(rows, "small", "large", "set", "R").items():
        if name is None:
            table.append([f"{small:,}", f"{large:,}", f"not past {100 * PAST:.0f}% at level 1"]
                         + [""] * (3 + len(names)))
            continue
        n = f"{own[0]['n']}" + (f" of {own[0]['wanted']}" if own[0]["capped"] else "")
        table.append([f"{small:,}", f"{large:,}", name, f"{ratio:g}", n, *(
            tables.range_text([100 * row["accuracy"] for row in select(own, method=method)])
            for method in names), tables.points_text(*select(own, method="difference"))])
    return table


def samples_of_policies(rows: list[dict]) -> list[list[str]]:
    """Per policy greedy, one sample, and what the largest N of them reach, as seeds' ranges; and
    that vote less the greedy answer."""
    names = ("greedy", "single", "majority", "coverage", "valid coverage", "chance")
    table = [["policy", "set", "N", *names, "vote less greedy (points)"]]
    for (policy, name), own in group_by(rows, "policy", "set").items():
        size = max(row["n"] for row in own if row["method"] == "majority")
        last = [row for row in own if row["n"] == size or row["method"] == "greedy"]
        table.append([policy, name, str(size), *(
            tables.range_text([100 * row["accuracy"] for row in select(last, method=method)])
            for method in names), tables.points_text(*select(own, method="vote less greedy"))])
    return table


TABLES = {"pretrain": (sizes_table,), "testtime": (samples_of_policies,),
          "exchange": (exchange_table,), "search": (flips_table, samples_table)}


def text_of(rows: list[dict], found: dict[str, Fit]) -> str:
    """One law's claim, tables and fits, in Markdown."""
    law = rows[0]["law"]
    reach = select(rows, kind="run") or rows
    title = f"**{law}**, seeds {', '.join(map(str, group_by(reach, 'seed')))}"
    if any(row.get("flops") for row in reach):
        title += f", FLOPs over {span(reach)}"
    parts = [title, CLAIMS[law]]
    if law == "pretrain":
        first, lost = reach[0], sum(row["excess"] <= 0 for row in reach)
        parts += [f"Entropy of the text {first['entropy']:.4f} ± {first['entropy_error']:.4f} "
                  "nats per token, computed from its authors' rules" + (
                      f"; the fits leave out {lost} models at or below it." if lost else ".")]
    for table in TABLES.get(law, ()):
        parts.append(tables.markdown(table(rows)))
    if found:
        unit = ("Errors of natural logarithms; in `parameters and tokens` both count in millions."
                if law == "pretrain" else "Errors of 0.1 are 10 points.")
        parts += [tables.markdown(laws_table(found)),
                  "Held out: RMS error where each level is left out in turn. Beyond: at the "
                  f"highest level, fitted without the top two. {unit}"]
    return "\n\n".join(parts)
