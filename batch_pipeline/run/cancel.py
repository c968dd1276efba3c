"""Cancels the jobs of runs, all or some steps'; done cells stay done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batch_pipeline import backends
from batch_pipeline.backends.base import Backend
from batch_pipeline.config import Settings
from batch_pipeline.run.live import live_run_ids, read_live_runs
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store


def cancel(
    store: Store, settings: Settings, run_ids: Iterable[str] = (), *, steps: frozenset[str] | None = None
) -> list[str]:
    """Ends the live jobs of the given runs (default: of all), and says what it did, a sentence a job.

    Raises InvalidUse for a run that is not live. Repeating it is harmless.
    """
    live = live_run_ids(store)
    chosen = list(run_ids) or live
    for run_id in chosen:
        if run_id not in live:
            known = ", ".join(live) or "none"
            raise InvalidUse(f"Run {run_id} has no live jobs. Live runs: {known}.")
    backend = backends.create(settings)
    try:
        return [*_cancelled(store, backend, chosen, steps)] if chosen else []
    finally:
        backend.close()


def _cancelled(store: Store, backend: Backend, run_ids: list[str], steps: frozenset[str] | None) -> Iterator[str]:
    for run in read_live_runs(store, backend, run_ids):
        # Downstream first: what waits for a cancelled job would else end as "dependency failed".
        for item in sorted(run.submissions, key=lambda item: item.native_name, reverse=True):
            summary = run.summaries[item.native_id]
            if summary.state.final or (steps is not None and item.step not in steps):
                continue
            backend.cancel(item.native_id, "cancelled by the user")
            yield f"{item.step}: job {item.job} of run {run.run_id} ({summary.size} cells)"
