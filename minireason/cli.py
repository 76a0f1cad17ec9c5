"""The command line: `minireason <command> [--flags]`, flags made from the command's dataclass.

A mistake gives one line on stderr and a non-zero exit code; a traceback means a bug of ours.
"""

import contextlib
import importlib
import io
import re
import sys

import tyro

from minireason.core.config import UserError

COMMANDS = {   # name: (module, config dataclass, one line of help)
    "run": ("minireason.pipeline", "Config", "all stages in order, then the report"),
    "pretrain": ("minireason.stages.pretrain", "Config", "stage 1: a base model"),
    "sft": ("minireason.stages.sft", "Config", "stage 2: chain-of-thought fine-tuning"),
    "star": ("minireason.stages.star", "Config", "stage 3: self-taught rationales"),
    "rl": ("minireason.stages.rl", "Config", "stage 4: reinforcement learning by verifier"),
    "critic": ("minireason.stages.critic", "Config", "stage 5: a learned judge"),
    "revise": ("minireason.stages.revise", "Config", "a policy that withdraws its errors"),
    "flywheel": ("minireason.stages.flywheel", "Config", "search, keep, retrain, repeat"),
    "testtime": ("minireason.stages.testtime", "Config", "stage 6: vote, best-of-N"),
    "search": ("minireason.stages.guided_search", "Config",
               "beam and tree search at equal tokens"),
    "report": ("minireason.report.build", "Config", "figures and report.html of a run"),
    "chat": ("minireason.chat", "Config", "type expressions, see answers"),
    "eval": ("minireason.evalset", "Config", "a checkpoint on a frozen set or a JSONL file"),
    "export": ("minireason.export", "Config", "write a folder that transformers loads"),
    "import": ("minireason.export", "ImportConfig", "read such a folder back"),
    "bench": ("minireason.studies.bench", "Config", "speed beside transformers' Qwen3"),
    "ablate": ("minireason.studies.ablate", "Config",
               "a stage with one choice changed, over seeds"),
    "countdown": ("minireason.studies.stream_of_search", "Config",
                  "Stream of Search or optimal paths"),
    "scale": ("minireason.studies.scaling", "Config",
              "the scaling laws: sweeps, fits, figures"),
    "reproduce": ("minireason.studies.lee2023", "Config", "Lee 2023's addition table"),
}
FUNCTIONS = {"export": "run_export", "import": "run_import"}   # all others are called run


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:<10} {text}" for name, (_, _, text) in COMMANDS.items()]
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
        if command not in COMMANDS:
            raise UserError(f"unknown command {command!r}; have {', '.join(COMMANDS)}")
        module_name, class_name, _ = COMMANDS[command]
        module = importlib.import_module(module_name)
        config = parse(getattr(module, class_name), command, rest)
        getattr(module, FUNCTIONS.get(command, "run"))(config)
    except UserError as error:
        print(f"minireason: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minireason: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
