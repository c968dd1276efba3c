"""The driver's log in the store: whose lines, how many calls, and what a store that fails does to it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from batch_pipeline.log import Facts, kept_by, of_run
from batch_pipeline.records.driver_log import FLUSH_SECONDS, MOST_FAILURES, DriverLog, newest_logged, read_driver_log
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.store import Store

LOG = logging.getLogger("batch_pipeline.run.driver")


def events(store: Store, run_id: str) -> list[str]:
    """What each line of a run's log ends with."""
    return [line.rpartition(": ")[2] for line in read_driver_log(store, run_id)]


def test_lines_wait_for_the_run_that_they_are_about(store: Store) -> None:
    with kept_by(DriverLog(store)):
        LOG.info("planned")
        of_run("")
        LOG.info("lock acquired")
        assert not store.calls
        of_run("01A")
        assert events(store, "01A") == ["planned", "lock acquired"]
        LOG.info("submitted")
    assert events(store, "01A") == ["planned", "lock acquired", "submitted"]
    assert all(" 01A " in line for line in read_driver_log(store, "01A"))


def test_a_driver_without_a_run_writes_nothing(store: Store) -> None:
    with kept_by(DriverLog(store)):
        of_run("")
        LOG.info("planned jobs=0")
    assert not store.calls


def test_a_thousand_lines_are_two_calls(store: Store) -> None:
    with kept_by(DriverLog(store, seconds=3600)):
        of_run("01A")
        LOG.info("planned")
        of_run("01A")
        for number in range(1000):
            LOG.info("submitted %s", Facts(job=number))
        LOG.info("ended")
    assert dict(store.calls) == {"put": 2}
    assert len(events(store, "01A")) == 1002


def test_each_wave_has_its_own_lines_in_its_own_run(store: Store) -> None:
    with kept_by(DriverLog(store)):
        for run_id in ("01A", "01B"):
            of_run("")
            LOG.info("planned")
            of_run(run_id)
            LOG.info("judged")
        of_run("")
        LOG.info("nothing left")
    assert events(store, "01A") == ["planned", "judged"]
    assert events(store, "01B") == ["planned", "judged", "nothing left"]


def test_an_adopted_run_is_told_who_adopted_it_and_what_came_of_it(store: Store) -> None:
    with kept_by(DriverLog(store)):
        LOG.info("adopted")
        of_run("01A")
        of_run("01B")
        LOG.info("submitted")
        assert events(store, "01A") == ["adopted"]
        LOG.info("judged")
    assert events(store, "01A") == events(store, "01B") == ["adopted", "submitted", "judged"]


def test_lines_are_there_some_seconds_after_they_were_logged_though_nobody_ends_the_block(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[tuple[float, Callable[[], None]]] = []

    class ByHand(threading.Timer):
        def start(self) -> None:
            timers.append((self.interval, self.function))

        def join(self, timeout: float | None = None) -> None:
            pass

    monkeypatch.setattr(threading, "Timer", ByHand)
    with kept_by(DriverLog(store)):
        LOG.info("planned")
        assert not timers, "nothing is written before there is a run"
        of_run("01A")
        for _ in range(100):
            LOG.info("submitted")
        ((seconds, fire),) = timers
        assert seconds == FLUSH_SECONDS
        fire()
        assert events(store, "01A") == ["planned", *["submitted"] * 100]
        LOG.info("judged")
        assert len(timers) == 2
    assert events(store, "01A")[-1] == "judged"
    assert store.calls["put"] == 3


def test_drivers_of_one_run_are_joined_by_time(store: Store) -> None:
    for driver in ("first", "second"):
        with kept_by(DriverLog(store)):
            LOG.info("%s began", driver)
            of_run("01A")
            LOG.info("%s ended", driver)
    assert events(store, "01A") == ["first began", "first ended", "second began", "second ended"]
    assert newest_logged(store) == "01A"


def test_no_secret_gets_into_the_store(store: Store) -> None:
    with kept_by(DriverLog(store)):
        LOG.info("stopped %s", Facts(error="https://me:hunter2@example.org/ says token=hunter2", password="hunter2"))
        of_run("01A")
    texts = [store.get(key).decode() for key in store.keys(layout.driver_log("01A"))]
    assert texts
    assert not [text for text in texts if "hunter2" in text]


def test_a_store_that_fails_is_told_once_given_up_and_stops_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    def put(key: str, data: bytes) -> None:
        tried.append(key)
        raise StoreFailed("No space.")

    monkeypatch.setattr(store, "put", put)
    with kept_by(DriverLog(store)):
        for _ in range(10):
            LOG.info("submitted")
            of_run("01A")
    assert len(tried) == MOST_FAILURES
    assert sum("cannot be written" in record.getMessage() for record in caplog.records) == 1


def test_what_could_not_be_written_is_in_the_next_piece(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.put
    with kept_by(DriverLog(store)):
        LOG.info("planned")
        with monkeypatch.context() as patch:
            patch.setattr(store, "put", lambda key, data: (_ for _ in ()).throw(StoreFailed("Busy.")))
            of_run("01A")
        assert store.put == real
        LOG.info("submitted")
    assert "planned" in events(store, "01A")
    assert events(store, "01A")[-1] == "submitted"
