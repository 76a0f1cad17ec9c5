"""What several test files share: the stages in their tiny form, and one finished tiny ladder."""

from pathlib import Path

import pytest
import torch

from minireason.mixture import Mixture
from minireason.stages import critic, pretrain, sft, star, testtime

torch.set_num_threads(1)          # models this small wait for threads longer than they compute

MIXTURE = Mixture(facts=0.2, direct=0.2, facts_per_line=3, max_level=2)


def tiny_stages(root: Path) -> dict:
    """{stage: (run, config)} in order; trained just long enough that STaR finds right answers."""
    at = {name: str(root / name) for name in ("pretrain", "sft", "star", "critic", "testtime")}
    return {
        "pretrain": (pretrain.run, pretrain.PretrainConfig(
            out=at["pretrain"], device="cpu", mixture=MIXTURE, d_model=32, n_layers=1, n_heads=2,
            head_dim=16, d_ff=32, max_len=64, steps=60, lines_per_step=24, lr=1e-2, warmup=3,
            token_budget=256, save_every=20, eval_n=2)),
        "sft": (sft.run, sft.SFTConfig(
            init=at["pretrain"], out=at["sft"], device="cpu", traces=200, max_level=1, hinted=0.5,
            steps=60, rows_per_step=24, token_budget=256, lr=1e-2, warmup=2, save_every=20,
            eval_n=2)),
        "star": (star.run, star.STaRConfig(
            init=at["sft"], base=at["pretrain"], out=at["star"], device="cpu", rounds=2,
            problems=120, min_level=1, max_level=2, n=4, restart=False, steps=6, rows_per_step=12,
            token_budget=256, warmup=2, save_every=2, eval_n=2)),
        "critic": (critic.run, critic.CriticConfig(
            init=at["star"], out=at["critic"], device="cpu", problems=16, min_level=1,
            max_level=2, n=2, steps=6, rows_per_step=8, token_budget=256, warmup=2, save_every=2,
            held_out=4)),
        "testtime": (testtime.run, testtime.TestTimeConfig(
            policy=at["star"], critic=at["critic"], out=at["testtime"], device="cpu",
            levels=(1, 2), problems=6, n=4, shard=2)),
    }


@pytest.fixture(scope="session")
def ladder(tmp_path_factory) -> Path:
    """A folder in which every stage has run once; tests that change it work on a copy."""
    root = tmp_path_factory.mktemp("ladder")
    for run, config in tiny_stages(root).values():
        run(config)
    return root
