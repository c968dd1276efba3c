"""The service's log: a line for each decision, and no secret in any of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_pipeline import log
from batch_pipeline.access.service.limits import Limiter
from batch_pipeline.access.service.serve import make_guarded, serve
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.wire.errors import StoreFailed
from tests.access.service.lab import ALICE, Lab

Lines = Callable[[], list[str]]
_HEAD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +- access\.(?P<rest>.*)")


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    """What is logged, without time and level."""
    before = list(log.LOGGER.handlers), log.LOGGER.level, log.LOGGER.propagate
    log.set_up()
    file = tmp_path / "service.log"
    with log.also_to(file):
        yield lambda: [match["rest"] for line in file.read_text().splitlines() if (match := _HEAD.fullmatch(line))]
    log.LOGGER.handlers, log.LOGGER.level, log.LOGGER.propagate = before


def _one(lines: Lines, event: str) -> str:
    (line,) = [line for line in lines() if line.partition(": ")[2].startswith(f"{event} ")]
    return line


def test_a_launch_is_logged_with_who_what_and_the_job(lab: Lab, lines: Lines) -> None:
    client = lab.client(None, app=make_guarded(lab.settings, MemoryBackend(), insecure_user=ALICE))
    answer = client.post("/runs", json=lab.ask()).json()
    admitted = _one(lines, "admitted")
    assert admitted.startswith(f"admission: admitted user={ALICE} dataset=fusions level=test")
    launched = _one(lines, "launched")
    assert launched.startswith(f"launching: launched run={answer['run_id']} job=fusions-{answer['run_id']}-driver")
    assert f"native_id={answer['native_id']} queue=test user={ALICE} dataset=fusions level=test" in launched
    answered = _one(lines, "answered")
    assert "method=POST path=/runs status=201 decision=allowed" in answered
    assert f"user={ALICE} run={answer['run_id']}" in answered


def test_a_refusal_is_logged_with_its_reasons_and_launches_nothing(lab: Lab, lines: Lines) -> None:
    lab.client().post("/runs", json=lab.ask(output_dir="..", description=" "))
    refused = _one(lines, "refused")
    assert refused.startswith(f"admission: refused user={ALICE} dataset=fusions level=test")
    assert "--output-dir '..'" in refused
    assert "--description: It is empty" in refused
    assert not [line for line in lines() if "launched" in line or "admitted" in line]
    assert "status=400 decision=refused" in _one(lines, "answered")


def test_a_refused_token_is_logged_without_the_token(lab: Lab, lines: Lines) -> None:
    token = lab.issuer.token(aud="another")
    lab.client(token).get("/runs")
    assert "for another service" in _one(lines, "token refused")
    assert not [line for line in lines() for part in token.split(".") if part in line]


def test_who_is_throttled_is_logged(lab: Lab, lines: Lines) -> None:
    app = lab.app(users=Limiter(1))
    for _ in range(2):
        lab.client(app=app).get("/runs")
    assert f"user={ALICE} seconds=" in _one(lines, "throttled")
    app = lab.app(per_minute=1)
    for _ in range(2):
        lab.client(app=app).get("/runs")
    assert any("throttled" in line and "address=127.0.0.1" in line for line in lines())


def test_a_password_in_a_request_is_in_no_line(lab: Lab, lines: Lines) -> None:
    lab.client().post("/runs", json=lab.ask(repository="https://me:hunter2@example.org/code", commit="main"))
    assert _one(lines, "refused")
    assert not [line for line in lines() if "hunter2" in line]


def test_an_audit_log_that_cannot_be_written_is_logged(lab: Lab, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, **values: object) -> None:
        raise StoreFailed("The audit log cannot be written (No space left on device). Fix server.audit.")

    monkeypatch.setattr("batch_pipeline.access.service.audit.AuditLog.write", full)
    lab.client().get("/runs")
    assert any("No space left on device" in line for line in lines())


def test_start_and_stop_are_logged(lab: Lab, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_pipeline.backends.create", lambda settings: MemoryBackend())
    monkeypatch.setattr("uvicorn.run", lambda app, **options: None)
    serve(lab.settings, insecure_user=ALICE)
    assert f"insecure_user={ALICE}" in _one(lines, "started")
    assert "host=127.0.0.1" in _one(lines, "stopped")
