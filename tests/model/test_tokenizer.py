"""The tokenizer: round trips, how numbers are cut, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from minireason.core.errors import UserError
from minireason.model.tokenizer import SPECIALS, Tokenizer
from minireason.problems.base import SYMBOLS, number_tokens

quick = settings(max_examples=100, deadline=None, derandomize=True)
WIDTHS = {width: Tokenizer.build((*number_tokens(width), *SYMBOLS)) for width in (1, 2, 3)}
ALPHABET = "".join(SYMBOLS)
texts = st.lists(st.sampled_from([*SPECIALS, *map(str, range(1000)), *ALPHABET]),
                 max_size=12).map("".join)


@quick
@given(texts, st.sampled_from(sorted(WIDTHS)))
def test_decode_undoes_encode(text, width):
    tokenizer = WIDTHS[width]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize(("width", "text", "expected"), [
    (1, "81", ["8", "1"]), (2, "81", ["81"]), (2, "100", ["10", "0"]), (3, "100", ["100"]),
    (2, "08", ["0", "8"]), (2, "7", ["7"]), (2, "1234", ["12", "34"]), (2, "007", ["0", "0", "7"]),
    (2, "(23+4)=<think>", ["(", "23", "+", "4", ")", "=", "<think>"])])
def test_numbers_are_cut_at_their_width(width, text, expected):
    tokenizer = WIDTHS[width]
    assert tokenizer.encode(text) == tokenizer.ids_of(*expected)


def test_words_are_tokens_too_the_longest_first():
    tokenizer = Tokenizer.build((*number_tokens(2), "up", "upper", " ", "u"))
    assert tokenizer.encode("upper up 12u") == tokenizer.ids_of("upper", " ", "up", " ", "12", "u")
    assert tokenizer.decode(tokenizer.encode("upper up 12u")) == "upper up 12u"


def test_a_batch_is_its_members():
    tokenizer = WIDTHS[2]
    several = ["(2+3)=", "", "<bos>9<eos>"]
    assert tokenizer.encode_batch(several) == [tokenizer.encode(text) for text in several]


@quick
@given(st.lists(texts | st.sampled_from(("<unk>", "<wr", "think>", "</", "once"))).map("".join),
       st.sampled_from(sorted(WIDTHS)))
def test_text_is_cut_as_the_library_cuts_it(text, width):
    tokenizer = WIDTHS[width]
    assert tokenizer.words
    try:
        found = tokenizer.encode(text)
    except UserError:
        return
    assert found == tokenizer.backend.encode(text).ids


def test_another_tokenizer_is_left_to_the_library():
    backend = Tokenizer.build(("1", "<w")).backend            # "<w" may be a part of "<wrong>"
    assert Tokenizer(backend).words is None
    other = Tokenizer.build(("1", "+"))
    other.backend.normalizer = normalizers.Replace("2", "1")
    assert Tokenizer(other.backend).encode("2+") == other.ids_of("1", "+")


@quick
@given(st.characters(exclude_characters=ALPHABET + "0123456789"))
def test_a_strange_character_is_named(character):
    with pytest.raises(UserError, match="not in the alphabet") as error:
        WIDTHS[2].encode(f"2+{character}")
    assert repr(character) in str(error.value)


def test_save_and_load(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(WIDTHS[2].to_json())
    loaded = Tokenizer.load(path)
    assert loaded.to_json() == WIDTHS[2].to_json() and loaded.pad == WIDTHS[2].pad
    path.write_text(WIDTHS[2].to_json()[:-40])
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer.load(path)
    path.write_text(WIDTHS[2].to_json().replace("<think>", "<thunk>"))
    with pytest.raises(UserError, match="<think>"):
        Tokenizer.load(path)
    with pytest.raises(UserError, match="no such file"):
        Tokenizer.load(tmp_path / "absent")


def test_unknown_token_name():
    with pytest.raises(UserError, match="'<nothing>'"):
        WIDTHS[2].ids_of("<eos>", "<nothing>")


def test_transformers_reads_the_same_tokens(tmp_path):
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "tokenizer.json"
    path.write_text(WIDTHS[2].to_json())
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    text = "<bos>((23+4)*3)=<think>23+4=27;27*3=81</think>81<eos>"
    assert fast(text)["input_ids"] == WIDTHS[2].encode(text)
    assert fast.decode(WIDTHS[2].encode(text)) == text


def test_a_model_that_writes_unk_beside_words_is_read_again():
    """Letters that occur within words alone are no strangers."""
    tokenizer = Tokenizer.build(("1", ";", "split"))
    ids = [*tokenizer.ids_of("split", "<unk>", "1"), tokenizer.eos]
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    with pytest.raises(UserError, match="cannot encode 'p'"):
        tokenizer.encode("<unk>1p")
