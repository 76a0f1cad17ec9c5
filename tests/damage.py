"""Damaged files for tests: flipped bits, cuts, repeated bytes, other JSON values."""

import json
import random

HOSTILE = (None, True, -1, 0, 10 ** 12, 10 ** 30, 1e300, float("nan"), float("inf"), "", "x", "\0",
           "../" * 9, "A" * 5000, [], {}, [[]], {"": None}, "DIGITS", "DEEP")   # JSON values


def damaged(data: bytes, chance: random.Random, other: bytes = b"") -> tuple[str, bytes]:
    """(kind of damage, the bytes of a file after it); `other` is swapped in, if it is given."""
    kind = chance.choice(["flip", "cut", "twice", "lost", "noise", "type", "swap"])
    at = chance.randrange(len(data) + 1)
    end = chance.randrange(at, min(len(data), at + 64) + 1)
    if kind == "type":
        return kind, retyped(data, chance)
    if kind == "swap" and other:
        return kind, other
    if kind == "cut":
        return kind, data[:at]
    if kind == "twice":
        return kind, data[:end] + data[at:]
    if kind == "lost":
        return kind, data[:at] + data[end:]
    if kind == "noise":
        return kind, data[:at] + bytes(chance.randrange(256) for _ in range(end - at)) + data[end:]
    if not data:
        return "flip", data
    at %= len(data)
    return "flip", data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1:]


def retyped(data: bytes, chance: random.Random) -> bytes:
    """A JSON file, or one line of it, with one value or the whole replaced by a hostile one."""
    lines = data.split(b"\n")
    for i in [None, chance.randrange(len(lines))]:
        try:
            text = data if i is None else lines[i]
            content = json.loads(text)
        except ValueError:
            continue
        places = [(None, None), *places_in(content)]
        holder, key = chance.choice(places)
        value = chance.choice(HOSTILE)
        if holder is None:
            content = value
        else:
            holder[key] = value
        changed = json.dumps(content).replace('"DIGITS"', "1" * 5000).replace(
            '"DEEP"', "[" * 100_000 + "]" * 100_000).encode()
        return changed if i is None else b"\n".join([*lines[:i], changed, *lines[i + 1:]])
    return json.dumps(chance.choice(HOSTILE)).encode()


def places_in(content) -> list[tuple]:
    """(holder, key) of every value inside a JSON value."""
    found, rest = [], [content]
    for value in rest:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                found.append((value, key))
                rest.append(value[key])
    return found
