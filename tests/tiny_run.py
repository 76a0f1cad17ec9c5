"""All stages in their tiny form.

    python tests/tiny_run.py OUT                 the real pipeline with them, no figure drawn
    python tests/tiny_run.py OUT FROM [STAGE ..] the same, if no stage is named; then these (all
                                                 that are trained) below OUT/apart with parents
                                                 from FROM

Trained for just so long that STaR finds a few right answers to learn from.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context

from minireason import pipeline
from minireason.presets import SIZES
from minireason.problems import FAMILIES
from minireason.problems.corpus import Mixture
from minireason.report import style
from minireason.stages import (
    critic,
    internalize,
    pretrain,
    quiet_star,
    rl,
    sft,
    star,
    testtime,
    think_budget,
)
from minireason.training.rollouts import Rewards

style.STYLE["savefig.dpi"] = 40   # no test looks at pixels
MIXTURE = Mixture(facts=0.2, direct=0.2, facts_per_line=3, max_level=2)
WIRED = ("family", "init", "base", "policy", "critic", "outcome", "out", "seed", "split",
         "device", "track")       # by the pipeline


def draw_nothing(path: Path, function, *arguments) -> Path:
    """In place of style.save, of whose time the picture itself takes five sixths: the figure is
    made, a picture that is there stays, and a new one is not one."""
    with rc_context(style.STYLE):
        function(*arguments)
    if not path.exists():
        path.write_text("not drawn")
    return path


def tiny_ladder(root: Path, family: str, seed: int = 0, **settings: object) -> Path:
    """A run folder of a family with its policies up to RL, trained for a few steps."""
    own = {"family": family, "seed": seed, "device": "cpu", "token_budget": 512, "eval_n": 3}
    if family == "maze":          # its prompts are longer, and its levels begin at 3
        own |= {"eval_levels": (4,)}
    low = max(1, FAMILIES[family].SAMPLED[0])
    lines = dataclasses.replace(MIXTURE, min_level=low, max_level=low + 1,
                                facts_per_line=max(low, MIXTURE.facts_per_line))
    levels = {"min_level": low, "max_level": low + 1}
    at = {name: str(root / name) for name in ("pretrain", "sft", "star", "rl")}
    pretrain.run(pretrain.Config(
        **own, out=at["pretrain"], mixture=lines, d_model=32, n_layers=1, n_heads=2, head_dim=16,
        d_ff=32, max_len=192, steps=30, rows_per_step=16, lr=1e-2, warmup=3))
    sft.run(sft.Config(**own, init=at["pretrain"], out=at["sft"], **levels, steps=4))
    star.run(star.Config(**own, init=at["sft"], base=at["pretrain"], out=at["star"], rounds=1,
                         problems=8, **levels, n=2, steps=2))
    rl.run(rl.Config(**own, init=at["star"], out=at["rl"], steps=2, prompts_per_step=2,
                     group_size=2, **levels, eval_every=2, validation_n=2, **settings))
    return root


def tiny_stages(root: Path | str) -> dict:
    """{stage: (run, config)} in order, each in its folder below root."""
    at = {name: f"{root}/{name}" for name in (
        "pretrain", "sft", "star", "critic", "testtime", "quiet_star", "think_budget",
        "internalize")}
    return {
        "pretrain": (pretrain.run, pretrain.Config(
            out=at["pretrain"], device="cpu", mixture=MIXTURE, d_model=32, n_layers=1, n_heads=2,
            head_dim=16, d_ff=32, max_len=64, steps=60, rows_per_step=24, lr=1e-2, warmup=3,
            token_budget=256, save_every=20, eval_n=2)),
        "sft": (sft.run, sft.Config(
            init=at["pretrain"], out=at["sft"], device="cpu", traces=200, max_level=1, hinted=0.5,
            steps=60, rows_per_step=24, token_budget=256, lr=1e-2, warmup=2, save_every=20,
            eval_n=2)),
        "star": (star.run, star.Config(
            init=at["sft"], base=at["pretrain"], out=at["star"], device="cpu", rounds=2,
            problems=120, min_level=1, max_level=2, n=4, restart=False, steps=6, rows_per_step=12,
            token_budget=256, warmup=2, save_every=2, eval_n=2)),
        "critic": (critic.run, critic.Config(
            init=at["star"], out=at["critic"], device="cpu", problems=16, min_level=1,
            max_level=2, n=2, steps=6, rows_per_step=8, token_budget=256, warmup=2, save_every=2,
            held_out=4)),
        "testtime": (testtime.run, testtime.Config(
            policy=at["star"], critic=at["critic"], out=at["testtime"], device="cpu",
            levels=(1, 2), problems=6, n=4, shard=2, temperatures=(0.7, 1.0), tuning_problems=2,
            tuning_n=2)),
        "quiet_star": (quiet_star.run, quiet_star.Config(
            init=at["sft"], base=at["pretrain"], out=at["quiet_star"], device="cpu", lines=40,
            min_level=1, max_level=2, samples=2, lengths=(3, 6), steps=12, rows_per_step=12,
            token_budget=256, warmup=2, save_every=3, weighed=2, eval_n=2)),
        "think_budget": (think_budget.run, think_budget.Config(
            init=at["star"], critic=at["critic"], out=at["think_budget"], device="cpu",
            problems=120, min_level=1, max_level=2, n=8, warm_steps=6, steps=4, rows_per_step=8,
            prompts_per_step=3, group_size=2, rewards=Rewards(process=0.0, price=0.01),
            token_budget=256, warmup=2, save_every=2, eval_n=2, measured=2, budgets=(0, 6),
            waits=(1,), tries=2)),
        "internalize": (internalize.run, internalize.Config(
            out=at["internalize"], device="cpu", min_level=1, max_level=2, d_model=32, n_layers=1,
            n_heads=2, head_dim=16, d_ff=32, max_len=64, steps=20,
            steps_per_token=1, smoothing=1.0, rows_per_step=8, token_budget=256, warmup=2,
            save_every=6, eval_n=2)),
    }


def flags(config, **changes: object) -> list[str]:
    """The command line that says a config; its tuples, switches and parts included."""
    arguments = []
    for name, value in {**vars(config), **changes}.items():
        flag = name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            parts = flags(value)
            arguments += [f"--{flag}.{part[2:]}" if part[:2] == "--" else part for part in parts]
        elif isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value != "":
            arguments += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return arguments


def tiny_size() -> dict[str, dict]:
    """A size for SIZES: these configs, and as little of what follows them."""
    sizes = {name: {field: value for field, value in vars(config).items() if field not in WIRED}
             for name, (_, config) in tiny_stages("").items()}
    few = {"max_level": 2, "save_every": 2, "eval_n": 2}
    return sizes | {
        "outcome": sizes["critic"], "rl_critic": sizes["critic"], "rl_testtime": sizes["testtime"],
        "rl": {**few, "min_level": 1, "steps": 4, "prompts_per_step": 4, "group_size": 4,
               "eval_every": 2, "validation_n": 4},
        "search": {"levels": (2,), "problems": 6, "samples": (1, 4), "shard": 3},
        "flywheel": {**SIZES["smoke"]["flywheel"], **few, "problems": 16, "steps": 4,
                     "rows_per_step": 8}}


def tiny_pipeline(out: Path | str, jobs: int = 1) -> dict:
    """`minireason run` with these configs as its smallest size."""
    SIZES["tiny"] = tiny_size()
    return pipeline.run(pipeline.Config(size="tiny", out=str(out), device="cpu", jobs=jobs))


def apart(out: str, parents: str, names: Sequence[str]) -> None:
    """Trained stages, each into a folder below `out`, from the parents of a finished tiny run."""
    for name in names:
        run, config = tiny_stages(parents)[name]
        if name == "think_budget":
            think_budget.warm_up(dataclasses.replace(config, out=f"{out}/warm-up"))
        run(dataclasses.replace(config, out=f"{out}/{name}"))


def main(out: str, parents: str = "", *names: str) -> None:
    """The command of this file."""
    style.save = draw_nothing
    if not names:
        tiny_pipeline(out)
    if parents:
        apart(f"{out}/apart", parents, names or (
            "pretrain", "sft", "star", "critic", "quiet_star", "think_budget", "internalize"))


if __name__ == "__main__":
    main(*sys.argv[1:])
