"""The training assignments run from their own short training and from a finished run, and say in
one line what a user did wrong."""

import json
import math
import runpy
import sys

import pytest
from wrong_solutions import ASSIGNMENTS, solution_path

TRAINING = {   # folder: what its table must hold
    "08_star_filter": ("rule", ["none", "majority", "answer", "steps", "steps - answer"]),
    "09_grpo_rloo": ("arm", ["rloo", "grpo", "grpo - rloo"]),
    "10_critic_picks": ("rule", ["first", "best", "majority", "weighted", "oracle",
                                 "best - majority", "critic"]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One working folder, so that the policy is trained once."""
    return tmp_path_factory.mktemp("experiments")


def train(folder: str, *options: str, monkeypatch, place) -> list[dict]:
    """Run train.py as a command would; the rows of results.json."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    monkeypatch.chdir(place)
    (place / "results.json").unlink(missing_ok=True)
    runpy.run_path(str(ASSIGNMENTS / folder / "train.py"), run_name="__main__")
    return json.loads((place / "results.json").read_text())["rows"]


@pytest.mark.parametrize("folder", TRAINING)
def test_an_experiment_runs_and_fills_its_table(folder, monkeypatch, place, capsys):
    rows = train(folder, str(solution_path(folder)), "--small", "--seeds", "2",
                 monkeypatch=monkeypatch, place=place)
    name, wanted = TRAINING[folder]
    assert [row[name] for row in rows] == wanted
    for row in rows:
        numbers = [x for x in row.values() if not isinstance(x, str)]
        assert all(math.isfinite(x) for x in numbers)
        for low in (key for key in row if key.endswith("_low")):
            assert row[low] <= row[low.removesuffix("_low") + "_high"]
    assert wanted[-1] in capsys.readouterr().out.splitlines()[-1]


def test_an_experiment_starts_from_a_run(ladder, monkeypatch, place):
    rows = train("08_star_filter", str(solution_path("08_star_filter")), "--small", "--seeds", "1",
                 "--run", str(ladder), "--levels", "1", "2", monkeypatch=monkeypatch, place=place)
    assert len(rows) == 5
    assert json.loads((place / "results.json").read_text())["start"] == f"{ladder}/sft"


@pytest.mark.parametrize("options,told", [
    (("nowhere.py",), "nowhere.py: no such file"),
    (("SOLUTION", "--run", "nowhere"), "nowhere: holds no finished stage sft; run `mini"),
    (("SOLUTION", "--seeds", "0"), "--seeds must be at least 1"),
    (("SOLUTION", "--small", "--levels", "99"), "--levels [99]: must lie in 1 to 12"),
    (("STARTER", "--small"), "a function is not written yet"),
])
def test_an_error_of_the_user_is_one_line_here_too(options, told, monkeypatch, place):
    places = {"SOLUTION": str(solution_path("08_star_filter")),
              "STARTER": str(ASSIGNMENTS / "08_star_filter" / "starter.py")}
    with pytest.raises(SystemExit) as stop:
        train("08_star_filter", *(places.get(o, o) for o in options), monkeypatch=monkeypatch,
              place=place)
    assert told in str(stop.value.code) and "\n" not in str(stop.value.code)
