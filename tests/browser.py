"""Headless Chromium, driven through its DevTools protocol over two pipes: no package needed."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " ")}   # code, text


class Browser:
    """One process; `open` gives pages that share no cookies, as of different people."""

    def __init__(self, profile: Path):
        there, back = os.pipe(), os.pipe()
        command = [FOUND, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--disable-dev-shm-usage", "--disable-background-networking",
                   "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        line = f'exec 3<&{there[0]} 4>&{back[1]}; exec "$@"'       # the numbers that it expects
        self.process = subprocess.Popen(["bash", "-c", line, "bash", *command],
                                        pass_fds=(there[0], back[1]), stderr=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL)
        os.close(there[0])
        os.close(back[1])
        self.commands = open(there[1], "wb", buffering=0)
        self.answers = open(back[0], "rb")
        self.number, self.events = 0, []

    def call(self, method: str, session: str = "", **arguments: object) -> dict:
        """The result of one command of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": arguments}
        if session:
            message["sessionId"] = session
        self.commands.write(json.dumps(message).encode() + b"\0")
        while True:
            text = b""
            while not text.endswith(b"\0"):
                piece = self.answers.read(1)
                assert piece, "the browser has ended"
                text += piece
            found = json.loads(text[:-1])
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def open(self, url: str, width: int = 1280, height: int = 900, **media: str) -> "Page":
        """A page in a profile of its own; media: features such as prefers_color_scheme="dark"."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, session["sessionId"])
        page.call("Runtime.enable")
        page.call("Log.enable")
        page.call("Page.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        page.call("Emulation.setEmulatedMedia", features=[
            {"name": name.replace("_", "-"), "value": value} for name, value in media.items()])
        page.call("Page.navigate", url=url)
        page.wait("document.readyState == 'complete' && location.href != 'about:blank'")
        return page

    def close(self) -> None:
        """End the process."""
        self.commands.close()
        self.process.terminate()
        self.process.wait()
        self.answers.close()


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str):
        self.browser, self.session = browser, session

    def call(self, method: str, **arguments: object) -> dict:
        """The result of one command to this page."""
        return self.browser.call(method, self.session, **arguments)

    def value(self, expression: str):
        """What JavaScript makes of an expression, as plain data."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                          awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 30.0) -> None:
        """Until an expression is true; fails with the page's text if that takes too long."""
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"))
            time.sleep(0.02)

    def press(self, key: str, times: int = 1) -> None:
        """A key of the keyboard, to whatever has the focus."""
        shift, key = key.startswith("Shift+"), key.removeprefix("Shift+")
        code, text = KEYS[key]
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key.strip() or "Space",
                          windowsVirtualKeyCode=code, modifiers=8 * shift,
                          text=text if kind == "keyDown" else "")

    def type(self, text: str) -> None:
        """Text into the field that has the focus, in place of what is selected."""
        self.call("Input.insertText", text=text)

    def complaints(self) -> list[str]:
        """What the page's console reported: exceptions, refused resources, violated policies."""
        return [str(event) for event in self.browser.events
                if event.get("sessionId") == self.session and event["method"] in (
                    "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")]

    def screenshot(self, path: Path) -> None:
        """The whole page, beyond the window too, as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip={
            "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1})
        path.write_bytes(base64.b64decode(found["data"]))
