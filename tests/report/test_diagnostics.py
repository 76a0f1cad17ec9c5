"""Each sign of trouble in reinforcement learning warns beyond its limit, and only there."""

import pytest

from minireason.report.diagnostics import signs_of

SOUND = {"accuracy": 0.6, "share_cut": 0.01, "share_silent": 0.3, "entropy": 0.1,
         "length_right": 40.0, "length_wrong": 50.0}


def run(**last: float) -> list[dict]:
    """Metrics of 40 steps; in the second half some keys have other values."""
    steps = [SOUND] * 20 + [{**SOUND, **last}] * 20
    return [{f"train/{key}": value for key, value in step.items()} for step in steps]


def test_a_sound_run_has_numbers_and_no_warning():
    signs = signs_of(run())
    assert [advice for _, advice in signs] == [""] * 4
    assert [number for number, _ in signs] == [
        "completions cut at max_new (%): 1 at first, 1 at the end",
        "groups without signal (%): 30 at first, 30 at the end",
        "entropy (nats per completion): 4.4 at first, 4.4 at the end",
        "length (tokens): 44 at first, 44 at the end"]


@pytest.mark.parametrize("sign, last, words", [
    (0, {"share_cut": 0.06}, "lower --lr"),
    (1, {"share_silent": 0.8}, "equally right: raise --min-level"),
    (1, {"share_silent": 0.8, "accuracy": 0.1}, "equally wrong: lower --max-level"),
    (2, {"entropy": 0.01}, "raise --clip-high"),
    (3, {"length_right": 70.0, "length_wrong": 80.0}, "--aggregation token")])
def test_each_sign_says_what_to_do(sign, last, words):
    signs = signs_of(run(**last))
    assert words in signs[sign][1]
    assert [bool(advice) for _, advice in signs] == [number == sign for number in range(4)]


def test_little_entropy_is_no_loss_where_all_is_solved():
    assert signs_of(run(entropy=0.001, accuracy=0.97))[2][1] == ""


def test_what_was_not_measured_is_left_out():
    assert signs_of([]) == []
    old = [{key: value for key, value in line.items() if key != "train/share_cut"}
           for line in run()]
    assert len(signs_of(old)) == 3
    never = [{key: value for key, value in line.items() if key != "train/length_right"}
             for line in run(accuracy=0.0)]
    assert signs_of(never)[3][0] == "length (tokens): 50 at first, 50 at the end"
