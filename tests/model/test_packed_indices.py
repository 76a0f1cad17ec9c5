"""Packed rows through PyTorch's attention: every index that a call or a compiled graph uses is in
range, even where the compiler loses the offset of a slice."""

import contextlib
import itertools

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from minireason.model.attention import padding, rope_tables, self_attention

H, D = 2, 32
LAYOUT = {"n_heads": H, "n_kv_heads": H, "eps": 1e-6, "impl": "sdpa"}
ATEN = torch.ops.aten
INDEXED = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default,
           ATEN._unsafe_index.Tensor, ATEN._unsafe_index_put.default)


class CheckedIndices(TorchDispatchMode):
    """Every index lies in [0, size); and searchsorted forgets where in its tensor a slice begins,
    as Inductor made of it on a GPU before pytorch pull request 184043 (issue 182343)."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is ATEN.searchsorted.Tensor:
            starts = args[0]
            args = (starts.as_strided(starts.shape, starts.stride(), 0), *args[1:])
        if func in INDEXED:
            for index, size in zip(args[1], args[0].shape, strict=False):
                if index is not None and index.numel():
                    assert 0 <= int(index.min()) <= int(index.max()) < size, (func, index, size)
                    self.seen += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def case(request):
    """Packed projections, starts and the longest row."""
    lengths = torch.tensor(request.param)
    rng = torch.Generator().manual_seed(5)
    qkv = torch.randn(int(lengths.sum()), 3 * H * D, generator=rng)
    starts = torch.tensor([0, *lengths.cumsum(0)], dtype=torch.int32)
    gains = [1 + 0.2 * torch.randn(D, generator=rng) for _ in range(2)]
    return qkv, (*gains, *rope_tables(64, D, 10_000.0)), starts, int(lengths.max())


def attend(qkv, norm, starts, longest, groups=None):
    """Output and gradient of packed rows."""
    leaf = qkv.clone().requires_grad_()
    out = self_attention(leaf, *norm, cu_seqlens=starts, max_len=longest, groups=groups, **LAYOUT)
    return out, torch.autograd.grad(out.square().sum(), leaf)[0]


@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "compiled"))
@pytest.mark.parametrize("case", [(5, 0, 20, 7), (9,), (0, 3, 3, 0)], indirect=True)
def test_every_index_of_packed_rows_is_in_range(case, compiled):
    qkv, norm, starts, longest = case
    checked = CheckedIndices()

    def check_graph(graph, inputs):
        def run(*given):
            with checked:
                return graph(*given)
        return make_boxed_func(run)

    def attention(qkv, starts, longest):
        return self_attention(qkv, *norm, cu_seqlens=starts, max_len=longest, **LAYOUT)

    if compiled:                                          # aot_eager, its graphs checked
        backend = aot_autograd(fw_compiler=check_graph, bw_compiler=check_graph)
        torch.compiler.reset()
        attention = torch.compile(attention, backend=backend, fullgraph=True, dynamic=True)
    leaf = qkv.clone().requires_grad_()
    with contextlib.nullcontext() if compiled else checked:
        out = attention(leaf, starts, longest)
        grad = torch.autograd.grad(out.square().sum(), leaf)[0]
    assert checked.seen >= 6                              # q, k, v put and their gradients taken
    for want, got in zip(attend(*case), (out, grad), strict=True):
        torch.testing.assert_close(got, want)
    for first, end in itertools.pairwise(starts.tolist()):
        if first < end:                                   # the row alone
            alone = self_attention(qkv[None, first:end], *norm, **LAYOUT)[0]
            torch.testing.assert_close(out[first:end], alone)


@pytest.mark.parametrize("case", [(4, 0, 3, 6, 2)], indirect=True)
def test_every_index_of_shared_prompts_is_in_range(case):
    qkv, norm, starts, _ = case
    groups = torch.tensor([0, 3, 5], dtype=torch.int32)   # rows 0 and 3 are prompts
    want = attend(qkv, norm, starts, 8, groups)
    with CheckedIndices():
        got = attend(qkv, norm, starts, 8, groups)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_a_token_belongs_to_the_row_that_holds_it():
    """Empty rows, at either end too, hold nothing."""
    starts = torch.tensor([0, 0, 2, 2, 5, 5], dtype=torch.int32)
    row, position, place = padding(starts, 5, 3)
    assert row.tolist() == [1, 1, 3, 3, 3] and position.tolist() == [0, 1, 0, 1, 2]
    assert place.shape == (5, 3) and place[3].tolist() == [2, 3, 4]
