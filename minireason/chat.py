"""`minireason chat`: type a problem, see the answer; the thought stays hidden unless asked for.

While it thinks, a bar moves on a terminal; a hidden thought leaves one line on standard error, such
as `5 steps, 1 withdrawn, 31 tokens`. --think says whether and how long it may think. The mark
beside each step is the exact verifier's, which the model never sees. The page of
`minireason serve` shows the same; what happens, for both, is in serve/answers.py.
"""

import sys
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from minireason.core.errors import UserError
from minireason.serve import answers


@dataclass(frozen=True)
class Config(answers.Config):
    """Read problems from standard input, one per line; an empty line ends."""


def run(cfg: Config) -> int:
    """Answer until an empty line or the end of input; returns how many lines were answered.

    Exits with code 2 at the end if standard input is no terminal and a line was unreadable.
    """
    who = answers.load_answerer(cfg, judged=cfg.n > 1)
    print(who, file=sys.stderr)
    answered = failed = 0
    while line := next_line():
        try:
            found = think_visibly(who, cfg, line, answered)
            if not cfg.show_thoughts:
                best = found["samples"][found["best"]]
                print(best["summary"], file=sys.stderr, flush=True)
            print(reply(cfg, found), flush=True)
            answered += 1
        except UserError as error:
            print(f"minireason: error: {error}", file=sys.stderr, flush=True)
            failed += 1
    if failed and not sys.stdin.isatty():
        raise SystemExit(2)
    return answered


def next_line() -> str:
    """One typed line, '' at the end; a prompt is shown to people only."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def think_visibly(who: answers.Answerer, cfg: Config, line: str, number: int) -> dict[str, Any]:
    """The answer of answer_events; a bar of tokens moves where stderr is a terminal."""
    found: dict[str, Any] = {}
    with tqdm(desc="thinking", unit="token", leave=False, disable=None, mininterval=0,
              file=sys.stderr) as bar:
        for kind, found in answers.answer_events(who, cfg, line, number):
            if kind == "problem":
                bar.reset(total=found["most"])
            elif kind == "token":
                bar.update(found["tokens"] - bar.n)
    return found


def reply(cfg: Config, found: dict[str, Any]) -> str:
    """What is printed for one problem, of which outcome_of says the rest."""
    best, end = found["samples"][found["best"]], found["said"]
    drawing = found["drawing"] and f"\n{found['drawing']}"
    if not cfg.show_thoughts:
        return end + drawing
    lines = [f"  {step}   [{mark}]" for step, mark in best["steps"]]
    if not lines:
        lines = [f"  {best['text']}" + ("" if best["answer"] else "   [malformed]")]
    if best["answer"]:
        end += "   [right]" if best["right"] else f"   [wrong, it is {found['truth']}]"
    return "\n".join([*lines, end]) + drawing
