"""What the kernels must equal: the formulas in float64, the shapes to try and the bounds to meet.

Bounds are relative norms ||ours - exact|| / ||exact|| on random inputs. Rounding one number to b
significant bits errs by about 2^-b / sqrt(3) in the norm: 1.1e-3 for bf16 (b = 9 with the hidden
bit), 1.4e-4 for fp16 (b = 12). A forward pass rounds the weights and the output: sqrt(2) of these;
fused, also q and k; a backward pass rounds dS and the result besides. The bounds leave a factor of
about two above that. fp32 sums of up to 255 products stay within 1e-5.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LENGTHS = (1, 63, 64, 65, 0, 97, 127, 128, 129, 255)      # around every tile edge, and an empty row
FORWARD = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}
BACKWARD = {torch.float32: 1e-5, torch.bfloat16: 6e-3, torch.float16: 1e-3}
LSE = 1e-5                 # largest absolute error: scores are fp32 products of exact inputs
# Fused, q and k are rounded after norm and rotation, so every score s = q.k / sqrt(D) moves by
# about |s| 2^-b: the log-sum-exp of unit-norm heads by a few of those at worst.
FUSED_LSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
EPS = 1e-6


@dataclass
class Case:
    """Random packed rows with everything that the operators take."""
    qkv: Tensor            # (N, (H + 2 Hkv) D)
    grad: Tensor           # (N, H D)
    q_gain: Tensor
    k_gain: Tensor
    cos: Tensor
    sin: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    n_heads: int
    n_kv_heads: int

    @property
    def rows(self) -> tuple:
        """The arguments that describe the rows, in the operators' order."""
        return self.cu_seqlens, max(self.lengths), self.n_heads, self.n_kv_heads

    @property
    def norm(self) -> tuple:
        """The arguments of norm and rotation."""
        return self.q_gain, self.k_gain, self.cos, self.sin

    @property
    def head_dim(self) -> int:
        """D."""
        return self.q_gain.numel()


def random_case(seed: int, dtype: torch.dtype, head_dim: int, lengths=LENGTHS, n_heads: int = 2,
                n_kv_heads: int = 1, spread: float = 1.0, device: str = "cpu") -> Case:
    """A case that depends on its arguments alone; `spread` is the standard deviation of qkv."""
    rng = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    qkv = torch.randn(tokens, (n_heads + 2 * n_kv_heads) * head_dim, generator=rng) * spread
    grad = torch.randn(tokens, n_heads * head_dim, generator=rng)
    gains = [1 + 0.2 * torch.randn(head_dim, generator=rng) for _ in range(2)]
    frequency = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(max(max(lengths), 1), dtype=torch.float64)[:, None] * frequency
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    tensors = [qkv.to(dtype), grad.to(dtype), *gains, angle.cos().float(), angle.sin().float(),
               cu_seqlens]
    return Case(*[t.to(device) for t in tensors], tuple(lengths), n_heads, n_kv_heads)


def finish_projections(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, case: Case) -> Tensor:
    """QK-norm and rotation in the dtype of qkv: (N, H + 2 Hkv, D)."""
    heads = qkv.unflatten(-1, (-1, case.head_dim))
    q, k, v = heads.split((case.n_heads, case.n_kv_heads, case.n_kv_heads), dim=1)
    position = torch.cat([torch.arange(n) for n in case.lengths]).to(qkv.device)
    cos, sin = (t.to(qkv.dtype)[position, None] for t in (case.cos, case.sin))

    def finish(x, gain):
        low, high = (x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * gain).chunk(2, -1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
    return torch.cat((finish(q, q_gain), finish(k, k_gain), v), dim=1)


def exact_attention(heads: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """out (N, H D) and lse (H, N) of finished heads (N, H + 2 Hkv, D)."""
    outs, lses, group = [], [], case.n_heads // case.n_kv_heads
    for row in heads.split(list(case.lengths)):
        q, k, v = row.split((case.n_heads, case.n_kv_heads, case.n_kv_heads), dim=1)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) * case.head_dim**-0.5
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
        outs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1))
        lses.append(scores.logsumexp(-1))
    return torch.cat(outs), torch.cat(lses, 1)


def exact(case: Case, fused: bool, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Outputs and gradients in float64 of the very inputs that the kernels get.

    Another dtype gives plain PyTorch's own numbers, to compare errors with.
    """
    leaves = [t.to(dtype).requires_grad_() for t in (case.qkv, case.q_gain, case.k_gain)]
    heads = (finish_projections(*leaves, case) if fused
             else leaves[0].unflatten(-1, (-1, case.head_dim)))
    out, lse = exact_attention(heads, case)
    grads = torch.autograd.grad(out, leaves, case.grad.to(dtype), allow_unused=True)
    split = (case.n_heads * case.head_dim, *[case.n_kv_heads * case.head_dim] * 2)
    dq, dk, dv = grads[0].split(split, dim=1)
    result = {"out": out.detach(), "lse": lse.detach(), "dq": dq, "dk": dk, "dv": dv}
    if fused:
        result |= {"dq_gain": grads[1], "dk_gain": grads[2],
                   "k": heads[:, case.n_heads:case.n_heads + case.n_kv_heads].detach().flatten(1)}
    return result


def ours(case: Case, fused: bool) -> dict[str, Tensor]:
    """The same numbers from the kernels, through the operators."""
    import cuda_ext.autograd  # noqa: F401  (registers the operators)
    ops, scale, gains = torch.ops.minireason, case.head_dim**-0.5, {}
    split = (case.n_heads * case.head_dim, *[case.n_kv_heads * case.head_dim] * 2)
    if fused:
        out, lse, k = ops.attn_rope(case.qkv, *case.norm, *case.rows, EPS, scale, True)
        grad, dq_gain, dk_gain = ops.attn_rope_bwd(case.grad, case.qkv, out, lse, *case.norm,
                                                   *case.rows, EPS, scale)
        gains = {"dq_gain": dq_gain, "dk_gain": dk_gain, "k": k}
    else:
        out, lse = ops.attn(case.qkv, *case.rows, scale)
        grad = ops.attn_bwd(case.grad, case.qkv, out, lse, *case.rows, scale)
    dq, dk, dv = grad.split(split, dim=1)
    return {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv, **gains}


def errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    """Relative norms (lse: largest absolute error). A number that is not finite is an error of
    infinity, never a NaN that a comparison would let pass."""
    result = {}
    for name, exact_value in want.items():
        value = got[name].double()
        assert value.shape == exact_value.shape, (name, value.shape, exact_value.shape)
        gap = value - exact_value
        size = gap.abs().max() if name == "lse" else gap.norm() / exact_value.norm()
        result[name] = size.item() if value.isfinite().all() else float("inf")
    return result


def bound(name: str, dtype: torch.dtype, fused: bool) -> float:
    """The largest error allowed for one of the names in `exact`."""
    if name == "lse":
        return FUSED_LSE[dtype] if fused else LSE
    if name.endswith("_gain"):                    # D sums over all tokens: few numbers, more spread
        return 2 * BACKWARD[dtype]
    return (FORWARD if name in ("out", "k") else BACKWARD)[dtype]
