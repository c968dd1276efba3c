"""The runs of a store as a registry: finds those that fit a question, newest first, and one by its id.

One LIST for all ids; an id tells its time, so `since` and `until` cost nothing more. Then a run's record and end, many
runs at once, until enough are found. Only the question for a sample reads the runs' lists too.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from batch_pipeline.records.history import moment_of, problem_of, read_events
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import NotInStore, Store

#: Runs that are read at once.
AT_ONCE: Final = 16
#: Characters of an id that tell it from others well enough.
SHORTEST: Final = 4
LAST: Final = "last"
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked of runs; empty means any."""

    dataset: str = ""
    #: User, or the ARN or a part of it.
    user: str = ""
    #: The repository's URL, or its end: `lab/code`.
    repository: str = ""
    #: The first characters of the SHA.
    commit: str = ""
    level: str = ""
    #: `live`, `done` or `failed`.
    status: str = ""
    #: The class of the pipeline, or the name that it was given.
    pipeline: str = ""
    #: A name in the run's list.
    sample: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def takes_moment(self, moment: datetime | None) -> bool:
        """Whether a run that began then fits; one of an unknown time does when no time is asked for."""
        if moment is None:
            return self.since is None and self.until is None
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)

    def takes(self, record: RunRecord) -> bool:
        """Whether all that the record itself tells fits."""
        repository = record.repository.removesuffix(".git")
        wanted = self.repository.removesuffix(".git")
        return (
            self.dataset in ("", record.dataset)
            and (not self.user or self.user == record.user or self.user in record.identity)
            and (not wanted or repository == wanted or repository.endswith((f"/{wanted}", f":{wanted}")))
            and record.commit.startswith(self.commit.lower())
            and self.level in ("", record.access_level)
            and self.status in ("", record.status)
            and self.pipeline in ("", record.pipeline, record.pipeline_name)
        )


def find_runs(store: Store, query: Query, *, most: int | None = None) -> list[RunRecord]:
    """The runs that fit, newest first; a folder without a record (a driver died there) is left out."""
    ids = [run_id for run_id in _ids(store) if query.takes_moment(moment_of(run_id))]
    matching: list[RunRecord] = []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="runs") as pool:
        for start in range(0, len(ids), AT_ONCE):
            for record in pool.map(lambda run_id: _fitting(store, run_id, query), ids[start : start + AT_ONCE]):
                if record is not None:
                    matching.append(record)
            if most is not None and len(matching) >= most:
                return matching[:most]
    return matching


def resolve(store: Store, text: str) -> RunRecord:
    """The run that is meant: an id, its beginning or end where no other has the same, or `last`.

    Raises InvalidUse when there is none, or several.
    """
    ids = _ids(store)
    if text == LAST:
        for run_id in ids:
            if (record := _read(store, run_id)) is not None:
                return record
        raise InvalidUse(f"No run is recorded in {store.url}.")
    wanted = text.upper()
    known = [run_id for run_id in ids if run_id in (text, wanted)] or [
        run_id for run_id in ids if len(text) >= SHORTEST and (run_id.startswith(wanted) or run_id.endswith(wanted))
    ]
    if len(known) > 1:
        raise InvalidUse(f"{text!r} may be {len(known)} runs: {', '.join(known[:5])}. Give more of the id.")
    record = _read(store, known[0]) if known else None
    if record is None:
        newest = f" The newest is {ids[0]}." if ids else ""
        raise InvalidUse(f"There is no run {text!r} in {store.url}.{newest} `runs` lists them.")
    return record


def samples_of(store: Store, run_id: str) -> dict[str, str]:
    """Sample -> its row in the run's list, in the order of the list; lanes one behind the other. Raises NotInStore."""
    rows: dict[str, str] = {}
    for line in store.get(layout.samples(run_id)).decode().split("\n")[1:]:
        name, _, columns = line.partition("\t")
        if name:
            rows[name] = f"{rows[name]} | {columns}" if name in rows else line
    return rows


def moment(text: str, *, ends: bool = False) -> datetime:
    """`2026-11-21`, `2026-11-21T16:30`, or so long ago: `12h`, `7d`, `2w`. Days are UTC's; `ends`: with all of the day.

    Raises InvalidUse.
    """
    unit = _UNITS.get(text[-1:])
    if unit is not None and text[:-1].isdecimal():
        try:
            return datetime.now(UTC) - int(text[:-1]) * unit
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidUse(f"{text!r} is no time. Write 2026-11-21, 2026-11-21T16:30, 12h, 7d or 2w.") from error
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time + timedelta(days=1) if ends and len(text) == len("2026-11-21") else time


def _ids(store: Store) -> list[str]:
    return sorted(store.folders(layout.RUNS), reverse=True)


def _fitting(store: Store, run_id: str, query: Query) -> RunRecord | None:
    record = _read(store, run_id)
    if record is None or not query.takes(record):
        return None
    if query.sample and query.sample not in _samples(store, run_id):
        return None
    return record


def _read(store: Store, run_id: str) -> RunRecord | None:
    """The record; of a live run, with what stopped its submission."""
    try:
        record = read_record(store, run_id)
    except NotInStore:
        return None
    return record if record.ended else replace(record, problem=problem_of(read_events(store, run_id)))


def _samples(store: Store, run_id: str) -> Sequence[str]:
    try:
        return list(samples_of(store, run_id))
    except NotInStore:
        return ()
