"""The server behind the page: who may ask, who thinks when, and what a browser is told.

The browser gets the events of a question as they happen (server-sent events). One thread thinks, a
piece of a thought at a time, in turn for all who asked; who goes away is not thought about any
further; questions beyond `waiting` at once are refused with 503. A request that names another host
or comes from another site's page is refused, so no site open in the same browser can ask.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from secrets import token_urlsafe

import anyio
import uvicorn
from anyio import from_thread, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from minireason.core.config import from_dict, rng
from minireason.core.errors import UserError
from minireason.core.files import parsed
from minireason.report.build import MARKS
from minireason.serve import answers, questions
from minireason.serve.questions import Event, Question

MOST_BYTES = 20_000               # of a question
PATIENCE = 10.0                   # seconds that it may take to arrive


def make_server(who: answers.Answerer, cfg: answers.Config, waiting: int) -> uvicorn.Server:
    """The server, which listens on the socket that it is given to `run`.

    waiting: questions under way at most, the one that is thought about included.
    """
    settings = uvicorn.Config(Starlette(), http="h11", ws="none", lifespan="off", access_log=False,
                              log_level="warning", server_header=False,
                              timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    settings.app = Starlette(
        routes=[Route("/", page_endpoint(who, cfg)),
                Route("/answer", Answers(who, cfg, waiting, lambda: server.should_exit),
                      methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, www_redirect=False,
                               allowed_hosts=["127.0.0.1", "localhost"])])
    return server


def page_endpoint(who: answers.Answerer, cfg: answers.Config) -> Callable[[Request], Response]:
    """What answers GET /: the page, which may load nothing and talk to nobody but this server."""
    examples = {level: who.family.sample(rng(cfg.seed, "serve", level), level).prompt
                for level in who.family.LEVELS}
    example = examples[who.family.LEVELS[len(examples) // 4]]
    template = questions.TEMPLATES.get_template("serve_page.html.j2")

    def page(_request: Request) -> Response:
        nonce = token_urlsafe(16)
        policy = ("default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
                  "form-action 'none'; frame-ancestors 'none'; "
                  f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'")
        text = template.render(who=who, cfg=cfg, examples=examples, example=example, nonce=nonce,
                               marks=MARKS, modes=answers.MODES,
                               most_samples=questions.MOST_SAMPLES)
        return HTMLResponse(text, headers={
            "Content-Security-Policy": policy, "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"})

    return page


class Answers:
    """The ASGI application that takes a question in JSON and streams what happens."""

    def __init__(self, who: answers.Answerer, cfg: answers.Config, waiting: int,
                 stopping: Callable[[], bool]):
        self.who, self.cfg, self.waiting, self.stopping = who, cfg, waiting, stopping
        self.thinker = anyio.CapacityLimiter(1)     # one thread thinks; the others wait in line
        self.under_way = 0                          # questions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await read_question(Request(scope, receive))
        if self.under_way >= self.waiting:
            raise HTTPException(503, f"{self.under_way} questions are being answered; please ask "
                                     "again in a few seconds", {"Retry-After": "5"})
        self.under_way += 1
        try:
            with closing(questions.events_of(self.who, self.cfg, asked, self.check)) as events:
                response = await self.respond(events)
                await response(scope, receive, send)
        finally:
            self.under_way -= 1

    async def respond(self, events: Iterator[Event]) -> Response:
        """The stream of events, or one line if the question is none that can be answered."""
        try:
            first = await self.next_of(events)
        except UserError as error:
            return PlainTextResponse(str(error), 400)
        return StreamingResponse(self.stream(first, events), media_type="text/event-stream",
                                 headers={"Cache-Control": "no-store"})

    async def stream(self, event: Event | None, events: Iterator[Event]) -> AsyncIterator[str]:
        """This event and the following ones as text; a UserError is the last one."""
        try:
            while event and not self.stopping():
                yield f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n"
                event = await self.next_of(events)
        except UserError as error:
            yield f"event: error\ndata: {json.dumps({'text': str(error)})}\n\n"

    async def next_of(self, events: Iterator[Event]) -> Event | None:
        """The next event, as soon as it is this question's turn to think; None after the last."""
        return await to_thread.run_sync(next, events, None, limiter=self.thinker)

    def check(self) -> None:
        """During long work, in the thread that thinks: ends it if nobody waits for its result."""
        from_thread.check_cancelled()
        if self.stopping():
            raise UserError("the server is stopping")


async def read_question(request: Request) -> Question:
    """What a request asks; HTTPException of one sentence if it may not ask, or asks nothing."""
    origin, body = request.headers.get("origin"), b""
    if origin not in (None, f"http://{request.headers['host']}"):
        raise HTTPException(403, "only this server's own page may ask")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "a question is JSON, of Content-Type application/json")
    with anyio.move_on_after(PATIENCE) as patience:
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BYTES:
                raise HTTPException(413, f"a question has at most {MOST_BYTES:,} bytes, its "
                                         f"problem {questions.MOST_LETTERS:,} characters")
    if patience.cancelled_caught:
        raise HTTPException(408, f"the question did not arrive within {PATIENCE:g} seconds")
    try:
        values = parsed(body.decode(errors="replace"), "the question")
        return from_dict(Question, values if isinstance(values, dict) else {})
    except UserError as error:
        raise HTTPException(400, str(error)) from None
