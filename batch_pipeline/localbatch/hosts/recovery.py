"""Finds out what a dead server's workers did, before anything new is started.

Called with the exclusive lock on the state folder, so no server writes; workers may still run, and those attempts are
adopted: their slots count as used, and no other attempt of the child starts before they have ended.
"""

from __future__ import annotations

from pathlib import Path

from batch_pipeline.localbatch.engine.job import TERMINAL, AttemptOutcome, BatchJob
from batch_pipeline.localbatch.engine.retry import HOST_LOST
from batch_pipeline.localbatch.engine.state_machine import Engine, Run
from batch_pipeline.localbatch.hosts.executor import Adopted, ProcessExecutor
from batch_pipeline.localbatch.hosts.journal import Journal, read_journal
from batch_pipeline.localbatch.hosts.sealing import sealed
from batch_pipeline.wire.native_id import NativeId
from batch_pipeline.wire.processes import is_alive, kill_all, started_by


def recover(engine: Engine, executor: ProcessExecutor, folder: Path, now: int) -> None:
    """Applies the journals in a folder to an engine that was restored and not resumed yet."""
    journals = [read_journal(path) for path in sorted(folder.glob("*.jsonl"))]
    alive = [journal for journal in journals if journal.worker and is_alive(journal.worker)]
    for journal in journals:
        if journal not in alive:
            _end_rest(journal)
    # Only now, since a worker may have written its last line while we looked.
    journals = [read_journal(journal.path) for journal in journals]
    living = {journal.path for journal in alive}
    executor.sweep([attempt for journal in journals if journal.path in living for attempt in journal.running])
    for attempt, child, journal in sorted(_attempts(journals), key=lambda each: each[:2]):
        _apply(engine, executor, journal, child, attempt, now, journal.path in living)
    for journal in journals:
        if journal.path not in living or not journal.running:
            executor.discard(journal.path)


def _end_rest(journal: Journal) -> None:
    """Ends what a dead worker left behind; what was killed is gone when /proc no longer shows it."""
    while journal.worker and not kill_all(started_by(journal.worker, journal.mark)):
        pass


def _attempts(journals: list[Journal]) -> list[tuple[int, str, Journal]]:
    return [(attempt, child, journal) for journal in journals for child, attempt in (*journal.ended, *journal.running)]


def _apply(
    engine: Engine, executor: ProcessExecutor, journal: Journal, child: str, attempt: int, now: int, living: bool
) -> None:
    place = _find(engine, child)
    if place is None:
        return
    job, index = place
    if job.states[index] in TERMINAL or attempt <= job.tries[index]:
        return
    outcome = journal.ended.get((child, attempt))
    started = outcome.started_ms if outcome else journal.running[(child, attempt)]
    run: Run = engine.adopt(job, index, attempt, started or now, now)
    if outcome:
        engine.end(run, sealed([outcome])[0], now)
    elif living and journal.worker:
        executor.adopt(Adopted(identity=journal.worker, mark=journal.mark, journal=journal, run=run))
    else:
        engine.end(run, AttemptOutcome(exit_code=None, status_reason=HOST_LOST), now)


def _find(engine: Engine, child: str) -> tuple[BatchJob, int] | None:
    native_id = NativeId.parse(child)
    job = engine.jobs.get(native_id.job)
    return (job, native_id.index or 0) if job else None
