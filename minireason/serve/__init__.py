"""`minireason serve`: a page, for this machine alone, on which a policy thinks and answers."""

import socket
from dataclasses import dataclass

from minireason.core.errors import UserError
from minireason.serve import answers


@dataclass(frozen=True)
class Config(answers.Config):
    """A page at http://127.0.0.1:PORT until Ctrl-C; how it answers can be changed there."""

    port: int = 8000
    waiting: int = 16             # questions under way at most; more at once are refused

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.port < 2 ** 16:
            raise UserError(f"--port {self.port}: must be 1 to {2 ** 16 - 1}")


def run(cfg: Config) -> None:
    """Serve until Ctrl-C; UserError if the extra or a folder is missing, or the port is taken."""
    try:
        from minireason.serve.server import make_server
    except ImportError as error:
        if error.name not in ("anyio", "starlette", "uvicorn"):
            raise
        raise UserError("serve: needs starlette and uvicorn; pip install 'minireason[web]'"
                        ) from None
    who = answers.load_answerer(cfg, judged=True)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", cfg.port))
            listener.listen()         # from now on, who connects waits
        except OSError as error:
            raise UserError(f"--port {cfg.port}: cannot listen there ({error.strerror}); choose "
                            "another one") from None
        print(f"{who}: http://127.0.0.1:{cfg.port}   (Ctrl-C ends it)", flush=True)
        make_server(who, cfg, cfg.waiting).run([listener])
