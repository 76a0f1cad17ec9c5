"""One optimizer step, written once: warmup-then-decay, clipping, gradients over ranks.

AdamW: Loshchilov 2019 (arXiv:1711.05101). Weight decay touches matrices only. Muon: Jordan 2024
(https://kellerjordan.github.io/posts/muon), whose update of a matrix has all its singular values
near 1. The loss of every micro-batch is already divided by the global token count, so summing
gradients is all there is.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from minireason.core import flops, parallel
from minireason.core.errors import UserError
from minireason.model.transformer import Transformer
from minireason.training.batches import Batch, Row, micro_batches
from minireason.training.losses import nll

AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Together(torch.optim.Optimizer):
    """Several optimizers of different parameters, with one state and one list of groups."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.state = parts[0].state
        for part in parts:
            part.state = self.state

    def step(self) -> None:  # type: ignore[override]
        """One update by each."""
        for part in self.parts:
            part.step()


def make_optimizer(model: nn.Module, weight_decay: float,
                   betas: tuple[float, float] = (0.9, 0.95),
                   muon: bool = False) -> torch.optim.Optimizer:
    """AdamW with decay on matrices and none on gains; `muon`: the blocks' matrices by Muon.

    Muon's step is scaled to the size of AdamW's (Liu 2025, arXiv:2502.16982, section 2.2), so that
    one learning rate serves both. Embeddings, which are looked up rather than multiplied, stay
    with AdamW.
    """
    hidden, matrices, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            vectors.append(parameter)
        elif muon and name.startswith("blocks."):
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)
    if not hidden:
        return adamw
    return Together(torch.optim.Muon(hidden, lr=0.0, weight_decay=weight_decay,
                                     adjust_lr_fn="match_rms_adamw"), adamw)


def schedule(step: int, steps: int, peak: float, warmup: int, floor: float = 0.05) -> float:
    """Learning rate of a step: linear warmup, then cosine from `peak` to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 matrix products on GPU; plain fp32 on CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def supervised_step(model: Transformer, optimizer: torch.optim.Optimizer, rows: list[Row],
                    lr: float, token_budget: int, pad: int) -> dict[str, float]:
    """One update on the negative log-likelihood of the rows' counted tokens; the step's metrics."""
    batches, count = micro_batches(rows, token_budget, pad)
    loss, grad_norm = train_step(model, optimizer, batches, lambda b: batch_nll(model, b, count),
                                 lr)
    return {"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr, "train/tokens": count}


def batch_nll(model: Transformer, batch: Batch, count: float) -> Tensor:
    """nll of a batch's counted tokens under the model, over `count`; a scalar."""
    logits = model(batch.inputs, batch.cu_seqlens, batch.max_len)
    return nll(logits, batch.targets, batch.loss_mask, count)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[AnyBatch],
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
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    loss_value, norm_value = total.item(), grad_norm.item()
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise UserError(f"loss is {loss_value} and grad_norm {norm_value}: the weights are left "
                        "as they were and the last saved state is kept; lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return loss_value, norm_value
