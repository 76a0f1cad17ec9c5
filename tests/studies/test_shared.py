"""What the studies share: commands that can be typed again, models of equal seeds."""

from dataclasses import dataclass

from minireason.core.files import read_json
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.studies import shared
from minireason.studies.lee2023 import SIZES
from minireason.training.batches import rows_before


@dataclass(frozen=True)
class Config(shared.Study):
    """A study that only counts."""

    seeds: tuple[int, ...] = (0, 1)
    init: str = ""
    eval_n: int = 5
    device: str = "cpu"


def test_a_study_measures_once_and_writes_as_often_as_asked(tmp_path, capsys):
    measured = []

    def measure(cfg, log, device):
        measured.append(log.out)
        return {"count": cfg.eval_n}

    def write(result, out):
        shared.write_table(out / "table.md", result, f"counted {result['count']}\n")

    cfg = Config(out=str(tmp_path / "a"), init="runs/s{seed}/star")
    result = shared.run_study("count", cfg, measure, write)
    assert shared.run_study("count", cfg, measure, write) == result
    assert len(measured) == 1 and read_json(tmp_path / "a/result.json") == result
    text = (tmp_path / "a/table.md").read_text()
    command = "minireason count --seeds 0 1 --init 'runs/s{seed}/star' --eval-n 5"
    assert text.startswith("counted 5\n\nMade by `") and f"`{command}` on: cores " in text
    (tmp_path / "a/table.md").unlink()
    shared.run_study("count", Config(source=str(tmp_path / "a")), measure, write)
    assert (tmp_path / "a/table.md").read_text() == text and len(measured) == 1
    shared.write_table(tmp_path / "plain.md", {"command": "minireason count"}, "")
    assert (tmp_path / "plain.md").read_text() == "\nMade by `minireason count`.\n"


def test_random_models_follow_their_seed():
    tokenizer, recipe = Tokenizer.build(chain.TOKENS), SIZES["tiny"]
    one, same, other = (shared.random_model(tokenizer, recipe, seed, 32) for seed in (0, 0, 1))
    assert one.embedding.weight.equal(same.embedding.weight)
    assert not one.embedding.weight.equal(other.embedding.weight)
    assert one.config.max_len == 32 and one.config.vocab_size == tokenizer.vocab_size


def test_rows_of_all_steps_are_as_many_as_their_mean_says():
    counts = [rows_before(10.6, step + 1) - rows_before(10.6, step) for step in range(100)]
    assert set(counts) == {10, 11} and sum(counts) == 1060 and rows_before(0.2, 7) == 7
