"""What holds for every test: clean environment, own home, no network but loopback, same examples, no process left.

obstore's sockets are Rust's and not caught here; no test names a store outside this machine.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.examples import use_the_same_examples_every_time
from tests.leftovers import MARK, Watch, at_the_end

use_the_same_examples_every_time()

_SCRUBBED = ("BATCH_PIPELINE", "AWS_", "LUIGI_", "XDG_", "BATCH_FILE_", "COUCHDB_", "NETRC")


@pytest.fixture(scope="session", autouse=True)
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """No process outlives the session. First of all fixtures: what the others start is ended before."""
    watch = Watch(tmp_path_factory.getbasetemp())
    os.environ[MARK] = watch.mark
    yield watch
    at_the_end.close()
    watch.check(at_the_end=True)


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left(watch: Watch) -> Iterator[None]:
    """No process outlives the tests of its file, but what is kept for the session."""
    yield
    watch.check(at_the_end=False)


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New empty folders. `mktemp` would look through all that it made before, for each of thousands of tests."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def _clean_environment(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _homes: Iterator[Path], watch: Watch
) -> None:
    """No setting of whoever runs the tests reaches them, and nothing of theirs reaches the home of that person."""
    for name in list(os.environ):
        if name.startswith(_SCRUBBED) and name != "BATCH_PIPELINE_ARTIFACTS":
            monkeypatch.delenv(name)
    home = next(_homes)
    home.mkdir()
    watch.homes[str(home)] = request.node.nodeid
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    # botocore would ask the metadata service of a cloud machine for credentials.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """What may not run side by side must be told to the processes that share the tests out."""
    shared_out = getattr(session.config.option, "loadgroup", False)
    if shared_out and any(item.get_closest_marker("xdist_group") and "@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("Groups of tests are not kept together: this pytest-xdist does not fit this pytest.")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine in no test."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse_remote(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_remote(self, address)
        return connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)


def _refuse_remote(opened: socket.socket, address: Any) -> None:
    if opened.family not in (socket.AF_INET, socket.AF_INET6) or _is_loopback(str(address[0])):
        return
    raise RuntimeError(f"A test wants to connect to {address}; only loopback is allowed.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture
def page() -> Iterator[Callable[[int], str]]:
    """Starts servers on loopback that answer whatever is asked with a web page: `page(200)` is the URL of one."""
    begun = []

    def begin(status: int) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Page", (_Page,), {"status": status}))
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        begun.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield begin
    for server in begun:
        server.shutdown()
        server.server_close()


class _Page(BaseHTTPRequestHandler):
    """The sign-in page of a network."""

    protocol_version = "HTTP/1.1"
    status = 200

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<!DOCTYPE html>\n<html><head><title>Welcome to the airport</title></head></html>"
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def root() -> Path:
    """The folder of the repository."""
    return Path(__file__).resolve().parent.parent
