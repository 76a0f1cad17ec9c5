"""Reinforcement learning: its maths by hand, its distribution, its loop, and that it learns."""

import json
import math
from dataclasses import replace

import pytest
import torch

from minireason.core.errors import UserError
from minireason.measure.evaluate import compute_curve
from minireason.model import checkpoint
from minireason.model.native_layers import choose_layers
from minireason.problems import Verdict, chain, split_of
from minireason.problems.base import MALFORMED
from minireason.sampling.complete import prompt_ids, stream
from minireason.sampling.sampler import Sampling
from minireason.stages import rl
from minireason.stages.rl import Config as RLConfig
from minireason.stages.rl import batches_of_updates, groups_of_step, rl_loss
from minireason.training import losses
from minireason.training.batches import pack
from minireason.training.losses import (
    clipped,
    group_advantages,
    kl_k3,
    policy_gradient_loss,
    token_weights,
)
from minireason.training.optim import make_optimizer, train_step
from minireason.training.rollouts import (
    Rewards,
    Rollout,
    credit_groups,
    diagnostics,
    drawn_logprobs,
    has_signal,
    reward_groups,
    rollout_batches,
    sample_groups,
    step_spans,
)

# Two summation orders of the same float32 terms; some hundred roundings of 6e-8, relative.
FLOAT32_SUM = 2e-5


@pytest.fixture
def tiny(ladder, tmp_path):
    return RLConfig(init=str(ladder / "star"), base=str(ladder / "pretrain"),
                    out=str(tmp_path / "rl"), device="cpu", steps=4, prompts_per_step=6,
                    group_size=4, min_level=1, max_level=1, token_budget=256,
                    rewards=Rewards(process=0.5, format=0.2), lr=1e-3, warmup=1, save_every=2,
                    eval_every=2, validation_n=3, eval_n=2)


@pytest.fixture(scope="module")
def policy(ladder):
    return checkpoint.load(ladder / "star", "cpu")


def credited_groups(model, tokenizer, problems, how, rewards: Rewards, advantage: str):
    """The three passes on given problems."""
    groups = sample_groups(model, tokenizer, problems, how)
    reward_groups(groups, tokenizer, rewards)
    credit_groups(groups, tokenizer, advantage, rewards.process)
    return groups


def flat(groups) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def rollout_of(problem, text: str, tokenizer, size: float = 0.1) -> Rollout:
    """A rollout without a prompt, each of whose tokens has a gradient of this squared size."""
    tokens = tokenizer.encode(text)
    return Rollout(problem, tokens, 0, [math.log(1 - size ** 0.5)] * len(tokens),
                   chain.verify(problem, "<think>" + text))


# --- the maths --------------------------------------------------------------------------------

def test_advantages_by_hand():
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1])
    by_hand = {"reinforce": [.5, -.5, -.5, .5, -.25, -.25, -.25, .75],
               "rloo": [2 / 3, -2 / 3, -2 / 3, 2 / 3, -1 / 3, -1 / 3, -1 / 3, 1],
               "grpo": [1, -1, -1, 1, -3 ** -.5, -3 ** -.5, -3 ** -.5, 3 ** .5]}
    by_hand["dr_grpo"] = by_hand["reinforce"]
    for how, expected in by_hand.items():
        assert group_advantages(rewards, 4, how).tolist() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(AssertionError, match="ppo"):
        group_advantages(rewards, 4, "ppo")


@pytest.mark.parametrize("how", losses.ADVANTAGES)
def test_equal_rewards_give_exactly_no_advantage(how):
    for value in (0.0, 1.0, 0.1 + 0.2, 1 / 3):           # sums of these are not exact
        rewards = torch.full((7,), value, dtype=torch.float64)
        assert group_advantages(rewards, 7, how, torch.ones(7)).tolist() == [0.0] * 7


def test_token_weights_by_hand():
    lengths = torch.tensor([1, 3])
    assert token_weights(lengths, "token", 10).tolist() == pytest.approx([1 / 4, 1 / 4])
    assert token_weights(lengths, "sequence", 10).tolist() == pytest.approx([1 / 2, 1 / 6])
    assert token_weights(lengths, "constant", 10).tolist() == pytest.approx([1 / 20, 1 / 20])
    with pytest.raises(AssertionError, match="mean"):
        token_weights(lengths, "mean", 10)


def test_policy_gradient_loss_against_plain_formula_and_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logprobs, old, advantages = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    logprobs, old = -1 + 0.3 * logprobs, -1 + 0.3 * old
    weights = torch.rand(40, generator=generator, dtype=torch.float64)
    plain = 0.0
    for lp, o, a, w in zip(*(x.tolist() for x in (logprobs, old, advantages, weights)),
                           strict=True):
        ratio = 2.718281828459045 ** (lp - o)
        plain -= w * min(ratio * a, min(max(ratio, 0.8), 1.3) * a)
    logprobs.requires_grad_()
    loss = policy_gradient_loss(logprobs, old, advantages, weights, 0.2, 0.3)
    assert loss.item() == pytest.approx(plain, rel=1e-12)     # float64
    assert torch.autograd.gradcheck(
        lambda x: policy_gradient_loss(x, old, advantages, weights, 0.2, 0.3), logprobs)
    with pytest.raises(AssertionError):
        policy_gradient_loss(logprobs, old[:1], advantages, weights, 0.2, 0.3)


@pytest.mark.parametrize(("advantage", "ratio", "stopped"), [
    (1, 1.25, False), (1, 1.31, True), (1, 0.5, False),      # a good token grows to 1 + high
    (-1, 0.81, False), (-1, 0.79, True), (-1, 1.5, False),   # a bad one shrinks to 1 - low
    (0, 0.5, False)])
def test_clip_stops_where_it_should_and_is_higher_above(advantage, ratio, stopped):
    logprobs = torch.tensor([ratio]).log().requires_grad_()
    old, advantages = torch.zeros(1), torch.tensor([float(advantage)])
    policy_gradient_loss(logprobs, old, advantages, torch.ones(1), 0.2, 0.3).backward()
    assert clipped(logprobs, old, advantages, 0.2, 0.3).item() == stopped
    assert logprobs.grad.item() == (0 if stopped else pytest.approx(-advantage * ratio))


def test_k3_is_an_unbiased_kl_that_is_never_negative():
    p, q = torch.randn(2, 9, generator=torch.Generator().manual_seed(1),
                       dtype=torch.float64).log_softmax(-1)
    estimates = kl_k3(p, q)
    exact = (p.exp() * (p - q)).sum()
    assert (estimates >= 0).all()
    assert (p.exp() * estimates).sum().item() == pytest.approx(exact.item(), rel=1e-12)
    assert kl_k3(p, p).abs().max() == 0


def test_rewards_are_the_verifiers(policy):
    _, tokenizer = policy
    problem = chain.build(23, [("+", 4), ("*", 3)])
    good, lucky = "<think>23+4=27;27*3=81</think>81<eos>", "<think>23+4=26;27*3=81</think>81<eos>"
    rewards = Rewards(outcome=1.0, format=0.1)
    expected = {good: 1.1, lucky: 1.1, "<think>23+4=27</think>27<eos>": 0.1,
                "<think>23+4=27;27*3=81</think>81": 0.0}
    group = [rollout_of(problem, text.removeprefix("<think>"), tokenizer) for text in expected]
    reward_groups([group], tokenizer, rewards)
    assert [r.reward for r in group] == pytest.approx(list(expected.values()))
    reward_groups([group], tokenizer, Rewards())
    assert [r.reward for r in group] == [1.0, 1.0, 0.0, 0.0]


def step_credits(group, tokenizer, advantage: str) -> list[list[float]]:
    """The advantages of a group for its steps alone."""
    alike = [replace(rollout, reward=0.0) for rollout in group]
    credit_groups([alike], tokenizer, advantage, 1.0)
    return [rollout.advantages for rollout in alike]


def test_process_reward_is_credited_to_its_own_step_only(policy):
    """Of one problem: right, second step wrong, first step withdrawn once, malformed."""
    _, tokenizer = policy
    problem = chain.build(23, [("+", 4), ("*", 3)])
    texts = ["23+4=27;27*3=81</think>81<eos>", "23+4=27;27*3=80</think>80<eos>",
             "23+4=26<wrong>23+4=27;27*3=81</think>81<eos>", "23+4=27;27"]
    group = [rollout_of(problem, text, tokenizer) for text in texts]
    spans = [step_spans(rollout, tokenizer) for rollout in group]
    assert spans == [[(0, 6, 1), (6, 12, 1)], [(0, 6, 1), (6, 12, 0)], [(6, 12, 1), (12, 18, 1)],
                     []]
    right, wrong, mended, malformed = step_credits(group, tokenizer, "reinforce")
    third = pytest.approx(1 / 3)
    assert right == [0.0] * 6 + [third] * 6 + [0.0] * 2        # all began right: nothing to learn
    assert wrong == [0.0] * 6 + [pytest.approx(-2 / 3)] * 6 + [0.0] * 2
    assert mended == [0.0] * 12 + [third] * 6 + [0.0] * 2
    assert malformed == [0.0] * 7
    group[1].logprobs[9] = math.log(1 - 0.9 ** 0.5)            # the wrong step was a surprise
    right, wrong, _, _ = step_credits(group, tokenizer, "optimal")
    baseline = (2 * 6 * 0.1) / (2 * 6 * 0.1 + 5 * 0.1 + 0.9)
    assert right[6] == pytest.approx(1 - baseline) and wrong[6] == pytest.approx(-baseline)


def test_optimal_baseline_has_the_least_variance():
    """Two arms of a softmax bandit, enumerated: any other constant baseline spreads more."""
    p = torch.tensor([0.9, 0.1], dtype=torch.float64)
    rewards, scores = torch.tensor([1.0, 0.0]), (1 - p) ** 2            # |grad log pi|^2, arm's own
    gradient = (1 - p)                                                  # of the drawn arm's logit
    group = torch.tensor([0] * 9 + [1])                                 # a group in proportion
    advantages = group_advantages(rewards[group], 10, "optimal", scores[group])
    best = 1 - advantages[0].item()
    assert best == pytest.approx(0.09 * 0.1 / (0.09 * 0.1 + 0.9 * 0.9 * 0.1), rel=1e-5)

    def second_moment(baseline: float) -> float:
        return float((p * ((rewards - baseline) * gradient) ** 2).sum())

    assert all(second_moment(best) < second_moment(b) for b in (best - 0.02, best + 0.02, 0.9))


def test_process_credit_is_added_to_the_outcome_advantage(policy, monkeypatch):
    """A stand-in for the verifier marks about half of the first steps right: this policy none."""
    model, tokenizer = policy
    monkeypatch.setattr(chain, "verify", lambda problem, text: Verdict(
        "7" in text, False, True, ("5" in text,)) if chain.parse(text) else MALFORMED)
    problems = [chain.build(n, [("+", 4)]) for n in (3, 20, 41)]
    how = Sampling(n=6, max_new=24, seed=5)
    plain, with_steps = (credited_groups(model, tokenizer, problems, how, Rewards(process=weight),
                                         "reinforce") for weight in (0.0, 2.0))
    credited = 0
    for before, after in zip(plain, with_steps, strict=True):
        credits = step_credits(before, tokenizer, "reinforce")
        credited += sum(any(credit) for credit in credits)
        for a, b, credit in zip(before, after, credits, strict=True):
            assert len(set(a.advantages)) == 1
            assert b.advantages == pytest.approx([x + 2 * c for x, c in
                                                  zip(a.advantages, credit, strict=True)])
    assert credited, "the test wants a group with right and wrong steps"


# --- sampling and learning ---------------------------------------------------------------------

@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_loss_see_the_same_distribution(policy, tiny, temperature):
    model, tokenizer = policy
    problems = [chain.build(n, [("+", 4)]) for n in (3, 20, 61)]
    how = Sampling(n=3, max_new=12, temperature=temperature, seed=5)
    groups = credited_groups(model, tokenizer, problems, how, Rewards(), "reinforce")
    assert [[r.problem for r in group] for group in groups] == [[p] * 3 for p in problems]
    for rollout in (r for group in groups for r in group):
        alone = replace(rollout, advantages=[1.0] * rollout.length)
        batch, = rollout_batches([alone], [1.0], temperature, 256, tokenizer.pad)
        fresh = drawn_logprobs(model, batch, temperature)
        # cached decoding and a whole forward sum in another order
        assert fresh.tolist() == pytest.approx(rollout.logprobs, abs=FLOAT32_SUM)
        text = "<think>" + tokenizer.decode(rollout.tokens[rollout.first:])
        assert rollout.verdict == chain.verify(rollout.problem, text)
    chunk, = stream(model, tokenizer, prompt_ids(tokenizer, problems, "cot"), how)
    assert chunk.tokens.shape[0] == 9


def gradient(cfg, model, batches) -> torch.Tensor:
    model.zero_grad()
    for batch in batches:
        rl_loss(cfg, model, batch)[0].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("layers", ["native", "torch"])
@pytest.mark.parametrize(("budget", "n_batches"), [(25, 5), (60, 2), (10_000, 1)])
def test_a_prompt_read_once_changes_neither_logprobs_nor_gradient(policy, layers, budget, n_batches,
                                                                  monkeypatch):
    """Against the same rollouts as rows of their own, prompt and all."""
    monkeypatch.setenv("MINIREASON_LAYERS", layers if choose_layers("auto")[0] == "native"
                       else "torch")
    model, tokenizer = policy
    problems = [chain.build(3, [("+", 4)]), chain.build(20, [("+", 4), ("*", 2)])]
    groups = sample_groups(model, tokenizer, problems, Sampling(n=3, max_new=12, seed=5))
    for i, rollout in enumerate(flat(groups)):
        rollout.advantages = [0.5 - i + t for t in range(rollout.length)]
    groups.append([replace(groups[1][0], tokens=[*groups[1][0].tokens[:-1], 7])])
    batches = rollout_batches(flat(groups), [0.1] * 7, 1.0, budget, tokenizer.pad)
    assert len(batches) == n_batches and all(b.inputs.numel() <= budget for b in batches)
    if budget > 25:                                                # prompts are read once
        assert sum(b.inputs.numel() for b in batches) == (
            sum(r.length for r in flat(groups)) + sum(group[0].first - 1 for group in groups[:2]))

    found = []
    for parts in (batches, [pack([(r.tokens, r.first)], 0) for r in flat([
            groups[0], groups[1] + groups[2]])]):
        model.zero_grad()
        logprobs = [drawn_logprobs(model, part, 1.0) for part in parts]
        torch.cat(logprobs).mul(torch.arange(1.0, sum(map(len, logprobs)) + 1)).sum().backward()
        found.append([torch.cat(logprobs).detach(), *(p.grad.clone() for p in model.parameters())])
    for shared, alone in zip(*found, strict=True):
        assert (shared - alone).abs().max() <= FLOAT32_SUM * alone.abs().max()
    advantages = [a for r in flat([groups[0], groups[1] + groups[2]]) for a in r.advantages]
    assert torch.cat([b.advantages for b in batches]).tolist() == pytest.approx(advantages)


def test_first_update_is_reinforce_and_the_ratio_exactly_one(policy, tiny):
    model, tokenizer = policy
    groups, _ = groups_of_step(replace(tiny, max_level=2), 0, model, tokenizer)
    rollouts = flat(groups)
    weights = [1 / sum(r.length for r in rollouts)] * len(rollouts)
    fixed = rollout_batches(rollouts, weights, 1.0, 96, tokenizer.pad, old=model)
    on_policy, = batches_of_updates(tiny, 0, groups, model, model, tokenizer.pad)
    assert len(fixed) > 1, "the test wants several micro-batches"
    for batch in fixed:
        logprobs = drawn_logprobs(model, batch, 1.0)
        assert (logprobs - batch.old_logprobs).exp().tolist() == [1.0] * len(logprobs)
    model.zero_grad()
    for batch, w in ((b, weights[0]) for b in on_policy):
        (-w * batch.advantages * drawn_logprobs(model, batch, 1.0)).sum().backward()
    reinforce = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert reinforce.abs().max() > 0
    for batches in (fixed, on_policy):
        assert (gradient(tiny, model, batches) - reinforce).abs().max() <= (
            FLOAT32_SUM * reinforce.abs().max())


@pytest.mark.parametrize("aggregation", losses.AGGREGATIONS)
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_micro_batches_never_change_the_gradient(policy, ladder, tiny, aggregation, kl):
    model, tokenizer = policy
    reference, _ = checkpoint.load(ladder / "sft", "cpu")
    cfg = replace(tiny, aggregation=aggregation, kl=kl, epochs=2, max_level=2)
    groups, _ = groups_of_step(cfg, 0, model, tokenizer)
    (one,), (many,) = (batches_of_updates(replace(cfg, token_budget=budget), 0, groups, model,
                                          reference, tokenizer.pad) for budget in (100_000, 32))
    assert len(one) == 1 < len(many)
    whole = gradient(cfg, model, one)
    assert (gradient(cfg, model, many) - whole).abs().max() <= FLOAT32_SUM * whole.abs().max()


def test_group_without_signal_has_exactly_no_gradient(policy, tiny):
    model, tokenizer = policy
    groups, _ = groups_of_step(replace(tiny, rewards=Rewards(0.0)), 0, model, tokenizer)
    rollouts = flat(groups)
    assert not any(map(has_signal, groups))
    assert batches_of_updates(tiny, 0, groups, model, model, tokenizer.pad) == [[]]
    kept = rollout_batches(rollouts, [0.1] * len(rollouts), 1.0, 256, tokenizer.pad,
                           reference=model)               # kept for a KL term of weight 0
    assert gradient(tiny, model, kept).abs().max() == 0
    before = [p.clone() for p in model.parameters()]
    train_step(model, make_optimizer(model, 0.0), kept, lambda b: rl_loss(tiny, model, b)[0], 1.0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_prompts_are_new_train_problems_of_the_levels(policy, tiny):
    cfg = replace(tiny, min_level=1, max_level=2, prompts_per_step=12)
    first, second = (groups_of_step(cfg, step, *policy)[0] for step in (0, 1))
    problems = [group[0].problem for group in first + second]
    assert {split_of(p) for p in problems} == {"train"}
    assert {p.level for p in problems} == {1, 2}
    assert len({p.key for p in problems}) > 20
    groups, _ = groups_of_step(replace(cfg, min_level=2), 0, *policy)
    assert {group[0].problem.level for group in groups} == {2}


def test_redraws_replace_silent_groups_and_are_bounded(policy, tiny):
    cfg = replace(tiny, redraws=3, rewards=Rewards(process=0.5))      # few groups have a signal
    kept, drawn = groups_of_step(cfg, 0, *policy)
    assert all(map(has_signal, kept)) and len(kept) <= 6 < len(drawn)
    once = groups_of_step(replace(cfg, redraws=0), 0, *policy)
    assert once[0] == once[1] == drawn[:6] and not all(map(has_signal, once[0]))
    never = replace(cfg, rewards=Rewards(0.0))
    kept, drawn = groups_of_step(never, 0, *policy)
    assert kept == [] and len(drawn) == 4 * 6


def test_diagnostics_by_hand(policy, tiny):
    groups, _ = groups_of_step(tiny, 0, *policy)
    right = Verdict(True, True, True, (True,))
    groups[0] = [replace(r, verdict=right) for r in groups[0]]
    rollouts = [r for group in groups for r in group]
    tokenizer = policy[1]
    report = diagnostics(groups, tokenizer.eos)
    cut = [r.tokens[-1] != tokenizer.eos for r in rollouts]
    assert report["share_cut"] == sum(cut) / 24
    good, bad = ([r for r in rollouts if r.verdict.correct == value] for value in (True, False))
    assert report["accuracy"] == len(good) / 24 and len(good) >= 4
    assert report["reward"] == pytest.approx(sum(r.reward for r in rollouts) / 24)
    assert report["length_right"] == sum(len(r.logprobs) for r in good) / len(good)
    assert report["length_wrong"] == sum(len(r.logprobs) for r in bad) / len(bad)
    assert report["generated_tokens"] == sum(len(r.logprobs) for r in rollouts)
    silent = [len({r.reward for r in group}) == 1 for group in groups]
    assert report["share_silent"] == pytest.approx(sum(silent) / len(groups))
    drawn = [lp for r in rollouts for lp in r.logprobs]
    assert report["entropy"] == pytest.approx(-sum(drawn) / len(drawn))
    none = diagnostics([[r] for r in bad], tokenizer.eos)
    assert "length_right" not in none and none["accuracy"] == 0


# --- the stage ---------------------------------------------------------------------------------

@pytest.mark.long
def test_killed_and_resumed_is_bit_identical(tiny, tmp_path, run_with_deaths):
    cfg = replace(tiny, epochs=2, minibatches=2, kl=0.1, replay=0.1, replay_rows=4, redraws=1,
                  save_every=1)
    whole = rl.run(replace(cfg, out=str(tmp_path / "whole")))
    assert run_with_deaths(lambda: rl.run(cfg), 3) >= 3
    again = rl.run(cfg)
    assert whole["weights"] == again["weights"] != checkpoint.weights_hash(cfg.init)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "rl")]
    assert lines[0] == lines[1]
    rows = [(tmp_path / name / "rows.jsonl").read_text() for name in ("whole", "rl")]
    assert rows[0] == rows[1] and again["accuracy"] == whole["accuracy"]
    assert rl.run(cfg) == json.loads((tmp_path / "rl/result.json").read_text())
    records = [json.loads(line) for line in lines[0].splitlines()]
    assert [r["step"] for r in records] == [0, 1, 2, 3, 4]
    assert [r["step"] for r in records if "eval/chain-validation-k1/sampled" in r] == [0, 2, 4]
    wanted = {"reward", "entropy", "approx_kl", "clip_fraction", "grad_norm", "share_silent",
              "generated_tokens", "flops", "length_wrong", "lr", "loss"}
    assert wanted <= {name.removeprefix("train/") for name in records[0]}
    assert records[0]["train/approx_kl"] > 0              # later updates of a step are off-policy
    assert not (tmp_path / "rl/state.safetensors").exists()


def test_reward_rises(tiny):
    """A policy too small to calculate is paid for its format, and learns it from samples alone.

    It starts 3/4 well-formed, so the reward of 0.2 for the format leaves room for a third.
    """
    cfg = replace(tiny, steps=25, prompts_per_step=16, group_size=8, lr=3e-3, eval_every=100,
                  token_budget=4096, save_every=100, rewards=Rewards(process=0.5, format=0.2))
    result = rl.run(cfg)
    records = [json.loads(line) for line in open(f"{cfg.out}/metrics.jsonl")][:-1]
    for name in ("train/reward", "train/well_formed"):
        values = [record[name] for record in records]
        assert sum(values[-5:]) / 5 > 1.15 * values[0], name
    assert records[0]["train/approx_kl"] == records[0]["train/clip_fraction"] == 0
    assert set(result["accuracy"]) == {"cot", "sampled", "sampled_before"}


def test_curve_counts_compute_before_each_point():
    step = {"train/generated_tokens": 100, "train/flops": 5e3}
    metrics = [{"step": 0, "eval/x/greedy": 0.1, **step}, {"step": 1, **step},
               {"step": 2, "eval/x/greedy": 0.3}]
    same = {"set": "x", "method": "greedy", "n": 1, "problems": 9}
    assert compute_curve(metrics, 9) == [
        {**same, "step": 0, "generated_tokens": 0, "flops": 0.0, "accuracy": 0.1},
        {**same, "step": 2, "generated_tokens": 200, "flops": 1e4, "accuracy": 0.3}]


@pytest.mark.parametrize("change", [{"advantage": "ppo"}, {"aggregation": "mean"},
                                    {"group_size": 1}, {"temperature": 0.0},
                                    {"replay": 0.1, "base": ""}, {"min_level": 3, "max_level": 2}])
def test_impossible_choices_are_refused(change):
    with pytest.raises(UserError):
        RLConfig(**{"init": "x", **change})


def test_logprobs_of_the_reference_have_no_gradient(policy, tiny):
    model, tokenizer = policy
    rollouts = flat(groups_of_step(tiny, 0, model, tokenizer)[0])
    batches = rollout_batches(rollouts, [1.0] * len(rollouts), 1.0, 256, tokenizer.pad,
                              reference=model)
    assert not any(b.ref_logprobs.requires_grad for b in batches)
    fresh = drawn_logprobs(model, batches[0], 1.0)
    assert fresh.requires_grad and fresh.tolist() == batches[0].ref_logprobs.tolist()
