"""A Spot instance's notice reaches a pilot as TERM, by the metadata service's own protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from batch_pipeline.pool.pilots.notice import ENDPOINT_VARIABLE, NoticeWatch
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import TaskSpec, TaskState


class Service(ThreadingHTTPServer):
    """The metadata service of an instance (version 2: with a token), on loopback."""

    daemon_threads = True
    #: Looks that find nothing before the notice; each token is good for so many looks.
    quiet_looks = 0
    looks_a_token = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.looks = self.tokens = self.refused = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_PUT(self) -> None:
        wanted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.server.tokens += bool(wanted)
        self._answer(200 if wanted else 400, f"token-{self.server.tokens}")

    def do_GET(self) -> None:
        good = self.server.looks // self.server.looks_a_token + 1
        if self.headers["X-aws-ec2-metadata-token"] != f"token-{good}":
            self.server.refused += 1
            self._answer(401, "")
            return
        self.server.looks += 1
        is_there = self.path == "/latest/meta-data/spot/instance-action" and self.server.looks > self.server.quiet_looks
        self._answer(200 if is_there else 404, '{"action": "terminate", "time": "2026-11-20T10:02:00Z"}')

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    thread = Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(Service()) as found:
        monkeypatch.setenv(ENDPOINT_VARIABLE, found.url)
        yield found


def test_it_looks_until_there_is_a_notice(service: Service) -> None:
    service.quiet_looks = 3
    noticed, told = Event(), list[str]()
    with NoticeWatch(noticed.set, tell=told.append, look_seconds=0.01):
        assert noticed.wait(20)
    assert (service.looks, service.tokens, told) == (4, 1, ["AWS is about to take this Spot instance away."])


def test_a_token_that_is_over_is_asked_for_anew(service: Service) -> None:
    service.quiet_looks, service.looks_a_token = 3, 2
    noticed = Event()
    with NoticeWatch(noticed.set, tell=print, look_seconds=0.01):
        assert noticed.wait(20)
    assert (service.looks, service.tokens, service.refused) == (4, 2, 1)


def test_without_an_instance_it_says_so_and_looks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Service()) as gone:
        monkeypatch.setenv(ENDPOINT_VARIABLE, gone.url)
    told, said = list[str](), Event()

    def tell(text: str) -> None:
        told.append(text)
        said.set()

    with NoticeWatch(lambda: told.append("noticed"), tell=tell):
        assert said.wait(20)
    assert told == [f"No instance metadata answers at {gone.url}: no notice of a Spot instance will be heard."]


@pytest.mark.engine
def test_a_pilot_gives_back_what_it_holds(service: Service, tmp_path: Path) -> None:
    pool = SqliteStore(tmp_path / "pool.sqlite")
    pool.add([TaskSpec(id="long", shell=f"touch {tmp_path}/begun; sleep 600")], now_ms=0)
    service.quiet_looks = 1_000_000
    command = [sys.executable, "-m", "batch_pipeline", "pool", "work", "--spot-notice"]
    environment = {**os.environ, "BATCH_PIPELINE__POOL__URL": f"sqlite://{tmp_path}/pool.sqlite"}
    pilot = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert pilot.poll() is None
        Event().wait(0.01)
    service.quiet_looks = 0
    _, said = pilot.communicate(timeout=60)
    assert (pilot.returncode, "take this Spot instance away" in said) == (143, True)
    task = pool.get("long")
    assert task
    assert (task.state, task.attempts, task.returns) == (TaskState.TODO, 0, 1)
    pool.close()
