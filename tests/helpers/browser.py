"""A headless Chromium, spoken to over two pipes in its DevTools protocol: no driver and no package is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome"
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

_START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)  # where it wants them
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One page. `requests` are the URLs that it asked for, `errors` what its scripts or its policy complained of."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._left, self._calls = send, receive, b"", 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._calls:
                assert "error" not in told, told["error"]
                result: dict[str, Any] = told["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._receive], [], [], 60)[0], "the browser is silent"
            piece = os.read(self._receive, 1 << 20)
            assert piece, "the browser has ended"
            self._left += piece
        line, _, self._left = self._left.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        params = told.get("params", {})
        if told.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        return told

    def open(self, path: Path, *, width: int = 1000, height: int = 800) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """Of JavaScript; a promise is awaited."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Escape": 27}
        for kind in ("keyDown", "keyUp"):
            known = {"windowsVirtualKeyCode": codes[key], "code": key} if key in codes else {"text": key}
            params = {"type": kind, "key": key, "modifiers": 8 if shift else 0, **known}
            self.call("Input.dispatchKeyEvent", **params)

    def mouse(self, kind: str, x: float, y: float, *, down: bool = False) -> None:
        buttons = {"button": "left", "buttons": 1, "clickCount": 1} if down else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **buttons)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """profile: an empty folder for it."""
    assert CHROMIUM is not None
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    flags = (
        "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run --disable-background-networking"
    )
    pipes = map(str, (to_read, from_write))
    command = [sys.executable, "-c", _START, *pipes, CHROMIUM, *flags.split(), f"--user-data-dir={profile}"]
    with open(profile.parent / "browser.log", "wb") as log:
        process = subprocess.Popen(command, pass_fds=(to_read, from_write), stdout=log, stderr=log)
    os.close(to_read), os.close(from_write)
    try:
        yield Page(to_write, from_read)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(to_write), os.close(from_read)
