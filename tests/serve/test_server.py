"""The page's server: what it answers, whom it refuses, and that nobody's going away costs it."""

import gc
import http.client
import json
import os
import socket
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from minireason import chat, cli
from minireason.core.errors import UserError
from minireason.serve import Config, answers, questions
from minireason.serve.server import make_server

HEADERS = {"Content-Type": "application/json"}


@contextmanager
def serving(who: answers.Answerer, cfg: Config):
    """A server in a thread of its own; yields its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = make_server(who, cfg, cfg.waiting)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            while not server.started:
                time.sleep(0.01)
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def cfg(ladder) -> Config:
    return Config(str(ladder), device="cpu", seed=3)


@pytest.fixture(scope="module")
def who(cfg) -> answers.Answerer:
    return answers.load_answerer(cfg, judged=True)


@pytest.fixture(scope="module")
def port(who, cfg):
    with serving(who, cfg) as port:
        yield port


def send(port: int, body: bytes | str, path: str = "/answer", method: str = "POST",
         headers: dict | None = None) -> tuple[int, str, http.client.HTTPMessage]:
    """(status, text, headers) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, HEADERS if headers is None else headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text, response.headers


def events(text: str) -> list[tuple[str, dict]]:
    """The events of a stream."""
    found = []
    for event in text.split("\n\n")[:-1]:
        kind, data = event.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def ask(port: int, problem: str, **question: object) -> list[tuple[str, dict]]:
    """The events of an answered question."""
    status, text, _ = send(port, json.dumps({"problem": problem, **question}))
    assert status == 200, text
    return events(text)


def begin(port: int, problem: str = "2+3") -> tuple[socket.socket, bytes]:
    """A connection on which an answer has begun, and what has come of it."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    body = json.dumps({"problem": problem}).encode()
    connection.sendall(b"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                       b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    begun = b""
    while b"event: token" not in begun:
        begun += connection.recv(4096)
    return connection, begun


class Slow:
    """In place of answers.answer_events: a long thought, until `enough` is set."""

    def __init__(self, monkeypatch):
        self.enough, self.pieces, self.ended = threading.Event(), Counter(), Counter()
        monkeypatch.setattr(answers, "answer_events", self)

    def __call__(self, _who, _cfg, line, _number, _pauses):
        try:
            while not self.enough.wait(0.005) and self.pieces[line] < 3000:    # no test hangs
                self.pieces[line] += 1
                yield "token", {"text": line, "tokens": self.pieces[line]}
        finally:
            self.ended[line] += 1

    def wait_for_end(self, line: str) -> None:
        """Until nobody thinks about the line; fails if that takes long."""
        for _ in range(1000):
            if self.ended[line]:
                return
            time.sleep(0.01)
        raise AssertionError(f"{line}: still thought about")


def test_the_page_says_who_answers_and_loads_nothing(port, ladder):
    status, text, headers = send(port, "", "/", "GET", {})
    assert status == 200 and f"{ladder}/star" in text and f"{ladder}/critic" in text
    assert "http" not in text.replace("https://", "http").partition("<body>")[0]
    policy = headers["Content-Security-Policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert "default-src 'none'" in policy and text.count(f'nonce="{nonce}"') == 2
    assert nonce not in send(port, "", "/", "GET", {})[1]
    assert "Access-Control-Allow-Origin" not in headers


def test_the_page_answers_what_chat_answers(port, who, cfg):
    for number, question in enumerate(({}, {"n": 4, "temperature": 1.0}, {"think": "never"})):
        found = ask(port, "(2+3)*2", number=number, **question)
        own = chat.Config(cfg.run, device="cpu", seed=3, **question)
        assert dict(found)["answer"] == chat.think_visibly(who, own, "(2+3)*2", number)
        assert [kind for kind, _ in found][-2:] == ["answer", "end"]


def test_one_sample_is_streamed_token_by_token(port):
    found = ask(port, "(2+3)*2")
    counts = [data["tokens"] for kind, data in found if kind == "token"]
    assert found[0] == ("problem", {"prompt": "((2+3)*2)=", "most": 64})
    assert len(counts) > 2 and max(b - a for a, b in pairwise(counts[:-1])) == 1


def test_a_tree_is_searched_within_its_budget_and_is_a_picture_and_a_list(port):
    found = dict(ask(port, "(2+3)*2", n=4, temperature=1, tree=8))
    sizes = [len(sample["text"]) for sample in found["answer"]["samples"]]
    tree = found["tree"]
    assert 0 < tree["tokens"] <= 8 * max(sizes) and tree["steps"] > 1
    assert "<svg" in tree["picture"] and "<li><code>((2+3)*2)=</code>" in tree["picture"]


@pytest.mark.parametrize(("body", "status", "said"), [
    ({"problem": "2+x"}, 400, "cannot read '2+x': write a chain"),
    ({"problem": ""}, 400, "cannot read ''"),
    ({"problem": "1+" * 50_000}, 413, "at most 20,000 bytes"),
    ({"problem": "1+" * 600}, 400, "the problem has 1,200 characters; at most 1,000"),
    ({"problem": "(" * 500 + "2" + "+3)" * 100}, 400, "cannot read"),
    ({"problem": "\ud800<script>"}, 400, "cannot read '"),
    ({"problem": "2+3", "n": 10 ** 6}, 400, "samples: 1,000,000; must be 1 to 64"),
    ({"problem": "2+3", "n": 0}, 400, "samples: 0; must be"),
    ({"problem": "2+3", "tree": 65}, 400, "samples of the tree: 65"),
    ({"problem": "2+3", "n": 2}, 400, "several samples need --temperature above 0"),
    ({"problem": "2+3", "temperature": float("nan")}, 400, "--temperature nan: must be"),
    ({"problem": "2+3", "think": "long"}, 400, "--think long: must be one of always"),
    ({"problem": 5}, 400, "problem must be str"),
    ({"problem": "2+3", "n": "1"}, 400, "n must be int"),
    ({"problem": "2+3", "run": "/"}, 400, "unknown fields ['run']"),
    ([1], 400, "missing fields ['problem']"),
])
def test_what_cannot_be_asked_is_refused_in_one_line(port, body, status, said):
    found, text, _ = send(port, json.dumps(body))
    assert found == status and said in text and "\n" not in text and len(text) < 400


def test_bytes_that_are_no_json_are_refused_in_one_line(port):
    for body in (b"{", b"\xff\xfe", b"[" * 5000, b'{"problem": 1' + b"0" * 5000 + b"}"):
        status, text, _ = send(port, body)
        assert status == 400 and "\n" not in text and "question: not valid JSON" in text


@pytest.mark.parametrize(("headers", "status"), [
    ({"Host": "evil.example"}, 400), ({"Host": "127.0.0.1.evil.example"}, 400),
    ({"Host": "localhost:1"}, 200), ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403), ({"Origin": "http://localhost:1", "Host": "localhost:1"}, 200),
    ({"Content-Type": "text/plain"}, 415)])
def test_only_its_own_page_may_ask(port, headers, status):
    assert send(port, '{"problem": "2+3"}', headers=HEADERS | headers)[0] == status


def test_a_question_that_does_not_arrive_is_not_waited_for(port, monkeypatch):
    monkeypatch.setattr("minireason.serve.server.PATIENCE", 0.1)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                           b"application/json\r\nContent-Length: 9\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_fifty_at_once_are_answered_or_refused_politely(who, cfg):
    found = []
    with serving(who, cfg) as port:
        def one(number: int) -> None:
            found.append(send(port, json.dumps({"problem": "(2+3)*2", "number": number})))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ask(port, "2+3")[-1] == ("end", {})             # and it has recovered
    assert len(found) == 50 and sum(status == 200 for status, _, _ in found) >= cfg.waiting
    for status, text, headers in found:
        if status == 200:
            assert events(text)[-1] == ("end", {})
        else:
            assert status == 503 and int(headers["Retry-After"]) > 0
            assert "please ask again" in text


def test_beyond_those_who_wait_all_are_refused_and_later_answered(who, cfg, monkeypatch):
    slow = Slow(monkeypatch)
    with serving(who, Config(cfg.run, device="cpu", waiting=2)) as port:
        first, second = begin(port)[0], begin(port)[0]
        status, text, headers = send(port, '{"problem": "2+3"}')
        assert status == 503 and headers["Retry-After"] == "5" and "2 questions are" in text
        slow.enough.set()
        for connection in (first, second):
            while b"event: end" not in connection.recv(4096):
                pass
            connection.close()
        assert ask(port, "2+3") == [("end", {})]


def test_two_at_once_are_thought_about_in_turn(port, monkeypatch):
    slow = Slow(monkeypatch)
    (one, _), (two, begun) = begin(port, "2+3"), begin(port, "4+5")
    before = dict(slow.pieces)
    while min(slow.pieces[line] - before[line] for line in before) < 5:
        time.sleep(0.01)                           # both get on while both are under way
    assert b"4+5" in begun and b"2+3" not in begun
    one.close()
    two.close()
    for line in ("2+3", "4+5"):
        slow.wait_for_end(line)


def test_nobody_is_thought_about_who_has_gone(port, monkeypatch):
    slow = Slow(monkeypatch)
    begin(port)[0].close()
    slow.wait_for_end("2+3")
    pieces = slow.pieces["2+3"]
    slow.enough.set()
    assert ask(port, "2+3") == [("end", {})] and slow.pieces["2+3"] == pieces


def test_a_tree_search_ends_with_who_asked_for_it(port, monkeypatch):
    asked = []

    def values(_critic, _tokenizer, rows):
        asked.append(len(rows))
        time.sleep(0.02)
        return [0.5] * len(rows)

    monkeypatch.setattr(questions, "prefix_values", values)
    body = json.dumps({"problem": "(2+3)*2", "tree": 64}).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(b"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                       b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    while not asked:
        time.sleep(0.01)
    connection.close()
    assert ask(port, "2+3")[-1] == ("end", {})     # as soon as the thread is free again
    calls = len(asked)
    ask(port, "(2+3)*2", tree=64)
    assert calls < (len(asked) - calls) / 2


def test_it_stops_while_it_answers(who, cfg, monkeypatch):
    slow = Slow(monkeypatch)
    with serving(who, cfg) as port:
        connection, _ = begin(port)
    slow.wait_for_end("2+3")                       # `serving` has seen the server end
    connection.close()


def resident() -> int:
    """Bytes of memory that this process occupies, as Linux says it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
def test_memory_stays_flat(port):
    def ask_many(times: int) -> int:
        for number in range(times):
            found = ask(port, "2+3", number=number, think="never", tree=number % 2)
            assert found[-1] == ("end", {})
        gc.collect()
        return resident()

    before = ask_many(20)                          # what is kept for ever is kept now
    tracemalloc.start()
    try:
        after = ask_many(200)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 200_000                          # bytes: not a kilobyte per question
    assert after - before < 50e6                   # tensors too; tracemalloc's own records as well


def test_every_mistake_is_one_line_and_exit_code_2(ladder, tmp_path, capsys, monkeypatch):
    def said(*flags: str) -> str:
        assert cli.main(["serve", "--device", "cpu", *flags]) == 2
        return capsys.readouterr().err.removeprefix("minireason: error: ").removesuffix("\n")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        found = said("--run", str(ladder), "--port", number)
        assert found.startswith(f"--port {number}: cannot listen there (Address already in use)")
    assert "neither a run folder" in said("--run", str(tmp_path))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.safetensors").write_bytes(b"no weights")
    assert str(damaged) in said("--checkpoint", str(damaged))
    assert "no such folder" in said("--run", str(ladder), "--critic", str(tmp_path / "none"))
    for port in ("0", "65536"):
        assert "--port" in said("--port", port)
    monkeypatch.delitem(cli.sys.modules, "minireason.serve.server")
    monkeypatch.setitem(cli.sys.modules, "uvicorn", None)
    assert said() == "serve: needs starlette and uvicorn; pip install 'minireason[web]'"


def test_a_page_without_a_critic_offers_no_tree(ladder):
    own = Config(str(ladder / "pretrain"), device="cpu")
    with serving(answers.load_answerer(own, judged=True), own) as port:
        assert "(needs a critic)" in send(port, "", "/", "GET", {})[1]
        status, text, _ = send(port, '{"problem": "2+3", "tree": 4}')
        assert status == 400 and text == "a tree search needs a critic, and this run has none"


def test_errors_after_the_first_event_are_the_last_event(port, monkeypatch):
    def broken(*_):
        yield "problem", {"prompt": "2+3"}
        raise UserError("too long")

    monkeypatch.setattr(answers, "answer_events", broken)
    assert ask(port, "2+3")[-1] == ("error", {"text": "too long"})
