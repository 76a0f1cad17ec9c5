"""What a shell starts, as `minireason` or `python -m minireason`: cli.main, made safe for a shell.

It imports the rest inside of `start`, so that Ctrl-C during the imports is answered, too.
"""

import io
import os
import re
import sys
import traceback

TRACEBACK = "MINIREASON_TRACEBACK"     # set: a bug shows where it happened


def start() -> int | str:
    """Run the command line; returns the exit code: 0, 2 for a mistake, 1 for a bug of ours.

    130 after Ctrl-C, 141 when the reader of the output has gone, as of `| head -1`.
    """
    try:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:          # closed by the caller; in this order, the
                setattr(sys, name, open(os.devnull, mode))   # lowest free number is its own
                os.set_inheritable(getattr(sys, name).fileno(), True)      # as a worker's, too
        for stream in (sys.stdin, sys.stdout, sys.stderr):   # bytes that are no text: escaped
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        from minireason.cli import main
        try:
            code = main()
        except SystemExit as stop:                  # --help; a chat with unreadable lines
            code = stop.code or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("minireason: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):     # what is left in them has no reader
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    except OSError as error:                        # standard output on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"minireason: error: standard output: {error.strerror}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = [(frame.filename, frame.lineno),
                 *re.findall(r'File "(.+)", line (\d+)', str(error.__cause__))][-1]   # a worker's
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(f"minireason: error: {text} ({os.path.basename(place[0])}, line "
              f"{place[1]}): a bug of ours; please report it with what {TRACEBACK}=1 shows",
              file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(start())
