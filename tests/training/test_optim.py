"""One optimizer step: schedule, decay groups, clipping, and weights that NaN cannot reach."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minireason.core.errors import UserError
from minireason.model.transformer import ModelConfig, Transformer
from minireason.training.batches import pad_right
from minireason.training.losses import nll
from minireason.training.optim import Optimizer, make_optimizer, muon_update, schedule, train_step

BATCH = pad_right([([0, 1, 2], 1)], pad=0)


SMALL = ModelConfig(vocab_size=20, d_model=96, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=12,
                    d_ff=32, max_len=16)


class Tiny(nn.Module):
    """One matrix, one gain, and a parameter that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 2))
        self.gain = nn.Parameter(torch.ones(2))
        self.unused = nn.Parameter(torch.ones(2))

    def loss(self, batch):
        return (self.matrix * 2).sum() + (self.gain * 3).sum()


def test_decay_touches_matrices_only():
    model = Tiny()
    matrices, vectors = make_optimizer(model, 0.1).param_groups
    assert [p is model.matrix for p in matrices["params"]] == [True]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in vectors["params"]} == {id(model.gain), id(model.unused)}


def test_decay_shrinks_what_has_no_gradient():
    model = Tiny()
    optimizer = make_optimizer(model, weight_decay=0.5)
    train_step(model, optimizer, [BATCH], lambda b: model.unused.sum() * 0, lr=0.1)
    # AdamW, algorithm 2: w <- w - lr * decay * w
    torch.testing.assert_close(model.matrix, torch.full((2, 2), 1 - 0.1 * 0.5))
    torch.testing.assert_close(model.gain, torch.ones(2))


def test_muon_turns_the_blocks_matrices_and_adamw_the_rest():
    model, plain = Transformer.random(SMALL, 0), Transformer.random(SMALL, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = pad_right([([3, 1, 4, 1, 5, 9, 2, 6], 1)], pad=0)
    for one, muon in ((model, True), (plain, False)):
        train_step(one, make_optimizer(one, 0.0, muon=muon), [batch],
                   lambda b, one=one: nll(one(b.inputs), b.targets, b.loss_mask, 7), 0.01)
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        by_muon = name.startswith("blocks.") and one.dim() == 2
        assert torch.equal(one, other) != by_muon
        if by_muon:                  # its root mean square is AdamW's, about 0.2 of lr at first
            change = (before[name] - one).detach() / 0.01
            sizes = torch.linalg.svdvals(change) / (0.2 * max(change.shape) ** 0.5)
            assert sizes[:4].min() > 0.5 and sizes.max() < 1.4, name


def test_schedule_warms_up_then_falls_to_its_floor():
    rates = [schedule(step, 100, 1.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.05 + 0.95 / 2)         # half-way down the cosine
    assert schedule(100, 100, 1.0, 10) == pytest.approx(0.05)
    assert schedule(0, 1, 1.0, 0) == 1.0


def test_gradients_add_up_over_micro_batches_and_are_clipped():
    model = Tiny()
    optimizer = make_optimizer(model, 0.0)
    loss, norm = train_step(model, optimizer, [BATCH, BATCH], model.loss, lr=0.0)
    assert loss == 2 * (8 + 6)
    assert norm == pytest.approx((4 * 4 ** 2 + 2 * 6 ** 2) ** 0.5)   # before clipping
    after = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert after.item() == pytest.approx(1.0, rel=1e-5)              # clip_grad_norm_ adds 1e-6


def test_gradients_do_not_leak_into_the_next_step():
    model = Tiny()
    optimizer = make_optimizer(model, 0.0)
    norms = [train_step(model, optimizer, [BATCH], model.loss, lr=0.0)[1] for _ in range(2)]
    assert norms[0] == norms[1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_leaves_weights_and_moments_untouched(bad, where):
    model = Tiny()
    optimizer = make_optimizer(model, 0.1)
    train_step(model, optimizer, [BATCH], model.loss, lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]

    def poisoned(batch):
        if where == "loss":
            return model.loss(batch) * bad
        # d/dw sqrt(w - w) is infinite where the value is 0: a finite loss, a gradient that is not
        return (model.matrix - model.matrix.detach()).sqrt().sum()

    with pytest.raises(UserError, match="weights are left as they were"):
        train_step(model, optimizer, [BATCH], poisoned, lr=0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(m, optimizer.state[p]["exp_avg"])
               for m, p in zip(moments, model.parameters(), strict=True))


def test_adamw_takes_the_steps_of_pytorchs():
    ours, theirs = Transformer.random(SMALL, 0), Transformer.random(SMALL, 0)
    one = make_optimizer(ours, 0.1)
    groups = [group | {"lr": 0.01} for group in make_optimizer(theirs, 0.1).param_groups]
    other = torch.optim.AdamW(groups, fused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for group in one.param_groups:
            group["lr"] = 0.01
        one.step()
        other.step()
    assert all(torch.equal(a, b)
               for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_muon_takes_the_steps_of_pytorchs(monkeypatch):
    """Three steps of a wide, a tall and two square matrices, without its rounding to bfloat16."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 24), (24, 8), (12, 12), (12, 12)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    one = Optimizer({"params": ours, "update": muon_update, "lr": 0.01, "weight_decay": 0.1,
                     "momentum": 0.95})
    other = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(a - before, b - before, rtol=1e-3, atol=1e-6)


def test_training_does_not_load_pytorchs_compiler():
    """Which takes 2.5 s, in every process that trains."""
    script = ("import sys, test_optim as t\n"
              "m = t.Tiny()\n"
              "t.train_step(m, t.make_optimizer(m, 0.1), [t.BATCH], m.loss, 0.1)\n"
              "sys.exit('torch._dynamo' in sys.modules)")
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)
