"""Searches the logs of a cohort: their listing, then one GET a log, several at once and in bounded memory.

Of every cell the newest run that left a log counts, and there the last attempt, or all. Cells of a closed run that were
killed before they could leave one are asked of the backend, one by one: CloudWatch Logs takes few calls a second.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from batch_pipeline.config import Settings
from batch_pipeline.records.listing import CellFolders, by_place, entries_of
from batch_pipeline.records.registry import samples_of
from batch_pipeline.run.logs import RUNS_SEARCHED, LogLine, logs
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import NotInStore, Store, StoreEntry

#: Logs that are read at once, and read ahead of the one that is told.
AT_ONCE = 16
AHEAD = 2 * AT_ONCE
#: Characters of matching lines that are kept of a log before its turn; with more it is read again, line by line.
MOST_CHARACTERS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class AttemptLog:
    """One attempt's log."""

    run_id: str
    step: str
    sample: str
    attempt: int
    #: Whether the attempt failed.
    failed: bool = False
    #: Whether the store has it; else the backend may.
    stored: bool = True

    @property
    def key(self) -> str:
        """Its key in the store."""
        return layout.log(self.run_id, self.step, self.sample, self.attempt)


def logs_of(
    store: Store,
    *,
    steps: Sequence[str] = (),
    samples: frozenset[str] | None = None,
    run_id: str | None = None,
    failed: bool = False,
    all_attempts: bool = False,
) -> list[AttemptLog]:
    """The logs of the chosen cells, steps in the order of the pipeline, then samples by name.

    Raises InvalidUse for a run or step that is not there.
    """
    known = sorted(store.folders(layout.RUNS), reverse=True)[:RUNS_SEARCHED]
    if run_id and run_id not in store.folders(layout.RUNS):
        raise InvalidUse(f"There is no run {run_id} in {store.url}. `runs` lists those that are there.")
    order: dict[str, None] = {}
    logs_by_cell: dict[tuple[str, str], list[AttemptLog]] = {}
    for run in [run_id] if run_id else known:
        run_steps = _steps(store, run)
        order |= dict.fromkeys(run_steps)
        here: dict[tuple[str, str], list[AttemptLog]] = {}
        for log in _of_run(store, run, steps or run_steps, samples):
            if (not steps or log.step in steps) and (samples is None or log.sample in samples):
                here.setdefault((log.step, log.sample), []).append(log)
        logs_by_cell = here | logs_by_cell
        if samples is not None and steps and len(logs_by_cell) == len(steps) * len(samples):
            break
    if unknown := [step for step in steps if step not in order]:
        raise InvalidUse(f"There is no step {unknown[0]!r} in {store.url}; there are: {', '.join(order)}.")
    chosen = []
    position = {step: number for number, step in enumerate(order)}
    for cell in sorted(logs_by_cell, key=lambda cell: (position.get(cell[0], len(position)), cell[1])):
        attempts = sorted(logs_by_cell[cell], key=lambda log: log.attempt)
        if not failed or attempts[-1].failed:
            chosen += attempts if all_attempts else attempts[-1:]
    return chosen


def search(
    store: Store, settings: Settings, wanted: Sequence[AttemptLog], pattern: re.Pattern[str] | None
) -> Iterator[LogLine]:
    """The lines of these logs that the pattern is found in (default: all), log by log in their order."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="logs") as pool:
        ahead: deque[tuple[AttemptLog, Future[list[str] | None] | None]] = deque()
        rest = iter(wanted)
        try:
            while True:
                while len(ahead) < AHEAD and (log := next(rest, None)) is not None:
                    ahead.append((log, pool.submit(_matches, store, log, pattern) if log.stored else None))
                if not ahead:
                    return
                log, reading = ahead.popleft()
                if reading is None:
                    yield from _backends_lines(store, settings, log, pattern)
                    continue
                lines = reading.result()
                for text in lines if lines is not None else _matching(store, log, pattern):
                    yield LogLine(step=log.step, sample=log.sample, attempt=log.attempt, text=text)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _of_run(store: Store, run_id: str, steps: Sequence[str], samples: frozenset[str] | None) -> Iterator[AttemptLog]:
    """The logs of some cells of a run (None: of all samples), and those that killed cells could not leave.

    All are listed of a run without a plan, as of a driver.
    """
    cells: set[tuple[str, str]] = set()
    for group in _listed(store, run_id, steps, samples):
        _, _, step, sample, _ = group[0].key.split("/", 4)
        cells.add((step, sample))
        names = {entry.key.rpartition("/")[2] for entry in group}
        for name in names:
            number = name.removesuffix(".log")
            if name != number and number.isdigit():
                failed = f"{number}.failure.json" in names
                yield AttemptLog(run_id=run_id, step=step, sample=sample, attempt=int(number), failed=failed)
    try:
        failed_cells = read_failed(store, run_id)
    except NotInStore:
        return
    for cell in failed_cells:
        if cell.reason is not EndReason.DEPENDENCY and (cell.step, cell.sample) not in cells:
            yield AttemptLog(run_id=run_id, step=cell.step, sample=cell.sample, attempt=0, failed=True, stored=False)


def _listed(
    store: Store, run_id: str, steps: Sequence[str], samples: frozenset[str] | None
) -> Iterator[list[StoreEntry]]:
    """The files of each cell."""
    others: Mapping[str, Sequence[str]] = {}
    if samples is None:
        try:
            samples = frozenset((*samples_of(store, run_id), layout.COHORT))
            others = store.get_json(layout.plan(run_id)).get("rows", {})
        except NotInStore:
            steps = ()
    if steps and samples is not None:
        cells = CellFolders({layout.step_logs(run_id, step): others.get(step, samples) for step in steps})
        yield from by_place(cells, entries_of(store, cells, etags=False))
        return
    for _, group in groupby(store.entries(layout.logs(run_id)), key=lambda entry: entry.key.rpartition("/")[0]):
        yield list(group)


def _matches(store: Store, log: AttemptLog, pattern: re.Pattern[str] | None) -> list[str] | None:
    """The matching lines; None when they are too many to be kept, and when the log went meanwhile."""
    kept: list[str] = []
    left = MOST_CHARACTERS
    try:
        for text in _matching(store, log, pattern):
            kept.append(text)
            left -= len(text)
            if left < 0:
                return None
    except NotInStore:
        return []
    return kept


def _matching(store: Store, log: AttemptLog, pattern: re.Pattern[str] | None) -> Iterator[str]:
    return (text for text in _stored_lines(store, log) if pattern is None or pattern.search(text))


def _backends_lines(
    store: Store, settings: Settings, log: AttemptLog, pattern: re.Pattern[str] | None
) -> Iterator[LogLine]:
    try:
        for line in logs(store, settings, log.sample, log.step, run_id=log.run_id, all_attempts=True):
            if pattern is None or pattern.search(line.text):
                yield line
    except InvalidUse:
        return  # Nobody has it any more: CloudWatch may have forgotten it, or the job never ran.


def _stored_lines(store: Store, log: AttemptLog) -> Iterator[str]:
    """The lines of a log, piece by piece."""
    _, pieces = store.stream(log.key)
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")


def _steps(store: Store, run_id: str) -> list[str]:
    try:
        return list(store.get_json(layout.plan(run_id))["parts"])
    except NotInStore:
        return []
