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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from batch_pipeline.records.history import Happened, append_if_possible, problem_of, read_events

# Re-exported from `history` for callers that write records.
from batch_pipeline.records.history import new_run_id as new_run_id
from batch_pipeline.records.history import now as now
from batch_pipeline.records.history import seconds_since as seconds_since
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.store import NotInStore, Store

FORMAT = 1
#: Fields of the record that `end.json` has.
END_FIELDS = ("ended_at", "done", "failed", "problem")


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


def read_record(store: Store, run_id: str) -> RunRecord:
    """One run. Raises NotInStore, StoreFailed for a damaged record."""
    value = store.get_json(layout.run_record(run_id))
    try:
        end = store.get_json(layout.run_end(run_id))
    except NotInStore:
        end = {}
    try:
        record = RunRecord.from_json({**value, **end})
        for moment in filter(None, (record.started_at, record.ended_at)):
            datetime.fromisoformat(moment)
        return record
    except (TypeError, ValueError) as error:
        url = store.url_of(layout.run_record(run_id))
        raise StoreFailed(f"{url} and its end are no record of a run ({error}); they were damaged.") from error
