"""One optimizer step, written once: warmup-then-decay, clipping, gradients over ranks.

AdamW: Loshchilov 2019 (arXiv:1711.05101). Weight decay touches matrices only. Muon: Jordan 2024
(https://kellerjordan.github.io/posts/muon), whose update of a matrix has all its singular values
near 1. The loss of every micro-batch is already divided by the global token count, so summing
gradients is all there is.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.optim.adamw as functional
from torch import Tensor, nn

from minireason.core import flops, parallel
from minireason.core.errors import UserError
from minireason.model.transformer import Transformer
from minireason.training.batches import Batch, Row, micro_batches
from minireason.training.losses import nll

AnyBatch = TypeVar("AnyBatch", bound=Batch)
State = defaultdict[Tensor, dict[str, Tensor]]


class Optimizer:
    """Groups of parameters, each with a learning rate and an update; one state of all.

    Of torch.optim only the functions are used: its base class loads PyTorch's compiler at its first
    step, 2.5 s in every process that trains.
    """

    def __init__(self, *groups: dict[str, Any]):
        self.param_groups: list[dict[str, Any]] = [
            {"lr": 0.0} | group for group in groups if group["params"]]
        self.state: State = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter from its gradient."""
        for group in self.param_groups:
            group["update"](group, self.state)


def adamw_update(group: dict[str, Any], state: State) -> None:
    """AdamW's update, one kernel for all; every step count lies beside its parameter."""
    moments: dict[str, list[Tensor]] = {"step": [], "exp_avg": [], "exp_avg_sq": []}
    for parameter in group["params"]:
        if parameter not in state:
            state[parameter] = {"step": torch.zeros((), device=parameter.device),
                                "exp_avg": torch.zeros_like(parameter),
                                "exp_avg_sq": torch.zeros_like(parameter)}
        for name, tensor in state[parameter].items():
            moments[name].append(tensor)
    functional.adamw(group["params"], [parameter.grad for parameter in group["params"]],
                     moments["exp_avg"], moments["exp_avg_sq"], [], moments["step"], fused=True,
                     amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1],
                     lr=group["lr"], weight_decay=group["weight_decay"], eps=1e-8, maximize=False)


def muon_update(group: dict[str, Any], state: State) -> None:
    """Nesterov momentum whose update of each matrix is made orthogonal; matrices only.

    torch.optim.Muon does the same in bfloat16, which takes ten times as long on a CPU without
    instructions for it; here a CPU computes in float32, and matrices of one shape go together.
    The step is scaled to the size of AdamW's (Liu 2025, arXiv:2502.16982, section 2.2), so that
    one learning rate serves both.
    """
    of_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for matrix in group["params"]:
        buffer = state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        buffer.lerp_(matrix.grad, 1 - group["momentum"])
        ahead = matrix.grad.lerp(buffer, group["momentum"])
        of_shape.setdefault(matrix.shape, []).append((matrix, ahead))
    for shape, pairs in of_shape.items():
        updates = orthogonal(torch.stack([ahead for _, ahead in pairs]))
        size = group["lr"] * 0.2 * math.sqrt(max(shape))
        for (matrix, _), update in zip(pairs, updates, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, rows, columns) with every singular value moved near 1: five Newton-Schulz steps.

    X <- a X + (b A + c A^2) X with A = X X^T drives each singular value s along a s + b s^3 + c
    s^5, whose coefficients (Jordan 2024) rise steeply at 0 and then stay within 0.7 and 1.2.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x,
                          beta=3.4445)
    return x.to(matrices.dtype)


def make_optimizer(model: nn.Module, weight_decay: float,
                   betas: tuple[float, float] = (0.9, 0.95), muon: bool = False) -> Optimizer:
    """AdamW with decay on matrices and none on gains; `muon`: the blocks' matrices by Muon.

    Embeddings, which are looked up rather than multiplied, stay with AdamW.
    """
    hidden, matrices, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif muon and name.startswith("blocks."):
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    return Optimizer(
        {"params": hidden, "update": muon_update, "weight_decay": weight_decay, "momentum": 0.95},
        {"params": matrices, "update": adamw_update, "weight_decay": weight_decay, "betas": betas},
        {"params": vectors, "update": adamw_update, "weight_decay": 0.0, "betas": betas})


def schedule(step: int, steps: int, peak: float, warmup: int, floor: float = 0.05) -> float:
    """Learning rate of a step: linear warmup, then cosine from `peak` to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 matrix products on GPU; plain fp32 on CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def supervised_step(model: Transformer, optimizer: Optimizer, rows: list[Row],
                    lr: float, token_budget: int, pad: int) -> dict[str, float]:
    """One update on the negative log-likelihood of the rows' counted tokens; the step's metrics."""
    return likelihood_step(model, optimizer, *micro_batches(rows, token_budget, pad), lr)


def likelihood_step(model: Transformer, optimizer: Optimizer, batches: list[Batch], count: int,
                    lr: float) -> dict[str, float]:
    """The same from the rows' micro-batches and their global count of tokens."""
    loss, grad_norm = train_step(model, optimizer, batches, lambda b: batch_nll(model, b, count),
                                 lr)
    return {"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr, "train/tokens": count}


def batch_nll(model: Transformer, batch: Batch, count: float) -> Tensor:
    """nll of a batch's counted tokens under the model, over `count`; a scalar."""
    logits = model(batch.inputs, batch.cu_seqlens, batch.max_len)
    return nll(logits, batch.targets, batch.loss_mask, count)


def train_step(model: nn.Module, optimizer: Optimizer, batches: Sequence[AnyBatch],
               loss_of: Callable[[AnyBatch], Tensor], lr: float) -> tuple[float, float]:
    """Forward, backward and update over the micro-batches; returns (loss, grad_norm).

    loss_of(batch) is a sum over counted tokens divided by the step's global count. A loss or a
    gradient that is not finite raises UserError and leaves the weights untouched.
    """
    device = next(model.parameters()).device
    model.zero_grad()
    total = torch.zeros((), device=device)
    weights = sum(parameter.numel() for parameter in model.parameters())
    for batch in batches:
        flops.count(flops.LEARN, weights, batch.inputs.numel())
        with autocast(device):
            loss = loss_of(batch.to(device))
        loss.backward()
        total += loss.detach()
    grads = []
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        grads.append(parameter.grad)
    parallel.all_sum([*grads, total.view(1)])
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    loss_value, norm_value = total.item(), grad_norm.item()
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise UserError(f"loss is {loss_value} and grad_norm {norm_value}: the weights are left "
                        "as they were and the last saved state is kept; lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return loss_value, norm_value
