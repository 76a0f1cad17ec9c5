"""Batches: what counts, what is padding, and that cutting keeps every row once."""

import pytest
import torch

from minireason.core import parallel
from minireason.core.errors import UserError
from minireason.model.tokenizer import Tokenizer
from minireason.problems import chain
from minireason.problems.corpus import Mixture
from minireason.training.batches import (
    check_longest,
    encode_lines,
    micro_batches,
    pack,
    pack_groups,
    pad_right,
)

ROWS = [([1, 5, 6, 7, 2], 3), ([1, 8, 2], 1), ([1, 9, 9, 9, 9, 9, 2], 5), ([1, 4, 4, 2], 0)]


def counted(batch) -> list[int]:
    """The targets that count, in order."""
    return batch.targets[batch.loss_mask > 0].tolist()


def test_padding_is_on_the_right_and_never_counts():
    batch = pad_right(ROWS, pad=0)
    assert batch.inputs.shape == batch.targets.shape == batch.loss_mask.shape == (4, 6)
    assert batch.inputs[1].tolist() == [1, 8, 2, 0, 0, 0]        # its <eos> predicts nothing
    assert batch.targets[1].tolist() == [8, 2, 0, 0, 0, 0]
    assert batch.loss_mask[1].tolist() == [1, 1, 0, 0, 0, 0]


def test_rows_count_from_their_first_index():
    assert counted(pad_right(ROWS[:1], 0)) == [7, 2]             # prompt 1 5 6, completion 7 2
    assert counted(pad_right(ROWS[2:3], 0)) == [9, 2]
    assert counted(pad_right(ROWS[3:], 0)) == [4, 4, 2]          # no prompt: every target counts


def test_packed_rows_are_the_padded_ones_end_to_end():
    padded, packed = pad_right(ROWS, 0), pack(ROWS, 0)
    assert packed.cu_seqlens.tolist() == [0, 4, 6, 12, 15] and packed.max_len == 6
    lengths = [len(tokens) - 1 for tokens, _ in ROWS]
    for name in ("inputs", "targets", "loss_mask"):
        rows = [row[:n] for row, n in zip(getattr(padded, name), lengths, strict=True)]
        assert torch.cat(rows).equal(getattr(packed, name)), name


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("budget", [1, 6, 12, 100])
def test_cutting_keeps_every_counted_token_within_the_budget(budget, packed):
    batches, count = micro_batches(ROWS, budget, 0, packed)
    tokens = sorted(t for batch in batches for t in counted(batch))
    assert tokens == sorted(counted(pad_right(ROWS, 0))) and len(tokens) == count == 9
    for batch in batches:
        rows = len(batch.cu_seqlens) - 1 if packed else len(batch.inputs)
        assert rows == 1 or batch.inputs.numel() <= budget       # a row is never cut


def test_similar_lengths_stand_together():
    batches, _ = micro_batches(ROWS, 6, 0, packed=False)
    lengths = [batch.inputs.shape[1] for batch in batches]
    assert lengths == sorted(lengths) == [3, 4, 6]               # 2 and 3 share a batch


def test_ranks_share_the_rows_and_know_the_whole_count(monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr(parallel, "share", lambda rows, r=rank: rows[r::2])
        batches, count = micro_batches(ROWS, 100, 0, packed=False)
        assert count == 9
        seen += [t for batch in batches for t in counted(batch)]
    assert sorted(seen) == sorted(counted(pad_right(ROWS, 0)))


def test_a_number_never_spans_prompt_and_completion():
    tokenizer = Tokenizer.build(chain.TOKENS)
    (row, first), = encode_lines(tokenizer, ["1+1=1"], ["2<eos>"])
    assert tokenizer.decode(row) == "<bos>1+1=12<eos>"
    assert tokenizer.decode(row[first:]) == "2<eos>"
    assert row[first - 1] == tokenizer.encode("1")[0]


@pytest.mark.parametrize("mixture", [Mixture(max_level=3), Mixture(facts=1, direct=0),
                                     Mixture(facts=0.001, direct=0, facts_per_line=9, max_level=2),
                                     Mixture(facts=0, direct=1, max_level=5)], ids=str)
def test_lines_that_do_not_fit_are_found_before_the_first_step(mixture):
    """The length of a chain's lines is known: 10 tokens per operation and 6 more, facts 6 each."""
    tokenizer, parts = Tokenizer.build(chain.TOKENS), []
    if mixture.facts:
        parts.append(6 * mixture.facts_per_line + 1)
    if mixture.direct:
        parts.append(4 * mixture.max_level + 6)
    if mixture.facts + mixture.direct < 1:
        parts.append(10 * mixture.max_level + 6)
    longest = max(parts)
    check_longest(longest, tokenizer, chain, mixture=mixture)
    with pytest.raises(UserError, match=f"has lines of {longest} tokens, longer than the model's"):
        check_longest(longest - 1, tokenizer, chain, mixture=mixture)


def test_problems_of_the_highest_level_must_fit():
    tokenizer = Tokenizer.build(chain.TOKENS)
    check_longest(86, tokenizer, chain, 8)
    with pytest.raises(UserError, match=r"--max-level 8: has lines of 86 tokens"):
        check_longest(85, tokenizer, chain, 8)


def test_groups_share_their_prompt():
    """Prompt 1 5 6 with two completions, prompt 1 8 with one."""
    batch = pack_groups([[([1, 5, 6, 7, 2], 3), ([1, 5, 6, 9, 9, 2], 3)], [([1, 8, 2], 2)]], 0)
    assert batch.inputs.tolist() == [1, 5, 6, 7, 6, 9, 9, 1, 8]
    assert batch.targets.tolist() == [5, 6, 7, 2, 9, 9, 2, 8, 2]
    assert counted(batch) == [7, 2, 9, 9, 2, 2]
    assert batch.cu_seqlens.tolist() == [0, 2, 4, 7, 8, 9]
    assert batch.groups.tolist() == [0, 3, 5] and batch.max_len == 5
