"""What a solution may not say, found in its syntax tree before anything of it runs."""

import ast

PLAIN = ("__future__", "abc", "bisect", "collections", "copy", "dataclasses", "decimal", "enum",
         "fractions", "functools", "heapq", "itertools", "math", "operator", "random", "re",
         "statistics", "string", "typing")
NAMES = frozenset(
    "eval exec compile __import__ globals locals vars getattr setattr delattr open input "
    "breakpoint __builtins__ __loader__ __spec__ attrgetter methodcaller".split())
ATTRIBUTES = frozenset(      # doors from an allowed module to one that is not, and to files
    "sys os modules builtins importlib inspect subprocess ctypes ctypeslib f2py attrgetter "
    "methodcaller eval exec load save savez savez_compressed savetxt loadtxt genfromtxt fromfile "
    "tofile memmap DataSource from_file hub ops utils package library multiprocessing "
    "distributed testing".split())


def broken(source: bytes, allowed: tuple[str, ...] = (), banned: tuple[str, ...] = ()) -> list[str]:
    """A line for each rule that the source breaks, in reading order.

    allowed: modules beyond PLAIN; banned: names beyond those above, wherever they stand.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        return [f"line {getattr(error, 'lineno', None) or 1}: not Python: "
                f"{getattr(error, 'msg', None) or error}"]
    modules, found = {*PLAIN, *allowed}, set()

    def tell(node: ast.AST, what: str) -> None:
        found.add((getattr(node, "lineno", 1), what))

    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "."] if not node.level else ["."]
            for alias in node.names:
                if alias.name == "*" or alias.name in ATTRIBUTES | NAMES | {*banned}:
                    tell(node, f"importing {alias.name} is not allowed")
        for name in names:
            if name.partition(".")[0] not in modules or {*name.split(".")} & ATTRIBUTES:
                tell(node, f"importing {name} is not allowed; allowed: "
                           f"{', '.join(sorted(modules - {'__future__'}))}")
        if isinstance(node, ast.Name) and (node.id in NAMES or node.id in banned):
            tell(node, f"{node.id} is not allowed")
        if isinstance(node, ast.Attribute):
            hidden = node.attr.startswith("_") and node.attr != "__init__" and not (
                isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            if hidden or node.attr in ATTRIBUTES or node.attr in banned:
                tell(node, f".{node.attr} is not allowed")
    return [f"line {line}: {what}" for line, what in sorted(found)]
