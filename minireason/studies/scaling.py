"""`minireason scale`: the laws of training and of test-time compute, from runs of its own.

    pretrain   loss above the text's computed entropy, and accuracy beside its authors': six sizes
               or more, several lengths each, the learning rate tuned for every size
    rl         accuracy after RL by outcome: runs of different lengths, each with its own schedule
    testtime   votes and coverage of up to N samples, from the base, the STaR and the RL policy
    exchange   a small model that may think longer against a larger one at equal FLOPs over their
               lives (Snell 2024, section 7), all of them past their transition
    search     beam and tree search against votes at equal FLOPs by four judges: an oracle, a good,
               a noisy and a random critic; by difficulty

Every run is a command line, a task of studies/sweep.py: what is finished is not run again, and
`--laws` may name one law at a time. result.json holds flat rows (scaling_rows.py), from which
`--from FOLDER` draws every table and figure anew (scaling_laws.py, scaling_figures.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from minireason.core import locks
from minireason.core.errors import UserError, check_choice, check_once
from minireason.core.files import MANIFEST, check_manifest, make_folder
from minireason.report.runs import group_by
from minireason.studies import scaling_figures, scaling_laws, scaling_rows, shared, sweep
from minireason.studies.scaling_plans import EXACT, JUDGES, LAWS, PLANS, TUNING_SEED, Plan
from minireason.studies.sweep import Task


@dataclass(frozen=True)
class Config(shared.Study):
    """Pretraining, RL, test-time compute, exchange and search: runs, fits and figures."""

    size: str = "cpu"             # smoke: shows that it works | cpu: 0.03 to 2M parameters | gpu
    laws: tuple[str, ...] = LAWS  # the others keep the rows that they have
    seeds: tuple[int, ...] = (0, 1, 2)
    workers: int = 1              # tasks at once; 0: one per GPU, or per core; 1: without Ray
    address: str = ""             # of a Ray cluster
    device: str = "auto"

    def __post_init__(self):
        check_choice("size", self.size, PLANS)
        for law in self.laws:
            check_choice("laws", law, LAWS)
        check_once("seeds", self.seeds)
        if not self.laws:
            raise UserError("--laws: give at least one of " + ", ".join(LAWS))
        if not self.seeds or TUNING_SEED in self.seeds:
            raise UserError(f"--seeds: give at least one, and not {TUNING_SEED}, by which learning "
                            "rates are chosen")


def run(cfg: Config) -> dict:
    """Run what is missing; writes result.json, fits.json, a table per law and the figures."""
    out = shared.folder_of(cfg, "runs/scale")
    if cfg.source:
        result = held_in(Path(cfg.source) / "result.json")
        shared.with_held(out / "result.json", result)
        make_folder(out)
    else:
        check_held(cfg, out / "result.json")                   # fails before all work, not after
        check_parts(out)
        made = shared.made_with("scale", cfg)
        for tasks in waves(cfg, PLANS[cfg.size], out):
            sweep.run_tasks(tasks, out, made, cfg.workers, cfg.address)
        check_parts(out)
        locks.lock_folder(out, wait=True)              # another may measure another law
        found = group_by(held_in(out / "result.json", missing={"rows": []})["rows"], "law")
        for law in cfg.laws:
            found[law] = scaling_rows.ROWS[law](out, PLANS[cfg.size], cfg.seeds)
        known = tuple(law for law in LAWS if law in found)
        result = {**shared.made_with("scale", replace(cfg, laws=known)),
                  "rows": [row for law in known for row in found[law]]}
    with shared.readable(cfg.source and Path(cfg.source) / "result.json"):
        by_law = group_by(result["rows"], "law")
        fits = {law: scaling_laws.laws(rows) for law, rows in by_law.items()}
        texts = {law: scaling_laws.text_of(rows, fits[law]) for law, rows in by_law.items()}
        every = {name: fit for found in fits.values() for name, fit in found.items()}
        shared.write_json(out / "result.json", result)
        shared.write_json(out / "fits.json", scaling_laws.as_json(every))
        for law, text in texts.items():
            shared.write_table(out / f"{law}.md", result, text + "\n")
        scaling_figures.write(result["rows"], every, out)
    locks.unlock_folder(out)
    return result


def check_held(cfg: Config, path: Path) -> None:
    """UserError if the file holds rows of another size, of seeds that are not asked for and would
    be lost, or of laws measured on other seeds: one command made them all."""
    held = held_in(path, missing={"rows": [], "command": f"--size {cfg.size} "})
    if f"--size {cfg.size} " not in held["command"]:
        raise UserError(f"{path}: made by `{held['command']}`, of another size; give another --out")
    seeds = {row["seed"] for row in held["rows"] if "seed" in row} - {TUNING_SEED}
    others = [row for row in held["rows"] if row.get("law") not in cfg.laws]
    if seeds.difference(cfg.seeds) or (others and seeds != set(cfg.seeds)):
        raise UserError(f"{path}: holds rows of seeds {', '.join(map(str, sorted(seeds)))}; give "
                        "these to --seeds, more only with every law, or another --out")


def check_parts(out: Path) -> None:
    """UserError if what a finished run below `out` wrote has changed."""
    for path in sorted(out.rglob(MANIFEST)):
        check_manifest(path.parent)


def held_in(path: Path, missing: dict | None = None) -> dict:
    """The content of a result.json, `missing` where that is given and there is no file."""
    if missing is not None and not path.exists():
        return missing
    result = shared.result_in(path)
    if "rows" not in result:
        raise UserError(f"{path}: of an older minireason, whose rows have another form; delete it "
                        "or give another --out")
    return result


def waves(cfg: Config, plan: Plan, out: Path) -> Iterator[list[Task]]:
    """Lists of tasks; each list can run when those before it have."""
    laws, last = set(cfg.laws), plan.last
    later = laws & {"rl", "testtime", "search"}          # all of one policy's descendants

    def task(name: str, command: str, flags: str = "", seed: int = 0, **fields) -> Task:
        given = {**plan.flags[flags or command], "seed": seed, "device": cfg.device, **fields}
        return sweep.task_of(str((out / name).resolve()), command, {
            field: value if isinstance(value, tuple) else (value,)
            for field, value in given.items()})

    def pretrained(name: str, shape: int, steps: int, lr: float, seed: int, flags: str = "",
                   **more) -> Task:
        fields = zip(("d_model", "n_layers", "n_heads", "head_dim", "d_ff"), plan.shapes[shape],
                     strict=True)
        return task(name, "pretrain", flags, seed, steps=steps, lr=lr,
                    warmup=max(1, steps // 20), **dict(fields), **more)

    def at(name: str) -> str:
        return str((out / name).resolve())

    runs = {(plan.ladder, last)} if later else set()
    if "pretrain" in laws:
        runs |= {(shape, steps) for shape in range(len(plan.shapes))
                 for steps in plan.steps[shape]}
    exact = dict(plan.exchange) if "exchange" in laws else {}
    tuned = {(shape, min(steps, plan.steps[shape][-1]))
             for shape, steps in runs | {(shape, plan.exchange_steps) for shape in exact}}
    held = held_in(out / "result.json", missing={"rows": []})["rows"]
    rates = {} if "pretrain" in laws else scaling_rows.held_rates(held, plan)   # need no tuning
    yield [pretrained(name, *run, lr, TUNING_SEED, "tuning", split="validation")
           for run in sorted(tuned.difference(rates)) for lr, name in plan.tuned(*run).items()]

    def best(shape: int, steps: int) -> tuple[int, int, float]:
        known = rates.get((shape, min(steps, plan.steps[shape][-1])))
        return shape, steps, known or scaling_rows.tuned_rate(out, plan.tuned(shape, steps))

    yield [pretrained(f"pretrain-{shape}-{steps}-s{seed}", *best(shape, steps), seed)
           for seed in cfg.seeds for shape, steps in sorted(runs)]
    yield [pretrained(f"exact-{shape}-s{seed}", *best(shape, plan.exchange_steps), seed,
                      "exact", **EXACT)
           for seed in cfg.seeds for shape in exact]
    bases = {seed: at(f"pretrain-{plan.ladder}-{last}-s{seed}") for seed in cfg.seeds}
    if later:
        yield [task(f"sft-s{seed}", "sft", seed=seed, init=base) for seed, base in bases.items()]
    if "testtime" in laws:
        yield [task(f"star-s{seed}", "star", seed=seed, init=at(f"sft-s{seed}"), base=base)
               for seed, base in bases.items()]
    lengths = plan.rl if "rl" in laws else plan.rl[-1:] if "testtime" in laws else ()
    yield [task(f"rl-{steps}-s{seed}", "rl", seed=seed, init=at(f"sft-s{seed}"), steps=steps,
                warmup=max(1, steps // 10), eval_every=steps)
           for seed in cfg.seeds for steps in lengths]
    if "testtime" in laws:
        policies = {"base": f"pretrain-{plan.ladder}-{last}", "star": "star",
                    "rl": f"rl-{plan.rl[-1]}"}
        yield [task(f"testtime-{name}-s{seed}", "testtime", seed=seed, temperatures=1.0,
                    policy=at(f"{folder}-s{seed}"))
               for seed in cfg.seeds for name, folder in policies.items()]
    yield [task(f"exchange-{shape}-s{seed}", "testtime", "exchange", seed, temperatures=1.0,
                policy=at(f"exact-{shape}-s{seed}"), n=n)
           for seed in cfg.seeds for shape, n in exact.items()]
    if "search" in laws:
        yield [task(f"critic-s{seed}", "critic", seed=seed, init=at(f"sft-s{seed}"))
               for seed in cfg.seeds]                    # what is seldom right has most to search
        yield [task(f"search-{name}-s{seed}", "search", seed=seed, methods=("beam", "tree"),
                    policy=at(f"sft-s{seed}"), critic=at(f"critic-s{seed}"), **judge)
               for seed in cfg.seeds for name, judge in JUDGES.items()]
