"""Reads logs of cells: the store's copy where the attempt left one, else the backend's lines.

A container writes its log to the store when it ends, whatever ended it. One that was killed for memory, or whose host
went, could not: of such an attempt the backend alone has lines (CloudWatch's, on AWS), and it is asked only where an
attempt seems to be missing. While an attempt runs its lines are the backend's too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from batch_pipeline.backends.base import Backend, JobObserver, JobState
from batch_pipeline.backends.parsing import attempts_of
from batch_pipeline.config import Settings
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.record import read_record
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.backend import backend_of
from batch_pipeline.run.interrupts import pause
from batch_pipeline.run.live import live_run_ids, submissions
from batch_pipeline.run.place import reaching, why_unreachable
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.native_id import NativeId
from batch_pipeline.wire.store import NotInStore, Store

#: Runs that are searched for a sample's logs, newest first.
RUNS_SEARCHED = 50
#: Those of which the backend is asked when the store has no log at all.
RUNS_ASKED = 5
FOLLOW_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line, without its end."""

    step: str
    sample: str
    attempt: int
    text: str
    #: Whether the attempt was running when the line was read.
    running: bool = False


def logs(
    store: Store,
    settings: Settings,
    sample: str,
    step: str | None = None,
    *,
    attempt: int | None = None,
    all_attempts: bool = False,
    run_id: str | None = None,
    follow: bool = False,
    sleep: Callable[[float], None] = pause,
) -> Iterator[LogLine]:
    """A sample's log lines, steps in the order of the pipeline, each of the newest run that tried it.

    `all_attempts` yields those of every attempt in that run, oldest first, instead of the last one's. `follow` goes on
    with the lines that running attempts write, until they end. Raises InvalidUse when there is no log, saying where it
    looked.
    """
    reader = _Reader(store=store, settings=settings, sample=sample)
    has_lines = False
    try:
        for tried in reader.tried(step, run_id):
            numbers = reader.numbers(tried, attempt, all_attempts)
            for number in numbers:
                # A tool that says nothing leaves an empty log, which is a log all the same.
                has_lines = True
                yield from reader.lines(tried, number)
            if tried.live and (attempt is None or attempt not in numbers):
                for line in reader.running(tried, follow, sleep):
                    has_lines = True
                    yield line
    finally:
        reader.close()
    if not has_lines:
        what = f"{step} of sample {sample}" if step else f"sample {sample}"
        why = f"it did not run there. `status --explain {sample}` says why; check the spelling."
        if step and sample != layout.COHORT and reader.is_gather(step):
            why = f"{step} is one job over all samples. Its log: logs {layout.COHORT} {step}."
        why = reader.unreachable or why
        raise InvalidUse(f"There is no log of {what} in {store.url}: {why}")


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A cell in a run that tried it."""

    run_id: str
    step: str
    #: Attempt -> whether it failed, of those whose log the store has.
    stored: Mapping[int, bool]
    #: Whether the run may have live jobs.
    live: bool


@dataclass(frozen=True, kw_only=True)
class _Child:
    """A cell as its backend knows it."""

    backend: JobObserver
    native_id: str
    index: int
    is_array: bool

    @property
    def attempts(self) -> int:
        """How many attempts have begun; 0 for a job that was forgotten."""
        child_id = str(NativeId.of_child(self.native_id, self.index, is_array=self.is_array))
        detail = self.backend.descriptions([child_id]).get(child_id)
        return attempts_of(detail) if detail else 0

    @property
    def is_running(self) -> bool:
        """Whether an attempt of it runs now."""
        return any(child.index == self.index for child in self.backend.children(self.native_id, [JobState.RUNNING]))


@dataclass(kw_only=True, eq=False)
class _Reader:
    """Finds the logs of one sample; asks a backend at the latest."""

    store: Store
    settings: Settings
    sample: str
    #: Why a backend that would know more could not be asked.
    unreachable: str = ""
    _backends: dict[str, Backend | None] = field(default_factory=dict)
    _children: dict[tuple[str, str], _Child | None] = field(default_factory=dict)

    def close(self) -> None:
        """Lets go of the backends' connections."""
        for backend in self._backends.values():
            if backend is not None:
                backend.close()

    def tried(self, step: str | None, run_id: str | None) -> list[_Tried]:
        """Of each step the newest run that tried it, steps in the order of the pipeline."""
        live = set(live_run_ids(self.store))
        runs = [run_id] if run_id else sorted(self.store.folders(layout.RUNS), reverse=True)[:RUNS_SEARCHED]
        attempts: dict[str, _Tried] = {}
        order: dict[str, None] = {}
        for run in runs:
            steps = [step] if step else _steps(self.store, run)
            order |= dict.fromkeys(steps)
            failed = self._failed(run)
            for name in (name for name in steps if name not in attempts):
                stored = _stored(self.store, run, name, self.sample)
                if stored or name in failed or (run in live and self._begun(run, name)):
                    attempts[name] = _Tried(run_id=run, step=name, stored=stored, live=run in live)
            if order.keys() <= attempts.keys():
                break
        if not attempts:
            # The store's copies may have been removed: the backend's lines may be there still.
            for run, name in ((run, name) for run in runs[:RUNS_ASKED] for name in order):
                if name not in attempts and self._begun(run, name):
                    attempts[name] = _Tried(run_id=run, step=name, stored={}, live=run in live)
        return [attempts[name] for name in order if name in attempts]

    def is_gather(self, step: str) -> bool:
        """Whether the newest run that has the step made it a gather."""
        for run_id in sorted(self.store.folders(layout.RUNS), reverse=True)[:RUNS_SEARCHED]:
            if step in _steps(self.store, run_id):
                scopes = self.store.get_json(layout.plan(run_id)).get("scopes", {})
                return bool(scopes.get(step) == Scope.COHORT.value)
        return False

    def numbers(self, tried: _Tried, attempt: int | None, all_attempts: bool) -> list[int]:
        """The attempts to tell of, that have ended: all, the one that is meant, or the last."""
        known = set(tried.stored)
        doubtful = not known or tried.stored[max(known)]
        if all_attempts or (attempt is not None and attempt not in known) or (attempt is None and doubtful):
            child = self._child(tried.run_id, tried.step)
            if child is not None:
                known |= set(range(1, child.attempts + 1 - (tried.live and child.is_running)))
        if attempt is not None:
            return [attempt] if attempt in known else []
        return sorted(known) if all_attempts else sorted(known)[-1:]

    def lines(self, tried: _Tried, number: int) -> Iterator[LogLine]:
        """The lines of an attempt that has ended."""
        if number in tried.stored:
            text = self.store.get(layout.log(tried.run_id, tried.step, self.sample, number)).decode(errors="replace")
            lines: Sequence[str] | Iterator[str] = text.splitlines()
        else:
            child = self._child(tried.run_id, tried.step)
            lines = child.backend.logs(child.native_id, child.index, number) if child else ()
        for line in lines:
            yield LogLine(step=tried.step, sample=self.sample, attempt=number, text=line)

    def running(self, tried: _Tried, follow: bool, sleep: Callable[[float], None]) -> Iterator[LogLine]:
        """The lines of an attempt that runs; nothing when none does."""
        child = self._child(tried.run_id, tried.step)
        if child is None:
            return
        number = printed = 0
        while True:
            running = child.is_running
            if not running and not number:
                return
            number = number or max(1, child.attempts)
            lines = list(child.backend.logs(child.native_id, child.index, number))
            for text in lines[printed:]:
                yield LogLine(step=tried.step, sample=self.sample, attempt=number, text=text, running=True)
            printed = max(printed, len(lines))
            if not follow or not running:
                return
            sleep(FOLLOW_SECONDS)

    def _failed(self, run_id: str) -> set[str]:
        """Steps at which the sample failed in a closed run: a killed container leaves no other trace."""
        try:
            return {cell.step for cell in read_failed(self.store, run_id) if cell.sample == self.sample}
        except NotInStore:
            return set()

    def _begun(self, run_id: str, step: str) -> bool:
        """Whether the backend knows of an attempt at the cell."""
        child = self._child(run_id, step)
        return child is not None and child.attempts > 0

    def _child(self, run_id: str, step: str) -> _Child | None:
        if (run_id, step) not in self._children:
            self._children[run_id, step] = self._located(run_id, step)
        return self._children[run_id, step]

    def _located(self, run_id: str, step: str) -> _Child | None:
        """The cell's child among the jobs of a run; None when none is to do it or nobody can be asked."""
        backend = self._backend(run_id)
        if backend is None:
            return None
        for item in submissions(self.store, run_id, backend):
            index = self._index(item) if item.step == step and not item.join else None
            if index is not None:
                size, place = index
                return _Child(backend=backend, native_id=item.native_id, index=place, is_array=size > 1)
        return None

    def _index(self, item: Submission) -> tuple[int, int] | None:
        """Size of a job and the sample's place in it."""
        cells = [sample for sample, _ in cells_of(self.store, item.run_id, item.job)]
        return (len(cells), cells.index(self.sample)) if self.sample in cells else None

    def _backend(self, run_id: str) -> Backend | None:
        if run_id not in self._backends:
            self._backends[run_id] = self._reached(run_id)
        return self._backends[run_id]

    def _reached(self, run_id: str) -> Backend | None:
        try:
            record = read_record(self.store, run_id)
        except NotInStore:
            return None
        unreachable = why_unreachable(self.settings, record)
        self.unreachable = self.unreachable or unreachable
        return None if unreachable else backend_of(reaching(self.settings, record))


def _stored(store: Store, run_id: str, step: str, sample: str) -> dict[int, bool]:
    """Attempt -> whether it failed, of the logs that the store has."""
    names = {entry.key.rsplit("/", 1)[-1] for entry in store.list(layout.cell_logs(run_id, step, sample))}
    numbers = [int(name.removesuffix(".log")) for name in names if name.endswith(".log")]
    return {number: f"{number}.failure.json" in names for number in numbers}


def _steps(store: Store, run_id: str) -> list[str]:
    """The steps of a run in the order of its pipeline."""
    try:
        return list(store.get_json(layout.plan(run_id))["parts"])
    except NotInStore:
        return store.folders(layout.logs(run_id))
