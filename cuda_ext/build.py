"""Build the kernels: with nvcc for a GPU, with g++ against the host emulator, or both.

    python -m cuda_ext.build            every instance, for the GPU and for the emulator
    python -m cuda_ext.build --check    compile for sm_80 and sm_90; registers and spills of each

An instance is one number type and one head dimension: a library of its own, built when first
used and kept (cache.py) under a name that contains the hash of sources, flags and compiler.
"""

import argparse
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from cuda_ext.cache import BuildError, check_system, kept, run, run_all, try_loading

SOURCES = Path(__file__).parent
DTYPES = {"fp32": "float", "bf16": "bf16", "fp16": "fp16"}
HEAD_DIMS = (32, 64, 128)
ARCHS = ("80", "90")
EXACT = ("1_naive", "2_tiled", "3_online", "5_exact_backward", "7_norm_rope", "8_decode")
TENSOR = ("4_forward", "6_backward", "7_norm_rope", "8_decode", "9_prompt")

NVCC_FLAGS = ("-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC,-fvisibility=hidden")
HOST_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra",
              "-Wno-unknown-pragmas", "-Wno-unused-parameter", "-x", "c++")
HOST_MODES = {
    "emulated": ("-O2", "-ffp-contract=off"),
    "debug": ("-O0", "-g"),
    "asan": ("-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer"),
}


def instances() -> list[tuple[str, int]]:
    """Every (number type, head dimension) that has kernels."""
    return [(dtype, dim) for dtype in DTYPES for dim in HEAD_DIMS]


def kernels_of(dtype: str, head_dim: int) -> list[str]:
    """The kernel files of one instance; the teaching kernels hold a whole head in registers."""
    names = EXACT if dtype == "fp32" else TENSOR
    return [n for n in names if head_dim <= 64 or n not in ("1_naive", "2_tiled")]


def find_nvcc() -> str:
    """Path of nvcc, or a BuildError that says how to get it."""
    check_system()
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None:
        raise BuildError(
            "nvcc not found: install the CUDA toolkit (12.4 or later), then put its bin folder on "
            "PATH or set CUDA_HOME; or choose attention impl=sdpa, which needs no build")
    return found


def has_nvcc() -> bool:
    """Whether a GPU build is possible here."""
    try:
        return bool(find_nvcc())
    except BuildError:
        return False


def find_host_compiler() -> list[str]:
    """A C++17 compiler for the emulator, with the options that CXX may hold: `ccache g++ -m64`."""
    name = os.environ.get("CXX", "").strip() or "g++"
    try:
        words = [name] if shutil.which(name) else shlex.split(name)     # a path may have spaces
        found = shutil.which(words[0])
    except (ValueError, IndexError):                                    # a quote that is not closed
        found = None
    if found is None:
        raise BuildError(f"{name} not found: install g++ 9 or later, or set CXX, to compile for "
                         "the CPU")
    return [found, *words[1:]]


@functools.cache
def compiler_version(*compiler: str) -> str:
    """What the compiler says of itself; part of the cache key."""
    return run([*compiler, "--version"])


def key_of(*facts: str) -> str:
    """24 hexadecimal digits that stand for all of the facts."""
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]


def source_hash(sources: Path = SOURCES) -> str:
    """sha256 over the names and contents of all kernel sources."""
    digest = hashlib.sha256()
    for path in sorted([*sources.glob("*.h"), *sources.glob("kernels/*.cu")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def arch_flags(archs: tuple[str, ...]) -> list[str]:
    """Machine code for each architecture, and PTX of the last for those to come."""
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]


def compile_command(target: str, dtype: str, head_dim: int,
                    archs: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(compile, link) command prefixes for one instance; target "cuda" or one of HOST_MODES."""
    define = [f"-DKERNEL_T={DTYPES[dtype]}", f"-DKERNEL_D={head_dim}"]
    if target == "cuda":
        nvcc = find_nvcc()
        exact = [] if dtype == "fp32" else ["-use_fast_math"]
        return [nvcc, *NVCC_FLAGS, *arch_flags(archs), *exact, *define, "-c"], [nvcc, "-shared"]
    compiler, mode = find_host_compiler(), HOST_MODES[target]
    extra = ["-fsanitize=address"] if target == "asan" else []
    return ([*compiler, *mode, *HOST_FLAGS, *define, "-c"],
            [*compiler, "-shared", "-pthread", *extra])


def jobs() -> int:
    """Compilers to run at once; MAX_JOBS overrides."""
    asked = os.environ.get("MAX_JOBS") or str(min(8, os.cpu_count() or 1))
    if not asked.isdecimal() or int(asked) < 1:
        raise BuildError(f"MAX_JOBS={asked}: must be a whole number from 1 on")
    return int(asked)


def library(target: str, dtype: str, head_dim: int, archs: tuple[str, ...] = ARCHS,
            sources: Path = SOURCES) -> Path:
    """Path of the built library of one instance; builds it if the cache has no such build."""
    compile_with, link_with = compile_command(target, dtype, head_dim, archs)
    compiler = [find_nvcc()] if target == "cuda" else find_host_compiler()
    key = key_of(source_hash(sources), *compile_with, *link_with, compiler_version(*compiler))

    def make(path: Path) -> None:
        units = [sources / "kernels" / f"{name}.cu" for name in kernels_of(dtype, head_dim)]
        if target != "cuda":        # nvcc is slow enough that several units side by side pay
            units = [include_all(dtype, head_dim, sources, path.with_name("together.cpp"))]
        objects = [str(path.with_name(f"{unit.stem}.o")) for unit in units]
        run_all([[*compile_with, str(unit), "-o", out]
                 for unit, out in zip(units, objects, strict=True)], at_once=jobs())
        run([*link_with, *objects, "-o", str(path)])

    return kept(f"{target}-{dtype}-{head_dim}-{key}.so", make,
                lambda path: try_loading(path, "error_text"))


def parse_ptxas(text: str) -> list[dict]:
    """Architecture, registers and spills of each kernel in the output of ptxas -v."""
    reports = []
    for block in re.split(r"Compiling entry function '", text)[1:]:
        mangled, _, arch = block.split("'")[:3]
        length = re.match(r"_Z(\d+)", mangled)
        start = length.end()
        name = mangled[start:start + int(length[1])]
        flags = "".join(re.findall(r"Lb([01])E", mangled))       # FUSED, LOCAL
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", block)
        reports.append({"kernel": f"{name} {flags}".strip(), "arch": arch,
                        "registers": int(re.search(r"Used (\d+) registers", block)[1]),
                        "spill_bytes": int(spills[1]) + int(spills[2])})
    return reports


def include_all(dtype: str, head_dim: int, sources: Path, path: Path) -> Path:
    """One file that includes every kernel of an instance: compilers spend most of their time on
    their own headers."""
    units = (sources / "kernels" / f"{name}.cu" for name in kernels_of(dtype, head_dim))
    path.write_text("".join(f'#include "{unit.resolve()}"\n' for unit in units))
    return path


def check() -> list[dict]:
    """Every kernel of every instance for every architecture; cached by content."""
    key = key_of(source_hash(), compiler_version(find_nvcc()), *NVCC_FLAGS, *ARCHS)

    def make(path: Path) -> None:
        commands = []
        for dtype, dim in instances():
            unit = include_all(dtype, dim, SOURCES, path.with_name(f"{dtype}-{dim}.cu"))
            commands.append([*compile_command("cuda", dtype, dim, ARCHS)[0], "-Xptxas", "-v",
                             str(unit), "-o", str(unit.with_suffix(".o"))])
        reports = []
        texts = run_all(commands, at_once=jobs())
        for (dtype, dim), text in zip(instances(), texts, strict=True):
            found = parse_ptxas(text)
            if not found:
                raise BuildError("nvcc -Xptxas -v named no kernel that it compiled", text)
            reports += [{"dtype": dtype, "head_dim": dim, **report} for report in found]
        path.write_text(json.dumps(reports))

    return json.loads(kept(f"check-{key}.json", make, Path.read_text).read_text())


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cuda_ext.build", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compile only; report spills")
    parser.add_argument("--target", choices=("cuda", *HOST_MODES), action="append")
    args = parser.parse_args(argv)
    try:
        if args.check:
            reports = check()
            for r in sorted(reports, key=lambda r: r["spill_bytes"]):
                print(f"{r['arch']} {r['dtype']} D={r['head_dim']:<4} {r['kernel']:<22} "
                      f"{r['registers']:>3} registers {r['spill_bytes']:>3} B spilled")
            spilled = sum(r["spill_bytes"] > 0 for r in reports)
            print(f"{len(reports)} kernels compiled for {', '.join(ARCHS)}; {spilled} spill")
            return 1 if spilled else 0
        for target in args.target or ("emulated", "cuda"):
            for dtype, dim in instances():
                print(library(target, dtype, dim))
    except BuildError as error:
        print(error, error.output, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
