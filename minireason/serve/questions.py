"""What the page may ask, and what happens then: an answer as chat gives it, and a tree search."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import colormaps
from matplotlib.colors import to_hex

from minireason.core.config import check_numbers, stream_seed
from minireason.core.errors import UserError
from minireason.critics.value_head import prefix_values
from minireason.measure.evaluate import answer_keys, answer_of
from minireason.presets import settings_of
from minireason.problems import FAMILIES, Problem
from minireason.report import build
from minireason.report.figures_testtime import path_to, step_text, tree_places
from minireason.sampling.complete import prompt_ids
from minireason.sampling.prefixes import remembered
from minireason.search.steps import Stepper, plant
from minireason.search.tree import TreeConfig, tree_search
from minireason.serve import answers
from minireason.stages.guided_search import marked_tree, text_of

MOST_SAMPLES, MOST_LETTERS = 64, 1000
HERE = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader([HERE, Path(build.__file__).parent]), autoescape=True,
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
TEMPLATES.filters["step"] = step_text
Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """A problem and how to answer it, as chat's flags say it."""

    problem: str
    number: int = 0               # of the page's questions: each draws samples of its own
    n: int = 1
    temperature: float = 0.0
    think: str = ""
    tree: int = 0                 # tokens of a tree search, in samples; 0: none

    def __post_init__(self):
        if len(self.problem) > MOST_LETTERS:
            raise UserError(f"the problem has {len(self.problem):,} characters; at most "
                            f"{MOST_LETTERS:,} are read")
        for what, number, least in (("samples", self.n, 1), ("samples of the tree", self.tree, 0)):
            if not least <= number <= MOST_SAMPLES:
                raise UserError(f"{what}: {number:,}; must be {least} to {MOST_SAMPLES}")


def events_of(who: answers.Answerer, cfg: answers.Config, asked: Question,
              check: Callable[[], None]) -> Generator[Event, None, None]:
    """The events of answers.answer_events, then a `tree` if one was asked for, then `end`.

    check: called during a tree search; what it raises ends the search. UserError as there.
    """
    own = replace(cfg, n=asked.n, temperature=asked.temperature, think=asked.think)
    check_numbers(own)
    if asked.tree and who.critic is None:
        raise UserError("a tree search needs a critic, and this run has none")
    token_by_token = own.n == 1 and who.policy.embedding.weight.is_cpu
    pauses = who.tokenizer.backend.get_vocab() if token_by_token else (";",)
    for kind, found in answers.answer_events(who, own, asked.problem, asked.number, pauses):
        yield kind, found
        if kind == "answer" and asked.tree:
            written = [len(who.tokenizer.encode(sample["text"])) for sample in found["samples"]]
            unit = ceil(sum(written) / len(written))
            seed = stream_seed(cfg.seed, "serve", asked.number)
            problem = who.family.read(asked.problem)
            yield "tree", searched_tree(who, problem, seed, asked.tree * unit, unit, check)
    yield "end", {}


def searched_tree(who: answers.Answerer, problem: Problem, seed: int, budget: int, unit: int,
                  check: Callable[[], None]) -> dict[str, Any]:
    """What a tree search answers within a budget of tokens, and the tree as a picture.

    unit: tokens that a completion is expected to have.
    """
    critic = who.critic
    assert critic, "a tree search needs a critic"

    def values(rows: list[list[int]]) -> list[float]:
        check()
        return prefix_values(critic, who.tokenizer, rows)

    longest = settings_of(who.family.NAME, "quickstart", "search").get("max_step", Stepper.max_step)
    stepper = Stepper(who.policy, who.tokenizer, values, max_step=longest, seed=seed)
    (task,) = plant(stepper, prompt_ids(who.tokenizer, [problem], "cot"), [budget], unit)
    with remembered():
        tree_search(stepper, TreeConfig(), [task])
    texts = [text_of(node, task, who.tokenizer) for node in task.complete]
    chosen = task.voted(answer_keys(problem, texts))
    answer = answer_of(problem, text_of(chosen, task, who.tokenizer))
    right = answer is not None and FAMILIES[problem.family].is_right(problem, answer)
    nodes = marked_tree(problem, task, who.tokenizer)
    places = tree_places(nodes, path_to(nodes, [*task.root.subtree()].index(chosen)))
    picture = TEMPLATES.get_template("serve_tree.html.j2").render(
        places=places, problem=problem, marks=build.MARKS,
        colour=lambda value: to_hex(colormaps["cividis"](value)))
    return {"picture": picture, "answer": answer, "right": right, "value": chosen.value,
            "tokens": task.spent, "steps": len(nodes) - 1}
