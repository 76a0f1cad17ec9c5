"""The runs of `minireason scale` as data: shapes, lengths, seeds of tuning, judges, by size."""

from dataclasses import dataclass

LAWS = ("pretrain", "rl", "testtime", "exchange", "search")
TUNING_SEED = 1000                # of the runs that learning rates are chosen by, never of a result
JUDGES = {                        # of search: {its name: flags}
    "oracle": {"judge": "oracle"}, "good": {"judge": "critic"},
    "noisy": {"judge": "critic", "noise": 3.0}, "random": {"judge": "random"}}
EXACT = {"mixture.rule": 0.0, "mixture.rare": 0.0, "mixture.slip": 0.0}


@dataclass(frozen=True)
class Plan:
    """The runs of one size."""

    shapes: tuple[tuple[int, int, int, int, int], ...]   # ascending: d_model, L, H, head_dim, d_ff
    steps: tuple[tuple[int, ...], ...]   # of pretraining, by shape; each length is a run of its own
    rates: dict[int, tuple[float, ...]]     # {steps: learning rates that every shape tries}
    ladder: int                   # the shape of every later stage
    exchange: tuple[tuple[int, int], ...]   # shapes ascending, each with the samples that R asks
                                            # for at most; the largest answers greedily
    exchange_steps: int           # of these: so many that the smallest has learned level 1
    rl: tuple[int, ...]           # steps of the RL runs, ascending
    flags: dict[str, dict]        # of every command, and of "tuning", "exact" and "exchange" runs

    @property
    def last(self) -> int:
        """Steps of the base of every later stage."""
        return self.steps[self.ladder][-1]

    def tuned(self, shape: int, steps: int) -> dict[float, str]:
        """{learning rate: folder} of the tuning runs of a shape and length; the shape's longest
        stands for more."""
        steps = min(steps, self.steps[shape][-1])
        return {lr: f"tuning-{shape}-{steps}-{lr:g}" for lr in self.rates[steps]}


_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
_CHEAP = {"eval_n": 10, "save_every": 50}
_LEVEL_2 = {"max_level": 2, "rows_per_step": 16, "lr": 1e-3, **_CHEAP}
_SMOKE = {"mixture.max_level": 2, "mixture.facts": 0.1, "rows_per_step": 32, **_CHEAP}
PLANS = {
    "smoke": Plan(
        ((16, 1, 1, 16, 32), (32, 1, 2, 16, 64), (48, 2, 3, 16, 96)), ((30, 300),) * 3,
        {30: (1e-2, 3e-2), 300: (1e-2, 3e-2)}, 2, ((1, 32), (2, 1)), 300,
        (1, 2, 3, 4, 6), {
            "pretrain": _SMOKE,
            "tuning": _SMOKE,
            "sft": {"steps": 30, **_LEVEL_2},
            "star": {"rounds": 1, "problems": 60, "min_level": 1, "steps": 5, **_LEVEL_2},
            "rl": {"prompts_per_step": 4, "max_level": 2, "validation_n": 4, **_CHEAP},
            "critic": {"problems": 16, "n": 2, "steps": 5, "rows_per_step": 8, "min_level": 1,
                       "max_level": 2, "held_out": 4},
            "testtime": {"levels": 2, "problems": 8, "n": 16},
            "exact": _SMOKE,
            "exchange": {"levels": (1, 2), "problems": 10},
            "search": {"levels": 2, "problems": 10, "samples": (2, 4), "pool": 8, "max_step": 8}}),
    "cpu": Plan(
        ((32, 2, 2, 16, 96), (48, 3, 3, 16, 128), (64, 3, 4, 16, 176), (96, 4, 3, 32, 256),
         (128, 5, 4, 32, 384), (160, 6, 5, 32, 432)),
        (*((60, 240, 960),) * 4, *((60, 240),) * 2),
        {60: (*_RATES, 6.4e-2), 240: _RATES, 960: _RATES}, 3, ((0, 512), (1, 128), (3, 1)), 1920,
        (2, 4, 8, 16, 32, 64, 128, 256, 512), {
            "pretrain": {"eval_n": 100},
            "tuning": {"eval_n": 10},      # of these the loss alone counts
            "sft": {"eval_n": 200},
            "star": {"eval_n": 200},
            "rl": {"eval_n": 200, "validation_n": 100},
            "critic": {},
            "testtime": {"levels": 8, "problems": 500, "n": 1024},
            "exact": {"eval_n": 50},
            "exchange": {"levels": (2, 5, 8), "problems": 200},
            "search": {"levels": 8, "problems": 240, "samples": (4, 16, 64), "pool": 512}}),
    "gpu": Plan(
        ((64, 3, 2, 32, 176), (128, 4, 4, 32, 344), (192, 6, 6, 32, 512), (256, 8, 8, 32, 688),
         (384, 8, 12, 32, 1024), (512, 10, 16, 32, 1376)), ((375, 1500, 6000),) * 6,
        dict.fromkeys((375, 1500, 6000), (5e-4, 1e-3, 2e-3, 4e-3)), 2,
        ((1, 4096), (3, 1024), (5, 1)), 6000,
        (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), {
            "pretrain": {"rows_per_step": 1024, "token_budget": 65536, "save_every": 1000},
            "tuning": {"rows_per_step": 1024, "token_budget": 65536, "save_every": 1000,
                       "eval_n": 10},
            "sft": {"rows_per_step": 256, "token_budget": 65536},
            "star": {"problems": 8000, "rows_per_step": 256, "token_budget": 65536},
            "rl": {"prompts_per_step": 256, "group_size": 8, "token_budget": 65536, "lr": 3e-4},
            "critic": {"problems": 8000, "rows_per_step": 512, "token_budget": 65536},
            "testtime": {"levels": 8, "problems": 500, "n": 4096},
            "exact": {"rows_per_step": 1024, "token_budget": 65536, "save_every": 1000},
            "exchange": {"levels": (2, 5, 8), "problems": 500},
            "search": {"levels": 8, "problems": 500, "samples": (4, 16, 64, 256), "pool": 1024}}),
}
