"""Attempts whose receipts wait for the disk: their room is free, they share the wait, and end when it is over."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from batch_pipeline.localbatch.engine.job import FAILED, RUNNABLE, RUNNING, SUCCEEDED, AttemptOutcome, Dependency
from batch_pipeline.localbatch.engine.state_machine import Run
from batch_pipeline.localbatch.hosts import sealing
from batch_pipeline.localbatch.hosts.journal import outcome_of
from batch_pipeline.localbatch.hosts.sealing import Sealer, sealed
from batch_pipeline.wire.durable import Seal
from tests.localbatch.test_localbatch_engine import engine_of, spec


def outcome(name: str) -> AttemptOutcome:
    return AttemptOutcome(exit_code=0, seals=(Seal(part=f"{name}#1", target=name),))


def test_room_is_free_while_a_receipt_waits_and_the_job_has_not_ended() -> None:
    engine = engine_of()
    first, second = engine.submit(spec(1, timeout_seconds=1), 0), engine.submit(spec(2), 0)
    (run,) = engine.schedule(0)
    engine.began(run, 0)
    assert engine.schedule(0) == []
    engine.leave(run)
    (other,) = engine.schedule(0)
    assert (first.states[0], other.job) == (RUNNING, second)
    engine.stop_overdue(10_000)
    assert engine.stops == []
    engine.end(run, AttemptOutcome(exit_code=0), 1)
    engine.end(other, AttemptOutcome(exit_code=0), 1)
    assert (first.states[0], engine.used) == (SUCCEEDED, (0, 0))


def test_a_dependent_starts_when_the_receipt_stands() -> None:
    engine = engine_of()
    engine.submit(spec(1), 0)
    below = engine.submit(spec(2, dependencies=(Dependency(job_id="job-1"),)), 0)
    (run,) = engine.schedule(0)
    engine.leave(run)
    assert engine.schedule(0) == []
    engine.end(run, AttemptOutcome(exit_code=0), 1)
    assert below.states[0] == RUNNABLE
    assert [one.job for one in engine.schedule(1)] == [below]


def test_who_ends_while_others_are_sealed_shares_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def slowly(seals: Sequence[Seal]) -> list[OSError | None]:
        rounds.append(len(seals))
        begun.set()
        assert go_on.wait(60)
        return [None] * len(seals)

    monkeypatch.setattr(sealing, "seal_all", slowly)
    engine = engine_of(vcpus=10)
    job = engine.submit(spec(1, size=6), 0)
    runs = engine.schedule(0)
    told: list[tuple[Run, AttemptOutcome]] = []

    async def play() -> None:
        sealer = Sealer(asyncio.get_running_loop(), lambda run, ended: told.append((run, ended)))
        sealer.add(runs[0], outcome("0"))
        while not begun.is_set():
            await asyncio.sleep(0)
        for number in range(1, 6):
            sealer.add(runs[number], outcome(str(number)))
        assert told == []
        go_on.set()
        while len(told) < 6:
            await asyncio.sleep(0)
        sealer.close()

    asyncio.run(play())
    assert rounds == [1, 5, 0]
    assert [run.index for run, _ in told] == list(range(6))
    assert {ended for _, ended in told} == {AttemptOutcome(exit_code=0)}
    assert job.spec.count == 6


def test_a_round_that_fails_in_an_unforeseen_way_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def seal(seals: Sequence[Seal]) -> list[OSError | None]:
        if seals[0].target == "0":
            raise AttributeError("no syncfs")
        return [None] * len(seals)

    monkeypatch.setattr(sealing, "seal_all", seal)
    engine = engine_of(vcpus=10)
    engine.submit(spec(1, size=2), 0)
    runs = engine.schedule(0)
    told: list[AttemptOutcome] = []

    async def play() -> None:
        sealer = Sealer(asyncio.get_running_loop(), lambda run, ended: told.append(ended))
        for number in range(2):
            sealer.add(runs[number], outcome(str(number)))
            while len(told) <= number:
                await asyncio.sleep(0)
        monkeypatch.undo()
        sealer.close()

    asyncio.run(play())
    assert "no syncfs" in str(told[0].reason)
    assert told[0].exit_code
    assert told[1] == AttemptOutcome(exit_code=0)


def test_what_waits_for_the_next_round_is_sealed_when_the_server_stops(tmp_path: Path) -> None:
    part, target = tmp_path / "r#1", tmp_path / "r"
    part.write_text("receipt")
    engine = engine_of()
    engine.submit(spec(1), 0)
    (run,) = engine.schedule(0)
    told: list[AttemptOutcome] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        raised: list[object] = []
        loop.set_exception_handler(lambda _, context: raised.append(context))
        sealer = Sealer(loop, lambda run, ended: told.append(ended))
        sealer.add(run, AttemptOutcome(exit_code=0, seals=(Seal(part=str(part), target=str(target)),)))
        sealer.close()
        await asyncio.sleep(0.05)
        assert raised == []

    asyncio.run(play())
    assert target.read_text() == "receipt"
    assert told == []


def test_an_attempt_fails_whose_results_cannot_be_brought_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(sealing, "seal_all", lambda seals: [None, failing][: len(seals)])
    well, badly = sealed([outcome("0"), outcome("1")])
    assert well == AttemptOutcome(exit_code=0)
    assert badly.exit_code
    assert "could not be brought to the disk: Input/output error" in str(badly.reason)
    engine = engine_of()
    job = engine.submit(spec(1), 0)
    (run,) = engine.schedule(0)
    engine.leave(run)
    engine.end(run, badly, 1)
    assert job.states[0] == FAILED


def test_a_journal_keeps_what_waits(tmp_path: Path) -> None:
    """A server that finds the journals of a dead one seals what that one was to seal."""
    part, target = tmp_path / "r#1", tmp_path / "r"
    part.write_text("receipt")
    said = {"exit_code": 0, "started_ms": 1, "stopped_ms": 2, "seals": [[str(part), str(target), [str(tmp_path)]]]}
    assert sealed([outcome_of(said)]) == [AttemptOutcome(exit_code=0, started_ms=1, stopped_ms=2)]
    assert target.read_text() == "receipt"
    assert sealed([outcome_of(said)])[0].exit_code == 0
