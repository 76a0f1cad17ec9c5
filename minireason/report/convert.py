"""From a stage's nested result.json to flat rows: for runs made before stages wrote rows.jsonl.

    python -m minireason.report.convert data/reference/quickstart/seed-0    writes what is missing

One function per kind of stage, `(config, result) -> rows`. Nothing else knows the nested layout.
"""

import json
import sys
from pathlib import Path

from minireason.core.config import read_json, write_atomic


def rows_of_result(kind: str, config: dict, result: dict) -> list[dict]:
    """The rows of a finished stage, each with the seed; [] of a kind without a converter."""
    converter = CONVERTERS.get(kind)
    rows = converter(config, result) if converter else []
    seed = config.get("seed", 0)
    return [{**row, "seed": seed} for row in rows]


def accuracy_rows(report: dict[str, dict], method: str, **extra: object) -> list[dict]:
    """One row per set from {set: fields of Accuracy}."""
    rows = []
    for name, point in report.items():
        rows.append({"set": name, "method": method, **extra, "n": 1, "accuracy": point["accuracy"],
                     "low": point["low"], "high": point["high"], "problems": point["n"]})
    return rows


def pretrain_rows(config: dict, result: dict) -> list[dict]:
    """Greedy accuracy in every style: "direct" without a thought, "greedy" step by step."""
    rows = []
    for style, report in result["accuracy"].items():
        rows += accuracy_rows(report, "greedy" if style == "cot" else style)
    return rows


def sft_rows(config: dict, result: dict) -> list[dict]:
    """Greedy accuracy."""
    return accuracy_rows(result["accuracy"]["cot"], "greedy")


def star_rows(config: dict, result: dict) -> list[dict]:
    """Per round: greedy accuracy, what was kept, and how much of it was sound."""
    rows = []
    for number, part in enumerate(result["rounds"], 1):
        rows += accuracy_rows(part["accuracy"]["cot"], "greedy", round=number)
        for key in ("share_solved", "share_rationalized", "share_wrong_steps"):
            if key in part:
                problems = part["kept"] if key == "share_wrong_steps" else config["problems"]
                rows.append({"set": "train", "method": key, "round": number,
                             "accuracy": part[key], "problems": problems})
        rows.append({"set": "train", "method": "kept", "round": number, "count": part["kept"]})
        for level, count in part["kept_per_level"].items():
            rows.append({"set": level, "method": "kept", "level": int(level), "round": number,
                         "count": count})
    return rows


def rl_rows(config: dict, result: dict) -> list[dict]:
    """Accuracy on the test sets before and after, and the validation curve against compute."""
    accuracy = result["accuracy"]
    rows = accuracy_rows(accuracy["cot"], "greedy")
    for method in ("sampled", "sampled_before"):
        rows += accuracy_rows(accuracy[method], method)
    for point in result["curve"]:
        for key, value in point.items():
            if key.startswith("eval/"):
                _, name, method = key.split("/")
                rows.append({"set": name, "method": method, "n": 1, "step": point["step"],
                             "generated_tokens": point["generated_tokens"],
                             "flops": point["flops"], "accuracy": value,
                             "problems": config["validation_n"]})
    return rows


def critic_rows(config: dict, result: dict) -> list[dict]:
    """How well it judges held-out samples and steps, and Monte Carlo labels against the truth."""
    rows = []
    for key in ("label_accuracy", "auc", "auc_min", "auc_product", "auc_steps",
                "share_steps_true", "share_right"):
        if key in result:
            rows.append({"set": "held-out", "method": key, "accuracy": result[key],
                         "problems": result["held_out"]})
    check = result.get("monte_carlo") or {}
    for key, labels in check.items():
        if key.isdigit():
            for name, rates in labels.items():
                rows.append({"set": "held-out", "method": f"mc_{name}", "n": int(key), **rates,
                             "count": check["step_ends"], "share_true": check["share_true"]})
    return rows


def testtime_rows(config: dict, result: dict) -> list[dict]:
    """Every method at every N, paired differences at the largest N, and the calibration."""
    rows = []
    for name, curve in result["curves"].items():
        common = {"problems": curve["n_problems"], "temperature": curve["temperature"]}
        for n, point in curve["points"].items():
            for method, found in point.items():
                if method != "tokens":
                    rows.append({"set": name, "method": method, "n": int(n),
                                 "tokens": point["tokens"], **found, **common})
        for pair, found in curve["differences"].items():
            rows.append({"set": name, "method": pair, "n": curve["samples"],
                         "accuracy": found["mean"], "low": found["low"], "high": found["high"],
                         **common})
        for found in result["calibration"].get(name, []):
            rows.append({"set": name, "method": "calibration", "value": found["value"],
                         "accuracy": found["accuracy"], "count": found["n"]})
    return rows + accuracy_rows(result["greedy"], "greedy")


def search_rows(config: dict, result: dict) -> list[dict]:
    """Every method at equal tokens, its difference from best-of-N by difficulty, allocations."""
    rows = []
    for name, found in result["sets"].items():
        common = {"problems": found["n_problems"], "unit": found["unit"]}
        for method, points in found["curves"].items():
            for n, point in points.items():
                rows.append({"set": name, "method": method, "n": int(n),
                             "tokens": point["tokens"], "accuracy": point["mean"],
                             "low": point["low"], "high": point["high"], **common})
        for what, against in found["against_best_of_n"].items():
            method, n = what.split()
            row = {"set": name, "method": f"{method} - best_of_n", "n": int(n)}
            everywhere = against["all"]
            rows.append({**row, "accuracy": everywhere["mean"], "low": everywhere["low"],
                         "high": everywhere["high"], "problems": found["n_problems"]})
            for number, part in enumerate(against["bins"]):
                rows.append({**row, "bin": number, "accuracy": part["mean"], "low": part["low"],
                             "high": part["high"], "method_accuracy": part["accuracy"],
                             "best_of_n_accuracy": part["best_of_n"], "problems": part["n"]})
        for who, saved in found["allocation"].items():
            rows.append({"set": name, "method": f"allocation: {who}", **saved})
    return rows


def flywheel_rows(config: dict, result: dict) -> list[dict]:
    """Per turn: greedy accuracy, what search found, and how clean the filter's choice is."""
    rows = []
    for number, part in enumerate(result["turns"], 1):
        rows += accuracy_rows(part["accuracy"]["cot"], "greedy", round=number)
        for key in ("single", "searched", "coverage", "precision", "steps_valid", "mean_value",
                    "auc", "critic_auc", "critic_label_accuracy"):
            if key in part:
                of_kept = key in ("precision", "steps_valid", "mean_value")
                row = {"set": "train", "method": key, "round": number, "accuracy": part[key],
                       "problems": part["kept"] if of_kept else config["problems"]}
                if f"{key}_low" in part:
                    row |= {"low": part[f"{key}_low"], "high": part[f"{key}_high"]}
                rows.append(row)
        if "kept" in part:
            rows.append({"set": "train", "method": "kept", "round": number,
                         "count": part["kept"]})
    return rows


def revise_rows(config: dict, result: dict) -> list[dict]:
    """Accuracy, and how often wrong steps and right ones are withdrawn, and mended."""
    methods = {"cot": "greedy", "sampled": "sampled"}
    rows = [{"set": "train", "method": "pool_with_errors", "count": result["pool_with_errors"]}]
    for style, report in result["accuracy"].items():
        rows += accuracy_rows(report, methods[style])
    for name, rates in result["withdrawals"].items():
        for kind, rate in rates.items():
            rows.append({"set": name, "method": kind, "accuracy": rate["share"],
                         "low": rate["low"], "high": rate["high"], "problems": rate["n"]})
    return rows


CONVERTERS = {"pretrain": pretrain_rows, "sft": sft_rows, "star": star_rows, "rl": rl_rows,
              "critic": critic_rows, "testtime": testtime_rows, "search": search_rows,
              "flywheel": flywheel_rows, "revise": revise_rows}   # by a config.json's "stage"


def main(folders: list[str]) -> None:
    """Write rows.jsonl beside every finished stage's result.json that has none."""
    for folder in folders:
        for path in sorted(Path(folder).glob("*/result.json")):
            record = read_json(path.parent / "config.json")
            target = path.parent / "rows.jsonl"
            if not target.exists():
                rows = rows_of_result(record["stage"], record["config"], read_json(path))
                write_atomic(target, "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(sys.argv[1:])
