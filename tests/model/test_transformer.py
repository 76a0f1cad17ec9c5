"""The transformer against plain references of its parts, and what must not change its output."""

import math

import pytest
import torch

from minireason.core.errors import UserError
from minireason.model import transformer as model_module
from minireason.model.transformer import KVCache, ModelConfig, Transformer, rms_norm, swiglu
from minireason.training.batches import pack, pad_right
from minireason.training.losses import nll

# The bound that DESIGN sets for float32 logits. They are about 4 here, so it is 40 roundings; a
# planted error shows as 1e-2 and more.
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def build(n_heads: int = 4, n_kv_heads: int = 2, tied: bool = True, **more) -> Transformer:
    """Tiny, with every tensor away from its initial value."""
    config = ModelConfig(20, 16, 2, n_heads, n_kv_heads, 8, 24, 32, tied=tied, **more)
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (parameter.dim() < 2))
    return model


def tokens_of(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(seed))


def by_the_formulas(model: Transformer, row: list[int]) -> torch.Tensor:
    """Logits (T, V) of one row: token by token, head by head, in float64."""
    c, weights = model.config, {k: v.double() for k, v in model.state_dict().items()}

    def norm(x, gain):
        return x / (x.square().mean() + c.norm_eps).sqrt() * gain

    def rotated(x, position):
        first, second = x.chunk(2)                                        # (D / 2,) each
        angles = [position * c.rope_theta ** (-2 * i / c.head_dim) for i in range(len(first))]
        cos = torch.tensor([math.cos(a) for a in angles], dtype=x.dtype)
        sin = torch.tensor([math.sin(a) for a in angles], dtype=x.dtype)
        return torch.cat((first * cos - second * sin, second * cos + first * sin))

    xs = [weights["embedding.weight"][token] for token in row]
    for layer in range(c.n_layers):
        w = {k.removeprefix(f"blocks.{layer}."): v for k, v in weights.items()}
        queries, keys, values = [], [], []
        for position, x in enumerate(xs):
            heads = (w["qkv.weight"] @ norm(x, w["attention_norm"])).view(-1, c.head_dim)
            q, k, v = heads.split((c.n_heads, c.n_kv_heads, c.n_kv_heads))
            queries.append([rotated(norm(h, w["q_gain"]), position) for h in q])
            keys.append([rotated(norm(h, w["k_gain"]), position) for h in k])
            values.append(list(v))
        for t, x in enumerate(xs):
            out = []
            for h in range(c.n_heads):
                shared = h // (c.n_heads // c.n_kv_heads)
                scores = torch.stack([queries[t][h] @ keys[s][shared] for s in range(t + 1)])
                share = (scores / c.head_dim ** 0.5).softmax(0)
                out.append(sum(share[s] * values[s][shared] for s in range(t + 1)))
            x = x + w["out.weight"] @ torch.cat(out)
            gate, up = (w["gate_up.weight"] @ norm(x, w["mlp_norm"])).chunk(2)
            xs[t] = x + w["down.weight"] @ (gate * torch.sigmoid(gate) * up)
    unembed = weights["embedding.weight" if c.tied else "unembedding.weight"]
    return torch.stack([unembed @ norm(x, weights["final_norm"]) for x in xs])


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_formulas(n_kv_heads, tied):
    model, row = build(4, n_kv_heads, tied), [3, 19, 0, 7, 7, 11]
    with torch.no_grad():
        logits = model(torch.tensor([row]))[0]
    torch.testing.assert_close(logits.double(), by_the_formulas(model, row), **CLOSE)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_implementations_agree(impl):
    model = build(4, 4)
    tokens = tokens_of(3, 12)
    default = model(tokens)
    model.attention_impl = impl
    torch.testing.assert_close(model(tokens), default, **CLOSE)


def test_both_ways_of_norm_and_swiglu_agree(monkeypatch):
    """What a CPU computes by hand and what a GPU or a compiler gets are one formula."""
    x, gain = torch.randn(5, 24), torch.randn(24)
    by_hand = rms_norm(x, gain, 1e-6), swiglu(x)
    monkeypatch.setattr(model_module, "by_hand", lambda x: False)
    torch.testing.assert_close((rms_norm(x, gain, 1e-6), swiglu(x)), by_hand, **CLOSE)


@pytest.mark.parametrize("n_kv_heads", [2, 4])
def test_packed_equals_padded(n_kv_heads):
    """Outputs at every counted token, and the gradient of every parameter."""
    model = build(4, n_kv_heads)
    rows = [(tokens_of(n, seed=n).tolist(), first) for n, first in ((9, 1), (3, 2), (14, 5))]
    results = []
    for make in (pad_right, pack):
        batch = make(rows, 0)
        model.zero_grad()
        logits = model(batch.inputs, batch.cu_seqlens, batch.max_len)
        loss = nll(logits, batch.targets, batch.loss_mask, 10)
        loss.backward()
        results.append((logits[batch.loss_mask > 0], loss, *(p.grad.clone()
                                                             for p in model.parameters())))
    for padded, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)     # sums of 26 tokens


def test_padding_changes_nothing_before_it():
    model = build()
    row = tokens_of(1, 10)
    padded = torch.cat((row, torch.zeros(1, 5, dtype=torch.long)), 1)
    torch.testing.assert_close(model(padded)[:, :10], model(row), **CLOSE)


def test_no_token_sees_the_future():
    model = build()
    tokens = tokens_of(2, 12)
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 20
    before, after = model(tokens), model(changed)
    assert before[:, :8].equal(after[:, :8]) and not before[:, 8:].equal(after[:, 8:])


@pytest.mark.parametrize("n_kv_heads", [2, 4])
@torch.inference_mode()
def test_cached_decoding_equals_whole_rows(n_kv_heads):
    """Prompts of unequal length, rows dropped on the way."""
    model = build(4, n_kv_heads)
    lens, source = [4, 7, 2], torch.tensor([0, 0, 1, 1, 1, 2])
    prompts = [tokens_of(n, seed=n) for n in lens]
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    cache = KVCache(model, 3, 32)
    model.hidden(padded, cache=cache)
    cache.lens.copy_(torch.tensor(lens))
    cache.keep(source)
    rows = [prompts[p] for p in source]
    for t in range(20):
        if t in (3, 11):                                        # groups become unequal, then vanish
            keep = torch.tensor([0, 2, 3, 5] if t == 3 else [1, 3])
            cache.keep(keep)
            rows = [rows[i] for i in keep]
        drawn = tokens_of(len(rows), seed=100 + t)
        rows = [torch.cat((row, d[None])) for row, d in zip(rows, drawn, strict=True)]
        logits = model.decode(drawn, cache, span=8 + t)
        fresh = torch.stack([model(row[None])[0, -1] for row in rows])
        torch.testing.assert_close(logits, fresh, **CLOSE)


def test_splitting_a_batch_leaves_its_gradient():
    model = build()
    rows = [(tokens_of(n, seed=n).tolist(), 1) for n in (5, 9, 12, 4, 7, 15)]
    count = sum(len(tokens) - 1 for tokens, _ in rows)
    gradients = []
    for size in (6, 4, 1):
        model.zero_grad()
        for start in range(0, len(rows), size):
            batch = pad_right(rows[start:start + size], 0)
            nll(model(batch.inputs), batch.targets, batch.loss_mask, count).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for split in gradients[1:]:
        torch.testing.assert_close(split, gradients[0], rtol=0, atol=1e-5)  # sums of 46 tokens


def test_shapes_are_checked():
    with pytest.raises(UserError, match="multiple of n_kv_heads"):
        ModelConfig(n_heads=4, n_kv_heads=3)
    with pytest.raises(UserError, match="head_dim even"):
        ModelConfig(head_dim=7)
