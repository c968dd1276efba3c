"""The run record: what was asked, by whom, with what; written before anything is sent, never changed.

    runs/{run_id}/run.json     who, when, argv, what was chosen, digests     before the manifests
    runs/{run_id}/plan.json    the steps' parts and the jobs                 before the manifests
    runs/{run_id}/samples.tsv  the list as read                              before the manifests
    runs/{run_id}/definitions.json  name and revision a step             before the manifests
    runs/{run_id}/jobs.json    the jobs in the backend's words           when all of its jobs have ended
    runs/{run_id}/failed.json  why cells failed, as it was judged            when all of its jobs have ended
    runs/{run_id}/end.json     counts                                        then, once
    live/{run_id}.json         there from before the first job to the end

Run ids are ULIDs: they sort by time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import batch_pipeline
from batch_pipeline.pipeline.plan import CellState, Plan
from batch_pipeline.run.lock import user_name
from batch_pipeline.run.place import place_of
from batch_pipeline.run.request import Request
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.store import NotInStore, Store

FORMAT = 1


def now() -> str:
    """The time as records have it: ISO-8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(moment: str) -> float:
    """Seconds that have gone by since a moment as records have it."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def new_run_id() -> str:
    """A ULID."""
    from ulid import ULID  # imports pydantic: a twentieth of a second that a command with nothing to do need not pay

    return str(ULID())


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as the history shows it."""

    run_id: str
    #: The workflow's class and the name that the user gave.
    pipeline: str
    pipeline_name: str
    started_at: str
    user: str
    host: str
    argv: Sequence[str]
    description: str
    backend: str
    queue: str
    store: str
    reference: str
    #: Samples of the list, and digest of the list as read.
    samples: int
    samples_sha256: str
    #: Step -> parameters.
    params: Mapping[str, Mapping[str, Any]]
    #: What was chosen: from_step and the like.
    selection: Mapping[str, Any]
    bundle_sha256: str
    #: Cells to run a step.
    cells: Mapping[str, int]
    jobs: int
    versions: Mapping[str, str]
    cwd: str
    #: Settings that lead to the backend from elsewhere: `run.place`.
    place: Mapping[str, str] = field(default_factory=dict)
    #: From `end.json`: when, and cells by outcome; empty while the run is live.
    ended_at: str = ""
    done: int = 0
    failed: int = 0
    format: int = FORMAT

    @property
    def ended(self) -> bool:
        """Whether all of its jobs have ended and somebody saw it."""
        return bool(self.ended_at)

    @property
    def ok(self) -> bool | None:
        """Whether every cell was done; None while it is live."""
        return None if not self.ended else self.failed == 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        """Reads `run.json` merged with `end.json`; unknown keys of later versions are ignored."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})


def make_record(request: Request, plan: Plan, run_id: str, reference: str, bundle_sha256: str) -> RunRecord:
    """The record of a run that is about to begin."""
    settings = request.settings
    return RunRecord(
        run_id=run_id,
        pipeline=request.graph.name,
        pipeline_name=settings.pipeline.name or request.graph.name,
        started_at=now(),
        user=user_name(),
        host=socket.gethostname(),
        argv=list(request.argv),
        description=request.description,
        backend=settings.backend.name,
        queue=settings.backend.queue,
        store=request.store.url,
        reference=reference,
        samples=len(request.samples),
        samples_sha256=sha256_of_bytes(request.samples.to_tsv()),
        params=request.params,
        selection=_selection(request),
        bundle_sha256=bundle_sha256,
        cells={step: plan.counts(step)[CellState.TO_RUN] for step in plan.states},
        jobs=len(plan.jobs),
        versions={"batch_pipeline": batch_pipeline.__version__, "python": sys.version.split()[0]},
        cwd=os.getcwd(),
        place=place_of(settings),
    )


def write_record(store: Store, record: RunRecord, request: Request, plan: Plan) -> None:
    """Writes the record, the list and the plan, and last the marker that the run may have live jobs."""
    run_id = record.run_id
    begun = {key: item for key, item in asdict(record).items() if key not in ("ended_at", "done", "failed")}
    store.put_json(layout.run_record(run_id), begun)
    store.put(layout.samples(run_id), request.samples.to_tsv())
    store.put_json(layout.plan(run_id), plan_json(plan))
    store.put_json(layout.live(run_id), {"run_id": run_id, "started_at": record.started_at, "format": FORMAT})


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as recorded: parts a step, and the jobs; their cells are in the manifests."""
    return {
        "format": FORMAT,
        "parts": {step: asdict(part) for step, part in plan.parts.items()},
        "scopes": {node.name: node.step.scope.value for node in plan.graph},
        "jobs": [
            {
                "name": job.name,
                "step": job.step,
                "size": job.size,
                "join": job.join,
                "after": [asdict(edge) for edge in job.after],
            }
            for job in plan.jobs
        ],
    }


def write_end(store: Store, run_id: str, *, done: int, failed: int) -> None:
    """Says that all jobs of a run have ended, and takes it off the live ones. Repeating it is harmless."""
    end = {"ended_at": now(), "done": done, "failed": failed, "format": FORMAT}
    store.put_if_absent(layout.run_end(run_id), json.dumps(end, indent=1).encode())
    store.delete([layout.live(run_id)])


def write_definitions(
    store: Store, run_id: str, definitions: Mapping[str, Mapping[str, Any]], pinned: Mapping[str, str]
) -> None:
    """Keeps by which job definition each step's jobs are submitted: its content, and the revision that they name."""
    told = {
        step: {"pinned": pinned[definition["jobDefinitionName"]], **definition}
        for step, definition in definitions.items()
        if definition["jobDefinitionName"] in pinned
    }
    store.put_json(layout.run_definitions(run_id), {"format": FORMAT, "steps": told})


def read_record(store: Store, run_id: str) -> RunRecord:
    """One run. Raises NotInStore."""
    value = store.get_json(layout.run_record(run_id))
    try:
        value |= store.get_json(layout.run_end(run_id))
    except NotInStore:
        pass
    return RunRecord.from_json(value)


def runs(store: Store, *, most: int | None = None) -> list[RunRecord]:
    """The runs of a store, newest first; a folder without a record (a driver died there) is left out."""
    found: list[RunRecord] = []
    for run_id in sorted(store.folders(layout.RUNS), reverse=True):
        if most is not None and len(found) >= most:
            break
        try:
            found.append(read_record(store, run_id))
        except NotInStore:
            continue
    return found


def _selection(request: Request) -> dict[str, Any]:
    chosen = request.selection
    return {
        "samples": sorted(chosen.samples) if chosen.samples is not None else None,
        "steps": sorted(chosen.steps) if chosen.steps is not None else None,
        "force": chosen.force,
        "accept_code_changes": chosen.accept_code_changes,
        "min_success": chosen.min_success,
    }
