"""Each stage alone: what it writes, that it repeats, and that it can learn one batch by heart."""

import dataclasses
import json
import math
from collections import Counter

import pytest
from tiny_run import tiny_stages

from minireason.core.errors import UserError
from minireason.core.files import read_checked
from minireason.critics.value_head import Critic, step_values
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig
from minireason.problems import addition, chain, split_of
from minireason.problems.corpus import corpus_lines
from minireason.stages import (
    critic,
    flywheel,
    guided_search,
    internalize,
    pretrain,
    quiet_star,
    sft,
    star,
    testtime,
    think_budget,
)
from minireason.training import imitate
from minireason.training.batches import encode_lines

MODULES = {"pretrain": pretrain, "sft": sft, "star": star, "critic": critic, "testtime": testtime,
           "quiet_star": quiet_star, "think_budget": think_budget, "internalize": internalize}
TRAINED = {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "result.json"}


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def losses(folder) -> list[float]:
    return [line["train/loss"] for line in metrics(folder)]


@pytest.mark.parametrize("stage", MODULES)
def test_a_stage_writes_what_it_promises(ladder, stage):
    files = {path.name for path in (ladder / stage).iterdir()}
    wanted = TRAINED if stage != "testtime" else TRAINED - {"model.safetensors", "tokenizer.json"}
    assert wanted <= files and not {name for name in files if name.startswith((".", "state"))}
    assert stage in ("critic", "testtime") or "samples.txt" in files
    result = json.loads((ladder / stage / "result.json").read_text())
    assert result["stage"] == stage and result["seconds"] > 0
    if stage != "testtime":
        assert result["weights"] == checkpoint.weights_hash(ladder / stage)
    for line in metrics(ladder / stage):
        for key in line.keys() - {"step"}:
            assert key.partition("/")[0] in ("train", "eval", "time", "star"), key
            assert key.startswith("time/") or "seconds" not in key, f"{key}: wall-clock"


@pytest.mark.parametrize("stage", ["sft", "star", "critic", "testtime", "quiet_star",
                                   "think_budget"])
def test_a_stage_names_its_parents_by_their_weights(ladder, stage):
    record = json.loads((ladder / stage / "config.json").read_text())
    for name, sha256 in record["parents"].items():
        assert sha256 == checkpoint.weights_hash(ladder / stage / record["config"][name])


@pytest.mark.parametrize("stage", MODULES)
def test_a_second_call_returns_the_same_without_work(ladder, stage, monkeypatch):
    run, config = tiny_stages(ladder)[stage]
    for name in ("train_step", "complete", "evaluate", "make_optimizer"):
        monkeypatch.setattr(MODULES[stage], name, None, raising=False)    # a call would fail
    before = {path: path.stat().st_mtime_ns for path in (ladder / stage).rglob("*")}
    assert run(config) == json.loads((ladder / stage / "result.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in (ladder / stage).rglob("*")}


@pytest.mark.parametrize("stage", MODULES)
def test_a_folder_of_another_config_is_refused(ladder, stage):
    run, config = tiny_stages(ladder)[stage]
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        run(dataclasses.replace(config, seed=1))


@pytest.mark.parametrize(("stage", "field"), [
    ("critic", "start"), ("testtime", "critic"), ("testtime", "outcome"), ("search", "critic"),
    ("flywheel", "critic"), ("think_budget", "critic")])
@pytest.mark.parametrize("fault", ["a policy", "another tokenizer"])
def test_a_critic_that_cannot_judge_is_refused_before_any_work(ladder, tmp_path, stage, field,
                                                               fault):
    folder, said = str(ladder / "star"), "holds a policy; give the folder of a critic"
    if fault == "another tokenizer":
        folder, said = str(tmp_path / "foreign"), "foreign: its tokenizer is not the policy's"
        tokenizer = Tokenizer.build(addition.TOKENS)
        shape = ModelConfig(tokenizer.vocab_size, 16, 1, 2, 2, 8, 24, 64)
        (tmp_path / "foreign").mkdir()
        checkpoint.save(folder, Critic(shape), tokenizer)
    star_at, critic_at = str(ladder / "star"), str(ladder / "critic")
    run, config = {**tiny_stages(ladder), "search": (guided_search.run, guided_search.Config(
        policy=star_at, critic=critic_at)), "flywheel": (flywheel.run, flywheel.Config(
            init=star_at, base=str(ladder / "pretrain"), critic=critic_at, max_level=2))}[stage]
    out = tmp_path / "out"
    with pytest.raises(UserError, match=said):
        run(dataclasses.replace(config, out=str(out), device="cpu", **{field: folder}))
    written = {path.name for path in out.rglob("*") if path.is_file()}
    assert written <= {".lock", "config.json", "metrics.jsonl"}


def test_first_ten_losses(ladder):
    """Pinned at seed 0. They change only by a commit that says why (last: Muon, and
    authors who follow their rules more often).

    Threads, BLAS and the attention kernel differ between machines in the last bits of float32
    sums; Muon rounded to bfloat16 when they were pinned, which moves them by up to 1e-4.
    """
    pinned = [4.902294, 4.845341, 4.742380, 4.626487, 4.457846,
              4.311410, 4.211755, 4.017075, 3.974743, 3.928527]
    assert losses(ladder / "pretrain")[:10] == pytest.approx(pinned, abs=2e-3)


def floor_of(rows: list[tuple[list[int], int]]) -> float:
    """The lowest mean loss that any model of prefixes can reach on these rows, in nats a token."""
    seen, ways = Counter(), Counter()
    for tokens, first in rows:
        for t in range(max(first, 1), len(tokens)):
            seen[tuple(tokens[:t])] += 1
            ways[tuple(tokens[:t + 1])] += 1
    return sum(n * math.log(seen[path[:-1]] / n) for path, n in ways.items()) / sum(seen.values())


# How near the floor: a float32 softmax of 150 tokens that is nearly sure still pays this a token.
NEAR = 0.05


def test_pretrain_learns_one_batch_by_heart(tmp_path, monkeypatch):
    lines = ["(2+3)=<think>2+3=5</think>5<eos>", "(2*4)=</think>8<eos>", "7-3=4;9/3=3<eos>"]
    monkeypatch.setattr(pretrain, "corpus_lines", lambda m, f, rng, n: [
        lines[next(turn) % 3] for _ in range(n)])
    turn = iter(range(10 ** 6))
    run, config = tiny_stages(tmp_path)["pretrain"]
    run(dataclasses.replace(config, steps=120, rows_per_step=3, eval_n=1))
    _, tokenizer = checkpoint.load(tmp_path / "pretrain")
    floor = floor_of(encode_lines(tokenizer, [""] * 3, lines))
    assert 0.05 < floor < 0.4                            # the first token cannot be known
    assert losses(tmp_path / "pretrain")[0] > floor + 2
    assert losses(tmp_path / "pretrain")[-1] == pytest.approx(floor, abs=NEAR)


def test_pretraining_continues_a_base_with_new_lines(ladder, tmp_path, monkeypatch):
    drawn = []

    def noted(mixture, family, generator, n):
        drawn.append(corpus_lines(mixture, family, generator, n))
        return drawn[-1]

    monkeypatch.setattr(pretrain, "corpus_lines", noted)
    run, config = tiny_stages(ladder)["pretrain"]
    for init, name in (("", "anew"), (config.out, "more")):
        run(dataclasses.replace(config, init=init, out=str(tmp_path / name), steps=3, eval_n=1))
    assert losses(tmp_path / "anew")[0] > losses(tmp_path / "more")[0] + 1
    assert losses(tmp_path / "more")[0] == pytest.approx(losses(ladder / "pretrain")[-1], abs=0.5)
    assert drawn[:3] != drawn[3:]
    record = json.loads((tmp_path / "more/config.json").read_text())
    assert record["parents"] == {"init": checkpoint.weights_hash(ladder / "pretrain")}
    with pytest.raises(UserError, match="is of another shape"):
        run(dataclasses.replace(config, init=config.out, out=str(tmp_path / "other"), d_ff=64))
    assert not (tmp_path / "other").exists()


def test_a_stage_of_rounds_has_the_verdicts_of_its_last(ladder):
    last = (ladder / "star/round-2/verdicts.json").read_text()
    assert (ladder / "star/verdicts.json").read_text() == last


def test_sft_learns_its_traces_by_heart(ladder, tmp_path):
    run, config = tiny_stages(ladder)["sft"]
    run(dataclasses.replace(config, out=str(tmp_path / "sft"), traces=3, rows_per_step=12,
                            hinted=0.0, steps=120, eval_n=1))
    assert losses(tmp_path / "sft")[0] > 1 and losses(tmp_path / "sft")[-1] < NEAR


def test_star_learns_its_rationales_by_heart(ladder, tmp_path, monkeypatch):
    kept = {"rationales": [["(2+3)=", "<think>2+3=5</think>5<eos>"]], "kept": 1,
            "share_solved": 1.0, "share_rationalized": 0.0, "share_wrong_steps": 0.0}
    monkeypatch.setattr(star, "sample_rationales", lambda *_: dict(kept))
    run, config = tiny_stages(ladder)["star"]
    run(dataclasses.replace(config, out=str(tmp_path / "star"), rounds=1, replay=0.0, steps=80,
                            rows_per_step=4, lr=1e-2, eval_n=1))
    curve = losses(tmp_path / "star" / "round-1")
    assert curve[0] > 1 and curve[-1] < NEAR


def test_critic_learns_its_samples_by_heart(ladder, tmp_path, monkeypatch):
    """Right and wrong samples that part at their first step, so the floor is zero."""
    def two_kinds(policy, tokenizer, problems, style, how, *_):
        return [[chain.render(p, "cot"), "<think>1+1=2</think>2<eos>"] for p in problems]

    monkeypatch.setattr(imitate, "complete", two_kinds)
    run, config = tiny_stages(ladder)["critic"]
    result = run(dataclasses.replace(config, out=str(tmp_path / "critic"), problems=6, held_out=2,
                                     labels="outcome", steps=120, lr=1e-2))
    curve = losses(tmp_path / "critic")
    assert curve[0] > 0.3 and curve[-1] < NEAR
    assert result["share_right"] == 0.5
    seen = read_checked(tmp_path / "critic" / "rollouts.json")["rollouts"][:8]
    problems, texts, right = zip(*((chain.read(p), t, r) for p, t, r in seen), strict=True)
    model, tokenizer = checkpoint.load(tmp_path / "critic", kind=Critic)
    values = step_values(model, tokenizer, list(problems), list(texts))
    assert all((v[-1] > 0.9) if r else (v[-1] < 0.1) for v, r in zip(values, right, strict=True))


def test_sft_traces_are_of_the_train_split_in_equal_shares():
    cfg = sft.Config(init="", traces=90, max_level=3)
    found = sft.traces(cfg)
    problems = [chain.read(prompt) for prompt, _, _ in found]
    assert Counter(p.level for p in problems) == {1: 30, 2: 30, 3: 30}
    assert {split_of(p) for p in problems} == {"train"}
    for p, (_, hint, completion) in zip(problems, found, strict=True):
        assert hint == f"<hint>{p.answer}" and chain.verify(p, completion).steps_valid


def test_star_keeps_what_its_rule_says_and_never_a_test_problem(ladder, monkeypatch):
    _, config = tiny_stages(ladder)["star"]
    problem = chain.read("((2+3)+4)")
    sound, lucky = chain.render(problem, "cot"), "<think>2+3=6;6+4=9</think>9<eos>"
    texts = [[lucky, sound, lucky, "<think>2+3=5;5+4=9</think>8<eos>", "junk"]]
    answer = star.keep_right(dataclasses.replace(config, per_problem=9), [problem], texts)
    steps = star.keep_right(dataclasses.replace(config, keep="steps"), [problem], texts)
    assert answer == [[lucky, sound]] and steps == [[sound]]
    rationales = read_checked(ladder / "star" / "round-1" / "rationales.json")
    for prompt, completion in rationales["rationales"]:
        kept = chain.read(prompt)
        assert split_of(kept) == "train" and chain.verify(kept, completion).correct
        assert "<hint>" not in completion
    with pytest.raises(UserError, match="--keep fancy"):
        dataclasses.replace(config, keep="fancy")


@pytest.mark.parametrize("restart", [False, True])
def test_star_without_any_right_answer_says_so_and_passes_its_policy_on(
        ladder, tmp_path, monkeypatch, capfd, restart):
    for module in (star, imitate):                # with the hint, and without
        monkeypatch.setattr(module, "complete", lambda *a, **k: [["<eos>"] * 4] * len(a[2]))
    run, config = tiny_stages(ladder)["star"]
    result = run(dataclasses.replace(config, out=str(tmp_path / "star"), restart=restart))
    assert capfd.readouterr().err.count("nothing was kept, so this round trains nothing") == 2
    assert [found["kept"] for found in result["rounds"]] == [0, 0]
    assert not any("share_wrong_steps" in found for found in result["rounds"])
    assert result["weights"] == checkpoint.weights_hash(ladder / "sft")
