"""Splitting: shares by hardness, and accuracy of three modes at equal tokens, from rows."""

import re

import numpy as np
import pytest
from tiny_run import tiny_ladder

from minireason import cli
from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.measure.estimates import two_way_interval
from minireason.measure.evaluate import frozen_sets
from minireason.model.tokenizer import Tokenizer
from minireason.problems import decomposition
from minireason.report.runs import group_by, select
from minireason.report.tables import points_text
from minireason.studies import obedience, splitting
from minireason.studies import splitting_tables as tables

RUNGS = ["pretrained, step by step", "SFT", "STaR", "RL", "RL, price 0.01"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny_ladder(tmp_path_factory.mktemp("splitting") / "run", "decomposition")


@pytest.fixture(scope="module")
def measured(finished):
    return splitting.run(splitting.Config(runs=(str(finished),), prices=(0.01,), problems=3, n=4,
                                          out=str(finished.parent / "s")))


def test_every_policy_is_asked_the_same_questions_in_every_mode(finished, measured):
    answers = select(measured["rows"], kind="answers")
    assert list(group_by(answers, "policy")) == RUNGS
    rewards = read_json(finished / "splitting/RL-price-0.01/config.json")["config"]["rewards"]
    assert rewards["price"] == 0.01
    for own in group_by(answers, "policy").values():
        for mode in decomposition.MODES:
            cells = select(own, mode=mode)
            digits = [one for row in cells for one in row["right"].split()]
            assert len(digits) == 4 * 3 and {len(one) for one in digits} == {4}
            assert [len(one) for row in cells for one in row["answers"].split()] == [4] * 4 * 3
    bare = splitting.questions("test", 3)
    assert len(set(bare)) == len(bare) == 12 and not any(":" in one for one in bare)
    sets = frozen_sets("decomposition", "test", 10 ** 6).values()
    for first, problems in zip(range(0, 12, 3), sets, strict=True):      # the first of every level
        found = [problem.prompt.rpartition(":")[2] for problem in problems]
        places = [found.index(one) for one in bare[first:first + 3]]
        assert places == sorted(places) and len({*found[:places[-1] + 1]}) == 3


def test_rows_are_as_by_hand(monkeypatch):
    """Asked twice, of each: solved; the last result one off; the last step missing and the answer
    wrong. 47*8 is hard, -12 is not."""
    def drawn(policy, tokenizer, problems, style, how):
        ideal, _ = [decomposition.render(problem, style) for problem in problems]
        assert how.n == 3
        cut = re.sub(";[^;]*</think>", "</think>", ideal)
        return [[ideal, ideal.replace("=364<", "=363<"), cut.replace(">364", ">36")]] * 2

    monkeypatch.setattr(splitting, "complete", drawn)
    monkeypatch.setattr(splitting, "questions", lambda split, n: ["((47*8)-12)="] * 2)
    rows = splitting.rows_of_policy({"split": "test", "problems": 1, "n": 3, "seed": 0}, None,
                                    Tokenizer.build(decomposition.TOKENS))
    for mode, begun, lengths in (("once", 4, 24 + 24 + 12), ("split", 6, 52 + 52 + 41)):
        (answers,) = select(rows, kind="answers", mode=mode)
        assert (answers["hardest"], answers["tokens"]) == (4, 2 * lengths)
        assert (answers["right"], answers["answers"]) == ("110 110", "aab aab")
        found = {row["operator"]: (row["way"], row["hardness"], sum(row["count"]),
                                   row["right_results"])
                 for row in select(rows, kind="operations", mode=mode)}
        assert found == {"*": (mode, 4, 6, 6), "-": (mode, 2, begun, 2)}


def test_a_finished_study_is_only_written_again(finished, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(splitting, "complete", None)             # would fail
    out = finished.parent / "s"
    assert splitting.run(splitting.Config(runs=(str(finished),), prices=(0.01,), problems=3, n=4,
                                          out=str(out))) == measured
    assert cli.main(["splitting", "--from", str(out), "--out", str(tmp_path / "again")]) == 0
    for name in ("splitting.json", "splitting.md", "splitting.png"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def blocks(count: int) -> list[int]:
    return [count] * tables.BLOCKS


def made_rows(seed: int, policy: str = "RL") -> list[dict]:
    """Choosing writes 20 tokens and is right, never splitting 10 and one time in four."""
    rows = []
    for mode, digits, tokens in (("", "1111", 20), ("once", "1000", 10), ("split", "1110", 40)):
        answers = digits.translate(str.maketrans("01", "ab"))
        rows.append({"kind": "answers", "policy": policy, "seed": seed, "mode": mode, "level": 2,
                     "hardest": 4, "right": " ".join([digits] * 3),
                     "answers": " ".join([answers] * 3), "tokens": tokens * 4 * 3})
    for hard, split in ((2, 1), (4, 3)):
        for way, count in (("once", 4 - split), ("split", split)):
            rows.append({"kind": "operations", "policy": policy, "seed": seed, "mode": "",
                         "level": 2, "operator": "*", "hardness": hard, "way": way,
                         "count": blocks(count), "right_results": count * tables.BLOCKS})
    rows.append({**rows[-1], "mode": "once"})
    return rows


def test_modes_vote_over_as_many_samples_as_fit():
    rows = select(made_rows(0), kind="answers")
    assert [tables.at_budget(rows, mode, 1)[1] for mode in ("", "once", "split")] == [2, 4, 1]
    assert [tables.at_budget(rows, mode, 4)[1] for mode in ("", "once", "split")] == [4, 4, 4]
    assert tables.at_budget(rows, "split", 1)[0] == pytest.approx([0.75] * 3)
    assert tables.at_budget(rows, "once", 1)[0] == pytest.approx([0] * 3)   # outvoted
    assert tables.at_budget(rows, "split", 4)[0] == pytest.approx([1] * 3)


def test_half_a_sample_more_is_half_of_what_it_changes():
    rows = [{**row, "tokens": (10 if row["mode"] == "once" else 25) * 4 * 3}
            for row in select(made_rows(0), kind="answers")]
    found, n = tables.at_budget(rows, "once", 1)            # two: a quarter; three: outvoted
    assert n == 2.5 and found == pytest.approx([0.125] * 3, abs=0.05)


def test_a_block_counts_for_as_much_as_it_moves_the_share():
    """Made heavier by a millionth; and rises have intervals over these blocks and the seeds."""
    counts = np.random.default_rng(0).integers(1, 9, (2, 2, 2, tables.BLOCKS))
    rows = [{"policy": "RL", "seed": seed, "hardness": hard, "way": way, "count": [*own[seed, i]]}
            for seed in (0, 1) for hard, own in zip((2, 3), counts, strict=True)
            for i, way in enumerate(("split", "once"))]
    found, own = [tables.shares(select(rows, hardness=hard)) for hard in (2, 3)], counts[0, 0]
    for block in range(tables.BLOCKS):
        split, once = (own * (1 + 1e-6 * (np.arange(tables.BLOCKS) == block))).sum(axis=1)
        share = own[0].sum() / own.sum()
        moved = 1e6 * tables.BLOCKS * (split / (split + once) - share)
        assert found[0][0, block] == pytest.approx(share + moved, abs=1e-3)
    (rise,) = tables.rise_rows(rows)
    assert rise["text"] == points_text(two_way_interval(found[1], found[0]))


def test_tables_are_as_by_hand():
    rows = made_rows(0) + made_rows(1)
    text = tables.text_of(rows)
    assert "| share split (%) | 2 | 4 |" in text
    assert "| RL | 25 (25 to 25) | 75 (75 to 75) |" in text
    assert "| RL | +50.0 [+50.0, +50.0] |" in text and "| RL, products | 25 (25" in text
    assert "| share split, by level (%) | level 2 |" in text
    assert "| share split where the prompt says (%) | never splitting |" in text
    assert "| accuracy (%) | 4 (n = 3) |" in text
    assert "| RL, once | 100 | 100 |" in text
    assert "| RL, as it chooses, 2.0 samples | 100.0 [100, 100] |" in text
    assert "| RL, choosing - never splitting, 1 x | +100.0 [+100.0, +100.0] |" in text
    assert "| RL, choosing - always splitting, 4 x | +0.0 [+0.0, +0.0] |" in text
    rows += [{**row, "operator": "+", "count": blocks(4)} for row in rows
             if row["kind"] == "operations" and row["hardness"] == 2 and row["way"] == "once"]
    for axes, shares in zip(tables.figure_of(rows).axes, ([12.5, 75], [25, 75]), strict=True):
        assert axes.get_legend_handles_labels()[1] == ["RL"]
        assert np.allclose(axes.lines[0].get_ydata(), shares)
    text = tables.text_of(rows)                   # sums: one bin, no rise
    assert "| RL | +62.5 [+62.5, +62.5] |" in text and "| RL, sums | 0 (0 to 0) |  |" in text
    assert "| RL, products | +50.0 [+50.0, +50.0] |" in text and "| RL, sums | +" not in text


def test_a_run_of_another_family_is_refused(finished, tmp_path):
    with pytest.raises(UserError, match="is a run of decomposition, not of instructions"):
        obedience.run(obedience.Config(runs=(str(finished),), out=str(tmp_path)))
    with pytest.raises(UserError, match="give --runs"):
        splitting.Config()
