"""The tokenizer and the chat template of an exported folder, as other programs need them.

Ours marks every token in angle brackets as special, and prompts write `<bos>` themselves. Others
leave special tokens out of what they print, and expect the tokenizer to put `<bos>` first. What is
changed is changed back by `our_tokenizer`, to the byte.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.model.tokenizer import SPECIALS, Tokenizer
from minireason.problems import Family

SKIPPED = (*SPECIALS[:3], "<unk>")    # <pad> <bos> <eos>: not text


def their_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json as others need it: `<think>` and the like are printed, `<bos>` comes first."""
    backend = Backend.from_str(tokenizer.to_json())
    backend.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", tokenizer.bos)])
    held = json.loads(backend.to_str())
    for token in held["added_tokens"]:
        token["special"] = token["content"] in SKIPPED
    return held


def our_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """The Tokenizer of such a file; UserError if it is not one that `Tokenizer.build` made.

    vocab_size: of the model; ids must lie below it.
    """
    model = read_json(path).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    check_ids(path, list(vocabulary.values()) if isinstance(vocabulary, dict) else [], vocab_size)
    held = json.loads(Tokenizer.load(path).to_json())
    for token in held["added_tokens"]:
        token["special"] = True
    held |= {"post_processor": None, "truncation": None, "padding": None}
    tokenizer = Tokenizer(Backend.from_str(json.dumps(held)))
    words = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
    ids = [index for _, index in words]
    if tokenizer.ids_of(*SPECIALS, "<unk>")[:-1] != list(range(len(SPECIALS))):
        raise UserError(f"{path}: {', '.join(SPECIALS)} must be its tokens 0 to "
                        f"{len(SPECIALS) - 1}, as minireason writes them")
    check_ids(path, ids, vocab_size)
    whole = [tokenizer.backend.encode(word).ids for word, _ in words] == [[i] for i in ids]
    if not whole or tokenizer.decode(ids) != "".join(word for word, _ in words):
        raise UserError(f"{path}: does not read and print each of its tokens as it is written; "
                        "only a tokenizer that minireason made can be imported")
    return tokenizer


def check_ids(path: Path, ids: list[Any], vocab_size: int) -> None:
    """UserError unless the ids are 0, 1, 2, ... in any order, no more than vocab_size of them."""
    if not ids or sorted(map(str, ids)) != sorted(map(str, range(len(ids)))):
        raise UserError(f"{path}: the ids of its tokens must be 0, 1, 2, ..., each once")
    if len(ids) > vocab_size:
        raise UserError(f"{path}: tokenizer has {len(ids)} tokens, the model {vocab_size}")


def chat_template(family: Family) -> str:
    """Jinja that turns a user's message into the family's prompt, with what samples show of it."""
    generator, prompts = np.random.default_rng(0), []
    for level in family.LEVELS:
        prompts += [family.sample(generator, level).prompt for _ in range(50)]
    digits = max((len(token) for token in family.TOKENS if token.isdigit()), default=1)
    ends = {prompt[-1] for prompt in prompts}
    end = ends.pop() if len(ends) == 1 else ""
    facts = {
        "example": sorted(prompts, key=len)[len(prompts) // 4],
        "symbols": "".join(sorted({c for prompt in prompts for c in prompt.removesuffix(end)})),
        "end": end, "digits": digits,
        "nested": all(prompt.startswith("(") for prompt in prompts),
        "think": family.OPENER["cot"], "direct": family.OPENER["direct"]}
    known = "".join(f"{{%- set {name} = {json.dumps(fact)} %}}" for name, fact in facts.items())
    return known + Path(__file__).with_name("chat_template.j2").read_text().rstrip()
