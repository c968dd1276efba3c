"""Logs of attempts that only CloudWatch has, and cells that somebody cancels, on a virtual AWS Batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from batch_pipeline import backends
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.hosts.scripted import Script
from batch_pipeline.records.request import Request
from batch_pipeline.run.cancel import cancel
from batch_pipeline.run.logs import logs
from batch_pipeline.run.search import logs_of, search
from batch_pipeline.run.status import status
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store
from tests.run import small
from tests.run.small import SAMPLES
from tests.run.virtual import OUT_OF_MEMORY, SPOT, Attempt, Death, World


def request_of(store: Store, **settings: object) -> Request:
    """Its driver looks every half a minute, as attempts take one."""
    told = {"watch.poll_seconds": 30, **{key.replace("__", "."): value for key, value in settings.items()}}
    return small.request_of(store, settings=load_settings(told, environ={}))


class Talking(World):
    """Its attempts write so many lines to CloudWatch, and no container leaves a log in the store."""

    lines = 3

    def _play(self, environment: Mapping[str, str], command: Sequence[str]) -> Script:
        script = super()._play(environment, command)
        attempt = environment.get(Variable.ATTEMPT, "1")
        return replace(script, log="".join(f"line {number} of attempt {attempt}\n" for number in range(self.lines)))


def world_of(store: Store, monkeypatch: pytest.MonkeyPatch, play: object) -> Talking:
    world = Talking(store, play)  # type: ignore[arg-type]
    monkeypatch.setattr(backends, "create", lambda settings: world.backend())
    return world


def told(store: Store, sample: str, step: str | None = None, **more: object) -> list[tuple[int, str]]:
    lines = logs(store, request_of(store).settings, sample, step, **more)  # type: ignore[arg-type]
    return [(line.attempt, line.text) for line in lines]


def test_every_attempt_of_a_reclaimed_cell_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(attempt: Attempt) -> Death | None:
        return SPOT if (attempt.step, attempt.sample) == ("upper", "bob") and attempt.attempt < 3 else None

    world = world_of(store, monkeypatch, play)
    (run_id,) = world.drive(request_of(store)).run_ids
    store.put(layout.log(run_id, "upper", "bob", 3), b"as the store has it\n")

    assert told(store, "bob", "upper") == [(3, "as the store has it")]
    assert told(store, "bob", "upper", attempt=2) == [(2, f"line {number} of attempt 2") for number in range(3)]
    assert [line for line in told(store, "bob", "upper", all_attempts=True) if "line 0" in line[1] or line[0] == 3] == [
        (1, "line 0 of attempt 1"),
        (2, "line 0 of attempt 2"),
        (3, "as the store has it"),
    ]


def test_a_log_of_many_pages_is_told_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(store, monkeypatch, lambda attempt: OUT_OF_MEMORY if attempt.sample == "bob" else None)
    world.lines = 25_000
    request = request_of(store, recovery__rounds=0)
    world.drive(request)
    before = world.calls()

    found = told(store, "bob", "upper")

    assert [text for _, text in found] == [f"line {number} of attempt 1" for number in range(25_000)]
    assert (world.calls() - before)["GetLogEvents"] >= 3
    lines = search(store, request.settings, logs_of(store, failed=True), None)
    assert sum(line.sample == "bob" for line in lines) == 25_000


def test_the_backend_is_asked_when_the_stores_copies_are_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(store, monkeypatch, lambda attempt: None)
    world.drive(request_of(store))

    assert told(store, "ann", "count")[0] == (1, "line 0 of attempt 1")
    with pytest.raises(InvalidUse, match="no log of sample zoe"):
        told(store, "zoe")


def test_samples_are_cancelled_among_their_running_siblings(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(store, monkeypatch, lambda attempt: None)
    world.drive(request_of(store), detach=True)
    world.batch.advance(5)

    said = cancel(store, request_of(store).settings, samples=frozenset({"bob"}))
    world.batch.run_until_idle()
    found = status(request_of(store))

    assert [(one.step, one.cells, one.size) for one in said] == [("count", 1, 3), ("upper", 1, 3)]
    assert {(a.step, a.sample) for a in world.attempts} == {
        *(("upper", name) for name in SAMPLES),
        ("count", "ann"),
        ("count", "cid"),
    }
    assert {cell.sample: cell.reason.value for cell in found.failed if cell.step in ("upper", "count")} == {
        "bob": "cancelled"
    }
    assert [step.line for step in found.progress.values()][:2] == ["2/3 done, 1 cancelled"] * 2
    assert world.drive(request_of(store)).ok, "the next command does the rest"


def test_what_is_cancelled_while_a_driver_watches_is_not_sent_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[str] = []

    def play(attempt: Attempt) -> Death | None:
        if attempt.step == "count" and not orders:
            orders.append(attempt.sample)
            cancel(store, request_of(store).settings, steps=frozenset({"count"}), samples=frozenset({"bob"}))
        return None

    world = world_of(store, monkeypatch, play)
    outcome = world.drive(request_of(store))

    assert {(cell.step, cell.sample): cell.reason.value for cell in outcome.failed} == {
        ("count", "bob"): "cancelled",
        ("total", layout.COHORT): "dependency",
    }
    assert not outcome.ok
