"""What the arms of the countdown study have in common, and what their models start from."""

import numpy as np
import pytest

from minireason.core.config import UserError
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.problems import addition, chain
from minireason.studies.stream_of_search_train import (
    ARMS,
    SIZES,
    Cell,
    first_model,
    lines_of_step,
    rows_per_step,
)


def test_arms_see_equal_problems_and_equal_tokens():
    tokenizer, recipe = Tokenizer.build(chain.TOKENS), SIZES["smoke"]
    sos, paths = (lines_of_step(arm, 0, 5, 12) for arm in ("sos", "optimal_examples"))
    assert sos[0] == paths[0] and sos[1] != paths[1]
    assert all("<wrong>" not in text for text in paths[1])
    counts = {arm: rows_per_step(recipe, tokenizer, arm) for arm in ARMS}
    assert counts["sos"] == counts["optimal_examples"] < counts["optimal_tokens"]
    for arm in ("sos", "guided", "optimal_tokens"):
        prompts, completions = lines_of_step(arm, 1, 0, 60 * counts[arm])
        texts = np.char.add(prompts, completions).tolist()
        tokens = sum(map(len, tokenizer.encode_batch(texts)))
        assert tokens == pytest.approx(60 * recipe.tokens_per_step, rel=0.15)   # rows are whole


def test_models_start_from_a_policy_with_longer_rows(ladder):
    recipe, star = SIZES["smoke"], str(ladder / "star")
    cell, tokenizer = Cell("smoke", star, 0, "guided"), Tokenizer.build(chain.TOKENS)
    model, (parent, _) = first_model(recipe, cell, tokenizer), checkpoint.load(star)
    for a, b in zip(model.parameters(), parent.parameters(), strict=True):
        assert a.equal(b)
    assert model.config.max_len == recipe.max_len != parent.config.max_len
    with pytest.raises(UserError, match="its tokenizer is not countdown's"):
        first_model(recipe, cell, Tokenizer.build(addition.TOKENS))


def test_an_arm_keeps_its_style_after_rl():
    styles = [Cell("smoke", "", 0, arm).style for arm in ("sos", "guided+rl", "optimal_tokens+rl")]
    assert styles == ["sos", "guided", "optimal"]
