"""Records: what one holds, and that shards are drawn once, by one rank, and read back in order."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from minireason.core import parallel
from minireason.core.runlog import RunLog
from minireason.critics.value_head import Critic, final_values
from minireason.measure.estimates import Pool
from minireason.measure.evaluate import answer_of, frozen_sets, verdicts_of
from minireason.measure.samples import (
    load_pools,
    sample_records,
    save_pools,
    sharded_records,
)
from minireason.model import checkpoint
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling


@dataclass(frozen=True)
class Config:
    seed: int = 0


def test_a_record_holds_what_was_drawn(ladder):
    policy, tokenizer = checkpoint.load(ladder / "star")
    critic, _ = checkpoint.load(ladder / "critic", kind=Critic)
    (problems,) = frozen_sets("chain", "test", 3, (1,)).values()
    how = Sampling(n=5, max_new=9, seed=4)
    records = sample_records(policy, tokenizer, {
        "values": partial(final_values, critic, tokenizer)}, problems, how)
    completions = complete(policy, tokenizer, problems, "cot", how)
    values = final_values(critic, tokenizer, problems, completions)
    verdicts = verdicts_of(problems, completions)
    for i, (record, texts) in enumerate(zip(records, completions, strict=True)):
        assert (record["prompt"], record["answer"]) == (problems[i].prompt, problems[i].answer)
        assert record["example"] == texts[0]
        for j, text in enumerate(texts):
            assert record["tokens"][j] == len(tokenizer.encode(text)) - 1 <= 9
            assert record["answers"][j] == answer_of(problems[i], text)
            assert record["correct"][j] == int(verdicts[i][j].correct)
            assert record["steps_valid"][j] == int(verdicts[i][j].steps_valid)
            assert record["ended"][j] == int("<eos>" in text)
            assert record["values"][j] == pytest.approx(values[i][j], abs=5e-5)   # four digits


def test_ranks_share_the_shards_and_a_lost_one_is_made_again(tmp_path, monkeypatch):
    sets = frozen_sets("chain", "test", 13, (2, 3))
    made = []

    def make(problems, purpose):
        made.append(purpose)
        return [{"prompt": problem.prompt} for problem in problems]

    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    by_rank = []
    for rank in (0, 1):
        def barrier(waits=rank == 0):
            if waits and made:
                raise TimeoutError                           # rank 0 waits for the other one
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(parallel, "barrier", barrier)
        log = RunLog(str(tmp_path), "test", Config(), {})
        with suppress(TimeoutError):
            found = sharded_records(log, "samples", sets, 1, make)
        by_rank.append(made.copy())
        made.clear()
    every = [f"{name} {start}" for name in sets for start in range(13)]
    assert by_rank == [every[::2], every[1::2]]
    wanted = {name: [{"prompt": p.prompt} for p in problems] for name, problems in sets.items()}
    assert found == wanted                                   # 2 comes before 10
    (tmp_path / "samples-chain-test-k3-4.json").unlink()
    monkeypatch.undo()
    assert sharded_records(log, "samples", sets, 1, make) == wanted
    assert made == ["chain-test-k3 4"]


def test_kept_pools_are_those_of_the_records(tmp_path):
    generator = np.random.default_rng(0)

    def record() -> dict:
        return {"answers": generator.choice(["7", "12", None], 5).tolist(),
                "correct": generator.integers(0, 2, 5).tolist(),
                "tokens": generator.integers(1, 90, 5).tolist(),
                "values": generator.random(5).round(4).tolist(),
                "outcome_values": generator.random(5).round(4).tolist()}

    drawn = {t: {name: [record() for _ in range(4)] for name in ("a", "b")} for t in (0.7, 1.0)}
    save_pools(tmp_path / "pools.npz", drawn, {"a": np.ones(4), "b": np.zeros(4)})
    first = (tmp_path / "pools.npz").read_bytes()
    save_pools(tmp_path / "pools.npz", drawn, {"a": np.ones(4), "b": np.zeros(4)})
    assert (tmp_path / "pools.npz").read_bytes() == first
    for temperature, sets in drawn.items():
        for name, records in sets.items():
            for values in ("values", "outcome_values"):
                found = load_pools(tmp_path / "pools.npz", name, temperature, values)
                for pool, wanted in zip(found, records, strict=True):
                    expected = vars(Pool.of(wanted, values))
                    for field, value in vars(pool).items():
                        assert np.array_equal(value, expected[field]), field
