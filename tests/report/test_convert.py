"""The committed rows are what the converter makes of the committed results."""

from pathlib import Path

import pytest

from minireason.core.config import read_json, read_lines
from minireason.report import convert

REFERENCE = Path(__file__).parents[2] / "data/reference/quickstart"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reference_rows_are_those_of_the_results(seed):
    paths = sorted((REFERENCE / f"seed-{seed}").glob("*/result.json"))
    assert len(paths) == 11
    for path in paths:
        record = read_json(path.parent / "config.json")
        rows = convert.rows_of_result(record["stage"], record["config"], read_json(path))
        assert rows and rows == read_lines(path.parent / "rows.jsonl"), path
        assert all(row["seed"] == seed and None not in row.values() for row in rows)


def test_a_stage_without_rows_is_converted_and_one_without_a_converter_has_none(tmp_path):
    assert convert.rows_of_result("toy", {}, {"accuracy": {}}) == []
    folder = tmp_path / "sft"
    folder.mkdir()
    for name in ("config.json", "result.json"):
        (folder / name).write_text((REFERENCE / "seed-1/sft" / name).read_text())
    convert.main([str(tmp_path)])
    assert (folder / "rows.jsonl").read_text() == (REFERENCE / "seed-1/sft/rows.jsonl").read_text()
