"""The log of a run's drivers: every decision, kept in the run's folder in pieces, so that a dead driver leaves its own.

    runs/{run_id}/driver/{time}-{driver}.log      lines as `log.line_of` forms them; joined and sorted on reading

A piece is an object of its own, so that S3 and a folder are written alike and several drivers of one run do not meet.
Lines wait until a run has an id: a command with nothing to do writes nothing. From then on a piece is written for what
was kept, then one every few seconds in which there are lines, and a last one. What a driver does about several runs at
once (its own, and others whose live jobs it adopted) goes to its own as it comes, and to the others when they are
adopted and at the end of the wave.

A log that cannot be written fails no run: that is said once on stderr, and given up after some tries.
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final

from batch_pipeline.log import RunHandler, current, line_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BatchPipelineError
from batch_pipeline.wire.store import Store

#: Seconds between two pieces at the least: what a driver that is killed has not written yet.
FLUSH_SECONDS: Final = 3.0
#: Writes in a row that may fail before the log is given up.
MOST_FAILURES: Final = 3
#: Runs that are looked at for the newest log, and pieces that are read at once.
RUNS_SEARCHED: Final = 50
AT_ONCE: Final = 16
#: A line's time, by which lines of several drivers are sorted.
_TIME: Final = len("2026-11-21T16:30:00.123Z")
_LOG: Final = logging.getLogger(__name__)


class DriverLog(RunHandler):
    """Keeps the lines of one driver in the folders of its runs; see the module. Used with `log.kept_by`."""

    def __init__(self, store: Store, *, seconds: float = FLUSH_SECONDS) -> None:
        super().__init__()
        self._store = store
        self._seconds = seconds
        self._driver = os.urandom(4).hex()
        #: Of this wave, or of the time before the first.
        self._records: list[logging.LogRecord] = []
        #: Run of this wave -> how many of these its log has.
        self._written: dict[str, int] = {}
        #: The run of the last wave that had one.
        self._last = ""
        self._timer: threading.Timer | None = None
        self._failures = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`. Lines of other threads, which may drive other runs, are not ours."""
        if current() is not self:
            return
        self._records.append(record)
        if self.run_id:
            self._write_soon()

    def turn_to(self, run_id: str) -> None:
        """See `RunHandler.turn_to`. Without a run a new wave begins, whose lines wait for the run that it makes."""
        if not run_id:
            self._finish()
        self.run_id = run_id
        if run_id:
            self._last = run_id
            self._write(run_id)

    def close(self) -> None:
        """Writes what is left."""
        self._finish()
        super().close()

    def _finish(self) -> None:
        """Writes the lines of this wave that the logs of its runs do not have yet.

        A wave without a run, such as one that finds nothing left to do, belongs to the one before; if that had none
        either, its lines are kept.
        """
        self._stop_timer()
        run_ids = list(self._written) or list(filter(None, [self._last]))
        if not run_ids:
            return
        for run_id in run_ids:
            self._write(run_id)
        self._records.clear()
        self._written.clear()

    def _write_soon(self) -> None:
        if self._timer is not None or self._failures >= MOST_FAILURES:
            return
        timer = threading.Timer(self._seconds, self._on_time)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            return  # This machine has no thread left; the end of the wave writes all the same.
        self._timer = timer

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            # It may be writing; the next piece comes after its.
            timer.join(self._seconds)

    def _on_time(self) -> None:
        self._timer = None
        if self.run_id:
            self._write(self.run_id)

    def _write(self, run_id: str) -> None:
        """Writes a piece with the lines that a run's log does not have yet. Not under the lock: a store may be slow."""
        self.acquire()
        try:
            start = self._written.get(run_id, 0)
            records = self._records[start:]
            self._written[run_id] = len(self._records)
        finally:
            self.release()
        if not records or self._failures >= MOST_FAILURES:
            return
        piece = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{self._driver}"
        text = "".join(f"{line_of(record, run_id)}\n" for record in records)
        try:
            self._store.put(layout.driver_log(run_id, piece), text.encode(errors="backslashreplace"))
            self._failures = 0
        except (BatchPipelineError, OSError, RuntimeError) as error:
            self._written[run_id] = start
            self._failures += 1
            if self._failures == 1:
                _LOG.warning("The driver's log cannot be written, the run goes on: %s", error)


def read_driver_log(store: Store, run_id: str) -> list[str]:
    """The lines of all drivers of a run, by their time; none where no driver left any. One LIST, and a GET a piece."""
    keys = sorted(store.keys(layout.driver_log(run_id)))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="driver log") as pool:
        texts = [data.decode(errors="replace") for data in pool.map(store.get, keys)]
    return sorted((line for text in texts for line in text.splitlines()), key=lambda line: line[:_TIME])


def newest_logged(store: Store) -> str | None:
    """The newest run that has a driver's log; None: none of the newest has."""
    for run_id in sorted(store.folders(layout.RUNS), reverse=True)[:RUNS_SEARCHED]:
        if any(True for _ in store.keys(layout.driver_log(run_id))):
            return run_id
    return None
