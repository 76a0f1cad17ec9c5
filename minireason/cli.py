"""The command line: `minireason <command> [--flags]`, flags made from the command's dataclass.

A mistake gives one line on stderr and a non-zero exit code; a traceback means a bug of ours.
"""

import contextlib
import importlib
import io
import re
import sys

import tyro

from minireason import stages
from minireason.core.config import UserError

OTHERS = {   # name: (module, its dataclass, its function, one line of help)
    "report": ("minireason.report.build", "Config", "run", "figures and report.html of a run"),
    "chat": ("minireason.chat", "Config", "run", "type problems, see answers"),
    "eval": ("minireason.evalset", "Config", "run", "a checkpoint on a frozen set or JSONL file"),
    "export": ("minireason.export", "Config", "run", "write a folder that transformers loads"),
    "import": ("minireason.export", "ImportConfig", "run_import", "read such a folder back"),
    "bench": ("minireason.studies.bench", "Config", "run", "speed beside transformers' Qwen3"),
    "ablate": ("minireason.studies.ablate", "Config", "run", "a stage, one choice changed"),
    "countdown": ("minireason.studies.stream_of_search", "Config", "run",
                  "Stream of Search or optimal paths"),
    "scale": ("minireason.studies.scaling", "Config", "run", "the scaling laws: sweeps and fits"),
    "reproduce": ("minireason.studies.lee2023", "Config", "run", "Lee 2023's addition table"),
}


def commands() -> dict[str, tuple[str, str, str, str]]:
    """{name: (module, its dataclass, its function, one line of help)}; the stages are STAGES."""
    named = {stage.name: (stage.module, "Config", "run", f"stage: {stage.help}")
             for stage in stages.STAGES if stage.command}
    return {"run": ("minireason.pipeline", "Config", "run", "all stages in order, then the report"),
            **named, **OTHERS}


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:<10} {text}" for name, (*_, text) in commands().items()]
    return "usage: minireason <command> [--help] [--flags]\n\n" + "\n".join(lines)


def parse(config_class: type, command: str, arguments: list[str]):
    """The filled dataclass; a wrong flag is a UserError of one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(config_class, prog=f"minireason {command}", args=arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        words = re.sub(r"[╭╮╰╯│─┌┐└┘]|\x1b\[[0-9;]*m", " ", errors.getvalue()).split()
        raise UserError(f"{' '.join(words)} (see minireason {command} --help)") from None


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    try:
        command, *rest = arguments
        if command not in commands():
            raise UserError(f"unknown command {command!r}; have {', '.join(commands())}")
        module_name, class_name, function, _ = commands()[command]
        module = importlib.import_module(module_name)
        getattr(module, function)(parse(getattr(module, class_name), command, rest))
    except UserError as error:
        print(f"minireason: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minireason: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
