"""A page under a keyboard: keys pressed in headless Chromium over the DevTools protocol, on pipes."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {"Tab": 9, " ": 32, "ArrowRight": 39}
"""Codes of the keys that can be pressed."""


class Keyboard:
    """Talks to one page.

    Args:
        send: Where messages to the browser are written.
        receive: Where its answers are read.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = os.fdopen(send, "wb", 0), os.fdopen(receive, "rb")
        self._number, self._session = 0, dict[str, str]()

    def open(self, address: str) -> None:
        """Open a page as wide as a telephone, and wait until it is there."""
        target = self._ask("Target.createTarget", url="about:blank", width=400, height=800)["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self._ask("Page.enable")
        self._ask("Page.navigate", url=address)
        self._until("Page.loadEventFired")
        self._ask("Page.bringToFront")

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=KEYS[key], **text)

    def ask(self, expression: str) -> Any:
        """What a JavaScript expression gives on the page."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)[
            "result"
        ].get("value")

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._send.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "result" in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def _until(self, event: str) -> None:
        while self._read().get("method") != event:
            pass

    def _read(self) -> dict[str, Any]:
        letters = bytearray()
        while (letter := self._receive.read(1)) != b"\0":
            assert letter, "the browser is gone"
            letters += letter
        message: dict[str, Any] = json.loads(letters)
        return message


@contextmanager
def keyboard(browser: str, profile: Path) -> Iterator[Keyboard]:
    """Start a browser, which ends with the block.

    Args:
        browser: Path of Chromium.
        profile: An empty directory of its own.
    """
    their_end, send = os.pipe()
    receive, their_answer = os.pipe()
    # The protocol wants its pipes at 3 and 4: a shell puts them there.
    started = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{their_end} 4>&{their_answer}', "bash", browser, "--headless", "--no-sandbox",
         "--no-first-run", "--disable-gpu", f"--user-data-dir={profile}", "--remote-debugging-pipe"],
        pass_fds=(their_end, their_answer), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_end)
    os.close(their_answer)
    try:
        yield Keyboard(send, receive)
    finally:
        started.kill()
        started.wait()
