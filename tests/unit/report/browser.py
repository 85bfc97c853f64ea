"""A page in headless Chromium: looked at, typed on and printed over the DevTools protocol, on pipes."""

import base64
import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.launch import PATIENCE

_KEYS = {"Tab": (9, ""), " ": (32, " "), "Enter": (13, "\r"), "ArrowRight": (39, "")}
"""Keys that can be pressed: the code of each, and what it types."""
PAPER = (717, 1045)
"""What A4 leaves between a browser's own margins, in pixels."""
_A4, _MARGIN = (8.27, 11.69), 0.4  # inches


class Browser:
    """Shows one page at a time.

    Args:
        send: Where messages to the browser are written.
        receive: Where its answers are read.

    Attributes:
        console: What the page's console said, refusals and exceptions among it.
        asked: Every address that the page asked for, answered or not; what it holds itself (`data:`) is none.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._letters = os.fdopen(send, "wb", 0), receive, b""
        self._number, self._session = 0, dict[str, str]()
        self.console, self.asked = list[str](), list[str]()

    def open(self, page: Path, width: int) -> None:
        """Open a page in a fresh tab, and wait until all of it is there."""
        if self._session:
            self._ask("Page.close")
        self._session = {}
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        self._ask("Emulation.setFocusEmulationEnabled", enabled=True)
        self.resize(width, 800)
        self.console, self.asked = [], []
        self._ask("Page.navigate", url=page.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass
        self.asked.remove(page.as_uri())
        self.ask(Path(__file__).with_name("probe.js").read_text(encoding="utf-8"))

    def resize(self, width: int, height: int) -> None:
        """Give the page a window of this many pixels."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def show(self, scheme: str = "light", media: str = "screen") -> None:
        """Show the page as someone sees it who prefers a colour scheme, or on paper (`print`)."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", media=media, features=features)

    def press(self, key: str) -> None:
        """Press and release a key."""
        code, text = _KEYS[key]
        typed = {"text": text} if text else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **typed)
        self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, x: float, y: float) -> None:
        """Press and release the mouse at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def ask(self, expression: str) -> Any:
        """What a JavaScript expression gives on the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def printed(self) -> bytes:
        """The page as a PDF file, on A4."""
        margins = {f"margin{side}": _MARGIN for side in ("Top", "Bottom", "Left", "Right")}
        answer = self._ask("Page.printToPDF", paperWidth=_A4[0], paperHeight=_A4[1], **margins)
        return base64.b64decode(answer["data"])

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._send.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "result" in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._letters:
            assert select.select([self._receive], [], [], PATIENCE)[0], "the browser hangs"
            letters = os.read(self._receive, 1 << 20)
            assert letters, "the browser is gone"
            self._letters += letters
        text, _, self._letters = self._letters.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._hear(message.get("method"), message.get("params", {}))
        return message

    def _hear(self, event: str | None, params: dict[str, Any]) -> None:
        if event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(params))
        if event == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.asked.append(params["request"]["url"])


@contextmanager
def started(chromium: str, profile: Path) -> Iterator[Browser]:
    """Start a browser, which ends with the block. It finds no host, whatever a page asks for.

    Args:
        chromium: Its path.
        profile: An empty directory of its own.
    """
    their_end, send = os.pipe()
    receive, their_answer = os.pipe()
    # The protocol wants its pipes at 3 and 4: a shell puts them there.
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{their_end} 4>&{their_answer}', "bash", chromium, "--headless", "--no-sandbox",
         "--no-first-run", "--disable-gpu", "--disable-smooth-scrolling", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={profile}", "--remote-debugging-pipe"],
        pass_fds=(their_end, their_answer), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_end)
    os.close(their_answer)
    try:
        yield Browser(send, receive)
    finally:
        process.kill()
        process.wait()
        os.close(receive)
