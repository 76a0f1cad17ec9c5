"""The operators: schemas, shapes, gradients, torch.compile, and decoding over a cache.

KERNEL_DEVICE=cuda runs the same tests on a GPU.
"""

import os
import shutil

import pytest
import torch

import cuda_ext.autograd  # noqa: F401  (registers torch.ops.minireason)
from cuda_ext import calls, ops, reference
from cuda_ext.calls import KernelError
from cuda_ext.reference import EPS, random_case

DEVICE = os.environ.get("KERNEL_DEVICE", "cpu")
pytestmark = pytest.mark.skipif(DEVICE == "cpu" and shutil.which("g++") is None,
                                reason="NOT CHECKED: the emulator needs g++")
OPS = torch.ops.minireason
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arguments(dtype=torch.bfloat16, grad: bool = False) -> dict[str, tuple]:
    """Valid arguments of every operator, from one small case."""
    case = random_case(1, dtype, 32, (5, 0, 66), device=DEVICE)
    scale, rows, norm = 32**-0.5, case.rows, case.norm
    out, lse = OPS.attn(case.qkv, *rows, scale)
    fused_out, fused_lse, _ = OPS.attn_rope(case.qkv, *norm, *rows, EPS, scale, False)
    leaf = case.qkv.clone().requires_grad_(grad)
    gains = [gain.clone().requires_grad_(grad) for gain in norm[:2]]
    decode, _ = decode_case(0, dtype)
    return {
        "attn": (leaf, *rows, scale),
        "attn_bwd": (case.grad, case.qkv, out, lse, *rows, scale),
        "norm_rope": (leaf, *gains, *norm[2:], *rows, EPS),
        "norm_rope_bwd": (case.qkv, case.qkv, *norm, *rows, EPS),
        "attn_rope": (leaf, *gains, *norm[2:], *rows, EPS, scale, True),
        "attn_rope_bwd": (case.grad, case.qkv, fused_out, fused_lse, *norm, *rows, EPS, scale),
        "decode_attn": decode,
    }


@pytest.mark.parametrize("name", ops.SCHEMAS)
def test_opcheck(name):
    given = arguments(grad=True)[name]
    torch.library.opcheck(getattr(OPS, name).default, given)


@pytest.mark.parametrize("name", ("attn", "norm_rope", "attn_rope"))
def test_gradients_are_directional_derivatives(name):
    """fp32: the change of <out, w> along a random direction, by a central difference in float64 of
    the reference, against the kernel's gradient. Step 1e-5: truncation 1e-10, rounding 1e-10."""
    case = random_case(2, torch.float32, 32, (3, 0, 40), device=DEVICE)
    leaves = [t.clone().requires_grad_() for t in (case.qkv, case.q_gain, case.k_gain)]
    if name == "attn":
        out, leaves = OPS.attn(leaves[0], *case.rows, 32**-0.5)[0], leaves[:1]
    elif name == "norm_rope":
        out = OPS.norm_rope(*leaves, *case.norm[2:], *case.rows, EPS)
    else:
        out = OPS.attn_rope(*leaves, *case.norm[2:], *case.rows, EPS, 32**-0.5, True)[0]
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(out.shape, generator=rng).to(DEVICE)
    directions = [torch.randn(x.shape, generator=rng).to(DEVICE).double() for x in leaves]
    grads = torch.autograd.grad(out, leaves, weight)
    got = sum((g.double() * d).sum() for g, d in zip(grads, directions, strict=True))

    def value(step: float) -> torch.Tensor:
        moved = [x.detach().double() + step * d for x, d in zip(leaves, directions, strict=True)]
        heads = (moved[0].unflatten(-1, (-1, 32)) if name == "attn"
                 else reference.finish_projections(*moved, case))
        result = heads.flatten(1) if name == "norm_rope" else reference.exact_attention(
            heads, case)[0]
        return (result * weight.double()).sum()

    want = (value(1e-5) - value(-1e-5)) / 2e-5
    size = sum(g.double().norm() * d.norm() for g, d in zip(grads, directions, strict=True))
    assert abs(got - want) <= reference.BACKWARD[torch.float32] * size


@pytest.mark.parametrize("dtype", ("fp32", "bf16"))
def test_compiled_equals_eager_to_the_last_bit(dtype):
    case = random_case(4, DTYPES[dtype], 32, (5, 66), device=DEVICE)

    def loss(qkv, q_gain, k_gain):
        out, _, _ = OPS.attn_rope(qkv * 1, q_gain, k_gain, case.cos, case.sin, *case.rows, EPS,
                                  32**-0.5, False)
        return (out * case.grad).sum()

    def gradients(function):
        leaves = [t.clone().requires_grad_() for t in (case.qkv, case.q_gain, case.k_gain)]
        return torch.autograd.grad(function(*leaves), leaves)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for eager, ours in zip(gradients(loss), gradients(compiled), strict=True):
        assert eager.equal(ours)


def test_a_call_that_the_kernels_cannot_serve_is_refused():
    case = random_case(5, torch.float32, 32, (4,), device=DEVICE)
    with pytest.raises(KernelError, match="must be contiguous"):
        OPS.attn(case.qkv.t().contiguous().t(), *case.rows, 1.0)
    with pytest.raises(KernelError, match="does not split"):
        OPS.attn(case.qkv, case.cu_seqlens, 4, 3, 2, 1.0)
    with pytest.raises(KernelError, match="no kernels for"):
        OPS.attn(case.qkv.double(), *case.rows, 1.0)
    with pytest.raises(KernelError, match="must be int32"):
        OPS.attn(case.qkv, case.cu_seqlens.long(), 4, 2, 1, 1.0)
    with pytest.raises(KernelError, match="are not rows of"):
        OPS.attn(case.qkv, None, 3, 2, 1, 1.0)


PROMPTS, ROWS, CAPACITY, LONGEST = (37, 0, 130), 21, 40, 144


def decode_case(seed: int, dtype, head_dim: int = 32, share: bool = True, rows: int = ROWS):
    """Arguments of decode_attn: 21 rows that continue 3 prompts, some of them idle, and a Case
    that holds every row's finished past, its new token, and nothing else."""
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(len(PROMPTS), (rows,), generator=rng)
    index[:17] = 2                                     # more than 16 rows of one prompt: two tiles
    lens = torch.randint(CAPACITY, (rows,), generator=rng)
    lens[0], lens[1], lens[2] = 0, CAPACITY - 1, 33
    lens[3], lens[4] = -1, CAPACITY                                      # idle
    case = random_case(seed, dtype, head_dim, (LONGEST + CAPACITY,), device=DEVICE)
    new = torch.randn(rows, 4 * head_dim, generator=rng)
    caches = [torch.randn(rows, 1, CAPACITY, head_dim, generator=rng) for _ in range(2)]
    prompts = [torch.randn(len(PROMPTS), 1, LONGEST, head_dim, generator=rng) for _ in range(2)]
    new, *caches, prompt_k, prompt_v = (t.to(DEVICE, dtype) for t in (new, *caches, *prompts))
    lengths = torch.tensor(PROMPTS)
    lens, index, lengths = (t.to(DEVICE) for t in (lens, index, lengths))
    return (new, *case.norm, *caches, lens, prompt_k, prompt_v, lengths, index, 2, 1, EPS,
            head_dim**-0.5, share), case


def exact_decode(given: tuple, case) -> torch.Tensor:
    """float64: for each row, softmax attention over prompt, own tokens and the new one."""
    new, q_gain, k_gain, cos, sin, cache_k, cache_v, lens, prompt_k, prompt_v, length, index = \
        given[:12]
    head_dim, outs = q_gain.numel(), []
    for b in range(new.shape[0]):
        own, p = int(lens[b]), int(index[b])
        if not 0 <= own < cache_k.shape[2]:
            outs.append(new.new_zeros(2 * head_dim, dtype=torch.float64))
            continue
        before, position = int(length[p]), int(length[p]) + own
        one = random_case(0, torch.float32, head_dim, (1,))
        one.cos, one.sin = cos[position:position + 1].cpu(), sin[position:position + 1].cpu()
        heads = reference.finish_projections(new[b:b + 1].cpu().double(), q_gain.cpu().double(),
                                             k_gain.cpu().double(), one)[0]
        parts = [(prompt_k[p, 0, :before], prompt_v[p, 0, :before]),
                 (cache_k[b, 0, :own], cache_v[b, 0, :own])]
        k = torch.cat([*(k.cpu().double() for k, _ in parts), heads[2:3]])
        v = torch.cat([*(v.cpu().double() for _, v in parts), heads[3:4]])
        weights = (heads[:2] @ k.T * head_dim**-0.5).softmax(-1)
        outs.append((weights @ v).flatten())
    return torch.stack([out.cpu() for out in outs])


@pytest.mark.parametrize("share", (True, False), ids=("shared", "unshared"))
@pytest.mark.parametrize("head_dim", (32, 64, 128))
@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_equals_float64(dtype, head_dim, share):
    """Unnormed random keys make logits of several units, so one more rounding of q counts: the
    fused forward bound is met all the same, as the values are averaged."""
    given, case = decode_case(6, DTYPES[dtype], head_dim, share)
    want = exact_decode(given, case)
    got = OPS.decode_attn(*given).cpu().double()
    assert got.isfinite().all()
    assert (got - want).norm() <= reference.FORWARD[DTYPES[dtype]] * want.norm()


def test_the_rows_of_a_prompt_are_found_wherever_they_stand():
    """A warp looks at 32 rows at once: here a prompt's rows stand in three such groups, and take
    more tiles than the grid has for an average prompt."""
    given, case = decode_case(12, torch.bfloat16, rows=70)
    given[11][40:66] = 2                               # like the first 17 and a few between
    want = exact_decode(given, case)
    assert (OPS.decode_attn(*given).cpu().double() - want).norm() <= 4e-3 * want.norm()


@pytest.mark.skipif(DEVICE != "cpu", reason="emulator only")
def test_a_prompt_is_read_by_every_row_where_sharing_it_takes_too_much_memory(monkeypatch):
    """The 99 KB of a block on sm_86 and sm_89 are too few at head_dim 128."""
    monkeypatch.setattr(calls, "EMULATED_SHARED_BYTES", 99 * 1024)
    started, invoke = [], ops.invoke
    monkeypatch.setattr(ops, "invoke", lambda *given: started.append(given[1]) or invoke(*given))
    for head_dim, kernels in ((64, ["prompt_forward", "decode_forward"]),
                              (128, ["decode_forward"])):
        started.clear()
        given, case = decode_case(11, torch.bfloat16, head_dim)
        want = exact_decode(given, case)
        assert (OPS.decode_attn(*given).double() - want).norm() <= 4e-3 * want.norm()
        assert started == kernels


@pytest.mark.parametrize(("copy", "order"), [("eager", "up"), ("late", "down"), ("eager", "down")])
def test_decoding_does_not_depend_on_the_order_of_warps_or_copies(copy, order, monkeypatch):
    given, _ = decode_case(7, torch.bfloat16, 64)
    again, _ = decode_case(7, torch.bfloat16, 64)
    first = OPS.decode_attn(*given)
    monkeypatch.setenv("EMULATE_COPY", copy)
    monkeypatch.setenv("EMULATE_ORDER", order)
    assert first.equal(OPS.decode_attn(*again))


@pytest.mark.parametrize("dtype", DTYPES)
def test_append_writes_one_place_a_row_and_nothing_else(dtype):
    given, _ = decode_case(8, DTYPES[dtype])
    before = [cache.clone() for cache in given[5:7]]
    OPS.decode_attn(*given)
    lens = given[7].tolist()
    for old, cache, source in zip(before, given[5:7], (2, 3), strict=True):
        for b, own in enumerate(lens):
            changed = (old[b, 0] != cache[b, 0]).any(-1).nonzero().flatten().tolist()
            assert changed == ([own] if 0 <= own < CAPACITY else []), (b, own)
        if source == 3:                                # values are stored as they come
            assert cache[2, 0, 33].equal(given[0].unflatten(-1, (4, 32))[2, 3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_equals_the_last_row_of_the_forward_pass(dtype):
    """One token after another over an empty cache, against the whole row at once."""
    case = random_case(9, DTYPES[dtype], 32, (70,), device=DEVICE)
    out, _, keys = OPS.attn_rope(case.qkv, *case.norm, *case.rows, EPS, 32**-0.5, True)
    caches = [case.qkv.new_zeros(1, 1, 70, 32) for _ in range(2)]
    lens = torch.zeros(1, dtype=torch.long, device=DEVICE)
    outs = []
    for t in range(70):
        outs.append(OPS.decode_attn(case.qkv[t:t + 1], *case.norm, *caches, lens, None, None, None,
                                    None, 2, 1, EPS, 32**-0.5, False))
        lens += 1
    got = torch.cat(outs).double()
    bound = 2 * reference.FORWARD[DTYPES[dtype]]       # both sides are off by at most one bound
    assert (got - out.double()).norm() <= bound * out.double().norm()
    assert (caches[0][0, 0].double() - keys.double()).norm() <= bound * keys.double().norm()


def test_a_row_decodes_the_same_in_any_batch():
    """Batch invariance, to the last bit: a row alone, shared prompt and all."""
    given, _ = decode_case(10, torch.bfloat16)
    whole = OPS.decode_attn(*given)
    new, *norm, cache_k, cache_v, lens, prompt_k, prompt_v, length, index = decode_case(
        10, torch.bfloat16)[0][:12]
    for b in (0, 2, 20):
        one = slice(b, b + 1)
        alone = OPS.decode_attn(new[one], *norm, cache_k[one].clone(), cache_v[one].clone(),
                                lens[one].clone(), prompt_k, prompt_v, length, index[one].clone(),
                                *given[12:])
        assert alone.equal(whole[one]), b
