"""From problems to completions: prompts as tokens, and N sampled texts for each."""

from minireason.core import parallel
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.sampler import Sampling, sample


def prompt_ids(tokenizer: Tokenizer, problems: list[Problem], style: str,
               hinted: bool = False) -> list[list[int]]:
    """Prompt tokens, the style's opener included: the sampler starts after it.

    With `hinted` the right answer stands before the opener (training data only: STaR).
    """
    texts = ["<bos>" + p.prompt + (f"<hint>{p.answer}" if hinted else "")
             + FAMILIES[p.family].OPENER[style] for p in problems]
    return tokenizer.encode_batch(texts)


def complete(model: Transformer, tokenizer: Tokenizer, problems: list[Problem], style: str,
             how: Sampling, hinted: bool = False, alone: bool = False) -> list[list[str]]:
    """N completions per problem, opener included; ranks share the problems, all get all.

    A problem's random numbers follow its place in the list, so that any number of ranks draws
    the same completions. With `alone` this rank draws all of them, for itself.
    """
    mine = list(range(len(problems)))
    mine = mine if alone else parallel.share(mine)
    chosen = [problems[i] for i in mine]
    texts = []
    if mine:
        texts = sample(model, tokenizer, prompt_ids(tokenizer, chosen, style, hinted), how, mine)
    grouped = []
    for i, problem in enumerate(chosen):
        opener = FAMILIES[problem.family].OPENER[style]
        grouped.append([opener + text for text in texts[i * how.n:(i + 1) * how.n]])
    return grouped if alone else parallel.gather(grouped)
