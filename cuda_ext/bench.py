"""Time the kernels beside the best that PyTorch offers, and say how far each is from the roofline.

The baseline of a row is the best of SDPA's backends, each forced (cuDNN, flash, efficient), and of
varlen_attn; for the fused region, of torch.compile around each backend. A backend that cannot run
is a row with its error, never a missing row. Which shapes count and what is aimed at was fixed
before anything was timed (cuda_ext/README.md).
"""

import inspect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import cuda_ext.autograd  # noqa: F401  (registers torch.ops.minireason)
from cuda_ext.timing import measure, minus, row
from minireason.model.attention import rope_tables, self_attention

OPS, EPS = torch.ops.minireason, 1e-6
# B, H, T, D: the shapes of the project; CUDA.md's targets are stated for these.
SHAPES = ((512, 6, 64, 64), (256, 6, 128, 64), (256, 12, 128, 32), (128, 6, 256, 64),
          (64, 6, 512, 64), (32, 6, 1024, 64), (256, 4, 128, 128))
DECODE_SHAPES = ((16, 16, 128, 64), (16, 64, 512, 256))   # P, N, prompt tokens, own tokens
DRY_SHAPES, DRY_DECODE_SHAPES = ((2, 2, 17, 32),), ((2, 3, 9, 5),)
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION}
L2_BYTES = 256 * 2**20            # the copies of one activation together: five times an H100's


def causal_sdpa(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """PyTorch's attention with one backend forced."""
    with sdpa_kernel([BACKENDS[backend]]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def causal_varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_len: int) -> Tensor:
    """PyTorch's packed attention (2.10 and later; its way to say causal changed)."""
    from torch.nn.attention.varlen import varlen_attn
    causal = ({"window_size": (-1, 0)} if "window_size" in inspect.signature(varlen_attn).parameters
              else {"is_causal": True})
    return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_len, max_len, **causal)


class Inputs:
    """One copy of everything that the contestants take, bf16: B rows of T tokens."""

    def __init__(self, shape: tuple, device: torch.device, lengths: Tensor | None = None):
        rows, heads, steps, dim = self.shape = shape
        self.lengths = torch.full((rows,), steps) if lengths is None else lengths
        tokens = int(self.lengths.sum())
        starts = torch.cat((torch.zeros(1, dtype=torch.long), self.lengths.cumsum(0)))
        self.cu_seqlens = starts.to(device, torch.int32)

        def new(*size):
            return torch.randn(*size, device=device, dtype=torch.bfloat16)
        self.qkv, self.grad = new(tokens, 3 * heads * dim), new(tokens, heads * dim)
        self.packed = [new(tokens, heads, dim).requires_grad_() for _ in range(3)]
        self.padded = [new(rows, steps, heads, dim).transpose(1, 2).detach().requires_grad_()
                       for _ in range(3)]                                 # (B, H, T, D)
        self.padded_grad = new(rows, steps, heads, dim).transpose(1, 2)
        self.gains = [torch.ones(dim, device=device) for _ in range(2)]
        self.tables = [t.to(device) for t in rope_tables(steps, dim, 10_000.0)]
        self.rows = (self.cu_seqlens, steps, heads, heads)


def copies_of(shape: tuple, device: torch.device) -> int:
    """How many copies of the inputs exceed the L2 several times over."""
    rows, heads, steps, dim = shape
    return max(4, math.ceil(L2_BYTES / (rows * steps * heads * dim * 8))) if (
        device.type == "cuda") else 1


def contestants(data: list[Inputs], packed: bool) -> dict[str, tuple[Callable, Callable]]:
    """{name: (forward, forward and backward)} of PyTorch's own."""
    def pair(forward, leaves, grad):
        return forward, lambda i: torch.autograd.grad(forward(i), leaves(data[i]), grad(data[i]))
    found = {f"sdpa {name}{' padded' if packed else ''}": pair(
        lambda i, name=name: causal_sdpa(*data[i].padded, name),
        lambda d: d.padded, lambda d: d.padded_grad) for name in BACKENDS}
    found["varlen_attn"] = pair(
        lambda i: causal_varlen(*data[i].packed, data[i].cu_seqlens, data[i].shape[2]),
        lambda d: d.packed, lambda d: d.grad.view_as(d.packed[0]))
    return found


def attention_rows(shape: tuple, device: torch.device, fill: float | None = None) -> list[dict]:
    """Forward and backward of bare attention; `fill`: packed rows of that mean share of T."""
    heads, steps, dim = shape[1:]
    lengths = None
    if fill is not None:
        rng = torch.Generator().manual_seed(0)
        low = 2 * fill - 1                             # uniform in [low, 1] has mean `fill`
        lengths = ((low + (1 - low) * torch.rand(shape[0], generator=rng)) * steps).ceil().long()
    data = [Inputs(shape, device, lengths) for _ in range(copies_of(shape, device))]
    scale, results = dim**-0.5, [OPS.attn(d.qkv, *d.rows, dim**-0.5) for d in data]
    forward = measure(lambda i: OPS.attn(data[i].qkv, *data[i].rows, scale), len(data), device)
    backward = measure(lambda i: OPS.attn_bwd(data[i].grad, data[i].qkv, *results[i],
                                              *data[i].rows, scale), len(data), device)
    forwards, backwards = {}, {}
    for name, (one, both) in contestants(data, fill is not None).items():
        forwards[name] = measure(one, len(data), device)
        backwards[name] = minus(measure(both, len(data), device), forwards[name])
    unit = 2.0 * data[0].lengths.sum().item() * heads * dim               # bytes of one activation
    square = data[0].lengths.double().square().sum().item() * heads * dim
    kind = "packed " if fill is not None else ""
    return [row(f"{kind}forward", shape, forward, forwards, 4 * unit, 2 * square),
            row(f"{kind}backward", shape, backward, backwards, 8 * unit, 5 * square)]


def region_rows(shape: tuple, device: torch.device, backends: list[str]) -> list[dict]:
    """QK-norm, RoPE and attention: ours fused, against torch.compile around these SDPA backends."""
    heads, dim = shape[1], shape[3]
    data = [Inputs(shape, device) for _ in range(copies_of(shape, device))]
    scale, n = dim**-0.5, len(data)

    def ours(i):
        d = data[i]
        return OPS.attn_rope(d.qkv, *d.gains, *d.tables, *d.rows, EPS, scale, False)

    def ours_back(i):
        d = data[i]
        return OPS.attn_rope_bwd(d.grad, d.qkv, *results[i], *d.gains, *d.tables, *d.rows, EPS,
                                 scale)
    results = [ours(i)[:2] for i in range(n)]
    times = measure(ours, n, device), measure(ours_back, n, device)
    leaves = [d.qkv.view(shape[0], shape[2], -1).detach().requires_grad_() for d in data]

    def region(qkv, gains, tables):
        return self_attention(qkv, *gains, *tables, n_heads=heads, n_kv_heads=heads, eps=EPS,
                              impl="sdpa")
    forwards, backwards = {}, {}
    for name in backends:
        torch.compiler.reset()
        compiled = torch.compile(region, dynamic=False,
                                 backend="inductor" if device.type == "cuda" else "aot_eager")

        def one(i, compiled=compiled, name=name):
            with sdpa_kernel([BACKENDS[name]]):
                return compiled(leaves[i], data[i].gains, data[i].tables)

        def both(i, one=one):
            return torch.autograd.grad(one(i), leaves[i], data[i].grad.view(*leaves[i].shape[:2],
                                                                            -1))
        forwards[f"compiled, sdpa {name}"] = measure(one, n, device)
        backwards[f"compiled, sdpa {name}"] = minus(measure(both, n, device),
                                                    forwards[f"compiled, sdpa {name}"])
    unit, square = 2.0 * math.prod(shape), math.prod(shape) * shape[2]
    return [row("region forward", shape, times[0], forwards, 4 * unit, 2 * square),
            row("region backward", shape, times[1], backwards, 8 * unit, 5 * square)]


class DecodeInputs:
    """One decoding step of N samples of each of P prompts, bf16, in several copies."""

    def __init__(self, shape: tuple, device: torch.device, heads: int, dim: int, copies: int):
        prompts, n, before, own = shape
        self.rows = rows = prompts * n

        def new(*size):
            return torch.randn(*size, device=device, dtype=torch.bfloat16)

        def pairs(*size):
            return [[new(*size), new(*size)] for _ in range(copies)]      # keys and values
        self.token = new(rows, 3 * heads * dim)
        self.own = pairs(rows, heads, own + 1, dim)
        self.shared = pairs(prompts, heads, before, dim)
        self.whole = pairs(rows, heads, before + own + 1, dim)            # nothing shared
        self.query = new(rows, heads, 1, dim)
        self.lens = torch.full((rows,), own, device=device)
        self.before = torch.full((prompts,), before, device=device)
        self.index = torch.arange(rows, device=device) // n
        self.norm = [*(torch.ones(dim, device=device) for _ in range(2)),
                     *(t.to(device) for t in rope_tables(before + own + 1, dim, 10_000.0))]
        self.numbers = (heads, heads, EPS, dim**-0.5)

    def ours(self, i: int, share: bool = True) -> Tensor:
        """Our kernels on copy i."""
        return OPS.decode_attn(self.token, *self.norm, *self.own[i], self.lens, *self.shared[i],
                               self.before, self.index, *self.numbers, share)

    def sdpa(self, i: int, backend: str) -> Tensor:
        """PyTorch's attention of the new queries over copy i of the static cache."""
        with sdpa_kernel([BACKENDS[backend]]):
            return F.scaled_dot_product_attention(self.query, *self.whole[i])


def decode_row(shape: tuple, device: torch.device, heads: int = 6, dim: int = 64) -> dict:
    """One decoding step, against SDPA over a static cache of every row."""
    prompts, _, before, own = shape
    copies = 4 if device.type == "cuda" else 1
    data = DecodeInputs(shape, device, heads, dim, copies)
    found = {f"sdpa {name}, static cache": measure(
        lambda i, name=name: data.sdpa(i, name), copies, device) for name in BACKENDS}
    result = row("decode", shape, measure(data.ours, copies, device), found,
                 4.0 * heads * dim * (data.rows * (own + 1) + prompts * before),
                 4.0 * data.rows * heads * dim * (before + own + 1))
    result["ours unshared"] = measure(lambda i: data.ours(i, False), copies, device)
    return result
