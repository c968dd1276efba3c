"""The backend for AWS Batch, on AWS or embedded: the same calls, another endpoint.

Submitting. Jobs name the revision of a job definition that `registration` looks up or registers. SubmitJob is sent
once. Where AWS was too busy or could not be reached the same call is made again after a while; where the answer was
lost SubmissionUnknown is raised, and the caller looks the job up by name.

Watching. One DescribeJobs tells the counts of 100 arrays. Children are listed by state, 1,000 a page, and ListJobs says
enough of each to tell why it ended. AWS forgets jobs after some days and then leaves them out without a word.

Logs are those of CloudWatch, for what the store does not have: containers write their own log there in any case.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from batch_pipeline.backends import LIMITS
from batch_pipeline.backends.account import Account
from batch_pipeline.backends.aws_clients import Clients, aws_maker, botocore_errors, chunks, embedded_maker
from batch_pipeline.backends.aws_errors import (
    CallOutcome,
    classify_error,
    display_name,
    error_text,
    is_absent,
    remedy_of,
    translated,
)
from batch_pipeline.backends.base import ArrayChild, JobRequest, JobState, JobSummary
from batch_pipeline.backends.consumables import ConsumableResources
from batch_pipeline.backends.credentials import identity_of
from batch_pipeline.backends.limits import check
from batch_pipeline.backends.parsing import child_of, counts_of, forgotten, group_of, stream_of, summary_of
from batch_pipeline.backends.payload import submit_json
from batch_pipeline.backends.quotas import (
    JOBS_PER_DESCRIBE,
    JOBS_PER_TERMINATE,
    MAX_REASON_CHARACTERS,
    SUBMITS_PER_SECOND,
)
from batch_pipeline.backends.rate_limit import RetryLater, TokenBucket, retry_transient
from batch_pipeline.backends.registration import DefinitionRegistrar
from batch_pipeline.config import Settings
from batch_pipeline.log import Facts
from batch_pipeline.pipeline.plan import Limits
from batch_pipeline.wire.errors import BackendFailed, SubmissionRefused, SubmissionUnknown
from batch_pipeline.wire.native_id import NativeId

#: How often jobs are asked for that DescribeJobs leaves out.
LOOKS: Final = 2
#: The compute environment that the embedded Batch has from the start.
EMBEDDED_ENVIRONMENT: Final = "embedded"
_LOG: Final = logging.getLogger(__name__)


class BatchBackend:
    """See `base.Backend`. Connects on the first call."""

    def __init__(self, settings: Settings, *, clients: Clients | None = None, pace: TokenBucket | None = None) -> None:
        self.name = settings.backend.name
        self._embedded = self.name == "embedded"
        self._service_name = display_name("embedded" if self._embedded else "batch")
        self._stand_in = bool(settings.aws.endpoint)
        self._clients = clients or Clients(
            embedded_maker(settings.embedded, identity_of(settings)) if self._embedded else aws_maker(settings.aws),
            renewable=self._embedded,
        )
        self._pace = pace or TokenBucket(SUBMITS_PER_SECOND)
        self._limits = LIMITS[self.name]
        self._definitions = DefinitionRegistrar(self._clients, allows_no_image=self._embedded)
        self._consumables = ConsumableResources(self._clients)
        self._queues: set[str] = set()
        #: Native id -> number of children; 0 for a plain job.
        self._sizes: dict[str, int] = {}

    @property
    def calls(self) -> Counter[str]:
        """API operations called so far, by name."""
        return self._clients.calls

    @property
    def account(self) -> Account:
        """What can be asked about the place where jobs run."""
        return Account(self._clients, complete=not self._embedded and not self._stand_in)

    def limits(self) -> Limits:
        """See `Backend.limits`."""
        return self._limits

    def wake(self) -> None:
        """See `Backend.wake`."""
        if self._embedded:
            self._clients.connect_ahead()

    def prepare(self, definitions: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """See `Backend.prepare`."""
        return self._definitions.prepare(definitions)

    def submit(self, request: JobRequest) -> str:
        """See `Backend.submit`."""
        check(request, self._limits)
        self._make_queue(request.queue)
        self.prepare([request.definition])
        parameters = submit_json(request, self._definitions.revisions[request.definition["jobDefinitionName"]])
        native_id = str(retry_transient(lambda: self._submit_once(request.name, parameters))["jobId"])
        self._sizes[native_id] = request.size if request.size > 1 else 0
        return native_id

    def find(self, name: str, queue: str) -> str | None:
        """See `Backend.find`. AWS's filter takes upper and lower case for the same; names are compared exactly."""
        self._make_queue(queue)
        named = {"name": "JOB_NAME", "values": [name]}
        items = self._clients.pages("list_jobs", "jobSummaryList", jobQueue=queue, filters=[named])
        return next((str(item["jobId"]) for item in items if item["jobName"] == name), None)

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        """See `Backend.summaries`."""
        details = self._details(native_ids)
        summaries = {native_id: summary_of(detail) for native_id, detail in details.items()}
        self._sizes |= {summary.native_id: summary.size * summary.is_array for summary in summaries.values()}
        return {native_id: summaries.get(native_id) or forgotten(native_id) for native_id in native_ids}

    def descriptions(self, native_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """See `Backend.descriptions`."""
        return self._details(native_ids)

    def children(self, native_id: str, states: Iterable[JobState]) -> Iterator[ArrayChild]:
        """See `Backend.children`."""
        wanted = set(states) - {JobState.UNKNOWN}
        if native_id not in self._sizes:
            self.summaries([native_id])
        if native_id not in self._sizes:
            return
        if not self._sizes[native_id]:
            itself = map(child_of, self._details([native_id]).values())
            yield from (child for child in itself if child.state in wanted)
            return
        for state in (state for state in JobState if state in wanted):
            yield from self._listed(native_id, state)

    def logs(self, native_id: str, index: int, attempt: int | None = None) -> Iterator[str]:
        """See `Backend.logs`."""
        if native_id not in self._sizes:
            self.summaries([native_id])
        child_id = str(NativeId.of_child(native_id, index, is_array=bool(self._sizes.get(native_id))))
        detail = self._details([child_id]).get(child_id)
        stream = stream_of(detail, attempt) if detail else None
        if detail and stream:
            yield from self._lines(group_of(detail), stream)

    def cancel(self, native_id: str, reason: str) -> None:
        """See `Backend.cancel`. TerminateJob also cancels what has not started; CancelJob would leave what runs."""
        try:
            self._clients.read("terminate_job", jobId=native_id, reason=reason[:MAX_REASON_CHARACTERS] or "Cancelled")
        except BackendFailed as error:
            if error.transient or native_id in self._details([native_id]):
                raise

    def cancel_children(self, native_id: str, indices: Sequence[int], reason: str) -> None:
        """See `Backend.cancel_children`. Fifty a call where the service knows TerminateJobs, else one by one."""
        if native_id not in self._sizes:
            self.summaries([native_id])
        if native_id not in self._sizes:
            return
        is_array = bool(self._sizes[native_id])
        ids = list(dict.fromkeys(str(NativeId.of_child(native_id, i, is_array=is_array)) for i in indices))
        for each in chunks(ids, JOBS_PER_TERMINATE):
            retry_transient(partial(self._end_all, each, reason[:MAX_REASON_CHARACTERS] or "Cancelled"))

    def set_width(self, name: str, most: int) -> None:
        """See `Backend.set_width`."""
        self._consumables.set_total(name, most)

    def widths(self, prefix: str) -> Mapping[str, int]:
        """See `Backend.widths`."""
        return self._consumables.named(prefix)

    def remove_width(self, name: str) -> bool:
        """See `Backend.remove_width`."""
        return self._consumables.delete_unused(name)

    def close(self) -> None:
        """See `Backend.close`."""
        self._clients.close()

    # Queues.

    def _make_queue(self, queue: str) -> None:
        """The embedded Batch has whatever queue is asked for; AWS has those that were set up."""
        if not self._embedded or queue in self._queues:
            return
        if not self._clients.read("describe_job_queues", jobQueues=[queue]).get("jobQueues"):
            order = [{"order": 1, "computeEnvironment": EMBEDDED_ENVIRONMENT}]
            try:
                self._clients.read("create_job_queue", jobQueueName=queue, priority=1, computeEnvironmentOrder=order)
            except BackendFailed:
                # Another driver may have made it in between.
                if not self._clients.read("describe_job_queues", jobQueues=[queue]).get("jobQueues"):
                    raise
        self._queues.add(queue)

    # Jobs.

    def _submit_once(self, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        self._pace.take()
        try:
            return self._clients.submit(parameters)
        except botocore_errors() as error:
            outcome = classify_error(error)
            _LOG.info("%s %s", outcome.value, Facts(call="SubmitJob", job=name, error=error_text(error)))
            if outcome is CallOutcome.REFUSED:
                remedy = remedy_of(error, "Fix that and run the same command again.")
                raise SubmissionRefused(
                    f"{self._service_name} refused job {name} ({error_text(error)}). {remedy}"
                ) from error
            if outcome is CallOutcome.UNKNOWN:
                raise SubmissionUnknown(
                    f"It is not known whether job {name} was queued ({error_text(error)}); it is looked up by name "
                    "before it is sent again. Run the same command again."
                ) from error
            if outcome is CallOutcome.MISCONFIGURED:
                raise translated("submit_job", error) from error
            if outcome is CallOutcome.THROTTLED:
                self._pace.throttled()
            if outcome is CallOutcome.UNSENT and self._clients.renewable:
                self._clients.renew()
            raise RetryLater(
                f"{self._service_name} took no job ({error_text(error)}); {name} is not queued. Run the same command "
                "again later."
            ) from error

    def _end_all(self, ids: Sequence[str], reason: str) -> None:
        """Ends jobs or children. Raises RetryLater where the service was too busy: ending again is harmless."""
        if len(ids) > 1 and self._clients.has_operation("terminate_jobs"):
            answer = self._clients.read("terminate_jobs", jobs=list(ids), reason=reason)
            errors = answer.get("errors", ())
            if any(error.get("code") in ("ThrottlingException", "ServerException") for error in errors):
                raise RetryLater(
                    f"{self._service_name} had no time to end {len(errors)} jobs. Run the same command again."
                )
            # What else it refuses is asked one by one: then it says why, and of a forgotten job nothing.
            ids = [str(error["job"]) for error in errors]
        for native_id in ids:
            self.cancel(native_id, reason)

    def _details(self, native_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        details: dict[str, dict[str, Any]] = {}
        unique = list(dict.fromkeys(native_ids))
        # A job that was left out of one answer may be in the next; what is left out of both is taken for forgotten.
        for _ in range(LOOKS):
            for ids in chunks([native_id for native_id in unique if native_id not in details], JOBS_PER_DESCRIBE):
                answer = self._clients.read("describe_jobs", jobs=ids)
                details |= {str(item["jobId"]): item for item in answer.get("jobs", ())}
        return details

    def _listed(self, native_id: str, state: JobState) -> Iterator[ArrayChild]:
        any_listed = False
        for item in self._clients.pages("list_jobs", "jobSummaryList", arrayJobId=native_id, jobStatus=state.value):
            any_listed = True
            yield child_of(item)
        if state is JobState.FAILED and not any_listed:
            yield from self._never_made(native_id)

    def _never_made(self, native_id: str) -> Iterator[ArrayChild]:
        """The children of an array that failed before it had any, such as one with too long overrides."""
        detail = self._details([native_id]).get(native_id)
        if detail and detail["status"] == "FAILED" and not sum(counts_of(detail).values()):
            for index in range(detail["arrayProperties"]["size"]):
                yield child_of({**detail, "arrayProperties": {"index": index}})

    def _lines(self, group: str, stream: str) -> Iterator[str]:
        """All events of a stream; pages may be empty, and the end is where the token repeats."""
        parameters: dict[str, Any] = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
        while True:
            try:
                page = self._clients.read("get_log_events", service="logs", **parameters)
            except BackendFailed as error:
                if is_absent(error):
                    return
                raise
            yield from (event["message"] for event in page.get("events", ()))
            if page.get("nextForwardToken") in (None, parameters.get("nextToken")):
                return
            parameters["nextToken"] = page["nextForwardToken"]
