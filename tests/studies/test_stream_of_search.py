"""The countdown study in its tiny form: it runs, resumes, continues with RL and redraws."""

import dataclasses
import json
import re
import shutil

import pytest

from minireason.core.config import UserError
from minireason.problems import countdown
from minireason.studies import stream_of_search as study
from minireason.studies.stream_of_search import Config
from minireason.training import imitate as imitation


@pytest.fixture
def smallest(monkeypatch):
    """The smoke size, with fewer problems."""
    recipe = dataclasses.replace(study.SIZES["smoke"], eval_n=2, coverage_n=2, save_every=1)
    monkeypatch.setitem(study.SIZES, "smoke", recipe)
    return recipe


def test_smoke_runs_resumes_and_is_the_same(smallest, tmp_path, monkeypatch):
    cfg = Config(out=str(tmp_path / "a"), size="smoke", arms=("sos",), device="cpu")
    whole, steps = imitation.supervised_step, []

    def dies(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(imitation, "supervised_step", dies)
    with pytest.raises(KeyboardInterrupt):
        study.run(cfg)
    result = study.run(cfg)                                      # from step 2, not from the start
    assert len(steps) == 3 + smallest.steps - 2
    other = study.run(dataclasses.replace(cfg, out=str(tmp_path / "b")))
    assert result["cells"] == other["cells"]
    text = (tmp_path / "a/table.md").read_text()
    assert re.search(r"\| sos \| 0 \| .* \| 0\.0 \[", text) and "random" in text
    assert json.loads((tmp_path / "a/result.json").read_text()) == result == study.run(cfg)
    study.run(Config(source=str(tmp_path / "a"), out=str(tmp_path / "drawn")))
    for name in ("coverage.png", "table.md"):                    # from result.json alone
        assert (tmp_path / "drawn" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_arms_start_from_a_policy_and_rl_continues_from_an_arm(smallest, ladder, tmp_path):
    shutil.copytree(ladder / "star", tmp_path / "s0")
    result = study.run(Config(
        out=str(tmp_path / "a"), size="smoke", init=str(tmp_path / "s{seed}"),
        arms=("optimal_tokens", "guided"), rl=("guided",), device="cpu"))
    assert [c["arm"] for c in result["cells"]] == ["optimal_tokens", "guided", "guided+rl"]
    own = json.loads((tmp_path / "a/cells/guided-s0/config.json").read_text())
    assert own["config"]["init"] == "../../../s0"                  # "{seed}" stood for it
    rl = json.loads((tmp_path / "a/cells/guided+rl-s0/rl/config.json").read_text())
    assert rl["config"]["init"] == "../../guided-s0"
    assert result["cells"][2]["train_tokens"] > 0 and (tmp_path / "a/coverage.png").exists()


def test_what_is_kept_of_samples():
    """Equal expressions have equal numbers; giving up is no answer."""
    problem = countdown.read("3,7,18,2>46")
    texts = ["</think>(18*2)+(7+3)<eos>", "</think>(7+3)+(18*2)<eos>", "</think>18+7<eos>",
             "</think>(18*2)+(7+3)<eos>", "</think><wrong><eos>", "nothing"]
    kept = study.verdicts(problem, texts)
    first, second, third, *rest = kept["answers"]
    assert len({first, second, third}) == 3 and min(first, second, third) >= 0
    assert rest == [first, -1, -1] and kept["correct"] == [1, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("more, message", [
    ({"size": "huge"}, "--size huge"), ({"arms": ("sos",), "rl": ("guided",)}, "--rl guided"),
    ({"arms": ("fast",)}, "--arms"), ({"seeds": ()}, "--seeds")])
def test_bad_configuration_is_a_user_error(more, message):
    with pytest.raises(UserError, match=message):
        Config(**more)
