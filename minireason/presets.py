"""Sizes as data: what each stage of `minireason run` is given beyond its own defaults.

SIZES[size][stage] holds for every family; FAMILY_SIZES[family][size][stage] comes on top of it. A
stage or a family that is not named here runs with its defaults, which are the quickstart's.
"""

from minireason.problems.corpus import Mixture

_SMOKE_CRITIC = {"problems": 80, "min_level": 1, "max_level": 2, "n": 4, "steps": 30,
                 "rows_per_step": 32, "save_every": 10, "held_out": 20}
_SMOKE_TESTTIME = {"levels": (2,), "problems": 40, "n": 8, "shard": 10, "tuning_problems": 10,
                   "tuning_n": 4}
_LONGER = {"sft": {"steps": 60},
           "star": {"rounds": 3, "problems": 800, "steps": 50, "lr": 5e-4, "warmup": 20}}
_GPU = {"max_level": 16, "rows_per_step": 512, "token_budget": 65536}
_GPU_CRITIC = {**_GPU, "problems": 8_000, "n": 16, "steps": 600}

SIZES: dict[str, dict[str, dict]] = {
    "smoke": {                    # under a minute: shows that everything works, not that it reasons
        "pretrain": {"steps": 200, "rows_per_step": 32, "d_model": 48, "n_layers": 2, "n_heads": 3,
                     "head_dim": 16, "d_ff": 96, "lr": 4e-3, "save_every": 60,
                     "eval_n": 40, "mixture": Mixture(facts=0.1, direct=0.1, max_level=2)},
        "sft": {"steps": 40, "rows_per_step": 32, "max_level": 2, "save_every": 15, "eval_n": 40},
        "star": {"rounds": 2, "problems": 150, "min_level": 1, "max_level": 2, "steps": 40,
                 "lr": 5e-4, "warmup": 20, "rows_per_step": 32, "save_every": 15, "eval_n": 40},
        "critic": _SMOKE_CRITIC,
        "outcome": _SMOKE_CRITIC,
        "testtime": _SMOKE_TESTTIME,
        "rl": {"steps": 6, "prompts_per_step": 8, "group_size": 4, "min_level": 1, "max_level": 2,
               "save_every": 2, "eval_every": 3, "validation_n": 40, "eval_n": 40},
        "rl_critic": {**_SMOKE_CRITIC, "steps": 20},
        "rl_testtime": _SMOKE_TESTTIME,
        "think_budget": {"problems": 150, "max_level": 2, "n": 8, "warm_steps": 40, "steps": 6,
                         "prompts_per_step": 8, "save_every": 15, "eval_n": 40, "measured": 10,
                         "budgets": (0, 6, 12), "tries": 2},
        "search": {"levels": (2,), "problems": 20, "samples": (2, 8), "shard": 10},
        "flywheel": {"turns": 1, "problems": 100, "max_level": 2, "n": 4, "steps": 20,
                     "filter": "none",          # so small a policy is right by luck alone
                     "rows_per_step": 32, "save_every": 10, "refresh": "no", "eval_n": 40},
    },
    "quickstart": {
        "search": {"problems": 100},
        "flywheel": {"save_every": 50, "refresh": "no"},
    },
    "gpu": {
        "pretrain": {"steps": 6000, "rows_per_step": 2048, "token_budget": 65536, "d_model": 384,
                     "n_layers": 8, "n_heads": 6, "head_dim": 64, "d_ff": 1024, "max_len": 256,
                     "lr": 2e-3, "warmup": 200, "save_every": 1000,
                     "mixture": Mixture(max_level=16, common_level=16)},
        "sft": {"steps": 200, "rows_per_step": 256, "token_budget": 65536, "max_level": 8},
        "star": {**_GPU, **_LONGER["star"], "problems": 20_000, "steps": 600},
        "critic": _GPU_CRITIC,
        "outcome": _GPU_CRITIC,
        "testtime": {"n": 256},
        "rl": {"prompts_per_step": 512, "max_level": 16, "token_budget": 65536, "lr": 3e-4},
        "rl_critic": {**_GPU_CRITIC, "steps": 300},
        "rl_testtime": {"n": 256},
        "think_budget": {**_GPU, "problems": 20_000, "prompts_per_step": 512, "lr": 3e-4,
                         "budgets": tuple(range(0, 97, 12))},
        "search": {"problems": 500},
        "flywheel": {**_GPU, "turns": 2, "problems": 8_000, "steps": 300, "refresh": "no"},
    },
}


def _levels(lowest: int, highest: int, shown: tuple[int, ...], max_step: int, mixture: Mixture,
            measured: tuple[int, ...] = (), **pretrain: object) -> dict[str, dict]:
    """Every stage between two levels; test-time methods are measured on the `shown` ones.

    max_step: tokens of the longest step, with a little room; measured: levels that policies are
    measured on, if not on all that have a frozen set.
    """
    settings: dict[str, dict] = {name: {"eval_levels": measured} if measured else {}
                                 for name in ("pretrain", "sft", "star", "rl", "flywheel")}
    settings["pretrain"] |= {"mixture": mixture, **pretrain}
    for name in ("sft", "star", "critic", "outcome", "rl", "rl_critic", "flywheel",
                 "think_budget"):
        settings.setdefault(name, {}).update(min_level=lowest, max_level=highest)
    for name in ("testtime", "rl_testtime", "search"):
        settings[name] = {"levels": shown}
    settings["search"]["max_step"] = max_step
    return settings


def _longer(settings: dict[str, dict], *more: dict[str, dict]) -> dict[str, dict]:
    """The settings with the larger doses of SFT and STaR and with more; the last one counts."""
    return {name: {key: value for part in (settings, _LONGER, *more)
                   for key, value in part.get(name, {}).items()} for name in settings}


_COUNTDOWN = _levels(3, 4, (4,), 24, Mixture(facts_per_line=4, min_level=2, max_level=4),
                     max_len=384)
_COUNTDOWN["think_budget"]["omitted"] = 0.0    # its steps are a search: each needs the one before
_SPLIT = Mixture(facts_per_line=3, max_level=3)
_PROGRAM = _levels(1, 6, (4, 6), 12, Mixture(facts_per_line=4, max_level=6, common_level=6),
                   max_len=160)
_SYNTHESIS = _levels(1, 3, (2, 3), 24, Mixture(facts=0.1, facts_per_line=1, max_level=3),
                     max_len=160)
_GENTLE = {"rl": {"lr": 2e-4, "group_size": 8}}        # where a high rate unlearns what STaR taught
_TRACES = {"sft": {"traces": 300, "replay": 0.5}}      # where 60 are learnt by heart
_SEARCHED = {"pretrain": {"steps": 2500}, "sft": {"traces": 3000, "steps": 200, "replay": 0.5},
             "star": {"problems": 3000, "min_level": 2, "n": 32, "steps": 400, "replay": 0.5},
             "critic": {"problems": 1200}, "outcome": {"problems": 1200},
             "testtime": {"problems": 250}, "rl": {"min_level": 2},
             "rl_critic": {"problems": 1200}, "rl_testtime": {"problems": 250}}
_DIGITS = _levels(1, 4, (3, 4), 24, Mixture(facts_per_line=2, max_level=4))
_MAZE = _levels(4, 6, (5, 6), 12, Mixture(0.05, 0.1, 5, 4, 6, 6), (4, 5, 6), max_len=224)
_MAZE["think_budget"]["omitted"] = 0.0
_SHORT = {                            # rows are thrice as long as chain's
    "pretrain": {"steps": 1500, "rows_per_step": 32, "eval_n": 200}, "sft": {"eval_n": 200},
    "star": {"problems": 400, "eval_n": 200}, "critic": {"problems": 1200},
    "outcome": {"problems": 1200}, "rl_critic": {"problems": 1200},
    "testtime": {"problems": 100, "n": 32}, "rl_testtime": {"problems": 100, "n": 32},
    "rl": {"steps": 120, "prompts_per_step": 32, "lr": 5e-5, "group_size": 8,
           "validation_n": 150, "eval_n": 200},
    "search": {"problems": 50}, "flywheel": {"problems": 400, "eval_n": 200}}
_LARGE_MAZE = _levels(4, 10, (8, 10), 12, Mixture(0.05, 0.1, 8, 4, 10, 10), max_len=512)
_STAR = _levels(5, 5, (5,), 8, Mixture(0.1, 0.3, 5, 5, 5, 5))
_STAR["think_budget"]["omitted"] = 0.0
FAMILY_SIZES: dict[str, dict[str, dict[str, dict]]] = {
    "addition": {                 # the longest step is `A->5 , C->1.</think>`
        "smoke": _levels(1, 2, (2,), 16, Mixture(0.1, 0.1, 4, max_level=2)),
        "quickstart": _longer(_levels(1, 7, (6, 7), 16, Mixture(facts_per_line=4, max_level=7),
                                      max_len=192)),
        "gpu": _levels(1, 7, (7,), 16, Mixture(facts_per_line=6, max_level=7)),
    },
    "countdown": {                # a step may name the state that it goes back to
        "smoke": _levels(3, 3, (3,), 24, Mixture(0.1, 0.1, 4, min_level=3, max_level=3), steps=60,
                         max_len=384),
        "quickstart": _longer(_COUNTDOWN),
        "gpu": _COUNTDOWN,
    },
    "decomposition": {            # level 4 is beyond the corpus
        "smoke": _levels(1, 2, (2,), 16, Mixture(0.1, 0.1, 2, max_level=2), max_len=192),
        "quickstart": _longer(_levels(1, 3, (2, 3), 16, _SPLIT, max_len=192), _TRACES, _GENTLE),
        "gpu": _levels(1, 3, (3,), 16, _SPLIT, max_len=192),
    },
    "instructions": {
        "smoke": _levels(1, 2, (2,), 12, Mixture(0.1, 0.1, max_level=2)),
        "quickstart": _longer(_levels(1, 6, (5, 6), 12, Mixture(max_level=6))),
        "gpu": _levels(1, 6, (6,), 12, Mixture(max_level=6)),
    },
    "maze": {                     # the longest step is `12e7:f7e8d7;`
        "smoke": _levels(4, 4, (4,), 12, Mixture(0.1, 0.1, 4, 4, 4, 4), (4,)),
        "quickstart": _longer(_MAZE, _SHORT),
        "gpu": _LARGE_MAZE,
    },
    "modular": {
        "smoke": _levels(1, 2, (2,), 12, Mixture(0.1, 0.1, max_level=2)),
        "quickstart": _longer(_levels(1, 4, (3, 4), 12, Mixture(max_level=4))),
        "gpu": _levels(1, 4, (4,), 12, Mixture(max_level=4)),
    },
    "multiplication": {           # the longest step is `0075111(1397921)`
        "smoke": _levels(1, 2, (2,), 24, Mixture(0.1, 0.1, 2, max_level=2)),
        "quickstart": _longer(_DIGITS),
        "gpu": {**_DIGITS, "internalize": {
            "min_level": 4, "max_level": 4, "steps": 60_000, "steps_per_token": 500,
            "d_model": 256, "n_heads": 8, "d_ff": 512,
            "rows_per_step": 512, "token_budget": 65536, "lr": 1e-3, "warmup": 100,
            "save_every": 1000}},
    },
    "pathstar": {"smoke": _STAR, "quickstart": _longer(_STAR), "gpu": _STAR},
    "program": {                  # the longest step is `x=99-99=99;`
        "smoke": _levels(1, 2, (2,), 12, Mixture(0.1, 0.1, 2, max_level=2)),
        "quickstart": _longer(_PROGRAM, _GENTLE),
        "gpu": _PROGRAM,
    },
    "synthesis": {                # the longest step is `?x<9:2:x=x*9>99,99,99;`
        "smoke": _levels(1, 2, (2,), 24, Mixture(0.1, 0.1, 1, max_level=2)),
        "quickstart": _longer(_SYNTHESIS, _GENTLE, _SEARCHED),
        "gpu": _SYNTHESIS,
    },
}


def settings_of(family: str, size: str, stage: str) -> dict:
    """What a stage of a run is given beyond its defaults; a size must be one of SIZES."""
    own = FAMILY_SIZES.get(family, {}).get(size, {})
    return SIZES[size].get(stage, {}) | own.get(stage, {})
