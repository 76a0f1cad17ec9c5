"""The student's process: it maps arguments to results, and knows no expected value.

    python student.py SOLUTION MEGABYTES SECONDS MODULES       (judge.py starts it)

A request is a line of JSON on standard input, a result a line on standard output: plain values and
numbers in arrays, so that nothing of the student's is ever unpickled or compared by its own `==`.
`pack` and `unpack` are that format, for both sides. The limits and the audit hook below guard
against mistakes and the usual tricks; strangers' code belongs in a container as well.
"""

import base64
import importlib
import importlib.util
import json
import os
import sys
import traceback
from types import ModuleType, SimpleNamespace

try:
    import resource
except ImportError:                   # Windows: no limits but that of time
    resource = None

NUMBERS = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")
HIDDEN = ("minireason", "cuda_ext")   # the references


# ---- values as JSON --------------------------------------------------------------------------

def pack(value: object) -> object:
    """Plain values as they are, all else as a dictionary of one key; TypeError if it is none.

    tuple {"t"}, dict {"d"}, NumPy scalar {"n"}, array {"a"}, tensor {"p"}, callback {"f"}, and an
    object with attributes {"o"}.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [pack(v) for v in value]
    if isinstance(value, tuple):
        return {"t": [pack(v) for v in value]}
    if type(value) is dict:
        return {"d": [[pack(k), pack(v)] for k, v in value.items()]}
    if isinstance(value, SimpleNamespace):
        return {"o": {name: pack(v) for name, v in vars(value).items()}}
    kind, array = "a", value
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        kind, array = "p", value.detach().cpu().numpy()
    if type(array).__module__ == "numpy" and str(getattr(array, "dtype", "")) in NUMBERS:
        if not hasattr(array, "setflags") or type(array).__name__ != "ndarray":
            return {"n": [str(array.dtype), array.item()]}
        return {kind: [str(array.dtype), list(array.shape),
                       base64.b64encode(array.tobytes()).decode()]}
    raise TypeError(f"a {type(value).__name__} is no plain value")


def unpack(value: object, callback=None) -> object:
    """What pack was given; callback(name) makes the function of that name."""
    if isinstance(value, list):
        return [unpack(v, callback) for v in value]
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "t":
        return tuple(unpack(v, callback) for v in content)
    if kind == "d":
        return {unpack(k, callback): unpack(v, callback) for k, v in content}
    if kind == "o":
        return SimpleNamespace(**{name: unpack(v, callback) for name, v in content.items()})
    if kind == "f":
        return callback(content)
    import numpy as np
    if content[0] not in NUMBERS:
        raise ValueError("no such numbers")
    if kind == "n":
        return np.dtype(content[0]).type(content[1])
    array = np.frombuffer(base64.b64decode(content[2]), content[0]).reshape(content[1]).copy()
    if kind == "a":
        return array
    import torch
    return torch.from_numpy(array)


# ---- one request -----------------------------------------------------------------------------

def answer(module: ModuleType, request: dict, callback=None) -> dict:
    """{"result"} or {"error", "text", "line", "number" of the call}: a request's reply.

    {"name", "calls": [arguments, ...]} gives the list of results; with "wrt" and "weights" each is
    (value, gradients): d sum(weights * value) / d argument, for the arguments numbered in wrt.
    """
    results = []
    try:
        function = getattr(module, request["name"])
        for call in request["calls"]:
            arguments = unpack(call, callback)
            if "wrt" not in request:
                results.append(pack(function(*arguments)))
                continue
            import torch
            inputs = [arguments[i].requires_grad_() for i in request["wrt"]]
            out = function(*arguments)
            weights = unpack(request["weights"])
            loss = out if weights is None else (out * weights).sum()
            found = torch.autograd.grad(loss, inputs, allow_unused=True)
            results.append(pack((out, [torch.zeros_like(x) if g is None else g
                                       for x, g in zip(inputs, found, strict=True)])))
        return {"result": results}
    except BaseException as error:                        # a student may raise or exit as they like
        return {**failure(error, str(getattr(module, "__file__", ""))), "number": len(results)}


def failure(error: BaseException, path: str) -> dict:
    """What was raised, and in which line of the student's file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == path]
    return {"error": type(error).__name__, "text": str(error)[:300],
            "line": lines[-1] if lines else None}


def load(path: str) -> ModuleType:
    """The student's file as a module."""
    spec = importlib.util.spec_from_file_location("solution", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["solution"] = module          # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# ---- limits ----------------------------------------------------------------------------------

def limit(megabytes: int, seconds: int) -> None:
    """Of this process: memory beyond what the libraries took, processor time, files, processes."""
    if resource is None:
        return
    limits = {"RLIMIT_CPU": seconds, "RLIMIT_FSIZE": 16 << 20, "RLIMIT_CORE": 0}
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as statm:
            taken = int(statm.read().split()[0]) * resource.getpagesize()
        limits["RLIMIT_AS"] = taken + (megabytes << 20)
        limits["RLIMIT_NPROC"] = 256 + sum(1 for name in os.listdir("/proc") if name.isdigit())
    for name, most in limits.items():
        if hasattr(resource, name):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


def forbid(folder: str) -> None:
    """An audit hook, which nobody can take off: no processes, sockets, references, other files."""
    readable = tuple({os.path.realpath(p) for p in (
        folder, sys.prefix, sys.base_prefix, "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
        "/sys/devices", "/dev", "/usr", *(p for p in sys.path if p.endswith("-packages")))})
    writable = (os.path.realpath(folder), os.devnull)
    changes = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link",
               "os.symlink", "os.truncate", "os.utime", "shutil.")
    never = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
             "os.kill", "os.startfile", "socket.", "ctypes.", "pty.", "signal.", "gc.get_obj",
             "mmap.")

    def inside(path: object, folders: tuple[str, ...]) -> bool:
        if isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return any(real == f or real.startswith(f + os.sep) for f in folders)

    def hook(event: str, arguments: tuple) -> None:
        if event == "import" and str(arguments[0]).partition(".")[0] in HIDDEN:
            raise ImportError(f"{arguments[0]} is not allowed")
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if not inside(path, writable if writes else readable):
                raise PermissionError(f"{'writing' if writes else 'reading'} {path} is not allowed")
        if event.startswith(never) or (event.startswith(changes)
                                       and not inside(arguments[0], writable)):
            raise PermissionError(f"{event} is not allowed")

    sys.addaudithook(hook)


def main() -> None:
    path, megabytes, seconds, modules = sys.argv[1:]
    requests, results = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                        # the student's prints
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in filter(None, modules.split(",")):
        importlib.import_module(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

    def send(message: dict) -> None:
        results.write(json.dumps(message) + "\n")
        results.flush()

    def callback(name: str):
        def call(*arguments):
            send({"call": name, "arguments": pack(arguments)})
            return unpack(json.loads(requests.readline()))
        return call

    sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") !=
                   os.path.dirname(os.path.realpath(__file__))]
    limit(int(megabytes), int(seconds))
    forbid(os.path.dirname(path))
    send({"ready": True})
    module = None
    for line in requests:
        request = json.loads(line)
        try:
            module = module or load(path)
            reply = answer(module, request, callback)
        except BaseException as error:
            reply = failure(error, path)
        try:
            text = json.dumps(reply)
        except (TypeError, ValueError) as error:
            text = json.dumps(failure(error, path))
        results.write(text + "\n")
        results.flush()


if __name__ == "__main__":
    main()
