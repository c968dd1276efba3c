"""CloudWatch Logs for the log streams of attempts: GetLogEvents, FilterLogEvents, DescribeLogStreams.

A stream is a plain file that the attempt appends to, so a line has no time of its own: its event carries the time at
which the attempt started. A position is an offset in bytes; a line that is still being written is not shown yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from batch_pipeline.localbatch.api.describe import log_stream
from batch_pipeline.localbatch.api.model import ApiError
from batch_pipeline.localbatch.api.registry import ACCOUNT, REGION
from batch_pipeline.localbatch.engine.job import NONE, RUNNING, STARTING, BatchJob, Document

GROUP = "/aws/batch/job"
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
PAGE_EVENTS = 10_000
PAGE_BYTES = 1_048_576


class LogSource(Protocol):
    """Where the text of an attempt's log lies."""

    def size(self, task: str) -> int:
        """Bytes written so far; 0 for a log that does not exist."""

    def read(self, task: str, start: int, stop: int) -> bytes:
        """The bytes between two offsets."""


class LogFiles:
    """Log streams as files, one folder a job."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, task: str) -> str:
        """Where the log of a task lies; a string, for it is made once an attempt."""
        return f"{self._root}/{task[:20]}/{task[20:]}.log"

    def size(self, task: str) -> int:
        """See `LogSource.size`."""
        try:
            return os.stat(self.path(task)).st_size
        except FileNotFoundError:
            return 0

    def read(self, task: str, start: int, stop: int) -> bytes:
        """See `LogSource.read`."""
        with open(self.path(task), "rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)


class LogMemory:
    """Log streams in memory, for scripted outcomes."""

    def __init__(self) -> None:
        self.text: dict[str, bytes] = {}

    def size(self, task: str) -> int:
        """See `LogSource.size`."""
        return len(self.text.get(task, b""))

    def read(self, task: str, start: int, stop: int) -> bytes:
        """See `LogSource.read`."""
        return self.text.get(task, b"")[start:stop]


class Logs:
    """Answers the calls of CloudWatch Logs."""

    def __init__(self, source: LogSource, jobs: Callable[[], Iterator[BatchJob]]) -> None:
        self._source = source
        self._jobs = jobs

    def get_events(self, request: Document) -> Document:
        """GetLogEvents: a page forward or backward; the same token again says that there is no more."""
        self._check_group(request)
        task, job, index, attempt = self._find(request["logStreamName"])
        end = self._end(task, job, index, attempt)
        limit = min(request.get("limit", PAGE_EVENTS), PAGE_EVENTS)
        direction, position = _token(request.get("nextToken"))
        if direction is None:
            direction, position = ("f", 0) if request.get("startFromHead") else ("b", end)
        if direction == "f":
            first, lines = position, self._forward(task, position, end, limit)
        else:
            first, lines = self._backward(task, position, limit)
        last = first + sum(map(len, lines))
        return {
            "events": [_event(line, _time(job, index, attempt)) for line in lines],
            "nextForwardToken": f"f/{last}",
            "nextBackwardToken": f"b/{first}",
        }

    def filter_events(self, request: Document) -> Document:
        """FilterLogEvents: the lines of some streams that hold a text."""
        self._check_group(request)
        names = request.get("logStreamNames") or list(self._names(request.get("logStreamNamePrefix", "")))
        wanted = request.get("filterPattern", "").strip('"')
        limit = min(request.get("limit", PAGE_EVENTS), PAGE_EVENTS)
        stream, offset = _filter_token(request.get("nextToken"))
        events: list[Document] = []
        for number, name in enumerate(names[stream:], stream):
            task, job, index, attempt = self._find(name)
            position = offset if number == stream else 0
            for line in self._forward(task, position, self._end(task, job, index, attempt), PAGE_EVENTS):
                if len(events) == limit:
                    return {"events": events, "nextToken": f"{number}/{position}", "searchedLogStreams": []}
                position += len(line)
                if wanted.encode() in line:
                    events.append({"logStreamName": name, **_event(line, _time(job, index, attempt))})
        return {"events": events, "searchedLogStreams": []}

    def describe_streams(self, request: Document) -> Document:
        """DescribeLogStreams: the streams whose name begins so, by name of job and index."""
        self._check_group(request)
        start = int(request.get("nextToken") or 0)
        limit = min(request.get("limit", 50), 50)
        names = list(islice(self._names(request.get("logStreamNamePrefix", "")), start, start + limit + 1))
        answer: Document = {"logStreams": [self._stream(name) for name in names[:limit]]}
        if len(names) > limit:
            answer["nextToken"] = str(start + limit)
        return answer

    def _stream(self, name: str) -> Document:
        task, job, index, attempt = self._find(name)
        arn = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{GROUP}:log-stream:{name}"
        return {
            "logStreamName": name,
            "creationTime": _time(job, index, attempt),
            "arn": arn,
            "storedBytes": self._source.size(task),
        }

    def _names(self, prefix: str) -> Iterator[str]:
        for job in self._jobs():
            stem = f"{job.spec.log_prefix}/"
            if not (prefix.startswith(stem) or stem.startswith(prefix)):
                continue
            for index in range(job.spec.count):
                for attempt in range(1, _begun(job, index) + 1):
                    name = log_stream(job, index, attempt)
                    if name.startswith(prefix):
                        yield name

    @staticmethod
    def _check_group(request: Document) -> None:
        group = request.get("logGroupName") or request.get("logGroupIdentifier", "").partition(":log-group:")[2]
        if group.removesuffix(":*") != GROUP:
            raise _missing("group")

    def _find(self, name: str) -> tuple[str, BatchJob, int, int]:
        prefix, _, task = name.rpartition("/")
        for job in self._jobs() if len(task) == 32 else ():
            if job.spec.id.replace("-", "")[:20] == task[:20] and job.spec.log_prefix == prefix:
                attempt, index = int(task[20:24], 16), int(task[24:], 16)
                if index < job.spec.count and 1 <= attempt <= _begun(job, index):
                    return task, job, index, attempt
        raise _missing("stream")

    def _end(self, task: str, job: BatchJob, index: int, attempt: int) -> int:
        """Where the log ends; while it is written, the end of its last whole line."""
        size = self._source.size(task)
        if attempt < job.tries[index] or job.states[index] not in (STARTING, RUNNING):
            return size
        tail = self._source.read(task, max(0, size - PAGE_BYTES), size)
        return size - len(tail) + tail.rfind(b"\n") + 1

    def _forward(self, task: str, start: int, end: int, limit: int) -> list[bytes]:
        text = self._source.read(task, start, min(end, start + PAGE_BYTES)) if end > start else b""
        lines = text.splitlines(keepends=True)
        if len(lines) > 1 and start + len(text) < end and not lines[-1].endswith(b"\n"):
            lines.pop()
        return lines[:limit]

    def _backward(self, task: str, end: int, limit: int) -> tuple[int, list[bytes]]:
        start = max(0, end - PAGE_BYTES)
        lines = (self._source.read(task, start, end) if end else b"").splitlines(keepends=True)
        if start and len(lines) > 1:
            lines = lines[1:]
        lines = lines[-limit:]
        return end - sum(map(len, lines)), lines


def _begun(job: BatchJob, index: int) -> int:
    """How many attempts have been RUNNING."""
    waits = job.states[index] == STARTING and job.started[index] == NONE
    return job.tries[index] - waits


def _time(job: BatchJob, index: int, attempt: int) -> int:
    if attempt < job.tries[index]:
        return job.earlier[index][attempt - 1].started_ms
    return job.started[index]


def _event(line: bytes, time_ms: int) -> Document:
    message = line.rstrip(b"\r\n").decode(errors="replace")
    return {"timestamp": time_ms, "ingestionTime": time_ms, "message": message}


def _token(token: str | None) -> tuple[str | None, int]:
    direction, _, offset = (token or "").partition("/")
    if not token:
        return None, 0
    if direction not in ("f", "b") or not offset.isdecimal():
        raise ApiError("The specified nextToken is invalid.", code="InvalidParameterException")
    return direction, int(offset)


def _filter_token(token: str | None) -> tuple[int, int]:
    stream, _, offset = (token or "0/0").partition("/")
    if not (stream.isdecimal() and offset.isdecimal()):
        raise ApiError("The specified nextToken is invalid.", code="InvalidParameterException")
    return int(stream), int(offset)


def _missing(what: str) -> ApiError:
    return ApiError(f"The specified log {what} does not exist.", code="ResourceNotFoundException")
