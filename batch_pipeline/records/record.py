"""The run record: what was asked, by whom, with what; written before anything is sent, never changed.

    runs/{run_id}/config.json  settings as merged, without secrets           before the record, which has its digest
    runs/{run_id}/diff.patch   what was changed since the commit, if it was  before the record, which has its digest
    runs/{run_id}/workflow.py  the file that wires the steps                 before the record, which has its digest
    runs/{run_id}/run.json     who, when, argv, what was chosen, digests     before the manifests
    runs/{run_id}/plan.json    the steps' parts and the jobs                 before the manifests
    runs/{run_id}/samples.tsv  the list as read                              before the manifests
    runs/{run_id}/definitions.json  name and revision a step             before the manifests
    runs/{run_id}/failed.json  why cells failed, as it was judged            when all of its jobs have ended
    runs/{run_id}/end.json     counts                                        then, once
    runs/{run_id}/events/…     what happened to it (`records.history`)       when it does
    live/{run_id}.json         there from before the first job to the end

Run ids are ULIDs: they sort by time.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import CellState, Plan
from batch_pipeline.records.history import Happened, append_if_possible, problem_of, read_events

# Re-exported from `history` for callers that write records.
from batch_pipeline.records.history import new_run_id as new_run_id
from batch_pipeline.records.history import now as now
from batch_pipeline.records.history import seconds_since as seconds_since
from batch_pipeline.records.origin import Provenance, config_json
from batch_pipeline.records.people import user_name
from batch_pipeline.records.place import place_of
from batch_pipeline.records.request import Request
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import fingerprint_of, sha256_of_bytes
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.scrub import scrubbed, scrubbed_code, scrubbed_words
from batch_pipeline.wire.store import NotInStore, Store
from batch_pipeline.wire.toolchain import Toolchain

FORMAT = 1
#: Of the record's class, what `end.json` has.
_OF_THE_END = ("ended_at", "done", "failed", "problem")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run as the history shows it."""

    run_id: str
    started_at: str
    #: `pipeline`, `reference` for the building of one, or `driver` for a job that runs a script.
    kind: str = "pipeline"
    #: The workflow's class and the name that the user gave.
    pipeline: str = ""
    pipeline_name: str = ""
    #: Digest of all that its steps are: code, parameters, images, references, wiring.
    pipeline_digest: str = ""
    #: The file that wires its steps, and its digest; the bundle has the steps alone.
    workflow_file: str = ""
    workflow_sha256: str = ""
    #: Step -> the same of the step alone; `plan.json` has the parts.
    step_digests: Mapping[str, str] = field(default_factory=dict)
    #: Step -> its image by digest; empty: a process of the machine.
    images: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    #: Who AWS says that is (an ARN); without AWS the user.
    identity: str = ""
    host: str = ""
    #: What the working tree was: URL of the remote without credentials, whole SHA, branch, tags at the commit.
    repository: str = ""
    commit: str = ""
    branch: str = ""
    tags: Sequence[str] = ()
    #: Whether the commit is not what ran: something was changed, or a file of the bundle is not in it.
    dirty: bool = False
    #: What was changed: digest and size of the difference to the commit; `diff.patch` has it up to 1 MiB.
    diff_sha256: str = ""
    diff_bytes: int = 0
    #: Files and folders that git did not know, 100 at most.
    untracked: Sequence[str] = ()
    argv: Sequence[str] = ()
    cwd: str = ""
    description: str = ""
    #: What a driver job said: of which dataset it is, at which level of access, where it writes, in which run.
    dataset: str = ""
    access_level: str = ""
    output_prefix: str = ""
    parent_run: str = ""
    backend: str = ""
    queue: str = ""
    store: str = ""
    reference: str = ""
    #: Samples of the list, and digest of the list as read.
    samples: int = 0
    samples_sha256: str = ""
    #: Step -> parameters.
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What was chosen: from_step and the like.
    selection: Mapping[str, Any] = field(default_factory=dict)
    bundle_sha256: str = ""
    #: Of the settings in `config.json`.
    config_sha256: str = ""
    #: Cells to run a step.
    cells: Mapping[str, int] = field(default_factory=dict)
    jobs: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    #: Settings that lead to the backend from elsewhere: `run.place`.
    place: Mapping[str, str] = field(default_factory=dict)
    #: With what jobs of this machine run: interpreter, search paths, umask (`wire.toolchain`); empty on AWS.
    toolchain: Mapping[str, Any] = field(default_factory=dict)
    #: From `end.json`: when, and cells by outcome; empty while the run is live.
    ended_at: str = ""
    done: int = 0
    failed: int = 0
    #: Why it did not do all that it was to do, beside cells that failed; empty: it did.
    problem: str = ""
    #: What its done cells took, in the words of `records.spent.Spent`; empty in records of before it was told.
    spent: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def ended(self) -> bool:
        """Whether all of its jobs have ended and somebody saw it."""
        return bool(self.ended_at)

    @property
    def ok(self) -> bool | None:
        """Whether every cell was done; None while it is live."""
        return None if not self.ended else self.failed == 0 and not self.problem

    @property
    def status(self) -> str:
        """Where it is, in one word: `live`, `done`, `failed`."""
        return "live" if self.ok is None else "done" if self.ok else "failed"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        """Reads `run.json` merged with `end.json`; unknown keys of later versions are ignored."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})


def make_record(
    request: Request, plan: Plan, run_id: str, reference: str, bundle_sha256: str, provenance: Provenance | None = None
) -> RunRecord:
    """The record of a run that is about to begin."""
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
        cells={step: plan.counts(step)[CellState.TO_RUN] for step in plan.states},
        jobs=len(plan.jobs),
        place=place_of(settings),
        toolchain=toolchain_of(settings),
    )
    return _with_provenance(record, provenance or Provenance())


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


def write_record(store: Store, record: RunRecord, request: Request, plan: Plan, diff: bytes = b"") -> None:
    """Writes settings and diff, the record, the list and the plan, and last the marker that it may have live jobs.

    Raises RunConflict when there is a record of that id, which is never changed.
    """
    run_id = record.run_id
    begun = {key: item for key, item in asdict(record).items() if key not in _OF_THE_END}
    store.put_json(layout.run_config(run_id), config_json(request.settings))
    if diff:
        store.put(layout.run_diff(run_id), diff)
    if workflow := _workflow_file(request):
        store.put(layout.run_workflow(run_id), scrubbed_code(workflow.read_text(errors="replace")).encode())
    text = json.dumps(begun, indent=1, ensure_ascii=False).encode()
    # A write whose answer was lost is made again, and meets its own object.
    if not store.put_if_absent(layout.run_record(run_id), text) and store.get(layout.run_record(run_id)) != text:
        raise RunConflict(f"There is a run {run_id} already. Run the same command again: it takes another id.")
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


def write_end(store: Store, run_id: str, *, done: int, failed: int, spent: Mapping[str, Any] | None = None) -> None:
    """Says that all jobs of a run have ended, and takes it off the live ones. Repeating it is harmless.

    `spent` is what `records.spent` tells.
    """
    problem = problem_of(read_events(store, run_id))
    end: dict[str, Any] = {"ended_at": now(), "done": done, "failed": failed, "problem": problem, "format": FORMAT}
    end |= {"spent": spent} if spent else {}
    if store.put_if_absent(layout.run_end(run_id), json.dumps(end, indent=1).encode()):
        message = f"{done:,} done, {failed:,} failed"
        append_if_possible(store, run_id, Happened.ENDED, message, done=done, failed=failed)
    store.delete([layout.live(run_id)])


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


def read_record(store: Store, run_id: str) -> RunRecord:
    """One run. Raises NotInStore."""
    value = store.get_json(layout.run_record(run_id))
    try:
        value |= store.get_json(layout.run_end(run_id))
    except NotInStore:
        pass
    return RunRecord.from_json(value)


def _selection(request: Request) -> dict[str, Any]:
    chosen = request.selection
    return {
        "samples": sorted(chosen.samples) if chosen.samples is not None else None,
        "steps": sorted(chosen.steps) if chosen.steps is not None else None,
        "force": chosen.force,
        "accept_code_changes": chosen.accept_code_changes,
        "min_success": chosen.min_success,
    }
