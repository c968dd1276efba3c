"""A run is told from its driver's log alone: throttling, a killed driver, an adopted array, a recovered cell."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.records.driver_log import DriverLog, read_driver_log
from batch_pipeline.run import live, submit
from batch_pipeline.run.lock import LEASE_SECONDS, DriverLock
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, BatchPipelineError, StoreFailed, SubmissionUnknown
from batch_pipeline.wire.store import Store
from tests.run.small import Ear, Stage, chosen, drive, look, request_of
from tests.run.virtual import OUT_OF_MEMORY, Attempt, Death, World

LINE = re.compile(r"(\S+Z) (\w+) +(\S+) ([\w.]+): (.*)")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two looks."""
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(submit, "LOOK_SECONDS", 0.0)


def log_of(store: Store, run_id: str) -> list[tuple[str, str]]:
    """Logger and message of each line, the run and the form checked."""
    found = []
    for line in read_driver_log(store, run_id):
        parts = LINE.fullmatch(line)
        assert parts is not None, line
        assert parts[3] == run_id
        found.append((parts[4], parts[5]))
    return found


def events(store: Store, run_id: str) -> list[str]:
    """What happened, without the facts."""
    return [message.split("=")[0].rpartition(" ")[0] for _, message in log_of(store, run_id)]


def facts(store: Store, run_id: str, event: str) -> list[dict[str, str]]:
    """The facts of each line of an event."""
    messages = [message for _, message in log_of(store, run_id) if message.startswith(f"{event} ")]
    return [
        {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S+)', message)} for message in messages
    ]


def test_an_ordinary_run_is_told_in_order(store: Store, stage: Stage) -> None:
    (run_id,) = drive(request_of(store), stage).run_ids
    assert events(store, run_id) == [
        "driver began",
        *["planned"] * 3,
        "lock acquired",
        "recorded",
        *["submitted"] * 3,
        "lock released",
        *["judged"] * 3,
        "indexed",
        "driver ended",
    ]
    assert {logger for logger, _ in log_of(store, run_id)} == {
        "records.event_log",
        "run.closing",
        "run.lock",
        "run.submit",
        "run.verdict",
    }
    assert facts(store, run_id, "planned")[0] == {"step": "upper", "jobs": "1", "to_run": "3"}
    (first, *_) = facts(store, run_id, "submitted")
    assert first["job"] == "upper-0-0"
    assert first["native_id"] in stage.jobs
    assert first["size"] == "3"
    assert facts(store, run_id, "judged")[0] == {"step": "upper", "of": run_id, "done": "3", "failed": "0"}


def test_a_command_with_nothing_to_do_writes_nothing(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    before = {entry.key: entry.etag for entry in store.list("")}
    store.calls.clear()
    drive(request_of(store), stage)
    look(request_of(store), stage)
    assert set(store.calls) == {"list"}
    assert {entry.key: entry.etag for entry in store.list("")} == before


def test_the_log_of_any_number_of_jobs_is_two_calls(store: Store) -> None:
    stage = Stage(store, limits=replace(AWS_BATCH, max_array_size=2))
    (run_id,) = drive(request_of(store, *(f"s{number}" for number in range(40))), stage).run_ids
    assert events(store, run_id).count("submitted") > 40
    # One when the run is recorded, one at its end; and one every few seconds on a slow machine.
    pieces = len(list(store.keys(layout.driver_log(run_id))))
    assert 2 <= pieces <= 2 + 10


def test_what_stops_a_submission_is_told_without_secrets(store: Store, stage: Stage) -> None:
    words = "AWS took no job (https://me:hunter2@proxy says password=hunter2 AKIAIOSFODNN7EXAMPLE)."
    stage.fail_next(BackendFailed(words))
    with pytest.raises(BatchPipelineError):
        drive(request_of(store), stage)
    (run_id,) = store.folders(layout.RUNS)
    assert facts(store, run_id, "driver stopped")[0]["error"] == "BackendFailed"
    assert "AWS took no job" in facts(store, run_id, "driver stopped")[0]["message"]
    text = "".join(read_driver_log(store, run_id))
    assert "hunter2" not in text
    assert "AKIA" not in text


def test_deferred_blocked_and_failed_cells_are_told(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(sample == "bob")
    first, second = drive(request_of(store, **chosen(min_success=0.6)), stage).run_ids
    assert facts(store, first, "deferred")[0]["step"] == "total"
    assert facts(store, first, "judged")[0]["step_failed"] == "1"
    assert facts(store, first, "judged")[1]["dependency"] == "1"
    assert facts(store, second, "submitted")[0]["job"] == "total"


@pytest.mark.parametrize("queued", [True, False])
def test_a_job_in_doubt_is_told_with_what_became_of_it(store: Store, stage: Stage, queued: bool) -> None:
    stage.fail_next(SubmissionUnknown("Nobody knows."), queued=queued)
    (run_id,) = drive(request_of(store), stage).run_ids
    at = events(store, run_id).index("in doubt")
    assert events(store, run_id)[at + 1 : at + 3] == ["looked up in doubt", "submitted"]
    assert facts(store, run_id, "looked up in doubt")[0]["result"] == ("queued" if queued else "not queued, sent again")


def test_a_lease_that_is_renewed_and_a_lock_that_is_taken_over_are_told(store: Store, stage: Stage) -> None:
    now = [time.time() - LEASE_SECONDS - 1]
    DriverLock(store, clock=lambda: now[0]).take()
    (run_id,) = drive(request_of(store), stage).run_ids
    (over,) = facts(store, run_id, "lock taken over")
    assert over["number"] == "2"
    assert over["because"] == "its lease is over"


def test_a_log_that_fails_fails_no_run(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.put

    def put(key: str, data: bytes) -> None:
        if "/driver/" in key:
            raise StoreFailed("No space.")
        real(key, data)

    monkeypatch.setattr(store, "put", put)
    outcome = drive(request_of(store), stage)
    assert outcome.ok
    assert not read_driver_log(store, outcome.run_ids[0])


class Killed(BaseException):
    """The process is gone."""


class Kills:
    """Kills the driver as SIGKILL would after its n-th submission: nothing of what unwinds takes effect."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.world, self.left = world, after
        self.patch = monkeypatch

    def drive(self, request: Any) -> None:
        """One command that does not survive; its log's timer has fired once, as after some seconds."""
        backend = self.world.backend()
        real, store, logs = backend.submit, self.world.store, []
        opened = DriverLog.__init__

        def begins(log: DriverLog, *args: Any, **more: Any) -> None:
            opened(log, *args, **more)
            logs.append(log)

        def submits(job: JobRequest) -> str:
            self.left -= 1
            if not self.left:
                logs[0]._on_time()
            native_id = real(job)
            if not self.left:
                for name in ("put", "put_if_absent", "delete"):
                    patch.setattr(store, name, self._dead)
                raise Killed
            return native_id

        with self.patch.context() as patch:
            patch.setattr(DriverLog, "__init__", begins)
            patch.setattr(backend, "submit", submits)
            patch.setattr(self.world, "backend", lambda: backend)
            with pytest.raises((Killed, BatchPipelineError)):
                self.world.drive(request)
        # Another process had the lock, and is gone.
        for key in store.keys(layout.DRIVER):
            store.put_json(key, store.get_json(key) | {"birth": "0"})

    def _dead(self, *_: Any) -> bool:
        raise StoreFailed("A process that was killed writes nothing.")


class Throttles:
    """Faults at the border: the first of three calls to SubmitJob is one too many."""

    seen = 0

    def before(self, request: ApiRequest) -> None:
        if request.operation == "SubmitJob":
            self.seen += 1
            if self.seen % 3 == 1:
                raise ApiError("Too Many Requests", code="TooManyRequestsException", status=429)

    def after(self, request: ApiRequest, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


def test_a_bad_day_is_told_from_the_logs_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(attempt: Attempt) -> Death | None:
        hungry = (attempt.step, attempt.sample) == ("upper", "bob") and attempt.memory_mb < 2000
        return OUT_OF_MEMORY if hungry else None

    world = World(store, play)
    monkeypatch.setattr(time, "sleep", lambda seconds: world.batch.advance(max(seconds, 0.001)))
    world.batch.faults = Throttles()
    request = request_of(store, settings=load_settings({"watch.poll_seconds": 30}, environ={}))
    Kills(world, monkeypatch, after=2).drive(request)
    (dead,) = store.folders(layout.RUNS)
    left = events(store, dead)
    assert left[:2] == ["driver began", "planned"]
    assert "submitted" in left
    assert "throttled" in left
    assert "driver ended" not in left

    outcome = world.drive(request, Ear())
    assert outcome.ok
    own = [run_id for run_id in outcome.run_ids if run_id != dead]
    told: Mapping[str, list[dict[str, str]]] = {
        event: [found for run_id in own for found in facts(store, run_id, event)]
        for event in (
            "throttled",
            "slowed down",
            "retried",
            "lock taken over",
            "looked up in doubt",
            "adopted",
            "recovered",
        )
    }
    assert {event: bool(found) for event, found in told.items()} == dict.fromkeys(told, True)
    assert told["throttled"][0]["error"].startswith("TooManyRequestsException")
    assert told["lock taken over"][0]["because"] == "its process is gone"
    assert told["looked up in doubt"][0]["job"] == "count-0-0"
    assert told["looked up in doubt"][0]["of"] == dead
    assert [(found["of"], found["job"]) for found in told["adopted"]] == [(dead, "upper-0-0"), (dead, "count-0-0")]
    assert told["recovered"][0] == {"step": "upper", "cells": "1", "reason": "out_of_memory", "memory_mb": "2048"}
    # The log of the dead driver's run leads to what became of it.
    assert [found["of"] for found in facts(store, dead, "adopted")] == [dead, dead]
    assert "judged" in events(store, dead)
