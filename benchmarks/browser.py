"""Chromium through chromedriver: opens pages, and says when they showed what they have."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
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
        self._until(lambda: bool(_call(f"{url}/status")["ready"]))
        options = {"binary": chromium, "args": [*_FLAGS, f"--user-data-dir={folder / 'profile'}"]}
        session = _call(f"{url}/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._session = f"{url}/session/{session['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        _call(self._session, method="DELETE")
        self._driver.terminate()
        self._driver.wait()

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return _call(f"{self._session}/execute/sync", {"script": f"return {expression}", "args": []})

    def seconds_to_show(self, url: str) -> float:
        """Seconds from the navigation to a page until its body has `data-ready="yes"` and a frame was drawn."""
        _call(f"{self._session}/url", {"url": "about:blank"})
        began = time.perf_counter()
        _call(f"{self._session}/url", {"url": url})
        self._until(lambda: self.ask("document.body.dataset.ready") == "yes")
        self.ask("new Promise(resolve => requestAnimationFrame(() => resolve(1)))")
        return time.perf_counter() - began

    def heap_bytes(self) -> float:
        """What the script of the page holds."""
        return float(self.ask("performance.memory.usedJSHeapSize"))

    def _until(self, ready: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                if ready():
                    return
            except OSError:
                pass
            time.sleep(0.005)
        raise BenchmarkFailed(f"Chromium did not get ready within {SECONDS:.0f} s.")


def _call(url: str, body: Any = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data=data, method=method), timeout=SECONDS) as response:
        return json.load(response)["value"]
