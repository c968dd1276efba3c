"""Runs and areas that a user may see: those of the datasets that they are a member of.

The policies are read for each request, so that a user who was removed from one sees nothing from then on. A store that
levels or datasets share is read once. What is not visible is answered like what does not exist.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from batch_pipeline.access.policy import DatasetPolicy, read_policy
from batch_pipeline.access.request import Level, UserIdentity
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.history import Event, moment_of, read_events
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.registry import Query, find_runs
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.live import submissions
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire.errors import InvalidConfig, Problem, Refused, StoreFailed
from batch_pipeline.wire.store import NotInStore, Store, open_store

#: Datasets cannot have these names: their results would lie where something else is.
RESERVED: Final = ("runs", "health")
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VisibleStore:
    """A store with runs, as one member sees it."""

    store: str
    #: Dataset and levels in the order of the policies, of those that the member may use.
    datasets: tuple[str, ...]
    #: Dataset, level, and where the level's outputs begin in the store.
    areas: tuple[tuple[str, Level, str], ...]

    def shows(self, record: RunRecord) -> bool:
        """Whether the member may see the run: one of another dataset in the same store is none of theirs."""
        return record.dataset in ("", *self.datasets)


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run with where it was seen."""

    record: RunRecord
    #: The dataset whose members see it; the record's own, when it tells one.
    dataset: str
    #: Where its outputs can be viewed, from the service's root; empty: nowhere.
    results: str = ""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """An answer to a query."""

    runs: Sequence[RunView]
    #: There are older ones.
    more: bool = False
    #: Which datasets could not be asked.
    unread: Sequence[str] = field(default=())


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """All that is known of one run."""

    view: RunView
    sent: Sequence[Submission]
    events: Sequence[Event]
    failed: Sequence[FailedCell]


class Catalogue:
    """The runs and areas of all datasets that have a policy. Safe to share between threads."""

    def __init__(self, policies: str, opened: Callable[[str], Store]) -> None:
        if not policies:
            raise InvalidConfig(
                "access.policies is not set, and without policies no user may do anything. Set access.policies."
            )
        self._policies = policies
        self._open = opened
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def check(self) -> list[str]:
        """Names of the datasets. Raises InvalidConfig for a policy that is wrong, StoreFailed."""
        names = self._names()
        for name in names:
            if name in RESERVED:
                raise InvalidConfig(
                    f"No dataset can be called {name!r} here: its results would hide a page. Rename it."
                )
            read_policy(self._policies, name)
        return names

    def datasets(self, identity: UserIdentity) -> list[DatasetPolicy]:
        """The policies of the datasets that the user is a member of, by name. One that is wrong is left out."""
        members_policies = []
        for name in self._names():
            try:
                policy = read_policy(self._policies, name)
            except (Refused, InvalidConfig) as error:
                _LOG.warning("The dataset %s is left out: %s", name, error.message)
                continue
            if any(policy.is_member(level, identity.names) for level in policy.levels):
                members_policies.append(policy)
        return members_policies

    def find(self, identity: UserIdentity, query: Query, *, most: int, before: str = "") -> RunPage:
        """The runs that fit and that the user may see, newest first, those older than the run `before` only."""
        if before and (moment := moment_of(before)) is not None:
            limit = moment + timedelta(milliseconds=1)
            query = replace(query, until=min(limit, query.until) if query.until else limit)
        views: list[RunView] = []
        unread: list[str] = []
        for visible in self._visible_stores(identity):
            if query.dataset and query.dataset not in visible.datasets:
                continue
            try:
                views += self._views_in(visible, query, most, before)
            except StoreFailed:
                unread += visible.datasets
        views.sort(key=lambda item: item.record.run_id, reverse=True)
        return RunPage(runs=views[:most], more=len(views) > most, unread=sorted(set(unread)))

    def history(self, identity: UserIdentity, run_id: str) -> RunHistory:
        """One run. Raises NotInStore when there is none that the user may see, StoreFailed."""
        store, view = self.run(identity, run_id)
        try:
            failed: Sequence[FailedCell] = read_failed(store, run_id)
        except NotInStore:
            failed = ()
        sent = sorted(submissions(store, run_id), key=lambda job: job.sent_at)
        return RunHistory(view=view, sent=sent, events=read_events(store, run_id), failed=failed)

    def run(self, identity: UserIdentity, run_id: str) -> tuple[Store, RunView]:
        """The store of a run, and the run. Raises NotInStore when there is none that the user may see, StoreFailed."""
        for visible in self._visible_stores(identity):
            store = self._store(visible.store)
            try:
                record = read_record(store, run_id) if store is not None else None
            except NotInStore:
                continue
            if store is not None and record is not None and visible.shows(record):
                return store, _view_of(visible, record)
        raise NotInStore("There is no such run among those that you may see.")

    def area(self, identity: UserIdentity, dataset: str, level: Level) -> tuple[Store, str]:
        """The store of an area and where in it the outputs begin. Raises Refused, NotInStore, InvalidConfig."""
        try:
            policy = read_policy(self._policies, dataset)
        except Refused:
            policy = None
        if policy is None or not policy.is_member(level, identity.names):
            raise Refused(
                [
                    Problem(
                        subject=f"{dataset}, level {level.value}",
                        rule=f"{identity.name} may see no such results.",
                        remedy="Ask the dataset's maintainers.",
                        status=403,
                    )
                ]
            )
        place = policy.levels[level]
        store = self._store(place.store)
        if store is None:
            raise NotInStore("Nothing was written there yet.")
        return store, place.output_prefix.strip("/")

    def _names(self) -> list[str]:
        _, entries = open_store(self._policies).children("")
        return sorted(entry.key.removesuffix(".toml") for entry in entries if entry.key.endswith(".toml"))

    def _visible_stores(self, identity: UserIdentity) -> Iterator[VisibleStore]:
        """The stores that the user may see runs of, each once."""
        areas: dict[str, list[tuple[str, Level, str]]] = {}
        for policy in self.datasets(identity):
            for level, rule in policy.levels.items():
                if policy.is_member(level, identity.names):
                    area = (policy.dataset, level, rule.output_prefix.strip("/"))
                    areas.setdefault(rule.store.rstrip("/"), []).append(area)
        for url, levels in areas.items():
            yield VisibleStore(
                store=url, datasets=tuple(dict.fromkeys(item[0] for item in levels)), areas=tuple(levels)
            )

    def _views_in(self, visible: VisibleStore, query: Query, most: int, before: str) -> list[RunView]:
        store = self._store(visible.store)
        if store is None:
            return []
        # Records of pipelines that ran in the store by themselves name no dataset.
        wide = replace(query, dataset="")
        views: list[RunView] = []
        room = most + 1
        while True:
            records = find_runs(store, wide, most=room)
            views = [
                _view_of(visible, record)
                for record in records
                if visible.shows(record) and (not before or record.run_id < before)
            ]
            views = [item for item in views if query.dataset in ("", item.dataset)]
            if len(views) > most or len(records) < room:
                return views
            room *= 2

    def _store(self, url: str) -> Store | None:
        """The store at a URL; None for a folder that no run has made yet."""
        with self._lock:
            if url in self._stores:
                return self._stores[url]
        try:
            store = self._open(url)
        except StoreFailed:
            if "://" not in url or url.startswith("file://"):
                return None
            raise
        with self._lock:
            return self._stores.setdefault(url, store)


def _view_of(visible: VisibleStore, record: RunRecord) -> RunView:
    dataset = record.dataset or visible.datasets[0]
    for name, level, prefix in visible.areas:
        if name == dataset and record.access_level in ("", level.value):
            output = record.output_prefix.strip("/")
            inside = output.removeprefix(prefix).lstrip("/") if _is_below(output, prefix) else None
            if inside is not None:
                return RunView(
                    record=record, dataset=dataset, results="/".join(filter(None, (name, level.value, inside)))
                )
    return RunView(record=record, dataset=dataset)


def _is_below(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(f"{prefix}/")
