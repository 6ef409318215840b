"""A real browser: Chromium without a window, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

WAIT_S = 60.0
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

KEYS = {
    "Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), "Space": (32, " "), "ArrowLeft": (37, ""), "ArrowRight": (39, ""),
}  # fmt: skip
"""Name -> its code on a keyboard, and what it types."""


class Tab:
    """One page, in a window of its own.

    Attributes:
        requests: address of everything that was asked for.
        complaints: what the console says that is a warning or worse, exceptions too.
    """

    def __init__(self, browser: Browser, target: str, address: str) -> None:
        self._browser, self._target = browser, target
        self._loop = browser.loop
        self._number = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._socket = self._loop.run_until_complete(
            browser.session.ws_connect(address, max_msg_size=1 << 28)
        )
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What DevTools answers to a command."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), WAIT_S))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                answer: dict[str, Any] = message["result"]
                return answer
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method: str | None, said: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([value.get("value") for value in said["args"]]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def go(self, url: str) -> None:
        """Open a page, and wait until all of it is there."""
        self.call("Page.navigate", url=url)
        self.wait(
            "document.body !== null && document.readyState === 'complete' && location.protocol !== 'about:'",
            url,
        )

    def ask(self, script: str) -> Any:
        """The value of an expression, or of what it promises."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, script: str, what: str = "", timeout_s: float = WAIT_S) -> Any:
        """Ask until the answer is true."""
        until = time.monotonic() + timeout_s
        while not (value := self.ask(script)):
            assert time.monotonic() < until, (
                f"waited for {what or script}; the page says: {self.text()[:2000]}"
            )
            time.sleep(0.05)
        return value

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.ask("document.body.innerText"))

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key, as a keyboard sends it."""
        code, typed = KEYS[key]
        common = {
            "key": " " if key == "Space" else key,
            "code": key,
            "windowsVirtualKeyCode": code,
            "modifiers": 8 if shift else 0,
        }
        self.call("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", text=typed, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Text into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def tab_to(self, script: str, most: int = 60) -> None:
        """Press Tab until an expression is true of the focused element, `f`."""
        for _ in range(most):
            self.press("Tab")
            if self.ask(f"(f => {script})(document.activeElement)"):
                return
        raise AssertionError(f"{most} tabs did not lead to {script}")

    def show_as(
        self, width: int, height: int, *, dark: bool = False, scale: float = 1, phone: bool = False
    ) -> None:
        """Take a window's size, and the reader's colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """What it looks like, as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Close the window."""
        self._loop.run_until_complete(self._socket.close())
        self._browser.ask(f"/json/close/{self._target}")


class Browser:
    """Chromium, until it is closed.

    Args:
        folder: for its profile.
    """

    def __init__(self, folder: Path) -> None:
        import aiohttp

        if PROGRAM is None:
            pytest.skip("a real browser needs chromium: apt install chromium")
        self._process = subprocess.Popen(
            [
                PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
                f"--user-data-dir={folder / 'profile'}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.loop = asyncio.new_event_loop()
        self.session: Any = None
        try:
            told = folder / "profile" / "DevToolsActivePort"
            until = time.monotonic() + WAIT_S
            while not (told.exists() and told.read_text().count("\n")):
                assert time.monotonic() < until, "Chromium did not start"
                assert self._process.poll() is None, "Chromium ended"
                time.sleep(0.02)
            self._port = int(told.read_text().split()[0])
            self.session = self.loop.run_until_complete(_session(aiohttp))
        except BaseException:
            self.close()
            raise

    def ask(self, path: str, method: str = "GET") -> str:
        """What DevTools says at a path."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            text: str = answer.read().decode()
        return text

    @contextlib.contextmanager
    def tab(self) -> Iterator[Tab]:
        """A window that knows nothing yet."""
        made = json.loads(self.ask("/json/new?about:blank", "PUT"))
        tab = Tab(self, made["id"], made["webSocketDebuggerUrl"])
        try:
            yield tab
        finally:
            tab.close()

    def close(self) -> None:
        """End it; safe to call twice."""
        if self.session is not None:
            self.loop.run_until_complete(self.session.close())
            self.session = None
        self.loop.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _session(aiohttp: Any) -> Any:
    return aiohttp.ClientSession()
