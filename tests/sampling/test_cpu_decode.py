"""The CPU's decoding step equals whole rows through the model, whatever rows leave on the way."""

import pytest
import torch

from minireason.model.transformer import KVCache, ModelConfig, Transformer
from minireason.sampling.cpu_decode import CpuRows, Weights

# The bound that DESIGN sets for float32 logits; a planted error shows as 1e-2 and more.
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def build(n_kv_heads: int, tied: bool) -> Transformer:
    """Tiny, with every tensor, the gains too, away from its initial value."""
    model = Transformer(ModelConfig(20, 16, 2, 4, n_kv_heads, 8, 24, 40, tied=tied))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (parameter.dim() < 2))
    return model


def tokens_of(n: int, seed: int) -> torch.Tensor:
    return torch.randint(20, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("source", [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2]],
                         ids=["equal groups", "unequal groups"])
@pytest.mark.parametrize(("n_kv_heads", "tied"), [(1, True), (2, False), (4, True)])
@torch.inference_mode()
def test_a_step_equals_whole_rows(n_kv_heads, tied, source):
    """Prompts of unequal length, past two growths of the cache."""
    model, lens = build(n_kv_heads, tied), [4, 7, 2]
    prompts = [tokens_of(n, seed=n) for n in lens]
    cache = KVCache(model.config, 3, 7, "cpu", torch.float32)
    model.hidden(torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True), cache=cache)
    cache.lens.copy_(torch.tensor(lens))
    state = CpuRows(Weights(model, 33), cache, torch.tensor(source))
    rows = [prompts[p] for p in source]
    for t in range(33):
        if t in (3, 18):                                        # one prompt is left without rows
            keep = torch.tensor([0, 2, 3, 5] if t == 3 else [1, 3])
            state.keep(keep)
            rows = [rows[i] for i in keep]
        drawn = tokens_of(len(rows), seed=100 + t)
        rows = [torch.cat((row, d[None])) for row, d in zip(rows, drawn, strict=True)]
        fresh = torch.stack([model(row[None])[0, -1] for row in rows])
        torch.testing.assert_close(state.step(drawn), fresh, **CLOSE)
