"""From tensors to the kernels: ctypes mirrors of the C structs, and one function a kernel.

A library (build.py) holds one number type and head dimension; it is loaded when first needed. CUDA
tensors go to the nvcc build, CPU tensors to the host emulator: the same source and the same calls.
"""

import ctypes
import functools
import os
from ctypes import c_float, c_int, c_int64, c_void_p

import torch
from torch import Tensor

from cuda_ext import build

POINTERS = ("qkv cu_seqlens q_gain k_gain cos sin out lse k_out grad_out grad_qkv grad_gain "
            "scratch").split()
SIZES = "n_rows max_len n_heads n_kv_heads head_dim".split()
DECODE_POINTERS = ("qkv q_gain k_gain cos sin cache_k cache_v lens prompt_k prompt_v prompt_len "
                   "prompt_index out partial_out partial_lse").split()
DECODE_SIZES = "n_rows n_heads n_kv_heads head_dim capacity n_prompts prompt_max".split()
DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class AttentionCall(ctypes.Structure):
    """struct AttentionCall of vocabulary.h."""
    _fields_ = ([(name, c_void_p) for name in POINTERS] + [("n_tokens", c_int64)]
                + [(name, c_int) for name in SIZES] + [("scale", c_float), ("eps", c_float)])


class DecodeCall(ctypes.Structure):
    """struct DecodeCall of vocabulary.h."""
    _fields_ = ([(name, c_void_p) for name in DECODE_POINTERS]
                + [("row_stride", c_int64), ("head_stride", c_int64)]
                + [(name, c_int) for name in DECODE_SIZES]
                + [("scale", c_float), ("eps", c_float)])


class KernelError(RuntimeError):
    """A kernel refused its arguments or failed to launch."""


@functools.cache
def load(target: str, dtype: str, head_dim: int, archs: tuple[str, ...]) -> ctypes.CDLL:
    """The library of one instance, built if need be."""
    lib = ctypes.CDLL(str(build.library(target, dtype, head_dim, archs)))
    lib.error_text.restype = ctypes.c_char_p
    if dtype != "fp32":
        for name in ("backward_tile_bytes", "backward_work_bytes", "prompt_tile_bytes"):
            getattr(lib, name).restype = c_int64
    return lib


@functools.cache
def device_facts(index: int) -> tuple[tuple[str, ...], int]:
    """(architectures to compile for, bytes of shared memory a block may have) of a GPU."""
    properties = torch.cuda.get_device_properties(index)
    arch = f"{properties.major}{properties.minor}"
    return (arch,), properties.shared_memory_per_block_optin


EMULATED_SHARED_BYTES = 227 * 1024      # what the emulator grants: an H100's limit


def shared_bytes(x: Tensor) -> int:
    """Bytes of shared memory that a block may have on x's device."""
    return device_facts(x.device.index)[1] if x.device.type == "cuda" else EMULATED_SHARED_BYTES


def library_of(x: Tensor, head_dim: int) -> ctypes.CDLL:
    """The library for a tensor's device, number type and head dimension."""
    if x.dtype not in DTYPE_NAMES or head_dim not in build.HEAD_DIMS:
        raise KernelError(f"no kernels for {x.dtype}, head_dim {head_dim}: they take float32, "
                          f"bfloat16 and float16, head_dim {build.HEAD_DIMS}")
    if x.device.type == "cuda":
        return load("cuda", DTYPE_NAMES[x.dtype], head_dim, device_facts(x.device.index)[0])
    mode = os.environ.get("EMULATE_BUILD", "emulated")       # or debug (gdb), asan
    return load(mode, DTYPE_NAMES[x.dtype], head_dim, build.ARCHS)


def pointer(x: Tensor | None) -> int | None:
    """Address of a contiguous, 16-byte aligned tensor; None stays null."""
    if x is None:
        return None
    address = x.data_ptr()
    if not x.is_contiguous() or address % 16:
        raise KernelError(f"tensor of shape {tuple(x.shape)} must be contiguous and 16-byte "
                          "aligned: pass x.contiguous() or x.clone()")
    return address


def invoke(lib: ctypes.CDLL, name: str, call: ctypes.Structure, x: Tensor) -> None:
    """Queue one kernel on x's device and current stream; raises KernelError."""
    if x.device.type == "cuda":
        with torch.cuda.device(x.device):
            stream = torch.cuda.current_stream().cuda_stream
            status = getattr(lib, name)(ctypes.byref(call), c_void_p(stream))
    else:
        status = getattr(lib, name)(ctypes.byref(call), None)
    if status:
        raise KernelError(f"{name}: {lib.error_text(status).decode()}")


def shape_of(qkv: Tensor, n_heads: int, n_kv_heads: int, cu_seqlens: Tensor | None,
             max_len: int) -> dict:
    """The sizes in an AttentionCall, after checking what the kernels take on trust."""
    tokens, width = qkv.shape
    if n_kv_heads < 1 or n_heads % n_kv_heads or width % (n_heads + 2 * n_kv_heads):
        raise KernelError(f"qkv width {width} does not split into {n_heads} + 2 x {n_kv_heads} "
                          "heads, or the KV heads do not divide the heads")
    if cu_seqlens is None:
        rows = tokens // max_len if max_len else 0
        if rows * max_len != tokens:
            raise KernelError(f"{tokens} tokens are not rows of {max_len}: pass cu_seqlens")
    elif cu_seqlens.dtype != torch.int32 or cu_seqlens.device != qkv.device:
        raise KernelError("cu_seqlens must be int32 on the device of qkv")
    else:
        rows = cu_seqlens.numel() - 1
    return {"n_tokens": tokens, "n_rows": rows, "max_len": max_len, "n_heads": n_heads,
            "n_kv_heads": n_kv_heads, "head_dim": width // (n_heads + 2 * n_kv_heads)}


def attention_call(sizes: dict, scale: float, eps: float,
                   **tensors: Tensor | None) -> AttentionCall:
    """Fill the struct; `tensors` are named as in vocabulary.h."""
    call = AttentionCall(**{k: pointer(t) for k, t in tensors.items()}, **sizes, scale=scale,
                         eps=eps)
    call.tensors = tensors          # an address keeps no tensor alive
    return call


def gradient_scratch(lib: ctypes.CDLL, qkv: Tensor, sizes: dict) -> Tensor | None:
    """Global work space of the backward kernel, where its shared memory is too small."""
    group = sizes["n_heads"] // sizes["n_kv_heads"]
    work = lib.backward_work_bytes(group, sizes["max_len"])
    if lib.backward_tile_bytes() + work <= shared_bytes(qkv):
        return None
    return qkv.new_empty(sizes["n_rows"] * sizes["n_kv_heads"] * work // 4, dtype=torch.float32)
