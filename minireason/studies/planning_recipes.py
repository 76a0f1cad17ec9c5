"""What the arms of `minireason planning` read; recipes, equal for all arms of a family."""

from dataclasses import dataclass

from minireason.studies import shared

DUALFORMER = {"cot": 0.45, "drop1": 1 / 6, "drop2": 1 / 6, "drop3": 1 / 6, "direct": 0.05}
ARMS: dict[str, tuple[str, dict[str, float]]] = {    # name: (family, share of rows in each style)
    "plan": ("maze", {"direct": 1}), "trace": ("maze", {"cot": 1}), "dropped": ("maze", DUALFORMER),
    "star": ("pathstar", {"direct": 1}), "star_reversed": ("pathstar", {"reverse": 1}),
    "star_thought": ("pathstar", {"cot": 1}),
    "star_mixed": ("pathstar", {"direct": 0.5, "cot": 0.5}),
    "program": ("program", {"direct": 1}), "program_trace": ("program", {"cot": 1})}
MODES = {"fast": "direct", "slow": "cot", "auto": "auto"}      # mode: style whose opener is forced


@dataclass(frozen=True, kw_only=True)
class Recipe(shared.Recipe):
    """Model, training and measurement of one family and size; equal for all its arms."""

    max_len: int
    levels: tuple[int, int]       # lowest and highest that is trained and measured
    weight_decay: float = 0.05


_TINY = {"d_model": 16, "n_layers": 1, "n_heads": 1, "head_dim": 16, "d_ff": 32, "steps": 4,
         "warmup": 2, "tokens_per_step": 300, "lr": 2e-3, "eval_n": 6, "save_every": 2}
_SMALL = {"d_model": 96, "n_heads": 3, "head_dim": 32, "d_ff": 256, "warmup": 50, "lr": 2e-3,
          "eval_n": 300}
_STAR = {**_SMALL, "d_model": 64, "n_heads": 4, "head_dim": 16}
_LARGE = {"d_model": 384, "n_heads": 6, "head_dim": 64, "d_ff": 1024, "warmup": 200, "lr": 1e-3,
          "token_budget": 65_536}
SIZES: dict[str, dict[str, Recipe]] = {
    "smoke": {"maze": Recipe(**_TINY, max_len=128, levels=(4, 4)),
              "pathstar": Recipe(**_TINY, max_len=80, levels=(5, 5)),
              "program": Recipe(**_TINY, max_len=160, levels=(1, 1))},
    "cpu": {"maze": Recipe(**_SMALL, n_layers=4, max_len=384, levels=(4, 8), steps=3000,
                           tokens_per_step=2400),
            "pathstar": Recipe(**_STAR, n_layers=4, max_len=80, levels=(5, 5), steps=2000,
                               tokens_per_step=2400),
            "program": Recipe(**_SMALL, n_layers=4, max_len=160, levels=(1, 6), steps=3000,
                              tokens_per_step=2400)},
    "gpu": {"maze": Recipe(**_LARGE, n_layers=8, max_len=512, levels=(4, 10), steps=20_000,
                           tokens_per_step=65_536),
            "pathstar": Recipe(**_LARGE, n_layers=6, max_len=80, levels=(5, 5), steps=10_000,
                               tokens_per_step=16_384),
            "program": Recipe(**_LARGE, n_layers=6, max_len=160, levels=(1, 6), steps=10_000,
                              tokens_per_step=32_768)},
}
RL: dict[str, dict] = {               # size: settings of think_budget's reinforcement learning
    "smoke": {"steps": 2, "prompts_per_step": 2, "group_size": 2},
    "cpu": {"steps": 200, "prompts_per_step": 64, "group_size": 8, "lr": 3e-4},
    "gpu": {"steps": 400, "prompts_per_step": 256, "group_size": 8, "lr": 3e-4},
}
