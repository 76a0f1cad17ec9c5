"""STaR ablations: what each of its choices is worth, over several seeds.

Every variant changes one field of the run's own STaR config and starts from the same SFT policy
and base; the run's own STaR stage is the reference. Finished variants are not run again.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minireason.config import UserError, from_dict, read_json, write_atomic
from minireason.stages import star

VARIANTS = {
    "no rationalization": {"rationalize": False},
    "continue from the last policy": {"restart": False},
    "keep only if all steps are right": {"keep": "steps"},
}
REFERENCE = "reference"


@dataclass(frozen=True)
class AblateConfig:
    """STaR with one choice changed, for every given run folder (one a seed)."""

    runs: tuple[str, ...]         # finished `minireason run` folders of different seeds
    out: str = ""                 # JSON and markdown go here; default: <first run>/ablations


def run(cfg: AblateConfig) -> dict:
    """Run what is missing; writes ablations.json and ablations.md, returns the former."""
    table: dict[str, list[dict]] = {name: [] for name in (REFERENCE, *VARIANTS)}
    for folder in map(Path, cfg.runs):
        record = read_json(folder / "star" / "config.json")
        if record.get("stage") != "star":
            raise UserError(f"{folder}/star: is a {record.get('stage')!r} folder")
        own = from_dict(star.STaRConfig, record["config"])
        table[REFERENCE].append(star.run(own))
        for name, change in VARIANTS.items():
            out = str(folder / "ablations" / name.replace(" ", "-"))
            changed = {**record["config"], **change, "out": out}
            table[name].append(star.run(from_dict(star.STaRConfig, changed)))
    out = Path(cfg.out or Path(cfg.runs[0]) / "ablations")
    out.mkdir(parents=True, exist_ok=True)
    summary = {"runs": list(cfg.runs), "variants": {
        name: [[round_summary(result) for result in history["rounds"]] for history in histories]
        for name, histories in table.items()}}
    write_atomic(out / "ablations.json", json.dumps(summary, indent=1) + "\n")
    text = markdown(summary)
    write_atomic(out / "ablations.md", text)
    print(text)
    return summary


def round_summary(result: dict) -> dict:
    """What a round reports, without its weights' hash."""
    return {"accuracy": {name: [point["accuracy"], point["n"]]
                         for name, point in result["accuracy"]["cot"].items()},
            **{key: result[key] for key in ("kept", "share_solved", "share_rationalized",
                                            "share_wrong_steps")}}


def markdown(summary: dict) -> str:
    """One row a variant: last round's accuracy a level, mean over seeds and their range."""
    variants = summary["variants"]
    names = list(variants[REFERENCE][0][-1]["accuracy"])
    lines = ["| STaR variant | " + " | ".join(name.rpartition("-")[2] for name in names)
             + " | kept | right answer, wrong steps |", "|---" * (len(names) + 3) + "|"]
    for variant, seeds in variants.items():
        cells = []
        for name in names:
            values = 100 * np.array([rounds[-1]["accuracy"][name][0] for rounds in seeds])
            cells.append(f"{values.mean():.0f} ({values.min():.0f} to {values.max():.0f})")
        last = [rounds[-1] for rounds in seeds]
        cells.append(f"{np.mean([r['kept'] for r in last]):.0f}")
        cells.append(f"{100 * np.mean([r['share_wrong_steps'] for r in last]):.0f}%")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    sizes = sorted({rounds[-1]["accuracy"][name][1] for rounds in variants[REFERENCE]
                    for name in names})
    lines.append(f"\nAccuracy in percent after the last round, greedy, mean (range) over "
                 f"{len(summary['runs'])} seeds; n = {' to '.join(map(str, sizes))} problems a "
                 "level and seed.")
    return "\n".join(lines) + "\n"
