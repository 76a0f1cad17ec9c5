"""The smallest run of every stage, and what becomes of it when the disk fails or the power goes."""

import contextlib
import dataclasses
import io
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from faults import Dead, Disk, release_locks
from kill_run import differences
from tiny_run import tiny_stages

from minireason.core.errors import UserError
from minireason.stages import flywheel, guided_search, rl

FEW = {"eval_n": 1, "rows_per_step": 4, "save_every": 2, "warmup": 1}
CHANGED = {
    "pretrain": {**FEW, "steps": 5},
    "sft": {**FEW, "steps": 5, "traces": 8},
    "star": {**FEW, "steps": 3, "problems": 40, "n": 2},
    "critic": {"rows_per_step": 4, "steps": 5, "problems": 6, "held_out": 2, "mc_check": 1,
               "labels": "mc_hard", "mc_n": 1, "shard": 3},
    "testtime": {"problems": 2, "n": 2, "shard": 1},
    "quiet_star": {**FEW, "steps": 5, "lines": 8, "weighed": 1},
    "think_budget": {**FEW, "steps": 3, "warm_steps": 3, "prompts_per_step": 2, "measured": 1},
    "internalize": {**FEW, "steps": 7, "max_level": 1},
}


def small_stages(root: Path | str) -> dict:
    """{stage: (run, config)} of the smallest stages, with parents below root."""
    found = {name: (run, dataclasses.replace(config, **CHANGED[name]))
             for name, (run, config) in tiny_stages(root).items()}
    own = {"device": "cpu", "init": f"{root}/star", "min_level": 1, "max_level": 2, **FEW}
    found["rl"] = rl.run, rl.Config(
        **own | {"rows_per_step": 64}, out=f"{root}/rl", steps=3, prompts_per_step=2, group_size=2,
        eval_every=2, validation_n=1)
    found["search"] = guided_search.run, guided_search.Config(
        policy=f"{root}/star", critic=f"{root}/critic", out=f"{root}/search", device="cpu",
        levels=(1,), problems=2, samples=(1, 2), shard=1, probe=1)
    found["flywheel"] = flywheel.run, flywheel.Config(
        **own, base=f"{root}/pretrain", critic=f"{root}/critic", out=f"{root}/flywheel", turns=1,
        problems=6, n=2, filter="none", steps=3, refresh="outcome", critic_problems=4, held_out=2,
        critic_steps=3)
    return found


def made_ladder(root: Path) -> Path:
    """A folder in which every small stage has run once, from the tiny pretrained models."""
    for name, (run, config) in tiny_stages(root).items():
        if name in ("pretrain", "sft"):
            quietly(lambda run=run, config=config: run(config))
    parents = root.rename(root.with_name(f"{root.name}-parents"))
    for name, (run, config) in small_stages(parents).items():
        if name in ("pretrain", "sft"):
            config = dataclasses.replace(config, out=str(root / name))
        quietly(lambda run=run, config=config: run(config))
    return parents


def quietly(run: Callable[[], object]) -> object:
    """run(), its console lines thrown away."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return run()


def outcome(run: Callable[[], object], expected: object, named: object = "") -> str:
    """How run() ends: "identical" with `expected`, "refused", "died", SILENT change, TRACEBACK.

    A refusal is one line; it names `named`, a folder.
    """
    try:
        found = quietly(run)
    except Dead:
        return "died"
    except UserError as error:
        fits = str(named) in str(error) and str(error) and "\n" not in str(error)
        return "refused" if fits else f"NAMELESS {error}"[:300]
    except SystemExit as stop:
        found = stop.code
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} {str(error)[:150]}"
        return f"TRACEBACK {text} at {where.filename}:{where.lineno}"
    finally:
        release_locks()
    same = repr(found) == repr(expected)
    return "identical" if same else f"SILENT {repr(found)[:80]}, not {repr(expected)[:80]}"


def trial(stage: str, whole: Path, base: Path, n: int, kind: str) -> tuple[str, str]:
    """(what the n-th operation was, how the stage ended when it was started again).

    whole: the folder whose stages are finished; base: an empty folder to work in. The first is
    "" when the stage has no n-th operation.
    """
    run, config = small_stages(whole)[stage]
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    config = dataclasses.replace(config, out=str(base / stage))
    with Disk(base, n, kind) as disk:
        first = outcome(lambda: bool(run(config)), True, base)
    if not disk.hit or first[0].isupper():
        return disk.hit, first
    with Disk(base):
        second = outcome(lambda: bool(run(config)), True, base)
    if second != "identical":
        return disk.hit, second
    unequal = differences(finished(whole, stage), base / stage)
    left = [path.name for path in base.rglob(".*")]
    return disk.hit, f"SILENT {unequal} {left}" if unequal or left else "identical"


def stopped(stage: str, whole: Path, base: Path, share: float) -> Path:
    """A stage's folder below `base`, killed after this share of its operations on the disk."""
    run, config = small_stages(whole)[stage]
    config = dataclasses.replace(config, out=str(base / stage))
    operations = 0
    for n in (0, 1):
        shutil.rmtree(base / stage, ignore_errors=True)
        with Disk(base, n and max(1, round(share * operations))) as disk:
            outcome(lambda: run(config), None)
        operations = disk.count
    return base / stage


def finished(whole: Path, stage: str) -> Path:
    """The folder of the undisturbed run of a small stage."""
    small = whole.with_name(whole.name.removesuffix("-parents")) / stage
    return small if small.is_dir() else whole / stage
