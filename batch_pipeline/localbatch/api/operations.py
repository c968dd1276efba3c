"""Batch's operations, each with its handler: the table in `Api` is the whole of it, with that of `consumables`.

What is not there answers `UnknownOperationException`, as a service of another version would.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from batch_pipeline.localbatch.api.consumables import ConsumableApi
from batch_pipeline.localbatch.api.definitions import normal_definition, refused
from batch_pipeline.localbatch.api.describe import detail, job_arn
from batch_pipeline.localbatch.api.listing import list_jobs
from batch_pipeline.localbatch.api.logs import Logs
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.localbatch.api.registry import ResourceRegistry, check_tags
from batch_pipeline.localbatch.api.submit import resolve
from batch_pipeline.localbatch.engine.job import BatchJob, Cancellation, Document, JobSpec
from batch_pipeline.localbatch.engine.state_machine import Engine
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.log_line import Facts
from batch_pipeline.wire.native_id import NativeId
from batch_pipeline.wire.toolchain import Toolchain

_LOG = logging.getLogger(__name__)

# https://docs.aws.amazon.com/batch/latest/APIReference/API_DescribeJobs.html
DESCRIBED_JOBS = 100
# https://docs.aws.amazon.com/batch/latest/APIReference/API_TerminateJobs.html
BULK_JOBS = 50
REASON_CHARACTERS = 1024
# https://docs.aws.amazon.com/batch/latest/APIReference/API_FrontOfQueueDetail.html
FRONT_JOBS = 100


class Api:
    """Answers requests out of registry, engine and logs."""

    def __init__(
        self,
        *,
        registry: ResourceRegistry,
        engine: Engine,
        logs: Logs,
        now_ms: Callable[[], int],
        save_job: Callable[[JobSpec], None],
        minimum_timeout: int,
    ) -> None:
        self._registry, self._engine = registry, engine
        self._now_ms, self._save_job = now_ms, save_job
        self._minimum_timeout = minimum_timeout
        self.consumables = ConsumableApi(registry, engine, now_ms)
        self._handlers: dict[str, Callable[[Document], Document]] = {
            "DescribeJobs": self._describe_jobs,
            "ListJobs": lambda request: list_jobs(request, registry, engine.jobs),
            "CancelJob": lambda request: self._end_job(request, terminate=False),
            "TerminateJob": lambda request: self._end_job(request, terminate=True),
            "CancelJobs": lambda request: self._end_jobs(request, terminate=False),
            "TerminateJobs": lambda request: self._end_jobs(request, terminate=True),
            "RegisterJobDefinition": lambda r: registry.add_definition(normal_definition(r, minimum_timeout)),
            "DescribeJobDefinitions": self._describe_definitions,
            "DeregisterJobDefinition": self._deregister,
            "CreateComputeEnvironment": registry.add_environment,
            "DescribeComputeEnvironments": self._describe_environments,
            "UpdateComputeEnvironment": self._update_environment,
            "CreateSchedulingPolicy": registry.add_policy,
            "DescribeSchedulingPolicies": self._describe_policies,
            "CreateJobQueue": self._create_queue,
            "UpdateJobQueue": self._update_queue,
            "DescribeJobQueues": self._describe_queues,
            "GetJobQueueSnapshot": self._snapshot_queue,
            "TagResource": self._tag,
            "UntagResource": self._untag,
            "ListTagsForResource": lambda request: {"tags": self._tags(request["resourceArn"])},
            "GetLogEvents": logs.get_events,
            "FilterLogEvents": logs.filter_events,
            "DescribeLogStreams": logs.describe_streams,
        }

    def handle(self, call: ApiRequest) -> Document:
        """Answers one request."""
        if call.operation == "SubmitJob":
            return self._submit_job(call.parameters, call.toolchain)
        handler = self._handlers.get(call.operation) or self.consumables.handlers.get(call.operation)
        if handler is None:
            raise ApiError(
                f"The embedded Batch does not know {call.operation}.", code="UnknownOperationException", status=404
            )
        return handler(call.parameters)

    # Jobs.

    def _submit_job(self, request: Document, toolchain: Toolchain | None) -> Document:
        now = self._now_ms()
        spec = resolve(request, self._registry, self._engine.jobs, now=now, minimum_timeout=self._minimum_timeout)
        spec = replace(spec, toolchain=toolchain)
        self._save_job(spec)
        self._engine.submit(spec, now)
        run_id = spec.environment.get(Variable.RUN_ID, "")
        _LOG.info("submitted %s", Facts(job=spec.id, name=spec.name, queue=spec.queue, size=spec.size, run=run_id))
        return {"jobArn": job_arn(spec.id), "jobName": spec.name, "jobId": spec.id}

    def _find(self, name: str) -> tuple[BatchJob, int | None] | None:
        """A job or child by id or ARN; None for one that is not known (any more)."""
        native_id = NativeId.parse(name.rpartition("/")[2])
        job = self._engine.jobs.get(native_id.job)
        if job is None or (native_id.index is not None and native_id.index >= job.spec.size):
            return None
        return job, native_id.index

    def _describe_jobs(self, request: Document) -> Document:
        if len(request["jobs"]) > DESCRIBED_JOBS:
            raise refused(f"Maximum number of jobs supported is  {DESCRIBED_JOBS}")
        matches = filter(None, map(self._find, dict.fromkeys(request["jobs"])))
        return {"jobs": [self._detail(job, index) for job, index in matches]}

    def _detail(self, job: BatchJob, index: int | None) -> Document:
        shown = detail(job, index)
        if index is None and job.spec.id in self._registry.job_tags:
            shown["tags"] = self._registry.job_tags[job.spec.id]
        return shown

    def _end_job(self, request: Document, *, terminate: bool) -> Document:
        if len(request["reason"]) > REASON_CHARACTERS:
            raise refused(f"The reason can have at most {REASON_CHARACTERS} characters")
        target = self._find(request["jobId"])
        if target:
            job, index = target
            _LOG.info("cancelled %s", Facts(job=request["jobId"], terminate=terminate, reason=request["reason"]))
            self._engine.cancel(job, index, Cancellation(reason=request["reason"], terminate=terminate), self._now_ms())
        return {}

    def _end_jobs(self, request: Document, *, terminate: bool) -> Document:
        if len(request["jobs"]) > BULK_JOBS:
            raise refused(f"Maximum number of jobs supported is {BULK_JOBS}")
        for job_id in request["jobs"]:
            self._end_job({"jobId": job_id, "reason": request["reason"]}, terminate=terminate)
        return {"successful": request["jobs"], "errors": []}

    # Job definitions.

    def _describe_definitions(self, request: Document) -> Document:
        names = request.get("jobDefinitions")
        definitions = [
            each
            for each in reversed(self._registry.definitions.values())
            if (not names or _names_definition(each, names))
            and request.get("jobDefinitionName") in (None, each["jobDefinitionName"])
            and request.get("status") in (None, each["status"])
        ]
        return _page("jobDefinitions", definitions, request)

    def _deregister(self, request: Document) -> Document:
        self._registry.deactivate(request["jobDefinition"])
        return {}

    # Environments and queues.

    def _describe_environments(self, request: Document) -> Document:
        environments = _chosen(self._registry.environments, request.get("computeEnvironments"))
        return _page("computeEnvironments", environments, request)

    def _update_environment(self, request: Document) -> Document:
        answer = self._registry.change_environment(request)
        for name in self._registry.queues:
            self._set_queue(name)
        return answer

    def _describe_policies(self, request: Document) -> Document:
        return {"schedulingPolicies": _chosen(self._registry.policies, request["arns"])}

    def _create_queue(self, request: Document) -> Document:
        check_tags(request.get("tags", {}))
        answer = self._registry.add_queue(request)
        self._set_queue(request["jobQueueName"])
        return answer

    def _set_queue(self, name: str) -> None:
        self._engine.set_queue(name, self._registry.queues[name]["priority"], serves=self._registry.serves(name))

    def _update_queue(self, request: Document) -> Document:
        answer = self._registry.change_queue(request)
        queue = self._registry.queue(request["jobQueue"])
        self._set_queue(queue["jobQueueName"])
        return answer

    def _describe_queues(self, request: Document) -> Document:
        return _page("jobQueues", _chosen(self._registry.queues, request.get("jobQueues")), request)

    def _snapshot_queue(self, request: Document) -> Document:
        name, now = self._registry.queue(request["jobQueue"])["jobQueueName"], self._now_ms()
        front = islice(self._engine.front(name), FRONT_JOBS)
        jobs = [
            {"jobArn": job_arn(job.spec.child_id(index)), "earliestTimeAtPosition": since}
            for job, index, since in front
        ]
        used = [{"capacityUnit": "VCPU", "quantity": self._engine.vcpus_of(name)}]
        return {
            "frontOfQueue": {"jobs": jobs, "lastUpdatedAt": now},
            "queueUtilization": {"totalCapacityUsage": used, "lastUpdatedAt": now},
        }

    # Tags.

    def _tag(self, request: Document) -> Document:
        tags = {**self._tags(request["resourceArn"]), **request["tags"]}
        check_tags(tags)
        self._set_tags(request["resourceArn"], tags)
        return {}

    def _untag(self, request: Document) -> Document:
        kept = {k: v for k, v in self._tags(request["resourceArn"]).items() if k not in request["tagKeys"]}
        self._set_tags(request["resourceArn"], kept)
        return {}

    def _tags(self, arn: str) -> Document:
        kind, name = _resource(arn)
        tags: Document | None
        if kind == "job":
            job = self._engine.jobs.get(name)
            tags = self._registry.job_tags.get(name, job.spec.shown["tags"]) if job else None
        else:
            tags = self._registry.table(kind).get(name, {}).get("tags")
        if tags is None:
            raise refused(f"Resource {arn} does not exist.")
        return tags

    def _set_tags(self, arn: str, tags: Document) -> None:
        self._registry.tag(*_resource(arn), tags)


def _resource(arn: str) -> tuple[str, str]:
    """The kind and name of a resource that can have tags."""
    place, _, name = arn.partition("/")
    kinds = {
        "job": "job",
        "job-queue": "queue",
        "compute-environment": "environment",
        "job-definition": "definition",
        "consumable-resource": "consumable",
    }
    kind = kinds.get(place.rpartition(":")[2])
    if kind is None:
        raise refused(f"Resource ARN {arn} is not valid.")
    if kind == "job" and NativeId.parse(name).index is not None:
        raise refused("Tagging child jobs of array jobs is not supported.")
    return kind, name


def _names_definition(definition: Document, names: list[str]) -> bool:
    base = definition["jobDefinitionName"]
    mine = {base, f"{base}:{definition['revision']}"}
    return any(name.rpartition("/")[2] in mine for name in names)


def _chosen(table: dict[str, Document], names: list[str] | None) -> list[Document]:
    if not names:
        return list(table.values())
    return [table[key] for key in (name.rpartition("/")[2] for name in names) if key in table]


def _page(key: str, items: list[Document], request: Document) -> Document:
    token = request.get("nextToken") or "0"
    if not token.isdecimal():
        raise refused("nextToken is not valid.")
    start, size = int(token), min(request.get("maxResults") or 100, 100)
    answer: Document = {key: list(islice(items, start, start + size))}
    if len(items) > start + size:
        answer["nextToken"] = str(start + size)
    return answer
