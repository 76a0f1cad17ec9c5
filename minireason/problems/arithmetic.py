"""Whole-number expressions: exact, written in one way only, and read without being executed.

A value is whole and lies in 0..99, as in chain, at every point of an expression.
"""

import ast
import re
from collections import defaultdict
from typing import NamedTuple

HIGHEST = 99                          # largest value
NUMBER = r"(?:0|[1-9][0-9]?)"         # pattern of a value
MOST_NUMBERS = 6                      # in one expression

OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class Move(NamedTuple):
    """One operation and the state after it."""

    left: int
    operator: str
    right: int
    after: tuple[int, ...]            # result first, then the numbers not used, in their order

    def __str__(self) -> str:
        """`18-3=15,7,2`: the operation, its result, the numbers that are left."""
        return f"{self.left}{self.operator}{self.right}={','.join(map(str, self.after))}"


def compute(left: int, operator: str, right: int) -> int | None:
    """The exact value, or None where it is undefined, not whole, or outside 0..99."""
    if operator == "/":
        return None if right == 0 or left % right else left // right
    value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return value if 0 <= value <= HIGHEST else None


def parse_expression(text: str) -> ast.expr | None:
    """The syntax tree of an expression of numbers, + - * / and parentheses; None if it is none."""
    if not re.fullmatch(r"[-+*/()0-9]{1,1000}", text):
        return None
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):     # the last two: nested too deep
        return None


def operations(text: str) -> tuple[list[tuple[int, str, int, int | None]], list[int]] | None:
    """([(left, operator, right, result)], leaves) of an expression; None if it is not written so.

    Results are exact, None where a value is not whole or leaves 0..99. Only the canonical writing
    counts: every inner operation in parentheses, the whole bare, no more than 6 numbers.
    """
    node = None if re.search(r"\b0\d|\d{3}", text) else parse_expression(text)
    if node is None or not 3 <= len(text) <= 40:
        return None
    done: list[tuple] = []
    leaves: list[int] = []

    def walk(node: ast.AST) -> tuple[str, int | None]:
        """(canonical text, exact value); an unknown node gives a text that matches nothing."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            leaves.append(node.value)
            return str(node.value), node.value
        operator = OPERATORS.get(type(getattr(node, "op", None)))
        if not isinstance(node, ast.BinOp) or operator is None:
            return "?", None
        (left, a), (right, b) = walk(node.left), walk(node.right)
        value = None if a is None or b is None else compute(a, operator, b)
        done.append((a, operator, b, value))
        return f"({left}{operator}{right})", value

    written, _ = walk(node)
    return (done, leaves) if done and len(done) < MOST_NUMBERS and written[1:-1] == text else None


def commuted(text: str) -> str:
    """An expression as `operations` reads it, the operands of each + and * in order of their text.

    Its value, and every value on the way, stay what they are. No expression: the text itself.
    """
    def walk(node: ast.AST) -> str:
        operator = OPERATORS.get(type(getattr(node, "op", None)))
        if not isinstance(node, ast.BinOp) or operator is None:
            return ast.unparse(node)
        left, right = walk(node.left), walk(node.right)
        if operator in "+*":
            left, right = sorted((left, right))
        return f"({left}{operator}{right})"

    node = parse_expression(text) if len(text) <= 200 else None
    if node is None:
        return text
    return walk(node)[1:-1] if isinstance(node, ast.BinOp) else walk(node)


def expression(path: list[Move]) -> str:
    """A path as one expression, in the one way that `operations` reads."""
    text, made = "", defaultdict(list)      # made: value -> what was written for it, newest last
    for move in path:
        left = made[move.left].pop() if made[move.left] else move.left
        right = made[move.right].pop() if made[move.right] else move.right
        text = f"({left}{move.operator}{right})"
        made[move.after[0]].append(text)
    return text[1:-1]
