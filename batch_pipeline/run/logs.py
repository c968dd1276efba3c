"""Reads logs of cells: the store's copy when the attempt has ended, the backend's lines while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from batch_pipeline import backends
from batch_pipeline.backends.base import Backend, JobState
from batch_pipeline.config import Settings
from batch_pipeline.run.live import Submission, live_run_ids, submissions
from batch_pipeline.run.manifests import cells_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import NotInStore, Store

#: Runs that are searched for a sample's logs, newest first.
RUNS_SEARCHED = 50
FOLLOW_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line, without its end."""

    step: str
    sample: str
    attempt: int
    text: str


def logs(
    store: Store,
    settings: Settings,
    sample: str,
    step: str | None = None,
    *,
    attempt: int | None = None,
    run_id: str | None = None,
    follow: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogLine]:
    """A sample's log lines, steps in the order of the pipeline, each of the newest run that has any.

    `follow` goes on with the lines that running attempts write, until they end. Raises InvalidUse when there is no
    log, saying where it looked.
    """
    stored = _stored(store, sample, step, attempt, run_id)
    # A tool that says nothing leaves an empty log, which is a log all the same.
    found = bool(stored)
    for name, run, number in stored:
        text = store.get(layout.log(run, name, sample, number)).decode(errors="replace")
        yield from (LogLine(step=name, sample=sample, attempt=number, text=line) for line in text.splitlines())
    for line in _running(store, settings, sample, step, run_id, follow, sleep):
        found = True
        yield line
    if not found:
        what = f"{step} of sample {sample}" if step else f"sample {sample}"
        raise InvalidUse(
            f"There is no log of {what} in {store.url}: it did not run there. `status --explain {sample}` says why;"
            " check the spelling."
        )


def _stored(
    store: Store, sample: str, step: str | None, attempt: int | None, run_id: str | None
) -> list[tuple[str, str, int]]:
    """Step, run and attempt of each log that the store has, steps in the order of the pipeline."""
    newest = [run_id] if run_id else sorted(store.folders(layout.RUNS), reverse=True)[:RUNS_SEARCHED]
    found: dict[str, tuple[str, int]] = {}
    order: dict[str, None] = {}
    for run in newest:
        steps = [step] if step else store.folders(layout.logs(run))
        for name in steps:
            number = None if name in found else _attempt(store, run, name, sample, attempt)
            if number is not None:
                found[name] = (run, number)
                order |= dict.fromkeys(() if step else _order(store, run))
    names = [*(known for known in order if known in found), *(other for other in found if other not in order)]
    return [(name, *found[name]) for name in names]


def _attempt(store: Store, run_id: str, step: str, sample: str, wanted: int | None) -> int | None:
    """The attempt that is wanted, or the last one; None when it left no log."""
    numbers = [
        int(entry.key.rsplit("/", 1)[-1].removesuffix(".log"))
        for entry in store.list(layout.cell_logs(run_id, step, sample))
        if entry.key.endswith(".log")
    ]
    return max((number for number in numbers if wanted in (None, number)), default=None)


def _order(store: Store, run_id: str) -> list[str]:
    """The steps of a run in the order of its pipeline."""
    try:
        return list(store.get_json(layout.plan(run_id))["parts"])
    except NotInStore:
        return []


def _running(
    store: Store,
    settings: Settings,
    sample: str,
    step: str | None,
    run_id: str | None,
    follow: bool,
    sleep: Callable[[float], None],
) -> Iterator[LogLine]:
    live = [run for run in live_run_ids(store) if run_id in (None, run)]
    if not live:
        return
    backend = backends.create(settings)
    try:
        for run in live:
            for item in submissions(store, run, backend):
                index = _index_of(store, item, sample) if step in (None, item.step) and not item.join else None
                if index is not None:
                    yield from _followed(backend, item, index, sample, follow, sleep)
    finally:
        backend.close()


def _index_of(store: Store, item: Submission, sample: str) -> int | None:
    for index, (name, _) in enumerate(cells_of(store, item.run_id, item.job)):
        if name == sample:
            return index
    return None


def _followed(
    backend: Backend, item: Submission, index: int, sample: str, follow: bool, sleep: Callable[[float], None]
) -> Iterator[LogLine]:
    told = 0
    while True:
        running = any(child.index == index for child in backend.children(item.native_id, [JobState.RUNNING]))
        if not running and not told:
            return
        lines = list(backend.logs(item.native_id, index))
        for text in lines[told:]:
            yield LogLine(step=item.step, sample=sample, attempt=0, text=text)
        told = max(told, len(lines))
        if not follow or not running:
            return
        sleep(FOLLOW_SECONDS)
