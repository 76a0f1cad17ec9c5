"""The layers of cpu_layers.py in C++: layers.cpp, built with g++ when first used.

Between its matrix products a small model waits for memory: every operation of PyTorch reads and
writes whole tensors. Here each layer is one walk, forward and backward, and attention goes from
the fused projection to its output within the core, row by row, without padding. cpu_layers.py has
the formulas, and the tests hold these classes against it; they take float32 alone.
"""

import ctypes
import functools
import os
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minireason.core import compiled

SOURCE = Path(__file__).with_name("layers.cpp")
POINTER, INT = ctypes.c_void_p, ctypes.c_int64
CALLS = {                         # the pointers and sizes that each function of layers.cpp takes
    "norm_forward": (*[POINTER] * 6, INT, INT, ctypes.c_double, INT),
    "norm_backward": (*[POINTER] * 7, INT, INT, INT),
    "swiglu_forward": (POINTER, POINTER, INT, INT, INT),
    "swiglu_backward": (POINTER, POINTER, POINTER, INT, INT, INT),
    "attention": (POINTER,),
}


@functools.cache
def library(source: Path = SOURCE, *more_flags: str) -> ctypes.CDLL:
    """layers.cpp, built for this processor."""
    found = compiled.load("layers", source, tuple(CALLS), *more_flags)
    for name, kinds in CALLS.items():
        getattr(found, name).argtypes = kinds
    return found


@functools.cache
def choose_layers(asked: str) -> tuple[str, str]:
    """("native" or "torch", why) for what MINIREASON_LAYERS asks."""
    return compiled.choose("MINIREASON_LAYERS", asked, "layers", library)


def native(x: Tensor) -> bool:
    """Whether these classes compute with x: eagerly, on a CPU, in float32."""
    return (x.device.type == "cpu" and x.dtype == torch.float32
            and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")
            and choose_layers(os.environ.get("MINIREASON_LAYERS", "auto"))[0] == "native")


def call(name: str, *arguments: object) -> None:
    """A function of layers.cpp on contiguous tensors and numbers; MemoryError if that lacks."""
    given = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    if getattr(library(), name)(*given, torch.get_num_threads()):
        raise MemoryError(name)


class NativeNorm(torch.autograd.Function):
    """(total, RMSNorm of total) with total = x + update, or x where update is None.

    x and update (..., D), gain (D,). The gradient of x sums both ways on which it came here.
    """

    @staticmethod
    def forward(ctx, x: Tensor, update: Tensor | None, gain: Tensor, eps: float):
        x, gain = x.contiguous(), gain.contiguous()
        update = None if update is None else update.contiguous()
        total = x if update is None else torch.empty_like(x)
        y, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
        call("norm_forward", x, update, gain, total, y, scale, scale.numel(), x.shape[-1], eps)
        ctx.save_for_backward(total, scale, gain)
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total: Tensor | None, dy: Tensor | None):
        total, scale, gain = ctx.saved_tensors
        dy = torch.zeros_like(total) if dy is None else dy.contiguous()
        d_total = None if d_total is None else d_total.contiguous()
        dx, d_gain = torch.empty_like(total), torch.empty_like(gain)
        call("norm_backward", dy, d_total, total, scale, gain, dx, d_gain, scale.numel(),
             gain.numel())
        return dx, dx if ctx.needs_input_grad[1] else None, d_gain, None


class NativeSwiGLU(torch.autograd.Function):
    """silu(gate) * up of the fused projection (..., 2 F) -> (..., F)."""

    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        out = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        ctx.save_for_backward(gate_up)
        call("swiglu_forward", gate_up, out, gate_up[..., 0].numel(), out.shape[-1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        gate_up, = ctx.saved_tensors
        d_gate_up = torch.empty_like(gate_up)
        call("swiglu_backward", dy.contiguous(), gate_up, d_gate_up, gate_up[..., 0].numel(),
             dy.shape[-1])
        return d_gate_up


class Job(ctypes.Structure):
    """Attention's arguments, as in layers.cpp."""

    POINTERS = ("qkv", "q_gain", "k_gain", "cos", "sin", "starts", "groups", "out", "d_out",
                "d_qkv", "d_gains")
    INTEGERS = ("tokens", "segments", "n_groups", "n_heads", "n_kv_heads", "head_dim", "max_len",
                "threads")
    _fields_ = [*((name, POINTER) for name in POINTERS), *((name, INT) for name in INTEGERS),
                ("eps", ctypes.c_double)]


class NativeAttention(torch.autograd.Function):
    """QK-norm, RoPE and causal attention of packed rows: (N, (H + 2 Hkv) * D) -> (N, H * D).

    starts (S + 1,) int32 names where each of S segments of tokens begins, groups (R + 1,) int32 the
    segment with which each of R groups begins. The first segment of a group is its prompt: each
    further one continues it, sees it and itself, and none of the others. Rows that share nothing
    are groups of one segment. gains (D,), cos and sin (max_len, D / 2).
    """

    @staticmethod
    def forward(ctx, qkv, q_gain, k_gain, cos, sin, starts, groups, n_heads, n_kv_heads, eps):
        tensors = [x.contiguous() for x in (qkv, q_gain, k_gain, cos, sin, starts, groups)]
        ctx.save_for_backward(*tensors)
        ctx.layout = n_heads, n_kv_heads, eps
        out = qkv.new_empty(len(qkv), n_heads * q_gain.numel())
        attend(*tensors, *ctx.layout, out=out)  # pyright: ignore
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        qkv, q_gain, *_ = ctx.saved_tensors
        d_qkv, d_gains = torch.empty_like(qkv), qkv.new_empty(2, q_gain.numel())
        attend(*ctx.saved_tensors, *ctx.layout, d_out=d_out.contiguous(), d_qkv=d_qkv,
               d_gains=d_gains)
        return d_qkv, d_gains[0], d_gains[1], *[None] * 7


def attend(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, cos: Tensor, sin: Tensor, starts: Tensor,
           groups: Tensor, n_heads: int, n_kv_heads: int, eps: float, **more: Tensor) -> None:
    """layers.cpp's attention, forward into `out` or backward from `d_out` to d_qkv and d_gains.

    ValueError if starts and groups do not fit the tokens, or a row is longer than the tables.
    """
    head_dim = q_gain.numel()
    assert qkv.shape == (len(qkv), (n_heads + 2 * n_kv_heads) * head_dim), "qkv"
    assert k_gain.numel() == head_dim and cos.shape == sin.shape == (len(cos), head_dim // 2)
    assert starts.dtype == groups.dtype == torch.int32, "int32 indices"
    tensors = {"qkv": qkv, "q_gain": q_gain, "k_gain": k_gain, "cos": cos, "sin": sin,
               "starts": starts, "groups": groups, **more}
    job = Job(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, tokens=len(qkv),
              segments=len(starts) - 1, n_groups=len(groups) - 1, n_heads=n_heads,
              n_kv_heads=n_kv_heads, head_dim=head_dim, max_len=len(cos),
              threads=torch.get_num_threads(), eps=eps)
    fault = library().attention(ctypes.byref(job))
    if fault == 1:
        raise MemoryError("attention")
    if fault:
        raise ValueError("attention: rows and groups that do not fit their tokens and max_len")
