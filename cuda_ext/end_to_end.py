"""What the kernels change where it counts: a training step, sampling, and the loss curve.

Everything is ours on both sides; only `attention_impl` differs. On a GPU: "cuda" against "sdpa". On
a CPU (the dry run): "emulated" against "sdpa", tiny.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.problems.corpus import Mixture, corpus_lines
from minireason.sampling.complete import stream
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, encode_lines, micro_batches
from minireason.training.losses import nll
from minireason.training.optim import make_optimizer, train_step


@dataclass(frozen=True)
class Scale:
    """How large the end-to-end runs are."""

    d_model: int = 384
    n_layers: int = 8
    n_heads: int = 6
    head_dim: int = 64
    d_ff: int = 1024
    max_len: int = 256
    rows: int = 256               # rows of a timed training step, mean length 0.55 max_len
    steps: int = 12               # timed training steps; the first three do not count
    prompts: int = 32             # sampling: P prompts,
    n: int = 16                   # N samples each,
    max_new: int = 128            # tokens a completion
    curve_steps: int = 200
    curve_rows: int = 64          # lines a step of the loss curve
    seeds: int = 3


DRY = Scale(d_model=32, n_layers=1, n_heads=1, head_dim=32, d_ff=32, max_len=48, rows=2, steps=5,
            prompts=2, n=2, max_new=4, curve_steps=3, curve_rows=2, seeds=2)


def kernels_impl(device: torch.device) -> str:
    """The name under which the kernels run on a device."""
    return "cuda" if device.type == "cuda" else "emulated"


def make_model(scale: Scale, tokenizer: Tokenizer, device: torch.device, impl: str,
               seed: int = 0) -> Transformer:
    """Random weights from a seed."""
    shape = ModelConfig(tokenizer.vocab_size, scale.d_model, scale.n_layers, scale.n_heads,
                        scale.n_heads, scale.head_dim, scale.d_ff, scale.max_len)
    model = Transformer(shape).init_weights(torch.Generator().manual_seed(seed)).to(device)
    model.attention_impl = impl
    return model


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def training(scale: Scale, device: torch.device, impl: str) -> dict:
    """Tokens a second of a training step on packed rows of uneven length."""
    tokenizer = Tokenizer.build(chain.TOKENS)
    model = make_model(scale, tokenizer, device, impl)
    optimizer = make_optimizer(model, 0.1)
    generator = np.random.default_rng(0)
    lengths = generator.integers(scale.max_len // 10, scale.max_len, scale.rows)
    rows = [(generator.integers(3, tokenizer.vocab_size, int(n)).tolist(), 1) for n in lengths]
    batches, count = micro_batches(rows, 10**9, tokenizer.pad, packed=True)
    batches = [batch.to(device) for batch in batches]
    seconds = []
    for _ in range(scale.steps):
        synchronize(device)
        start = time.perf_counter()
        train_step(model, optimizer, batches, loss_of(model, count), lr=1e-3)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds[3:])
    return {"ms": middle * 1e3, "tokens_per_second": count / middle, "head_dim": scale.head_dim,
            "longest_row": scale.max_len,
            "spread": (max(seconds[3:]) - min(seconds[3:])) / middle}


def loss_of(model: Transformer, count: int):
    """The loss of one packed batch, as the stages compute it."""
    def loss(b: Batch) -> torch.Tensor:
        return nll(model(b.inputs, b.cu_seqlens, b.max_len), b.targets, b.loss_mask, count)
    return loss


def sampling(scale: Scale, device: torch.device, impl: str) -> dict:
    """Tokens a second of the sampler, prefill included; random weights seldom draw <eos>."""
    tokenizer = Tokenizer.build(chain.TOKENS)
    model = make_model(scale, tokenizer, device, impl)
    generator = np.random.default_rng(1)
    prompts = [generator.integers(3, tokenizer.vocab_size, scale.max_len // 4).tolist()
               for _ in range(scale.prompts)]
    seconds = []
    for repeat in range(4):
        how = Sampling(n=scale.n, max_new=scale.max_new, seed=repeat)
        synchronize(device)
        start = time.perf_counter()
        drawn = sum(int(chunk.mask.sum()) for chunk in stream(model, tokenizer, prompts, how))
        seconds.append((time.perf_counter() - start) / drawn)
    return {"tokens_per_second": 1 / statistics.median(seconds[1:]),
            "spread": (max(seconds[1:]) - min(seconds[1:])) / statistics.median(seconds[1:])}


def loss_curve(scale: Scale, device: torch.device, impl: str, seed: int) -> list[float]:
    """Losses of a short pretraining; the data do not depend on the seed of the weights."""
    tokenizer = Tokenizer.build(chain.TOKENS)
    model = make_model(scale, tokenizer, device, impl, seed)
    optimizer = make_optimizer(model, 0.1)
    generator, mixture, losses = np.random.default_rng(2), Mixture(max_level=2), []
    for _ in range(scale.curve_steps):
        lines = corpus_lines(mixture, chain, generator, scale.curve_rows)
        rows = encode_lines(tokenizer, [""] * len(lines), lines)
        batches, count = micro_batches(rows, 10**9, tokenizer.pad, packed=True)
        losses.append(train_step(model, optimizer, batches, loss_of(model, count), lr=1e-3)[0])
    return losses


def curves(scale: Scale, device: torch.device) -> dict:
    """Ours and SDPA's from one seed, and SDPA's from several: do the first two differ by less?"""
    ours = np.array(loss_curve(scale, device, kernels_impl(device), 0))
    sdpa = np.array([loss_curve(scale, device, "sdpa", seed) for seed in range(scale.seeds)])
    gap = float(np.sqrt(np.square(ours - sdpa[0]).mean()))
    spread = float(np.sqrt(sdpa.var(axis=0, ddof=1).mean()))
    return {"steps": scale.curve_steps, "last_loss": float(ours[-1]),
            "last_loss_sdpa": float(sdpa[0, -1]), "rms_difference": gap,
            "rms_spread_of_seeds": spread, "agree": gap < spread}
