"""A `tokenizers` WordLevel tokenizer: one token per character, number, word or special token.

How numbers are cut decides what is hard. Where 0..99 are single tokens (chain), a calculation step
is one prediction; where every digit is a token (addition), carries must be learnt
(Lee 2023, arXiv:2307.03381). `tokenizer.json` loads in transformers' PreTrainedTokenizerFast.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from minireason.core.errors import UserError

SPECIALS = ("<pad>", "<bos>", "<eos>", "<think>", "</think>", "<hint>", "<wrong>")
UNKNOWN = "<unk>"
STEP_ENDS = (";", "</think>", "<eos>")   # tokens after which a critic's value is taught and read
OPENERS = (SPECIALS.index("<think>"), SPECIALS.index("</think>"))   # ids; specials come first


class Tokenizer:
    """encode and decode round-trip every text over the alphabet it was built for."""

    def __init__(self, backend: Backend):
        self.backend = backend
        ids = self.ids_of(*SPECIALS)
        self.pad, self.bos, self.eos, self.think, self.end_think, self.hint, _ = ids
        self.words = _word_pattern(backend)
        self.known = {word: i for word, i in backend.get_vocab().items() if word != UNKNOWN}

    @classmethod
    def build(cls, tokens: Sequence[str]) -> "Tokenizer":
        """One token per special token, number and symbol of a family (Family.TOKENS)."""
        return cls(_backend_of(tokens))

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read tokenizer.json; UserError if it is missing or broken."""
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file; a checkpoint folder holds tokenizer.json")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path}: not a tokenizer ({str(error)[:200]})") from None
        try:
            return cls(backend)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def to_json(self) -> str:
        """The text of tokenizer.json."""
        return self.backend.to_str(pretty=True)

    @property
    def sha256(self) -> str:
        """Names the tokenizer, as a model's file records it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """V, special tokens included."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids; UserError names the first character outside the alphabet."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of many texts at once."""
        if self.words:                # in a fourth of the backend's time
            with suppress(KeyError):  # an unknown word: the backend says where
                return [[*map(self.known.__getitem__, self.words.findall(text))] for text in texts]
        unknown = self.backend.token_to_id(UNKNOWN)
        batch = [encoding.ids for encoding in self.backend.encode_batch_fast(texts)]
        for text, ids in zip(texts, batch, strict=True):
            pieces = re.split(r"</?\w+>", text) if unknown in ids else []
            for piece in pieces:      # `<unk>` itself may be written by a model
                found = self.backend.encode(piece)
                if unknown in found.ids:
                    start, end = found.offsets[found.ids.index(unknown)]
                    raise UserError(f"cannot encode {piece[start:end]!r} in {text!r}: not in the "
                                    "alphabet")
        return batch

    def decode(self, ids: list[int]) -> str:
        """Text of the ids, special tokens written out."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def ids_of(self, *tokens: str) -> list[int]:
        """Ids of tokens given by name; UserError if one is not in the vocabulary."""
        ids = []
        for token in tokens:
            index = self.backend.token_to_id(token)
            if index is None:
                raise UserError(f"tokenizer: lacks the token {token!r}")
            ids.append(index)
        return ids


def _backend_of(tokens: Sequence[str]) -> Backend:
    words = [*SPECIALS, *tokens, UNKNOWN]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_cut(tokens)), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (*SPECIALS, UNKNOWN)])
    return backend


def _cut(tokens: Sequence[str]) -> str:
    """The regular expression of one word that is not special: long tokens first, then numbers."""
    digits = max((len(token) for token in tokens if token.isdigit()), default=1)
    long = [re.escape(token) for token in tokens if len(token) > 1 and not token.isdigit()]
    return "|".join([*sorted(long, key=len, reverse=True),
                     rf"[1-9]\d{{0,{digits - 1}}}|\d|[^\d]"])


def _word_pattern(backend: Backend) -> re.Pattern[str] | None:
    """What cuts text as a backend of `build` does; None for another backend.

    Special tokens are cut out first there: the same, unless another token could hold a part of one.
    """
    vocabulary = backend.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)[len(SPECIALS):-1]
    if (any("<" in token[:-1] + token[1:] for token in tokens)
            or backend.to_str() != _backend_of(tokens).to_str()):
        return None
    return re.compile("|".join([*map(re.escape, (*SPECIALS, UNKNOWN)), _cut(tokens)]))


def padded_rows(rows: Sequence[list[int]], pad: int, device: torch.device | str = "cpu") -> Tensor:
    """Token rows as one tensor (B, T), filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
