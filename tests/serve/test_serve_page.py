"""The page in a real browser: narrow and wide, by keyboard alone, two at once; and Ctrl-C."""

import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from browser import FOUND, Browser

from minireason.serve import Config, answers
from minireason.serve.server import make_server

IN_BROWSER = pytest.mark.skipif(not FOUND, reason="NOT CHECKED: no Chromium was found")
FREE = "!document.getElementById('send').disabled && document.querySelector('.said')"
NARROW, WIDE = 360, 1440          # pixels


@pytest.fixture(scope="module")
def address(ladder):
    cfg = Config(str(ladder), device="cpu")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = make_server(answers.load_answerer(cfg, judged=True), cfg, cfg.waiting)
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def focus(page) -> str:
    """What has the focus: an id, or a tag."""
    return page.value("document.activeElement.id || document.activeElement.tagName")


def in_front(browser, address):
    """The page once its first field has the focus, which it takes when it is drawn."""
    page = browser.open(address)
    page.call("Page.bringToFront")
    page.wait("document.activeElement.id == 'problem'")
    return page


def fill(page, **values: object) -> None:
    """Set fields as a person would, without the keyboard."""
    for name, value in values.items():
        page.value(f"document.getElementById('{name}').value = '{value}';"
                   f"document.getElementById('{name}').dispatchEvent(new Event('change')); 0")


def ask(page, **values: object) -> str:
    """Ask and wait for the answer; the line that says it."""
    page.value("document.getElementById('turns').replaceChildren(); 0")
    fill(page, **values)
    page.value("document.getElementById('send').click(); 0")
    page.wait(FREE)
    return page.value("document.querySelector('.said').innerText")


@IN_BROWSER
@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_wide_nothing_is_cut_and_all_is_labelled(browser, address, width, scheme):
    page = browser.open(address, width, 800, prefers_color_scheme=scheme)
    ask(page, problem="((2+3)*2)-4", n=16, tree=8)
    page.value("document.querySelectorAll('details').forEach(d => d.open = true); 0")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    cut = page.value("""[...document.querySelectorAll('main *')].filter(e => !e.closest('.tree')
        && e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 80))""")
    assert cut == []
    assert page.value("""[...document.querySelectorAll('input, select')].every(
        e => e.labels.length === 1 && e.labels[0].innerText.trim())""")
    assert page.value("document.querySelectorAll('.samples > li').length") == 16
    assert page.value("document.querySelectorAll('.samples .chosen').length") == 1
    assert page.value("document.querySelectorAll('.tree circle').length") > 1
    assert page.value("document.querySelectorAll('.outline li').length") == page.value(
        "document.querySelectorAll('.tree circle').length")
    dark = page.value("getComputedStyle(document.body).backgroundColor") != "rgb(253, 253, 253)"
    assert dark == (scheme == "dark")
    assert page.complaints() == []


@IN_BROWSER
def test_the_thought_is_folded_and_its_steps_are_coloured(browser, address):
    page = browser.open(address, prefers_reduced_motion="reduce")
    said = ask(page, problem="((2+3)*2)-4")
    assert not page.value("document.querySelector('.thought').open")
    assert "right" in said or "wrong" in said or "no answer" in said
    page.value("document.getElementById('unfold').click(); 0")
    ask(page, problem="7-4")
    assert page.value("document.querySelector('.thought').open")
    colours = page.value("""['right', 'wrong', 'withdrawn'].map(mark => { showSteps(
        {steps: document.querySelector('.thought ol')}, [['1+1=2', mark]]);
        const style = getComputedStyle(document.querySelector('.thought li'));
        return style.color + style.textDecorationLine; })""")
    assert len(set(colours)) == 3 and "line-through" in colours[2]
    assert page.value("document.querySelector('.thought ol').ariaLive") == "polite"
    moving = page.value("""document.querySelector('.thought p').className = 'under-way',
        getComputedStyle(document.querySelector('.under-way'), '::after').animationName""")
    assert moving == "none"


@IN_BROWSER
def test_by_keyboard_alone(browser, address):
    page = in_front(browser, address)
    page.press("Tab")
    page.press("Shift+Tab")                        # back, which selects what stands there
    page.type("(2+3)*2")
    page.press("Enter")
    page.wait(FREE)
    assert page.value("document.querySelector('h2').innerText") == "((2+3)*2)="
    assert page.value("document.getElementById('status').innerText").startswith("Answer: ")
    order = []
    for _ in range(7):
        page.press("Tab")
        order.append(focus(page))
    assert order == ["n", "temperature", "think", "tree", "unfold", "send", "SUMMARY"]
    page.press("Enter")
    assert page.value("document.querySelector('.thought').open")
    outlined = page.value("getComputedStyle(document.activeElement).outlineStyle")
    assert outlined == "solid"
    page.press("Shift+Tab", 6)
    page.type("4")
    page.press("Tab")
    assert page.value("document.getElementById('temperature').value") == "1"   # so that they differ
    page.press("Enter")
    page.wait("document.querySelectorAll('.samples > li').length == 4")


@IN_BROWSER
def test_escape_stops_a_thought(browser, address, monkeypatch):
    going = threading.Event()

    def long(*_):
        for _ in range(3000):
            going.wait(0.01)
            yield "token", {"text": "2+3", "tokens": 1}

    monkeypatch.setattr(answers, "answer_events", long)
    page = in_front(browser, address)
    page.press("Enter")
    page.wait("document.querySelector('.under-way')?.innerText == '2+3' || "
              "document.querySelector('.under-way code')?.textContent == '2+3'")
    assert page.value("document.getElementById('send').disabled")
    page.press("Escape")
    page.wait("document.getElementById('status').innerText == 'Stopped.'")
    assert page.value("!document.getElementById('send').disabled")


@IN_BROWSER
def test_what_is_refused_is_said_and_nothing_typed_is_markup(browser, address):
    page = browser.open(address)
    for text in ("2+x", "<img src=x onerror=alert(1)>"):
        fill(page, problem=text)
        page.value("document.getElementById('send').click(); 0")
        page.wait("document.querySelector('.turn .wrong') && "
                  "!document.getElementById('send').disabled")
        said = page.value("document.getElementById('status').innerText")
        assert said.startswith(f"Not answered: cannot read '{text}'")
    assert page.value("document.querySelectorAll('main img, details').length") == 0


@IN_BROWSER
def test_two_people_at_once_each_get_their_own(browser, address):
    pages = [browser.open(address) for _ in range(2)]
    prompts = ["(((2+3)*2)-4)=", "(((9-3)*2)+5)="]
    for page, prompt in zip(pages, prompts, strict=True):
        fill(page, problem=prompt, n=16)
        page.value("document.getElementById('send').click(); 0")
    for page, prompt in zip(pages, prompts, strict=True):
        page.wait(FREE)
        assert page.value("document.querySelector('h2').innerText") == prompt
        assert page.value("document.querySelectorAll('.samples > li').length") == 16


def test_control_c_ends_it_at_once_while_it_answers(ladder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "minireason", "serve", "--run", str(ladder), "--device", "cpu",
               "--port", str(port)]
    url = f"http://127.0.0.1:{port}/"
    body = b'{"problem": "(2+3)*2", "n": 64, "temperature": 1, "tree": 64}'
    question = urllib.request.Request(f"{url}answer", body, {"Content-Type": "application/json"})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)   # the background ignores it
    server = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    try:
        assert f"{ladder}/star answers, {ladder}/critic judges" in server.stdout.readline()
        with (urllib.request.urlopen(url, timeout=60) as page,
              socket.create_connection(("127.0.0.1", port)),
              urllib.request.urlopen(question, timeout=60) as busy):
            assert b"<title>" in page.read() and busy.readline()
            server.send_signal(signal.SIGINT)
            assert server.wait(120) == 130
    finally:
        server.kill()
        _, said = server.communicate()
    assert "minireason: interrupted" in said.splitlines()          # there is nothing to resume
