"""Who may submit: one driver at a time."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.records.people import user_name
from batch_pipeline.run.lock import LEASE_SECONDS, DriverLock
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.store import Store, open_store


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lock(store: Store, clock: Clock) -> Callable[[], DriverLock]:
    return lambda: DriverLock(store, clock=clock)


def records(store: Store) -> list[dict[str, Any]]:
    return [store.get_json(entry.key) for entry in store.list("driver")]


def pretend(store: Store, number: int, **changes: Any) -> None:
    """Changes what a holder's record says."""
    key = f"driver/{number:012d}.json"
    store.put_json(key, store.get_json(key) | changes)


def test_a_second_driver_is_refused_with_the_holders_name(lock: Callable[[], DriverLock]) -> None:
    lock().take()

    with pytest.raises(RunConflict, match=f"process {os.getpid()} of .* on .* is submitting"):
        lock().take()


def test_a_released_lock_is_free(lock: Callable[[], DriverLock], store: Store) -> None:
    first = lock()
    first.take()
    first.release()

    assert lock().take()

    assert len(records(store)) == 1


def test_take_tells_whether_somebody_held_it_since(lock: Callable[[], DriverLock]) -> None:
    mine = lock()
    seen = mine.newest()
    other = lock()
    other.take()
    other.release()

    assert not mine.take(seen=seen)
    mine.release()
    assert lock().take(seen=mine.newest())


def test_take_tells_of_one_who_held_it_when_it_was_looked_at_and_let_go_since(lock: Callable[[], DriverLock]) -> None:
    """What was read of the store meanwhile is without that driver's last jobs."""
    other, mine = lock(), lock()
    other.take()
    seen = mine.newest()
    other.release()

    assert not mine.take(seen=seen)


def test_take_tells_of_one_who_died_with_it(lock: Callable[[], DriverLock], clock: Clock) -> None:
    """It may have sent a job between the look and its end."""
    mine = lock()
    lock().take()
    seen = mine.newest()
    clock.now += LEASE_SECONDS + 1

    assert not mine.take(seen=seen)


def test_a_lease_that_is_over_is_taken_from_a_silent_holder(lock: Callable[[], DriverLock], clock: Clock) -> None:
    lock().take()
    clock.now += LEASE_SECONDS + 1

    assert lock().take()


def test_a_holder_that_was_replaced_finds_out_and_stops(lock: Callable[[], DriverLock], clock: Clock) -> None:
    slow = lock()
    slow.take()
    clock.now += LEASE_SECONDS + 1
    lock().take()

    with pytest.raises(RunConflict, match="Another driver took over"):
        slow.renew()


def test_a_replaced_holder_that_ends_does_not_free_the_lock_of_the_other(
    lock: Callable[[], DriverLock], clock: Clock
) -> None:
    slow = lock()
    slow.take()
    clock.now += LEASE_SECONDS + 1
    lock().take()

    slow.release()

    with pytest.raises(RunConflict):
        lock().take()


def test_renewing_lengthens_the_lease_at_its_half_and_costs_nothing_before(
    lock: Callable[[], DriverLock], clock: Clock, store: Store
) -> None:
    holder = lock()
    holder.take()
    calls = store.calls.total()
    clock.now += LEASE_SECONDS / 2 - 1
    holder.renew()
    assert store.calls.total() == calls

    clock.now += 2
    holder.renew()
    clock.now += LEASE_SECONDS - 1

    with pytest.raises(RunConflict):
        lock().take()


def test_a_holder_whose_process_is_gone_from_this_machine_is_replaced(
    lock: Callable[[], DriverLock], store: Store
) -> None:
    lock().take()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    pretend(store, 1, pid=gone.pid)
    mine = lock()

    assert not mine.take(seen=mine.newest()), "who died cannot say until when it submitted"


def test_a_holder_that_has_ended_and_that_nobody_reaped_is_replaced(
    lock: Callable[[], DriverLock], store: Store
) -> None:
    lock().take()
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{ended.pid}/stat")
    pretend(store, 1, pid=ended.pid, birth=stat.read_text().rpartition(")")[2].split()[19])
    with pytest.raises(RunConflict):
        lock().take()
    os.kill(ended.pid, signal.SIGKILL)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays there as a zombie
    mine = lock()
    try:
        assert not mine.take(seen=mine.newest())
    finally:
        ended.communicate()


def test_another_process_with_the_dead_ones_number_does_not_hold_it(
    lock: Callable[[], DriverLock], store: Store
) -> None:
    lock().take()
    pretend(store, 1, birth="1")
    mine = lock()

    assert not mine.take(seen=mine.newest())


def test_a_process_of_another_machine_is_never_taken_for_dead(lock: Callable[[], DriverLock], store: Store) -> None:
    lock().take()
    pretend(store, 1, boot="another", birth="1")

    with pytest.raises(RunConflict):
        lock().take()


def test_of_two_that_take_the_same_number_one_wins(lock: Callable[[], DriverLock], store: Store) -> None:
    """The other wrote between this one's look and its write."""
    mine, other = lock(), lock()
    real = store.put_if_absent

    def late(key: str, data: bytes) -> bool:
        store.put_if_absent = real  # type: ignore[method-assign]
        other.take()
        return real(key, data)

    store.put_if_absent = late  # type: ignore[method-assign]
    with pytest.raises(RunConflict, match="just now"):
        mine.take()
    other.renew()


def test_one_that_slept_while_two_others_came_and_went_does_not_win(
    lock: Callable[[], DriverLock], store: Store
) -> None:
    """The number that it wants is free again; a higher one is held."""
    mine, other, third = lock(), lock(), lock()
    real = store.put_if_absent

    def late(key: str, data: bytes) -> bool:
        store.put_if_absent = real  # type: ignore[method-assign]
        other.take()
        other.release()
        third.take()
        return real(key, data)

    store.put_if_absent = late  # type: ignore[method-assign]
    with pytest.raises(RunConflict, match="just now"):
        mine.take()
    with pytest.raises(RunConflict, match="is submitting"):
        lock().take()


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_of_many_at_once_exactly_one_wins(store: Store, tmp_path: Path, kind: str) -> None:
    place = store if kind == "memory" else open_store(str(tmp_path))
    start = threading.Barrier(8)
    won: list[int] = []

    def race(number: int) -> None:
        start.wait()
        try:
            DriverLock(place).take()
        except RunConflict:
            return
        won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert len(list(place.list("driver"))) == 1


def test_records_that_a_dead_driver_had_no_time_to_remove_are_removed(
    lock: Callable[[], DriverLock], store: Store
) -> None:
    first = lock()
    first.take()
    first.release()
    store.put_json("driver/000000000002.json", records(store)[0])

    assert lock().take()

    assert [entry.key for entry in store.list("driver")] == ["driver/000000000003.json"]


def test_releasing_what_was_not_taken_writes_nothing(lock: Callable[[], DriverLock], store: Store) -> None:
    lock().release()

    assert not store.calls["put"]


def test_releasing_again_does_not_bring_back_a_record_that_another_removed(
    lock: Callable[[], DriverLock], store: Store
) -> None:
    first = lock()
    first.take()
    first.release()
    lock().take()

    first.release()

    assert [entry.key for entry in store.list("driver")] == ["driver/000000000002.json"]


def test_the_record_names_the_holder_and_no_secret(
    lock: Callable[[], DriverLock], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    lock().take()

    (record,) = records(store)

    assert set(record) == {"released", "expires_at", "format", "host", "user", "pid", "boot", "birth"}
    assert record["format"] == 1
    assert record["user"] == "ada"


def test_a_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_name() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", without_name)

    assert user_name() == str(os.getuid())
