"""Tables from rows: one pivot, which the README shows as Markdown and the page as HTML."""

from dataclasses import dataclass

import numpy as np

from minireason.report import runs as results
from minireason.report import style
from minireason.report.runs import group_by, level_of, rows_of, select, tagged


@dataclass(frozen=True)
class Table:
    """Texts; an empty one stands where nothing was measured."""

    header: list[str]
    lines: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown."""
        head, *body = [f"| {' | '.join(line)} |" for line in (self.header, *self.lines)]
        return "\n".join([head, "|---" * len(self.header) + "|", *body])


def accuracy_text(rows: list[dict], digits: int = 0) -> str:
    """`81.3 [78, 85] (79 to 83)`: mean over seeds in percent, mean 95% interval, range over seeds.

    A difference is in points, with its sign and without a range; rows without an accuracy give
    their count.
    """
    if "accuracy" not in rows[0]:
        return f"{np.mean([row['count'] for row in rows]):.0f}"
    difference = " - " in rows[0].get("method", "")
    sign, digits = ("+", 1) if difference else ("", digits)
    mean = 100 * float(np.mean([row["accuracy"] for row in rows]))
    text = f"{mean:{sign}.1f}"
    if "low" in rows[0]:
        low = 100 * float(np.mean([row["low"] for row in rows]))
        high = 100 * float(np.mean([row["high"] for row in rows]))
        text += f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    if len(rows) > 1 and not difference:
        values = [100 * row["accuracy"] for row in rows]
        text += f" ({min(values):.0f} to {max(values):.0f})"
    return text


def heading(row: dict, field: str) -> str:
    """A field's value as a heading: "level 6" of a test set, a method in words, "bin 1"."""
    value = row.get(field)
    if field == "set" and "-test-" in value:
        return f"level {level_of(value)}"
    if field == "method":
        return style.method_name(row)
    if field == "n":
        return f"{value} samples"
    if field == "bin":
        return "all" if value is None else f"bin {value + 1}"
    return str(value)


def pivot(rows: list[dict], by: str, across: str, corner: str = "", digits: int = 0,
          names: dict[object, str] | None = None) -> Table:
    """One line per value of field `by`, one column per value of `across`, as they first appear.

    names: the values of `across` that are shown, in this order, with their headings.
    """
    columns = group_by(rows, across)
    if names is None:
        names = {value: heading(members[0], across) for value, members in columns.items()}
    shown = [row for row in rows if row.get(across) in names]
    lines = []
    for members in group_by(shown, by).values():
        line = [heading(members[0], by)]
        for value in names:
            here = select(members, **{across: value})
            line.append(accuracy_text(here, digits) if here else "")
        lines.append(line)
    return Table([corner or by, *names.values()], lines)


def every_row(stage: dict) -> Table:
    """Every row of a stage by method, round, step and N, across its sets."""
    rows = []
    for row in stage["rows"]:
        if "accuracy" in row or "count" in row:
            told = [f"{key} {row[key]}" for key in ("round", "step", "bin", "n") if key in row]
            rows.append({**row, "what": ", ".join([row["method"].replace("_", " "), *told])})
    return pivot(rows, "what", "set", "method", 1)


def differences(runs: list[dict], stage: str, name: str) -> Table:
    """Paired differences at the largest N: means over seeds, and the worst seed's lower bound."""
    rows = results.differences(rows_of(runs, stage, set=name))
    shown = tagged(rows, column="mean over seeds [of their 95% intervals]")
    for method, members in group_by(rows, "method").items():
        worst = min(row["low"] for row in members)
        shown.append({"method": method, "accuracy": worst, "column": "lowest bound of any seed"})
    return pivot(shown, "method", "column", f"level {level_of(name)}, N = {rows[0]['n']}, n = "
                 f"{rows[0]['problems']} problems; points of accuracy")


def by_policy(runs: list[dict], digits: int = 0) -> list[Table]:
    """Per set that was measured under several policies: their methods at the largest equal N."""
    rows = []
    for stage in results.stages_of(runs[0], "testtime"):
        rows += results.sampled_rows(runs, stage)
    tables = []
    for name, members in group_by(rows, "set").items():
        policies = group_by(members, "policy").values()
        if len(policies) > 1:
            n = min(max(row["n"] for row in of_one) for of_one in policies)
            methods = set.intersection(*(set(group_by(of_one, "method")) for of_one in policies))
            shown = [row for row in select(members, n=n) if row["method"] in methods]
            tables.append(pivot(shown, "method", "policy", f"level {level_of(name)}, N = {n}, "
                                "accuracy (%)", digits))
    return tables
