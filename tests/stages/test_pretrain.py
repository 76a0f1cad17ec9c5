"""Pretraining says its loss on fresh lines, and by how much it exceeds the text's entropy."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_run import MIXTURE

from minireason.core.files import read_json
from minireason.model import checkpoint
from minireason.problems import FAMILIES
from minireason.problems.corpus import entropy_lines, per_token
from minireason.stages import pretrain


def test_losses_are_those_of_whole_lines_over_their_tokens(ladder, monkeypatch):
    """Line by line with plain PyTorch; a model that knows nothing loses log V a token."""
    monkeypatch.setattr(pretrain, "entropy_lines", partial(entropy_lines, n=150))
    model, tokenizer = checkpoint.load(ladder / "pretrain")
    cfg = pretrain.Config(mixture=MIXTURE, split="test")
    found = pretrain.text_losses(cfg, model, tokenizer)
    lines, entropy = entropy_lines(MIXTURE, FAMILIES["chain"], n=150, seed=0)
    losses, tokens = [], []
    for line in lines:
        ids = torch.tensor(tokenizer.encode("<bos>" + line))
        with torch.no_grad():
            losses.append(F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum"))
        tokens.append(len(ids) - 1)
    assert tokens == [len(tokenizer.encode(line)) for line in lines]     # <bos> is not counted
    assert found["loss_per_token"] == pytest.approx(float(sum(losses)) / sum(tokens), rel=1e-5)
    assert found["entropy_per_token"] == pytest.approx(entropy.sum() / sum(tokens))
    assert found["excess_per_token"] == pytest.approx(
        found["loss_per_token"] - found["entropy_per_token"])
    assert found["excess_per_token"] > 3 * found["excess_error"] > 0
    by_kind: dict[str, list[float]] = {"facts": [], "direct": [], "worked": []}
    for line, loss, nats in zip(lines, losses, entropy, strict=True):
        kind = "worked" if "<think>" in line else "direct" if "</think>" in line else "facts"
        by_kind[kind].append(float(loss) - nats)
    for kind, excesses in by_kind.items():
        assert found[f"excess_per_{kind}_line"] == pytest.approx(np.mean(excesses), rel=1e-4)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
    blank = pretrain.text_losses(cfg, model, tokenizer)
    assert blank["loss_per_token"] == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-6)
    assert blank["loss_error"] == pytest.approx(0, abs=1e-5)


def test_a_recipe_is_chosen_by_other_lines_than_results_are_measured_on(ladder, monkeypatch):
    monkeypatch.setattr(pretrain, "entropy_lines", partial(entropy_lines, n=20))
    model, tokenizer = checkpoint.load(ladder / "pretrain")
    losses = [pretrain.text_losses(pretrain.Config(mixture=MIXTURE, split=split), model, tokenizer)
              for split in ("test", "validation")]
    assert losses[0]["entropy_per_token"] != losses[1]["entropy_per_token"]
    result = read_json(ladder / "pretrain/result.json")
    lines, entropy = entropy_lines(MIXTURE, FAMILIES["chain"])
    tokens = np.array([len(tokenizer.encode(line)) for line in lines])
    assert result["entropy_per_token"] == pytest.approx(per_token(entropy, tokens)[0])
