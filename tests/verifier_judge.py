"""What a completion of each family is worth, by a judge that shares no code with the verifiers."""

import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from minireason.problems import Problem, Verdict

REFUSED = Verdict(False, False, False)


def judge(problem: Problem, text: str) -> Verdict:
    """What `verify` must say."""
    parts = text.removesuffix("<eos>").split("</think>")
    found = REFUSED
    if text.endswith("<eos>") and len(parts) == 2 and parts[0][:7] in ("", "<think>"):
        thought = parts[0][7:] if parts[0] else None
        found = globals()[f"judge_{problem.family}"](problem, thought, parts[1])
    if problem.family == "instructions" and not found.well_formed:
        found = replace(found, obeyed=(False,) * len(problem.prompt.split(":")[0].split(",")))
    return found


def number(text: str, highest: int | None = 99) -> int | None:
    """A whole number written in the one allowed way."""
    if not (text.isascii() and text.isdigit()) or str(int(text)) != text:
        return None
    return int(text) if highest is None or int(text) <= highest else None


def value(a: Fraction | int | None, operator: str, b: Fraction | int | None) -> Fraction | None:
    """Exact result, None where it is not whole or leaves 0..99."""
    if a is None or b is None or (operator == "/" and b == 0):
        return None
    found = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a) / (b or 1)}[operator]
    return Fraction(found) if found == int(found) and 0 <= found <= 99 else None


def operation(text: str) -> tuple | None:
    """(a, operator, b, [results]) of `18-3=15,7`."""
    head, equals, tail = text.partition("=")
    for operator in "+-*/":
        sides = [number(side) for side in head.split(operator)]
        results = [number(result) for result in tail.split(",")]
        if equals and len(sides) == 2 and None not in (*sides, *results):
            return sides[0], operator, sides[1], results
    return None


def last_digit(a: int, operator: str, b: int) -> int:
    """The result modulo 10, of which + - * leave a digit in 0..9."""
    return int(str({"+": a + b, "-": a - b + 100, "*": a * b}[operator])[-1])


def judge_modular(problem: Problem, thought: str | None, answer: str) -> Verdict:
    return judge_chain(problem, thought, answer, last_digit)


def judge_chain(problem: Problem, thought: str | None, answer: str, value=value) -> Verdict:
    words = re.findall(r"\d+|[-+*/]", problem.prompt)         # innermost first is left to right
    state, ideal = int(words[0]), []
    for operator, right in zip(words[1::2], map(int, words[2::2]), strict=True):
        ideal.append((state, operator, right, [value(state, operator, right)]))
        state = int(ideal[-1][3][0])
    tries = [part.split("<wrong>") for part in thought.split(";")] if thought is not None else []
    read = [[operation(step) for step in part] for part in tries]
    if number(answer) is None or sum(map(len, read)) - len(read) > 8 or any(
            step is None or len(step[3]) > 1 for part in read for step in part):
        return REFUSED
    steps, marks, state = [part[-1] for part in read], [], ideal[0][0]
    for i, (a, operator, b, (result,)) in enumerate(steps):
        marks.append(i < len(ideal) and a == state and (operator, b) == ideal[i][1:3]
                     and result == value(a, operator, b))
        state = result
    right = number(answer) == ideal[-1][3][0]
    return Verdict(right, right and steps == ideal, True, tuple(marks))


def judge_decomposition(problem: Problem, thought: str | None, answer: str) -> Verdict:
    def exact(a: int, operator: str, b: int) -> int | None:
        found = {"+": a + b, "-": a - b, "*": a * b}[operator]
        return found if found in range(1000) else None

    mode, _, asked = problem.prompt.rpartition(":")
    words = re.findall(r"\d+|[-+*]", asked)
    moves = [(words[i], int(words[i + 1])) for i in range(1, len(words), 2)]
    truth = state = int(words[0])
    for operator, right in moves:
        truth = exact(truth, operator, right)
    read = []
    for step in [] if thought is None else thought.split(";"):
        match = re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", step)
        numbers = [number(match[i], 999) for i in (1, 3, 4)] if match else [None]
        if None in numbers:
            return REFUSED
        read.append((numbers[0], match[2], numbers[1], numbers[2]))
    if number(answer, 999) is None:
        return REFUSED
    done, opened, marks, ways = 0, [], [], set()
    for *taken, result in read:
        if done == len(moves):
            marks.append(False)
            continue
        sign, right = moves[done]
        tens, ones = divmod(state if sign == "*" else right, 10)
        plan = []
        if tens and ones and exact(state, sign, right) is not None:
            plan = [[state, sign, 10 * tens], [*opened[:1], sign, ones]]
            if sign == "*":
                plan = [[10 * tens, sign, right], [ones, sign, right], [*opened[:1], "+",
                                                                        *opened[1:]]]
        piece = plan[len(opened)] == taken if plan else False
        whole = taken == [state, sign, right] and not opened
        marks.append((piece or whole) and exact(*taken) == result)
        if plan and not opened and (piece or whole):
            ways.add("split" if piece else "once")
        if piece and len(opened) + 1 < len(plan):
            opened.append(result)
        else:
            done, state, opened = done + 1, result, []
    right = int(answer) == truth and (not mode or ways <= {mode})
    return Verdict(right, right and all(marks) and done == len(moves), True, tuple(marks))


def judge_instructions(problem: Problem, thought: str | None, answer: str) -> Verdict:
    head, asked = problem.prompt.split(":")
    names = [word.strip("0123456789") for word in head.split(",")]
    counts = {word.strip("0123456789"): int("0" + word.lstrip("abcdefghijklmnopqrstuvwxyz"))
              for word in head.split(",")}
    words = re.findall(r"\d+|[-+*/]", asked)
    moves = [(words[i], int(words[i + 1])) for i in range(1, len(words), 2)]
    values = [int(words[0])]
    for operator, right in moves:
        values.append(int(value(values[-1], operator, right)))
    level, stop = len(moves), counts.get("stop", len(moves))
    short = 0 if "only" in counts else counts.get("most", stop)
    once, *again = answer.split(",")
    word = "even" if once.endswith("even") else "odd" if once.endswith("odd") else ""
    stated = number(once[:len(once) - len(word)])
    pieces = thought.split(";") if thought else []
    lead = pieces[0] if pieces and number(pieces[0]) is not None else None
    read = [operation(piece) for piece in pieces[lead is not None:]]
    if stated is None or again not in ([], [once]) or any(
            step is None or len(step[3]) > 1 for step in read):
        return REFUSED
    steps = [(a, operator, b, results[0]) for a, operator, b, results in read]
    n, top = len(steps), 0
    if steps and "reversed" in counts:
        a, operator, b, result = steps[0]
        for length in (level, short):
            ideal = (values[length - 1], *moves[length - 1], values[length])
            if moves[length - 1] == (operator, b) and (
                    (a, operator, b) != (values[0], *moves[0]) or steps[0] == ideal):
                top = length
    marks = [] if lead is None else ["begin" in counts and int(lead) == moves[-1][1]]
    for i, (a, operator, b, result) in enumerate(steps):
        exact = value(a, operator, b) == result
        if top > 1:
            at = top - 1 - i
            linked = (i == 0 or result == steps[i - 1][0]) and (at != 0 or a == values[0])
        else:
            at, linked = i, a == (steps[i - 1][3] if i else values[0])
        marks.append(exact and linked and 0 <= at < level and moves[at] == (operator, b))
    targets = {values[level], values[stop]}
    right = stated in targets or ("plus" in counts and (stated - 1) % 100 in targets)
    if n and n in (level, stop):
        targets = {steps[0 if top > 1 else -1][3]}
    added = "plus" in counts and (stated - 1) % 100 in targets
    backwards = [(operator, b) for _, operator, b, _ in reversed(steps)]
    does = {"only": pieces == [], "most": n <= counts.get("most", 0), "plus": added,
            "stop": n == stop and (stated in targets or added), "twice": bool(again),
            "reversed": n > 0 and n in (short, level) and backwards == moves[:n],
            "begin": lead is not None and int(lead) == moves[-1][1],
            "parity": bool(word) and (word == "odd") == (stated % 2 == 1)}
    tidy = all(name in names or not done for name, done in (
        ("begin", lead is not None), ("twice", again), ("parity", word)))
    valid = right and all(marks) and n in (short, level)
    return Verdict(right, valid, True, tuple(marks), tuple(does[name] and tidy for name in names))


def digits(text: str, separator: str) -> str | None:
    """The digits of `1,2,8` without what separates them."""
    parts = text.split(separator)
    return "".join(parts) if all(len(p) == 1 and p in "0123456789" for p in parts) else None


def listed(text: str) -> str | None:
    """The digits of `[1,2,8]`, or of `[]`."""
    whole = text[:1] + text[-1:] == "[]"
    return "" if text == "[]" else digits(text[1:-1], ",") if whole else None


def line_of(style: str, step: str) -> tuple | None:
    """(kind, state claimed to follow) of one line of a scratchpad; None if malformed."""
    if style == "simplified":
        read = re.fullmatch("A->([0-9]) , C->([01])", step)
        return ("line", (read[1], int(read[2]))) if read else None
    if style == "star":
        read = re.fullmatch("(?:([0-9 ]+) [+] ([0-9 ]+) )?, (?:([0-9 ]+) )?C: ([01])", step)
        if read is None:
            return ("end", None) if step[:1] in "01" and len(digits(step, " ") or "") > 1 else None
        x, y, shown = (digits(part, " ") if part else "" for part in read.groups()[:3])
        return None if None in (x, y, shown) else ("line", added(x, y, shown, int(read[4])))
    if read := re.fullmatch(r"(.*) has [0-9]+ digits\.", step):
        return None if listed(read[1]) is None else ("head", None)
    if read := re.fullmatch(r"\[\] [+] \[\] , A=(.*) C=[01] , END", step):
        return None if listed(read[1]) is None else ("end", None)
    fields = step.split(" , ")
    sides = [listed(side) for side in fields[0].split(" + ")]
    if len(fields) != 6 or len(sides) != 2 or fields[1][:2] != "A=":
        return None
    shown, sums = listed(fields[1][2:]), re.fullmatch("[0-9][+][0-9][+][01]=1?[0-9]", fields[3])
    claimed = line_of("simplified", " , ".join(fields[4:]))
    if None in (*sides, shown, sums, claimed) or fields[2] not in ("C=0", "C=1"):
        return None
    return "line", (sides[0][:-1], sides[1][:-1], claimed[1][0] + shown, claimed[1][1])


def added(x: str, y: str, answer: str, carry: int) -> tuple[str, str, str, int]:
    """The state after the lowest column that is left."""
    if not x and not y:
        return x, y, answer, carry
    total = int(x[-1:] or 0) + int(y[-1:] or 0) + carry
    return x[:-1], y[:-1], str(total % 10) + answer, total // 10


def ideal_line(style: str, x: str, y: str, answer: str, carry: int) -> str:
    """The line that follows a state."""
    _, _, done, after = added(x, y, answer, carry)
    if style == "simplified":
        return f"A->{done[0]} , C->{after}"
    if style == "star":
        shown = [" ".join(part) for part in (x, y, answer)]
        return (f"{shown[0]} + {shown[1]} , " if x or y else ", ") + (
            f"{shown[2]} C: {carry}" if answer else f"C: {carry}")
    x_shown, y_shown, shown = (",".join(part) for part in (x, y, answer))
    if not x and not y:
        return f"[] + [] , A=[{shown}] C={carry} , END"
    sums = f"{x[-1:] or 0}+{y[-1:] or 0}+{carry}={int(x[-1:] or 0) + int(y[-1:] or 0) + carry}"
    return (f"[{x_shown}] + [{y_shown}] , A=[{shown}] , C={carry} , {sums} , A->{done[0]} , "
            f"C->{after}")


def judge_addition(problem: Problem, thought: str | None, answer: str) -> Verdict:
    if thought is None and answer[:1] == "$" == answer[-1:] and len(answer) > 2:
        answer = answer[1:-1][::-1]
    a, b = problem.prompt[:-1].split("+")
    right = answer == str(int(a) + int(b))
    if number(answer, None) is None or thought == "":
        return REFUSED
    if thought is None:
        return Verdict(right, False, True)
    style = {"A": "simplified", "[": "detailed"}.get(thought[0], "star")
    if style == "simplified" and thought[-1] != ".":
        return REFUSED
    steps = thought.removesuffix("." if style == "simplified" else "").split(";")
    lines = [line_of(style, step) for step in steps]
    columns, last = max(len(a), len(b)), len(steps) - 1
    heads = 2 if style == "detailed" else 0
    wanted = ["head"] * heads + ["line"] * (last + 1 - heads)
    if style != "simplified":
        wanted[-1] = "end"
    if None in lines or [line[0] for line in lines] != wanted or len(steps) < heads + 1:
        return REFUSED
    width = columns if style == "star" else 0
    state, marks = (a.zfill(width), b.zfill(width), "", 0), []
    for i, (step, (kind, claimed)) in enumerate(zip(steps, lines, strict=True)):
        if i < heads:
            marks.append(step == f"[{','.join((a, b)[i])}] has {len((a, b)[i])} digits.")
            continue
        whole = columns + {"simplified": 0, "detailed": 3, "star": 2}[style]
        if style == "star" and i == columns + 1:
            marks.append(step == " ".join(f"{state[3]}{state[2]}"))
        else:
            marks.append(i < whole and step == ideal_line(style, *state))
        if style == "simplified":
            claimed = (state[0][:-1], state[1][:-1], claimed[0] + state[2], claimed[1])
        state = claimed if kind == "line" else state
    whole = len(steps) == columns + {"simplified": 0, "detailed": 3, "star": 2}[style]
    return Verdict(right, right and whole and all(marks), True, tuple(marks))


def judge_multiplication(problem: Problem, thought: str | None, answer: str) -> Verdict:
    def whole(text: str) -> bool:
        return text.isascii() and text.isdigit() and len(text) < 100

    a, b = problem.prompt[:-1].split("*")
    shown, given = answer, answer.removeprefix("(").removesuffix(")")
    if answer[:1] == "(" and answer[-1:] == ")":
        shown = given[::-1][given[-1:] == "0":]            # one 0 at most fills it up
        if len(given) % 2 or not whole(given):
            return REFUSED
    if number(shown, None) in (None, 0):
        return REFUSED
    right = int(shown) == int(a) * int(b)
    if thought is None:
        return Verdict(right, False, True)
    marks, total, steps = [], 0, thought.split(";")
    for i, step in enumerate(steps):
        partial, bracket, tail = step.partition("(")
        if not whole(partial) or (bracket and not (tail[-1:] == ")" and whole(tail[:-1]))):
            return REFUSED
        product = int(a) * int(b[len(b) - 1 - i]) if i < len(b) else 0
        total += product * 10 ** i
        wanted = "0" * i + str(product).zfill(len(a) + 1)[::-1]
        if 0 < i < len(b) - 1:
            wanted += f"({str(total).zfill(len(a) + 1 + i)[::-1]})"
        marks.append(i < len(b) and step == wanted)
        total = int((tail[:-1] if bracket else partial)[::-1])
    return Verdict(right, right and len(steps) == len(b) and all(marks), True, tuple(marks))


def expression(text: str) -> tuple[Fraction | None, list[int], set[str]] | None:
    """(value, leaves, operations as steps write them); None unless written in the one way."""
    depth, spot = 0, None
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0 and character in "+-*/":
            if spot is not None:
                return None
            spot = i
        if depth < 0:
            return None
    if spot is None or depth:
        return None
    sides = []
    for side in (text[:spot], text[spot + 1:]):
        if number(side) is not None:
            sides.append((Fraction(int(side)), [int(side)], set()))
        else:
            sides.append(expression(side[1:-1]) if side[:1] + side[-1:] == "()" else None)
    if None in sides:
        return None
    (a, left, done), (b, right, more) = sides
    result = value(a, text[spot], b)
    return result, left + right, done | more | {f"{a}{text[spot]}{b}={result}"}


def judge_countdown(problem: Problem, thought: str | None, answer: str) -> Verdict:
    numbers, _, target = problem.prompt[:-1].partition(">")
    start, target = tuple(sorted(map(int, numbers.split(",")))), int(target)
    read = expression(answer)
    if answer == "<wrong>" and thought is not None:
        read = (None, [], set())
    if read is None or len(read[1]) > 6:
        return REFUSED
    reached = {start: (start,)}                               # each state with the way to it
    way, marks, tried = (start,), [], set()
    for step in [] if thought is None else thought.split(";"):
        back, rest = len(re.match("(<wrong>)*", step)[0]) // 7, step.replace("<wrong>", "")
        named, colon, rest = rest.rpartition(":")
        state = [number(part) for part in named.split(",")] if colon else []
        found = operation(rest)
        if found is None or None in state or step.count("<wrong>") != back or (colon and back != 1):
            return REFUSED
        a, operator, b, after = found
        tried.add(rest.partition(",")[0])
        if colon:
            way = reached.get(tuple(sorted(state)), ())
        elif back:
            way = way[:-back]
        elif way and len(way[-1]) == 1:
            marks.append(operator == "-" and sorted((a, b)) == sorted((*way[-1], target))
                         and after == [a - b])
            continue
        before = tuple(sorted((a, b, *after[1:])))
        marks.append(bool(way) and way[-1] == before and after[0] == value(a, operator, b))
        way = (*way, tuple(sorted(after)))
        reached[way[-1]] = way
    right = sorted(read[1]) == list(start) and read[0] == target
    whole = right and way[-1] == (target,) and all(marks) and read[2] <= tried
    return Verdict(right, whole, True, tuple(marks))


def cells(text: str) -> list[complex] | None:
    """The cells of `a0b1`, column + row i; None if the text is not made of cells."""
    pairs = [text[i:i + 2] for i in range(0, len(text), 2)]
    if not all(len(p) == 2 and p[0] in "abcdefghij" and p[1] in "0123456789" for p in pairs):
        return None
    return [complex("abcdefghij".index(p[0]), int(p[1])) for p in pairs]


def maze_of(prompt: str) -> tuple[set[complex], complex, complex]:
    """(free cells, start, goal)."""
    size, rest = prompt[:-1].split(":")
    ends, _, walls = rest.partition("#")
    start, goal = cells(ends.replace(">", ""))
    grid = {complex(x, y) for x in range(int(size)) for y in range(int(size))}
    return grid - {*cells(walls)}, start, goal


def fewest_moves(free: set[complex], start: complex, goal: complex) -> int | None:
    """Least number of moves, by growing what can be reached; None if there is no way."""
    reached, moves = {start}, 0
    while goal not in reached:
        grown = reached | {cell + by for cell in reached for by in (1, -1, 1j, -1j)} & free
        if grown == reached:
            return None
        reached, moves = grown, moves + 1
    return moves


def layers(free: set[complex], start: complex, goal: complex) -> list[str]:
    """The steps of a breadth-first search from the goal, layer by layer."""
    def name(cell: complex) -> str:
        return "abcdefghij"[int(cell.real)] + str(int(cell.imag))

    layer, known, steps, distance = [goal], {goal}, [], 0
    while layer:
        after = []
        for cell in layer:
            new = [cell + by for by in (1, 1j, -1, -1j) if cell + by in free - known]
            known.update(new)
            after += new
            steps.append(f"{distance}{name(cell)}:{''.join(map(name, new))}")
            if start in known:
                return steps
        layer, distance = after, distance + 1
    return steps


def judge_maze(problem: Problem, thought: str | None, answer: str) -> Verdict:
    free, start, goal = maze_of(problem.prompt)
    steps, way = [] if thought is None else thought.split(";"), cells(answer)
    for step in steps:
        head, colon, new = step.partition(":")
        distance, cell = head[:-2], cells(head[-2:])
        if not colon or not cell or cells(new) is None or (distance and number(distance) is None):
            return REFUSED
    if not way:
        return REFUSED
    walked = all(abs(a - b) == 1 and b in free
                 for a, b in pairwise([start, *way]))
    right = walked and way[-1] == goal and len(way) == fewest_moves(free, start, goal)
    ideal, marks, past = layers(free, start, goal), [], -1
    for step in steps:
        place = -1
        for i, wanted in enumerate(ideal):
            if step in (wanted, wanted[wanted.index(":") - 2:]):
                place = i
        marks.append(place > past)
        past = max(past, place)
    numbered = any(step[0].isdigit() for step in steps)
    whole = right and steps != [] and all(marks) and (steps == ideal or not numbered)
    return Verdict(right, whole, True, tuple(marks))


def judge_pathstar(problem: Problem, thought: str | None, answer: str) -> Verdict:
    edges, ends = problem.prompt[:-1].split(":")
    listed_edges, (centre, end) = edges.split(","), ends
    steps = [] if thought is None else thought.split(";")
    turned = answer[:1] == "(" and answer[-1:] == ")"
    nodes = [*(answer[1:-1] if turned else answer)]
    known = "abcdefghijklmnopqrst"
    if not nodes or {*nodes, *"".join(steps)} - {*known} or any(len(step) != 2 for step in steps):
        return REFUSED
    nodes = nodes[::-1] if turned else nodes
    walked = all(a + b in listed_edges for a, b in pairwise(nodes))
    right = walked and nodes[0] == centre and nodes[-1] == end
    marks, here = [], end
    for at, to in steps:
        marks.append(at == here and to + at in listed_edges)
        here = to
    whole = right and all(marks) and len(steps) == len(listed_edges) / 2
    return Verdict(right, whole, True, tuple(marks))


# ---- a second interpreter: recursive, on the text itself -----------------------------------------

class Ended(Exception):
    """A program has no output."""


def arithmetic(a: int, sign: str, b: int) -> int:
    found = {"+": a + b, "-": a - b, "*": a * b}[sign]
    if not 0 <= found <= 99:
        raise Ended
    return found


def parts_of(statement: str) -> tuple[list[str], list[str]] | None:
    """([prefixes], [target, left, sign, right]); None if it is no statement."""
    *prefixes, last = statement.split(":")

    def known(text: str) -> bool:
        return text in ("x", "y") or number(text) is not None

    for prefix in prefixes:
        if not (prefix in list("23456789") or (
                prefix[:1] == "?" and prefix[1:2] in ("x", "y") and prefix[2:3] in ("<", ">")
                and known(prefix[3:]))):
            return None
    word = [last[:1], last[2:3], last[3:4], last[4:]]
    if len(prefixes) > 2 or last[1:2] != "=" or word[0] not in ("x", "y") or (
            word[1] not in ("x", "y") or word[2] not in ("+", "-", "*") or not known(word[3])):
        return None
    return prefixes, word


def is_program(text: str) -> bool:
    statements = text.split(",")
    return len(statements) <= 16 and all(parts_of(one) for one in statements)


def size(prefixes: list[str]) -> int:
    """Instructions of a statement, every round counted."""
    if not prefixes:
        return 1
    inner = size(prefixes[1:])
    return inner + 1 if prefixes[0][0] == "?" else int(prefixes[0]) * inner


class Tape:
    """Runs a program and asks, at every instruction, what its result is taken to be."""

    def __init__(self, x: int, y: int, claim):
        self.held, self.claim = {"x": x, "y": y}, claim

    def get(self, name: str) -> int:
        return self.held[name] if name in self.held else int(name)

    def run(self, program: str) -> int:
        read = [parts_of(statement) for statement in program.split(",")]
        if sum(size(prefixes) for prefixes, _ in read) > 100:
            raise Ended
        for prefixes, word in read:
            self.statement(prefixes, word)
        return self.held["x"]

    def statement(self, prefixes: list[str], word: list[str]) -> None:
        if not prefixes:
            target, left, sign, right = word
            self.claim(self, f"{target}={self.get(left)}{sign}{self.get(right)}=",
                       lambda: arithmetic(self.get(left), sign, self.get(right)), target)
        elif prefixes[0][0] == "?":
            a, sign, b = self.get(prefixes[0][1]), prefixes[0][2], self.get(prefixes[0][3:])
            if self.claim(self, f"{a}{sign}{b}=", lambda: int(a > b if sign == ">" else a < b), ""):
                self.statement(prefixes[1:], word)
        else:
            for _ in range(int(prefixes[0])):
                self.statement(prefixes[1:], word)


def exactly(tape: Tape, head: str, result, target: str) -> int:
    found = result()
    if target:
        tape.held[target] = found
    return found


def what_it_gives(program: str, x: int, y: int | None = None) -> tuple[int, int] | None:
    """(x, y) at the end; None without output."""
    tape = Tape(x, x if y is None else y, exactly)
    try:
        return tape.run(program), tape.held["y"]
    except Ended:
        return None


def traced(step: str) -> tuple[str, int] | None:
    """(variable set or "", result claimed) of a step; None if malformed."""
    target = step[0] if step[:2] in ("x=", "y=") else ""
    head, _, result = step[2 * bool(target):].partition("=")
    for sign in "+-*" if target else "<>":
        sides = [number(side) for side in head.split(sign)]
        if len(sides) == 2 and None not in sides and number(result) is not None and (
                target or result in ("0", "1")):
            return target, int(result)
    return None


def judge_program(problem: Problem, thought: str | None, answer: str) -> Verdict:
    value, _, program = problem.prompt[:-1].partition(">")
    steps = [] if thought is None else thought.split(";")
    if number(answer) is None or None in map(traced, steps):
        return REFUSED
    marks: list[bool] = []

    def claimed(tape: Tape, head: str, result, target: str) -> int:
        if len(marks) == len(steps):
            raise Ended
        step, (set_now, found) = steps[len(marks)], traced(steps[len(marks)])
        try:
            marks.append(step == f"{head}{result()}")
        except Ended:
            marks.append(False)
        if set_now:
            tape.held[set_now] = found
        return 1 if set_now else found

    try:
        Tape(int(value), int(value), claimed).run(program)
    except Ended:
        pass
    short = len(steps) > len(marks)
    marks += [False] * (len(steps) - len(marks))
    wanted: list[str] = []

    def exact(tape: Tape, head: str, result, target: str) -> int:
        wanted.append(head + str(result()))
        return exactly(tape, head, result, target)

    right = answer == str(Tape(int(value), int(value), exact).run(program))
    return Verdict(right, right and steps == wanted and not short, True, tuple(marks))


def judge_synthesis(problem: Problem, thought: str | None, answer: str) -> Verdict:
    shown = {int(a): int(b) for a, b in re.findall("([0-9]+)>([0-9]+)", problem.prompt)}
    steps = [] if thought is None else thought.split(";")
    read = []
    for step in steps:
        statement, sign, values = step.rpartition(">")
        claimed = [number(one) for one in values.split(",")]
        if None in claimed or len(claimed) > 3 or (sign and parts_of(statement) is None):
            return REFUSED
        read.append((statement, claimed))
    if not is_program(answer):
        return REFUSED
    values, marks = list(shown), []
    for statement, claimed in read:
        if not statement:
            marks.append(claimed == values == list(shown.values()))
            continue
        ends = [what_it_gives(statement, x, y) for x, y in zip(values, shown, strict=True)]
        marks.append(None not in ends and claimed == [end[0] for end in ends]
                     and [end[1] for end in ends] == list(shown))
        values = claimed if len(claimed) == 3 else values
    told = {x: what_it_gives(problem.answer, x) for x in range(1, 13) if x not in shown}
    left = [x for x in told if told[x] is not None]
    asked = [*shown, *(left[i * (len(left) - 1) // 4] for i in range(5))]
    right = all((end := what_it_gives(answer, x)) is not None
                and end[0] == shown.get(x, (told.get(x) or [None])[0]) for x in asked)
    whole = [statement for statement, _ in read] == [*answer.split(","), ""]
    return Verdict(right, right and whole and all(marks), True, tuple(marks))
