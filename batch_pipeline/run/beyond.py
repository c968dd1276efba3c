"""Steps that a pipeline lacks and its store has: it had them once, or another pipeline writes into the same store.

What they made of results that are made again now is not done, as if the pipeline still had them; the next one that has
them makes it, or finds it unchanged. Who reads from whom is in the plans of past runs, which are read only where a
store has receipts of such steps and something is about to be sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from batch_pipeline.pipeline.fingerprint import steps_in
from batch_pipeline.pipeline.plan import CellState, LiveJob, Plan
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.layout import COHORT
from batch_pipeline.wire.store import NotInStore, Store

#: Past runs whose plans are read, newest first. A step that none of them has may read anything.
RUNS_LOOKED_AT: Final = 20

#: Step -> samples whose cells read what is made again; None: all.
Reading = Mapping[str, AbstractSet[str] | None]


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """A step as a run recorded it."""

    #: What its cells are (`Scope`).
    scope: str
    #: The steps that it reads from.
    upstream: tuple[str, ...]


def reading_beyond(store: Store, plan: Plan, live: Sequence[LiveJob]) -> Reading:
    """The cells of steps that the plan lacks which read, however far up, what it makes again.

    One LIST; where there are such steps another one, and a GET a run until all of them are known. Raises RunConflict
    where a live job has such a cell.
    """
    if any(node.step.scope is Scope.REFERENCE for node in plan.graph):
        # Fingerprints tell who reads a reference.
        return {}
    unknown = set(store.folders(layout.RECEIPTS)) - set(plan.graph.names)
    if not unknown:
        return {}
    moving: dict[str, set[str] | None] = {}
    for step, sample, _ in plan.retires:
        moving.setdefault(step, set()).add(sample)  # type: ignore[union-attr]  # none is None yet
    for step in plan.states:
        names = {name for name, state in plan.cells(step) if state is CellState.TO_RUN}
        moving[step] = names | (moving.get(step) or set())
    recorded = _recorded(store, unknown)
    scopes = {name: step.scope for name, step in recorded.items()} | {
        node.name: node.scope.value for node in plan.graph
    }
    others = (recorded.keys() | unknown) - moving.keys()
    moving |= {step: set() for step in others}
    while True:
        readers = {step: _reading(recorded.get(step), moving, scopes) for step in others}
        if all(moving[step] == samples for step, samples in readers.items()):
            break
        moving |= readers
    reading: Reading = {step: moving[step] for step in sorted(unknown) if moving[step] is None or moving[step]}
    _refuse(reading, live)
    return reading


def _refuse(reading: Reading, live: Sequence[LiveJob]) -> None:
    for job in live:
        samples = reading.get(job.step, frozenset())
        for sample in job.samples:
            if sample not in job.ended and (samples is None or sample in samples):
                of = "the cohort" if sample == COHORT else f"sample {sample}"
                raise RunConflict(
                    f"Run {job.run_id} is still working on {job.step} of {of}, a step that this pipeline lacks and that"
                    f" reads what is to be made again. Wait for it (watch --run {job.run_id}), or cancel it (cancel"
                    f" {job.run_id})."
                )


def _recorded(store: Store, wanted: AbstractSet[str]) -> dict[str, _Recorded]:
    """Steps as the newest run that had them recorded them."""
    recorded: dict[str, _Recorded] = {}
    for run_id in sorted(store.folders(layout.RUNS), reverse=True)[:RUNS_LOOKED_AT]:
        try:
            plan_record = store.get_json(layout.plan(run_id))
        except NotInStore:
            continue
        scopes = plan_record.get("scopes", {})
        for name, part in plan_record["parts"].items():
            upstream = {step: "" for wires in part["inputs"].values() for step, _ in steps_in(wires) if step}
            step = _Recorded(scope=scopes.get(name, Scope.SAMPLE.value), upstream=tuple(upstream))
            recorded.setdefault(name, step)
        if wanted <= recorded.keys():
            break
    return recorded


def _reading(
    step: _Recorded | None, moving: Mapping[str, set[str] | None], scopes: Mapping[str, str]
) -> set[str] | None:
    """Cells of a step that read what moves; which parts or groups read what is not known."""
    if step is None:
        return None if any(samples is None or samples for samples in moving.values()) else set()
    reached: set[str] = set()
    for name in step.upstream:
        samples = moving.get(name, set())
        gathers = step.scope == Scope.COHORT.value
        between = gathers or scopes.get(name, step.scope) != step.scope
        if samples is None or (samples and (between or COHORT in samples)):
            return {COHORT} if gathers else None
        reached |= samples
    return reached
