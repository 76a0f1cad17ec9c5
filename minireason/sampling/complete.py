"""From problems, or prompts as tokens, to completions by the fastest sampler that this machine has.

`complete` grades nothing and knows problems; `stream` and `sample` know token rows alone.
"""

from collections.abc import Iterator

from minireason.core import flops, parallel
from minireason.core.config import used
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.cuda_graph import graph_decoder
from minireason.sampling.native import native_decoder
from minireason.sampling.prefixes import memory_of, unread
from minireason.sampling.sampler import (
    Samples,
    Sampling,
    decode_chunk,
    row_limits,
    split_into_chunks,
)


def stream(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
           how: Sampling, numbers: list[int] | None = None, limits: list[int] | None = None,
           starts: list[int] | None = None) -> Iterator[Samples]:
    """Yield the completions of all prompts chunk by chunk; memory is that of one chunk.

    numbers (P,) name the prompts' random streams, 0, 1, 2, ... if not given: a rank that holds
    every second prompt draws for them what one process with all of them draws. limits (P,): tokens
    per completion of each prompt at most, how.max_new if not given. starts (P,): the place in its
    random stream of each prompt's first token, for a completion that is continued.
    """
    room = row_limits(prompts, how, model.config.max_len, limits)
    decoder = (graph_decoder(model, tokenizer, prompts, how, room)   # on a GPU with our kernels
               or native_decoder(model, tokenizer, how))             # on a CPU with a compiler
    used["decoder"] = getattr(decoder, "NAME", "torch")
    memory = memory_of(model)
    for chunk in split_into_chunks(prompts, how, room, numbers, starts):
        read = unread(model, chunk.prompts)
        samples = decoder.run(chunk) if decoder else decode_chunk(model, tokenizer, how, chunk)
        flops.count(flops.READ, model.n_params, read + int(samples.mask.sum()))
        if memory:
            memory.learn(chunk, samples, getattr(decoder, "drawn", None))
        yield samples


def sample(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
           how: Sampling, numbers: list[int] | None = None,
           limits: list[int] | None = None) -> list[str]:
    """Completions as text, N consecutive ones per prompt; numbers and limits as for `stream`."""
    texts = []
    for samples in stream(model, tokenizer, prompts, how, numbers, limits):
        texts += samples.texts(tokenizer)
    return texts


def opener_of(problem: Problem, style: str) -> str:
    """The opener of the problem's family in a style; none for "auto", where the policy chooses."""
    return "" if style == "auto" else FAMILIES[problem.family].OPENER[style]


def prompt_ids(tokenizer: Tokenizer, problems: list[Problem], style: str,
               hinted: bool = False) -> list[list[int]]:
    """Prompt tokens, the style's opener included: the sampler starts after it.

    With `hinted` the right answer stands before the opener (training data only: STaR).
    """
    texts = []
    for p in problems:
        hint = f"<hint>{p.answer}" if hinted else ""
        texts.append("<bos>" + p.prompt + hint + opener_of(p, style))
    return tokenizer.encode_batch(texts)


def limits_of(how: Sampling, problems: list[Problem]) -> list[int]:
    """Tokens per completion of each problem at most: how.max_new, else what its family grants."""
    return [how.max_new or FAMILIES[p.family].max_new(p.level) for p in problems]


def complete(model: Transformer, tokenizer: Tokenizer, problems: list[Problem], style: str,
             how: Sampling, hinted: bool = False, alone: bool = False) -> list[list[str]]:
    """N completions per problem, opener included; ranks share the problems, all get all.

    A problem's random numbers follow its place in the list, so that any number of ranks draws
    the same completions. With `alone` this rank draws all of them, for itself.
    """
    mine = list(range(len(problems)))
    mine = mine if alone else parallel.share(mine)
    chosen = [problems[i] for i in mine]
    texts = sample(model, tokenizer, prompt_ids(tokenizer, chosen, style, hinted), how, mine,
                   limits_of(how, chosen))
    grouped = []
    for i, problem in enumerate(chosen):
        opener = opener_of(problem, style)
        grouped.append([opener + text for text in texts[i * how.n:(i + 1) * how.n]])
    return grouped if alone else parallel.gather(grouped)
