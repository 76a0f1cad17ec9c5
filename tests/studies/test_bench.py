"""bench on a tiny model: both sides do the whole work with the same weights, and it is recorded."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from minireason.core.errors import UserError
from minireason.critics.value_head import Critic
from minireason.export import our_config, read_weights, write_folder
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.model.native_layers import choose_layers
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.sampling.complete import stream
from minireason.sampling.native import choose_decoder
from minireason.sampling.sampler import Samples, Sampling
from minireason.stages import rl
from minireason.stages.pretrain import Config as PretrainConfig
from minireason.studies import bench, peers, speed, trl_peer
from minireason.studies.bench import Config as BenchConfig
from minireason.studies.bench import load_ours, load_theirs, logit_gap, run
from minireason.studies.speed import compare, speed_table, summary

pytest.importorskip("transformers")
TINY = PretrainConfig(d_model=16, n_layers=1, n_heads=2, head_dim=8, d_ff=24, rows_per_step=6)


def config(**more) -> BenchConfig:
    return BenchConfig(shape=TINY, rounds=2, prompts=2, level=1, n=2, max_new=3, device="cpu",
                       **more)


def test_result_holds_what_the_table_and_the_json_need(tmp_path, capsys, monkeypatch):
    result = run(config(out=str(tmp_path / "bench.json")))
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert (tmp_path / "bench.md").read_text() == speed_table(result) + "\n"
    (tmp_path / "bench.md").unlink()
    assert run(BenchConfig(source=str(tmp_path / "bench.json"))) == result
    assert (tmp_path / "bench.md").read_text() == speed_table(result) + "\n"
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json"):
        run(BenchConfig(source=str(tmp_path / "other.json")))
    assert result["torch"] == torch.__version__
    assert result["threads"] == torch.get_num_threads()
    assert result["largest logit difference"] < 1e-5             # the bound for fp32 exports
    assert result["sampling"]["tokens"] == 2 * 2 * 3
    places = sum(b * t for b, t in result["training"]["micro_batches"]["theirs"])
    assert places / 2 < result["training"]["tokens"] <= places    # padding is not counted
    assert ("layers" in result) == (choose_layers("auto")[0] == "native")
    decoded = choose_decoder("auto") == "native"
    assert ("bf16" in result) == decoded
    if decoded:
        assert 0 < result["bf16"]["change"]["logprob"] < 0.01
        assert 0 <= result["bf16"]["change"]["parted"] <= 1
    for name in filter(result.get, ("sampling", "training", "layers", "bf16")):
        row = result[name]
        low, high = row["ratio_quartiles"]
        assert 0 < low <= row["ratio"] <= high
    printed = capsys.readouterr().out
    assert decoded == ("sampling, ours in bfloat16" in printed)
    assert "sampling" in printed and "training" in printed and torch.__version__ in printed
    if decoded:
        monkeypatch.setenv("MINIREASON_DECODE", "bf16")          # nothing is beside itself
        assert "bf16" not in run(config())


def test_rounding_is_counted_up_to_where_a_row_parts():
    def chunk(*rows):
        tokens, logprobs = zip(*rows, strict=True)
        return Samples(0, torch.tensor(tokens), torch.ones(len(rows), 3, dtype=torch.bool),
                       torch.tensor(logprobs))

    exact = chunk(([1, 2, 3], [-1.0, -2, -3]), ([4, 5, 6], [-1.0, -1, -1]))
    rounded = chunk(([1, 2, 3], [-1.0, -2, -4]), ([4, 9, 6], [-3.0, -9, -9]))
    found = bench.rounding([exact], [rounded])
    assert found == {"parted": 0.5, "logprob": 0.75}
    assert speed.rounding_text(**found).endswith("50.0% of the samples; up to there log p changes "
                                                 "by 7.5e-01 each")
    apart = bench.rounding([exact], [chunk(([9, 2, 3], [0.0, 0, 0]), ([9, 5, 6], [0.0, 0, 0]))])
    assert apart == {"parted": 1.0, "logprob": None}
    assert speed.rounding_text(**apart).endswith("100.0% of the samples")


def test_both_sides_take_the_same_training_step():
    """Whatever is timed is the same work: after it, both models have moved to the same place."""
    cfg = config()
    ours, tokenizer = load_ours(cfg)
    theirs = load_theirs(ours, tokenizer)
    batches, packed, count = bench.training_batches(cfg, tokenizer)
    start = ours.embedding.weight.detach().clone()
    for _ in range(3):
        bench.our_step(ours, packed, count)()
        # one difference is meant: ours decays matrices only, theirs everything
        bench.their_step(theirs, batches, count)()
    moved = (ours.embedding.weight - start).abs().max()
    gap = (ours.embedding.weight - theirs.model.embed_tokens.weight).abs().max()
    assert moved > 1e-4 and gap < 0.05 * moved


def test_sides_take_turns():
    order = []
    result = compare(3, 10, lambda: order.append("ours"), lambda: order.append("theirs"))
    assert order == ["ours", "theirs"] * 5                       # two untimed turns first
    assert result["tokens"] == 10


def test_ratios_are_medians_of_the_rounds_and_of_wall_time_and_cpu_time_apart():
    ours, theirs = [(1, 2), (3, 9), (2, 2)], [(4, 5), (6, 5), (8, 9)]
    row = summary(12, {"ours": [*map(np.array, ours)], "theirs": [*map(np.array, theirs)]})
    assert row["ratio"] == 4 and row["processor_ratio"] == 5 / 2
    assert row["ratio_quartiles"] == [2, 4] and row["tokens_per_sec"] == {"ours": 6, "theirs": 2}
    start = np.array([time.perf_counter(), time.process_time()])
    assert (speed.now() >= start).all()


def test_a_file_that_is_no_json_is_refused():
    with pytest.raises(UserError, match=r"--out bench.md: must end in .json"):
        config(out="bench.md")


def test_another_model_is_noticed():
    cfg = config()
    ours, tokenizer = load_ours(cfg)
    theirs = load_theirs(ours, tokenizer)
    batches, _, _ = bench.training_batches(cfg, tokenizer)
    with torch.no_grad():
        theirs.model.layers[0].mlp.up_proj.weight.add_(1.0)
        theirs.model.layers[0].mlp.down_proj.weight.add_(1.0)
    with pytest.raises(UserError, match="logits differ"):
        logit_gap(ours, theirs, batches[0])


def test_a_checkpoint_can_be_measured_and_a_critic_cannot(tmp_path):
    ours, tokenizer = load_ours(config())
    checkpoint.save(tmp_path, ours, tokenizer)
    again, _ = load_ours(config(checkpoint=str(tmp_path)))
    assert again.embedding.weight.equal(ours.embedding.weight)
    checkpoint.save(tmp_path, Critic(ours.config), tokenizer)
    with pytest.raises(UserError, match="a critic"):
        load_ours(config(checkpoint=str(tmp_path)))


def ours_as_peer(folder, prompts, _threads):
    """Our own sampler in the part of a peer: reads the exported folder."""
    policy = read_weights(folder / "model.safetensors", our_config(folder / "config.json"))
    tokenizer = Tokenizer.build(chain.TOKENS)
    tokenizer.eos = -1

    def draw(n, max_new, greedy):
        how = Sampling(n=n, max_new=max_new, temperature=0.0 if greedy else 1.0)
        return [row for out in stream(policy, tokenizer, prompts, how)
                for row in out.tokens.tolist()]

    return draw


def with_other_weights(folder, prompts, threads):
    draw = ours_as_peer(folder, prompts, threads)
    return lambda *how: [[token + 1 for token in row] for row in draw(*how)]


def with_shorter_rows(folder, prompts, threads):
    draw = ours_as_peer(folder, prompts, threads)
    return lambda *how: [row[:-1] for row in draw(*how)]


def broken(*_):
    raise RuntimeError("first line\nit cannot read qwen3")


def steps_of_nobody(_folder, prompts, how, steps, between):
    assert prompts == [f"{p.prompt}<think>" for p in level_one()]
    assert (how.n, how.max_new, steps) == (2, 3, 4)
    for _ in range(steps):
        between()
    return [np.array([wall, 3.0]) for wall in (1.0, 1.0, 2.0, 2.0)]


def level_one():
    (problems,) = frozen_sets("chain", "test", 2, (1,)).values()
    return problems


def test_peers_are_timed_or_left_out_with_the_reason(monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    monkeypatch.setattr(trl_peer, "find_spec", lambda name: None)
    monkeypatch.setattr(peers, "SAMPLERS", {
        "one": ("json", ours_as_peer), "two": ("json", broken),
        "three": ("no_such_module", broken)})
    result = run(config(peers=True))
    assert list(result["peers"]) == ["sampling, one", "training, compiled"]
    assert all(row["ratio"] > 0 for row in result["peers"].values())
    absent = "not installed; pip install 'minireason[bench]'"
    assert result["left_out"] == {
        "sampling, two": "it cannot read qwen3", "sampling, three": absent, "RL step, TRL": absent}
    printed = capsys.readouterr().out
    assert "| sampling, one | 12 |" in printed and "left out: sampling, two, it cannot" in printed


def test_a_peer_with_other_weights_is_not_compared(monkeypatch):
    monkeypatch.setattr(peers, "SAMPLERS", {
        "one": ("json", with_other_weights), "two": ("json", with_shorter_rows)})
    ours, tokenizer = load_ours(config())
    found = bench.beside_samplers(config(), ours, tokenizer, [[1], [2]])
    assert not found["peers"]
    assert found["left_out"]["sampling, one"].startswith("goes on differently after")
    assert found["left_out"]["sampling, two"] == "draws other than 1 rows of 4 tokens for a prompt"


@pytest.mark.parametrize("name", peers.SAMPLERS)
def test_a_real_peer_draws_what_is_asked(name, tmp_path):
    module, make = peers.SAMPLERS[name]
    pytest.importorskip(module, reason=f"NOT CHECKED: needs {module}")
    ours, tokenizer = load_ours(BenchConfig(shape=replace(TINY, head_dim=16)))
    write_folder(tmp_path, ours, tokenizer, chain)
    prompts = [tokenizer.encode(text) for text in ("<bos>2+3=<think>", "<bos>(2+3)*4=<think>")]
    draw = make(tmp_path, prompts, 1)
    assert draw(1, 4, True) == ours_as_peer(tmp_path, prompts, 1)(1, 4, True)
    rows = draw(3, 5, False)
    assert [len(row) for row in rows] == [5] * 6 and len({*map(tuple, rows)}) > 1


def test_a_step_of_ours_draws_and_learns_while_trl_waits(monkeypatch):
    policies, learn = [], rl.learn

    def watched(cfg, step, policy, optimizer, updates, *rest):
        before = policy.embedding.weight.detach().clone()
        found = learn(cfg, step, policy, optimizer, updates, *rest)
        drawn = sum(int(batch.loss_mask.sum()) for batch in updates[0])
        policies.append((drawn, bool((policy.embedding.weight != before).any())))
        return found

    monkeypatch.setattr(rl, "learn", watched)
    monkeypatch.setattr(trl_peer, "find_spec", lambda name: True)
    monkeypatch.setattr(trl_peer, "their_steps", steps_of_nobody)
    monkeypatch.setattr(peers, "SAMPLERS", {})
    ours, tokenizer = load_ours(config())
    start = ours.embedding.weight.detach().clone()
    row = bench.beside_trl(config(), ours, tokenizer, level_one())
    assert isinstance(row, dict) and row["tokens"] == 2 * 2 * 3
    assert row["seconds"]["theirs"] == 2.0                       # two turns untimed
    assert policies == [(12, True)] * 4 and ours.embedding.weight.equal(start)


def test_what_fails_in_trl_is_said(monkeypatch):
    monkeypatch.setattr(trl_peer, "find_spec", lambda name: True)
    monkeypatch.setattr(trl_peer, "their_steps", broken)
    assert bench.beside_trl(config(), *load_ours(config()), level_one()) == "it cannot read qwen3"


def test_what_fails_in_our_own_step_is_not_laid_on_trl(monkeypatch):
    monkeypatch.setattr(trl_peer, "find_spec", lambda name: True)
    monkeypatch.setattr(trl_peer, "their_steps", steps_of_nobody)
    monkeypatch.setattr(rl, "learn", ours_that_fails)
    with pytest.raises(UserError, match="loss is nan"):
        bench.beside_trl(config(), *load_ours(config()), level_one())


def ours_that_fails(*_):
    raise UserError("loss is nan")


def test_one_sample_per_prompt_is_no_group(monkeypatch):
    monkeypatch.setattr(trl_peer, "find_spec", lambda name: True)
    cfg = replace(config(), n=1)
    assert "give --n 2" in bench.beside_trl(cfg, *load_ours(cfg), level_one())


def test_a_length_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"--max-new 500: after the longest prompt a model of max"):
        run(replace(config(), max_new=500))


def test_a_peer_that_may_not_end_a_row_is_compared_up_to_our_end(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "SAMPLERS", {"one": ("json", lambda *_: lambda *__: [[7, 8, 9]])})
    for greedy, there in (([7, 0, 0], True), ([7, 8, 0], True), ([7, 9, 0], False)):
        found, left_out = peers.samplers(tmp_path, [[1]], 1, [greedy], eos=0)
        assert bool(found) == there != bool(left_out)


def test_trl_itself_takes_its_steps(tmp_path):
    pytest.importorskip("trl", reason="NOT CHECKED: needs trl")
    ours, tokenizer = load_ours(BenchConfig(shape=replace(TINY, head_dim=16)))
    write_folder(tmp_path, ours, tokenizer, chain)
    turns, seed = [], torch.initial_seed()
    seconds = trl_peer.their_steps(tmp_path, ["2+3=<think>", "(2+3)*4=<think>"],
                                   Sampling(n=2, max_new=3), 3, lambda: turns.append(1))
    assert len(seconds) == len(turns) == 3 and np.min(seconds) > 0 and torch.initial_seed() == seed
