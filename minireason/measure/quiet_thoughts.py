"""What quiet thoughts are worth: answers by thought length, where they help, what they say.

w and `gain` compare with the same model's prediction without a thought, which training with
thoughts hardly trains, not with a model trained without thoughts: w shows where a thought is read,
and even pause tokens reach a high one. What thoughts are worth, the arms tell (studies/ablate.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from minireason.core.errors import UserError
from minireason.measure.estimates import mean_interval, share_interval
from minireason.measure.evaluate import marked_steps
from minireason.model.tokenizer import Tokenizer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Row, encode_lines
from minireason.training.optim import autocast
from minireason.training.thoughts import (
    QuietModel,
    Thought,
    predictions,
    shared_hidden,
    thought_batches,
)

Write = Callable[[list[Row], list[list[int]], Sampling], list[list[Thought]]]
DECILES = 10
SHOWN = 5                         # thoughts that are kept to be shown


class Readings(NamedTuple):
    """Of every true token after a thought, in the order of lines and thoughts; all (K,)."""

    line: np.ndarray              # its index
    root: np.ndarray              # the token of the line that the thought stands after
    at: np.ndarray                # its own place in the line
    before: np.ndarray            # log p in the line alone
    mixed: np.ndarray             # log p of the mixture
    right_before: np.ndarray      # is it the most probable token?
    right: np.ndarray             # the same of the mixture
    weight: np.ndarray            # w


def lines_of(tokenizer: Tokenizer, problems: list[Problem]) -> list[Row]:
    """(`<bos>` question answer `<eos>`, index of the answer's first token) of every problem."""
    return encode_lines(tokenizer, [p.prompt for p in problems],
                        [p.answer + "<eos>" for p in problems])


def root_of(tokens: list[int], after: str, tokenizer: Tokenizer) -> int:
    """Where the first token `after` of a line stands; UserError if the line has none."""
    (wanted,) = tokenizer.ids_of(after)
    if wanted not in tokens:
        raise UserError(f"--after {after!r}: not in the line {tokenizer.decode(tokens)!r}")
    return tokens.index(wanted)


@torch.no_grad()
def readings(model: QuietModel, tokenizer: Tokenizer, lines: list[Row],
             thoughts: list[list[Thought]], true_tokens: int) -> Readings:
    """What the model makes of the thoughts after which `true_tokens` of the line are predicted."""
    device, parts, done = model.embedding.weight.device, [], 0
    for batch in thought_batches([tokens for tokens, _ in lines], thoughts, true_tokens, tokenizer,
                                 token_budget=16384):
        batch = batch.to(device)
        with autocast(device):
            found = predictions(model, shared_hidden(model, batch), batch)
        mixed, true = found.mixed(), found.targets[:, None]
        part = (found.row + done, found.root, found.at, found.before.gather(1, true)[:, 0],
                mixed.gather(1, true)[:, 0], found.before.argmax(1) == found.targets,
                mixed.argmax(1) == found.targets, found.logit.sigmoid())
        parts.append([x.cpu().numpy() for x in part])
        done += len(batch.inputs)
    return Readings(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def measured_thoughts(model: QuietModel, tokenizer: Tokenizer, sets: dict[str, list[Problem]],
                      lengths: tuple[int, ...], write: Write, after: str, weighed: int,
                      seed: int) -> tuple[list[dict], dict, list[dict]]:
    """(rows, verdicts, shown thoughts) of a trained model; lengths (0,): of one without thoughts.

    weighed: problems per set that are thought about at every token.
    """
    rows, verdicts = answer_rows(model, tokenizer, sets, lengths, write, after)
    if max(lengths) == 0:
        return rows, verdicts, []
    some = [problem for problems in sets.values() for problem in problems[:weighed]]
    rows += token_rows(model, tokenizer, some, write, max(lengths), seed)
    *_, hardest = sets.values()
    return rows, verdicts, marked_thoughts(model, tokenizer, hardest[:SHOWN], write, max(lengths),
                                           after)


def answer_rows(model: QuietModel, tokenizer: Tokenizer, sets: dict[str, list[Problem]],
                lengths: tuple[int, ...], write: Write, after: str = "=",
                ) -> tuple[list[dict], dict]:
    """Accuracy, nats per answer and share of exactly right thoughts by set and thought length.

    Thoughts stand after the first token `after` and are greedy; length 0 is the line alone. An
    answer is right if each of its tokens is the most probable one, given those before it: what
    greedy decoding writes. Also {length: {set: a digit per problem}}, 1 where right.
    """
    rows, verdicts = [], {}
    for length in lengths:
        verdicts[str(length)] = {}
        for name, problems in sets.items():
            lines = lines_of(tokenizer, problems)
            roots = [[root_of(tokens, after, tokenizer)] for tokens, _ in lines]
            thoughts = [[Thought(root, [])] for (root,) in roots]
            if length:
                thoughts = write(lines, roots, Sampling(max_new=length, temperature=0,
                                                        stop=(tokenizer.end_think,)))
            found = answer_readings(model, tokenizer, lines, thoughts)
            right = np.ones(len(lines), dtype=int)
            np.minimum.at(right, found.line, found.right if length else found.right_before)
            nats = -(found.mixed if length else found.before).sum() / len(lines)
            row = {"set": name, "n": 1, "tokens": length, "problems": len(lines)}
            rows.append({**row, "method": "quiet", "nats": float(nats),
                         **share_interval(int(right.sum()), len(lines))})
            if length:
                sound = sum(is_sound(tokenizer, problem, own, length)
                            for problem, (own,) in zip(problems, thoughts, strict=True))
                rows.append({**row, "method": "sound", **share_interval(sound, len(lines))})
            verdicts[str(length)][name] = "".join(map(str, right))
    return rows, verdicts


def is_sound(tokenizer: Tokenizer, problem: Problem, thought: Thought, length: int) -> bool:
    """Is every step right; where there is room for one token only, is it the first step's value?"""
    if length == 1:
        return problem.steps[0].endswith("=" + tokenizer.decode(thought.tokens))
    return FAMILIES[problem.family].verify(
        problem, completion(tokenizer, problem, thought)).steps_valid


def answer_readings(model: QuietModel, tokenizer: Tokenizer, lines: list[Row],
                    thoughts: list[list[Thought]]) -> Readings:
    """`readings` of the answers' tokens alone."""
    found = readings(model, tokenizer, lines, thoughts, max(len(tokens) for tokens, _ in lines))
    firsts = np.array([first for _, first in lines])
    return Readings(*(values[found.at >= firsts[found.line]] for values in found))


def completion(tokenizer: Tokenizer, problem: Problem, thought: Thought) -> str:
    """The thought as a completion with the right answer, for the verifier."""
    return f"<think>{tokenizer.decode(thought.tokens)}</think>{problem.answer}<eos>"


def token_rows(model: QuietModel, tokenizer: Tokenizer, problems: list[Problem], write: Write,
               length: int, seed: int) -> list[dict]:
    """Mean w by kind of token, and gain of the mixture over the line, in nats, by decile of the
    line's own loss.

    One thought is sampled after every token of every problem's line and judged by the next one.
    """
    lines = lines_of(tokenizer, problems)
    roots = [list(range(1, len(tokens) - 1)) for tokens, _ in lines]
    how = Sampling(max_new=length, stop=(tokenizer.end_think,), seed=seed)
    found = readings(model, tokenizer, lines, write(lines, roots, how), 1)
    kinds = np.array([kind_of(tokenizer, lines[i], root)
                      for i, root in zip(found.line, found.root, strict=True)])
    rows = []
    for kind in dict.fromkeys(kinds.tolist()):
        weights = found.weight[kinds == kind].astype(float)
        rows.append({"set": "every token", "method": "weight", "token": kind,
                     "problems": len(weights), **mean_interval(weights)})
    order = np.argsort(found.before, kind="stable")[::-1]             # the surest first
    for decile, members in enumerate(np.array_split(order, DECILES), 1):
        rows.append({"set": "every token", "method": "gain", "decile": decile,
                     "problems": len(members), "nats_before": float(-found.before[members].mean()),
                     "gain": float((found.mixed - found.before)[members].mean())})
    return rows


def kind_of(tokenizer: Tokenizer, line: Row, at: int) -> str:
    """"=" for the question's last token, else operand, bracket, operator, or answer."""
    text = tokenizer.decode([line[0][at]])
    if at >= line[1] - 1:
        return "=" if at == line[1] - 1 else "answer"
    return "operand" if text.isdigit() else "bracket" if text in ("(", ")") else "operator"


def marked_thoughts(model: QuietModel, tokenizer: Tokenizer, problems: list[Problem],
                    write: Write, length: int, after: str = "=") -> list[dict]:
    """The greedy thought of each line, its steps marked by the verifier; w and gain at the answer.

    The answer stands for its first token.
    """
    lines = lines_of(tokenizer, problems)
    thoughts = write(lines, [[root_of(tokens, after, tokenizer)] for tokens, _ in lines],
                     Sampling(max_new=length, temperature=0, stop=(tokenizer.end_think,)))
    found = answer_readings(model, tokenizer, lines, thoughts)
    starts, shown = np.unique(found.line, return_index=True)[1], []
    for i, (problem, (own,)) in enumerate(zip(problems, thoughts, strict=True)):
        at = starts[i]
        shown.append({"line": problem.prompt + problem.answer,
                      "thought": tokenizer.decode(own.tokens),
                      "steps": marked_steps(problem, completion(tokenizer, problem, own)),
                      "weight": float(found.weight[at]), "right": bool(found.right[at]),
                      "gain": float(found.mixed[at] - found.before[at])})
    return shown
