"""Adopts runs that may have live jobs: deduplicates doubtful submissions, and tells which cells are on their way.

A submission leaves `intent.json` before SubmitJob and `sent.json`, with the native id, after it. An intent without a
native id is the one doubtful case: the job is looked up by its run-unique name. Found, it is recorded and lives on;
not found, it never was, and the next plan takes its cells. That it never was is not recorded: who looks may do so while
another driver is about to send it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from batch_pipeline.backends.base import JobLookup, JobObserver, JobState, JobSummary
from batch_pipeline.log import Facts, of_run
from batch_pipeline.pipeline.plan import LiveJob
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.record import seconds_since
from batch_pipeline.records.submissions import Submission
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import Store

#: Seconds after its submission in which a job may be unknown to the backend and yet be there.
GRACE_SECONDS = 600.0
#: How often a job in doubt is looked for, and seconds between: a listing may lag behind a submission.
LOOKS = 3
LOOK_SECONDS = 1.0
_LOG: Final = logging.getLogger(__name__)


def live_run_ids(store: Store) -> list[str]:
    """Runs with a marker, oldest first. One LIST."""
    return sorted(entry.key.rsplit("/", 1)[-1].removesuffix(".json") for entry in store.list(layout.LIVE))


def has_begun(store: Store, run_id: str) -> bool:
    """Whether a run has sent a job, or set out to. One LIST."""
    return any(key.endswith(("/intent.json", "/sent.json")) for key in store.keys(layout.submissions(run_id)))


def submissions(store: Store, run_id: str, backend: JobLookup | None = None) -> list[Submission]:
    """The jobs that a run sent, in no order.

    With a backend, doubtful ones are looked up there and recorded; without, they are left out.
    """
    files_by_job: dict[str, set[str]] = {}
    for entry in store.list(layout.submissions(run_id)):
        *_, job, file = entry.key.split("/")
        files_by_job.setdefault(job, set()).add(file)
    sent = []
    for job, files in files_by_job.items():
        if "sent.json" in files:
            sent.append(Submission(**store.get_json(layout.submission(run_id, job, "sent.json"))))
        elif "intent.json" in files and backend is not None:
            sent.extend(_settle(store, run_id, job, backend))
    return [submission for submission in sent if submission.native_id]


def record_sent(store: Store, submission: Submission) -> None:
    """Keeps the native id of a job that is queued."""
    store.put_json(layout.submission(submission.run_id, submission.job, "sent.json"), asdict(submission))


def find_with_retries(
    backend: JobLookup, name: str, queue: str, sleep: Callable[[float], None] = time.sleep
) -> str | None:
    """Native id of a job that may be queued, to deduplicate its submission; None after several looks."""
    for look in range(LOOKS):
        if look:
            sleep(LOOK_SECONDS)
        native_id = backend.find(name, queue)
        if native_id is not None:
            return native_id
    return None


def queued(item: Submission) -> JobSummary:
    """The summary of a job that was sent and of which the backend says nothing."""
    state = JobState.SUBMITTED
    size = max(1, item.size)
    return JobSummary(
        native_id=item.native_id,
        name=item.native_name,
        state=state,
        counts={state: size},
        size=size,
        is_array=size > 1,
    )


def _confirmed(backend: JobLookup, item: Submission, summary: JobSummary) -> JobSummary:
    """The summary, unless the backend left the job out though it is there.

    A job that was sent lately is looked for several times by its name, an old one once.
    """
    if summary.state is not JobState.UNKNOWN:
        return summary
    young = bool(item.sent_at) and seconds_since(item.sent_at) < GRACE_SECONDS
    find = find_with_retries if young else _find
    return queued(item) if find(backend, item.native_name, item.queue) is not None else summary


def _find(backend: JobLookup, name: str, queue: str) -> str | None:
    return backend.find(name, queue)


def _settle(store: Store, run_id: str, job: str, backend: JobLookup) -> Iterator[Submission]:
    intent = Submission(**store.get_json(layout.submission(run_id, job, "intent.json")))
    native_id = find_with_retries(backend, intent.native_name, intent.queue)
    result = "not queued" if native_id is None else "queued"
    _LOG.info("looked up in doubt %s", Facts(of=run_id, job=job, native_id=native_id or "", result=result))
    if native_id is not None:
        submission = replace(intent, native_id=native_id)
        record_sent(store, submission)
        yield submission


@dataclass(frozen=True, kw_only=True)
class LiveRun:
    """A run with its submissions and what the backend says of them."""

    run_id: str
    submissions: Sequence[Submission]
    summaries: Mapping[str, JobSummary]

    @property
    def over(self) -> bool:
        """Whether none of its jobs will change any more."""
        return all(self.summaries[item.native_id].state.final for item in self.submissions)

    @property
    def unended_children(self) -> int:
        """Children that may still change, of all of its jobs."""
        return sum(self.summaries[item.native_id].unended for item in self.submissions if not item.join)


def read_live_runs(store: Store, backend: JobObserver, run_ids: Sequence[str]) -> list[LiveRun]:
    """The live runs, with one DescribeJobs a 100 jobs."""
    sent = {run_id: submissions(store, run_id, backend) for run_id in run_ids}
    ids = [item.native_id for items in sent.values() for item in items]
    summaries = backend.summaries(ids) if ids else {}
    return [
        LiveRun(
            run_id=run_id,
            submissions=items,
            summaries={item.native_id: _confirmed(backend, item, summaries[item.native_id]) for item in items},
        )
        for run_id, items in sent.items()
    ]


def adopt(runs: Sequence[LiveRun], known: Container[str]) -> list[str]:
    """Ids of the runs with live jobs that are not among the known; what the driver does is logged with all of them."""
    live = [run for run in runs if not run.over]
    adopted = [run for run in live if run.run_id not in known]
    for run in adopted:
        for item in sorted(run.submissions, key=lambda item: item.sent_at):
            summary = run.summaries[item.native_id]
            if not summary.state.final:
                counts = {state.value.lower(): count for state, count in summary.counts.items() if count}
                about = {"of": run.run_id, "job": item.job, "step": item.step, "native_id": item.native_id}
                _LOG.info("adopted %s", Facts(**about, size=item.size, **counts))
    for run in live:
        of_run(run.run_id)
    return [run.run_id for run in adopted]


def live_jobs(store: Store, runs: Sequence[LiveRun], open_backend: Callable[[], JobObserver]) -> list[LiveJob]:
    """The jobs that have not ended, with their cells as the manifests fixed them.

    Of arrays of which children have failed, these children are listed.
    """
    jobs = []
    for run in runs:
        for item in run.submissions:
            summary = run.summaries[item.native_id]
            if item.join or summary.state.final:
                continue
            cells = cells_of(store, run.run_id, item.job)
            failed = [JobState.FAILED] if summary.counts.get(JobState.FAILED) else []
            ended = [child.index for child in open_backend().children(item.native_id, failed)] if failed else []
            jobs.append(
                LiveJob(
                    native_id=item.native_id,
                    run_id=run.run_id,
                    step=item.step,
                    samples=tuple(sample for sample, _ in cells),
                    fingerprints=tuple(fingerprint for _, fingerprint in cells),
                    ended=frozenset(cells[index][0] for index in ended if index < len(cells)),
                )
            )
    return jobs
