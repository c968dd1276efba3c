"""Chromium through chromedriver: opens pages, says when they showed what they have, and takes pictures of them."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.measure import BenchmarkFailed

SECONDS = 120.0
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--window-size=1280,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--enable-precise-memory-info",
)


class Browser:
    """A tab of a headless Chromium. A context: afterwards its processes have ended."""

    def __init__(self, folder: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            raise BenchmarkFailed("chromium or chromedriver is missing. `scripts/install.sh browser` installs both.")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self._driver = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, cwd=folder)
        url = f"http://127.0.0.1:{port}"
        until(lambda: bool(_call(f"{url}/status")["ready"]))
        options = {"binary": chromium, "args": [*_FLAGS, f"--user-data-dir={folder / 'profile'}"]}
        session = _call(f"{url}/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._session = f"{url}/session/{session['sessionId']}"
        self._tell("Emulation.setScrollbarsHidden", hidden=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        _call(self._session, method="DELETE")
        self._driver.terminate()
        self._driver.wait()

    def open(self, url: str) -> None:
        """Navigates to a page and waits until it is loaded."""
        _call(f"{self._session}/url", {"url": url})

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return _call(f"{self._session}/execute/sync", {"script": f"return {expression}", "args": []})

    def wait_for(self, expression: str) -> None:
        """Waits until an expression in the page is true. Raises BenchmarkFailed when it never is."""
        until(lambda: bool(self.ask(expression)))

    def picture(self, *, width: int, height: int, dark: bool = False, scroll_to: str = "") -> bytes:
        """What a window of that size shows, as a PNG; its top is the element of a selector, if one is given."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])
        self._tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.wait_for(f"innerWidth === {width}")
        if scroll_to:
            self.ask(f"document.querySelector({json.dumps(scroll_to)}).scrollIntoView()")
        self.ask("Promise.all(document.getAnimations().map(animation => animation.finished))")
        self.ask("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(() => resolve())))")
        return base64.b64decode(_call(f"{self._session}/screenshot"))

    def _tell(self, command: str, **params: Any) -> None:
        """A command of the DevTools protocol."""
        _call(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": params})

    def seconds_to_show(self, url: str) -> float:
        """Seconds from the navigation to a page until its body has `data-ready="yes"` and a frame was drawn."""
        self.open("about:blank")
        began = time.perf_counter()
        self.open(url)
        until(lambda: self.ask("document.body.dataset.ready") == "yes")
        self.ask("new Promise(resolve => requestAnimationFrame(() => resolve(1)))")
        return time.perf_counter() - began

    def heap_bytes(self) -> float:
        """What the script of the page holds."""
        return float(self.ask("performance.memory.usedJSHeapSize"))


def until(ready: Callable[[], bool], name: str = "Chromium") -> None:
    """Waits for something; what cannot be reached is not ready yet. Raises BenchmarkFailed when it never is."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.005)
    raise BenchmarkFailed(f"{name} did not get ready within {SECONDS:.0f} s.")


def _call(url: str, body: Any = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data=data, method=method), timeout=SECONDS) as response:
        return json.load(response)["value"]
