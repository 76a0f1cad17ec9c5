"""A solution of assignment 1, from its README alone."""

import re

NUMBER = "(?:0|[1-9][0-9]?)"
STEP = re.compile(f"({NUMBER})([-+*/])({NUMBER})=({NUMBER})")
PLAIN_STEP = f"{NUMBER}[-+*/]{NUMBER}={NUMBER}"
COMPLETION = re.compile(f"(?:<think>({PLAIN_STEP}(?:;{PLAIN_STEP})*))?</think>({NUMBER})<eos>")


def compute(left, operator, right):
    if operator == "/":
        if right == 0 or left % right != 0:
            return None
        value = left // right
    elif operator == "+":
        value = left + right
    elif operator == "-":
        value = left - right
    else:
        value = left * right
    return value if 0 <= value <= 99 else None


def parse(completion):
    match = COMPLETION.fullmatch(completion)
    if match is None:
        return None
    steps = tuple(match[1].split(";")) if match[1] else ()
    return steps, match[2]


def operations(prompt):
    first = int(re.search("[0-9]+", prompt)[0])
    return first, [(o, int(n)) for o, n in re.findall(r"([-+*/])([0-9])\)", prompt)]


def check_steps(prompt, steps):
    value, todo = operations(prompt)
    exact, claimed, marks = value, None, []
    for i, step in enumerate(steps):
        match = STEP.fullmatch(step)
        state = exact if claimed is None else claimed
        good = False
        if match is not None and i < len(todo):
            operator, right = todo[i]
            left, result = int(match[1]), int(match[4])
            good = (left == state and match[2] == operator and int(match[3]) == right
                    and compute(left, operator, right) == result)
        marks.append(good)
        claimed = int(match[4]) if match else None
        if i < len(todo):
            exact = compute(exact, *todo[i])
    return marks


def verify(prompt, completion):
    parsed = parse(completion)
    if parsed is None:
        return False, False, False
    steps, answer = parsed
    value, todo = operations(prompt)
    for operation in todo:
        value = compute(value, *operation)
    correct = answer == str(value)
    valid = (len(steps) == len(todo) and all(check_steps(prompt, steps))
             and steps[-1].split("=")[1] == answer)
    return correct, valid, True
