"""What the studies share: commands that can be typed again, models of equal seeds."""

import json
from dataclasses import dataclass

import pytest

from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.studies import shared
from minireason.studies.lee2023 import SIZES
from minireason.studies.shared import write_json
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


@pytest.mark.parametrize("given", [{"seeds": (1,)}, {"eval_n": 7}, {"device": "cuda"}])
def test_no_flag_beside_a_redrawn_folder_is_ignored(tmp_path, given):
    cfg = Config(source=str(tmp_path), out=str(tmp_path / "b"), **given)
    (flag,) = given
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')}: has no meaning beside"):
        shared.run_study("count", cfg, lambda *_: {}, lambda *_: None)
    with pytest.raises(UserError, match="has no meaning beside --from"):
        shared.study_rows(cfg, "count", "", lambda _: [], lambda _: "", {})
    assert not list(tmp_path.iterdir())


def test_a_result_is_lost_to_no_other_command(tmp_path):
    def study(out, runs, found, source="", merged=None):
        cfg = Config(out=str(tmp_path / out), source=str(source), seeds=runs)
        return shared.study_rows(cfg, "count", "", lambda _: [{"n": n} for n in found],
                                 lambda rows: f"{len(rows)} rows\n", {}, merged=merged)

    study("a", (0,), [1])
    study("a", (0, 1), [1, 2])                                        # it may grow
    for seeds in ((1,), (0, 1)):                                      # as the same words may not
        with pytest.raises(UserError, match="holds results of `minireason count --seeds 0 1 "):
            study("a", seeds, [3])
    study("b", (1,), [3])
    with pytest.raises(UserError, match="would be lost"):
        study("a", (0, 1), [], source=tmp_path / "b")
    study("c", (2,), [1, 2, 3])
    assert study("a", (0, 1), [], source=tmp_path / "c")["rows"] == [{"n": n} for n in (1, 2, 3)]

    def merged(path, held, rows):
        return [*held, *(row for row in rows if row not in held)]

    def another_ends_first(_):
        write_json(tmp_path / "e/count.json", {"command": "b", "rows": [{"n": 2}]})
        return [{"n": 1}]

    (tmp_path / "e").mkdir()
    with pytest.raises(UserError, match="holds results of `b` that would be lost"):
        shared.study_rows(Config(out=str(tmp_path / "e")), "count", "", another_ends_first, str, {})

    for seed in (3, 4, 4, 5):
        result = study("d", (seed,), [seed], merged=merged)
    assert result["rows"] == [{"n": n} for n in (3, 4, 5)]
    assert [words.split()[3] for words in result["earlier"]] == ["3", "4"]
    assert "--seeds 5 --eval-n 5`, with rows of 2 earlier commands, on: " in (
        tmp_path / "d/count.md").read_text()
    result = study("a", (0, 1), [], source=tmp_path / "d", merged=merged)     # adds to it
    assert [row["n"] for row in result["rows"]] == [1, 2, 3, 4, 5]


def test_a_study_without_rows_is_replaced_by_its_own_command_alone(tmp_path):
    def write(result, out):
        shared.write_table(out / "table.md", result, f"counted {result['count']}\n")

    for out, n in (("a", 5), ("b", 6)):
        shared.run_study("count", Config(out=str(tmp_path / out), eval_n=n),
                         lambda cfg, *_: {"count": cfg.eval_n}, write)
    text = (tmp_path / "b/table.md").read_text()
    again = Config(source=str(tmp_path / "a"), out=str(tmp_path / "b"))
    with pytest.raises(UserError, match=r"b/result.json: holds results of .* --eval-n 6` that"):
        shared.run_study("count", again, None, write)
    assert (tmp_path / "b/table.md").read_text() == text
    for damaged in ("{}", '{"command": "c", "count": 1, "rows": 3}', '{"count": 2, "rows": [1]}'):
        (tmp_path / "a/result.json").write_text(damaged)
        with pytest.raises(UserError, match=r"a/result\.json: is damaged"):
            shared.run_study("count", Config(source=str(tmp_path / "a")), None, write)


@pytest.mark.parametrize("held", ['{"rows": 3}', '{"rows": [1]}', '{"rows": null}', "[]", "x",
                                  '{"rows": [{"m": 1}]}'])
def test_a_damaged_file_in_the_way_is_named_before_all_work(tmp_path, held):
    """Also by --from of a whole one: it is not the whole one that is damaged."""
    for name, content in (("whole", '{"command": "c", "rows": [{"n": 1}]}'), ("held", held)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "count.json").write_text(content)
    for source in (str(tmp_path / "whole"), ""):
        with pytest.raises(UserError, match=r"held/count\.json: "):
            shared.study_rows(Config(source=source, out=str(tmp_path / "held")), "count", "", None,
                              str, {}, merged=lambda _, old, rows: [*old, *rows] * old[0]["n"])
    assert (tmp_path / "held/count.json").read_text() == held


@pytest.mark.parametrize("content", ['{"command": "c", "rows": [{"m": 1}]}', '{"rows": 3}', "{}",
                                     '{"command": "c", "rows": [{"n": "x"}]}', '{"rows": [[]]}',
                                     '{"command": "c", "rows": [{"n": 0}]}'])
def test_a_damaged_result_cannot_be_drawn_and_replaces_nothing(tmp_path, content):
    (tmp_path / "count.json").write_text(content)
    (tmp_path / "count.md").write_text("as it was")
    with pytest.raises(UserError, match=r"count\.json: is damaged"):
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


def test_a_row_of_many_numbers_is_one_line(tmp_path):
    rows = [{"n": [1, 2]}, {"n": [[3], []], "what": '"rows": []'}]
    result = {"command": "a", "rows": rows, "b": {}}
    write_json(tmp_path / "a.json", result)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == result and text.count("\n") == 8
    for other in ({"command": "a", "rows": []}, {"fits": [1]}):
        write_json(tmp_path / "b.json", other)
        assert json.loads((tmp_path / "b.json").read_text()) == other
