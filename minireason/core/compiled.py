"""C++ of this library, built for this processor when first used and called by ctypes.

A build is kept (cuda_ext/cache.py) under a name that holds the hash of source, header, flags and
processor. Where none can be made, PyTorch does the same work, slower.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from cuda_ext import build
from minireason.core.errors import UserError

HEADER = Path(__file__).with_name("vectors.h")
FLAGS = ("-std=c++17", "-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations",   # after CXX's
         "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fPIC", "-shared", "-pthread",
         "-fvisibility=hidden")
SECONDS = 120.0                   # a compiler that takes longer hangs


def load(name: str, source: Path, symbols: tuple[str, ...], *more_flags: str) -> ctypes.CDLL:
    """A source's library, built if the cache has no such build; BuildError or OSError if it fails.
    """
    compiler = build.find_host_compiler()
    target = build.run([*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull], SECONDS)
    # target: every macro that this compiler defines for this processor, so a home folder that two
    # machines share holds a build for each
    command = [*compiler, *FLAGS, *more_flags]
    key = build.key_of(source.read_text(), HEADER.read_text(), *command, target)
    path = build.kept(f"{name}-{key}.so",
                      lambda path: build.run([*command, "-I", str(HEADER.parent), str(source),
                                              "-o", str(path)], SECONDS),
                      lambda path: build.try_loading(path, *symbols))
    return ctypes.CDLL(str(path))


def choose(variable: str, asked: str, what: str,
           library: Callable[[], ctypes.CDLL], *kinds: str) -> tuple[str, str]:
    """(Who computes, why) for what an environment variable asks; `auto`: native if built.

    kinds: of native code, further ones that may be asked for.
    """
    names = ("auto", "native", *kinds, "torch")
    if asked not in names:
        raise UserError(f"{variable}={asked}: no such {what}; have {', '.join(names)}")
    if asked == "torch":
        return asked, "asked for"
    try:
        library()
    except (build.BuildError, OSError) as error:
        if asked != "auto":
            raise UserError(f"{variable}={asked}: {error}") from None
        return "torch", f"slower; the C++ was not built: {error}"
    return ("native", "fastest on a CPU") if asked == "auto" else (asked, "asked for")
