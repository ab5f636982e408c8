"""A real browser without a window, driven through the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)


class Page:
    """One open page."""

    def __init__(self, connection: WebSocketClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection, self._loop = connection, loop
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        """URLs that the page asked for."""
        self.errors: list[str] = []
        """What was thrown or refused."""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        return self._loop.run_until_complete(self._call(method, params))

    def goto(self, url: str) -> None:
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 30.0) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise AssertionError(f"never became true: {expression}; {self.errors}")
            time.sleep(0.1)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press and release a key, as its name and Windows' number."""
        text = {"text": "\r"} if key == "Enter" else {}  # what makes a browser take what was typed
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def drag(self, corners: Sequence[tuple[float, float]]) -> None:
        """Move the mouse along corners with its button down."""
        (x, y), *others = corners
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
        for to_x, to_y in others:
            for step in range(1, 11):
                at = {"x": x + (to_x - x) * step / 10, "y": y + (to_y - y) * step / 10}
                self.call("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **at)
            x, y = to_x, to_y
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._connection.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = await asyncio.wait_for(self._connection.read_message(), 60)
            if message is None:
                raise AssertionError("the browser is gone")
            event = json.loads(message)
            if event.get("id") == number:
                assert "error" not in event, event
                return dict(event["result"])
            self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])


@contextmanager
def browser(width: int = 1280, height: int = 1000) -> Iterator[Page]:
    """A page in a fresh Chromium; skips, naming it, where none is installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (Debian's package `chromium`)")
    folder = tempfile.mkdtemp(prefix="chromium-")
    command = [program, *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # tornado asks for it where no loop runs
    surroundings = {**os.environ, "TMPDIR": folder}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=surroundings) as process:
        try:
            connection = loop.run_until_complete(_connect(Path(folder)))
            yield Page(connection, loop)
            connection.close()
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            process.terminate()
            process.wait(20)
            asyncio.set_event_loop(None)
            loop.close()
            shutil.rmtree(folder, ignore_errors=True)


async def _connect(folder: Path) -> WebSocketClientConnection:
    port_file, end = folder / "DevToolsActivePort", time.monotonic() + 60
    while not port_file.exists() or not port_file.read_text().strip():
        if time.monotonic() > end:
            raise AssertionError("chromium did not start")
        await asyncio.sleep(0.1)
    port = port_file.read_text().split()[0]
    client = AsyncHTTPClient(force_instance=True)
    try:
        pages = json.loads((await client.fetch(f"http://127.0.0.1:{port}/json")).body)
    finally:
        client.close()
    url = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
    return await websocket_connect(url, max_message_size=2**28)
