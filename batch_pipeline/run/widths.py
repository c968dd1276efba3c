"""Widths of steps (`Step.max_parallel`): so many cells of a step run side by side, over all jobs of a run.

    runs/{run_id}/widths.json   {"steps": {step: {"name": …, "cells": …}}}     written before a width is made

The backend holds a width (`WidthLimiter`; on AWS Batch a consumable resource) under the name of the run that made it.
Later waves of its plan share it, and so do runs that begin while it is live: of a step that one run has at most two
cells of, two runs have no four. Whoever closes the last live run that names a width removes it, unless a job that needs
it has not ended. What killed drivers left, `doctor --clean` removes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

from batch_pipeline.backends.base import WidthLimiter
from batch_pipeline.backends.payload import WIDTH_PREFIX
from batch_pipeline.config import Settings
from batch_pipeline.log import Facts
from batch_pipeline.pipeline.plan import Plan
from batch_pipeline.records.history import Happened, append_if_possible
from batch_pipeline.records.record import read_record
from batch_pipeline.run.backend import backend_of
from batch_pipeline.run.live import live_run_ids
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.place import reaching, why_unreachable
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, InvalidUse
from batch_pipeline.wire.store import NotInStore, Store

FORMAT: Final = 1
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepWidth:
    """How many cells of a step run side by side."""

    #: The backend's name of it.
    name: str
    cells: int


def read_widths(store: Store, run_id: str) -> dict[str, StepWidth]:
    """Step -> its width in a run; nothing for a run without any. One GET."""
    try:
        recorded = store.get_json(layout.run_widths(run_id))
    except NotInStore:
        return {}
    return {step: StepWidth(**width) for step, width in recorded["steps"].items()}


def write_widths(store: Store, run_id: str, widths: Mapping[str, StepWidth]) -> None:
    """Keeps the widths of a run's steps; they are made afterwards."""
    steps = {step: asdict(width) for step, width in widths.items()}
    store.put_json(layout.run_widths(run_id), {"format": FORMAT, "steps": steps})


def names_in_use(store: Store, run_ids: Iterable[str], steps: Iterable[str]) -> dict[str, str]:
    """Step -> name of the width that live runs, oldest first, have for it; the newest run's where they differ."""
    widths = {step: width.name for run_id in run_ids for step, width in read_widths(store, run_id).items()}
    return {step: widths[step] for step in steps if step in widths}


def remove_widths(store: Store, backend: WidthLimiter, run_id: str) -> None:
    """Removes the widths of a run that is about to be closed, but for those that another live run names.

    A run's end does not fail for it: what cannot be removed is left to `doctor --clean`.
    """
    widths = read_widths(store, run_id)
    if not widths:
        return
    others = (read_widths(store, other) for other in live_run_ids(store) if other != run_id)
    shared = {width.name for of_run in others for width in of_run.values()}
    for step, width in widths.items():
        if width.name in shared:
            continue
        try:
            result = "removed" if backend.remove_width(width.name) else "kept: a job that needs it has not ended"
        except BackendFailed as error:
            result = f"not removed: {error.message}"
        _LOG.info("width %s", Facts(of=run_id, step=step, name=width.name, result=result))


def left_over(store: Store, backend: WidthLimiter) -> Iterator[str]:
    """Names of the widths that ended runs of this store left. Raises BackendFailed."""
    live = frozenset(live_run_ids(store))
    needed = {width.name for run_id in live for width in read_widths(store, run_id).values()}
    yield from (name for name in _of_store(store, backend) if name not in needed)


def remove_left_over(store: Store, backend: WidthLimiter) -> list[str]:
    """Removes the widths of this store's runs that no job needs, those of killed drivers among them; their names.

    Raises RunConflict while a driver submits, which may have made one and not sent its jobs yet, and BackendFailed.
    """
    if not any(_of_store(store, backend)):
        return []
    lock = DriverLock(store)
    lock.take()
    try:
        return [name for name in _of_store(store, backend) if backend.remove_width(name)]
    finally:
        lock.release()


def _of_store(store: Store, backend: WidthLimiter) -> Iterator[str]:
    """The widths that are there and that a run of this store recorded; those of other stores are theirs."""
    for name in backend.widths(WIDTH_PREFIX):
        run_id = name.removeprefix(WIDTH_PREFIX).partition("-")[0]
        if any(width.name == name for width in read_widths(store, run_id).values()):
            yield name


@dataclass(frozen=True, kw_only=True)
class ChangedWidth:
    """A width that was changed while it is in use."""

    run_id: str
    step: str
    before: int
    cells: int


def change_width(store: Store, settings: Settings, step: str, cells: int, run_id: str = "") -> list[ChangedWidth]:
    """Changes how many cells of a step run side by side in a live run (default: in all), recorded before it is done.

    Raises InvalidUse where no such run has a width of that step, or this machine cannot ask its backend.
    """
    live = [run_id] if run_id else live_run_ids(store)
    widths = {each: of_run for each in live if step in (of_run := read_widths(store, each))}
    if not widths:
        of = f"Run {run_id}" if run_id else "No live run"
        raise InvalidUse(
            f"{of} has {'no ' if run_id else 'a '}width of step {step!r} to change. Set max_parallel of the step before"
            f" a run: --set steps.{step}.max_parallel={cells}."
        )
    reached = {each: _reached(store, settings, each) for each in widths}
    changed = []
    for each, of_run in widths.items():
        width = of_run[step]
        write_widths(store, each, {**of_run, step: replace(width, cells=cells)})
        backend = backend_of(reached[each])
        try:
            backend.set_width(width.name, cells)
        finally:
            backend.close()
        message = f"At most {cells} cells of {step} side by side, before {width.cells}."
        append_if_possible(store, each, Happened.WIDTH_CHANGED, message, step=step, cells=cells)
        changed.append(ChangedWidth(run_id=each, step=step, before=width.cells, cells=cells))
    return changed


def _reached(store: Store, settings: Settings, run_id: str) -> Settings:
    record = read_record(store, run_id)
    if unreachable := why_unreachable(settings, record):
        raise InvalidUse(unreachable)
    return reaching(settings, record)


def width_notes(plan: Plan, settings: Settings) -> Iterator[str]:
    """Sentences on the steps of a plan of which more cells are sent than may run side by side."""
    for node in plan.graph:
        width, cells = node.max_parallel, sum(len(job.members) for job in plan.jobs if job.step == node.name)
        if width is None or cells <= width:
            continue
        note = f"At most {width:,} of {cells:,} cells of {node.name} run side by side (max_parallel)."
        if settings.backend.name == "aws" and not settings.backend.share_identifier:
            note += (
                " In a first in, first out queue those that wait for their turn may hold up all that comes after them:"
                " name a queue with a fair share policy (--queue, --share), or one that nothing else uses."
            )
        yield note
