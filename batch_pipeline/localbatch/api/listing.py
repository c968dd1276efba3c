"""ListJobs: by queue, by array, by filter, in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from batch_pipeline.localbatch.api.definitions import refused
from batch_pipeline.localbatch.api.describe import summary
from batch_pipeline.localbatch.api.registry import ResourceRegistry
from batch_pipeline.localbatch.engine.job import STATES, BatchJob, Document

# https://docs.aws.amazon.com/batch/latest/APIReference/API_ListJobs.html
PAGE = 1000
FILTERED_PAGE = 100


def list_jobs(request: Document, registry: ResourceRegistry, jobs: dict[str, BatchJob]) -> Document:
    """Answers ListJobs; the status is RUNNING where none is given, as in AWS."""
    chosen = [key for key in ("jobQueue", "arrayJobId", "multiNodeJobId") if key in request]
    if len(chosen) != 1:
        raise refused("Exactly one of jobQueue, arrayJobId and multiNodeJobId must be specified.")
    filters = request.get("filters", [])
    page = min(request.get("maxResults") or PAGE, FILTERED_PAGE if filters else PAGE)
    if page < 1:
        raise refused("maxResults must be between 1 and 1000.")
    start = listing_position(request.get("nextToken"))
    state = STATES.index(request.get("jobStatus", "RUNNING"))
    if chosen[0] == "jobQueue":
        queue = registry.queue(request["jobQueue"])["jobQueueName"]
        matches = _of_queue(queue, state, filters, jobs, start)
    elif chosen[0] == "arrayJobId":
        matches = _of_array(request["arrayJobId"], state, jobs, start)
    else:
        matches = iter(())
    return _page(matches, page)


#: A result with the position from which the next page goes on when this result is the last of its page.
Matches = Iterable[tuple[BatchJob, int | None, int]]


def _of_array(job_id: str, state: int, jobs: dict[str, BatchJob], start: int) -> Matches:
    job = jobs.get(job_id)
    if job is None or not job.spec.size:
        return iter(())
    return ((job, index, index + 1) for index in job.indexes_in(state, start))


def _of_queue(queue: str, state: int, filters: list[Document], jobs: dict[str, BatchJob], start: int) -> Matches:
    """Parents and plain jobs, newest first. Positions count from the oldest, so that new jobs do not shift pages."""
    fits = _filter(filters) if filters else lambda job: job.state == state
    newest_first = reversed(jobs.values())
    skipped = (job for job in newest_first if not start or job.number < start)
    # Position 0 means "from the beginning", hence the end of the list is -1.
    return ((job, None, job.number or -1) for job in skipped if job.spec.queue == queue and fits(job))


def _page(matches: Matches, size: int) -> Document:
    results = list(islice(matches, size + 1))
    answer: Document = {"jobSummaryList": [summary(job, index) for job, index, _ in results[:size]]}
    if len(results) > size:
        answer["nextToken"] = f"embedded.{results[size - 1][2]}"
    return answer


def listing_position(token: str | None) -> int:
    """From which position a page goes on."""
    if not token:
        return 0
    prefix, _, number = token.partition(".")
    if prefix != "embedded" or not number.isdecimal():
        raise refused("nextToken is not valid.")
    return int(number)


def _filter(filters: list[Document]) -> Callable[[BatchJob], bool]:
    if len(filters) != 1:
        raise refused("Only one filter is supported.")
    name, values = filters[0].get("name", ""), filters[0].get("values", [])
    if not values:
        raise refused(f"Filter {name} needs values.")
    if name == "JOB_NAME":
        return lambda job: any(like(job.spec.name.lower(), value.lower()) for value in values)
    if name == "JOB_DEFINITION":
        return lambda job: any(_is_definition(job.spec.shown["jobDefinition"], value) for value in values)
    if name in ("BEFORE_CREATED_AT", "AFTER_CREATED_AT"):
        if not all(value.isdecimal() for value in values):
            raise refused(f"Filter {name} takes milliseconds since 1970 as a string.")
        limit = int(values[0])
        if name == "BEFORE_CREATED_AT":
            return lambda job: job.spec.created_ms < limit
        return lambda job: job.spec.created_ms > limit
    raise refused(f"Filter {name} is not supported; use JOB_NAME, JOB_DEFINITION, BEFORE_CREATED_AT, AFTER_CREATED_AT.")


def like(text: str, pattern: str) -> bool:
    """Whether a text is the pattern, or begins as one that ends with a star."""
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _is_definition(arn: str, pattern: str) -> bool:
    name = arn.rpartition("/")[2]
    return like(arn, pattern) or like(name, pattern) or like(name.partition(":")[0], pattern)
