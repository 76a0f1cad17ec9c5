"""Tables from rows: one pivot, which the README shows as Markdown and the page as HTML.

A table is a list of lines of texts, the header first; an empty text stands where nothing was
measured.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from minireason.report import runs as results
from minireason.report import style
from minireason.report.runs import group_by, level_of, rows_of, select, tagged
from minireason.report.seeds import interval_of, paired_rows


def markdown(table: list[list[str]]) -> str:
    """A table in Markdown."""
    head, *body = [f"| {' | '.join(line)} |" for line in table]
    return "\n".join([head, "|---" * len(table[0]) + "|", *body])


def accuracy_text(rows: list[dict], digits: int = 0) -> str:
    """`81.3 [70, 88] (79 to 83)`: mean over seeds in percent, 95% interval, range over seeds.

    The interval covers seeds and problems together where the rows have their verdicts; else it is
    the mean of the seeds' intervals over problems. A difference is in points, with its sign and
    without a range; rows without an accuracy give their count.
    """
    def mean(field: str) -> float:
        return float(np.mean([row[field] for row in rows]))

    if "accuracy" not in rows[0]:
        return f"{mean('count'):.0f}"
    difference = " - " in rows[0].get("method", "")
    sign, digits = ("+", 1) if difference else ("", digits)
    text = f"{100 * mean('accuracy'):{sign}.1f}"
    if "low" in rows[0]:
        low, high = mean("low"), mean("high")
        if len(rows) > 1 and all("digits" in row for row in rows):
            found = interval_of(rows)
            low, high = max(0.0, found["low"]), min(1.0, found["high"])
        text += f" [{100 * low:{sign}.{digits}f}, {100 * high:{sign}.{digits}f}]"
    if len(rows) > 1 and not difference:
        _, low, high = style.spread(rows)
        text += f" ({low:.0f} to {high:.0f})"
    return text


def range_text(values: list[float]) -> str:
    """`77 (73 to 81)`: mean and range, or `77` of one value."""
    text = f"{np.mean(values):.0f}"
    return f"{text} ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else text


def points_text(row: dict) -> str:
    """`+1.2 [-0.3, +2.7]`: a difference of shares in points, with its interval."""
    mean, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def heading(row: dict, field: str) -> str:
    """A field's value as a heading: "level 6" of a test set, a method in words, "bin 1"."""
    value = row.get(field)
    if field == "set" and "-test-" in row["set"]:
        return f"level {level_of(row['set'])}"
    if field == "method":
        return style.method_name(row)
    if field == "n":
        return f"{value} samples"
    if field == "bin":
        return "all" if value is None else f"bin {value + 1}"
    return str(value)


def pivot(rows: list[dict], by: str, across: str, corner: str = "", digits: int = 0,
          names: dict[object, str] | None = None,
          text: Callable[[list[dict]], str] | None = None) -> list[list[str]]:
    """One line per value of field `by`, one column per value of `across`, as they first appear.

    names: the values of `across` that are shown, in this order, with their headings. text: what
    stands where rows meet, accuracy_text if not given.
    """
    text = text or partial(accuracy_text, digits=digits)
    if names is None:
        names = {value: heading(members[0], across)
                 for value, members in group_by(rows, across).items()}
    table = [[corner or by, *names.values()]]
    for members in group_by(select(rows, **{across: tuple(names)}), by).values():
        columns = group_by(members, across)
        line = [heading(members[0], by)]
        for value in names:
            line.append(text(columns[value]) if value in columns else "")
        table.append(line)
    return table


def by_level(rows: list[dict], corner: str, levels: tuple[int, ...] = (),
             width: int = 4) -> list[list[list[str]]]:
    """One line per rung, as many tables as the levels (of those named) need at `width` a table."""
    sets = [name for name in group_by(rows, "set") if not levels or level_of(name) in levels]
    return [pivot(select(rows, set=tuple(sets[i:i + width])), "rung", "set", corner)
            for i in range(0, len(sets), width)]


def temperatures(rows: list[dict]) -> str:
    """`majority vote 0.7 or 1; coverage 1`: at what each method's samples were drawn, any seed."""
    told = []
    for method, members in group_by(rows, "method").items():
        found = dict.fromkeys(f"{row['temperature']:g}" for row in members if "temperature" in row)
        if found:
            told.append(f"{style.SHOWN[method][0]} {' or '.join(found)}")
    return "; ".join(told)


def every_row(stage: dict) -> list[list[str]]:
    """Every row of a stage by method, round, step and N, across its sets."""
    rows = []
    for row in stage["rows"]:
        if "accuracy" in row or "count" in row:
            told = [f"{key} {row[key]}" for key in ("round", "step", "bin", "n") if key in row]
            rows.append({**row, "what": ", ".join([row["method"].replace("_", " "), *told])})
    return pivot(rows, "what", "set", "method", 1)


def differences(runs: list[dict], stage: str, name: str) -> list[list[str]]:
    """Paired differences at the largest N: means over seeds, and the worst seed's lower bound."""
    rows = results.differences(rows_of(runs, stage=stage, set=name))
    shown = tagged(paired_rows(runs, stage, name), column="[95%, over seeds and problems]")
    if not shown:
        shown = tagged(rows, column="mean over seeds [of their 95% intervals]")
    for method, members in group_by(rows, "method").items():
        worst = min(row["low"] for row in members)
        shown.append({"method": method, "accuracy": worst, "column": "lowest bound of any seed"})
    return pivot(shown, "method", "column", f"level {level_of(name)}, N = {rows[0]['n']}, n = "
                 f"{rows[0]['problems']} problems; points of accuracy")


def by_policy(runs: list[dict], digits: int = 0) -> list[list[list[str]]]:
    """Per set that was measured under several policies: their methods at the largest equal N."""
    tables = []
    for name, rows in group_by(results.sampled_rows(runs, stage=results.TESTTIME), "set").items():
        policies = group_by(rows, "policy").values()
        n = min(max(row["n"] for row in of_one) for of_one in policies)
        shown = []
        for of_method in group_by(rows, "method").values():
            if len(group_by(of_method, "policy")) == len(policies) > 1:
                shown += results.at_n(of_method, n)
        if shown:
            tables.append(pivot(shown, "method", "policy", f"level {level_of(name)}, N = {n}, "
                                "accuracy (%)", digits))
    return tables
