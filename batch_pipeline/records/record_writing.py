"""Makes and writes the record of a run that begins, before anything of it is sent: `records.record` lists the files."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, repeat
from pathlib import Path
from typing import Any, Final

from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import CellState, Plan
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.records.history import now
from batch_pipeline.records.origin import Provenance, config_json
from batch_pipeline.records.people import user_name
from batch_pipeline.records.place import place_of
from batch_pipeline.records.record import END_FIELDS, FORMAT, RunRecord
from batch_pipeline.records.request import Request
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import fingerprint_of, sha256_of_bytes
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.scrub import scrubbed, scrubbed_code, scrubbed_words
from batch_pipeline.wire.store import Store
from batch_pipeline.wire.toolchain import Toolchain

_LETTERS: Final = {
    CellState.DONE: "D",
    CellState.TO_RUN: "R",
    CellState.LIVE: "L",
    CellState.DEFERRED: "W",
    CellState.BLOCKED: "B",
    CellState.SKIPPED: "S",
    CellState.EXCLUDED: "E",
}
_STATES: Final = {letter: state for state, letter in _LETTERS.items()}


@dataclass(frozen=True, kw_only=True)
class BegunRun:
    """What is recorded of a run that is about to begin, as its files were then."""

    record: RunRecord
    #: Text of the file that defines the workflow; None: there is none.
    workflow: str | None
    #: Of the code against its commit; empty: none.
    diff: bytes

    def again(self, plan: Plan, run_id: str) -> BegunRun:
        """The same of a run that sends a later wave of the same plan."""
        return replace(self, record=replace(self.record, run_id=run_id, started_at=now(), **_sizes(plan)))


def begun_run(
    request: Request, plan: Plan, run_id: str, reference: str, bundle_sha256: str, provenance: Provenance
) -> BegunRun:
    """What is recorded of a run that is about to begin."""
    workflow = _workflow_file(request)
    return BegunRun(
        record=_make_record(request, plan, run_id, reference, bundle_sha256, provenance),
        workflow=scrubbed_code(workflow.read_text(errors="replace")) if workflow else None,
        diff=provenance.code.diff if provenance.code else b"",
    )


def _sizes(plan: Plan) -> dict[str, Any]:
    """Cells and jobs that are sent."""
    return {
        "cells": {step: plan.counts(step)[CellState.TO_RUN] for step in plan.states},
        "jobs": len(plan.jobs),
    }


def _make_record(
    request: Request, plan: Plan, run_id: str, reference: str, bundle_sha256: str, provenance: Provenance
) -> RunRecord:
    settings = request.settings
    workflow = _workflow_file(request)
    digests = {step: part.digest() for step, part in plan.parts.items()}
    record = RunRecord(
        run_id=run_id,
        started_at=now(),
        kind="reference" if request.reference_files else "pipeline",
        pipeline=request.graph.name,
        pipeline_name=settings.pipeline.name or request.graph.name,
        pipeline_digest=fingerprint_of(digests),
        workflow_file=workflow.name if workflow else "",
        workflow_sha256=sha256_of_bytes(workflow.read_bytes()) if workflow else "",
        step_digests=digests,
        images={step: part.image for step, part in plan.parts.items()},
        user=user_name(),
        identity=user_name(),
        host=socket.gethostname(),
        argv=scrubbed_words(request.argv),
        cwd=os.getcwd(),
        description=scrubbed(request.description),
        backend=settings.backend.name,
        queue=settings.backend.queue,
        store=request.store.url,
        reference=reference,
        samples=len(request.samples),
        samples_sha256=sha256_of_bytes(request.samples.to_tsv()),
        params=request.params,
        selection=_selection(request),
        bundle_sha256=bundle_sha256,
        config_sha256=config_json(settings)["sha256"],
        **_sizes(plan),
        place=place_of(settings),
        toolchain=toolchain_of(settings),
    )
    return _with_provenance(record, provenance)


def toolchain_of(settings: Settings) -> dict[str, Any]:
    """What the record keeps of this command's toolchain: nothing where jobs run on AWS, in their images."""
    if settings.backend.name != "embedded":
        return {}
    # A name on the disk need not be text, and a record is.
    text = json.dumps(Toolchain.of_this_process().to_json(), ensure_ascii=False)
    return dict(json.loads(text.encode(errors="replace")))


def _workflow_file(request: Request) -> Path | None:
    """The file that defines the workflow; None where there is none, as in a notebook."""
    file = getattr(sys.modules.get(request.workflow.__module__), "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def _with_provenance(record: RunRecord, provenance: Provenance) -> RunRecord:
    merged = replace(
        record,
        user=provenance.behalf.get("user") or record.user,
        identity=provenance.identity or record.identity,
        dirty=provenance.dirty,
        versions=provenance.versions,
        dataset=provenance.behalf.get("dataset", ""),
        access_level=provenance.behalf.get("access_level", ""),
        output_prefix=provenance.behalf.get("output_prefix", ""),
        parent_run=provenance.behalf.get("parent_run", ""),
    )
    if (code := provenance.code) is None:
        return merged
    return replace(
        merged,
        repository=code.repository,
        commit=code.commit,
        branch=code.branch,
        tags=code.tags,
        diff_sha256=code.diff_sha256,
        diff_bytes=code.diff_bytes,
        untracked=code.untracked,
    )


def write_record(store: Store, begun: BegunRun, request: Request, plan: Plan, *, live: bool = True) -> None:
    """Writes settings and diff, the record, the list and the plan, and last, if `live`, that it may have live jobs.

    Raises RunConflict when there is a record of that id, which is never changed.
    """
    record, run_id = begun.record, begun.record.run_id
    fields = {key: item for key, item in asdict(record).items() if key not in END_FIELDS}
    store.put_json(layout.run_config(run_id), config_json(request.settings))
    if begun.diff:
        store.put(layout.run_diff(run_id), begun.diff)
    if begun.workflow is not None:
        store.put(layout.run_workflow(run_id), begun.workflow.encode())
    text = json.dumps(fields, indent=1, ensure_ascii=False).encode()
    # A write whose answer was lost is made again, and meets its own object.
    if not store.put_if_absent(layout.run_record(run_id), text) and store.get(layout.run_record(run_id)) != text:
        raise RunConflict(f"There is a run {run_id} already. Run the same command again: it takes another id.")
    store.put(layout.samples(run_id), request.samples.to_tsv())
    store.put_json(layout.plan(run_id), plan_json(plan))
    if live:
        store.put_json(layout.live(run_id), {"run_id": run_id, "started_at": record.started_at, "format": FORMAT})


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as recorded: parts a step, the jobs, whose cells are in the manifests, the state of every cell, and why.

    `why` has counts of the cells to run of each step, by the reason in words.
    """
    excluded = {step: names for step in plan.states if (names := _excluded(plan, step))}
    return {
        "format": FORMAT,
        **({"excluded": excluded} if excluded else {}),
        "states": {step: run_lengths(states) for step, states in plan.states.items()},
        "why": {step: _why(plan, step) for step in plan.states},
        "parts": {step: part.as_json() for step, part in plan.parts.items()},
        "code": {step: {"files": part.files, "names": dict(part.names)} for step, part in plan.parts.items()},
        "scopes": {node.name: node.step.scope.value for node in plan.graph},
        **({"rows": rows} if (rows := _rows(plan)) else {}),
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


def _rows(plan: Plan) -> dict[str, list[str]]:
    """Step of parts or groups -> the names of its cells."""
    return {
        node.name: list(plan.rows[node.name].names) for node in plan.graph if node.scope in (Scope.PART, Scope.GROUP)
    }


def run_lengths(states: Sequence[CellState]) -> str:
    """States of cells in the order of the samples: `3D 2R 1D`, how many and which, a letter each."""
    return " ".join(f"{sum(1 for _ in group)}{_LETTERS[state]}" for state, group in groupby(states))


def states_of(text: str) -> Iterator[CellState]:
    """The states that `run_lengths` wrote. Raises ValueError or KeyError for any other text."""
    for word in text.split():
        yield from repeat(_STATES[word[-1]], int(word[:-1]))


def _why(plan: Plan, step: str) -> dict[str, int]:
    reasons = Counter(
        why.value
        for why, state in zip(plan.why[step], plan.states[step], strict=True)
        if why and state is CellState.TO_RUN
    )
    return dict(reasons.most_common())


def _excluded(plan: Plan, step: str) -> list[str]:
    return [name for name, state in plan.cells(step) if state is CellState.EXCLUDED]


def write_definitions(
    store: Store, run_id: str, definitions: Mapping[str, Mapping[str, Any]], pinned: Mapping[str, str]
) -> None:
    """Keeps by which job definition each step's jobs are submitted: its content, and the revision that they name."""
    steps = {
        step: {"pinned": pinned[definition["jobDefinitionName"]], **definition}
        for step, definition in definitions.items()
        if definition["jobDefinitionName"] in pinned
    }
    store.put_json(layout.run_definitions(run_id), {"format": FORMAT, "steps": steps})


def _selection(request: Request) -> dict[str, Any]:
    chosen = request.selection
    return {
        "samples": sorted(chosen.samples) if chosen.samples is not None else None,
        "steps": sorted(chosen.steps) if chosen.steps is not None else None,
        "force": chosen.force,
        "accept_code_changes": chosen.accept_code_changes,
        "min_success": chosen.min_success,
    }
