"""One run in words and tables: what was asked, by whom, with which code, what was sent and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from batch_pipeline.records.cell_table import CellTable
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.history import Event
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.spent import Spent
from batch_pipeline.records.submissions import Submission
from batch_pipeline.report.cell_summaries import SUMMARY_COLUMNS, summaries, summary_rows
from batch_pipeline.report.spending import run_spent_words, spent_notes, took_words

#: What stands for the image of a step that ran as a process of the machine.
NO_IMAGE: Final = "none: a process of the machine"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a title, and either names with values or a table."""

    title: str
    rows: Sequence[Sequence[object]]
    #: Of the table; empty: names with values.
    columns: Sequence[str] = ()


def state_of(run: RunRecord) -> str:
    """A run's state in words."""
    counts = f"{run.done:,} done" + (f", {run.failed:,} failed" if run.failed else "")
    state = counts if run.ended else "live"
    return f"{state}; {run.problem}" if run.problem else state


def code_of(run: RunRecord) -> str:
    """Its code in a few words: `3f2a9c1b04de (main, v1)`, and that it was changed."""
    if not run.commit:
        return ""
    named = ", ".join((*((run.branch,) if run.branch else ()), *run.tags))
    return f"{run.commit[:12]}{f' ({named})' if named else ''}{', changed' if run.dirty else ''}"


def page_of(
    run: RunRecord,
    sent: Sequence[Submission],
    events: Sequence[Event],
    failed: Sequence[FailedCell],
    table: CellTable | None = None,
) -> list[Section]:
    """All that is known of a run, without what is empty. Its cell `table` is read by whoever has the store."""
    sections = [
        Section(title="Run", rows=list(_about(run))),
        Section(title="Code", rows=list(_code(run))),
        Section(title="Place", rows=list(_place(run))),
        Section(
            title="Steps", rows=list(_steps(run)), columns=["step", "cells to run", "digest", "image", "parameters"]
        ),
        Section(
            title="Jobs",
            rows=[[job.job, job.step, job.size, job.sent_at[:19].replace("T", " "), job.native_id] for job in sent],
            columns=["job", "step", "cells", "sent (UTC)", "the backend's id"],
        ),
        Section(title="Cells", rows=summary_rows(summaries(table)) if table else [], columns=SUMMARY_COLUMNS),
        Section(title="Failed cells", rows=list(_failures(failed)), columns=["step", "why", "cells", "example"]),
        Section(
            title="What happened",
            rows=[[event.at[:19].replace("T", " "), event.event, event.by, event.message] for event in events],
            columns=["when (UTC)", "what", "by", "told"],
        ),
    ]
    return [section for section in sections if section.rows]


def _about(run: RunRecord) -> Iterator[Sequence[object]]:
    notes = spent_notes(Spent.from_json(run.spent))
    yield from _told(
        ("id", run.run_id),
        ("kind", run.kind),
        ("pipeline", f"{run.pipeline} ({run.pipeline_name})" if run.pipeline_name != run.pipeline else run.pipeline),
        ("pipeline's digest", run.pipeline_digest),
        ("description", run.description),
        ("state", state_of(run)),
        ("began", run.started_at),
        ("ended", run.ended_at),
        ("took", took_words([run])),
        ("spent", run_spent_words(run)),
        *(("of that", note) for note in notes),
        ("by", f"{run.user} on {run.host}"),
        ("identity", run.identity if run.identity != run.user else ""),
        ("command", " ".join(run.argv)),
        ("in", run.cwd),
        ("dataset", run.dataset),
        ("access level", run.access_level),
        ("output prefix", run.output_prefix),
        ("part of run", run.parent_run),
        ("samples", f"{run.samples:,} (list {run.samples_sha256[:12]})" if run.samples_sha256 else ""),
        ("chosen", ", ".join(f"{name}={value}" for name, value in run.selection.items() if value not in (None, False))),
    )


def _code(run: RunRecord) -> Iterator[Sequence[object]]:
    changed = f"{run.diff_bytes:,} bytes, sha256 {run.diff_sha256} (diff.patch)" if run.diff_sha256 else ""
    yield from _told(
        ("repository", run.repository),
        ("commit", run.commit),
        ("branch", run.branch),
        ("tags", " ".join(run.tags)),
        ("tree", ("changed" if run.dirty else "clean") if run.commit else ""),
        ("difference", changed),
        ("not in git", " ".join(run.untracked)),
        ("bundle", run.bundle_sha256),
        ("packages", " ".join(f"{name} {version}" for name, version in run.versions.items())),
    )


def _place(run: RunRecord) -> Iterator[Sequence[object]]:
    yield from _told(
        ("store", run.store),
        ("backend", run.backend),
        ("queue", run.queue),
        ("reference", run.reference),
        ("settings", f"sha256 {run.config_sha256} (config.json)" if run.config_sha256 else ""),
        *run.place.items(),
        ("interpreter", run.toolchain.get("python", "")),
        ("PATH", run.toolchain.get("variables", {}).get("PATH", "")),
        ("umask", run.toolchain.get("umask", "")),
    )


def _steps(run: RunRecord) -> Iterator[Sequence[object]]:
    for step in run.cells:
        params = " ".join(f"{name}={value}" for name, value in run.params.get(step, {}).items())
        image = run.images.get(step) or NO_IMAGE
        yield [step, run.cells[step], run.step_digests.get(step, ""), image, params]


def _failures(failed: Sequence[FailedCell]) -> Iterator[Sequence[object]]:
    counts = Counter((cell.step, cell.reason) for cell in failed)
    first = {(cell.step, cell.reason): f"{cell.sample}: {cell.message}" for cell in reversed(failed)}
    for (step, reason), number in counts.items():
        yield [step, reason.words, number, first[step, reason]]


def _told(*pairs: tuple[str, str]) -> Iterator[Sequence[object]]:
    return ([name, value] for name, value in pairs if value)
