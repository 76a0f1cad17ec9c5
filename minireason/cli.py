"""The command line: `minireason <command> [--flags]`, flags made from the command's dataclass.

A mistake gives one line on stderr and exit code 2; an exception that main() lets pass is a bug of
ours, of which __main__.py makes one line and exit code 1.
"""

import contextlib
import io
import pkgutil
import re
import signal
import sys
import typing
from collections.abc import Callable
from typing import Any

import tyro

from minireason import __version__, stages
from minireason.core.errors import UserError
from minireason.core.locks import abandon_folders
from minireason.problems import check_config

OTHERS = {   # name: (its function of one `cfg`, one line of help)
    "doctor": ("minireason.studies.doctor:run", "what this machine has, and what would be faster"),
    "report": ("minireason.report.build:run", "figures and report.html of a run"),
    "chat": ("minireason.chat:run", "type problems, see answers"),
    "serve": ("minireason.serve:run", "the same on a local page, with votes and search trees"),
    "eval": ("minireason.evalset:run", "a checkpoint on a frozen set or JSONL file"),
    "export": ("minireason.export:run", "write a folder that transformers loads"),
    "import": ("minireason.export:run_import", "read such a folder back"),
    "bench": ("minireason.studies.bench:run", "speed beside transformers' Qwen3"),
    "ablate": ("minireason.studies.ablate:run", "a stage, one choice changed"),
    "controls": ("minireason.studies.controls:run", "every rung beside other uses of its FLOPs"),
    "obedience": ("minireason.studies.obedience:run", "what each rung does to instructions"),
    "splitting": ("minireason.studies.splitting:run", "which steps a policy breaks into easy ones"),
    "countdown": ("minireason.studies.stream_of_search:run", "Stream of Search or optimal paths"),
    "sweep": ("minireason.studies.sweep:run", "a grid of runs, on Ray"),
    "scale": ("minireason.studies.scaling:run", "the scaling laws: sweeps and fits"),
    "reproduce": ("minireason.studies.lee2023:run", "Lee 2023's addition table"),
    "planning": ("minireason.studies.planning:run", "plans with and without a written search"),
}


def commands() -> dict[str, tuple[str, str]]:
    """{name: (its function of one `cfg`, one line of help)}; the stages are STAGES."""
    named = {"run": ("minireason.pipeline:run", "all stages in order, then the report")}
    for stage in stages.STAGES:
        if stage.command:
            named[stage.name] = (f"{stage.module}:run", f"stage: {stage.help}")
    return {**named, **OTHERS}


def parse(config_class: type, command: str, arguments: list[str]):
    """The filled dataclass; a wrong flag is a UserError of one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(config_class, prog=f"minireason {command}", args=arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = re.sub(r"[╭╮╰╯│─┌┐└┘]|-{4,}|\x1b\[[0-9;]*m", " ", errors.getvalue())
        text = " ".join(text.split()).partition(" For full helptext")[0]
        raise UserError(f"{text} (see minireason {command} --help)") from None


def read_command(arguments: list[str]) -> tuple[Callable, Any]:
    """The function of a command line and its configuration, checked; UserError."""
    (command, *rest), known = arguments, commands()
    if command not in known:
        raise UserError(f"unknown command {command!r}; have {', '.join(known)}")
    function = pkgutil.resolve_name(known[command][0])
    config = parse(typing.get_type_hints(function)["cfg"], command, rest)
    check_config(config)
    check_lists(config, rest)
    return function, config


def check_lists(config: object, arguments: list[str]) -> None:
    """UserError if a flag of several values is given twice: the last alone would count."""
    flags = {f"--{name}": value for name, value in vars(config).items()}
    given = [word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
             for word in arguments if word.startswith("--")]
    for flag, value in flags.items():            # a word may be a flag's beginning
        words = [word for word in given if word == flag
                 or (flag.startswith(word) and word not in flags)]
        if isinstance(value, tuple) and len(words) > 1:
            raise UserError(f"{flag.replace('_', '-')}: given {len(words)} times; give all its "
                            "values after one")


def stop(number: int, _frame: object) -> None:
    """Signal handler: end as Ctrl-C does, deaf to the same signal from then on."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code, 128 + number after a signal."""
    for name in ("SIGTERM", "SIGHUP") if argv is None else ():
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_DFL:   # nohup ignores SIGHUP
            signal.signal(number, stop)
    arguments, known, config = sys.argv[1:] if argv is None else argv, commands(), None
    if arguments == ["--version"]:
        print(f"minireason {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: minireason <command> [--help] [--flags]\n")
        for name, (_, text) in known.items():
            print(f"  {name:<10} {text}")
        return 0 if arguments else 2
    try:
        function, config = read_command(arguments)
        function(config)
    except BrokenPipeError:           # whoever read the output has gone: __main__.py
        raise
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError | RuntimeError):
            if isinstance(error, RuntimeError) and not re.search("(out of|allocate) memory", text):
                raise
            text = f"out of memory ({text[:200]}); lower --token-budget, --n or the model's size"
        elif isinstance(error, OSError) and error.filename is None:   # of print
            text = f"standard output: {error.strerror or text}"
        abandon_folders()
        print(f"minireason: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        resumes = hasattr(config, "out") and arguments[0] not in ("bench", "eval")
        again = "; run the same command again to resume" if resumes else ""
        with contextlib.suppress(OSError):        # the terminal may be gone
            print(f"minireason: interrupted{again}", file=sys.stderr)
        return 128 + (error.args or (signal.SIGINT,))[0]
    return 0
