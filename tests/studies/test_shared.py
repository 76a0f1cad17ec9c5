"""What the studies share: commands that can be typed again, models of equal seeds."""

from dataclasses import dataclass

import pytest

from minireason.core.errors import UserError
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


def test_a_result_is_lost_to_no_other_command(tmp_path):
    def study(out, runs, found, source="", merged=None):
        cfg = Config(out=str(tmp_path / out), source=str(source), seeds=runs)
        return shared.study_rows(cfg, "count", "", lambda _: [{"n": n} for n in found],
                                 lambda rows: f"{len(rows)} rows\n", {}, merged=merged)

    study("a", (0,), [1])
    study("a", (0,), [1, 2])                                          # the same again
    with pytest.raises(UserError, match="holds the results of `minireason count --seeds 0 "):
        study("a", (1,), [3])
    study("b", (1,), [3])
    with pytest.raises(UserError, match="would be lost"):
        study("a", (), [], source=tmp_path / "b")
    study("c", (2,), [1, 2, 3])
    assert study("a", (), [], source=tmp_path / "c")["rows"] == [{"n": n} for n in (1, 2, 3)]

    def merged(path, rows):
        held = read_json(path)["rows"] if path.exists() else []
        return [*held, *(row for row in rows if row not in held)]

    for seed in (3, 4, 4, 5):
        result = study("d", (seed,), [seed], merged=merged)
    assert result["rows"] == [{"n": n} for n in (3, 4, 5)]
    assert [words.split()[3] for words in result["earlier"]] == ["3", "4"]
    assert "--seeds 5 --eval-n 5`, with rows of 2 earlier commands, on: " in (
        tmp_path / "d/count.md").read_text()
    result = study("a", (), [], source=tmp_path / "d", merged=merged)     # adds to it
    assert [row["n"] for row in result["rows"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("content", ['{"command": "c", "rows": [{"m": 1}]}', '{"rows": 3}', "{}",
                                     '{"command": "c", "rows": [{"n": "x"}]}', '{"rows": [[]]}',
                                     '{"command": "c", "rows": [{"n": 0}]}'])
def test_a_damaged_result_cannot_be_drawn_and_replaces_nothing(tmp_path, content):
    (tmp_path / "count.json").write_text(content)
    (tmp_path / "count.md").write_text("as it was")
    with pytest.raises(UserError, match=r"count\.json: is damaged or of another version"):
        shared.study_rows(Config(source=str(tmp_path)), "count", "", lambda _: [],
                          lambda rows: f"{[1 / row['n'] for row in rows]}", {})
    assert (tmp_path / "count.json").read_text() == content
    assert (tmp_path / "count.md").read_text() == "as it was"


def test_random_models_follow_their_seed():
    tokenizer, recipe = Tokenizer.build(chain.TOKENS), SIZES["tiny"]
    one, same, other = (shared.random_model(tokenizer, recipe, seed, 32) for seed in (0, 0, 1))
    assert one.embedding.weight.equal(same.embedding.weight)
    assert not one.embedding.weight.equal(other.embedding.weight)
    assert one.config.max_len == 32 and one.config.vocab_size == tokenizer.vocab_size


def test_rows_of_all_steps_are_as_many_as_their_mean_says():
    counts = [rows_before(10.6, step + 1) - rows_before(10.6, step) for step in range(100)]
    assert set(counts) == {10, 11} and sum(counts) == 1060 and rows_before(0.2, 7) == 7
